"""Batches that are kept ready: what a recorded graph replays, what is chosen, and that no failure there changes an answer.

Graphs are those of a stand-in that calls the body again: what a device adds is not to be seen here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from sensorium.engines.diffusion_vlm.buckets import Bucket
from sensorium.engines.diffusion_vlm.config import read_config
from sensorium.engines.diffusion_vlm.rows import Answer, Row
from sensorium.engines.diffusion_vlm.torch_model import TorchModel, compiled_layer
from sensorium.engines.diffusion_vlm.weights import plan
from tests.engines.diffusion_vlm.checkpoints import random_weights, write_checkpoint
from tests.torch.decoders import Tiny, held


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    config = read_config(write_checkpoint(tmp_path_factory.mktemp("plain")))
    weights = random_weights(config, 1)
    assert plan(config).keys() == weights.keys()
    return Tiny(config, weights)


def rows_of(tiny: Tiny, count: int = 3, tokens: int = 8, start: int = 0, **more: Any) -> list[Row]:
    return [Row(slot, start, tiny.tokens(tokens, slot), False, **more) for slot in range(count)]


def assert_near(got: list[Answer], wanted: list[Answer]) -> None:
    for (best, confidence), (right, sure) in zip(got, wanted, strict=True):
        assert best.tolist() == right.tolist() and np.allclose(confidence, sure, rtol=1e-5, atol=1e-5)


@dataclass
class Recorder:
    """Stands in for recording on a device: graphs that run the body, at given speeds, or fail."""

    milliseconds: list[float] = field(default_factory=lambda: [1.0] * 1000)
    fails: Callable[[int], bool] = lambda number: False
    asked: list[bool] = field(default_factory=list)
    replays: int = 0

    def __call__(self, run: Callable[[], None], *, timed: bool) -> tuple[Any, float]:
        number = len(self.asked)
        self.asked.append(timed)
        run()
        if self.fails(number):
            raise RuntimeError("operation not permitted when stream is capturing")
        recorder = self

        class Graph:
            def replay(self) -> None:
                recorder.replays += 1
                run()

        return Graph(), self.milliseconds[number]


def with_graphs(tiny: Tiny, recorder: Recorder, **options: Any) -> TorchModel:
    model = tiny.torch(together=True, **options)
    model._recorder = recorder
    return model


def test_a_bucket_is_recorded_once_and_replayed(tiny: Tiny) -> None:
    recorder = Recorder()
    model, plain = with_graphs(tiny, recorder, attention="sdpa"), tiny.torch(together=True)
    for start in (0, 8, 16):
        assert_near(model.forward(rows_of(tiny, start=start)), plain.forward(rows_of(tiny, start=start)))
    assert len(recorder.asked) == 1 and recorder.replays == 3
    assert_near(model.forward(rows_of(tiny, tokens=1)), plain.forward(rows_of(tiny, tokens=1)))
    assert len(recorder.asked) == 2
    assert_near(model.forward(rows_of(tiny, temperature=1.0)), plain.forward(rows_of(tiny, temperature=1.0)))
    assert len(recorder.asked) == 3 and recorder.replays == 5


def test_recording_and_warming_up_touch_no_slot(tiny: Tiny) -> None:
    model = with_graphs(tiny, Recorder())
    model.forward(rows_of(tiny, 4))
    before = held(model).clone()
    model.capture([Bucket(4, 8, 256, noisy=True), Bucket(1, 32, 256, constrained=True)])
    assert torch.equal(held(model), before) and torch.isfinite(model.cache).all()


def test_the_largest_bucket_is_made_first(tiny: Tiny) -> None:
    model = with_graphs(tiny, Recorder(), attention="sdpa")
    buckets = [Bucket(1, 1, 256), Bucket(4, 32, 256), Bucket(2, 8, 256)]
    model.capture(buckets)
    assert list(model._programs) == [buckets[1], buckets[2], buckets[0]]


@pytest.mark.parametrize(("milliseconds", "split"), [([1.0, 2.0], False), ([2.0, 1.0], True)])
def test_the_quicker_attention_is_kept(tiny: Tiny, milliseconds: list[float], split: bool) -> None:
    recorder = Recorder(milliseconds)
    model = with_graphs(tiny, recorder)
    rows = rows_of(tiny)
    assert_near(model.forward(rows), tiny.torch().forward(rows))
    assert recorder.asked == [True, True] and [program.split for program in model._programs.values()] == [split]


@pytest.mark.parametrize("failing", [0, 1])
def test_one_attention_that_cannot_be_recorded_leaves_the_other(tiny: Tiny, caplog: pytest.LogCaptureFixture, failing: int) -> None:
    model = with_graphs(tiny, Recorder(fails=lambda number: number == failing))
    rows = rows_of(tiny)
    assert_near(model.forward(rows), tiny.torch().forward(rows))
    assert [program.split for program in model._programs.values()] == [failing == 0] and len(caplog.records) == 1


def test_without_graphs_the_model_goes_on_and_says_so_once(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(fails=lambda number: True)
    model, plain = with_graphs(tiny, recorder, attention="sdpa"), tiny.torch()
    for tokens in (1, 8, 32):
        assert_near(model.forward(rows_of(tiny, tokens=tokens)), plain.forward(rows_of(tiny, tokens=tokens)))
    assert len(recorder.asked) == 1 and recorder.replays == 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING] and "graphs" in caplog.text


def test_many_rows_are_not_measured(tiny: Tiny) -> None:
    """With enough rows attention keeps a device busy as it is."""
    recorder = Recorder()
    model = with_graphs(tiny, recorder, slots=32)
    model.forward(rows_of(tiny, 32, 64))
    assert recorder.asked == [False]


def test_a_layer_that_cannot_be_compiled_is_run_as_it_is(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> Any:
        raise ValueError("no compiler found")

    model = tiny.torch(together=True)
    model._compiled = broken
    for tokens in (8, 200):
        assert_near(model.forward(rows_of(tiny, tokens=tokens)), tiny.torch().forward(rows_of(tiny, tokens=tokens)))
    assert model._compiled is None and len(caplog.records) == 1 and "compiled" in caplog.text


def test_the_layer_compiles_whole_and_not_for_every_size(tiny: Tiny) -> None:
    """No part of the layer escapes the compiler, and sizes become variables of the same code."""
    counter = CompileCounter()
    model, plain = tiny.torch(slots=8, length=2500, together=True), tiny.torch(slots=8, length=2500)
    torch._dynamo.reset()
    model._compiled = compiled_layer(backend=counter)
    for count, tokens, start in ((1, 1, 0), (1, 8, 3), (2, 1, 40), (4, 32, 1000), (8, 1, 2100), (1, 32, 2100), (2, 8, 0)):
        rows = rows_of(tiny, count, tokens, start)
        plain.cache.copy_(model.cache)
        assert_near(model.forward(rows), plain.forward(rows))
    for tokens in (129, 200, 1024):
        assert_near(model.forward([Row(0, 0, tiny.tokens(tokens), True)]), plain.forward([Row(0, 0, tiny.tokens(tokens), True)]))
    assert model._compiled is not None and 0 < counter.frame_count < 9


def test_the_compiled_layer_writes_the_cache_in_place(tiny: Tiny) -> None:
    """The same through the compiler's own tracing of tensor operations, which makes functions of what changes in place."""
    model, plain = tiny.torch(together=True, attention="split"), tiny.torch()
    torch._dynamo.reset()
    model._compiled = compiled_layer(backend="aot_eager")
    rows = rows_of(tiny)
    assert_near(model.forward(rows), plain.forward(rows))
    after = [Row(slot, 8, tiny.tokens(4, 9), True) for slot in range(3)]
    assert_near(model.forward(after), plain.forward(after))
    assert model._compiled is not None
    assert torch.allclose(held(model), held(plain), atol=1e-5)
