"""fal's two shapes of errors: a list of model errors (`detail` is an array) and infrastructure errors (`detail` is a sentence).

Both carry a top-level `message` beside, which JavaScript clients show (fal API page, "Errors"; measured against both clients).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from sensorium.errors import SensoriumError, Unprocessable

DOCS: Final = "https://docs.fal.ai/errors#"
INPUT_SHOWN: Final = 200  # characters of a refused value that are repeated


class Refused(Unprocessable):
    """An input that an app does not take: `details` are its faults, as `detail` builds them, in the order of the app's fields."""

    code = "validation_error"

    def __init__(self, details: Sequence[dict[str, Any]]) -> None:
        super().__init__(sentence(details[0]), param=str(details[0]["loc"][-1]))
        self.details = list(details)


def detail(field: str | Sequence[Any], message: str, kind: str, *, ctx: dict[str, Any] | None = None, **given: Any) -> dict[str, Any]:
    """One fault: `field` below the body (or a whole `loc`), its type, `ctx` of that type; `input=` repeats the value, cut short."""
    loc = ["body", field] if isinstance(field, str) else list(field)
    value = given.get("input")
    shown = {"input": value[:INPUT_SHOWN] if isinstance(value, str) else value} if given else {}
    return {"loc": loc, "msg": message, "type": kind, "url": f"{DOCS}{kind}", **({"ctx": ctx} if ctx else {}), **shown}


def sentence(fault: dict[str, Any]) -> str:
    """A fault as one line, `<field>: <msg>`."""
    return f"{fault['loc'][-1]}: {fault['msg']}"


def error(err: SensoriumError, request_id: str) -> bytes:
    """The whole error body."""
    if isinstance(err, Refused):
        return msgspec.json.encode({"detail": err.details, "message": err.message})
    if isinstance(err, Unprocessable):
        fault = detail(err.param or "body", err.message, "value_error")
        return msgspec.json.encode({"detail": [fault], "message": sentence(fault)})
    status = {"status": "NOT_FOUND"} if err.code == "unknown_request" else {}
    said = f"{err.message} ({err.hint})" if err.hint else err.message
    return msgspec.json.encode({"detail": said, "error_type": err.code, "message": said, "request_id": request_id, **status})
