"""Loads the models of an engine process one after the other, and tells how far it is.

It knows what each layout of a folder means and which code reads it; it does not know HTTP or who is told.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.flow_image.engine import FlowImage
from sensorium.engines.hosted import Hosted, Kind, Place
from sensorium.engines.lane import Lane
from sensorium.engines.orders import ModelOrder, Orders
from sensorium.engines.shared_lane import SharedLane
from sensorium.errors import SettingsError

NUMPY, CPU = "numpy", "cpu"
SIDE, PIPELINE, CONFIG = "sensorium.json", "model_index.json", "config.json"
DECLARED: Final[tuple[Kind, ...]] = ("diffusion_vlm", "flow_image")
log = logging.getLogger("sensorium.engine")


class Loading:
    """The models of `orders`, at first not loaded. `tell` hears how far it is, with one entry for each model."""

    def __init__(self, orders: Orders, tell: Callable[[list[dict[str, Any]]], None]) -> None:
        """Raises SettingsError when a folder holds no model, or one that cannot run as it is ordered; it names all of them."""
        self._orders, self._tell = orders, tell
        self._devices: dict[str, Lane] = {}
        self.hosted = _hosted(orders.models)
        for one in self.hosted:
            one.lane = self._lane(one)

    @property
    def quick(self) -> bool:
        """Whether all models are small enough for callers to wait until they are there."""
        return all(one.order.device == NUMPY for one in self.hosted)

    @property
    def lanes(self) -> list[Lane]:
        """Where the models work, each lane once."""
        return list({id(one.lane): one.lane for one in self.hosted}.values())

    def progress(self) -> list[dict[str, Any]]:
        """How far it is."""
        return [one.progress() for one in self.hosted]

    def run(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Load all. `loop` is that on which calls are served, for models that take turns on a device.

        Raises what loading one raises: SettingsError for a checkpoint that cannot be used, Unavailable without memory.
        """
        for one in self.hosted:
            if one.order.device == NUMPY:
                self._load(one, partial(_small, one))
        devices: dict[str, list[Hosted]] = {}
        for one in self.hosted:
            if one.order.device != NUMPY:
                devices.setdefault(_device(one.order), []).append(one)
        for name, there in devices.items():
            self._load_beside(name, there, loop)
        self.told()

    def told(self) -> None:
        """Tell how far it is."""
        self._tell(self.progress())

    def close(self, patience_s: float) -> bool:
        """End the work of all models; whether all of it ended in that time."""
        ended = [lane.close(patience_s) for lane in self.lanes]  # all of them, whatever the first says
        return all(ended)

    def _lane(self, one: Hosted) -> Lane:
        """Small models share one, and so do drawing models of a device; a VLM on torch has its own."""
        if one.kind == "diffusion_vlm" and one.order.device != NUMPY:
            return SharedLane(one.name, None, self._orders.queue)
        return self._common(CPU if one.order.device == NUMPY else one.order.device)

    def _common(self, device: str) -> Lane:
        """The lane of a device."""
        return self._devices.setdefault(device, Lane(device, self._orders.queue))

    def _load(self, one: Hosted, load: Callable[[], None]) -> None:
        one.state = "loading"
        self.told()
        try:
            load()
        except BaseException:
            one.state = "failed"
            raise
        log.info("model %s is ready: %s", one.name, one.place)

    def _load_beside(self, name: str, hosted: list[Hosted], loop: asyncio.AbstractEventLoop | None) -> None:
        """Load the models of one device, which stay there if all of them fit and take turns if they do not."""
        # Start-up cost: torch takes seconds to import, and is not there in every install.
        from sensorium.engines import torch_models
        from sensorium.engines.turns import Turns

        for one in hosted:
            if not isinstance(one.lane, SharedLane):
                one.lane = self._common(name)  # whatever the orders call it
        given = self._orders.memory_gb
        budget = torch_models.free(name) if given is None else round(given * 1e9)
        shares = torch_models.shares([(one.order, one.kind) for one in hosted], budget)
        if shares is None:
            assert loop is not None
            log.info("the models of %s do not fit there together and take turns", name)
            turns = Turns(hosted, budget, _settle, self._advance)
            asyncio.run_coroutine_threadsafe(turns.take_in(self.told), loop).result()
            return
        for one, memory in zip(hosted, shares, strict=True):
            self._load(one, partial(self._load_large, one, memory))

    def _load_large(self, one: Hosted, memory: int) -> None:
        # Start-up cost: as above.
        from sensorium.engines import torch_models

        _settle(one, torch_models.load(one.order, one.kind, memory, self._advance(one)))

    def _advance(self, one: Hosted) -> Callable[[int, int], None]:
        def advance(done: int, whole: int) -> None:
            if one.advance(done, whole):
                self.told()

        return advance


