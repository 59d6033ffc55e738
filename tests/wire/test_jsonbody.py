"""Members keep their bytes; what is not a JSON object is refused with a reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import BadRequest, SensoriumError, Unprocessable
from sensorium.wire import jsonbody

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values, max_size=6), st.text())
def test_encoding_changes_only_what_it_is_told_to(sent: dict[str, object], model: str) -> None:
    again = json.loads(jsonbody.encode(jsonbody.members(json.dumps(sent).encode()), model=model))
    assert again == {**sent, "model": model}


def test_untouched_members_keep_their_very_bytes() -> None:
    body = b'{"a": 1.0e+02, "model": "x", "b":  [1,\t2]}'
    assert jsonbody.encode(jsonbody.members(body), model="y") == b'{"a":1.0e+02,"model":"y","b":[1,\t2]}'


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"{", "not valid JSON"),
        (b"[1]", "not an object"),
        (b'"text"', "not an object"),
        (b"null", "not an object"),
        (b'{"steps": NaN}', "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not valid JSON"),
    ],
)
def test_what_is_no_object_is_refused_with_the_reason(body: bytes, says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        found = jsonbody.members(body)
        jsonbody.value(found, "a")


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    try:
        found = jsonbody.members(body)
        for name in found:
            jsonbody.value(found, name)
    except SensoriumError:
        pass


def test_wrong_types_are_named() -> None:
    found = jsonbody.members(b'{"model": 3, "stream": "yes"}')
    with pytest.raises(Unprocessable, match="model must be a string, not an integer"):
        jsonbody.text(found, "model")
    with pytest.raises(Unprocessable, match="stream must be true or false, not a string"):
        jsonbody.flag(found, "stream")
