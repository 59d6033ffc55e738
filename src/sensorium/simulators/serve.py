"""Run a simulator until Ctrl-C. It knows the web server, and nothing of what is simulated."""

from __future__ import annotations

import errno
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from sensorium.errors import SettingsError

GRACE_S = 2
BACKLOG = 512


def serve(app: Any, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve `app`, tell `say` the base URL once calls are taken, and stop on Ctrl-C or SIGTERM; calls in flight get two seconds.

    `port` 0 takes a free one. Raises SettingsError when the address cannot be had, KeyboardInterrupt after Ctrl-C.
    """
    listener = _listen(host, port)
    name = f"[{host}]" if ":" in host else host
    # Answers that break off on purpose are errors to the web server.
    logging.getLogger("uvicorn.error").disabled = True
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="off", ws="none", timeout_graceful_shutdown=GRACE_S
    )
    server = _Server(config)
    say(f"http://{name}:{listener.getsockname()[1]}")
    server.run(sockets=[listener])
    if server.interrupted:
        raise KeyboardInterrupt


class _Server(uvicorn.Server):
    """Uvicorn raises a caught signal again once it has stopped; whoever started this decides about that."""

    interrupted = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.interrupted = self.interrupted or sig == signal.SIGINT
        super().handle_exit(sig, frame)


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG)
    except OSError as error:
        reason = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror
        raise SettingsError([f"{host} port {port} cannot be listened on: {reason}; choose another with --port"]) from None
