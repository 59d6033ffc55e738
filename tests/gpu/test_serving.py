"""Answers side by side on a GPU: what one of them does, however badly, is none of the others' business, and memory comes back."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import engine_room
from bench.engine_answers import MODES, messages, told
from bench.engine_clock import Clock
from bench.engine_report import Report
from bench.engine_rig import Rig
from bench.engine_shapes import CONFIG_8B, SHIPPED, TINY, RandomWeights, write_prompts
from sensorium.engines.diffusion_vlm import torch_backend
from sensorium.engines.diffusion_vlm.answering import Finished
from sensorium.engines.diffusion_vlm.ask import Ask
from sensorium.engines.diffusion_vlm.config import read_config
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.diffusion_vlm.torch_backend import TorchBackend
from sensorium.engines.diffusion_vlm.torch_model import TorchModel
from sensorium.engines.diffusion_vlm.torch_vision import TorchTower
from sensorium.engines.orders import ModelOrder
from sensorium.engines.shared_lane import SharedLane
from sensorium.errors import SensoriumError
from tests.gpu.shapes import left
from training.evaluate_vlm import cases

WIDE = CONFIG_8B | {"num_hidden_layers": 1, "vision_config": dict(CONFIG_8B["vision_config"]) | {"num_hidden_layers": 1}}  # type: ignore[call-overload]


def seeing(folder: Path, raw: Any, device: torch.device, **options: Any) -> DiffusionVLM:
    """A model with random weights whose answers are made side by side."""
    write_prompts(folder, raw)
    config = read_config(folder)
    weights = RandomWeights(config, device, torch.float32)
    shared = {"device": device, "dtype": torch.float32}
    tower = TorchTower(config, weights, **shared)
    decoder = TorchModel(config, weights, **shared, **{"slots": 4, "length": 4096, **options})
    return DiffusionVLM.over(folder, config, TorchBackend(decoder, tower), shared=True)


def asking(text: str, tokens: int = 32, mode: str = "ar") -> Ask:
    return Ask([{"role": "user", "content": [{"type": "text", "text": text}]}], max_tokens=tokens, mode=mode)


def alone(model: DiffusionVLM, ask: Ask) -> list[int]:
    """The tokens of an answer with no other beside it."""
    answering = model.batch.admit(model.prepare(ask))
    while answering.row is not None:
        for step in model.batch.tick():
            if step.error is not None:
                raise step.error
    return answering.decoding.tokens


def beside(model: DiffusionVLM, first: Ask, second: Ask) -> tuple[list[int], SensoriumError | None]:
    """The tokens of the first answer while the second is made beside it, and the error that ended the second."""
    one = model.batch.admit(model.prepare(first))
    for _ in range(4):
        model.batch.tick()
    other = model.batch.admit(model.prepare(second))
    ended = None
    while one.row is not None or other in model.batch.active:
        for step in model.batch.tick():
            assert step.answering is other or step.error is None, step.error
            ended = step.error or ended
    return one.decoding.tokens, ended


@contextmanager
def little_memory(spare: int) -> Iterator[None]:
    """So many bytes are left to take, beside what is free within what torch holds already."""
    torch.cuda.synchronize()
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + spare) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_prompt_without_room_ends_alone(tmp_path: Path, device: torch.device) -> None:
    """A long prompt needs hundreds of megabytes at full width; the answer beside it goes on in what it has."""
    model = seeing(tmp_path, WIDE, device, slots=2)
    small, large = asking("what is on the table ?", tokens=64), asking("what is on the table ? " * 500, tokens=1)
    wanted = alone(model, small)
    with little_memory(8 << 20):
        tokens, ended = beside(model, small, large)
    assert isinstance(ended, SensoriumError)
    assert ended.code == "out_of_memory"
    assert tokens == wanted
    assert len(alone(model, large)) == 1


def test_callers_who_leave_free_their_slots(tmp_path: Path, device: torch.device) -> None:
    model = seeing(tmp_path, TINY.raw, device)
    lane = SharedLane("gpu", model.batch, limit=64)

    async def ask(tokens: int, *, leaving: bool) -> None:
        job = model.prepare(asking("what is on the table ?", tokens))
        with lane.admitted() as turn:
            async with aclosing(turn.stream(model.work(job))) as events:
                async for event in events:
                    if leaving:
                        return
                    if isinstance(event, Finished):
                        assert event.usage.completion_tokens == tokens

    async def all_of_them() -> None:
        await asyncio.gather(*(ask(3000, leaving=True) for _ in range(8)))
        await asyncio.gather(*(ask(8, leaving=False) for _ in range(8)))

    try:
        asyncio.run(all_of_them())
        assert model.batch.room == 4
        assert (lane.counters.cancelled, lane.counters.failed) == (8, 0)
    finally:
        lane.close()


def test_a_thousand_mixed_requests_take_no_more_memory(tmp_path: Path, device: torch.device) -> None:
    report = Report({}, None, judged=True)
    report.begin("growth")
    engine_room.growth(Rig(device, torch.bfloat16, replace(TINY, requests=1000), Clock(device), report, tmp_path))
    figures = report.stages["growth"]["figures"]
    assert figures["requests that failed"]["value"] == 0
    assert figures["memory grown over the last half"]["value"] <= 2.0  # MB


def shipped(device: torch.device, dtype: str = "float32", *, shared: bool = False) -> DiffusionVLM:
    """The shipped model on the device."""
    order = ModelOrder(path=str(SHIPPED), device=str(device), dtype=dtype, slots=4, context=1024)  # type: ignore[arg-type]
    return DiffusionVLM.over(SHIPPED, read_config(SHIPPED), torch_backend.load(SHIPPED, order, None, None), shared=shared)


def test_the_shipped_model_says_what_it_says_in_numpy(device: torch.device) -> None:
    """Token by token and forward by forward, in every mode, in float32."""
    plain, fast = DiffusionVLM.load(SHIPPED), shipped(device)
    for case in cases(24, 11, None):
        for mode in MODES:
            ask = Ask(messages(case.asked.question), (case.picture,), max_tokens=64, mode=mode)
            (text, end), (wanted, wanted_end) = told(fast, ask), told(plain, ask)
            assert text == wanted
            assert end.usage == wanted_end.usage


def test_the_shipped_model_answers_in_bfloat16(device: torch.device) -> None:
    """Not word for word, but nearly always."""
    plain, fast = DiffusionVLM.load(SHIPPED), shipped(device, "bfloat16")
    asks = [Ask(messages(case.asked.question), (case.picture,), max_tokens=64) for case in cases(24, 12, None)]
    assert sum(told(fast, ask)[0] == told(plain, ask)[0] for ask in asks) >= 18


def test_memory_is_back_after_a_model_is_gone(device: torch.device) -> None:
    """What torch's libraries take once stays; a second model leaves nothing."""

    def used() -> int:
        model = shipped(device)
        told(model, Ask(messages("what is this?"), (next(cases(1, 0, None)).picture,), max_tokens=16))
        del model
        return left()

    assert used() == used() == used()


@pytest.mark.parametrize("mode", MODES)
def test_many_at_once_say_what_each_says_alone(device: torch.device, mode: str) -> None:
    """In float32 a batch sums in another order than a single row does; a trained model's answers do not hang on it."""
    model = shipped(device, shared=True)
    asks = [Ask(messages(case.asked.question), (case.picture,), max_tokens=64, mode=mode) for case in cases(12, 13, None)]
    wanted = [alone(model, ask) for ask in asks]
    lane = SharedLane("gpu", model.batch, limit=64)

    async def ask_one(ask: Ask) -> Finished:
        with lane.admitted() as turn:
            async with aclosing(turn.stream(model.work(model.prepare(ask)))) as events:
                return [event async for event in events][-1]

    async def ask_all() -> list[Finished]:
        return await asyncio.gather(*(ask_one(ask) for ask in asks))

    try:
        ends = asyncio.run(ask_all())
    finally:
        lane.close()
    assert [end.usage.completion_tokens for end in ends] == [len(tokens) for tokens in wanted]
