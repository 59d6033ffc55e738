"""The engine process: loads models and serves them over HTTP, to the hub on the same machine and to nobody else.

parent -- stdin: one line of JSON (token, model folders, ...); its end of file means that the parent is gone
       -- a listening socket, in which calls wait while a fresh engine starts
       <- stdout: one line of JSON, when ready or when the models cannot be loaded; stderr is the log
"""

from __future__ import annotations

import base64
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvicorn

from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.endpoint import EngineApp
from sensorium.engines.flow_image.engine import FlowImage
from sensorium.engines.lane import Lane
from sensorium.errors import SettingsError
from sensorium.webserver import Server

GRACE_S = 5
STDIN, STDOUT, STDERR = 0, 1, 2
UNUSABLE = 78  # exit code: starting again will not help
log = logging.getLogger("sensorium.engine")


@dataclass(frozen=True, slots=True)
class Orders:
    """The parent's line. `socket` is a file descriptor, or on Windows the base64 of a socket shared with this process."""

    token: str
    models: list[str]
    socket: int | str
    allow_egress: list[str]
    queue: int
    deadline_s: float | None


def main() -> int:
    """Run until told to stop; the exit code."""
    begun = time.perf_counter()
    report = _reporter()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    orders = msgspec.json.decode(_first_line(), type=Orders)
    threading.Thread(target=_die_with_the_parent, name="parent", daemon=True).start()
    try:
        models = {f"sensorium/{Path(folder).name}": load(Path(folder)) for folder in orders.models}
    except SettingsError as error:
        report({"event": "failed", "problems": error.problems})
        return UNUSABLE
    lane = Lane("cpu", orders.queue)
    app = EngineApp(models, lane, orders.token, frozenset(orders.allow_egress), orders.deadline_s)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=75,
    )
    server = Server(config, lambda: report({"event": "ready", "seconds": round(time.perf_counter() - begun, 3)}))
    server.run(sockets=[_listener(orders.socket)])
    lane.close()
    return 0


def load(folder: Path) -> DiffusionVLM | FlowImage:
    """The model in a folder, by the kind that its sensorium.json declares. Raises SettingsError."""
    try:
        declared = json.loads((folder / "sensorium.json").read_text("utf-8"))
    except FileNotFoundError:
        declared = {"kind": "diffusion_vlm"}  # official checkpoints come without this file
    except (OSError, ValueError):
        raise SettingsError([f"{folder.name}/sensorium.json cannot be read"]) from None
    kind = declared.get("kind") if isinstance(declared, dict) else None
    if kind == "diffusion_vlm":
        return DiffusionVLM.load(folder)
    if kind == "flow_image":
        return FlowImage.load(folder)
    raise SettingsError([f"{folder.name}/sensorium.json: kind must be diffusion_vlm or flow_image, not {kind!r}"])


def _listener(given: int | str) -> socket.socket:
    if sys.platform == "win32":
        return socket.fromshare(base64.b64decode(str(given)))
    return socket.socket(fileno=int(given))


def _reporter() -> Callable[[dict[str, Any]], None]:
    """Keeps the real stdout for reports to the parent; whatever else is printed goes to the log."""
    channel = os.fdopen(os.dup(STDOUT), "w", encoding="utf-8")
    os.dup2(STDERR, STDOUT)

    def report(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=channel, flush=True)

    return report


def _first_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        more = os.read(STDIN, 65536)
        if not more:
            os._exit(0)
        line += more
    return line


def _die_with_the_parent() -> None:
    # Read past Python's own buffer: a thread that holds its lock would abort the interpreter's shutdown.
    while os.read(STDIN, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
