"""Many answers side by side come out as each alone: tiny random models, mixed modes, lengths and pictures, some of which leave early."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensorium.engines.diffusion_vlm.answering import Answering, Delta, Finished, Job
from sensorium.engines.diffusion_vlm.ask import Ask, Picture
from sensorium.engines.diffusion_vlm.batch import Batch
from sensorium.engines.diffusion_vlm.config import VLMConfig, read_config
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.diffusion_vlm.numpy_backend import NumpyBackend
from sensorium.engines.diffusion_vlm.rows import Answer, Row
from sensorium.errors import SensoriumError, Unavailable, UpstreamFailed
from tests.engines.diffusion_vlm.checkpoints import write_checkpoint


def picture(seed: int, height: int = 48, width: int = 40) -> Picture:
    """Pixels for a cell of 8."""
    pixels = np.random.default_rng(seed).normal(size=(3, height, width)).astype(np.float32)
    return Picture(pixels, bytes([seed]) * 16, height * width // 64)


PICTURES = [picture(seed) for seed in range(3)]
WORDS = ("what is this?", "the sign says", "a red cube on the table is a ball on a cube on the table?", "7" * 70)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("batch") / "tiny")


@pytest.fixture(scope="module")
def config(folder: Path) -> VLMConfig:
    return read_config(folder)


@pytest.fixture(scope="module")
def alone(folder: Path) -> DiffusionVLM:
    return DiffusionVLM.load(folder)


def backend(folder: Path, config: VLMConfig, slots: int) -> NumpyBackend:
    made = NumpyBackend.load(folder, config)
    return NumpyBackend(made._model, made._tower, slots)


def ask(words: int, shown: int | None, **more: Any) -> Ask:
    parts = [{"type": "text", "text": WORDS[words]}]
    if shown is not None:
        parts.insert(0, {"type": "image"})
    return Ask([{"role": "user", "content": parts}], [PICTURES[shown]] if shown is not None else [], **more)


asks = st.builds(
    ask,
    st.integers(0, len(WORDS) - 1),
    st.one_of(st.none(), st.integers(0, 2)),
    max_tokens=st.integers(1, 40),
    block_length=st.sampled_from([8, 11, 32]),
    threshold=st.sampled_from([None, 0.0, 0.2, 0.9]),
    mode=st.sampled_from(["diffusion", "diffusion", "ar", "linear"]),
)


def outcome(finished: Finished) -> Any:
    return finished.reason, finished.usage


def single(engine: DiffusionVLM, question: Ask) -> tuple[str, Any]:
    *deltas, finished = engine.answer(engine.prepare(question))
    assert isinstance(finished, Finished)
    return "".join(one.text for one in deltas if isinstance(one, Delta)), outcome(finished)


def play(batch: Batch, jobs: Sequence[Job], leaves: dict[int, int]) -> dict[int, tuple[str, Any]]:
    """Admit jobs in order as room allows; number `n` leaves at tick `leaves[n]`. What each was told by the end."""
    waiting, numbers, told = list(enumerate(jobs)), {}, {}
    text: dict[int, str] = dict.fromkeys(range(len(jobs)), "")
    for tick in range(20_000):
        for number, leaving in leaves.items():
            answering = next((one for one, own in numbers.items() if own == number), None)
            if leaving == tick and answering is not None:
                batch.drop(answering)
        while waiting and batch.room:
            number, job = waiting.pop(0)
            if leaves.get(number, tick + 1) > tick:
                numbers[batch.admit(job)] = number
        if not batch.active:
            break
        for step in batch.tick():
            assert step.error is None
            for event in step.events:
                if isinstance(event, Delta):
                    text[numbers[step.answering]] += event.text
                else:
                    told[numbers[step.answering]] = (text[numbers[step.answering]], outcome(event))
    assert not waiting and not batch.active and batch.room == batch.backend.slots
    return told


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(asks, min_size=1, max_size=6), st.integers(1, 4), st.dictionaries(st.integers(0, 5), st.integers(0, 12), max_size=2))
def test_a_batch_equals_its_singles(
    folder: Path, config: VLMConfig, alone: DiffusionVLM, questions: list[Ask], slots: int, leaves: dict[int, int]
) -> None:
    """Also when some callers leave: nobody's answer hangs on who else is there."""
    batch = Batch(backend(folder, config, slots), config, reuse=False)
    told = play(batch, [alone.prepare(question) for question in questions], leaves)
    for number, question in enumerate(questions):
        if number in told:
            assert told[number] == single(alone, question)
        else:
            assert number in leaves


