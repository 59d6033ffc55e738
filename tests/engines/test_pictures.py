"""Pictures as callers send them: good ones of every colour mode, hostile and broken ones, and pictures by URL."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import socket
import struct
import threading
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sensorium import fetch
from sensorium.engines import pictures
from sensorium.errors import AddressRefused, InvalidImage
from sensorium.wire import dataurl, decoding

WHERE = "messages[0].content[1]"


def file(kind: str, mode: str = "RGB", size: tuple[int, int] = (8, 6), **options: object) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, kind, **options)
    return out.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 32)) + chunk(b"IEND", b"")


def frames(kind: str) -> bytes:
    out = io.BytesIO()
    many = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    many[0].save(out, kind, save_all=True, append_images=many[1:])
    return out.getvalue()


def sixteen_bits() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((6, 8), 40000, np.uint16)).save(out, "PNG")
    return out.getvalue()


def itself(image: Image.Image) -> Image.Image:
    return image


def load(url: str, **options: object) -> Image.Image:
    return asyncio.run(pictures.load(url, WHERE, see=itself, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        (file("PNG"), "RGB"),
        (file("PNG", "RGBA"), "RGBA"),
        (file("PNG", "P"), "P"),
        (file("PNG", "1"), "1"),
        (sixteen_bits(), "I;16"),
        (file("JPEG"), "RGB"),
        (file("JPEG", "L"), "L"),
        (file("JPEG", "CMYK"), "CMYK"),
        (file("WEBP"), "RGB"),
        (file("GIF", "P"), "P"),
        (file("BMP"), "RGB"),
        (file("TIFF"), "RGB"),
    ],
)
def test_still_pictures_are_accepted_whatever_their_label(data: bytes, mode: str) -> None:
    image = load(dataurl.build("image/x-anything", data))
    assert (image.mode, image.size) == (mode, (8, 6))
    image.convert("RGB")


@pytest.mark.parametrize("label", ["", "application/octet-stream"])
def test_a_label_that_claims_nothing_is_fine(label: str) -> None:
    assert load(dataurl.build(label, file("PNG"))).size == (8, 6)


def test_a_phone_picture_with_a_preview_is_still_one_picture() -> None:
    assert load(dataurl.build("image/jpeg", frames("MPO"))).size == (4, 4)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (dataurl.build("text/plain", file("PNG")), "type text/plain is not a picture"),
        (dataurl.build("application/pdf", b"%PDF-1.7"), "type application/pdf is not a picture"),
        (dataurl.build("image/png", b"%PDF-1.7 ..."), "PDF document"),
        (dataurl.build("image/svg+xml", b"<?xml version='1.0'?><svg/>"), "SVG drawing"),
        (dataurl.build("image/png", b"<!DOCTYPE html><html>"), "a web page"),
        (dataurl.build("image/png", b"\0\0\0\x18ftypmp42"), "a video"),
        (dataurl.build("image/png", b"hello"), "not a picture"),
        (dataurl.build("image/png", b""), "the picture is empty"),
        (dataurl.build("image/png", file("PNG", size=(90, 90))[:-30]), "damaged or cut short"),
        (dataurl.build("image/jpeg", file("JPEG", size=(400, 400))[:-300]), "damaged or cut short"),
        (dataurl.build("image/png", file("PNG")[:20]), "cut short"),
        (dataurl.build("image/png", png_of(20, 20)), "damaged or cut short"),
        (dataurl.build("image/png", png_of(0, 0)), "empty|damaged|cut short"),
        (dataurl.build("image/png", png_of(8001, 5000)), "8001 x 5000 pixels; at most 40000000"),
        (dataurl.build("image/png", png_of(60000, 60000)), "at most 40000000"),
        (dataurl.build("image/gif", frames("GIF")), "animated or has several pages"),
        (dataurl.build("image/png", frames("PNG")), "animated"),
        (dataurl.build("image/webp", frames("WEBP")), "animated"),
        (dataurl.build("image/tiff", frames("TIFF")), "several pages"),
        ("data:image/png;base64,%%%", "base64 is damaged"),
        ("data:image/png;base64", "without a comma"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(url: str, says: str) -> None:
    with pytest.raises(InvalidImage, match=says) as caught:
        load(url)
    assert caught.value.message.startswith(f"{WHERE}: ")
    assert caught.value.param == WHERE


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(data=st.data())
def test_damage_anywhere_is_an_error_of_ours_or_a_picture(data: st.DataObject) -> None:
    whole = bytearray(file(data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])), size=(12, 12)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    with contextlib.suppress(InvalidImage):
        assert decoding.decode(bytes(whole[:cut]), 10_000).size


def test_a_jpeg_is_decoded_small_when_that_is_enough_and_never_smaller() -> None:
    data = file("JPEG", size=(1600, 400))
    assert decoding.decode(data).size == (1600, 400)
    assert decoding.decode(data, enough=288).size == (400, 100)
    assert decoding.decode(data, enough=1000).size == (1600, 400)
    assert decoding.decode(file("JPEG", size=(96, 96)), enough=288).size == (96, 96)
    assert decoding.decode(file("JPEG", size=(3000, 2)), enough=288).width >= 288


def test_no_more_pictures_are_decoded_at_once_than_there_are_threads() -> None:
    """Also those whose callers have left: what has not begun never does."""
    begun, go, alive, most, count = threading.Event(), threading.Event(), 0, 0, 0

    def see(image: Image.Image) -> int:
        nonlocal alive, most, count
        alive += 1
        count, most = count + 1, max(most, alive)
        begun.set()
        assert go.wait(10)
        alive -= 1
        return image.width

    async def test() -> None:
        with ThreadPoolExecutor(1) as threads:
            url = dataurl.build("image/png", file("PNG"))
            calls = [asyncio.create_task(pictures.load(url, WHERE, see=see, threads=threads)) for _ in range(8)]
            assert await asyncio.to_thread(begun.wait, 10)
            for call in calls[:4]:
                call.cancel()
            await asyncio.gather(*calls[:4], return_exceptions=True)
            go.set()
            found = await asyncio.gather(*calls, return_exceptions=True)
            assert found[4:] == [8] * 4
            assert all(isinstance(one, asyncio.CancelledError) for one in found[:4])

    asyncio.run(test())
    assert (most, count) == (1, 5)


@pytest.mark.parametrize(("kind", "magic"), [("png", b"\x89PNG"), ("jpeg", b"\xff\xd8\xff")])
def test_encoding_keeps_the_colours(kind: str, magic: bytes) -> None:
    data = pictures.encode(Image.new("RGB", (16, 16), (200, 30, 90)), kind)  # type: ignore[arg-type]
    assert data.startswith(magic)
    pixel = decoding.decode(data).convert("RGB").getpixel((8, 8))
    assert isinstance(pixel, tuple)
    assert all(abs(a - b) <= 2 for a, b in zip(pixel, (200, 30, 90), strict=True))


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def fetched(handler: Handler, path: str = "/a.png", *, permit: bool = True, host: str = "picture.test", **options: object) -> Image.Image:
    """Serve `handler` on loopback and load a picture from it under the name `picture.test`."""

    async def run() -> Image.Image:
        app = web.Application()
        app.router.add_get("/{any:.*}", handler)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]

        async def resolve(name: str, port: int) -> list[str]:
            return {"picture.test": ["127.0.0.1"], "inside.test": ["10.0.0.1"]}[name]

        allow = (f"picture.test:{port}", f"127.0.0.1:{port}") if permit else ()
        try:
            return await pictures.load(f"http://{host}:{port}{path}", WHERE, allow, see=itself, resolve=resolve, **options)  # type: ignore[arg-type]
        finally:
            await runner.cleanup()

    return asyncio.run(run())


async def a_picture(request: web.Request) -> web.StreamResponse:
    assert request.headers["host"].startswith(("picture.test", "127.0.0.1"))
    return web.Response(body=file("PNG"), content_type="text/plain")


@pytest.mark.parametrize("host", ["picture.test", "127.0.0.1"])
def test_a_picture_by_url(host: str) -> None:
    assert fetched(a_picture, host=host).size == (8, 6)


def test_a_private_address_is_refused_before_anything_is_sent() -> None:
    async def never(request: web.Request) -> web.StreamResponse:
        raise AssertionError("was called")

    with pytest.raises(AddressRefused, match="this machine itself") as caught:
        fetched(never, permit=False)
    assert caught.value.message.startswith(f"{WHERE}: ")


@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("http://inside.test/a.png", "an address of a private network"),
        ("http://169.254.169.254/latest/meta-data/", "metadata"),
        ("file:///etc/passwd", "only http and https"),
        ("http://user:word@picture.test/", "user name"),
        ("http://[::1/", "not a proper URL"),
    ],
)
def test_a_redirect_is_checked_like_the_first_address(location: str, says: str) -> None:
    async def away(request: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"location": location})

    with pytest.raises(AddressRefused, match=says):
        fetched(away)


def test_three_redirects_are_followed_and_no_more() -> None:
    async def hop(request: web.Request) -> web.StreamResponse:
        left = int(request.path.strip("/"))
        if left:
            raise web.HTTPFound(f"/{left - 1}")
        return await a_picture(request)

    assert fetched(hop, "/3").size == (8, 6)
    with pytest.raises(InvalidImage, match="more than 3 times"):
        fetched(hop, "/4")


def test_an_error_page_is_not_a_picture() -> None:
    async def gone(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404, text="no")

    with pytest.raises(InvalidImage, match="HTTP 404"):
        fetched(gone)


@pytest.mark.parametrize("honest", [True, False])
def test_an_endless_picture_is_cut_off(honest: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "BYTE_CAP", 100_000)

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "200000"} if honest else {})
        await response.prepare(request)
        for _ in range(20):
            await response.write(b"\0" * 10_000)
        return response

    with pytest.raises(InvalidImage, match="bytes"):
        fetched(endless)


def test_a_slow_server_ends_in_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "WAIT_S", 0.05)

    async def silent(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    with pytest.raises(InvalidImage, match="not delivered within"):
        fetched(silent)


def test_nobody_listening_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(InvalidImage, match=r"could not be fetched from 127\.0\.0\.1"):
        load(f"http://127.0.0.1:{port}/", allow=(f"127.0.0.1:{port}",))


def test_base64_is_not_repeated_in_messages() -> None:
    payload = base64.b64encode(b"private words" * 20).decode()
    with pytest.raises(InvalidImage) as caught:
        load(f"data:image/png;base64,{payload}")
    assert payload[:20] not in caught.value.message
