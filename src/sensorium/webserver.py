"""Where hub, engines and simulators listen, and the web server that they run. It knows no application."""

from __future__ import annotations

import errno
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from sensorium.errors import SettingsError

BACKLOG = 512


class Server(uvicorn.Server):
    """Uvicorn, which tells once it accepts calls (`ready`), and does not raise a caught signal again after it has stopped:
    whoever runs it still has something to close. `interrupted` says that Ctrl-C stopped it."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._ready = ready
        self.interrupted = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._ready()

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


def listen(host: str, port: int, setting: str = "") -> socket.socket:
    """A listening socket; `port` 0 takes a free one.

    Raises SettingsError when the address cannot be had, which names `setting`, if the port came from one.
    """
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=BACKLOG)
        # Connections inherit it. asyncio sets it only where the socket names its protocol, and without it the second piece of an
        # answer waits 40 ms for the acknowledgement of the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        reason = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror
        named = f"{setting}: " if setting else ""
        raise SettingsError([f"{named}{host} port {port} cannot be listened on: {reason}; choose another with --port"]) from None


def address(listener: socket.socket) -> str:
    """The base URL of whoever answers on `listener`."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
