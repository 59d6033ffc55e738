"""The OpenAPI description of an engine process: its doors in fal's and in OpenAI's dialect, and the models behind them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sensorium import __version__
from sensorium.engines.chat import PICTURES, STOPS
from sensorium.engines.diffusion_vlm.ask import HOTTEST, LARGEST_SEED, MODES
from sensorium.engines.diffusion_vlm.schedule import BLOCK_LENGTH, DEFAULT_STEPS, MAX_TOKENS, STEPS
from sensorium.engines.hosted import Hosted
from sensorium.wire import fal_openapi
from sensorium.wire.fal_vlm import NemotronDiffusionVLMInput, NemotronDiffusionVLMOutput

_TEXT: Final[dict[str, Any]] = {"type": "string"}
_OBJECT: Final[dict[str, Any]] = {"type": "object"}
_JSON: Final = "application/json"


def described(hosted: Sequence[Hosted], base_url: str) -> dict[str, Any]:
    """The whole document; `base_url` is the engine's, without a slash at the end."""
    seeing = [one for one in hosted if one.modality == "chat"]
    given, made = NemotronDiffusionVLMInput, NemotronDiffusionVLMOutput
    paths: dict[str, Any] = {}
    for door in [("", "")] * bool(seeing) + [(f"/{name}", f"_{name}") for one in seeing for name in one.names]:
        below, named = door
        paths[f"/run{below}"] = fal_openapi.call(f"run{named}", given, made)
        paths[f"/stream{below}"] = fal_openapi.call(f"stream{named}", given, made, streams=True)
    if seeing:
        paths["/v1/chat/completions"] = {"post": _chat()}
    for name in [name for one in hosted if one.modality == "image" for name in one.names]:
        paths[f"/v1/genai/{name}"] = {"post": _draw(name)}
    schemas = fal_openapi.parts(given, made) | {"ChatBody": _body([name for one in seeing for name in one.names]), "DrawBody": _wish()}
    return {
        "openapi": fal_openapi.VERSION,
        "info": {"title": "Sensorium engine", "version": __version__, "description": _models(hosted)},
        "servers": [{"url": base_url}],
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}, "schemas": schemas},
        "security": [{"token": []}],
    }


def _models(hosted: Sequence[Hosted]) -> str:
    return "\n".join(f"{one.name}: {one.kind}, {one.place}" for one in hosted)


def _chat() -> dict[str, Any]:
    events = {"text/event-stream": {"schema": _TEXT}}
    whole = {_JSON: {"schema": _OBJECT}}
    answers = {"200": {"description": "A chat completion, or the chunks of one.", "content": whole | events}}
    return {"operationId": "chat", "requestBody": _given("ChatBody"), "responses": answers}


def _draw(name: str) -> dict[str, Any]:
    answers = {"200": {"description": "The picture in base64, and its seed.", "content": {_JSON: {"schema": _OBJECT}}}}
    return {"operationId": f"draw_{name}", "requestBody": _given("DrawBody"), "responses": answers}


def _given(name: str) -> dict[str, Any]:
    return {"required": True, "content": {_JSON: {"schema": {"$ref": f"#/components/schemas/{name}"}}}}


def _body(names: Sequence[str]) -> dict[str, Any]:
    """OpenAI's chat body, as far as it has an effect, and what this kind of model takes beyond it."""
    stops = {"type": "array", "items": _TEXT, "maxItems": STOPS}
    members = {
        "model": {"type": "string", "enum": ["*", *names]},
        "messages": {"type": "array", "items": _OBJECT, "description": f"With at most {PICTURES} pictures, as image_url parts."},
        "stream": {"type": "boolean", "default": False},
        "stream_options": _OBJECT,
        "max_tokens": _whole(MAX_TOKENS, 512),
        "max_completion_tokens": _whole(MAX_TOKENS),
        "stop": {"oneOf": [_TEXT, stops]},
        "temperature": {"type": "number", "minimum": 0, "maximum": HOTTEST, "default": 0},
        "seed": _whole((0, LARGEST_SEED)),
        "mode": {"type": "string", "enum": list(MODES), "default": MODES[0]},
        "block_length": _whole(BLOCK_LENGTH, 32),
        "num_inference_steps": {**_whole(STEPS), "description": f"Over all blocks; {DEFAULT_STEPS}, rounded up to a multiple of them."},
        "response_format": {**_OBJECT, "description": "OpenAI's: text, json_object, or json_schema, which the answer is held to."},
        "threshold": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.9, "nullable": True},
    }
    return {"type": "object", "required": ["messages"], "properties": members}


def _wish() -> dict[str, Any]:
    members = {
        "prompt": _TEXT,
        "seed": _whole((0, 2**32 - 1)),
        "steps": {"type": "integer", "minimum": 1},
        "cfg_scale": {"type": "number", "minimum": 0},
        "width": {"type": "integer", "minimum": 1},
        "height": {"type": "integer", "minimum": 1},
        "output_format": {"type": "string", "enum": ["jpeg", "png"], "default": "jpeg"},
    }
    return {"type": "object", "required": ["prompt"], "properties": members}


def _whole(span: tuple[int, int], default: int | None = None) -> dict[str, Any]:
    return {"type": "integer", "minimum": span[0], "maximum": span[1], **({} if default is None else {"default": default})}
