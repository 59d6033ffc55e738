"""What an upstream's error reply means, whatever dialect it is written in: parsed by content, never by its content type.

The rules are those of NVIDIA's hosted service, where outages wear a 400 and client faults a 500, of OpenAI's API and fal's; the classes and
what is done about each are listed on docs/routing.md. Account ids and anything that looks like a key are cut out of messages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

FailureClass = Literal[
    "quota_exhausted", "rate_limited", "auth", "provider_outage", "model_unavailable", "transport", "semantic", "overtaken"
]
"""`overtaken` is no failure of the route: another one answered first, or the call ended. No reply is ever understood as that."""

LONGEST: Final = 600  # characters of an upstream's message that go on to the caller
DEEPEST: Final = 5  # levels of an error body that are looked at
_BY_STATUS: Final[dict[int, FailureClass]] = {
    401: "auth", 402: "quota_exhausted", 403: "auth", 404: "model_unavailable", 408: "provider_outage", 410: "model_unavailable",
    425: "provider_outage", 429: "rate_limited",
}  # fmt: skip
# (status or None for any, text in lower case, class): the first that fits counts, before the status alone
_BY_TEXT: Final[tuple[tuple[int | None, str, FailureClass], ...]] = (
    (400, "degraded function", "provider_outage"),
    (None, "resourceexhausted", "provider_outage"),
    (500, "failed to decode json body", "semantic"),
    (403, "not shared with the account", "model_unavailable"),
    (429, "insufficient_quota", "quota_exhausted"),
    (None, "cloud credits expired", "quota_exhausted"),
    (400, "credit balance is too low", "quota_exhausted"),
    (403, "exhausted balance", "quota_exhausted"),
)
# what fal calls the first fault in its list, where the status alone would mislead; and the names that callers know, too
_BY_TYPE: Final[dict[str, FailureClass]] = {"downstream_service_error": "provider_outage"}
_KNOWN_CODES: Final = ("content_policy_violation",)
_SECRETS: Final = re.compile(r"\b(?:nvapi-|sk-|Bearer\s+|Key\s+|fal[-_]|ngc[-_])[A-Za-z0-9_\-.:+/=]{6,}|\b[A-Za-z0-9_\-]{40,}\b")
_ACCOUNT: Final = re.compile(r"(?i)\b(account|organization|org|project|team)(\s+(?:id\s+)?)(['\"]?)[\w.\-]{3,}\3")


@dataclass(frozen=True, slots=True)
class Failure:
    """One error reply, understood: its class, the upstream's status, its own words, cleaned, in one line, and the machine-readable
    `code` and `param` that OpenAI's shape has."""

    kind: FailureClass
    status: int
    message: str
    code: str | None = None
    param: str | None = None


def understand(status: int, body: bytes) -> Failure:
    """The failure that a reply of status >= 400 tells."""
    told = _decoded(body)
    words = _told(told, DEEPEST)
    lower = words.lower()
    by_text = (kind for wanted, text, kind in _BY_TEXT if wanted in (None, status) and text in lower)
    type = _first_type(told)
    by_status = _BY_STATUS.get(status, "provider_outage" if status >= 500 else "semantic")
    kind = next(by_text, _BY_TYPE.get(type, by_status))
    error = told.get("error") if isinstance(told, dict) else None
    inner: dict[str, Any] = error if isinstance(error, dict) else {}
    code = _name(inner.get("code")) or (type if type in _KNOWN_CODES else None)
    return Failure(kind, status, clean(words), code, _name(inner.get("param")))


def clean(words: str) -> str:
    """One line of bounded length without keys, account names and control characters."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())
    line = _SECRETS.sub("[removed]", line)
    line = _ACCOUNT.sub(lambda found: f"{found[1]}{found[2]}[removed]", line)
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body.decode("utf-8", "replace")
        return "" if text.lstrip()[:1] == "<" else text  # a proxy's web page says nothing to a caller


def _first_type(told: Any) -> str:
    """The type of the first item of a validation error, "" where there is none."""
    listed = told.get("detail") if isinstance(told, dict) else None
    first = listed[0] if isinstance(listed, list) and listed else None
    return str(first.get("type", "")) if isinstance(first, dict) else ""


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_.\[\]-]{1,64}", value) else None


def _told(value: Any, deep: int) -> str:
    """The sentence in an error body of any of the known shapes, looking at most `deep` levels down."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and deep:
        return "; ".join(part for part in (_told(one, deep - 1) for one in value[:5]) if part)
    if not isinstance(value, dict) or not deep:
        return ""
    if isinstance(value.get("msg"), str):
        return _placed(value["msg"], value.get("loc"))
    for name in ("error", "detail", "message", "title"):
        said = _told(value.get(name), deep - 1)
        if said:
            code = value.get("code") or value.get("type")
            return f"{said} ({code})" if name == "message" and isinstance(code, str) and code not in said else said
    return ""


def _placed(message: str, place: Any) -> str:
    """One item of a validation error: where, and what."""
    where = ".".join(str(part) for part in place if part != "body") if isinstance(place, list) else ""
    return f"{where}: {message}" if where else message
