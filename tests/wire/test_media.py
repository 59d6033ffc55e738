"""The media door's bodies, both ways."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from sensorium.errors import SensoriumError, UpstreamFailed
from sensorium.wire import jsonbody, media


def read(op: str, call: Any) -> jsonbody.Members:
    return media.read(op, jsonbody.members(json.dumps(call).encode()))


def test_a_drawing_in_openais_words() -> None:
    members = media.drawing(read("image.generate", {"prompt": "a", "width": 64.0, "height": 32, "seed": 1, "steps": None}))
    assert json.loads(jsonbody.encode(members)) == {"prompt": "a", "seed": 1, "size": "64x32"}


@pytest.mark.parametrize("image", ["https://a.example/b.png", "data:image/png;base64,QUJD"])
def test_a_question_keeps_the_pictures_url(image: str) -> None:
    members = media.question(read("image.understand", {"prompt": "ä?", "image": image, "model": "m"}))
    parts = [{"type": "text", "text": "ä?"}, {"type": "image_url", "image_url": {"url": image}}]
    assert json.loads(jsonbody.encode(members)) == {"model": "m", "messages": [{"role": "user", "content": parts}], "stream": False}


@pytest.mark.parametrize(
    ("head", "name", "type_"),
    [
        ("data:audio/mpeg;base64,SUQzBAAA", "audio.mp3", "audio/mpeg"),
        ("UklGRgAAAAA=", "audio.wav", "audio/wav"),
        ("data:audio/x-odd;base64,QUJD", "audio.bin", "audio/x-odd"),
        ("QUJD", "audio.bin", "application/octet-stream"),
    ],
)
def test_sound_becomes_a_file_named_by_its_content(head: str, name: str, type_: str) -> None:
    (file,) = media.heard(read("audio.asr", {"audio": head}))
    assert (file.name, file.filename, file.media) == ("file", name, type_)


@pytest.mark.parametrize(
    ("op", "call", "names"),
    [
        ("image.generate", {"prompt": "a", "size": "64x64"}, "size: extra inputs"),
        ("image.generate", {"prompt": "a", "height": 64}, "go together"),
        ("image.generate", {"prompt": "a", "width": 64, "height": 0}, "height is 0"),
        ("image.generate", {"prompt": "a", "seed": True}, "seed is true"),
        ("image.generate", {"prompt": None}, "prompt is missing"),
        ("image.understand", {"prompt": "a", "image": 3}, "image is 3"),
        ("audio.tts", {"input": 3}, "input is 3"),
        ("video.generate", {"duration": "long"}, "duration is"),
    ],
)
def test_what_an_operation_does_not_take_is_named(op: str, call: Any, names: str) -> None:
    with pytest.raises(SensoriumError, match=names):
        read(op, call)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"no", b"\xff", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}', b'{"text": 1}']
)
def test_answers_that_hold_nothing(body: bytes) -> None:
    for reading in (media.answered, media.transcript, media.pictures):
        with pytest.raises(UpstreamFailed, match="them answered without a"):
            reading(body, "them")


def test_silence_has_an_empty_transcript() -> None:
    assert media.transcript(b'{"text": ""}', "them") == ""


@pytest.mark.parametrize(
    ("body", "artifact"),
    [
        (b'{"artifacts": [{"base64": "AAAA"}]}', {"base64": "AAAA"}),
        (b"\0\0\0\x10ftypisom", {"base64": "AAAAEGZ0eXBpc29t"}),
        (b'{"video": {"url": "https://a.example/f.webm"}, "url": "https://a.example/f.webm"}', {"url": "https://a.example/f.webm"}),
    ],
)
def test_clips(body: bytes, artifact: dict[str, str]) -> None:
    made = msgspec.json.decode(msgspec.json.encode(media.clip(body, "them")))
    assert {name: made[name] for name in artifact} == artifact
    assert made["content_type"].startswith("video/")
