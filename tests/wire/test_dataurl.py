"""data: URLs as real callers write them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import BadRequest
from sensorium.wire import dataurl
from sensorium.wire.dataurl import DataURL


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("data:image/png;base64,aGk=", DataURL("image/png", b"hi")),
        ("DATA:Image/PNG;charset=utf-8;Base64,aGk=", DataURL("image/png", b"hi")),
        ("data:;base64,aGk=", DataURL("", b"hi")),
        ("data:,hi%20there", DataURL("", b"hi there")),
        ("data:image/svg+xml,%3Csvg/%3E", DataURL("image/svg+xml", b"<svg/>")),
        ("data:image/png;base64,aGk", DataURL("image/png", b"hi")),
        ("data:image/png;base64,aG\n k=\r\n", DataURL("image/png", b"hi")),
        ("data:image/png;base64,aGk%3D", DataURL("image/png", b"hi")),
        ("data:image/png;base64,-_-_", DataURL("image/png", b"\xfb\xff\xbf")),
        ("data:image/png;base64,", DataURL("image/png", b"")),
        ("data:image/png,base64", DataURL("image/png", b"base64")),
    ],
)
def test_accepted(url: str, expected: DataURL) -> None:
    assert dataurl.parse(url) == expected


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://example.org/a.png", "not a data: URL"),
        ("data:image/png;base64", "without a comma"),
        ("data:nonsense;base64,aGk=", "media type 'nonsense'"),
        ("data:image/png;base64,a*k=", "base64 is damaged"),
        ("data:image/png;base64,a", "base64 is damaged"),
        ("data:image/png;base64,aGk=aGk=", "base64 is damaged"),
        ("data:image/png;base64,äöü", "base64 is damaged"),
    ],
)
def test_refused(url: str, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        dataurl.parse(url)


@given(st.binary(max_size=200))
def test_what_is_built_is_read_back(data: bytes) -> None:
    assert dataurl.parse(dataurl.build("image/jpeg", data)) == DataURL("image/jpeg", data)


@given(st.text(max_size=80))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        dataurl.parse(f"data:{text}")
    except BadRequest as error:
        assert base64.b64encode(text.encode("utf-8", "replace")).decode() not in error.message or len(text) < 4