def _small(one: Hosted) -> None:
    """Load a model for numpy."""
    folder = Path(one.order.path)
    if one.kind == "diffusion_vlm":
        model = DiffusionVLM.load(folder)
        one.ready(model, one.lane, Place(NUMPY, "float32", context=model.config.positions))
    else:
        one.ready(FlowImage.load(folder), one.lane, Place(NUMPY, "float32"))


def _settle(one: Hosted, loaded: Any) -> None:
    """A model has been loaded by torch."""
    if isinstance(one.lane, SharedLane):
        one.lane.batch = loaded.model.batch
    one.ready(loaded.model, one.lane, loaded.place)


def _device(order: ModelOrder) -> str:
    # Start-up cost: torch takes seconds to import; without it, this says how to install it.
    from sensorium.engines.devices import choose

    return str(choose(order.device))


def kind(folder: Path) -> Kind:
    """What the folder holds, by its files. Raises SettingsError that names what is expected."""
    if not folder.is_dir():
        raise SettingsError([f"{folder.name} is no folder"])  # its name alone: callers are told why an engine cannot run
    if (folder / SIDE).is_file():
        return _declared(folder)
    if (folder / PIPELINE).is_file():
        return "flux"
    if (folder / CONFIG).is_file():
        return "diffusion_vlm"  # official checkpoints come without a file of ours
    expected = f"{CONFIG} (a block-diffusion VLM), {PIPELINE} (FLUX in the layout of diffusers) or {SIDE} (a model of ours)"
    raise SettingsError([f"{folder.name} holds no model that runs here; one of these files is expected: {expected}"])


def _declared(folder: Path) -> Kind:
    try:
        declared = json.loads((folder / SIDE).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        raise SettingsError([f"{folder.name}/{SIDE} cannot be read"]) from None
    said = declared.get("kind") if isinstance(declared, dict) else None
    for known in DECLARED:
        if said == known:
            return known
    raise SettingsError([f"{folder.name}/{SIDE}: kind must be {' or '.join(DECLARED)}, not {said!r}"])


def _hosted(orders: Sequence[ModelOrder]) -> list[Hosted]:
    found: list[Hosted] = []
    problems = [] if orders else ["no model is named"]
    for order in orders:
        try:
            found.append(Hosted(order, kind(Path(order.path))))
        except SettingsError as error:
            problems += error.problems
    names = [name for one in found for name in one.names]
    problems += [f"two models are called {name}; give one of them another name" for name in dict.fromkeys(names) if names.count(name) > 1]
    problems += [problem for one in found for problem in _misfits(one)]
    if problems:
        raise SettingsError(problems)
    return found


def _misfits(one: Hosted) -> list[str]:
    """Why it cannot run as it is ordered."""
    device = one.order.device
    if one.kind == "flow_image" and device != NUMPY:
        return [f"{one.name}: a flow_image model runs with device {NUMPY} only, not {device}"]
    if one.kind == "flux" and device == NUMPY:
        return [f"{one.name}: FLUX runs with torch; its device cannot be {NUMPY}"]
    return []
