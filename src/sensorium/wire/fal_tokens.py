"""fal's short-lived tokens, for whoever cannot send a header (a browser's websocket): a JWT with HMAC-SHA256, and the request for one.

The token says for which caller it speaks, to which apps, and until when (fal's documentation, "Real-time API", and both clients).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from sensorium.errors import Unauthorized
from sensorium.wire import jsonbody
from sensorium.wire.fal_errors import Refused, detail

LIFETIME_S: Final = 120  # what both clients ask for
LONGEST_S: Final = 86_400
MOST_APPS: Final = 100
LONGEST_TOKEN: Final = 16_384  # characters
NAMESPACES: Final = ("workflows", "comfy")
EXPIRATION: Final = ("token_expiration", "duration")  # the clients' name, and that of fal's page of /tokens/realtime
HINT: Final = "ask for a new one with POST /fal/rest/tokens/"
_HEADER: Final = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
_ALIAS: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")


@dataclass(frozen=True, slots=True)
class Claims:
    """Who may call which apps, by their aliases, before `expires_at` (seconds since the epoch)."""

    caller: str
    apps: tuple[str, ...]
    expires_at: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a token is asked for: aliases, and seconds."""

    apps: tuple[str, ...]
    seconds: float


def alias(endpoint: str) -> str:
    """The alias in `[namespace/]owner/alias[/path]`; of a name without a slash the name itself, as tokens are asked for."""
    parts = endpoint.strip("/").split("/")
    if len(parts) > 2 and parts[0] in NAMESPACES:
        parts = parts[1:]
    return parts[1] if len(parts) > 1 else parts[0]


def wanted(body: bytes) -> Wanted:
    """The request for a token. Raises BadRequest when it is not JSON, `Refused` with all that is wrong with its fields."""
    found = jsonbody.members(body)
    faults: list[dict[str, Any]] = []
    apps = _apps(jsonbody.value(found, "allowed_apps"), "allowed_apps" in found, faults)
    name = next((name for name in EXPIRATION if name in found), EXPIRATION[0])
    seconds = _seconds(name, jsonbody.value(found, name), faults)
    if faults:
        raise Refused(faults)
    return Wanted(apps, seconds)


def written(claims: Claims, key: bytes) -> str:
    """The token."""
    told = {"sub": claims.caller, "allowed_apps": claims.apps, "exp": claims.expires_at}
    signed = _HEADER + b"." + _encoded(msgspec.json.encode(told))
    return (signed + b"." + _encoded(_signature(signed, key))).decode()


def read(token: str, key: bytes, now: float) -> Claims:
    """The claims of a token. Raises Unauthorized when it is none of ours, was altered, or has expired; nothing in it counts before that."""
    signed, _, signature = token.rpartition(".")
    if len(token) > LONGEST_TOKEN or not token.isascii() or signed.count(".") != 1:
        raise Unauthorized("this is not a token of this hub", hint=HINT)
    # The text is compared, not what it decodes to: base64 has several spellings of the same bytes.
    if not hmac.compare_digest(_encoded(_signature(signed.encode(), key)), signature.encode()):
        raise Unauthorized("this token was not signed by this hub, or was altered", hint=HINT)
    claims = _claims(signed)
    if now >= claims.expires_at:
        raise Unauthorized("this token has expired", hint=HINT)
    return claims


def _claims(signed: str) -> Claims:
    payload = signed.partition(".")[2]
    try:
        told = msgspec.json.decode(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return Claims(told["sub"], tuple(told["allowed_apps"]), int(told["exp"]))
    except (binascii.Error, msgspec.DecodeError, KeyError, TypeError, ValueError):  # signed by a hub of another version
        raise Unauthorized("this token cannot be read", hint=HINT) from None


def _signature(signed: bytes, key: bytes) -> bytes:
    return hmac.new(key, signed, hashlib.sha256).digest()


def _encoded(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _apps(given: Any, there: bool, faults: list[dict[str, Any]]) -> tuple[str, ...]:
    if not there:
        faults.append(detail("allowed_apps", "Field required", "missing"))
        return ()
    if not isinstance(given, list):
        faults.append(detail("allowed_apps", "Input should be a valid list", "list_type", input=given))
        return ()
    if not given:
        faults.append(detail("allowed_apps", "List should have at least 1 item", "sequence_too_short", ctx={"min_length": 1}))
    if len(given) > MOST_APPS:
        faults.append(
            detail("allowed_apps", f"List should have at most {MOST_APPS} items", "sequence_too_long", ctx={"max_length": MOST_APPS})
        )
        return ()
    apps = []
    for place, name in enumerate(given):
        short = alias(name) if isinstance(name, str) else ""
        if not _ALIAS.fullmatch(short):
            faults.append(detail(("body", "allowed_apps", place), "Input should be the alias of an app", "value_error", input=name))
        apps.append(short)
    return tuple(apps)


def _seconds(name: str, given: Any, faults: list[dict[str, Any]]) -> float:
    if given is None:
        return LIFETIME_S
    if isinstance(given, bool) or not isinstance(given, int | float):
        faults.append(detail(name, "Input should be a valid number", "float_type", input=given))
        return LIFETIME_S
    if given < 1:
        message = "Input should be greater than or equal to 1"
        faults.append(detail(name, message, "greater_than_equal", ctx={"ge": 1}, input=given))
    if given > LONGEST_S:
        message = f"Input should be less than or equal to {LONGEST_S}"
        faults.append(detail(name, message, "less_than_equal", ctx={"le": LONGEST_S}, input=given))
    return given