def test_a_picture_asked_about_again_is_neither_looked_at_nor_read_again(folder: Path, config: VLMConfig, alone: DiffusionVLM) -> None:
    counting = Counting(backend(folder, config, 3))
    batch = Batch(counting, config)
    wide = picture(9, 48, 64)
    first, other = (replace(ask(words, None), max_tokens=8, mode="ar") for words in (0, 1))
    both = [replace(one, images=[wide], messages=with_picture(one)) for one in (first, other)]
    told = play(batch, [alone.prepare(question) for question in both], {})
    usages = [told[number][1][1] for number in range(2)]
    assert usages[0].cached_tokens == 0 and counting.looks == 1
    again = play(batch, [alone.prepare(both[0])], {})
    used = again[0][1][1]
    assert used.cached_tokens == used.prompt_tokens - 1 and counting.looks == 1
    assert again[0][0] == told[0][0]
    assert batch.figures.reused_tokens >= used.cached_tokens


def with_picture(question: Ask) -> list[dict[str, Any]]:
    (message,) = question.messages
    return [{"role": "user", "content": [{"type": "image"}, *message["content"]]}]


def test_reused_beginnings_give_the_same_tokens(folder: Path, config: VLMConfig, alone: DiffusionVLM) -> None:
    questions = [ask(words, picture, max_tokens=16, mode="ar") for picture in (0, 1, 0, 2, 1, 0) for words in (0, 2)]
    batch = Batch(backend(folder, config, 3), config)
    told = play(batch, [alone.prepare(question) for question in questions], {})
    assert batch.figures.reused_tokens > 0
    for number, question in enumerate(questions):
        text, (reason, used) = single(alone, question)
        assert (told[number][0], told[number][1][0]) == (text, reason)
        assert told[number][1][1].completion_tokens == used.completion_tokens


@dataclass
class Counting:
    """A backend in front of another one: counts looks, and does to rows what a test says."""

    inner: NumpyBackend
    looks: int = 0
    spoil: Callable[[Sequence[Row]], None] = lambda rows: None
    spoilt: Callable[[Row, Answer], Answer] = lambda row, answer: answer

    def __post_init__(self) -> None:
        self.slots, self.length, self.transfer_s = self.inner.slots, self.inner.length, 0.0
        self.reserve, self.ready, self.join = self.inner.reserve, self.inner.ready, self.inner.join
        self.copy = self.inner.copy

    def features(self, pixels: Any) -> Any:
        self.looks += 1
        return self.inner.features(pixels)

    def forward(self, rows: Sequence[Row]) -> list[Answer]:
        self.spoil(rows)
        return [self.spoilt(row, answer) for row, answer in zip(rows, self.inner.forward(rows), strict=True)]


def bad_outcomes(batch: Batch, jobs: Sequence[Job]) -> dict[int, str | SensoriumError]:
    numbers = {batch.admit(job): number for number, job in enumerate(jobs)}
    told: dict[int, str | SensoriumError] = {}
    text: dict[Answering, str] = dict.fromkeys(numbers, "")
    while batch.active:
        for step in batch.tick():
            text[step.answering] += "".join(event.text for event in step.events if isinstance(event, Delta))
            told[numbers[step.answering]] = step.error or text[step.answering]
    return told


