"""What arrives is sent on at once and unchanged, whoever leaves ends the call upstream, and a redirect takes no key anywhere."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sensorium.routing.call import Route
from tests.api import hubs
from tests.api.hubs import Hub
from tests.routing.hosted import chat, image, nvidia, provider
from tests.serving import serving
from tests.simulators.site import eventually

FRAMES = 5
EVERY_BYTE = bytes(range(256)) * 1200
HELLO = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Paced:
    """Sends the next piece when the test says so (`step`), and notices who leaves (`left`)."""

    def __init__(self, media: bytes = b"text/event-stream", length: int | None = None) -> None:
        self.head = [(b"content-type", media)] + ([] if length is None else [(b"content-length", str(length).encode())])
        self.step, self.left, self.asked = threading.Semaphore(0), threading.Event(), threading.Event()
        self.pieces = [b'data: {"n": %d}\n\n' % number for number in range(FRAMES)]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        self.asked.set()
        leaving = asyncio.ensure_future(receive())
        try:
            for number, piece in enumerate(self.pieces):
                if not await self._told(leaving):
                    self.left.set()
                    return
                if not number:
                    await send({"type": "http.response.start", "status": 200, "headers": self.head})
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            leaving.cancel()

    async def _told(self, leaving: asyncio.Future[Any]) -> bool:
        while not self.step.acquire(blocking=False):
            if leaving.done():
                return False
            await asyncio.sleep(0.002)
        return True


@contextmanager
def before(program: Paced, kind: str = "chat") -> Iterator[Hub]:
    with serving(program) as base:
        routes: dict[str, Route] = {"chat": chat("m", provider(base)), "speech": nvidia("speech", provider(base))}
        with hubs.over([routes[kind]]) as hub:
            yield hub


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_five_frames_arrive_one_by_one(end: bytes) -> None:
    program = Paced()
    program.pieces = [piece.replace(b"\n", end) for piece in program.pieces]
    with before(program) as hub:
        program.step.release()
        stream = hub.open("POST", "/v1/chat/completions", {**HELLO, "stream": True})
        for number in range(FRAMES):
            # The next one is not sent before this one was read here.
            assert (stream.readline(), stream.readline()) == (b'data: {"n": %d}%s' % (number, end), end)
            program.step.release()
        assert stream.read() == b""


ERROR = b'data: {"error": {"message": "account 4711 is out of luck", "type": "x"}}\n\n'
FINE = b'data: {"choices": [{"delta": {"content": "an \\"error\\""}}], "error": null}\n\n'


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("cut", [0, 5, 12, 30, len(ERROR) - 1])
def test_an_error_event_in_mid_stream_is_cleaned_and_recorded_as_a_failure(cut: int, end: bytes) -> None:
    program = Paced()
    program.pieces = [piece.replace(b"\n", end) for piece in (FINE, FINE + ERROR[:cut], ERROR[cut:] + FINE)]
    with before(program) as hub:
        for _ in program.pieces:
            program.step.release()
        _, raw = hub.call("POST", "/v1/chat/completions", {**HELLO, "stream": True})
        eventually(lambda: bool(hub.records))
        assert [record.outcome for record in hub.records] == ["failed"]
    *whole, last = raw.replace(b"\r", b"").strip().split(b"\n\n")
    assert whole == [FINE.strip(), FINE.strip()]
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert (error["code"], "4711" in error["message"], "out of luck" in error["message"]) == ("upstream_failed", False, True)


def test_sound_arrives_piece_by_piece_too() -> None:
    program = Paced(b"audio/pcm")
    program.pieces = [bytes([number]) * 100 for number in range(FRAMES)]
    with before(program, "speech") as hub:
        program.step.release()
        reply = hub.open("POST", "/v1/audio/synthesize", {"text": "hello", "voice": "x"})
        for piece in program.pieces:
            assert reply.read(100) == piece
            program.step.release()
        assert reply.read() == b""


@pytest.mark.parametrize("read", [0, 1, 3])
def test_whoever_leaves_ends_the_call_upstream(read: int) -> None:
    program = Paced()
    with before(program) as hub:
        for _ in range(read):
            program.step.release()
        body = json.dumps({**HELLO, "stream": True}).encode()
        host, _, port = hub.address.partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as caller:
            caller.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
            assert program.asked.wait(20)
            got = b""
            while got.count(b"data: ") < read:
                got += caller.recv(65536)
        assert program.left.wait(20)
        eventually(lambda: bool(hub.records))
        assert [record.outcome for record in hub.records] == ["client_closed"]


@pytest.mark.parametrize("media", [b"audio/mpeg", b"audio/ogg; codecs=opus", b"application/octet-stream"])
def test_bytes_pass_with_their_type_and_length(media: bytes) -> None:
    program = Paced(media, len(EVERY_BYTE))
    program.pieces = [EVERY_BYTE]
    with before(program, "speech") as hub:
        program.step.release()
        reply, raw = hub.call("POST", "/v1/audio/synthesize", {"text": "hello", "voice": "x"})
    assert (reply.status, raw == EVERY_BYTE) == (200, True)
    assert (reply.getheader("content-type"), reply.getheader("content-length")) == (media.decode(), str(len(EVERY_BYTE)))


class Redirecting:
    """Answers with a redirect; `keys` are those that arrived."""

    def __init__(self, status: int, location: str) -> None:
        self.status, self.location, self.keys = status, location, list[str]()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.keys.append(dict(scope["headers"]).get(b"authorization", b"").decode())
            head = [(b"location", self.location.encode()), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": self.status, "headers": head})
            await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_error_and_nobody_gets_the_key(status: int) -> None:
    elsewhere = Redirecting(500, "")
    with serving(elsewhere) as there:
        program = Redirecting(status, f"{there}/v1/chat/completions")
        with serving(program) as base:
            painter = image("org/m", provider(base, "paints", "k2"))
            with hubs.over([chat("m", provider(base, "talks", "k1")), painter]) as hub:
                talked = hub.json("POST", "/v1/chat/completions", HELLO)
                drew = hub.json("POST", "/v1/genai/org/m", {"prompt": "x"})
    assert (talked[0], drew[0]) == (502, 502 if status != 302 else drew[0])
    assert "error" in drew[1] and drew[0] >= 500
    assert "redirects" in talked[1]["error"]["message"]
    assert (program.keys, [key for key in elsewhere.keys if key]) == (["Bearer k1", "Bearer k2"], [])
