"""A notification's body and signatures: fal's published recipe, the Standard Webhooks package, and fixed vectors."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from sensorium.wire import webhook
from tests.receivers import fals_recipe, standard_package

SEED = bytes(range(32))
ID = "3f0c9a52-6a0e-4c1b-9a57-2d1f0b7f4e10"
NOW = 1767225600
BODY = f'{{"request_id":"{ID}","gateway_request_id":"{ID}","status":"OK","payload":{{"output":"A dog sits on the grass."}}}}'.encode()
SIGNATURE = (
    "f9f06389e45a7d0726cdfbf2d0a81164ecf4d743ab4ee74204171a83d5f0c2fa824a41f9a30dda3451e18056e9b75bfdf6ed27d265174301ca19faf9bfc5b307"
)
X = "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg"
SECRET = "whsec_" + base64.b64encode(bytes(range(100, 132))).decode()
WEBHOOK_ID = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W"


def ended(body: bytes | None, ok: bool = True, **more: Any) -> webhook.Ended:
    said = {"status": 200 if ok else 422, "error": None, "result_url": "http://hub/fal/queue/a/b/requests/1"} | more
    return webhook.Ended(ID, "attempt-2", ok, body=body, **said)


def signed(body: bytes = BODY, at: int = NOW, secret: str | None = SECRET) -> dict[str, str]:
    sender = webhook.Sender(SEED, webhook.secret_bytes(secret) if secret else None, "acct_7Hq2")
    return webhook.headers(sender, ID, WEBHOOK_ID, at, body)


def keys() -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(webhook.jwks([("first", SEED)]))["keys"]
    return found


def test_the_published_vector() -> None:
    assert len(BODY) == 175
    assert hashlib.sha256(BODY).hexdigest() == "cc8923ef77cb85b4b0b90d2a628aa2ed0a9360daaff7424eface8ed8c85794ce"
    said = signed()
    assert said["X-Fal-Webhook-Signature"] == SIGNATURE
    assert (said["X-Fal-Webhook-Request-Id"], said["X-Fal-Webhook-User-Id"]) == (ID, "acct_7Hq2")
    assert said["X-Fal-Webhook-Timestamp"] == str(NOW)
    assert [key["x"] for key in keys()] == [X, f"{X}="]
    assert {(key["kty"], key["crv"], key["kid"]) for key in keys()} == {("OKP", "Ed25519", "first")}


def test_the_body_of_the_vector_is_what_is_sent_of_such_an_end() -> None:
    made = webhook.notification(webhook.Ended(ID, ID, True, 200, b'{"output":"A dog sits on the grass."}', None, ""))
    assert made == BODY


@pytest.mark.parametrize(("late", "fits"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
def test_fals_recipe_takes_it_within_five_minutes(late: int, fits: bool) -> None:
    assert fals_recipe(signed(), BODY, keys(), NOW + late) is fits


def test_fals_recipe_fails_on_keys_without_padding() -> None:
    """Why each key is there twice: a control of the test above."""
    assert not fals_recipe(signed(), BODY, keys()[:1], NOW)
    assert fals_recipe(signed(), BODY, keys()[1:], NOW)


@pytest.mark.parametrize("name", ["Request-Id", "User-Id", "Timestamp", "Signature"])
def test_fals_recipe_refuses_what_was_altered(name: str) -> None:
    said = signed()
    said[f"X-Fal-Webhook-{name}"] = said[f"X-Fal-Webhook-{name}"].replace("0", "1") + "2"
    assert not fals_recipe(said, BODY, keys(), NOW)
    assert not fals_recipe(signed(), BODY + b" ", keys(), NOW)


@pytest.mark.parametrize(("late", "fits"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
def test_the_standard_webhooks_package_takes_it_within_five_minutes(late: int, fits: bool) -> None:
    assert standard_package(SECRET, signed(), BODY, NOW + late) is fits


def test_the_package_refuses_what_was_altered_or_signed_for_nobody() -> None:
    assert not standard_package(SECRET, signed(), BODY + b" ", NOW)
    assert not standard_package(SECRET, signed() | {"webhook-id": "msg_other"}, BODY, NOW)
    assert not standard_package(SECRET, signed(secret=None), BODY, NOW)


def test_the_asymmetric_signature_is_over_id_time_and_body() -> None:
    scheme, _, signature = signed(secret=None)["webhook-signature"].partition(",")
    assert scheme == "v1a"
    public = Ed25519PublicKey.from_public_bytes(webhook.public(SEED))
    public.verify(base64.b64decode(signature), f"{WEBHOOK_ID}.{NOW}.".encode() + BODY)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(signature), f"{WEBHOOK_ID}.{NOW + 1}.".encode() + BODY)


def test_ends_as_they_are_told() -> None:
    assert json.loads(webhook.notification(ended(b' {"a": 1}\n'))) == {
        "request_id": ID,
        "gateway_request_id": "attempt-2",
        "status": "OK",
        "payload": {"a": 1},
    }
    refused = json.loads(webhook.notification(ended(b'{"detail":[]}', ok=False)))
    assert (refused["status"], refused["error"], refused["payload"]) == ("ERROR", "Invalid status code: 422", {"detail": []})
    cancelled = json.loads(webhook.notification(ended(None, ok=False, error="Request cancelled", status=499)))
    assert (cancelled["error"], cancelled["payload"], "payload_error" in cancelled) == ("Request cancelled", None, False)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"\x89PNG", "not JSON serializable. Fetch the result from http://hub/fal/queue/a/b/requests/1"),
        (b"", "not JSON serializable"),
        (b'{"a": NaN}', "not JSON serializable"),
        (b'"\xff"', "not JSON serializable"),
        (b"[" * 100_000, "not JSON serializable"),
        (b'"' + b"a" * webhook.MOST_BYTES + b'"', "larger than 1048576 bytes. Fetch the result from http://hub/fal"),
        (None, "not kept"),
    ],
)
def test_what_cannot_be_in_a_notification_is_said(body: bytes | None, why: str) -> None:
    told = json.loads(webhook.notification(ended(body)))
    assert told["status"] == "OK"
    assert told["payload"] is None
    assert why in told["payload_error"]


@given(st.integers(-200, 10))
def test_no_body_is_larger_than_its_cap(over: int) -> None:
    around = len(webhook.notification(ended(b"")).partition(b',"payload')[0]) + len(b',"payload":}')
    result = b'"' + b"a" * (webhook.MOST_BYTES + over - 2) + b'"'
    made = webhook.notification(ended(result))
    assert len(made) <= webhook.MOST_BYTES
    assert ("payload_error" in json.loads(made)) is (around + len(result) > webhook.MOST_BYTES)


@pytest.mark.parametrize("wrong", ["", "whsec_", SECRET[6:], "whsec_not base64", "whsec_" + base64.b64encode(b"short").decode()])
def test_a_secret_that_is_none_is_refused_unrepeated(wrong: str) -> None:
    with pytest.raises(ValueError, match="24 to 64 bytes") as caught:
        webhook.secret_bytes(wrong)
    assert not wrong[6:] or wrong[6:] not in str(caught.value)