@pytest.mark.parametrize("kind", ["memory", "fault", "nan"])
def test_one_bad_row_ends_only_its_own_answer(folder: Path, config: VLMConfig, alone: DiffusionVLM, kind: str) -> None:
    """The middle one of three fails in its third block; the others never notice."""
    questions = [ask(words, 0, max_tokens=40, block_length=8, mode="diffusion", threshold=0.0) for words in (0, 2, 1)]
    jobs = [alone.prepare(question) for question in questions]
    bad = len(jobs[1].prompt.ids) + 16
    counting = Counting(backend(folder, config, 3))

    def spoil(rows: Sequence[Row]) -> None:
        if kind != "nan" and any(row.slot == 1 and row.start >= bad for row in rows):
            raise Unavailable("no room", code="out_of_memory") if kind == "memory" else ZeroDivisionError("inside")

    def spoilt(row: Row, answer: Answer) -> Answer:
        return (answer[0], np.full_like(answer[1], np.nan)) if kind == "nan" and row.slot == 1 and row.start >= bad else answer

    counting.spoil, counting.spoilt = spoil, spoilt
    batch = Batch(counting, config, reuse=False)
    told = bad_outcomes(batch, jobs)
    assert isinstance(told[1], Unavailable if kind == "memory" else UpstreamFailed)
    assert "inside" not in str(told[1])
    assert [told[0], told[2]] == [single(alone, questions[number])[0] for number in (0, 2)]
    assert batch.room == 3 and batch.figures.failed == 1


def test_a_picture_that_cannot_be_looked_at_takes_no_slot(folder: Path, config: VLMConfig, alone: DiffusionVLM) -> None:
    counting = Counting(backend(folder, config, 2))
    batch = Batch(counting, config)

    def full(pixels: Any) -> Any:
        raise Unavailable("no room", code="out_of_memory")

    counting.features = full  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        batch.admit(alone.prepare(ask(0, 0)))
    assert batch.room == 2 and not batch.active


def test_prompts_wait_for_their_pictures_while_answers_go_on(folder: Path, config: VLMConfig, alone: DiffusionVLM) -> None:
    counting = Counting(backend(folder, config, 2))
    batch = Batch(counting, config)
    going = batch.admit(alone.prepare(ask(0, None, max_tokens=32, mode="ar")))
    while going.prefilling:
        batch.tick()
    late = batch.admit(alone.prepare(ask(1, 1, max_tokens=4, mode="ar")))
    counting.ready = lambda features: features is None  # type: ignore[method-assign]
    for _ in range(3):
        assert [step.answering for step in batch.tick()] == [going]
    counting.ready = lambda features: True  # type: ignore[method-assign]
    assert [step.answering for step in batch.tick()] == [going, late]


def test_auto_drafts_while_there_is_room_to_and_says_what_it_did(folder: Path, config: VLMConfig, alone: DiffusionVLM) -> None:
    batch = Batch(backend(folder, config, 12), config)
    modes = [batch.admit(alone.prepare(ask(0, None, max_tokens=8, mode="auto"))).mode for _ in range(12)]
    assert modes == ["linear"] * 8 + ["ar"] * 4
    hot = Batch(backend(folder, config, 1), config).admit(alone.prepare(ask(0, None, mode="auto", temperature=1.0)))
    assert hot.mode == "ar"
    assert Batch(backend(folder, config, 1), config).admit(alone.prepare(ask(0, None, mode="auto")), waiting=20).mode == "ar"


def test_the_time_that_looking_at_pictures_takes_is_told_as_part_of_the_whole(folder: Path, config: VLMConfig, alone: DiffusionVLM) -> None:
    """Two seconds to the device, five in the tower, then one for each forward."""
    now = 100.0

    def look(pixels: Any) -> Any:
        nonlocal now
        now += 7
        counting.transfer_s += 2
        return counting.inner.features(pixels)

    def forward(rows: Sequence[Row]) -> None:
        nonlocal now
        now += 1

    counting = Counting(backend(folder, config, 1), spoil=forward)
    counting.features = look  # type: ignore[method-assign]
    batch = Batch(counting, config, clock=lambda: now)
    job = alone.prepare(ask(0, 0, max_tokens=3, mode="ar"))
    batch.admit(job)
    events: list[Any] = []
    while batch.active:
        events += [event for step in batch.tick() for event in step.events]
    told, used = events[-1].timings, events[-1].usage
    assert told.gpu_transfer_time == pytest.approx(2)
    assert told.generation_time == pytest.approx(5 + used.completion_tokens)
    whole = told.total_time
    assert whole == pytest.approx(7 + used.completion_tokens + job.preparing_s)
    assert sum((told.preprocessing_time, told.gpu_transfer_time, told.generation_time, told.decode_time)) <= whole


