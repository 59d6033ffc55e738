"""Answers held to a schema, from a question to the text: the engine on a checkpoint whose tokens are bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sensorium.engines.diffusion_vlm import torch_backend
from sensorium.engines.diffusion_vlm.answering import Delta, Finished
from sensorium.engines.diffusion_vlm.ask import Ask
from sensorium.engines.diffusion_vlm.config import read_config
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.orders import ModelOrder
from sensorium.errors import BadRequest
from tests.engines.diffusion_vlm.checkpoints import write_checkpoint

QUESTION = [{"role": "user", "content": [{"type": "text", "text": "what is on the table?"}]}]
SCHEMA = {
    "type": "object",
    "properties": {
        "things": {"type": "array", "items": {"enum": ["cube", "ball", "sign"]}, "minItems": 1, "maxItems": 3},
        "count": {"type": "integer", "minimum": 0, "maximum": 40},
        "said": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}]},
    },
    "required": ["things", "count", "said"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("held") / "held", "other_ids")


@pytest.fixture(scope="module", params=["numpy", "torch", "torch together"])
def engine(request: pytest.FixtureRequest, folder: Path) -> DiffusionVLM:
    if request.param == "numpy":
        return DiffusionVLM.load(folder)
    order = ModelOrder(path=str(folder), device="cpu", slots=4, context=512)
    backend = torch_backend.load(folder, order, together=request.param == "torch together")
    return DiffusionVLM.over(folder, read_config(folder), backend, shared=True)


def answer(engine: DiffusionVLM, **given: Any) -> tuple[str, Finished]:
    ask = Ask(QUESTION, schema=json.dumps(SCHEMA), **{"mode": "auto", "max_tokens": 200, "block_length": 8} | given)
    *deltas, finished = engine.answer(engine.prepare(ask))
    assert isinstance(finished, Finished) and all(isinstance(delta, Delta) for delta in deltas)
    return "".join(delta.text for delta in deltas if isinstance(delta, Delta)), finished


def test_an_answer_of_a_model_of_noise_fits(engine: DiffusionVLM) -> None:
    text, finished = answer(engine)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert (finished.reason, finished.usage.mode) == ("stop", "linear")
    assert (text, "stop", "ar") == ((single := answer(engine, mode="ar"))[0], single[1].reason, single[1].usage.mode)
    assert single[1].usage.completion_tokens == finished.usage.completion_tokens > single[1].usage.write


@pytest.mark.parametrize("seed", range(6))
def test_noise_in_the_choice_keeps_to_the_schema(engine: DiffusionVLM, seed: int) -> None:
    text, finished = answer(engine, temperature=1.5, seed=seed)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert (finished.reason, finished.usage.mode) == ("stop", "ar") and text == answer(engine, temperature=1.5, seed=seed)[0]


def test_noise_makes_different_answers(engine: DiffusionVLM) -> None:
    assert len({answer(engine, temperature=1.5, seed=seed)[0] for seed in range(6)}) > 2


def test_a_cut_answer_says_so_and_is_a_beginning(engine: DiffusionVLM) -> None:
    whole, _ = answer(engine)
    for most in (1, 7, 20):
        text, finished = answer(engine, max_tokens=most)
        assert finished.reason == "length" and whole.startswith(text) and finished.usage.completion_tokens == most


def test_a_stop_string_cuts_it_as_it_cuts_any_text(engine: DiffusionVLM) -> None:
    whole, _ = answer(engine)
    text, finished = answer(engine, stop=('"count"',))
    assert text == whole[: whole.index('"count"')] and finished.reason == "stop"


def test_held_and_free_answers_side_by_side(engine: DiffusionVLM) -> None:
    """Rows of all kinds share forwards: each answer is what it is alone, and those that are held fit."""
    asks = {
        "drafted": Ask(QUESTION, schema=json.dumps(SCHEMA), mode="linear", max_tokens=200, block_length=8),
        "single": Ask(QUESTION, schema=json.dumps(SCHEMA), mode="ar", max_tokens=200),
        "free": Ask(QUESTION, mode="linear", max_tokens=30, block_length=8),
        "blocks": Ask(QUESTION, max_tokens=40, block_length=8),
    }
    alone = {name: "".join(one.text for one in engine.answer(engine.prepare(ask)) if isinstance(one, Delta)) for name, ask in asks.items()}
    waiting, texts = [*asks], dict.fromkeys(asks, "")
    names: dict[int, str] = {}
    while waiting or engine.batch.active:
        while waiting and engine.batch.room:
            name = waiting.pop(0)
            names[id(engine.batch.admit(engine.prepare(asks[name])))] = name
        for step in engine.batch.tick():
            assert step.error is None
            for event in step.events:
                texts[names[id(step.answering)]] += event.text if isinstance(event, Delta) else ""
    assert texts == alone and texts["drafted"] == texts["single"]
    jsonschema.validate(json.loads(texts["drafted"]), SCHEMA)


def test_a_vocabulary_of_words_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    engine = DiffusionVLM.load(write_checkpoint(tmp_path / "words"))
    with pytest.raises(BadRequest, match="vocabulary cannot write"):
        answer(engine)
    assert engine.figures.ticks == 0


def test_what_cannot_be_held_is_refused_before_anything_is_computed(engine: DiffusionVLM) -> None:
    before = engine.figures.ticks
    for given in ({"schema": '{"not": {}}'}, {"mode": "diffusion"}):
        ask = Ask(QUESTION, **{"schema": json.dumps(SCHEMA), "mode": "auto"} | given)  # type: ignore[arg-type]
        with pytest.raises(BadRequest):
            engine.prepare(ask)
    assert engine.figures.ticks == before
