"""The frames of fal's realtime websockets: inputs and results are msgpack maps in binary frames, all else is JSON in text frames.

What went wrong is always an `x-fal-error`, also a fault of an input (then with the `detail` of a 422): both clients take any other text
for a result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from sensorium.errors import BadRequest, SensoriumError, Unauthorized, UpstreamRefused
from sensorium.wire.fal_errors import Refused, detail

BUFFERING: Final = range(1, 61)  # of `max_buffering`, as the clients allow it
OBJECT: Final = "Input should be a valid dictionary or object to extract fields from"
_PLAIN: Final = (str, int, float, bool, type(None))
_BYTES: Final = "Input should not be raw bytes; send a file as a data: URI or by its URL"
_NO_JSON: Final = "Input should be a value that JSON has"


def input_of(frame: bytes) -> dict[str, Any]:
    """The input in a binary frame, as JSON would hold it.

    Raises BadRequest when it is not msgpack, `Refused` when it is not a map or holds what JSON has no form for.
    """
    try:
        found = msgspec.msgpack.decode(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError, TypeError) as error:
        raise BadRequest(f"the message is not valid msgpack: {error}") from None
    if not isinstance(found, dict):
        raise Refused([detail(("body",), OBJECT, "model_attributes_type")])
    _require_plain(found)
    return found


def output(body: dict[str, Any]) -> bytes:
    """A result as a binary frame."""
    return msgspec.msgpack.encode(body)


def told(error: SensoriumError, request_id: str) -> str:
    """An error as a text frame. Of an unknown caller in both ways of saying it: JavaScript looks at `status`, Python at `type`."""
    said: dict[str, Any] = {"type": "x-fal-error", "error": error.code.upper(), "reason": _reason(error), "request_id": request_id}
    if isinstance(error, Unauthorized):
        said |= {"status": "error", "error": "Unauthorized"}
    if isinstance(error, Refused):
        said["detail"] = error.details
    if isinstance(error, UpstreamRefused):
        said["source"] = error.source
    return msgspec.json.encode(said).decode()


def timings(seconds: float, request_id: str, headers: Mapping[str, str]) -> str:
    """What follows a result, and both clients pass over: how long it took, and what the headers of a reply would have told of it."""
    said = {"type": "x-fal-message", "action": "timings", "timing": round(seconds, 3), "request_id": request_id, "headers": headers}
    return msgspec.json.encode(said).decode()


def idle(seconds: float) -> str:
    """The last frame of a connection on which nothing came for a while. JavaScript ignores it and connects again when it must."""
    reason = f"nothing came for {seconds:g} seconds"
    return msgspec.json.encode({"type": "x-fal-error", "error": "TIMEOUT", "reason": reason}).decode()


def _reason(error: SensoriumError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _require_plain(found: dict[str, Any]) -> None:
    """Without recursion, and holding no more than the way to one value: how deep and how wide it goes is the caller's choice."""
    way: list[str | int] = ["body"]
    levels = [_inside(found, way)]
    while levels:
        for name, value in levels[-1]:
            if isinstance(value, dict | list):
                way.append(name)
                levels.append(_inside(value, way))
                break
            if not isinstance(value, _PLAIN):
                raise Refused([detail([*way, name], _BYTES if isinstance(value, bytes) else _NO_JSON, "value_error")])
        else:
            levels.pop()
            way.pop()


def _inside(found: dict[Any, Any] | list[Any], way: Sequence[str | int]) -> Iterator[tuple[Any, Any]]:
    """What a map or a list holds, by its name or place."""
    if isinstance(found, list):
        return iter(enumerate(found))
    if not all(isinstance(name, str) for name in found):
        raise Refused([detail(way, "Keys should be strings", "invalid_key")])
    return iter(found.items())
