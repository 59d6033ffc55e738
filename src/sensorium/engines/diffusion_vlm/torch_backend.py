"""The torch decoder and tower behind the row seam. On a GPU pictures are looked at beside the running answers, on a stream of their own.

It does not know decoding, text or which answer has which slot.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from sensorium.engines import devices, torch_weights
from sensorium.engines.diffusion_vlm.buckets import LONGEST, common_buckets
from sensorium.engines.diffusion_vlm.config import VLMConfig, read_config
from sensorium.engines.diffusion_vlm.numpy_layers import Floats
from sensorium.engines.diffusion_vlm.room import CPU, GPU, TOWER, Room, choose_room, demand
from sensorium.engines.diffusion_vlm.rows import Answer, Features, Row
from sensorium.engines.diffusion_vlm.torch_adapter import FOLDER, load_adapter
from sensorium.engines.diffusion_vlm.torch_attention import PART_UNIT
from sensorium.engines.diffusion_vlm.torch_layers import SCRATCH
from sensorium.engines.diffusion_vlm.torch_model import TorchModel
from sensorium.engines.diffusion_vlm.torch_vision import TorchTower
from sensorium.engines.diffusion_vlm.weights import CONVERSIONS, plan
from sensorium.engines.orders import ModelOrder
from sensorium.errors import SettingsError, Unavailable

log = logging.getLogger("sensorium.engine")
RETRY_AFTER_S = 5.0
FULL = (
    "DefaultCPUAllocator: can't allocate memory",
    "MPS backend out of memory",
    # The driver and the libraries beside torch's own allocator.
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
Result = TypeVar("Result")


class Look:
    """Projector rows [n, hidden] that a device computes or has computed; `done` is the event of their being there, None on a CPU."""

    def __init__(self, rows: Any, done: Any) -> None:
        self.rows, self.done = rows, done

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> Look:
        return Look(self.rows[part], self.done)


class TorchBackend:
    """`rows.Backend` over a decoder and a tower on one device. One thread at a time."""

    def __init__(self, model: TorchModel, tower: TorchTower) -> None:
        self.model, self.tower = model, tower
        self.slots, self.length = model.slots, model.length
        self.device = model.device
        self.transfer_s = 0.0
        with torch_weights.current(self.device):
            self._copying, self._looking = (torch.cuda.Stream() if self.device.type == "cuda" else None for _ in range(2))
            synchronise(self.device)  # the weights were written on another stream

    def reserve(self, length: int) -> None:
        """The cache has its full size from the start. Raises ValueError beyond it."""
        if length > self.length:
            raise ValueError(f"positions up to {length} asked for, the cache holds {self.length}")

    def forward(self, rows: Sequence[Row]) -> list[Answer]:
        """Answer rows of different slots. Raises Unavailable (out_of_memory) when the device has no room for them, and DeviceLost."""

        def forward() -> list[Answer]:
            with torch_weights.current(self.device):
                settled = [self._settled(row) for row in rows]
            return self.model.forward(settled)

        return guarded(self.device, "this call", forward)

    def features(self, pixels: Floats) -> Look:
        """Begin to look at a picture. Raises Unavailable (out_of_memory) when the device has no room for this one."""
        return guarded(self.device, "a picture of this size", lambda: self._look(pixels))

    def ready(self, features: Look | None) -> bool:
        """Whether a row with these features would not wait for them."""
        if features is None or features.done is None:
            return True
        return guarded(self.device, "a picture", lambda: bool(features.done.query()))

    def join(self, parts: Sequence[Look]) -> Look:
        """The rows of several pictures as one."""
        if len(parts) == 1:
            return parts[0]
        return guarded(self.device, "these pictures", lambda: self._computed(lambda: torch.cat([part.rows for part in parts])))

    def copy(self, source: int, target: int, length: int) -> None:
        """Have slot `target` begin with the first `length` positions of slot `source`."""
        guarded(self.device, "this call", lambda: self.model.copy(source, target, length))

    @property
    def numbers(self) -> str:
        """The number formats, for status pages: of the decoder, and of the tower where it has another."""
        names = dict.fromkeys(str(one.dtype).removeprefix("torch.") for one in (self.model, self.tower))
        return " and, for pictures, ".join(names)

    def close(self) -> None:
        """Give the device's memory back. The backend cannot be used afterwards."""
        synchronise(self.device)
        del self.model, self.tower
        gc.collect()  # recorded forwards and the decoder refer to each other
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _look(self, pixels: Floats) -> Look:
        with torch_weights.current(self.device):
            moved = self._moved(pixels)
        return self._computed(lambda: self.tower.features(moved).to(self.model.dtype))

    def _moved(self, pixels: Floats) -> Any:
        """Pixels on the device. A copy of a millisecond is waited for, on a stream where it waits for nothing else."""
        begun = time.perf_counter()
        host = torch.empty(pixels.shape, dtype=torch.float32, pin_memory=self._copying is not None)
        host.numpy()[...] = pixels
        moved = host
        if self._copying is not None:
            with torch.cuda.stream(self._copying):
                moved = host.to(self.device, non_blocking=True)
            self._copying.synchronize()
            moved.record_stream(self._looking)
        elif self.device.type != "cpu":
            moved = host.to(self.device)
        self.transfer_s += time.perf_counter() - begun
        return moved

    def _computed(self, rows: Callable[[], Any]) -> Look:
        """Rows computed on the tower's stream, or here and now."""
        if self._looking is None:
            return Look(rows(), None)
        with torch_weights.current(self.device), torch.cuda.stream(self._looking):
            look = Look(rows(), torch.cuda.Event())
            look.done.record()
        return look

    def _settled(self, row: Row) -> Row:
        """The row with plain tensors for its features; the decoder's stream waits for them."""
        if row.features is None:
            return row
        look = row.features.rows
        if not isinstance(look, Look):
            return row
        if look.done is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(look.done)
            look.rows.record_stream(stream)
        return replace(row, features=replace(row.features, rows=look.rows))


