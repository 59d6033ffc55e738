"""fal's tokens as bytes: what reads back, and what must not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import BadRequest, Unauthorized
from sensorium.wire.fal_errors import Refused
from sensorium.wire.fal_tokens import Claims, alias, read, wanted, written

KEY, OTHER = bytes(range(32)), bytes(32)
CLAIMS = Claims("bob", ("flux", "vlm"), 1_800_000_120)
NOW = 1_800_000_000.0
TOKEN = written(CLAIMS, KEY)


def test_a_token_is_a_jwt_that_anybody_can_check_with_the_key() -> None:
    head, payload, signature = TOKEN.split(".")
    assert TOKEN.startswith("eyJ")
    assert json.loads(base64.urlsafe_b64decode(head + "==")) == {"alg": "HS256", "typ": "JWT"}
    expected = hmac.new(KEY, f"{head}.{payload}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "=") == expected


@given(st.text(max_size=40), st.lists(st.text(max_size=20), max_size=5), st.integers(1, 2**40))
def test_what_is_written_reads_back(caller: str, apps: list[str], expires_at: int) -> None:
    claims = Claims(caller, tuple(apps), expires_at)
    assert read(written(claims, KEY), KEY, expires_at - 1) == claims


@given(st.integers(0, len(TOKEN) - 1), st.characters(min_codepoint=1, max_codepoint=0x2FF))
def test_a_token_with_any_character_altered_is_refused(place: int, letter: str) -> None:
    altered = TOKEN[:place] + letter + TOKEN[place + 1 :]
    if altered != TOKEN:
        with pytest.raises(Unauthorized):
            read(altered, KEY, NOW)


@pytest.mark.parametrize(
    "token", ["", ".", "..", "eyJ", TOKEN[:-1], TOKEN + "=", TOKEN + ".", f".{TOKEN}", TOKEN.rpartition(".")[0] + ".", "é"]
)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(Unauthorized):
        read(token, KEY, NOW)


def test_a_token_without_a_signature_is_refused_whatever_its_head_says() -> None:
    head = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    with pytest.raises(Unauthorized):
        read(f"{head}.{TOKEN.split('.')[1]}.", KEY, NOW)


def test_another_key_and_the_end_of_its_time_refuse_a_token() -> None:
    with pytest.raises(Unauthorized, match="not signed by this hub"):
        read(TOKEN, OTHER, NOW)
    assert read(TOKEN, KEY, CLAIMS.expires_at - 0.1) == CLAIMS
    with pytest.raises(Unauthorized, match="expired"):
        read(TOKEN, KEY, CLAIMS.expires_at)


def test_a_signed_token_of_another_make_is_refused() -> None:
    head = TOKEN.split(".")[0]
    for payload in (b"{}", b"[]", b"nonsense", b'{"sub":"bob","allowed_apps":5,"exp":1}'):
        signed = head + "." + base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
        signature = hmac.new(KEY, signed.encode(), hashlib.sha256).digest()
        with pytest.raises(Unauthorized, match="cannot be read"):
            read(f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}", KEY, NOW)


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("fal-ai/flux", "flux"),
        ("fal-ai/flux/schnell/sub", "flux"),
        ("workflows/own/flow", "flow"),
        ("comfy/own/flow/realtime", "flow"),
        ("workflows/flow", "flow"),
        ("flux", "flux"),
    ],
)
def test_the_alias_of_an_endpoint(endpoint: str, expected: str) -> None:
    assert alias(endpoint) == expected


@pytest.mark.parametrize(
    ("body", "apps", "seconds"),
    [
        ({"allowed_apps": ["rt"], "token_expiration": 120}, ("rt",), 120),
        ({"allowed_apps": ["rt", "fal-ai/flux"], "duration": 60}, ("rt", "flux"), 60),
        ({"allowed_apps": ["rt"]}, ("rt",), 120),
        ({"allowed_apps": ["rt"], "token_expiration": None}, ("rt",), 120),
    ],
)
def test_what_a_token_is_asked_for(body: object, apps: tuple[str, ...], seconds: float) -> None:
    asked = wanted(json.dumps(body).encode())
    assert (asked.apps, asked.seconds) == (apps, seconds)


@pytest.mark.parametrize(
    ("body", "faults"),
    [
        ({}, [(["body", "allowed_apps"], "missing")]),
        ({"allowed_apps": "rt"}, [(["body", "allowed_apps"], "list_type")]),
        ({"allowed_apps": []}, [(["body", "allowed_apps"], "sequence_too_short")]),
        ({"allowed_apps": ["a"] * 101}, [(["body", "allowed_apps"], "sequence_too_long")]),
        ({"allowed_apps": ["a", 5, "b c"]}, [(["body", "allowed_apps", 1], "value_error"), (["body", "allowed_apps", 2], "value_error")]),
        ({"allowed_apps": ["a"], "token_expiration": 0}, [(["body", "token_expiration"], "greater_than_equal")]),
        ({"allowed_apps": ["a"], "duration": 90_000}, [(["body", "duration"], "less_than_equal")]),
        ({"allowed_apps": ["a"], "token_expiration": "60"}, [(["body", "token_expiration"], "float_type")]),
        ({"token_expiration": True}, [(["body", "allowed_apps"], "missing"), (["body", "token_expiration"], "float_type")]),
    ],
)
def test_all_that_is_wrong_with_a_request_is_told_at_once(body: object, faults: list[tuple[list[object], str]]) -> None:
    with pytest.raises(Refused) as refused:
        wanted(json.dumps(body).encode())
    assert [(one["loc"], one["type"]) for one in refused.value.details] == faults


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b'"rt"'])
def test_a_request_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        wanted(body)
