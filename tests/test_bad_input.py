"""What callers get wrong, through the real hub and its engine: one clear error in the door's dialect, and nothing breaks."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.hub_process import running_hub

CHAT = "/v1/chat/completions"
SCHNELL, DEV = "/v1/genai/black-forest-labs/flux.1-schnell", "/v1/genai/black-forest-labs/flux.1-dev"
OWN = "/v1/genai/sensorium/scenes-flow"


def call(hub: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(hub + path, raw, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def looked_at(hub: str, url: str) -> tuple[int, dict[str, Any]]:
    parts = [{"type": "text", "text": "Describe this image."}, {"type": "image_url", "image_url": {"url": url}}]
    return call(hub, CHAT, {"model": "*", "messages": [{"role": "user", "content": parts}]})


def data_url(raw: bytes, media: str = "image/png") -> str:
    return f"data:{media};base64,{base64.b64encode(raw).decode()}"


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30), file_format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, 1 if mode in ("1", "I;16", "L") else None).save(out, file_format, **options)
    return out.getvalue()


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header promises any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


ANIMATED = picture("RGB", (8, 8), "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])

UNUSABLE = {
    "truncated": (picture(size=(300, 300))[:-40], "damaged or cut short"),
    "truncated jpeg": (picture(size=(300, 300), file_format="JPEG")[:300], "damaged or cut short"),
    "bomb": (png(60_000, 60_000), "pixels"),
    "0x0": (png(0, 0), ""),
    "animated": (ANIMATED, "animated"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "pdf": (b"%PDF-1.7\n", "PDF"),
    "text": (b"hello", ""),
    "empty": (b"", "empty"),
}
USABLE = {
    "cmyk": picture("CMYK", file_format="JPEG"),
    "16-bit": picture("I;16"),
    "alpha": picture("RGBA"),
    "palette": picture("P"),
    "bilevel": picture("1"),
    "1x1": picture(size=(1, 1)),
    "1x1400": picture(size=(1, 1400)),
    "webp": picture(file_format="WEBP"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_pictures_that_cannot_be_used(hub: str, kind: str) -> None:
    raw, says = UNUSABLE[kind]
    status, reply = looked_at(hub, data_url(raw))
    assert (status, reply["error"]["code"]) == (400, "invalid_image")
    assert "messages[0].content[1]" in reply["error"]["message"] and says in reply["error"]["message"]


@pytest.mark.parametrize("kind", USABLE)
def test_odd_pictures_that_can_be_used(hub: str, kind: str) -> None:
    status, reply = looked_at(hub, data_url(USABLE[kind]))
    assert status == 200, reply
    assert reply["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("data:text/plain;base64,aGVsbG8=", "text/plain is not a picture"),
        ("data:application/pdf;base64,aGVsbG8=", "application/pdf is not a picture"),
        ("data:image/png;base64,@@@@", "base64"),
        ("data:image/png", ""),
        ("file:///etc/passwd", ""),
        ("ftp://example.com/a.png", ""),
        ("http://user:pass@example.com/a.png", ""),
        ("http://127.0.0.1:1/a.png", ""),
        ("http://[::1]:1/a.png", ""),
        ("http://169.254.169.254/latest/meta-data", ""),
        ("http://0x7f000001/a.png", ""),
        ("not a url", ""),
    ],
)
def test_addresses_that_are_not_called(hub: str, url: str, says: str) -> None:
    status, reply = looked_at(hub, url)
    assert status == 400, reply
    assert "messages[0].content[1]" in reply["error"]["message"] and says in reply["error"]["message"]


@contextmanager
def answering(*heads: bytes, endless: bool = False) -> Iterator[int]:
    """A raw server on loopback that sends each connection one of `heads`, then nothing, or bytes without end."""
    server = socket.create_server(("127.0.0.1", 0))
    open_connections: list[socket.socket] = []

    def serve() -> None:
        for head in heads:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            open_connections.append(connection)
            connection.recv(65536)
            try:
                connection.sendall(head)
                while endless:
                    connection.sendall(b"x" * 65536)
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.close()
        for connection in open_connections:
            connection.close()
        thread.join(10)


def test_a_fetched_picture_is_held_to_the_same_rules(tmp_path: Path) -> None:
    good = picture()
    ok = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: %d\r\n\r\n" % len(good)
    huge = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 1073741824\r\n\r\n"
    endless = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n"
    with (
        answering(ok + good) as fine,
        answering(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/x.png\r\ncontent-length: 0\r\n\r\n") as turning,
        answering(huge) as declared,
        answering(endless, endless=True) as unending,
        answering(b"") as silent,
        running_hub(tmp_path, *(f"--allow-egress=127.0.0.1:{port}" for port in (fine, turning, declared, unending, silent))) as hub,
    ):
        assert looked_at(hub, f"http://127.0.0.1:{fine}/a.png")[0] == 200
        refused = {port: looked_at(hub, f"http://127.0.0.1:{port}/a.png") for port in (turning, declared, unending, silent)}
    assert {status for status, _ in refused.values()} == {400}
    codes = {port: reply["error"]["code"] for port, (_, reply) in refused.items()}
    assert codes == {turning: "address_refused", declared: "invalid_image", unending: "invalid_image", silent: "invalid_image"}
    assert "not delivered within" in refused[silent][1]["error"]["message"]


@pytest.mark.parametrize("steps", [0, 5, 10**9, "four", -1, 2.5, True])
def test_steps_outside_schnells_rules(hub: str, steps: object) -> None:
    status, reply = call(hub, SCHNELL, {"prompt": "a red cube", "steps": steps})
    assert (status, reply["error"]["param"]) == (422, "steps")
    assert reply["detail"].endswith("; black-forest-labs/flux.1-schnell takes an integer, 1..4")


def test_dev_wants_five_steps(hub: str) -> None:
    status, reply = call(hub, DEV, {"prompt": "a red cube", "steps": 4})
    assert (status, reply["detail"]) == (422, "steps is 4; black-forest-labs/flux.1-dev takes an integer, 5..100")
    assert call(hub, DEV, {"prompt": "a red cube", "steps": 5})[0] == 200


@pytest.mark.parametrize(
    "change", [{"steps": 2.5}, {"seed": -1}, {"seed": True}, {"width": 8}, {"height": "high"}, {"cfg_scale": 99}, {"cfg_scale": "strong"}]
)
def test_the_shipped_models_own_limits_read_alike(hub: str, change: dict[str, object]) -> None:
    status, reply = call(hub, OWN, {"prompt": "a red cube", **change})
    ((name, value),) = change.items()
    assert (status, reply["error"]["param"]) == (422, name)
    assert reply["detail"].startswith(f"{name} is {json.dumps(value)}; ") and " takes a" in reply["detail"]


def test_nan_is_not_json(hub: str) -> None:
    status, reply = call(hub, SCHNELL, b'{"prompt":"a red cube","steps":NaN}')
    assert (status, reply["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("x" * 1_000_000, "characters"),
        ("a dragon over a castle", "cube"),
        ("", "prompt"),
        (None, "prompt"),
        (7, "prompt"),
    ],
)
@pytest.mark.parametrize("path", [SCHNELL, OWN])
def test_prompts_that_cannot_be_drawn_say_why(hub: str, path: str, prompt: object, says: str) -> None:
    status, reply = call(hub, path, {"prompt": prompt})
    assert (status, reply["error"]["param"]) == (422, "prompt")
    assert says in reply["detail"]


def test_unknown_words_beside_known_ones_are_named(hub: str) -> None:
    body = json.dumps({"prompt": "a red cube with a dragon", "seed": 1}).encode()
    with urllib.request.urlopen(urllib.request.Request(hub + SCHNELL, body), timeout=60) as reply:
        assert "dragon" in reply.headers["x-sensorium-ignored"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"not json", 400, "invalid_request"),
        (b"[1]", 400, "invalid_request"),
        ({}, 400, "invalid_request"),
        ({"messages": []}, 422, "invalid_parameter"),
        ({"messages": [{"role": "user", "content": "hello"}]}, 400, "invalid_model"),
        ({"model": "nobody/nothing", "messages": [{"role": "user", "content": "x"}]}, 404, "model_not_found"),
    ],
)
def test_chat_calls_that_cannot_be_read_or_served(hub: str, body: object, status: int, code: str) -> None:
    got, reply = call(hub, CHAT, body)
    assert (got, reply["error"]["code"]) == (status, code)


def test_the_hub_still_answers_after_all_this(hub: str) -> None:
    assert call(hub, SCHNELL, {"prompt": "a red cube on a white table", "steps": 4, "seed": 0})[0] == 200
