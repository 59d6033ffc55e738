"""The frames of realtime: what an input may hold, and how errors are told to two clients at once."""

from __future__ import annotations

import json
import struct
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import BadRequest, Busy, Unauthorized, UpstreamRefused
from sensorium.wire.fal_errors import Refused, detail
from sensorium.wire.fal_realtime import idle, input_of, output, told

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), PLAIN, max_size=5))
def test_what_the_clients_pack_is_read_and_what_is_sent_they_unpack(body: dict[str, Any]) -> None:
    assert input_of(msgpack.packb(body)) == body
    assert msgpack.unpackb(output(body)) == body


def test_the_captured_frame() -> None:
    assert input_of(bytes.fromhex("81a670726f6d7074a161")) == {"prompt": "a"}


@given(st.binary(max_size=60))
def test_no_bytes_whatever_end_in_anything_but_an_input_or_a_clear_error(frame: bytes) -> None:
    try:
        assert isinstance(input_of(frame), dict)
    except (BadRequest, Refused) as error:
        assert error.message


def test_deep_nesting_is_refused_or_read_but_ends() -> None:
    for depth in (200, 100_000):
        frame = b"\x81\xa1a" + b"\x91" * depth + b"\xc0"
        try:
            input_of(frame)
        except BadRequest as error:
            assert "msgpack" in error.message


def test_a_wide_list_deep_inside_takes_no_more_memory_than_it_has_itself() -> None:
    wide = 100_000
    frame = b"\x81\xa1a" + b"\x91" * 400 + b"\xdd" + struct.pack(">I", wide) + b"\x00" * wide
    tracemalloc.start()
    try:
        input_of(frame)
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("frame", [b"", b"\x81", b"\xc1", b"\x81\xa1\xff\xc0", b"\x81\xa1a\xc0\xc0"])
def test_what_is_not_msgpack_is_a_bad_request(frame: bytes) -> None:
    with pytest.raises(BadRequest, match="not valid msgpack"):
        input_of(frame)


@pytest.mark.parametrize(
    ("value", "loc", "kind"),
    [
        ([1], ["body"], "model_attributes_type"),
        ("text", ["body"], "model_attributes_type"),
        (None, ["body"], "model_attributes_type"),
        ({"image": b"\x89PNG"}, ["body", "image"], "value_error"),
        ({"a": [0, {"b": b"x"}]}, ["body", "a", 1, "b"], "value_error"),
        ({1: 2}, ["body"], "invalid_key"),
        ({"a": msgpack.Timestamp(1)}, ["body", "a"], "value_error"),
        ({"a": msgpack.ExtType(5, b"x")}, ["body", "a"], "value_error"),
    ],
)
def test_what_json_has_no_form_for_is_a_fault_at_its_place(value: object, loc: list[object], kind: str) -> None:
    with pytest.raises(Refused) as refused:
        input_of(msgpack.packb(value))
    assert (refused.value.details[0]["loc"], refused.value.details[0]["type"]) == (loc, kind)


def test_numbers_that_json_has_not_are_no_surprise() -> None:
    assert input_of(b"\x81\xa1a\xcb" + struct.pack(">d", float("inf"))) == {"a": float("inf")}


def test_an_unknown_caller_is_told_as_both_clients_look_for_it() -> None:
    said = json.loads(told(Unauthorized("this token has expired", hint="ask again"), "id1"))
    assert said == {
        "type": "x-fal-error",
        "status": "error",
        "error": "Unauthorized",
        "reason": "this token has expired (ask again)",
        "request_id": "id1",
    }


def test_faults_of_an_input_go_along_and_other_errors_have_their_code() -> None:
    fault = detail("prompt", "Field required", "missing")
    said = json.loads(told(Refused([fault]), "id1"))
    assert (said["error"], said["reason"], said["detail"]) == ("VALIDATION_ERROR", "prompt: Field required", [fault])
    assert json.loads(told(Busy("full"), "id1")) == {"type": "x-fal-error", "error": "BUSY", "reason": "full", "request_id": "id1"}
    elsewhere = UpstreamRefused("no such voice", status=404, code="voice_not_found", source="talk")
    assert json.loads(told(elsewhere, "id1"))["source"] == "talk"
    assert json.loads(idle(300.0))["error"] == "TIMEOUT"
