"""Whole answers: tokens per second at a stated number of tokens per step, and the shipped model's answers beside numpy's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from bench.engine_report import Goal
from bench.engine_rig import Rig
from bench.engine_script import Scripted
from bench.engine_shapes import BLOCK, SHIPPED
from sensorium.engines.diffusion_vlm import torch_backend
from sensorium.engines.diffusion_vlm.answering import Delta, Finished
from sensorium.engines.diffusion_vlm.ask import Ask
from sensorium.engines.diffusion_vlm.config import read_config
from sensorium.engines.diffusion_vlm.decode import Decoding, Program, Request, autoregress, diffuse, speculate, tick
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.diffusion_vlm.schedule import Schedule
from sensorium.engines.orders import ModelOrder

STEPS = (1.0, 2.5, 4.0)  # tokens that a denoising step commits
CYCLES = (2.0, 4.0, 7.5)  # tokens that a draft and its verification yield
TOGETHER = (1, 8)


def schedule(rig: Rig) -> None:
    """Tokens per second from the first prompt token read to the last token, prefill included, by the real decoding programs."""
    longest = rig.scale.prompt + max(rig.scale.answer, 2 * BLOCK) + BLOCK
    with rig.backend(max(TOGETHER), longest) as backend:
        for mode, paces in (("diffusion", STEPS), ("linear", CYCLES), ("ar", (1.0,))):
            for pace in paces:
                for count in TOGETHER:
                    _paced(rig, backend, mode, pace, count)


def _paced(rig: Rig, backend: Any, mode: str, pace: float, count: int) -> None:
    scripted = Scripted(backend, pace, rig.config.mask, rig.word, rig.other)
    _answered(rig, scripted, mode, count, 2 * BLOCK)
    seconds, forwards = _answered(rig, scripted, mode, count, rig.scale.answer)
    per_second, per_forward = count * rig.scale.answer / seconds, rig.scale.answer / forwards
    rig.report.row("answers", mode=mode, tokens_per_step=pace, together=count, tokens_per_s=per_second, tokens_per_forward=per_forward)


def _answered(rig: Rig, backend: Scripted, mode: str, count: int, tokens: int) -> tuple[float, int]:
    """Seconds that so many answers side by side take, and the forwards of one of them."""
    asked = [Request(rig.tokens(rig.scale.prompt, seed=slot), tokens, rig.config.mask, rig.config.ends, slot=slot) for slot in range(count)]
    rig.clock.settle()
    began = time.perf_counter()
    running = [Decoding(request, program(mode, tokens)) for request in asked]
    while any(one.row is not None for one in running):
        tick(running, backend.forward)
    rig.clock.settle()
    return time.perf_counter() - began, running[0].counts.evaluations


def program(mode: str, tokens: int) -> Callable[[Decoding], Program]:
    """The decoding program of a mode, with as many steps as a slow one needs."""
    if mode == "diffusion":
        return lambda one: diffuse(one, Schedule(-(-tokens // BLOCK), BLOCK, BLOCK), 0.9)
    return autoregress if mode == "ar" else lambda one: speculate(one, BLOCK)


def small(rig: Rig) -> None:
    """The shipped model on this device against numpy: the same questions in every mode, in float32 and in the dtype that is served."""
    plain = DiffusionVLM.load(SHIPPED)
    asks = [Ask(messages(question), (picture,), max_tokens=64, mode=mode) for question, picture in questions(rig) for mode in MODES]
    wanted = [told(plain, ask) for ask in asks]
    with float32_exactly():
        _beside(rig, "float32", asks, wanted)
    if rig.clock.cuda:
        _beside(rig, "bfloat16", asks, wanted)


MODES = ("diffusion", "ar", "linear")


def _beside(rig: Rig, dtype: str, asks: list[Ask], wanted: list[tuple[str, Finished]]) -> None:
    order = ModelOrder(path=str(SHIPPED), device=str(rig.device), dtype=dtype, slots=4, context=1024)
    model = DiffusionVLM.over(SHIPPED, read_config(SHIPPED), torch_backend.load(SHIPPED, order, None, None))
    found = [told(model, ask) for ask in asks]
    exact = dtype == "float32"
    for mode in MODES:
        pairs = [(one, other) for ask, one, other in zip(asks, found, wanted, strict=True) if ask.mode == mode]
        same = sum(one[0] == other[0] for one, other in pairs) / len(pairs)
        rig.report.figure(
            f"{dtype}, {mode}: answers as numpy's", same, "of 1", Goal("==", 1.0) if exact else None, f"{len(pairs)} questions"
        )
        usages = [one[1].usage for one, _ in pairs]
        per_forward = sum(usage.completion_tokens for usage in usages) / sum(usage.num_function_evals for usage in usages)
        rig.report.figure(f"{dtype}, {mode}: tokens per forward", per_forward, "")


class float32_exactly:
    """Matrix products of float32 in float32, not in the shorter format that matrix units prefer."""

    def __enter__(self) -> None:
        self._before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *error: object) -> None:
        torch.set_float32_matmul_precision(self._before[0])
        torch.backends.cudnn.allow_tf32 = self._before[1]


def questions(rig: Rig) -> Iterator[tuple[str, Any]]:
    """Questions about generated scenes that the shipped model knows the world of."""
    # Start-up cost: only this stage draws scenes.
    from training.evaluate_vlm import cases

    for case in cases(rig.scale.questions, 5, None):
        yield case.asked.question, case.picture


def messages(question: str) -> list[dict[str, Any]]:
    """One user turn about one picture."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]


def told(model: DiffusionVLM, ask: Ask) -> tuple[str, Finished]:
    """The whole answer, and its end."""
    events = list(model.answer(model.prepare(ask)))
    assert isinstance(events[-1], Finished)
    return "".join(event.text for event in events if isinstance(event, Delta)), events[-1]
