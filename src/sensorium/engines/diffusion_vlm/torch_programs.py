"""One forward of a bucket's shape, ready to run again: static buffers in and out, and on a GPU a recorded graph between them.

It does not know what is computed: the body is a function from the input buffers to the output buffer. A graph that cannot be recorded
costs speed only: the body then runs as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from sensorium.engines.diffusion_vlm.buckets import Bucket
from sensorium.engines.diffusion_vlm.noise import signed
from sensorium.engines.diffusion_vlm.rows import Answer, Row

log = logging.getLogger(__name__)

WARM_UP = 2
TIMED = 5
FIELDS = 6


class Inputs:
    """What a batch's rows ask for, as one table of int64 [rows, fields and tokens], and bits of allowed ids if it is constrained.

    Slots without a row have a count of 0. Written on the host, moved in one copy.
    """

    def __init__(self, bucket: Bucket, vocab: int, device: torch.device) -> None:
        self._pinned = pinned = device.type == "cuda"
        shape = (bucket.rows, FIELDS + bucket.tokens)
        self.host = torch.zeros(shape, dtype=torch.int64, pin_memory=pinned)
        self.table = torch.zeros(shape, dtype=torch.int64, device=device)
        self.host_bits: torch.Tensor | None = None
        self.bits: torch.Tensor | None = None
        if bucket.constrained:
            bits = (bucket.rows, bucket.tokens, -(-vocab // 32) * 4)
            self.host_bits = torch.full(bits, 255, dtype=torch.uint8, pin_memory=pinned)
            self._masked: list[tuple[int, slice]] = []
            self.bits = torch.zeros(bits, dtype=torch.uint8, device=device)

    def fill(self, rows: Sequence[Row]) -> None:
        """Write the rows of a tick and send them off."""
        table = self.host.numpy()
        table[:] = 0
        for row in rows:
            count = len(row.tokens)
            table[row.slot, :FIELDS] = (row.start, count, row.causal, row.draft, float_bits(row.temperature), signed(row.seed))
            table[row.slot, FIELDS : FIELDS + count] = row.tokens
        self.table.copy_(self.host, non_blocking=self._pinned)
        if self.host_bits is not None and self.bits is not None:
            allowed = self.host_bits.numpy()
            while self._masked:  # all of it would be megabytes
                allowed[self._masked.pop()] = 255
            for row in rows:
                if row.allowed is not None:
                    count = len(row.tokens)
                    self._masked.append((row.slot, slice(count - len(row.allowed), count)))
                    allowed[self._masked[-1]] = row.allowed.astype("<u4").view(np.uint8)
            self.bits.copy_(self.host_bits, non_blocking=self._pinned)

    # Views of the table; everything but the ids is [rows].
    @property
    def ids(self) -> torch.Tensor:
        return self.table[:, FIELDS:]

    @property
    def start(self) -> torch.Tensor:
        return self.table[:, 0]

    @property
    def count(self) -> torch.Tensor:
        return self.table[:, 1]

    @property
    def causal(self) -> torch.Tensor:
        return self.table[:, 2] != 0

    @property
    def draft(self) -> torch.Tensor:
        return self.table[:, 3] != 0

    @property
    def temperature(self) -> torch.Tensor:
        return self.table[:, 4].int().view(torch.float32)

    @property
    def seed(self) -> torch.Tensor:
        return self.table[:, 5]


def float_bits(value: float) -> int:
    """A number's float32 bits, as an int32 holds them."""
    return int(np.float32(value).view(np.int32))


Body = Callable[[Inputs, bool], torch.Tensor]
"""From the inputs to ids and float32 bits of confidences, int64 [2, rows, tokens]; the flag splits the keys in attention."""


class Record(Protocol):
    """What makes a graph of a function: something to replay, and how many milliseconds that takes if `timed`."""

    def __call__(self, run: Callable[[], None], *, timed: bool) -> tuple[Any, float]: ...


class Program:
    """A body with its buffers. `launch` does not wait for the device; `answers` follows once it is done."""

    def __init__(self, bucket: Bucket, inputs: Inputs, body: Body, *, split: bool) -> None:
        self.bucket, self.inputs, self.split = bucket, inputs, split
        self._body = body
        device = inputs.table.device
        shape = (2, bucket.rows, bucket.tokens)
        self._out = torch.zeros(shape, dtype=torch.int64, device=device)
        self._host = torch.zeros(shape, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._graph: Any = None

    def run(self, split: bool) -> None:
        """The body, from static inputs to static outputs."""
        self._out.copy_(self._body(self.inputs, split))

    def record(self, recorder: Record, choices: Sequence[bool]) -> None:
        """Record the body as a graph, with the quicker of the `choices` of splitting. Raises what the recording raises."""
        self.inputs.table.zero_()  # no rows: what is computed on the way goes to scratch places
        best = float("inf")
        for split in choices:
            try:
                graph, milliseconds = recorder(partial(self.run, split), timed=len(choices) > 1)
            except Exception:  # outermost for all but the last choice: another one may do
                if self._graph is None and split == choices[-1]:
                    raise
                log.warning("attention with split=%s cannot be recorded for %s", split, self.bucket, exc_info=True)
                continue
            if self._graph is None or milliseconds < best:
                self._graph, self.split, best = graph, split, milliseconds

    def launch(self, rows: Sequence[Row]) -> None:
        """Begin to answer these rows."""
        self.inputs.fill(rows)
        if self._graph is None:
            self.run(self.split)
        else:
            self._graph.replay()
        self._host.copy_(self._out, non_blocking=self._out.is_cuda)

    def answers(self, rows: Sequence[Row]) -> list[Answer]:
        """The answers to the rows launched last, once the device is done."""
        out = self._host.numpy()
        confidence = out[1].astype(np.int32).view(np.float32)
        spans = [(row.slot, slice(len(row.tokens) - 1 if row.last else 0, len(row.tokens))) for row in rows]
        return [(out[0, slot, span].copy(), confidence[slot, span].copy()) for slot, span in spans]


class Recorder:
    """Records CUDA graphs, all on one stream and in one pool of memory: no two of them run at once.

    Their kernels go before those of other streams, so that pictures which are looked at do not hold up the answers.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(priority=-1)
        self._failed: list[Any] = []

    def __call__(self, run: Callable[[], None], *, timed: bool) -> tuple[Any, float]:
        """A graph of `run` and, if `timed`, the milliseconds of one replay."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):  # around all of it: a recording that fails does not give the stream back
            for _ in range(WARM_UP):
                run()
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                    run()
            except BaseException:
                self._abandon(graph)
                raise
        return graph, _milliseconds(graph) if timed else 0.0

    def _abandon(self, graph: Any) -> None:
        """Have the allocator know that a recording is over. One that the device broke off is not ended by its own end: from then on the
        allocator would give nothing back, and ask the graph about every piece of memory."""
        self._failed.append(graph)
        with suppress(RuntimeError):  # it had ended
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)


def _milliseconds(graph: Any) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    begin.record()
    for _ in range(TIMED):
        graph.replay()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / TIMED
