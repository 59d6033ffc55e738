"""Takes notifications until a genuine one has come, writes its body into a file, and ends.

    python receiver.py HUB_FILE BODY_FILE

HUB_FILE holds the hub's address by the time something comes: its public keys are fetched there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import time
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TOLERANCE_S = 300
PATIENCE_S = 60
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def genuine(headers: Mapping[str, str], body: bytes, keys: list[dict[str, str]]) -> bool:
    """Whether one of `keys` has signed this, and not long ago: fal's recipe, see docs/webhooks.md."""
    names = [f"x-fal-webhook-{name}" for name in ("request-id", "user-id", "timestamp", "signature")]
    request_id, user_id, timestamp, signature = (headers.get(name, "") for name in names)
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > TOLERANCE_S:
        return False
    message = "\n".join([request_id, user_id, timestamp, hashlib.sha256(body).hexdigest()]).encode()
    for key in keys:
        public = base64.urlsafe_b64decode(key["x"].rstrip("=") + "=")
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(bytes.fromhex(signature), message)
        except (InvalidSignature, ValueError):
            continue
        return True
    return False


class Server(HTTPServer):
    """Gives up when nothing comes."""

    timeout = PATIENCE_S

    def handle_timeout(self) -> None:
        raise SystemExit(f"nothing has come for {PATIENCE_S} seconds")


def receive(hub_file: Path, body_file: Path) -> None:
    """Listen on a free port, say where, and return once a genuine notification is written."""
    taken = False

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal taken
            body = self.rfile.read(int(self.headers["content-length"]))
            hub = hub_file.read_text("utf-8").strip()
            with direct.open(f"{hub}/.well-known/jwks.json", timeout=10) as reply:
                keys = json.load(reply)["keys"]
            taken = genuine({name.lower(): text for name, text in self.headers.items()}, body, keys)
            if taken:
                body_file.write_bytes(body)
            self.send_response(200 if taken else 400)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing is said: what is printed is the address alone."""

    with Server(("127.0.0.1", 0), Receiver) as server:
        print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
        while not taken:
            server.handle_request()


if __name__ == "__main__":
    receive(Path(sys.argv[1]), Path(sys.argv[2]))
