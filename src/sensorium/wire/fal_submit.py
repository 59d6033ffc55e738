"""What a submission says beside its input: fal's headers and query parameters (fal.md, section 4.2). Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from sensorium.errors import BadRequest
from sensorium.wire.fal_errors import Refused, detail
from sensorium.wire.jsonbody import require_utf8
from sensorium.wire.lifecycle import KEPT, Lifecycle, parse

LEAST_START_S, MOST_START_S = 0.1, 30 * 86_400.0
LONGEST_HINT, LONGEST_KEY, LONGEST_URL, LONGEST_JSON = 256, 255, 4096, 8192  # characters
MOST_RETRIES: Final = 9  # ten runs in all
RETRIED: Final = ("server_error", "timeout", "connection_error")
_PRIORITIES: Final = {"": 0, "normal": 0, "low": 1}
_YES: Final = ("1", "true", "yes")
_PRINTABLE: Final = re.compile(r"[ -~]+")
_PLACE: Final = re.compile(r"\(byte (\d+)\)")
_json, _syntax = msgspec.json.Decoder(), msgspec.json.Decoder(msgspec.Raw)


@dataclass(frozen=True, slots=True)
class Submission:
    """One submission's wishes. `prio` is 1 for low; a run must begin within `start_within_s` seconds; `kept` says whether input and
    result are kept; `retries` caps repeated runs by the class of their failure; `most_waiting` is how many may wait before it."""

    prio: int = 0
    start_within_s: float | None = None
    hint: str = ""
    lifecycle: Lifecycle = KEPT
    kept: bool = True
    no_retry: bool = False
    retries: dict[str, int] = field(default_factory=dict)
    idempotency_key: str | None = None
    webhook_url: str | None = None
    most_waiting: int | None = None


def read(header: Callable[[str], str], query: bytes) -> Submission:
    """`header` gives one by its lower-case name, "" when missing. Raises BadRequest naming the header or parameter that is wrong."""
    asked = parameters(query)
    return Submission(
        prio=_priority(header("x-fal-queue-priority")),
        start_within_s=start_within(header),
        hint=_short("X-Fal-Runner-Hint", header("x-fal-runner-hint"), LONGEST_HINT),
        lifecycle=lifecycle(header),
        kept=header("x-fal-store-io").strip() != "0",
        no_retry=header("x-fal-no-retry").strip().lower() in _YES,
        retries=_retries(header("x-fal-retry-config")),
        idempotency_key=_short("Idempotency-Key", header("idempotency-key"), LONGEST_KEY) or None,
        webhook_url=_webhook(asked.get("fal_webhook", "")),
        most_waiting=_count("fal_max_queue_length", asked.get("fal_max_queue_length", "")),
    )


def parameters(query: bytes) -> dict[str, str]:
    """The query string; of a name that comes twice the last counts."""
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))


def given(query: bytes) -> dict[str, Any]:
    """An input that came in the query string: every value is a string, a name that comes several times a list of them."""
    found: dict[str, Any] = {}
    for name, text in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name.startswith("fal_"):
            continue  # not the app's: tokens, webhooks
        held = found.get(name)
        found[name] = text if held is None else [*(held if isinstance(held, list) else [held]), text]
    return found


def lifecycle(header: Callable[[str], str]) -> Lifecycle:
    """How files of the output live. Raises BadRequest for a header that is malformed."""
    return parse(header("x-fal-object-lifecycle-preference"))


def start_within(header: Callable[[str], str]) -> float | None:
    """The start deadline in seconds. Raises BadRequest."""
    text = header("x-fal-request-timeout").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not LEAST_START_S < seconds <= MOST_START_S:
        raise _wrong("X-Fal-Request-Timeout", text, f"seconds, a number above {LEAST_START_S} and up to {MOST_START_S:.0f}")
    return seconds


def checked(body: bytes) -> bytes:
    """The body as it is, which is a JSON object. Raises Refused; what stands inside is the app's to judge.

    Nothing of it is built: a body of brackets would take thirty times its size, and seconds.
    """
    if bytes(memoryview(_read(_syntax, body))[:1]) != b"{":
        raise _no_object()
    return body


def decoded(body: bytes) -> dict[str, Any]:
    """The body as an object; no body at all is an empty one, as clients leave it out. Raises Refused."""
    found = _read(_json, body) if body else {}
    if not isinstance(found, dict):
        raise _no_object()
    return found


def _read(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        require_utf8(body)
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        place = _PLACE.search(str(error))
        offset = error.start if isinstance(error, UnicodeDecodeError) else int(place[1]) if place else len(body)
        raise Refused([_malformed(str(error), offset)]) from None


def _no_object() -> Refused:
    return Refused([detail(["body"], "Input should be a valid dictionary or object to extract fields from", "model_attributes_type")])


def _malformed(why: str, place: int) -> dict[str, Any]:
    return detail(["body", place], "JSON decode error", "json_invalid", ctx={"error": why[:200]}, input={})


def _priority(text: str) -> int:
    found = _PRIORITIES.get(text.strip().lower())
    if found is None:
        raise _wrong("X-Fal-Queue-Priority", text, "normal or low")
    return found


def _retries(text: str) -> dict[str, int]:
    """fal ignores what it cannot read here, and so do we."""
    try:
        found = _json.decode(text[:LONGEST_JSON].encode("latin-1")) if text else {}
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    if not isinstance(found, dict):
        return {}
    counts = {name: one.get("retries") for name in RETRIED if isinstance(one := found.get(name), dict)}
    return {name: min(count, MOST_RETRIES) for name, count in counts.items() if type(count) is int and count >= 0}


def _webhook(url: str) -> str | None:
    if len(url) > LONGEST_URL:
        raise webhook_refused(url, f"a webhook's URL has at most {LONGEST_URL} characters")
    return url or None


def webhook_refused(url: str, why: str) -> Refused:
    """The refusal of a webhook's URL."""
    return Refused([detail(["query", "fal_webhook"], why, "value_error", input=url)])


def _count(name: str, text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise _wrong(name, text, "a whole number from 0 on")
    return int(text)


def _short(name: str, text: str, most: int) -> str:
    if text and (len(text) > most or not _PRINTABLE.fullmatch(text)):
        raise _wrong(name, text, f"at most {most} printable ASCII characters")
    return text.strip()


def _wrong(name: str, value: str, allowed: str) -> BadRequest:
    shown = "".join(letter if " " <= letter <= "~" else "?" for letter in value[:40])
    return BadRequest(f"{name} is {shown!r}; it takes {allowed}", param=name, code="bad_request")
