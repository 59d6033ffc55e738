"""Links to files of the hub's own in a call, before any route is sent it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import BodyTooLarge, InvalidImage, SensoriumError
from sensorium.routing import own
from sensorium.routing.call import Call
from sensorium.routing.own import FilesUnavailable, Read, inlined
from sensorium.store.database import StoreUnavailable
from sensorium.store.files import FileForbidden, UnknownFile
from sensorium.wire import jsonbody
from tests.routing.hosted import call

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
LINK = "http://hub:1/fal/cdn/files/sig/2027/01/15/0.png"
DATA = "data:image/png;base64,iVBORw0KGgoAAAAAAAAAAAAAAAAAAAAAAAAAAA=="
SOURCE = {"type": "base64", "media_type": "image/png", "data": DATA.partition(",")[2]}
AWAY = "https://pictures.test/fal/cdn/files/a.png"


def store(url: str, caller: str, most: int | None) -> tuple[bytes, str] | None:
    assert caller == "ada"
    return (PNG, "text/plain; charset=x") if url == LINK else None


def nobody(url: str, caller: str, most: int | None) -> tuple[bytes, str] | None:
    raise AssertionError(f"{url} was read")


def asked(body: bytes) -> Call:
    return replace(call(), caller="ada", members=jsonbody.members(body))


def made(body: Any, read: Read = store) -> tuple[Any, tuple[str, ...]]:
    after = asyncio.run(inlined(asked(json.dumps(body).encode()), read))
    return json.loads(jsonbody.encode(after.members)), after.changes


def said(*parts: Any) -> dict[str, Any]:
    return {"n": 1, "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": list(parts)}]}


TEXT = {"type": "text", "text": f"what is {LINK}?"}
TABLE: list[tuple[Any, Any, str]] = [
    # the part, what becomes of it, where it is
    (
        said({"type": "image_url", "image_url": {"url": LINK, "detail": "low"}}),
        said({"type": "image_url", "image_url": {"url": DATA, "detail": "low"}}),
        "messages[1].content[0]",
    ),
    (said({"type": "image_url", "image_url": LINK}), said({"type": "image_url", "image_url": DATA}), "messages[1].content[0]"),
    (
        said(TEXT, {"type": "video_url", "video_url": {"url": LINK}}),
        said(TEXT, {"type": "video_url", "video_url": {"url": DATA}}),
        "messages[1].content[1]",
    ),
    (said({"type": "image", "source": {"type": "url", "url": LINK}}), said({"type": "image", "source": SOURCE}), "messages[1].content[0]"),
    (
        said({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": {"type": "url", "url": LINK}}]}),
        said({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": SOURCE}]}),
        "messages[1].content[0].content[0]",
    ),
    ({"image": LINK}, {"image": DATA}, "image"),
    ({"image": [AWAY, LINK]}, {"image": [AWAY, DATA]}, "image[1]"),
    ({"images": [{"image_url": LINK}]}, {"images": [{"image_url": DATA}]}, "images[0]"),
    ({"image_url": LINK}, {"image_url": DATA}, "image_url"),
]


@pytest.mark.parametrize(("body", "becomes", "where"), TABLE)
def test_a_link_of_ours_goes_on_as_data_wherever_a_picture_may_stand(body: Any, becomes: Any, where: str) -> None:
    assert made(body) == (becomes, (f"{where}: read from the store",))


def test_an_escaped_link_is_one_too_and_other_members_keep_their_bytes() -> None:
    escaped = json.dumps(LINK).replace("/", "\\/").encode()
    after = asyncio.run(inlined(asked(b'{"seed": 1.50, "image": ' + escaped + b"}"), store))
    assert jsonbody.encode(after.members) == b'{"seed":1.50,"image":"' + DATA.encode() + b'"}'


@pytest.mark.parametrize(
    "body",
    [
        said(TEXT),
        said({"type": "image_url", "image_url": {"url": AWAY}}),
        {"messages": LINK},
        {"messages": [LINK, 1, None, {"content": LINK}, {"content": [LINK, {"type": "image_url"}, {"type": "image_url", "image_url": 3}]}]},
        {"image": [[LINK]]},
        {"prompt": LINK},
    ],
)
def test_anything_else_stays_as_it_came(body: Any) -> None:
    came = asked(json.dumps(body).encode())
    assert asyncio.run(inlined(came, store)) is came


JSON = st.recursive(
    st.none() | st.integers() | st.sampled_from([LINK, "image_url", "tool_result", "url", "files"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "content", "image_url", "url", "source"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(own.MEMBERS), JSON, max_size=3))
def test_no_shape_trips_it(body: dict[str, Any]) -> None:
    changed, changes = made(body)
    assert bool(changes) == (changed != body)


def test_a_call_without_our_path_is_not_even_decoded() -> None:
    members = {"messages": msgspec.Raw(b'[{"content": not json, files'), "image": msgspec.Raw(b'"data:image/png;base64,files"')}
    came = replace(call(), members=members)
    assert asyncio.run(inlined(came, nobody)) is came


@pytest.mark.parametrize(
    ("refusal", "kind", "status"),
    [
        (UnknownFile("there is no such file, or its link has expired"), InvalidImage, 400),
        (FileForbidden("this file is not for you", hint="ask"), InvalidImage, 400),
        (BodyTooLarge("the file has 9 bytes; at most 8 are read here"), InvalidImage, 400),
        (StoreUnavailable("locked", retry_after=2), FilesUnavailable, 503),
    ],
)
def test_a_file_that_cannot_be_had_is_refused_with_its_place(refusal: SensoriumError, kind: type[SensoriumError], status: int) -> None:
    def read(url: str, caller: str, most: int | None) -> tuple[bytes, str] | None:
        raise refusal

    with pytest.raises(kind) as refused:
        made(said(TEXT, {"type": "image_url", "image_url": {"url": LINK}}), read)
    assert refused.value.message == f"messages[1].content[1]: {refusal.message}"
    assert (refused.value.param, refused.value.status, refused.value.retryable) == ("messages[1].content[1]", status, False)


def test_the_files_of_one_call_share_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "MOST_BYTES", 50)
    monkeypatch.setattr(own, "MOST_TOGETHER", 70)
    bounds = list[int | None]()

    def read(url: str, caller: str, most: int | None) -> tuple[bytes, str] | None:
        bounds.append(most)
        return PNG, "image/png"

    made({**said(*[{"type": "image_url", "image_url": {"url": LINK}}] * 2), "image": LINK}, read)
    assert bounds == [50, 42, 14]
