"""Where hub, engines and simulators listen, and the web server that they run. It knows no application."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sensorium.errors import SettingsError

BACKLOG = 512
LONGEST_HEAD = 64 * 1024  # bytes of a request line and its headers
TOO_LONG = "431 Request Header Fields Too Large", f"the headers are too long; at most {LONGEST_HEAD} bytes are read"
UNREADABLE = "400 Bad Request", "this is no HTTP request that can be read: its method, its path or its headers are not"


@dataclass(frozen=True, slots=True)
class Tls:
    """What a listener with TLS shows: a certificate with its chain, and the key of it, as PEM files."""

    certificate: Path
    key: Path


class Calls(HttpToolsProtocol):
    """Uvicorn's protocol on a parser in C, which doubles the calls that a hub answers. The parser itself takes a head of any length."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._held = 0  # bytes that came by themselves since the parser got to something
        self._got_on = False

    def data_received(self, data: bytes) -> None:
        """Read on; a head that does not end is refused, and so is what else the parser holds: the frame of a chunk, a trailer."""
        self._got_on = False
        super().data_received(data)
        self._held = 0 if self._got_on else self._held + len(data)
        if self._held > LONGEST_HEAD and not self.transport.is_closing():
            self._refuse(*TOO_LONG)

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self._refuse(*UNREADABLE)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._got_on = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body is here."""
        self._got_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next head begins."""
        self._got_on = True
        super().on_message_complete()

    def _refuse(self, status: str, said: str) -> None:
        """Answer in words that callers of every dialect look for, unless a door is in the middle of its own answer, and hang up."""
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.close()
            return
        body = b'{"error": {"message": "%s"}, "detail": "%s", "message": "%s"}' % ((said.encode(),) * 3)
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()


class Server(uvicorn.Server):
    """Uvicorn, which tells once it accepts calls (`ready`), and does not raise a caught signal again after it has stopped:
    whoever runs it still has something to close. `interrupted` says that Ctrl-C stopped it.

    Those `beside` it listen to no signal of their own: they begin to stop when it does. They are made with `signals=False`.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        ready: Callable[[], None] = lambda: None,
        *,
        beside: Sequence[Server] = (),
        signals: bool = True,
    ) -> None:
        super().__init__(config)
        self._ready, self._beside, self._signals = ready, tuple(beside), signals
        self.interrupted = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        caught = (signal.SIGINT, signal.SIGTERM) if self._signals else ()
        before = {number: signal.signal(number, self.handle_exit) for number in caught}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.interrupted = self.interrupted or sig == signal.SIGINT
        super().handle_exit(sig, frame)
        for other in self._beside:
            other.handle_exit(sig, frame)


def configured(app: Any, *, grace_s: float, most_message: int, tls: Tls | None = None) -> uvicorn.Config:
    """How the hub is served: calls, and websockets with messages of up to `most_message` bytes. One with TLS stands beside one without,
    which starts and stops the application.

    Raises SettingsError when the certificate cannot be used.
    """
    if tls is not None:
        _require_usable(tls)
    return uvicorn.Config(
        app,
        log_config=None,
        log_level=logging.WARNING,  # below it, the server logs the queries of websockets, and so the tokens in them
        access_log=False,
        server_header=False,
        proxy_headers=False,
        http=Calls,
        ws="websockets-sansio",
        ws_max_size=most_message,
        ws_ping_timeout=None,  # a pong waits behind the messages of a peer that sends faster than it is answered
        lifespan="auto" if tls is None else "off",
        timeout_graceful_shutdown=max(1, round(grace_s)),
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )


def _require_usable(tls: Tls) -> None:
    try:
        # An empty password, so that a sealed key is refused here: without one the terminal would be asked.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password="")
    except FileNotFoundError:
        missing = tls.key if tls.certificate.is_file() else tls.certificate
        raise SettingsError([f"server.tls_cert, server.tls_key: there is no {missing}; `sensorium tls` makes both"]) from None
    except OSError as error:  # an SSLError is one
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError([f"server.tls_cert {tls.certificate} and server.tls_key {tls.key} cannot be used together: {reason}"]) from None


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
        advice = "choose another with --port" if setting in ("", "server.port") else "choose another"
        raise SettingsError([f"{named}{host} port {port} cannot be listened on: {reason}; {advice}"]) from None


def address(listener: socket.socket, scheme: str = "http") -> str:
    """The base URL of whoever answers on `listener`."""
    host, port = listener.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
