"""What counts as a reply without media, in every shape that services use, and how soon that is known."""

from __future__ import annotations

import base64
import json

import pytest

from sensorium.wire.emptiness import embedded, is_empty

PICTURE = base64.b64encode(bytes(range(256)) * 8).decode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"{}",
        b"[]",
        b'{"artifacts": []}',
        b'{"artifacts": {}}',
        b'{"artifacts": null}',
        b'{"artifacts": [{}]}',
        b'{"artifacts": [{"base64": "", "finishReason": "ERROR", "seed": 7}]}',
        b'{"artifacts": [null, {"base64": " "}]}',
        b'{"data": [], "created": 1}',
        b'{"data": [{"b64_json": "", "revised_prompt": "a cube"}]}',
        b'{"image": "", "finish_reason": "SUCCESS", "seed": 0}',
        b'{"images": [], "prompt": "a cube"}',
        b'{"b64_video": "", "upsampled_prompt": "a long sentence about a cube"}',
        b'{"video": null, "artifacts": []}',
    ],
)
def test_nothing_in_it(body: bytes) -> None:
    assert is_empty(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"artifacts": [{"base64": "QUJD"}]}',
        b'{"artifacts": {"0": "QUJD"}}',
        b'{"artifacts": [{"base64": ""}, {"base64": "QUJD"}]}',
        b'{"artifacts": [], "image": "QUJD"}',
        b'{"data": [{"url": "https://x.example/a.png"}]}',
        b'{"images": [{"content": "QUJD"}]}',
        b'{"images": [], "video": {"url": "https://x.example/a.mp4"}}',
        b'{"artifacts": [{"base64": "", "finishReason": "CONTENT_FILTERED"}]}',
        b'{"image": "", "finish_reason": "CONTENT_FILTERED"}',
        b'{"mesh": "of a kind that nobody knows"}',
        b'{"id": "a job of some service"}',
        b"not JSON",
        b"\x89PNG",
        b'"text"',
        b"[" * 5000,
    ],
)
def test_something_in_it_or_nothing_that_is_known(body: bytes) -> None:
    assert not is_empty(body)


def test_media_is_known_by_its_first_half_kilobyte() -> None:
    body = json.dumps({"artifacts": [{"base64": PICTURE}]}).encode()
    assert embedded(body[:600]) and not embedded(body[:400])


def test_media_across_two_pieces_is_found() -> None:
    body = json.dumps({"image": PICTURE}).encode()
    assert not embedded(body[:300])
    assert embedded(body[:700], searched=300)


@pytest.mark.parametrize("text", ["a long prompt of many words " * 100, "x" * 500 + " " + "y" * 500])
def test_prose_is_no_media(text: str) -> None:
    assert not embedded(json.dumps({"upsampled_prompt": text}).encode())


def test_base64_may_be_escaped_or_broken_into_lines() -> None:
    lines = "\n".join(PICTURE[place : place + 76] for place in range(0, len(PICTURE), 76))
    assert embedded(json.dumps({"image": lines}).encode())
    assert embedded(json.dumps({"image": PICTURE}).replace("/", "\\/").encode())
