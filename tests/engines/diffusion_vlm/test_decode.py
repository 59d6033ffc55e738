"""The decoder against the slow reference, and the properties that any correct decoder has."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.engines.diffusion_vlm.decode import (
    Decoding,
    Request,
    autoregress,
    confident,
    diffuse,
    most_confident,
    speculate,
    stream,
    tick,
)
from sensorium.engines.diffusion_vlm.rows import Answer, Row
from sensorium.engines.diffusion_vlm.schedule import Schedule
from sensorium.errors import Cancelled
from tests.engines.diffusion_vlm.reference import Result, SlowDecoder
from tests.engines.diffusion_vlm.toys import HashModel, ScriptModel

LENGTHS = (1, 2, 8, 32)
THRESHOLDS = (None, 0, 0.5, 0.9, 1)
PROMPT = [5, 3, 7, 4, 9]


def schedule_for(max_tokens: int, length: int, steps: int) -> Schedule:
    return Schedule(-(-max_tokens // length), length, steps)


def run(model: Any, program: Callable[[Decoding], Any], max_tokens: int, slot: int = 0) -> tuple[Result, Decoding]:
    decoding = Decoding(Request(PROMPT, max_tokens, model.mask, model.ends, slot), program)
    blocks = list(stream(decoding, model.forward, lambda: False))
    tokens = [token for block in blocks for token in block]
    assert tokens == decoding.tokens and decoding.finish is not None
    return Result(tokens, decoding.counts.evaluations, decoding.finish), decoding


def slow(model: Any) -> SlowDecoder:
    return SlowDecoder(model.sees, model.mask, model.ends)


@pytest.mark.parametrize("tau", THRESHOLDS)
@pytest.mark.parametrize("length", LENGTHS)
def test_diffusion_equals_the_slow_reference(length: int, tau: float | None) -> None:
    rng = random.Random(f"{length} {tau}")
    for seed in range(12):
        steps = rng.choice([1, 3, length, 2 * length])
        max_tokens = rng.choice([1, length, 2 * length + 3])
        model = HashModel(seed, gain=rng.choice([0.0, 3.0, 9.0, 30.0]), end_bias=rng.choice([-99.0, 0.0, 2.0]))
        got, _ = run(model, partial(diffuse, schedule=schedule_for(max_tokens, length, steps), threshold=tau), max_tokens)
        assert got == slow(model).diffusion(PROMPT, max_tokens, steps, length, tau), (seed, steps, max_tokens)


@pytest.mark.parametrize("tau", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("length", LENGTHS)
def test_linear_equals_the_slow_reference_and_autoregression(length: int, tau: float) -> None:
    rng = random.Random(f"{length} {tau}")
    for seed in range(8):
        max_tokens = rng.choice([1, 2, 13, 40])
        model = HashModel(seed, gain=rng.choice([3.0, 9.0, 30.0]), end_bias=rng.choice([-99.0, 0.0, 1.0]), vocab=rng.choice([5, 12]))
        got, _ = run(model, partial(speculate, length=length, threshold=tau), max_tokens)
        single, _ = run(model, autoregress, max_tokens)
        assert got == slow(model).linear(PROMPT, max_tokens, length, tau)
        assert single == slow(model).ar(PROMPT, max_tokens)
        assert (got.tokens, got.finish) == (single.tokens, single.finish)


def scripts() -> list[list[int]]:
    """Answers of 20 tokens with the end in the seed, at the start, in the middle and at the last place of a block of 8, and nowhere."""
    plain = [3 + place % 7 for place in range(20)]
    return [plain] + [[*plain[:end], 2, *plain[end:]] for end in (0, 8, 1, 11, 7, 15)]


@pytest.mark.parametrize("script", scripts(), ids=lambda script: f"end_at_{script.index(2) if 2 in script else None}")
@pytest.mark.parametrize("tau", [None, 0, 0.9])
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_end_positions(script: list[int], tau: float | None, steps: int) -> None:
    model = ScriptModel(len(PROMPT), script)
    got, _ = run(model, partial(diffuse, schedule=schedule_for(20, 8, steps), threshold=tau), 20)
    assert got == slow(model).diffusion(PROMPT, 20, steps, 8, tau)
    wanted = script[: script.index(2) + 1] if 2 in script else script
    assert (got.tokens, got.finish) == (wanted, "stop" if 2 in script else "length")
    quick, _ = run(model, partial(speculate, length=8), 20)
    assert quick == slow(model).linear(PROMPT, 20, 8) and quick.tokens == wanted


def test_an_answer_that_is_only_the_end_costs_two() -> None:
    got, decoding = run(ScriptModel(len(PROMPT), [2]), partial(diffuse, schedule=schedule_for(64, 32, 4), threshold=0.9), 64)
    assert (got.tokens, got.nfe, decoding.counts.prefill) == ([2], 2, 1)


def test_known_costs_of_512_tokens() -> None:
    """256 steps, 512 tokens, blocks of 32, no end: from 2 forwards a block to all 16 steps and a write."""
    script = [3] * 600
    plan = Schedule(16, 32, 16)
    sure, _ = run(ScriptModel(len(PROMPT), script, sharp=50.0), partial(diffuse, schedule=plan, threshold=0.9), 512)
    doubtful, _ = run(ScriptModel(len(PROMPT), script, sharp=0.1), partial(diffuse, schedule=plan, threshold=0.9), 512)
    assert (sure.nfe, doubtful.nfe) == (32, 272)


def test_a_rejected_draft_is_corrected_and_counted() -> None:
    script = [3, 4, 5, 6, 7, 8, 9, 3, 2]
    early = [3, 4, 5, 0, 7, 8, 9, 3, 2]
    got, decoding = run(ScriptModel(len(PROMPT), script, early=early), partial(speculate, length=4), 20)
    assert got.tokens == script
    assert (decoding.counts.draft, decoding.counts.verify, got.nfe) == (3, 3, 7)  # 3 accepted, 4, then the end


def test_a_batch_that_mixes_everything_equals_its_singles() -> None:
    rng = random.Random(3)
    model = HashModel(5, gain=8.0, end_bias=1.0)
    programs: list[tuple[Callable[[Decoding], Any], int]] = []
    for _ in range(14):
        max_tokens, length = rng.choice([1, 7, 30]), rng.choice(LENGTHS)
        plan = schedule_for(max_tokens, length, rng.choice([1, 2, 9]))
        programs += [(partial(diffuse, schedule=plan, threshold=rng.choice(THRESHOLDS)), max_tokens)]
        programs += [(partial(speculate, length=length), max_tokens), (autoregress, max_tokens)]
    singles = [run(HashModel(5, gain=8.0, end_bias=1.0), program, max_tokens)[0] for program, max_tokens in programs]
    active = [Decoding(Request(PROMPT, m, model.mask, model.ends, slot), program) for slot, (program, m) in enumerate(programs)]
    while any(decoding.row for decoding in active):
        tick(active, model.forward)
    assert [Result(d.tokens, d.counts.evaluations, str(d.finish)) for d in active] == singles


def test_cancelling_one_answer_changes_no_other() -> None:
    model = HashModel(1)
    plan = partial(diffuse, schedule=schedule_for(40, 8, 4), threshold=0.9)
    alone, _ = run(HashModel(1), plan, 40)
    active = [Decoding(Request(PROMPT, 40, model.mask, model.ends, slot), plan) for slot in range(3)]
    for count in range(200):
        tick(active if count < 3 else active[::2], model.forward)
    assert active[0].tokens == active[2].tokens == alone.tokens and active[1].row is not None


calls = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "gain": st.sampled_from([0.0, 2.0, 6.0, 20.0]),
        "end_bias": st.sampled_from([-99.0, 0.0, 2.0]),
        "length": st.integers(1, 40),
        "max_tokens": st.integers(1, 50),
        "steps": st.integers(1, 45),
        "tau": st.sampled_from([None, 0.0, 0.3, 0.9, 1.0]),
    }
)


def generate(call: dict[str, Any], **changes: Any) -> tuple[Result, Decoding, Schedule]:
    call = call | changes
    model = HashModel(call["seed"], gain=call["gain"], end_bias=call["end_bias"])
    plan = schedule_for(call["max_tokens"], call["length"], call["steps"])
    return *run(model, partial(diffuse, schedule=plan, threshold=call["tau"]), call["max_tokens"]), plan


@settings(max_examples=60, deadline=None)
@given(calls)
def test_output_and_cost_stay_in_bounds(call: dict[str, Any]) -> None:
    got, _, plan = generate(call)
    assert 1 not in got.tokens
    assert 1 <= len(got.tokens) <= call["max_tokens"]
    assert got.nfe <= plan.blocks * (plan.steps + 1)
    assert got.nfe >= (2 if call["length"] >= 2 else 1)
    assert (got.tokens[-1] == 2) == (got.finish == "stop") and 2 not in got.tokens[:-1]
    assert got.finish == "stop" or len(got.tokens) == call["max_tokens"]


@settings(max_examples=40, deadline=None)
@given(calls, st.integers(1, 30))
def test_output_is_a_prefix_of_the_output_with_more_tokens(call: dict[str, Any], more: int) -> None:
    short, long = generate(call)[0], generate(call, max_tokens=call["max_tokens"] + more)[0]
    assert long.tokens[: len(short.tokens)] == short.tokens


@settings(max_examples=40, deadline=None)
@given(calls)
def test_blocks_of_one_are_autoregression(call: dict[str, Any]) -> None:
    model = HashModel(call["seed"], gain=call["gain"], end_bias=call["end_bias"])
    assert generate(call, length=1)[0] == run(model, autoregress, call["max_tokens"])[0]


@settings(max_examples=30, deadline=None)
@given(calls)
def test_threshold_zero_takes_two_forwards_per_block(call: dict[str, Any]) -> None:
    got, decoding, _ = generate(call, tau=0.0, length=max(2, call["length"]))
    assert decoding.counts.denoise == decoding.counts.write == got.nfe / 2


@settings(max_examples=30, deadline=None)
@given(calls, st.booleans())
def test_one_token_per_forward_without_confidence(call: dict[str, Any], quota: bool) -> None:
    """A threshold out of reach, or an even share over enough steps, unmasks one token at a time."""
    length = call["length"]
    _, decoding, plan = generate(call, tau=None if quota else 1.1, steps=length, end_bias=-99.0)
    assert decoding.counts.denoise == plan.blocks * (length - 1)


def test_masks_may_be_left_open_for_golden_comparisons() -> None:
    model = ScriptModel(len(PROMPT), [3] * 20, sharp=0.1)
    plan = schedule_for(8, 8, 2)
    kept, _ = run(model, partial(diffuse, schedule=plan, threshold=0.9, leave_masks=True), 8)
    assert kept.tokens.count(model.mask) == 5
    resolved, _ = run(model, partial(diffuse, schedule=plan, threshold=0.9), 8)
    assert resolved.tokens == [3] * 8


def test_equal_confidence_takes_the_lowest_position() -> None:
    flat = np.full(6, 0.25, np.float32)
    assert most_confident([1, 3, 4, 5], flat, 2) == [1, 3]
    assert confident([2, 4], flat, 0.9) == [2]
    assert confident([2, 4], flat, 0.25) == [2, 4]


def test_the_threshold_is_compared_in_float32() -> None:
    at_the_line = np.array([0.0, np.float32(0.9), np.nextafter(np.float32(0.9), np.float32(0))], np.float32)
    assert confident([1, 2], at_the_line, 0.9) == [1]


def test_a_long_prompt_is_written_in_chunks_with_its_pictures() -> None:
    rows: list[Row] = []

    def forward(asked: list[Row]) -> list[Answer]:
        rows.extend(asked)
        return [(np.array([2]), np.array([1.0], np.float32)) for _ in asked]

    pads = [5, 1023, 1024, 2047, 2200]
    features = np.arange(10, dtype=np.float32).reshape(5, 2)
    request = Request([7] * 2500, 1, 1, frozenset({2}), pads=pads, features=features)
    list(stream(Decoding(request, autoregress), forward, lambda: False))
    assert [(row.start, len(row.tokens)) for row in rows] == [(0, 1024), (1024, 1024), (2048, 452)]
    placed = [row.start + at for row in rows if row.features for at in row.features.at]
    assert placed == pads
    assert np.array_equal(np.concatenate([row.features.rows for row in rows if row.features]), features)


def test_cancel_takes_effect_between_forwards() -> None:
    model = HashModel(0, end_bias=-99.0)
    decoding = Decoding(Request(PROMPT, 100, 1, model.ends), autoregress)
    with pytest.raises(Cancelled):
        for _ in stream(decoding, model.forward, lambda: model.passes >= 5):
            pass
    assert model.passes == 5 and len(decoding.tokens) == 5


def test_what_is_not_needed_is_not_computed() -> None:
    """The write after the last block is counted but left out."""
    model = ScriptModel(len(PROMPT), [3] * 20)
    passes = []

    def forward(rows: list[Row]) -> list[Answer]:
        passes.extend(rows)
        return model.forward(rows)

    decoding = Decoding(Request(PROMPT, 16, 1, model.ends), partial(diffuse, schedule=schedule_for(16, 8, 4), threshold=0.0))
    list(stream(decoding, forward, lambda: False))
    assert decoding.counts.evaluations == 4
    assert [(row.start, row.causal, row.last) for row in passes] == [
        (0, True, True),
        (5, False, False),
        (5, True, True),
        (13, False, False),
    ]
