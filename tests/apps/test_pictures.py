"""Why a picture cannot be used, in fal's types: held against what the readers of pictures really say."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from sensorium import fetch
from sensorium.apps.app import Task
from sensorium.apps.pictures import blamed_on
from sensorium.engines import pictures
from sensorium.errors import SensoriumError, UpstreamRefused
from sensorium.wire import dataurl
from sensorium.wire.fal_errors import Refused
from tests.serving import serving

WHERE = "messages[0].content[0]"
UNREACHED = "Failed to download the file. Please check if the URL is accessible and try again."


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (width, height)).save(out, "PNG")
    return out.getvalue()


async def site(scope: Any, receive: Any, send: Any) -> None:
    """Pictures that cannot be had."""
    if scope["type"] != "http":
        return
    path = scope["path"]
    status = {"/missing": 404, "/turning": 302}.get(path, 200)
    headers = [(b"location", b"/turning")] if path == "/turning" else []
    if path == "/declared":
        headers.append((b"content-length", b"4000000000"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * 200_000 if path == "/long" else b"text"})


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with serving(site) as url:
        yield url


def fault(url: str, *allow: str) -> tuple[dict[str, Any], list[str]]:
    """How the refusal of a picture by the engine's reader is told; the log."""
    lines: list[str] = []
    with pytest.raises(SensoriumError) as caught:
        asyncio.run(pictures.load(url, WHERE, allow, see=lambda image: image))
    refused = blamed_on(caught.value, Task("r", "a", {}, log=lines.append), "image_url", url)
    assert isinstance(refused, Refused)
    (found,) = refused.details
    assert (found["loc"], found["input"]) == (["body", "image_url"], url[:200])
    return found, lines


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64,!!!",
        "data:image/png;base64,",
        "data:text/plain;base64,aGk=",
        "data:text/plain,hello",
        "data:image/png;base64,aGVsbG8gd29ybGQ=",
        dataurl.build("image/png", png(8, 8)[:40]),
        "data:no-comma",
    ],
)
def test_what_cannot_be_decoded(url: str) -> None:
    found, lines = fault(url)
    assert (found["type"], found["msg"]) == ("image_load_error", "Image load error")
    assert lines[0].startswith("image_url: ")
    assert WHERE not in lines[0]


@pytest.mark.parametrize(
    "url", ["hello", "ftp://example.org/a.png", "http://10.0.0.1/a.png", "http://a b/", "http://name.invalid/x", "http://[::1]:80/"]
)
def test_what_may_not_be_called(url: str) -> None:
    found, _ = fault(url)
    assert (found["type"], found["msg"]) == ("file_download_error", UNREACHED)


@pytest.mark.parametrize("path", ["/missing", "/turning"])
def test_what_cannot_be_fetched(base: str, path: str) -> None:
    found, _ = fault(base + path, base.removeprefix("http://"))
    assert (found["type"], found["msg"]) == ("file_download_error", UNREACHED)


def test_nobody_there_and_nothing_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = fault("http://127.0.0.1:9/a.png", "127.0.0.1:9")
    assert found["type"] == "file_download_error"

    async def late(url: str, allow: Any, resolve: Any) -> bytes:
        raise TimeoutError

    monkeypatch.setattr(fetch, "_followed", late)
    found, _ = fault("http://127.0.0.1:9/a.png", "127.0.0.1:9")
    assert found["type"] == "file_download_error"


def test_too_many_bytes(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "BYTE_CAP", 100_000)
    for path in ("/declared", "/long"):
        found, _ = fault(base + path, base.removeprefix("http://"))
        assert (found["type"], found["msg"], found["ctx"]) == ("file_too_large", "File too large", {"max_size": 100_000})


def test_too_many_pixels() -> None:
    found, _ = fault(dataurl.build("image/png", png(8000, 5001)))
    assert (found["type"], found["msg"]) == ("image_too_large", "Image too large")
    assert found["ctx"] == {"max_height": 6324, "max_width": 6324}  # squared: 40 million


@pytest.mark.parametrize("said", ["Image load error", "Image too large", "File too large", "Failed to download the file. Please check"])
def test_the_words_of_fals_own_apps(said: str) -> None:
    error = UpstreamRefused(f"image_url: {said}", status=422, code="upstream_rejected_request", source="fal")
    refused = blamed_on(error, Task("r", "a", {}), "image_url", "x")
    assert isinstance(refused, Refused)
    kind = refused.details[0]["type"]
    assert (
        kind
        == {"Image l": "image_load_error", "Image t": "image_too_large", "File to": "file_too_large", "Failed ": "file_download_error"}[
            said[:7]
        ]
    )


def test_other_errors_stay() -> None:
    error = UpstreamRefused("prompt: Field required", status=422, code="upstream_rejected_request", source="fal")
    assert blamed_on(error, Task("r", "a", {}), "image_url", "x") is error
