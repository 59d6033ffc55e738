"""A small fake of the Hugging Face hub on loopback: the model's page as JSON, its files with ranges, and transfers that stop to order."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPOSITORY = "nvidia/Nemotron-Labs-Diffusion-VLM-8B"
COMMIT = "a1" * 20
TOKEN = "hf_of-nobody-at-all"


@dataclass
class FileHub:
    """`files` are those of the one repository, by path. `stop` names a file and after how many bytes its transfer stops: "cut" closes the
    connection once, "hang" keeps it open, without an end, for the first request. `lie` replaces the bytes that are sent of a file."""

    files: Mapping[str, bytes]
    card: Mapping[str, Any] = field(default_factory=lambda: {"license": "other", "license_name": "nscl-v1", "license_link": "LICENSE"})
    commit: str = COMMIT
    odd: Callable[[dict[str, Any]], object] = bool  # changes the page
    lie: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    elsewhere: bool = False  # large files come from another host, as from the hub's own stores
    stop: tuple[str, int, str] | None = None
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, Range
    tokens: list[str | None] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def downloads(self) -> list[tuple[str, str | None]]:
        """The files asked for, each with its Range."""
        return [(path.split(f"/resolve/{self.commit}/")[1], part) for _, path, part in self.asked if "/resolve/" in path]

    def page(self) -> dict[str, Any]:
        page = {
            "id": REPOSITORY,
            "sha": self.commit,
            "gated": "manual" if self.gated else False,
            "cardData": dict(self.card),
            "siblings": [listed(path, data) for path, data in self.files.items()],
            "tags": [],
        }
        self.odd(page)
        return page


def listed(path: str, data: bytes) -> dict[str, Any]:
    """A file as the hub lists it: large formats with their SHA-256, beside the id of the pointer, all others with git's id."""
    entry = {"rfilename": path, "size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
    if path.endswith((".safetensors", ".bin")):
        entry |= {"blobId": "0" * 40, "lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}}
    return entry


class Handler(BaseHTTPRequestHandler):
    """Answers as much of the hub's API as a pull needs."""

    protocol_version = "HTTP/1.1"
    hub: FileHub

    def do_GET(self) -> None:
        hub = self.hub
        hub.asked.append((self.command, self.path, self.headers["Range"]))
        hub.tokens.append(self.headers["Authorization"])
        if self.path.startswith("/api/models/"):
            self.answer_page(re.sub(r"\?.*", "", self.path).removeprefix("/api/models/"))
            return
        if self.path.startswith("/store/"):
            self.send_file(self.path.removeprefix("/store/"), hub.files[self.path.removeprefix("/store/")])
            return
        path = self.path.removeprefix(f"/{REPOSITORY}/resolve/{hub.commit}/")
        if path not in hub.files:
            self.refuse(404, "EntryNotFound")
        elif hub.gated and self.headers["Authorization"] != f"Bearer {TOKEN}":
            self.refuse(401, "GatedRepo")
        elif hub.elsewhere and path.endswith(".safetensors"):
            self.send(302, b"", {"Location": f"http://localhost:{self.server.server_address[1]}/store/{path}"})
        else:
            self.send_file(path, hub.lie.get(path, hub.files[path]))

    def answer_page(self, place: str) -> None:
        name, _, revision = place.partition("/revision/")
        if name.lower() != REPOSITORY.lower():
            self.refuse(404, "RepoNotFound")
        elif revision not in ("", "main", self.hub.commit):
            self.refuse(404, "RevisionNotFound")
        else:
            self.send(200, json.dumps(self.hub.page()).encode())

    def send_file(self, path: str, data: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        begin = int(asked[1]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        hub, rest = self.hub, data[begin:]
        if hub.stop and hub.stop[0] == path and not hub.stopped.is_set():
            self.wfile.write(rest[: hub.stop[1]])
            self.wfile.flush()
            hub.stopped.set()
            if hub.stop[2] == "hang":
                hub.over.wait(60)
            self.close_connection = True
            return
        self.wfile.write(rest)

    def refuse(self, status: int, code: str) -> None:
        self.send(status, json.dumps({"error": code}).encode(), {"X-Error-Code": code, "X-Error-Message": code})

    def send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Not a word on standard error."""


@contextmanager
def running(hub: FileHub) -> Iterator[str]:
    """The base URL of the fake; it ends with the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        hub.over.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
