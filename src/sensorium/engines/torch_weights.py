"""Safetensors checkpoints straight into torch tensors: read in pieces, converted on the device, held against a plan.

Host memory stays at two pieces whatever the checkpoint's size, and nothing refers to the files afterwards, so that they may be replaced.
It does not know any model: the caller brings the plan, as for `weights`, which knows the container.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sensorium.engines import weights
from sensorium.engines.weights import Plan, Stored, Tensors
from sensorium.errors import SettingsError

Progress = Callable[[int, int], None]
Dtype = Any | Callable[[str], Any]

FORMATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I8": torch.int8}
GPU_PIECE = 64 << 20
CPU_PIECE = 4 << 20  # stays in the cache between its reading and its conversion
READERS = 4
READ_APART = 1 << 20  # smaller pieces are read by one thread


def load(
    folder: Path,
    plan: Plan,
    *,
    device: Any,
    dtype: Dtype,
    stem: str = "model",
    foreign: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The tensors of a checkpoint by name, on `device`, in memory of their own.

    `dtype` is a torch number format, or tells one by tensor name. I8 tensors are multiplied by their scales. `progress` is told the bytes
    read and all bytes to read. Raises SettingsError, once, with everything that differs from the plan; or with every tensor that holds
    NaN or infinite values, or whose values are too large for the wanted format.
    """
    tensors = weights.load(folder, plan, stem=stem, foreign=foreign)
    choose = dtype if callable(dtype) else lambda _: dtype
    with current(device), Reader(device, stored_bytes(tensors), progress) as reader:
        loaded = {name: reader.read(name, *tensors.stored(name), choose(name)) for name in plan}
        wrong = reader.wrong()
    if wrong:
        raise SettingsError(weights.abridged([f"{folder.name}: {_complaint(tensors, name, loaded[name])}" for name in wrong]))
    return loaded


def current(device: Any) -> AbstractContextManager[Any]:
    """Make a GPU the one that pinned memory and events belong to, so that no other one is woken up."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def stored_bytes(tensors: Tensors) -> int:
    """What a checkpoint's tensors and their scales take in their files."""
    return sum(part.data.nbytes for name in tensors for part in tensors.stored(name) if part is not None)


def _complaint(tensors: Tensors, name: str, loaded: Any) -> str:
    """What is wrong with a tensor that did not come out finite."""
    if np.isfinite(tensors[name]).all():
        return f"tensor {name} has values beyond the range of {str(loaded.dtype).removeprefix('torch.')}; use bfloat16 or float32"
    return f"tensor {name} holds NaN or infinite values"


class Reader:
    """Moves tensors from mapped files to a device piece by piece, through two buffers that take turns.

    While the device works on one, the other is filled. A buffer is written again only after its copy has ended.
    """

    def __init__(self, device: Any, total: int, progress: Progress | None) -> None:
        self.device = device
        self.piece = CPU_PIECE if device.type == "cpu" else GPU_PIECE
        self._total, self._done = total, 0
        self._progress = progress
        self._pool = ThreadPoolExecutor(READERS, "weights")
        self._buffers: list[Buffer] = []
        self._finite: dict[str, Any] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        self._buffers.clear()

    def read(self, name: str, stored: Stored, scale: Stored | None, dtype: Any) -> Any:
        """One tensor on the device."""
        target = torch.empty(stored.shape, dtype=dtype, device=self.device)
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        factors = None
        if scale is not None:
            factors = self.read(name, scale, None, torch.float32)[:, None]  # its NaN would be in every product
        rows = target.view(stored.shape[0] if stored.shape else 1, -1) if target.numel() else target.view(0, 1)
        width = rows.shape[1] * weights.ITEM_SIZES[stored.kind]
        read_ahead(stored.data)
        for first, last in spans(rows.shape[0], width, self.piece):
            values = self._moved(stored.data[first * width : last * width]).view(FORMATS[stored.kind]).view(last - first, -1)
            if factors is not None:
                values = values.to(torch.float32).mul_(factors[first:last])
            finite &= all_finite(rows[first:last].copy_(values))
        self._finite[name] = finite
        return target

    def _moved(self, data: Any) -> Any:
        """Bytes of a file as bytes on the device. They are good until the call after the next."""
        if not self._buffers or self._buffers[0].size < data.nbytes:
            self._buffers = [Buffer(max(self.piece, data.nbytes), self.device) for _ in range(2)]
        buffer = self._buffers.pop(0)
        self._buffers.append(buffer)
        moved = buffer.send(data, self._pool)
        self._done += data.nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)
        return moved

    def wrong(self) -> list[str]:
        """Names of tensors that hold something other than numbers; waits for the device."""
        if not self._finite:
            return []
        flags = torch.stack(list(self._finite.values())).cpu().tolist()
        return [name for name, good in zip(self._finite, flags, strict=True) if not good]


class Buffer:
    """Host memory that a device can fetch from by itself."""

    def __init__(self, size: int, device: Any) -> None:
        self.size = size
        self.device = device
        self._bytes = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self._sent = torch.cuda.Event() if device.type == "cuda" else None

    def send(self, data: Any, pool: ThreadPoolExecutor) -> Any:
        """Fill the buffer from a mapped file and begin its copy to the device; a CPU's bytes are the buffer's own."""
        if self._sent is not None:
            self._sent.synchronize()
        part = self._bytes[: data.nbytes]
        _fill(part.numpy(), data, pool)
        if self.device.type == "cpu":
            return part
        moved = part.to(self.device, non_blocking=self._sent is not None)
        if self._sent is not None:
            self._sent.record(torch.cuda.current_stream(self.device))
        return moved


def _fill(target: Any, data: Any, pool: ThreadPoolExecutor) -> None:
    """Copy mapped bytes; several threads wait for the disk at once."""
    step = max(READ_APART, -(-len(data) // READERS))
    parts = [slice(at, at + step) for at in range(0, len(data), step)]
    for _ in pool.map(lambda part: np.copyto(target[part], data[part]), parts):
        pass


def read_ahead(data: NDArray[np.uint8]) -> int:
    """Have the system fetch mapped bytes from the disk in large pieces, not page by page; how many it was asked for."""
    root = data.base
    while isinstance(root, np.ndarray):
        root = root.base
    if not isinstance(root, mmap.mmap) or not hasattr(mmap, "MADV_WILLNEED") or not len(data):
        return 0
    begin = int(data.ctypes.data) - np.frombuffer(root, np.uint8).ctypes.data
    first = begin - begin % mmap.PAGESIZE
    with suppress(OSError):  # a hint, which not every file system takes
        root.madvise(mmap.MADV_WILLNEED, first, begin + len(data) - first)
    return begin + len(data) - first


def all_finite(values: Any) -> Any:
    """Whether no value is NaN or infinite, as a tensor. On a CPU by the extremes, which NaN reaches too: 20 times as fast there."""
    if values.device.type != "cpu":
        return values.isfinite().all()
    least, most = torch.aminmax(values)
    return least.isfinite() & most.isfinite()


def spans(rows: int, width: int, piece: int) -> Iterator[tuple[int, int]]:
    """Cut `rows` of `width` bytes into spans (first, last) of at most `piece` bytes, but of one row at least."""
    step = max(1, piece // max(1, width))
    return ((first, min(first + step, rows)) for first in range(0, rows, step))
