"""What replies say about their usage, however their bytes are cut, and that nothing of them changes but what only the hub asked for."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.wire.usage import FRAME, TAIL, UNKNOWN, EventStream, Pictures, Reading, Usage, Wave, WholeReply, told

COUNTS = {"prompt_tokens": 12, "completion_tokens": 30, "total_tokens": 42}
DELTA = b'data: {"choices":[{"delta":{"content":"\\"usage\\": {}"}}],"usage":null}\n\n'
LAST = b'data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":30}}\n\n'
DONE = b"data: [DONE]\n\n"


def passed(reading: Reading, body: bytes, cuts: list[int] | None = None) -> bytes:
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts or ())})
    chunks = [body[start:end] for start, end in pairwise(places)]
    return b"".join(reading.passed(chunk) for chunk in chunks) + reading.rest()


@pytest.mark.parametrize(
    ("reply", "usage"),
    [
        ({"usage": COUNTS}, Usage(12, 30)),
        ({"usage": {"prompt_tokens": 5, "total_tokens": 5}}, Usage(5)),
        ({"usage": {"input_tokens": 3, "output_tokens": 0}}, Usage(3, 0)),
        ({"usage": {"type": "duration", "seconds": 7}}, Usage(seconds=7.0)),
        ({"type": "response.completed", "response": {"usage": {"input_tokens": 3, "output_tokens": 4}}}, Usage(3, 4)),
        ({"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}, Usage(9, 1)),
        ({"usage": None, "message": "words"}, UNKNOWN),
        ({"usage": {"prompt_tokens": True, "completion_tokens": -1, "seconds": "7"}}, UNKNOWN),
        ({"usage": {"prompt_tokens": 2**60, "completion_tokens": 1.5}}, UNKNOWN),
        ({"usage": [1]}, UNKNOWN),
        ([], UNKNOWN),
    ],
)
def test_counts_are_read_and_what_is_no_count_is_unknown(reply: Any, usage: Usage) -> None:
    assert told(json.dumps(reply).encode()) == usage


@pytest.mark.parametrize("body", [b"", b"{", b"null", b'{"usage": {', b"\xff", b'{"usage":' + b"[" * 10_000, b'{"message":' * 2000])
def test_what_is_not_json_tells_nothing(body: bytes) -> None:
    assert told(body) == UNKNOWN


@given(cuts=st.lists(st.integers(0, 10_000), max_size=8), size=st.sampled_from([0, 100, TAIL, 3 * TAIL]))
def test_a_whole_reply_of_any_size_tells_its_usage_and_stays_as_it_is(cuts: list[int], size: int) -> None:
    text = '"usage": {"prompt_tokens": 1}' + "x" * size + '"usage": {"prompt_tokens": 2}'
    body = json.dumps({"choices": [{"message": {"content": text}}], "usage": COUNTS, "more": {"a": [1]}}).encode()
    reading = WholeReply()
    assert passed(reading, body, [cut * len(body) // 10_000 for cut in cuts]) == body
    assert reading.usage == Usage(12, 30)


@pytest.mark.parametrize("inner", ['"usage": {"prompt_tokens": 2}', '\\"usage": {"prompt_tokens": 2}}'])
def test_a_text_about_usage_at_the_end_of_a_long_reply_is_no_usage(inner: str) -> None:
    reading = WholeReply()
    passed(reading, json.dumps({"text": "x" * TAIL, "choices": [{"content": inner}]}).encode())
    assert reading.usage == UNKNOWN
    nested = WholeReply()
    passed(nested, json.dumps({"text": "x" * TAIL, "choices": [{"usage": COUNTS}]}).encode())
    assert nested.usage == UNKNOWN


@given(cuts=st.lists(st.integers(0, 400), max_size=12), hide=st.booleans(), crlf=st.booleans())
def test_a_stream_loses_the_frame_of_counts_only_where_it_is_hidden(cuts: list[int], hide: bool, crlf: bool) -> None:
    pieces = [b": hello\n\n", DELTA, LAST, DONE]
    pieces = [piece.replace(b"\n", b"\r\n") for piece in pieces] if crlf else pieces
    reading = EventStream(hide)
    kept = [piece for piece in pieces if not (hide and b"[]" in piece)]
    assert passed(reading, b"".join(pieces), cuts) == b"".join(kept)
    assert reading.usage == Usage(12, 30)


def test_counts_beside_an_answer_are_part_of_it() -> None:
    frame = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    filtered = b'data: {"choices":[],"prompt_filter_results":[{"usage":1}]}\n\n'
    reading = EventStream(hide=True)
    assert passed(reading, filtered + frame + DONE) == filtered + frame + DONE
    assert reading.usage == Usage(1, 2)


def test_a_later_report_completes_an_earlier_one() -> None:
    reading = EventStream()
    passed(reading, b'event: message_start\ndata: {"message":{"usage":{"input_tokens":9,"output_tokens":1}}}\n\n')
    passed(reading, b'event: message_delta\ndata: {"usage":{"output_tokens":20}}\n\n')
    assert reading.usage == Usage(9, 20)


def test_a_frame_without_an_end_is_not_held_back_for_ever() -> None:
    reading = EventStream(hide=True)
    assert len(reading.passed(b"data: " + b"x" * FRAME)) == FRAME + 6
    assert passed(reading, b"\n\n" + LAST + DONE) == b"\n\n" + DONE


@given(cuts=st.lists(st.integers(0, 10_000), max_size=12), count=st.integers(0, 4))
def test_pictures_are_counted_by_what_holds_them(cuts: list[int], count: int) -> None:
    body = json.dumps({"artifacts": [{"base64": "A" * 40, "seed": 1} for _ in range(count)], "said": '"base64": "'}).encode()
    reading = Pictures()
    assert passed(reading, body, cuts) == body
    assert reading.usage == Usage(images=count or None)


def test_both_counts_together() -> None:
    assert Usage(1, None, 2) + Usage(3, 4) == Usage(4, 4, 2)


def wave(seconds: float) -> bytes:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    return b"RIFF" + b"\xff" * 4 + b"WAVE" + form + b"data" + b"\xff" * 4 + bytes(int(32000 * seconds))


@pytest.mark.parametrize(("body", "seconds"), [(wave(1.5), 1.5), (wave(0), 0.0), (b"RIFF0000WAVEfmt ", None), (b"", None), (b"ID3", None)])
def test_a_wave_lasts_as_long_as_its_bytes(body: bytes, seconds: float | None) -> None:
    reading = Wave()
    assert passed(reading, body, [3, 30, 60]) == body
    assert reading.usage == Usage(seconds=seconds)
