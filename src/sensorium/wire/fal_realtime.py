"""The frames of fal's realtime websockets: inputs and results are msgpack maps in binary frames, all else is JSON in text frames.

What went wrong is always an `x-fal-error`, also a fault of an input (then with the `detail` of a 422): both clients take any other text
for a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sensorium.errors import BadRequest, SensoriumError, Unauthorized, UpstreamRefused
from sensorium.wire.fal_errors import Refused, detail

BUFFERING: Final = range(1, 61)  # of `max_buffering`, as the clients allow it
OBJECT: Final = "Input should be a valid dictionary or object to extract fields from"
_PLAIN: Final = (str, int, float, bool, type(None))


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
    """Without recursion: how deep it goes is the caller's choice."""
    left: list[tuple[tuple[Any, ...], Any]] = [(("body",), found)]
    while left:
        loc, value = left.pop()
        if isinstance(value, dict):
            for name, inner in value.items():
                if not isinstance(name, str):
                    raise Refused([detail(loc, "Keys should be strings", "invalid_key")])
                left.append(((*loc, name), inner))
        elif isinstance(value, list):
            left += [((*loc, place), inner) for place, inner in enumerate(value)]
        elif isinstance(value, bytes):
            raise Refused([detail(loc, "Input should not be raw bytes; send a file as a data: URI or by its URL", "value_error")])
        elif not isinstance(value, _PLAIN):
            raise Refused([detail(loc, "Input should be a value that JSON has", "value_error")])
