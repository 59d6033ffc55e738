"""The blocking client against a scripted server: what it sends, what it makes of answers, errors and silence."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from sensorium import client

PNG = b"\x89PNG\r\n\x1a\n and the rest"
JPEG = b"\xff\xd8\xff\xe0 and the rest"


class Scripted(BaseHTTPRequestHandler):
    """Answers every call with what the test put into `script` and keeps what was asked."""

    script: tuple[int, dict[str, str], list[bytes | threading.Event]] = (200, {}, [])
    asked: ClassVar[list[tuple[str, dict[str, str], Any]]] = []

    def do_GET(self) -> None:
        status, headers, pieces = self.script
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.asked.append((self.path, {name.lower(): text for name, text in self.headers.items()}, json.loads(body or b"null")))
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        for piece in pieces:
            if isinstance(piece, threading.Event):
                assert piece.wait(10)
            else:
                self.wfile.write(piece)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def scripted() -> Iterator[type[Scripted]]:
    handler = type("Handler", (Scripted,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def frame(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {"content": text}}]}).encode() + b"\n\n"


def test_an_answer_arrives_piece_by_piece_as_it_is_made(scripted: Any) -> None:
    go_on = threading.Event()
    scripted.script = (200, {}, [b": hello\n\n", frame("A red"), go_on, frame(" cube."), b"data: [DONE]\n\n"])
    pieces = client.Hub(scripted.url, "sesame").see("data:image/png;base64,AA==", "What?")
    assert next(pieces) == "A red"
    go_on.set()
    assert list(pieces) == [" cube."]
    path, headers, body = scripted.asked[0]
    assert (path, headers["authorization"], headers["accept"]) == ("/v1/chat/completions", "Bearer sesame", "text/event-stream")
    assert (body["model"], body["stream"]) == ("*", True)
    assert body["messages"][0]["content"][1] == {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def test_a_stream_that_ends_early_or_reports_an_error_is_a_failure(scripted: Any) -> None:
    hub = client.Hub(scripted.url)
    scripted.script = (200, {}, [frame("A")])
    with pytest.raises(client.CallFailed, match="broke off"):
        list(hub.see("data:,", "?"))
    scripted.script = (200, {}, [frame("A"), b'data: {"error": {"message": "the engine died"}}\n\n'])
    with pytest.raises(client.CallFailed, match="the engine died"):
        list(hub.see("data:,", "?"))


def test_drawing_asks_for_the_type_it_wants_and_takes_no_other(scripted: Any) -> None:
    scripted.script = (200, {"x-sensorium-model": "sensorium/scenes-flow"}, [PNG])
    picture = client.Hub(scripted.url).draw("a cube", "image/png", "a/b", seed=7)
    assert picture == client.Picture(PNG, "image/png", "sensorium/scenes-flow")
    path, headers, body = scripted.asked[0]
    assert (path, headers["accept"], body) == ("/v1/genai/a/b", "image/png", {"prompt": "a cube", "seed": 7})
    assert "authorization" not in headers
    scripted.script = (200, {}, [JPEG])
    with pytest.raises(client.CallFailed, match="asked for image/png and sent image/jpeg"):
        client.Hub(scripted.url).draw("a cube", "image/png", "a/b")


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (422, b'{"detail": "steps is 9", "error": {"message": "steps is 9", "hint": "use 1..4"}}', r"steps is 9; use 1\.\.4 \(HTTP 422\)"),
        (422, b'{"detail": [{"msg": "Field required", "loc": ["body", "prompt"]}]}', r"Field required \(HTTP 422\)"),
        (502, b"<html>\nbad  gateway</html>", r"<html> bad gateway</html> \(HTTP 502\)"),
        (500, b"", r"Internal Server Error \(HTTP 500\)"),
        (302, b"", r"\(HTTP 302\)"),
        (200, b"[]", "not an object"),
        (200, b'{"data": 3}', "did not send a list of models"),
        (200, b"<html>", "not JSON"),
    ],
)
def test_what_is_not_an_answer_becomes_one_line(scripted: Any, status: int, body: bytes, message: str) -> None:
    scripted.script = (status, {"location": f"{scripted.url}/elsewhere"}, [body])
    with pytest.raises(client.CallFailed, match=message) as caught:
        client.Hub(scripted.url, "sesame").models()
    assert "\n" not in caught.value.message
    assert len(scripted.asked) == 1, "a redirect would carry the token elsewhere"


def test_nobody_at_the_address_says_how_to_start_a_hub() -> None:
    with pytest.raises(client.HubUnreachable, match="no hub at http:") as caught:
        client.Hub("http://127.0.0.1:1").models()
    assert caught.value.hint == "start one with: sensorium serve"


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    scripted.script = (200, {}, [b'{"data": [{"id": "a"}, 3]}'])
    assert client.Hub(scripted.url + "/").models() == [{"id": "a"}]


@pytest.mark.parametrize(
    ("start", "media_type"),
    [
        (PNG, "image/png"),
        (JPEG, "image/jpeg"),
        (b"RIFF1234WEBPVP8 ", "image/webp"),
        (b"GIF89a", "image/gif"),
        (b"<svg>", None),
        (b"", None),
    ],
)
def test_the_type_of_a_picture_is_read_off_its_bytes(start: bytes, media_type: str | None) -> None:
    head, _, payload = client.data_url(start).partition(",")
    assert head == f"data:{media_type or 'application/octet-stream'};base64"
    assert base64.b64decode(payload) == start