def asked(batch: Batch, alone: DiffusionVLM, words: int, shown: int | None = None) -> tuple[str, int]:
    """An answer of a batch, and how much of its prompt was taken over."""
    text, (_, used) = play(batch, [alone.prepare(ask(words, shown, max_tokens=12, mode="ar"))], {})[0]
    return text, used.cached_tokens


def test_a_copy_that_fails_leaves_nothing_that_is_taken_for_copied(folder: Path, config: VLMConfig, alone: DiffusionVLM) -> None:
    """One prompt is in slot 0; the copy that would keep it elsewhere fails, or the one before the answer."""

    def full(*_: int) -> None:
        raise Unavailable("no room", code="out_of_memory")

    for fault in ("copy", "reserve"):
        counting = Counting(backend(folder, config, 3))
        batch = Batch(counting, config)
        asked(batch, alone, 2, 1)
        kept = getattr(counting, fault)
        setattr(counting, fault, full)
        with pytest.raises(Unavailable):
            batch.admit(alone.prepare(ask(3, None, max_tokens=12, mode="ar")))
        setattr(counting, fault, kept)
        assert batch.room == 3
        for words, shown in ((3, None), (2, 1)):
            assert asked(batch, alone, words, shown)[0] == single(alone, ask(words, shown, max_tokens=12, mode="ar"))[0]


def test_an_answer_that_cannot_be_moved_ends_alone(folder: Path, config: VLMConfig, alone: DiffusionVLM) -> None:
    """Four answers, the first three of which leave: the last one would move down, and its copy fails."""

    def full(*_: int) -> None:
        raise ZeroDivisionError("inside")

    counting = Counting(backend(folder, config, 6))
    batch = Batch(counting, config)
    questions = [ask(words, 0, max_tokens=30, mode="ar") for words in (0, 1, 2, 3, 2, 1)]
    going = [batch.admit(alone.prepare(question)) for question in questions]
    while any(one.prefilling for one in going):
        batch.tick()
    for one in going[1:5]:
        batch.drop(one)
    kept, counting.copy = counting.copy, full  # type: ignore[method-assign]
    steps = {step.answering: step.error for step in batch.tick()}
    counting.copy = kept  # type: ignore[method-assign]
    assert steps[going[0]] is None and isinstance(steps[going[5]], UpstreamFailed) and "inside" not in str(steps[going[5]])
    assert batch.active == [going[0]] and batch.room == 5
    batch.drop(going[0])
    for words in (0, 1, 2, 3):
        assert asked(batch, alone, words, 0)[0] == single(alone, ask(words, 0, max_tokens=12, mode="ar"))[0]


def test_a_picture_that_has_been_read_is_let_go_while_its_answer_goes_on(folder: Path, config: VLMConfig, alone: DiffusionVLM) -> None:
    counting = Counting(backend(folder, config, 2))
    made: list[weakref.ref[Any]] = []

    def join(parts: Sequence[Any]) -> Any:
        joined = counting.inner.join(parts)
        made.append(weakref.ref(joined))
        return joined

    counting.join = join  # type: ignore[method-assign]
    batch = Batch(counting, config)
    going = batch.admit(alone.prepare(ask(0, 0, max_tokens=16, mode="ar")))
    while going.prefilling:
        assert made[0]() is not None
        batch.tick()
    gc.collect()
    assert batch.active == [going] and made[0]() is None