def load(
    folder: Path,
    order: ModelOrder,
    progress: torch_weights.Progress | None = None,
    memory: int | None = None,
    *,
    together: bool | None = None,
) -> TorchBackend:
    """A checkpoint folder in the official layout on the device that the order names.

    `memory` is what the model may take there in bytes (None: what is free). Raises SettingsError that lists what is wrong with the folder
    or says what does not fit, and Unavailable (out_of_memory) where the device filled up meanwhile.
    """
    fit = fitting(folder, order, memory)
    config, device, dtype, vision_dtype, room = fit.config, fit.device, fit.dtype, fit.vision_dtype, fit.room

    def build() -> TorchBackend:
        adapter = load_adapter(folder / FOLDER, config) if (folder / FOLDER).is_dir() else None
        tensors = torch_weights.load(
            folder,
            plan(config),
            device=device,
            dtype=lambda name: vision_dtype if name.startswith(TOWER) else dtype,
            foreign=CONVERSIONS,
            progress=progress,
        )
        seeing = {name: tensors.pop(name) for name in [*tensors] if name.startswith(TOWER)}
        tower = TorchTower(config, seeing, device=device, dtype=vision_dtype)
        seeing.clear()
        model = TorchModel(
            config, tensors, device=device, dtype=dtype, slots=room.slots, length=room.length, together=together,
            graphs=order.graphs, compile=order.compile, attention=order.attention, adapter=adapter,
        )  # fmt: skip
        backend = TorchBackend(model, tower)
        if device.type == "cuda":
            warm_up(backend)
        return backend

    return guarded(device, f"the model {folder.name}", build)


def warm_up(backend: TorchBackend) -> None:
    """Have everything compiled, recorded and taken that ordinary calls need, before there are any: minutes the first time, then seconds."""
    model, begun = backend.model, time.perf_counter()
    model.capture(common_buckets(model.limits))
    piece = Row(0, 0, [0] * min(LONGEST + 1, model.length), True, last=True)  # too long for a batch
    backend.forward([piece])
    cell = backend.tower.config.cell
    look = backend.features(np.zeros((3, 2 * cell, 2 * cell), np.float32))
    backend.forward([replace(piece, features=Features(range(len(look)), look))])
    backend.transfer_s = 0.0
    log.info("made ready on %s in %.0f s", backend.device, time.perf_counter() - begun)


@dataclass(frozen=True, slots=True)
class Fit:
    """How a checkpoint will lie on its device: the number formats of decoder and tower, the slots, and all it takes in bytes."""

    config: VLMConfig
    device: Any
    dtype: Any
    vision_dtype: Any
    room: Room
    bytes: int


def fitting(folder: Path, order: ModelOrder, memory: int | None = None) -> Fit:
    """Choose all that by the order, the config and the device's free memory; no weights are read. Raises SettingsError as `load` does."""
    config, device = read_config(folder), devices.choose(order.device)
    dtype, vision_dtype = (devices.dtype(name, device) for name in (order.dtype, order.vision_dtype or order.dtype))
    free = devices.free_bytes(device)
    gpu = device.type == "cuda"
    needs = demand(config, dtype.itemsize, vision_dtype.itemsize, scratch=SCRATCH, unit=PART_UNIT, graphs=gpu)
    try:
        room = choose_room(
            needs,
            free if memory is None else min(free, memory),
            config.positions,
            CPU if device.type == "cpu" else GPU,
            slots=order.slots,
            context=order.context,
        )
    except SettingsError as error:
        raise SettingsError([f"{folder.name} on {device}: {problem}" for problem in error.problems]) from error
    return Fit(config, device, dtype, vision_dtype, room, needs.weights + needs.work + needs.cache(room))


def guarded(device: Any, what: str, work: Callable[[], Result]) -> Result:
    """Do the work. When the device's memory is too small for it, free what it left and raise Unavailable; when it is dead, DeviceLost."""
    try:
        return work()
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError):
            devices.check_alive(device)
            if not any(said in str(error) for said in FULL):
                raise
    # Only here, with the error and the frames it kept alive gone, can memory go back to the device.
    if device.type == "cuda":
        synchronise(device)
        torch.cuda.empty_cache()
    raise Unavailable(
        f"the device has too little free memory for {what}; try again later, send less, or give the engine less to hold",
        code="out_of_memory",
        retry_after=RETRY_AFTER_S,
    )


def synchronise(device: Any) -> None:
    """Wait until a GPU has done everything; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
