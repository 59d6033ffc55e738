"""What a submission says in its headers and its query."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import BadRequest, SensoriumError
from sensorium.wire import fal_submit
from sensorium.wire.fal_errors import Refused
from sensorium.wire.lifecycle import KEPT, Lifecycle

VALUES = st.dictionaries(st.text(max_size=5), st.recursive(st.none() | st.integers(-9, 9) | st.text(max_size=5), st.lists, max_leaves=5))


def header(**told: str) -> Any:
    named = {name.replace("_", "-"): text for name, text in told.items()}
    return lambda name: named.get(name, "")


def test_nothing_said_means_nothing() -> None:
    assert fal_submit.read(header(), b"") == fal_submit.Submission(lifecycle=KEPT)


@pytest.mark.parametrize(
    ("text", "retries"),
    [
        ('{"server_error":{"retries":0},"connection_error":{"retries":3}}', {"server_error": 0, "connection_error": 3}),
        ('{"server_error":{"retries":1e2},"timeout":{"retries":-1},"connection_error":{"retries":true}}', {}),
        ('{"server_error":5}', {}),
        ("[]", {}),
        ("null", {}),
        ("no json", {}),
        ("[" * 5000, {}),
        ("\xff", {}),
    ],
)
def test_a_retry_configuration_that_cannot_be_read_is_passed_over(text: str, retries: dict[str, int]) -> None:
    assert fal_submit.read(header(x_fal_retry_config=text), b"").retries == retries


@pytest.mark.parametrize(("text", "seconds"), [("30", 30.0), (" 20.0 ", 20.0), ("0.2", 0.2), ("2592000", 2592000.0)])
def test_start_deadlines(text: str, seconds: float) -> None:
    assert fal_submit.start_within(header(x_fal_request_timeout=text)) == seconds


@given(st.text(max_size=20))
def test_any_header_is_read_or_refused(text: str) -> None:
    names = ["x_fal_queue_priority", "x_fal_request_timeout", "x_fal_runner_hint", "x_fal_object_lifecycle_preference", "x_fal_store_io"]
    for name in (*names, "x_fal_no_retry", "x_fal_retry_config", "idempotency_key"):
        try:
            fal_submit.read(header(**{name: text.encode("latin-1", "replace").decode("latin-1")}), b"")
        except BadRequest as error:
            assert error.message.isprintable()


@given(st.binary(max_size=40))
def test_any_query_is_read_or_refused(query: bytes) -> None:
    try:
        fal_submit.read(header(), query)
    except SensoriumError as error:
        assert error.status in (400, 422)
    fal_submit.given(query)


@given(VALUES)
def test_an_object_is_taken_as_it_is(found: dict[str, Any]) -> None:
    body = json.dumps(found).encode()
    assert fal_submit.decoded(body) == found
    assert fal_submit.checked(body) is body


@given(st.binary(max_size=40))
def test_anything_else_is_refused_with_its_place(body: bytes) -> None:
    try:
        assert isinstance(fal_submit.decoded(body), dict)
    except Refused as error:
        (fault,) = error.details
        assert fault["type"] in ("json_invalid", "model_attributes_type") and fault["loc"][0] == "body"
        assert fault["type"] != "json_invalid" or 0 <= fault["loc"][1] <= len(body)


@given(st.one_of(st.binary(max_size=40), VALUES.map(json.dumps).map(str.encode)), st.integers(0, 60), st.binary(max_size=1))
def test_a_body_is_checked_for_what_would_be_decoded(body: bytes, place: int, instead: bytes) -> None:
    altered = body[:place] + instead + body[place + 1 :] or b" "

    def refused(read: Any) -> bool:
        try:
            read(altered)
        except Refused:
            return True
        return False

    assert refused(fal_submit.checked) == refused(fal_submit.decoded)


def test_a_lifecycle_is_read_as_at_uploads() -> None:
    said = '{"initial_acl":{"rules":[{"user":"ren\u00e9","decision":"allow"}]}}'.encode().decode("latin-1")
    rules = [{"user": "ren\u00e9", "decision": "allow"}]
    assert fal_submit.read(header(x_fal_object_lifecycle_preference=said), b"").lifecycle == Lifecycle(None, {"rules": rules})


def test_a_body_of_brackets_takes_no_memory_when_it_is_submitted() -> None:
    body = b'{"a":[' + b"[]," * 1_000_000 + b"[]]}"
    tracemalloc.start()
    try:
        fal_submit.checked(body)
        assert tracemalloc.get_traced_memory()[1] < len(body)
    finally:
        tracemalloc.stop()


def test_an_input_in_the_query() -> None:
    assert fal_submit.given(b"a=1&a=2&a=3&b=&fal_webhook=x&c=x%20y%2B") == {"a": ["1", "2", "3"], "b": "", "c": "x y+"}
