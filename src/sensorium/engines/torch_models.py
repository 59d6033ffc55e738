"""Models on torch as an engine process hosts them: what one will take, loading it, giving its memory back. It knows no lanes or calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.engines import devices
from sensorium.engines.diffusion_vlm import torch_backend
from sensorium.engines.diffusion_vlm.config import read_config
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.flux import fitting
from sensorium.engines.flux import folder as checkpoints
from sensorium.engines.hosted import Kind, Place
from sensorium.engines.orders import ModelOrder
from sensorium.errors import SettingsError

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model on its device, and what it takes there in bytes."""

    model: Any
    place: Place
    bytes: int


def device(order: ModelOrder) -> str:
    """The device that an order means, by its full name. Raises SettingsError where it is not there."""
    return str(devices.choose(order.device))


def free(name: str) -> int:
    """What models may still take on a device, in bytes."""
    return devices.free_bytes(devices.torch_library().device(name))


def expected(order: ModelOrder, kind: Kind, memory: int) -> tuple[Place, int]:
    """Where and how a model will run when it may take `memory` bytes, and what it will take; nothing is loaded.

    Raises SettingsError when it does not fit, or the folder is not what it seems.
    """
    folder = Path(order.path)
    if kind == "diffusion_vlm":
        fit = torch_backend.fitting(folder, order, memory)
        return Place(str(fit.device), _name(fit.dtype), fit.room.slots, fit.room.length), fit.bytes
    place = _drawing_place(order)
    kind_of_device = place.device.partition(":")[0]
    problems = fitting.missing(order) + fitting.conflicts(order, kind_of_device)
    if problems:
        raise SettingsError([f"{folder.name}: {problem}" for problem in problems])
    item = devices.dtype(order.dtype, devices.choose(order.device)).itemsize
    size = fitting.expected_bytes(checkpoints.read(folder).weights, order, kind_of_device, item)
    if size > memory:
        told = f"{folder.name} takes about {size / 1e9:.1f} GB of {place.device}, and only {memory / 1e9:.1f} GB may be used"
        raise SettingsError([f"{told}; set quant (nf4 takes least) or offload"])
    return place, size


def shares(models: Sequence[tuple[ModelOrder, Kind]], budget: int) -> list[int] | None:
    """What each model may take in bytes, so that all are on their device together; None when they cannot be.

    Drawing models take what they need, VLMs share what is left. Raises SettingsError for a model that does not fit alone.
    """
    sizes = [expected(order, kind, budget)[1] for order, kind in models]
    if len(models) == 1:
        return [budget]
    fixed = sum(size for size, (_, kind) in zip(sizes, models, strict=True) if kind != "diffusion_vlm")
    seeing = sum(kind == "diffusion_vlm" for _, kind in models)
    left = (budget - fixed) // max(1, seeing)
    if left < 0:
        return None
    try:
        for order, kind in models:
            if kind == "diffusion_vlm":
                expected(order, kind, left)
    except SettingsError:
        return None
    return [left if kind == "diffusion_vlm" else size for size, (_, kind) in zip(sizes, models, strict=True)]


def load(order: ModelOrder, kind: Kind, memory: int, progress: Progress | None = None) -> Loaded:
    """Load a model that may take `memory` bytes. Raises SettingsError as `expected` does, Unavailable (out_of_memory)."""
    folder = Path(order.path)
    if kind == "diffusion_vlm":
        _, size = expected(order, kind, memory)
        backend = torch_backend.load(folder, order, progress, memory)
        model = DiffusionVLM.over(folder, read_config(folder), backend, shared=True)
        return Loaded(model, Place(str(backend.device), backend.numbers, backend.slots, backend.length), size)
    # Start-up cost: diffusers takes seconds to import, and only FLUX needs it.
    from sensorium.engines.flux.engine import Flux

    drawing = Flux.load(folder, order, progress)
    return Loaded(drawing, _drawing_place(order), drawing.bytes)


def unload(model: Any) -> None:
    """Give a model's memory back; it cannot be used afterwards. On the thread that it works on, with no work under way."""
    if isinstance(model, DiffusionVLM):
        backend = model.batch.backend
        assert isinstance(backend, torch_backend.TorchBackend)
        backend.close()
    else:
        model.unload()


def _drawing_place(order: ModelOrder) -> Place:
    where = devices.choose(order.device)
    name = _name(devices.dtype(order.dtype, where))
    return Place(str(where), name if order.quant == "none" else f"{name}, {order.quant}")


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
