"""Where services put their videos, and the one place into which they are put."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import UpstreamFailed
from sensorium.wire import video

MP4 = b"\0\0\0\x10ftypisom" + bytes(90)
TEXT = base64.b64encode(MP4).decode()


@pytest.mark.parametrize(
    "shape",
    [
        '{"b64_video":"%s","seed":1.50}', '{"video":"%s"}', '{"video_base64":"%s"}', '{"data":[{"b64_json":"%s"}]}', '{"artifacts":["%s"]}',
        '{"artifacts":{"0":{"b64_json":"%s"}}}', '{"artifacts":[{"data":"%s","seed":2}, 3]}', '{"video":"data:video/mp4;base64,%s"}',
    ],
)  # fmt: skip
def test_the_video_is_put_into_its_place(shape: str) -> None:
    body = (shape % TEXT).encode()
    answer = json.loads(video.placed(body, "p"))
    assert answer["artifacts"][0]["base64"] == TEXT
    kept = json.loads(body)
    assert {name: answer[name] for name in kept if name != "artifacts"} == {name: kept[name] for name in kept if name != "artifacts"}


def test_other_members_stay_byte_for_byte() -> None:
    assert video.placed(b'{"b64_video":"QUJD", "seed" : 1.50}', "p") == (
        b'{"b64_video":"QUJD","seed":1.50,"artifacts":[{"base64":"QUJD"}]}'
    )  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [b'{"artifacts": [{"base64" : "QUJD"}], "a": 1.0}', b'{"video":"https://store/a.mp4"}', b'{"data":[{"url":"https://store/a.mp4"}]}'],
)
def test_what_is_in_its_place_or_but_a_link_stays_as_it_is(body: bytes) -> None:
    assert video.placed(body, "p") == body


@pytest.mark.parametrize("body", [b"{}", b'{"video":""}', b'{"video":null}', b'{"artifacts":[]}', b"[]", b"x", b"", b'{"video":[1]}'])
def test_an_answer_without_a_video_is_none(body: bytes) -> None:
    with pytest.raises(UpstreamFailed, match="somebody answered"):
        video.placed(body, "somebody")


def test_a_filtered_video() -> None:
    for body in (b'{"video":"","finish_reason":"CONTENT_FILTERED"}', b'{"artifacts":[{"finishReason":"CONTENT_FILTERED"}]}'):
        assert video.filtered(body)
        assert video.placed(body, "p") == body
    assert not video.filtered(b'{"video":"QUJD","finish_reason":"SUCCESS"}')
    assert not video.filtered(b"x")


def test_a_film_beside_a_response_is_put_in_where_it_holds_none() -> None:
    assert video.joined(b'{"video":"QUJD"}', MP4) == b'{"video":"QUJD"}'
    assert json.loads(video.joined(b'{"seed":1}', MP4)) == {"seed": 1, "artifacts": [{"base64": TEXT}]}
    assert video.joined(None, MP4) == video.joined(b"not json", MP4) == MP4
    assert video.joined(b"{}", None) == b"{}"
    assert (video.media_type(MP4), video.media_type(b"{}")) == ("video/mp4", "application/json")


SCRAPS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["", "a", "QUJD", "data:video/mp4;base64,QUJD", "https://x/y", "\u00e9\u20ac" * 9]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["0", "base64", "b64_json", "url", "video", "data"]), inner)
    ),
)


@given(st.dictionaries(st.sampled_from(["artifacts", "data", "videos", "video", "b64_video", "url", "finish_reason"]), SCRAPS))
def test_any_json_is_placed_or_refused(reply: dict[str, object]) -> None:
    try:
        answer = json.loads(video.placed(json.dumps(reply).encode(), "p"))
    except UpstreamFailed as error:
        assert "p answered" in error.message
        return
    assert {name: answer[name] for name in reply if name != "artifacts"} == {name: reply[name] for name in reply if name != "artifacts"}


@given(st.binary(max_size=60))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    for whole in (body, b'{"artifacts":' + body + b"}", b'{"video":"' + body + b'"}'):
        try:
            video.placed(whole, "p")
        except UpstreamFailed as error:
            assert error.message
