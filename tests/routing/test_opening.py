"""How much of a reply is read before it goes on, and that it goes on whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from sensorium.errors import UpstreamFailed
from sensorium.routing import opening
from sensorium.routing.call import Reply, Route
from sensorium.routing.opening import opened, retry_after
from sensorium.wire.failure import Failure
from tests.routing.hosted import call, chat, image, nvidia, provider

AT = provider("http://one")
DRAWS, FILMS, SPEAKS, TALKS = image("m", AT), nvidia("video", AT), nvidia("speech", AT), chat("m", AT)
JSON, WAV = {"content-type": "application/json"}, {"content-type": "audio/wav"}
PICTURE = json.dumps({"artifacts": [{"base64": "QUJD" * 1000, "finishReason": "SUCCESS"}]}).encode()


class Arriving:
    """A reply whose pieces are counted as they are read."""

    def __init__(self, route: Route, *pieces: bytes | Exception, status: int = 200, headers: dict[str, str] = JSON) -> None:
        self.pieces, self.read, self.closed = pieces, 0, 0
        self.reply = Reply(status, headers, self._chunks(), self._close, route)

    async def _chunks(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            self.read += 1
            yield piece

    async def _close(self) -> None:
        self.closed += 1

    def opened(self, **changes: object) -> tuple[int, Failure | None, bytes]:
        """How many pieces were read, the failure, and the whole body that goes on."""

        async def main() -> tuple[int, Failure | None, bytes]:
            reply, failure = await opened(call(modality=self.reply.route.modality, **changes), self.reply)
            read = self.read
            return read, failure, b"".join([chunk async for chunk in reply.chunks]) if failure is None else b""

        return asyncio.run(main())


@pytest.mark.parametrize(
    ("route", "pieces", "headers"),
    [
        (DRAWS, [b'{"artifacts"', b": []}"], JSON),
        (DRAWS, [b'{"data": []}'], JSON),
        (DRAWS, [], {}),
        (DRAWS, [b""], {"content-type": "image/png"}),
        (FILMS, [b'{"b64_video": ""}'], JSON),
        (SPEAKS, [], WAV),
        (SPEAKS, [b"", b""], WAV),
        (SPEAKS, [b'{"detail": "sorry"}'], JSON),
        (SPEAKS, [b"<html>"], {"content-type": "text/html; charset=utf-8"}),
    ],
)
def test_a_good_status_without_a_result_is_a_failure(route: Route, pieces: list[bytes], headers: dict[str, str]) -> None:
    arriving = Arriving(route, *pieces, headers=headers)
    _, failure, _ = arriving.opened()
    assert failure is not None and (failure.kind, failure.code) == ("provider_outage", opening.EMPTY)
    assert arriving.closed == 1


def test_a_picture_goes_on_once_it_has_begun() -> None:
    pieces = [PICTURE[:20], PICTURE[20:700], PICTURE[700:2000], PICTURE[2000:]]
    read, failure, body = Arriving(DRAWS, *pieces).opened()
    assert (read, failure, body) == (2, None, PICTURE)


@pytest.mark.parametrize(
    ("route", "pieces", "headers", "read"),
    [
        (SPEAKS, [b"RIFF....WAVE", b"sound", b"more"], WAV, 1),
        (DRAWS, [b"\x89PNG\r\n\x1a\n....", b"pixels"], {"content-type": "image/png"}, 1),
        (TALKS, [b'{"choices"', b": []}"], JSON, 2),
        (TALKS, [b'{"choices": "' + b"x" * 70_000, b'"}'], JSON, 1),
    ],
)
def test_what_is_long_goes_on_with_its_beginning(route: Route, pieces: list[bytes], headers: dict[str, str], read: int) -> None:
    assert Arriving(route, *pieces, headers=headers).opened() == (read, None, b"".join(pieces))


def test_json_without_end_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "FIRST_MEDIA", 100)
    pieces = [b'{"words": "' + b"and on " * 20, b"and on", b'"}']
    assert Arriving(DRAWS, *pieces).opened() == (1, None, b"".join(pieces))


@pytest.mark.parametrize(
    ("route", "body", "changes"),
    [
        (nvidia("transcribe", AT), b'{"text": ""}', {}),
        (SPEAKS, b'{"en-US": {"voices": []}}', {"method": "GET"}),
        (DRAWS, b'{"artifacts": []}', {"method": "GET"}),
    ],
)
def test_an_empty_text_is_a_result(route: Route, body: bytes, changes: dict[str, object]) -> None:
    assert Arriving(route, body).opened(**changes)[1:] == (None, body)


def test_what_breaks_off_before_its_first_byte_is_raised_and_closed() -> None:
    for route in (TALKS, SPEAKS, DRAWS):
        arriving = Arriving(route, UpstreamFailed("cut"), headers={})
        with pytest.raises(UpstreamFailed):
            arriving.opened()
        assert arriving.closed == 1


@pytest.mark.parametrize(("text", "seconds"), [("7", 7.0), ("1.5", 1.5), ("", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None)])
def test_seconds_of_a_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after(Arriving(TALKS, headers={"retry-after": text}).reply) == seconds
