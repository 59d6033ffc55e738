"""The recording of CUDA graphs on a device of cardboard: what is waited for, the order, and what a failed recording leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch._dynamo.config as settings

from sensorium.engines.diffusion_vlm.torch_model import COMPILED_SHAPES, compiled_layer
from sensorium.engines.diffusion_vlm.torch_programs import WARM_UP, Recorder


class Stream:
    """A stream that notes what happens on it."""

    def __init__(self, cards: Cards, name: str) -> None:
        self.cards, self.name = cards, name

    def wait_stream(self, other: Stream) -> None:
        self.cards.log.append(f"{self.name} waits for {other.name}")

    def synchronize(self) -> None:
        self.cards.log.append(f"{self.name} done")


class Cards:
    """As much of torch.cuda as recording uses. `breaks` says that the device breaks a recording off, as it does on a forbidden call."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.stream = Stream(self, "default")
        self.recording = self.breaks = False
        self.routed: set[int] = set()  # pools to which the allocator sends what a recording takes
        self.priority: int | None = None

    def new_stream(self, priority: int = 0) -> Stream:
        self.priority = priority
        return Stream(self, "side")

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    def graph(self, graph: Any, *, pool: int, stream: Stream, capture_error_mode: str) -> Recording:
        assert capture_error_mode == "thread_local"
        return Recording(self, pool, stream)

    def end(self, device: int, pool: int) -> None:
        if pool not in self.routed:
            raise RuntimeError("not currently recording to this pool")
        self.routed.remove(pool)


class Recording:
    """torch's own context: where its end fails, it gives neither the pool nor the stream back."""

    def __init__(self, cards: Cards, pool: int, stream: Stream) -> None:
        self.cards, self.pool, self.stream = cards, pool, stream

    def __enter__(self) -> None:
        self.before, self.cards.stream = self.cards.stream, self.stream
        self.cards.routed.add(self.pool)
        self.cards.recording = True
        self.cards.log.append("record")

    def __exit__(self, *_: object) -> None:
        self.cards.recording = False
        if self.cards.breaks:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.cards.routed.remove(self.pool)
        self.cards.stream = self.before


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Cards:
    made = Cards()
    stand_ins = {
        "graph_pool_handle": lambda: 7,
        "Stream": made.new_stream,
        "stream": made.on,
        "current_stream": lambda: made.stream,
        "current_device": lambda: 0,
        "CUDAGraph": object,
        "graph": made.graph,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", made.end, raising=False)
    return made


def test_it_warms_up_after_all_earlier_work_and_then_records(cards: Cards) -> None:
    def body() -> None:
        assert cards.stream.name == "side"
        cards.log.append("body")

    Recorder()(body, timed=False)
    assert cards.log == ["side waits for default", *["body"] * WARM_UP, "side done", "record", "body"]
    assert cards.stream.name == "default" and not cards.routed
    assert cards.priority is not None and cards.priority < 0


@pytest.mark.parametrize("breaks", [True, False])
def test_a_recording_that_fails_leaves_neither_stream_nor_allocator_in_it(cards: Cards, breaks: bool) -> None:
    """Whether the device broke it off, so that its end fails too, or only the body failed."""

    def body() -> None:
        if cards.recording:
            cards.breaks = breaks
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    recorder = Recorder()
    with pytest.raises(RuntimeError, match="CUDA error"):
        recorder(body, timed=False)
    assert cards.stream.name == "default" and not cards.routed
    cards.breaks = False
    recorder(lambda: None, timed=False)
    assert not cards.routed


def test_a_body_that_fails_before_is_never_recorded(cards: Cards) -> None:
    def body() -> None:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        Recorder()(body, timed=False)
    assert cards.stream.name == "default" and "record" not in cards.log


def test_each_thread_may_compile_as_many_shapes() -> None:
    """The compiler's settings belong to the thread that makes them, and a model is loaded by one and used by another."""
    run = compiled_layer(backend="eager")
    seen: list[int] = []

    def use() -> None:
        with pytest.raises(TypeError):
            run()  # without anything to compute
        seen.append(settings.recompile_limit)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [COMPILED_SHAPES]
