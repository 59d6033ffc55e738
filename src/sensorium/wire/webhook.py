"""A notification of an ended request: its body, and the headers that prove who sent it. Pure; signatures by `cryptography`.

It is signed twice, as fal does and as the Standard Webhooks say, so that receivers written for either take it unchanged (fal's page
"Webhooks"; github.com/standard-webhooks, version 1.0.0).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MOST_BYTES: Final = 1024 * 1024  # of a body; beyond that the receiver is told where the result is
SECRET_PREFIX: Final = "whsec_"
SECRET_BYTES: Final = range(24, 65)  # Standard Webhooks, "Signature scheme"


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a request. `body` is the JSON that its result URL answers, None when it is not kept any more.

    `attempt_id` is the id of its last attempt, `status` the HTTP status of its result. `error` is said of one that is not `ok`; None
    stands for its status in words.
    """

    request_id: str
    attempt_id: str
    ok: bool
    status: int
    body: bytes | None
    error: str | None
    result_url: str


@dataclass(frozen=True, slots=True)
class Sender:
    """Who signs: an Ed25519 key as its 32 bytes, the caller's own `secret` or None, and the caller's name."""

    seed: bytes
    secret: bytes | None
    user_id: str


def notification(ended: Ended) -> bytes:
    """The body of a notification, at most MOST_BYTES of it."""
    told: dict[str, Any] = {"request_id": ended.request_id, "gateway_request_id": ended.attempt_id, "status": "OK" if ended.ok else "ERROR"}
    if not ended.ok:
        told["error"] = ended.error or f"Invalid status code: {ended.status}"
    if ended.body is None:
        gone = {"payload_error": "The result is not kept any more."} if ended.ok else {}
        return msgspec.json.encode({**told, "payload": None, **gone})
    at = f"Fetch the result from {ended.result_url}"
    if len(ended.body) <= MOST_BYTES:
        if not _is_json(ended.body):
            return msgspec.json.encode({**told, "payload": None, "payload_error": f"Response payload is not JSON serializable. {at}"})
        whole = msgspec.json.encode({**told, "payload": msgspec.Raw(ended.body.strip())})
        if len(whole) <= MOST_BYTES:
            return whole
    return msgspec.json.encode({**told, "payload": None, "payload_error": f"Response payload is larger than {MOST_BYTES} bytes. {at}"})


def headers(sender: Sender, request_id: str, webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Both signatures of one try, made at `timestamp`, seconds since the epoch. Receivers refuse them 300 seconds later."""
    key = Ed25519PrivateKey.from_private_bytes(sender.seed)
    digest = hashlib.sha256(body).hexdigest()
    fals = key.sign("\n".join((request_id, sender.user_id, str(timestamp), digest)).encode())
    content = f"{webhook_id}.{timestamp}.".encode() + body
    signatures = [f"v1a,{base64.b64encode(key.sign(content)).decode()}"]
    if sender.secret is not None:
        signatures.append(f"v1,{base64.b64encode(hmac.digest(sender.secret, content, 'sha256')).decode()}")
    return {
        "X-Fal-Webhook-Request-Id": request_id,
        "X-Fal-Webhook-User-Id": sender.user_id,
        "X-Fal-Webhook-Timestamp": str(timestamp),
        "X-Fal-Webhook-Signature": fals.hex(),
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


def jwks(keys: Iterable[tuple[str, bytes]]) -> bytes:
    """The public halves of `keys`, ids and seeds, as a JSON Web Key Set, each key twice.

    First as RFC 8037 has it, without padding, then with: fal's own recipe decodes without adding any, and fails on the first form.
    """
    found = []
    for kid, seed in keys:
        padded = base64.urlsafe_b64encode(public(seed)).decode()
        found += [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid} for x in (padded.rstrip("="), padded)]
    return msgspec.json.encode({"keys": found})


def public(seed: bytes) -> bytes:
    """The 32 bytes of the public key."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def secret_bytes(secret: str) -> bytes:
    """A caller's `whsec_...` as its bytes. Raises ValueError, without repeating it."""
    try:
        found = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        found = b""
    if not secret.startswith(SECRET_PREFIX) or len(found) not in SECRET_BYTES:
        raise ValueError(f"not {SECRET_PREFIX} and the base64 of {SECRET_BYTES[0]} to {SECRET_BYTES[-1]} bytes")
    return found


def _is_json(body: bytes) -> bool:
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    return True
