"""Token counts are asked for where they can be had and the caller did not; what the call tells of its own usage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sensorium.routing.call import Route
from sensorium.routing.metering import asked
from sensorium.routing.payload import payload
from sensorium.wire import jsonbody
from sensorium.wire.multipart import Part
from sensorium.wire.usage import UNKNOWN, Usage
from tests.routing.hosted import call, chat, provider
from tests.wire.test_usage import wave

HOSTED = provider("http://one/v1")
CHAT = chat("good", HOSTED)


def sent(body: bytes, route: Route = CHAT, **changes: Any) -> tuple[bytes | None, bool]:
    made = payload(call(members=jsonbody.members(body), **{"stream": True, **changes}), route)
    return made.data, made.counted


def test_a_stream_is_asked_for_its_counts_and_nothing_else_of_the_body_changes() -> None:
    body, counted = sent(b'{"model":"good","x": 1.50, "stream_options":null}')
    assert counted
    assert body == b'{"model":"good","x":1.50,"stream_options":{"include_usage":true}}'
    body, counted = sent(b'{"stream_options": {"include_usage": false, "include_obfuscation": false}}')
    assert (jsonbody.value(jsonbody.members(body or b""), "stream_options"), counted) == (
        {"include_usage": True, "include_obfuscation": False},
        True,
    )


@pytest.mark.parametrize(
    ("options", "route", "changes"),
    [
        (b'{"include_usage": true}', CHAT, {}),
        (b'"all"', CHAT, {}),
        (b"null", CHAT, {"stream": False}),
        (b"null", CHAT, {"operation": "completions"}),
        (b"null", CHAT, {"operation": "responses"}),
        (b"null", chat("good", replace(HOSTED, stream_usage=False)), {}),
    ],
)
def test_where_it_was_asked_for_or_cannot_be_had_the_body_goes_on_as_it_is(options: bytes, route: Route, changes: dict[str, Any]) -> None:
    assert sent(b'{"model":"good","stream_options":' + options + b"}", route, **changes) == (
        b'{"model":"good","stream_options":' + options + b"}",
        False,
    )


def test_a_query_string_does_not_hide_that_it_is_chat() -> None:
    assert sent(b"{}", operation="chat/completions?api-version=1")[1]


def form(**fields: bytes) -> tuple[Part, ...]:
    return tuple(Part(name, data, "clip.wav" if name == "file" else None) for name, data in fields.items())


@pytest.mark.parametrize(
    ("changes", "usage"),
    [
        ({"modality": "speech", "members": jsonbody.members('{"text": "Grüße"}'.encode())}, Usage(characters=5)),
        ({"modality": "speech", "members": jsonbody.members(b'{"input": "hello"}')}, Usage(characters=5)),
        ({"modality": "speech", "members": jsonbody.members(b'{"input": 5}')}, UNKNOWN),
        ({"modality": "speech", "members": {}, "form": form(text=b"hello")}, Usage(characters=5)),
        ({"modality": "speech", "members": {}, "form": form(text=b"\xff")}, UNKNOWN),
        ({"modality": "transcribe", "members": {}, "form": form(file=wave(2))}, Usage(seconds=2.0)),
        ({"modality": "transcribe", "members": {}, "form": form(file=b"fLaC")}, UNKNOWN),
        ({"modality": "transcribe", "members": {}}, UNKNOWN),
        ({"modality": "chat"}, UNKNOWN),
    ],
)
def test_a_call_tells_characters_and_seconds(changes: dict[str, Any], usage: Usage) -> None:
    assert asked(call(**changes)) == usage
