"""A JSON object whose members stay as the bytes that came in, so that relaying changes nothing but what it means to change."""

from __future__ import annotations

import codecs
from typing import Any

import msgspec

from sensorium.errors import BadRequest, SensoriumError, Unprocessable

Members = dict[str, msgspec.Raw]

PIECE = 64 * 1024
_members = msgspec.json.Decoder(Members)


def members(body: bytes) -> Members:
    """Split a JSON object into its top-level members, each still encoded.

    Raises BadRequest when the body is empty, is not JSON, or is JSON but not an object.
    """
    if not body.strip():
        raise BadRequest("the body is empty; send a JSON object")
    try:
        require_utf8(body)
        return _members.decode(body)
    except msgspec.ValidationError:
        raise BadRequest("the body is JSON but not an object; send {...}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is not valid JSON: {error}") from None


def require_utf8(body: bytes) -> None:
    """Raise UnicodeDecodeError, its place within the piece, unless a body is UTF-8.

    Members that nobody decodes here go on as they are, so nobody else would notice. Piece by piece: bodies are large.
    """
    if not body.isascii():
        decoder = codecs.getincrementaldecoder("utf-8")()
        for start in range(0, len(body), PIECE):
            decoder.decode(body[start : start + PIECE])
        decoder.decode(b"", final=True)


def value(found: Members, name: str) -> Any:
    """The decoded member, or None when it is missing. Raises BadRequest when it is not valid JSON inside."""
    raw = found.get(name)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise BadRequest(f"{name}: not valid JSON: {error}", param=name) from None


def text(found: Members, name: str) -> str | None:
    """The member as a string, or None when missing or null. Raises Unprocessable when it is something else."""
    got = value(found, name)
    if got is not None and not isinstance(got, str):
        raise Unprocessable(f"{name} must be a string, not {kind(got)}", param=name)
    return got


def flag(found: Members, name: str) -> bool:
    """The member as a boolean; missing and null are false. Raises Unprocessable when it is something else."""
    got = value(found, name)
    if got is not None and not isinstance(got, bool):
        raise Unprocessable(f"{name} must be true or false, not {kind(got)}", param=name)
    return bool(got)


def encode(found: Members, **changes: Any) -> bytes:
    """The object again, with `changes` set or replaced; every other member is byte for byte what came in."""
    pieces: list[bytes | msgspec.Raw] = []
    for name, raw in {**found, **changes}.items():
        pieces += (b",", msgspec.json.encode(name), b":", raw if isinstance(raw, msgspec.Raw) else msgspec.json.encode(raw))
    # An encoder that grows its buffer would take half as much again as a large body has.
    return b"".join([b"{", *pieces[1:], b"}"])


def kind(got: Any) -> str:
    """What JSON calls this value, for messages."""
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "an array", dict: "an object"}
    return names.get(type(got), "null")


def objects(found: Members, name: str, wrong: type[SensoriumError]) -> list[dict[str, Any]]:
    """A member that is a non-empty array of objects. Raises BadRequest when it is missing, `wrong` when it is anything else."""
    if name not in found:
        raise BadRequest(f"{name} is missing; send a non-empty array of {name}", param=name)
    given = value(found, name)
    if not isinstance(given, list) or not given:
        raise wrong(f"{name} must be a non-empty array", param=name)
    for place, one in enumerate(given):
        if not isinstance(one, dict):
            raise wrong(f"{name}[{place}] must be an object, not {kind(one)}", param=f"{name}[{place}]")
    return given
