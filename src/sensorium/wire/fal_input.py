"""What an app is given, checked: pydantic models in, fal's list of faults out. The same models describe the input (`fal_openapi`)."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticKnownError

from sensorium.errors import BodyTooLarge, SensoriumError
from sensorium.wire.fal_errors import INPUT_SHOWN, Refused, detail

CALLERS_FAULT: Final = (400, 413, 415, 422)  # statuses of a model's refusal that say that the input is at fault
_KINDS: Final = {
    "content_policy_violation": "content_policy_violation",
    "invalid_model": "feature_not_supported",
}  # fal's types by our codes
_NO_OBJECT: Final = "Input should be a valid dictionary or object to extract fields from"


def _whole(given: Any) -> Any:
    if isinstance(given, bool):
        raise PydanticKnownError("int_type")
    return given


def _real(given: Any) -> Any:
    if isinstance(given, bool):
        raise PydanticKnownError("float_type")
    return given


def _text(given: Any) -> Any:
    if isinstance(given, str) and not given.isascii():
        try:
            given.encode()
        except UnicodeEncodeError:  # half of a pair of surrogates, which no JSON can carry on
            raise PydanticKnownError("string_unicode") from None
    return given


WHOLE: Final = BeforeValidator(_whole)  # after the bounds of an integer; 512.0 and "512" are 512, a boolean is no number
REAL: Final = BeforeValidator(_real)
Text = Annotated[str, BeforeValidator(_text)]
FIRST: Final = Field(fail_fast=True)  # of a list only the first fault is told: a million of them would be a reply of as many objects


class Input(BaseModel):
    """An app's input. Members that it does not name are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class OpenInput(Input):
    """An input whose other members go on to the model as they came."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def more(self, *without: str) -> dict[str, Any]:
        """Those other members."""
        return {name: value for name, value in (self.model_extra or {}).items() if name not in without and value is not None}


Schema = TypeVar("Schema", bound=Input)


def read(schema: type[Schema], given: Any) -> Schema:
    """The input as `schema`; null for what need not be given counts as left out. Raises Refused with every fault, in the schema's order."""
    if not isinstance(given, dict):
        raise Refused([detail(["body"], _NO_OBJECT, "model_attributes_type", **_shown(given))])
    needed = {name for name, field in schema.model_fields.items() if field.is_required()}
    try:
        return schema.model_validate({name: value for name, value in given.items() if value is not None or name in needed})
    except ValidationError as error:
        raise Refused([_fault(one) for one in error.errors(include_url=False)]) from None


def blamed(error: SensoriumError, fields: dict[str, str]) -> SensoriumError:
    """A model's refusal of the input as a fault of this app's field; `fields` are its names for the parameters of the call.

    Any other error stays as it is, also a store's that has no room for what was made.
    """
    if isinstance(error, Refused | BodyTooLarge) or error.status not in CALLERS_FAULT:
        return error
    name = (error.param or "").partition("[")[0].partition(".")[0]
    loc = ["body", fields[name]] if name in fields else ["body"]
    kind = _KINDS.get(error.code, "value_error")
    said = error.message if not error.hint else f"{error.message} ({error.hint})"
    return Refused([detail(loc, said, kind)])


def _fault(one: Any) -> dict[str, Any]:
    loc = ["body", *(part for part in one["loc"] if not str(part).startswith("{"))]  # less the names of a choice's branches
    ctx = {name: _plain(value) for name, value in one.get("ctx", {}).items() if isinstance(value, str | int | float | list)}
    shown = {} if one["type"] == "missing" else _shown(one["input"])
    return detail(loc, one["msg"], one["type"], ctx=ctx or None, **shown)


def _plain(bound: Any) -> Any:
    """0 for 0.0: a bound is written as the message writes it."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _shown(given: Any) -> dict[str, Any]:
    """A value that is repeated to its sender: texts cut short, other large things not at all."""
    if isinstance(given, str):
        return {"input": given[:INPUT_SHOWN].encode("utf-8", "replace").decode()}
    try:
        return {"input": given} if len(msgspec.json.encode(given)) <= INPUT_SHOWN else {}
    except (TypeError, OverflowError, UnicodeEncodeError, RecursionError):
        return {}


def described(text: str, **more: Any) -> Any:
    """A field's words for its description; `more` goes into its schema as it is."""
    return Field(description=text, json_schema_extra=more or None)
