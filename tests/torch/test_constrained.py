"""Decoding within a grammar against a slow reference that asks for one token at a time and recomputes everything for each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sensorium.engines.diffusion_vlm.constrained import AT_ONCE, constrain, constrain_singly
from sensorium.engines.diffusion_vlm.decode import PREFILL_CHUNK, Decoding, Request, autoregress, speculate, stream
from sensorium.engines.diffusion_vlm.numpy_model import NumpyModel, gumbel
from sensorium.engines.diffusion_vlm.rows import Answer, Row
from sensorium.engines.diffusion_vlm.text import StopStrings, TextStream
from sensorium.errors import BadRequest
from tests.engines.diffusion_vlm.checkpoints import random_weights
from tests.engines.diffusion_vlm.toys import HashModel, ScriptModel
from tests.torch.schemas import SCHEMAS, VOCAB, accepted, allowed_after, config, grammars, ids_of, special, text_of, tokenizer

PROMPT = [40, 41, 42, 43]
(END,) = config().ends
OPENERS = {"type": "object", "properties": {"name": {"type": "string"}, "count": {"type": "integer"}}, "required": ["name", "count"]}
CLOSED = OPENERS | {"additionalProperties": False}


class Writer(HashModel):
    """A model of noise that likes to close what it has opened."""

    def logits(self, state: NDArray[np.uint64]) -> NDArray[np.float64]:
        out = super().logits(state)
        out[:, [id for id in range(tokenizer().get_vocab_size()) if set(text_of([id])) & set('"}]')]] += self.gain / 3
        return out


def writer(seed: int, gain: float = 6.0, end_bias: float = 3.0) -> Writer:
    return Writer(seed, VOCAB, config().mask, config().ends, gain, end_bias)


def run(
    forward: Any, schema: Any, max_tokens: int, program: Callable[..., Any], prompt: Sequence[int] = PROMPT, **more: Any
) -> tuple[list[int], str | None, Decoding]:
    grammar = grammars().compile(json.dumps(schema))
    request = Request(prompt, max_tokens, config().mask, config().ends, **more)
    decoding = Decoding(request, partial(program, grammar=grammar))
    blocks = list(stream(decoding, forward, lambda: False))
    assert [token for block in blocks for token in block] == decoding.tokens
    return decoding.tokens, decoding.finish, decoding


def slow(best: Callable[[list[int], set[int]], int], schema: Any, max_tokens: int) -> tuple[list[int], str]:
    """One token after the other; `best` picks it from the allowed ones."""
    out: list[int] = []
    while len(out) < max_tokens:
        out.append(best(out, allowed_after(json.dumps(schema), out)))
        if out[-1] in config().ends:
            return out, "stop"
    return out, "length"


def greedy(model: HashModel) -> Callable[[list[int], set[int]], int]:
    """The best allowed id by a pass over the whole sequence, without a cache."""

    def best(out: list[int], allowed: set[int]) -> int:
        tokens = [*PROMPT, *out]
        logits = model.sees(tokens, np.tril(np.ones((len(tokens), len(tokens)), bool)))[-1]
        return max(sorted(allowed), key=lambda id: logits[id])

    return best


def check_answer(schema: Any, tokens: Sequence[int], finish: str | None) -> None:
    """What has ended fits; what was cut off could have gone on."""
    assert not (set(tokens) & special()) - config().ends
    if finish == "stop":
        assert tokens[-1] == END
        jsonschema.validate(json.loads(text_of(tokens)), schema)
    else:
        assert finish == "length" and END not in tokens and accepted(json.dumps(schema), tokens)


@settings(max_examples=50)
@given(SCHEMAS, st.integers(0, 2**32), st.sampled_from([1, 2, 5, 8, 40]), st.integers(1, 60))
def test_all_ways_give_the_slow_reference_and_what_fits(schema: Any, seed: int, length: int, max_tokens: int) -> None:
    model = writer(seed)
    wanted = slow(greedy(model), schema, max_tokens)
    check_answer(schema, *wanted)
    drafted = run(model.forward, schema, max_tokens, partial(constrain, length=length))
    single = run(model.forward, schema, max_tokens, constrain_singly)
    assert drafted[:2] == wanted and single[:2] == wanted
    counts = single[2].counts
    assert counts.draft == counts.verify == counts.denoise == 0 and counts.write <= len(wanted[0])


@pytest.mark.parametrize("seed", range(8))
def test_answers_of_many_tokens(seed: int) -> None:
    """Open strings and any object: nothing is known beforehand."""
    for schema in (CLOSED, {"type": "object"}):
        model = writer(seed)
        wanted = slow(greedy(model), schema, 60)
        check_answer(schema, *wanted)
        assert run(model.forward, schema, 60, partial(constrain, length=16))[:2] == wanted
        assert run(model.forward, schema, 60, constrain_singly)[:2] == wanted


@lru_cache
def checkpoint(seed: int) -> NumpyModel:
    model = NumpyModel(config(), random_weights(config(), seed))
    model.reserve(1, 256)
    return model


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_a_checkpoint_of_noise_writes_what_fits(seed: int, temperature: float) -> None:
    names, counts = {"enum": ["red", "reddish", "blue"]}, {"type": "integer", "minimum": -5, "maximum": 999}
    model, schema = checkpoint(seed), CLOSED | {"properties": {"name": names, "count": counts}}

    def best(out: list[int], allowed: set[int]) -> int:
        tokens = [*PROMPT, *out]
        logits = model.logits(Row(0, 0, tokens, True, True))[0]
        if temperature:
            logits = logits / np.float32(temperature) + gumbel(seed, len(tokens), VOCAB)
        return max(sorted(allowed), key=lambda id: logits[id])

    wanted = slow(best, schema, 60)
    assert wanted[1] == "stop"
    check_answer(schema, *wanted)
    asked = {"temperature": temperature, "seed": seed}
    assert run(model.forward, schema, 60, constrain_singly, **asked)[:2] == wanted
    if not temperature:
        assert run(model.forward, schema, 60, partial(constrain, length=8))[:2] == wanted


def scripted(said: str, early: str | None = None) -> ScriptModel:
    drafts = None if early is None else [*ids_of(early), END]
    return ScriptModel(len(PROMPT), [*ids_of(said), END], VOCAB, config().mask, config().ends, drafts)


def test_what_the_model_would_have_said_anyway_comes_in_few_forwards() -> None:
    said = '{"name": "a red cube", "count": 17}'
    tokens, finish, decoding = run(scripted(said).forward, CLOSED, 64, partial(constrain, length=32))
    assert (text_of(tokens), finish) == (said, "stop")
    counts = decoding.counts
    assert (counts.prefill, counts.draft, counts.verify, counts.evaluations) == (1, 1, 1, 3)
    _, _, single = run(scripted(said).forward, CLOSED, 64, constrain_singly)
    assert single.tokens == tokens and 3 < single.counts.evaluations < len(tokens)
    free = Decoding(Request(PROMPT, 64, config().mask, config().ends), autoregress)
    list(stream(free, scripted(said).forward, lambda: False))
    assert free.tokens == tokens and free.counts.evaluations == len(tokens)


def test_where_all_is_allowed_the_costs_are_those_of_free_speculation() -> None:
    """Text that stays within an open string: nothing forced, nothing forbidden."""
    said, early = '{"any": "abcdefghijklmnopqrstuvwxyz"}', '{"any": "abcdefghiJklmnopqrsTuvwxyz"}'
    _, _, held = run(scripted(said, early).forward, {"type": "object"}, 25, partial(constrain, length=8))
    free = Decoding(Request(PROMPT, 25, config().mask, config().ends), partial(speculate, length=8))
    list(stream(free, scripted(said, early).forward, lambda: False))
    assert held.tokens == free.tokens and held.counts == free.counts


def test_a_draft_is_cut_where_the_grammar_forbids_it() -> None:
    """The draft chats; the answer is what the causal head says among what is allowed."""
    said, early = '{"name":"x","count":5}', 'Sure! Here is the JSON that you asked for: {"name"'
    rows: list[Row] = []

    def forward(asked: Sequence[Row]) -> list[Answer]:
        rows.extend(asked)
        return scripted(said, early).forward(asked)

    tokens, finish, _ = run(forward, CLOSED, 64, partial(constrain, length=16))
    assert (text_of(tokens), finish) == (said, "stop")
    assert all(row.allowed is not None for row in rows)
    drafts = [row for row in rows if row.draft and row.allowed is not None]
    for row in drafts:
        first = row.tokens.index(config().mask)
        written = [*tokens[: row.start - len(PROMPT)], *row.tokens[:first]]
        bits = np.unpackbits(row.allowed[first].view(np.uint8), bitorder="little")
        assert set(np.flatnonzero(bits).tolist()) == allowed_after(json.dumps(CLOSED), written), "the first guess is one that may follow"
    assert drafts
    for row in (row for row in rows if row.causal and row.start > 0):
        assert accepted(json.dumps(CLOSED), [*tokens[: row.start - len(PROMPT)], *row.tokens]), "no forbidden token is ever verified"


def test_what_is_forced_is_not_asked_for() -> None:
    schema = {"const": {"a long member name": ["and a value", True, None, 12345], "another": "x" * 40}}
    tokens, finish, decoding = run(writer(0).forward, schema, 200, constrain_singly)
    assert finish == "stop" and json.loads(text_of(tokens)) == schema["const"]
    _, _, drafted = run(writer(0).forward, schema, 200, partial(constrain, length=8))
    assert drafted.tokens == tokens
    assert decoding.counts.evaluations < len(tokens) / 2 and drafted.counts.draft <= drafted.counts.verify


def test_no_forward_is_longer_than_a_block_or_a_run_of_forced_tokens() -> None:
    rows: list[Row] = []
    for program in (constrain_singly, partial(constrain, length=8)):
        model = writer(1)

        def forward(asked: Sequence[Row], model: Writer = model) -> list[Answer]:
            rows.extend(asked)
            return model.forward(asked)

        assert run(forward, {"const": "y" * 300}, 400, program)[1] == "stop"
    assert max(len(row.tokens) for row in rows) == AT_ONCE
    assert max(row.start + len(row.tokens) for row in rows) <= len(PROMPT) + 400 + 8


@pytest.mark.parametrize("program", [constrain_singly, partial(constrain, length=8)])
def test_every_cut_is_a_beginning_of_the_whole(program: Any) -> None:
    model = writer(3)
    whole, finish, _ = run(model.forward, CLOSED, 400, program)
    for most in range(1, min(len(whole), 40)):
        cut, why, _ = run(model.forward, CLOSED, most, program)
        assert (cut, why) == (whole[:most], "length")
    assert run(model.forward, CLOSED, len(whole), program)[:2] == (whole, finish)


def test_the_first_token_is_held_even_after_a_prompt_in_chunks() -> None:
    model = writer(5)
    prompt = [40 + place % 200 for place in range(PREFILL_CHUNK + 7)]
    tokens, _, _ = run(model.forward, CLOSED, 8, constrain_singly, prompt)
    assert accepted(json.dumps(CLOSED), tokens)
    assert tokens == run(model.forward, CLOSED, 8, partial(constrain, length=8), prompt)[0]


def test_a_schema_that_gets_too_complex_ends_the_answer_with_an_error() -> None:
    schema = {"type": "object", "properties": {f"p{number}": {} for number in range(3000)}, "additionalProperties": False}
    with pytest.raises(BadRequest, match="cannot be followed"):
        run(scripted('{"p1": 1}').forward, schema, 20, constrain_singly)


def test_pieces_are_the_text_and_stop_strings_cut_it() -> None:
    said = '{"name": "gr\u00fcn \U0001f600", "count": 1}'
    for stops, wanted in (((), said), (("count",), said[: said.index("count")])):
        grammar = grammars().compile(json.dumps(CLOSED))
        decoding = Decoding(Request(PROMPT, 64, config().mask, config().ends), partial(constrain, grammar=grammar, length=8))
        text, stop = TextStream(tokenizer(), special()), StopStrings(stops)
        pieces = [stop.push(text.push(block)) for block in stream(decoding, scripted(said).forward, lambda: False)]
        assert "".join(pieces) + stop.push(text.flush()) + stop.flush() == wanted and stop.hit == bool(stops)


def test_a_batch_of_answers_to_one_schema() -> None:
    """Answers side by side keep to their own places in the grammar they share."""
    model = writer(9)
    alone = run(model.forward, CLOSED, 50, partial(constrain, length=8))[0]
    requests = [replace(Request(PROMPT, 50, config().mask, config().ends), slot=slot) for slot in range(3)]
    programs = [
        partial(program, grammar=grammars().compile(json.dumps(CLOSED)))
        for program in (partial(constrain, length=8), constrain_singly, partial(constrain, length=3))
    ]
    active = [Decoding(request, program) for request, program in zip(requests, programs, strict=True)]
    while any(decoding.row is not None for decoding in active):
        for decoding in active:
            if decoding.row is not None:
                decoding.advance(model.forward([decoding.row])[0])
    assert [decoding.tokens for decoding in active] == [alone] * 3
