"""The listening socket of hub, engines and simulators."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from sensorium.certificates import ensure
from sensorium.errors import SettingsError
from sensorium.webserver import LONGEST_HEAD, Server, Tls, address, configured, listen
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


class Length:
    """Answers how long the body was."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        body = str(size).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})


def test_a_head_that_does_not_end_is_refused() -> None:
    with serving(Length()) as base, socket.create_connection(("127.0.0.1", int(base.rpartition(":")[2])), timeout=10) as caller:
        caller.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nx-long: " + b"y" * LONGEST_HEAD)
        answer = b"".join(iter(lambda: caller.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 431 ") and b"at most 65536 bytes" in answer


@pytest.mark.parametrize("framing", [b"1;long=", b"1\r\nz\r\n0\r\nx-long: "])
def test_framing_of_a_body_that_does_not_end_is_not_held(framing: bytes) -> None:
    with serving(Length()) as base, socket.create_connection(("127.0.0.1", int(base.rpartition(":")[2])), timeout=10) as caller:
        caller.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + framing)
        with pytest.raises(ConnectionError):
            for _ in range(256):
                caller.sendall(b"y" * LONGEST_HEAD)


def test_a_long_body_is_no_long_head() -> None:
    with serving(Length()) as base, closing(HTTPConnection(base.removeprefix("http://"), timeout=10)) as caller:
        for size in (300_000, 5 * LONGEST_HEAD):
            caller.request("POST", "/", b"z" * size)
            assert caller.getresponse().read() == str(size).encode()


@pytest.mark.parametrize(
    "head", [b"BREW / HTTP/1.1\r\nhost: a\r\n\r\n", b"GET / HTTP/1.1\r\nhost a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"]
)
def test_what_is_no_http_is_told_so(head: bytes) -> None:
    with serving(Length()) as base, socket.create_connection(("127.0.0.1", int(base.rpartition(":")[2])), timeout=10) as caller:
        caller.sendall(head)
        answer = b"".join(iter(lambda: caller.recv(65536), b""))
    said = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert answer.startswith(b"HTTP/1.1 400 ") and said["detail"] == said["message"] == said["error"]["message"]
