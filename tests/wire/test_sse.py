"""Frames of an event stream, however its bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import UpstreamFailed
from sensorium.wire import sse

STREAM = b': keep-alive\n\nevent: a\r\ndata: {"n": 1}\r\n\r\nid: 7\n\ndata:x\ndata: y\n\ndata: [DONE]\n\ndata: unfinished'
TOLD = [b'{"n": 1}', b"x\ny", b"[DONE]"]


def pieces(whole: bytes, cuts: list[int]) -> list[bytes]:
    """`whole` cut at these places."""
    places = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    return [whole[begin:end] for begin, end in pairwise(places)]


@given(st.lists(st.integers(0, 10_000), max_size=len(STREAM)))
def test_the_payloads_are_the_same_in_any_pieces(cuts: list[int]) -> None:
    frames = sse.Frames()
    assert [payload for piece in pieces(STREAM, cuts) for payload in frames.feed(piece)] == TOLD


def test_a_frame_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LONGEST", 100)
    frames = sse.Frames()
    assert frames.feed(b"data: " + b"x" * 90) == []
    with pytest.raises(UpstreamFailed, match="has no end"):
        frames.feed(b"x" * 10)


@pytest.mark.parametrize(
    ("held", "whole"),
    [(b"", 0), (b"data: x\n", 0), (b"data: x\n\n", 9), (b"data: x\n\nda", 9), (b"data: x\r\n\r\nda", 11), (b"data: x\r\n\r", 0)],
)
def test_whole_frames_end_in_a_blank_line_of_either_kind(held: bytes, whole: int) -> None:
    assert sse.whole(held) == whole


def test_a_frame_has_a_name_where_it_is_given_one() -> None:
    assert sse.event(b"{}") == b"data: {}\n\n"
    assert sse.event(b"{}", "ping") == b"event: ping\ndata: {}\n\n"
