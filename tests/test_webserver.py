"""The listening socket of hub, engines and simulators."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sensorium.certificates import ensure
from sensorium.errors import SettingsError
from sensorium.webserver import Server, Tls, address, configured, listen
from tests.serving import serving


def test_its_connections_send_small_pieces_at_once() -> None:
    with closing(listen("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as taken:
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_a_port_that_is_taken_is_told_with_its_setting() -> None:
    with closing(listen("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert address(listener) == f"http://127.0.0.1:{port}"
        with pytest.raises(SettingsError, match=f"server.port: 127.0.0.1 port {port} .* another program listens there"):
            listen("127.0.0.1", port, "server.port")


class Hello:
    """Answers hello; `lifespans` counts how often it was started and stopped."""

    def __init__(self) -> None:
        self.lifespans: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                kind = (await receive())["type"]
                self.lifespans.append(kind)
                await send({"type": f"{kind}.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5"), (b"connection", b"close")]})
        await send({"type": "http.response.body", "body": b"hello"})


async def body(port: int, trust: ssl.SSLContext | None) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
    writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_listener_with_tls_serves_beside_the_first_and_stops_with_it(tmp_path: Path, number: signal.Signals) -> None:
    made, app = ensure(tmp_path), Hello()
    before = signal.getsignal(number)

    async def both() -> Server:
        up = asyncio.Event(), asyncio.Event()
        tls = Tls(made.certificate, made.key)
        secure = Server(configured(app, grace_s=1, most_message=1024, tls=tls), up[1].set, signals=False)
        first = Server(configured(app, grace_s=1, most_message=1024), up[0].set, beside=[secure])
        with closing(listen("127.0.0.1", 0)) as plain, closing(listen("127.0.0.1", 0, "server.tls_port")) as sealed:
            serving = asyncio.gather(first.serve(sockets=[plain]), secure.serve(sockets=[sealed]))
            await asyncio.gather(*(one.wait() for one in up))
            assert address(sealed, "https").startswith("https://127.0.0.1:")
            assert await body(plain.getsockname()[1], None) == b"hello"
            assert await body(sealed.getsockname()[1], ssl.create_default_context(cafile=made.ca)) == b"hello"
            os.kill(os.getpid(), number)
            await asyncio.wait_for(serving, 10)
        return first

    first = asyncio.run(both())
    assert first.interrupted is (number == signal.SIGINT)
    assert app.lifespans == ["lifespan.startup", "lifespan.shutdown"]
    assert signal.getsignal(number) == before


def test_a_head_without_end_is_refused_and_not_held() -> None:
    app = Hello()
    with serving(app, websockets=True) as base, closing(socket.create_connection(("127.0.0.1", int(base.rpartition(":")[2])))) as caller:
        caller.settimeout(10)
        caller.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nx-much: ")
        answer = b""
        try:
            for _ in range(16):
                caller.sendall(b"a" * 1024 * 1024)
            caller.sendall(b"\r\n\r\n")
            answer = caller.recv(100)
        except OSError:
            pass  # it has hung up already
        assert b"200 OK" not in answer
