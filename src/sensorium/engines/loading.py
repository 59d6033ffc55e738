"""Loads the models of an engine process one after the other, and tells how far it is.

It knows what each layout of a folder means and which code reads it; it does not know HTTP or who is told.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.flow_image.engine import FlowImage
from sensorium.engines.hosted import Hosted, Kind, Place
from sensorium.engines.lane import Lane
from sensorium.engines.orders import ModelOrder, Orders
from sensorium.errors import SettingsError

NUMPY: Final = "numpy"
SIDE, PIPELINE, CONFIG = "sensorium.json", "model_index.json", "config.json"
DECLARED: Final[tuple[Kind, ...]] = ("diffusion_vlm", "flow_image")
log = logging.getLogger("sensorium.engine")


class Loading:
    """The models of `orders`, at first not loaded. `tell` hears how far it is, with one entry for each model."""

    def __init__(self, orders: Orders, tell: Callable[[list[dict[str, Any]]], None]) -> None:
        """Raises SettingsError when a folder holds no model, or one that cannot run as it is ordered; it names all of them."""
        self._orders, self._tell = orders, tell
        self.hosted = _hosted(orders.models)
        self._cpu = Lane("cpu", orders.queue)
        self.lanes: list[Lane] = [self._cpu]

    @property
    def quick(self) -> bool:
        """Whether all models are small enough for callers to wait until they are there."""
        return all(one.order.device == NUMPY for one in self.hosted)

    @property
    def over(self) -> bool:
        """Whether all models are there."""
        return all(one.state == "ready" for one in self.hosted)

    def progress(self) -> list[dict[str, Any]]:
        """How far it is."""
        return [one.progress() for one in self.hosted]

    def run(self) -> None:
        """Load all. Raises what loading one raises: SettingsError for a checkpoint that cannot be used, Unavailable without memory."""
        for one in self.hosted:
            one.state = "loading"
            self._tell(self.progress())
            try:
                self._load(one)
            except BaseException:
                one.state = "failed"
                raise
            log.info("model %s is ready", one.name)
        self._tell(self.progress())

    def close(self, patience_s: float) -> bool:
        """End the work of all models; whether all of it ended in that time."""
        ended = [lane.close(patience_s) for lane in self.lanes]  # all of them, whatever the first says
        return all(ended)

    def _load(self, one: Hosted) -> None:
        folder = Path(one.order.path)
        if one.kind == "diffusion_vlm":
            model = DiffusionVLM.load(folder)
            one.ready(model, self._cpu, Place(NUMPY, "float32", context=model.config.positions))
        else:
            one.ready(FlowImage.load(folder), self._cpu, Place(NUMPY, "float32"))


def kind(folder: Path) -> Kind:
    """What the folder holds, by its files. Raises SettingsError that names what is expected."""
    if not folder.is_dir():
        raise SettingsError([f"{folder} is no folder"])
    if (folder / SIDE).is_file():
        return _declared(folder)
    if (folder / PIPELINE).is_file():
        return "flux"
    if (folder / CONFIG).is_file():
        return "diffusion_vlm"  # official checkpoints come without a file of ours
    expected = f"{CONFIG} (a block-diffusion VLM), {PIPELINE} (FLUX in the layout of diffusers) or {SIDE} (a model of ours)"
    raise SettingsError([f"{folder} holds no model that runs here; one of these files is expected: {expected}"])


def _declared(folder: Path) -> Kind:
    try:
        declared = json.loads((folder / SIDE).read_text("utf-8"))
    except (OSError, ValueError):
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
