"""How long a stored file lives and who may read it: the JSON of `X-Fal-Object-Lifecycle[-Preference]`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from sensorium.errors import BadRequest

Decision = Literal["allow", "forbid", "hide"]
DECISIONS: Final = ("allow", "forbid", "hide")
LONGEST_S: Final = 100 * 365 * 86_400
LONGEST_HEADER, MOST_RULES, LONGEST_USER = 4096, 64, 200
_MEMBERS: Final = {"expiration_duration_seconds": "a number of seconds or null", "initial_acl": "{default, rules}"}


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """`expires_s` seconds from its making on (None: as long as the hub keeps files); `acl` is `initial_acl` as it was given."""

    expires_s: float | None = None
    acl: dict[str, Any] | None = None


KEPT = Lifecycle()  # of a caller who said nothing


def parse(text: str) -> Lifecycle:
    """The header's value; "" is `KEPT`. Members that it does not know are left alone, as fal adds some.

    Raises BadRequest that says what is wrong.
    """
    if not text:
        return KEPT
    if len(text) > LONGEST_HEADER:
        raise _bad(f"it has {len(text)} characters; at most {LONGEST_HEADER} are read")
    try:
        given = msgspec.json.decode(text.encode("latin-1", "replace"))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _bad(f"it is not valid JSON: {error}") from None
    if not isinstance(given, dict):
        raise _bad("it is JSON but not an object")
    return Lifecycle(_seconds(given.get("expiration_duration_seconds")), _acl(given.get("initial_acl")))


def decision(acl: Mapping[str, Any] | None, user: str) -> Decision:
    """What `acl` says of a user: the first rule that names them, else its default, else allow: the link itself is the right."""
    given: Any = acl or {}
    named = (rule["decision"] for rule in given.get("rules") or () if rule["user"] == user)
    said: Decision = next(named, given.get("default") or "allow")
    return said


def _seconds(given: Any) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise _bad("expiration_duration_seconds must be a number of seconds or null")
    if not 0 < given <= LONGEST_S:
        raise _bad(f"expiration_duration_seconds is {given}; it must be above 0 and at most {LONGEST_S}")
    return float(given)


def _acl(given: Any) -> dict[str, Any] | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        raise _bad("initial_acl must be an object with default and rules")
    default, rules = given.get("default"), given.get("rules")
    if default is not None:
        _check_decision(default, "initial_acl.default")
    if rules is not None and (not isinstance(rules, list) or len(rules) > MOST_RULES):
        raise _bad(f"initial_acl.rules must be an array of at most {MOST_RULES} rules")
    for place, rule in enumerate(rules or ()):
        where = f"initial_acl.rules[{place}]"
        if not isinstance(rule, dict) or not isinstance(rule.get("user"), str) or not 0 < len(rule["user"]) <= LONGEST_USER:
            raise _bad(f"{where} must be an object with user, a name of at most {LONGEST_USER} characters, and decision")
        _check_decision(rule.get("decision"), f"{where}.decision")
    said = {"default": default, "rules": rules}
    return {name: one for name, one in said.items() if one is not None} or None


def _check_decision(given: Any, where: str) -> None:
    if given not in DECISIONS:
        raise _bad(f"{where} must be one of {', '.join(DECISIONS)}")


def _bad(what: str) -> BadRequest:
    form = ", ".join(f'"{name}": {takes}' for name, takes in _MEMBERS.items())
    return BadRequest(f"the object lifecycle cannot be read: {what}", param="X-Fal-Object-Lifecycle", hint=f"send {{{form}}}")
