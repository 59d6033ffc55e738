"""One model of an engine process: its ids, what it is, where its work runs, and how far its loading has got.

It knows neither HTTP nor how a model is loaded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from sensorium.engines.lane import Lane
from sensorium.engines.orders import ModelOrder
from sensorium.errors import Unavailable, UnknownModel

Kind = Literal["diffusion_vlm", "flow_image", "flux"]
State = Literal["waiting", "loading", "ready", "failed"]
MODALITIES: Final[dict[Kind, str]] = {"diffusion_vlm": "chat", "flow_image": "image", "flux": "image"}
OWNER: Final = "sensorium"  # of a model whose order names no id
TRY_AGAIN_S: Final = 5.0
STEPS: Final = 64  # reports of one model's loading, at most


@dataclass(frozen=True, slots=True)
class Place:
    """Where a loaded model runs: the device, the numbers' format, answers side by side, and the tokens that each has room for."""

    device: str
    dtype: str
    slots: int = 1
    context: int | None = None

    def __str__(self) -> str:
        room = f" x {self.context} tokens" if self.context else ""
        return f"{self.device}, {self.dtype}, {self.slots} slot{'s' if self.slots > 1 else ''}{room}"


Residence = Callable[[], AbstractAsyncContextManager[Any]]


class Hosted:
    """One model. `kind` says what it is before it is loaded; `model`, `lane` and `place` are there once `state` is "ready".

    `residence`, where there is one, brings the model back to its device for each use: models that take turns there have one.
    """

    def __init__(self, order: ModelOrder, kind: Kind) -> None:
        self.order, self.kind = order, kind
        self.name = order.name or f"{OWNER}/{Path(order.path).name}"
        self.names = tuple(dict.fromkeys((self.name, *order.serves)))
        self.state: State = "waiting"
        self.loaded_bytes = self.total_bytes = 0
        self.model: Any = None
        self.lane: Lane = Lane(order.device)
        self.place = Place(order.device, order.dtype, order.slots, order.context or None)
        self.residence: Residence | None = None
        self._told = -1

    @property
    def modality(self) -> str:
        """The kind of calls that it answers: chat or image."""
        return MODALITIES[self.kind]

    @property
    def scope(self) -> str | None:
        """The world that the model knows; None where no limit is stated."""
        scope: str | None = getattr(self.model, "scope", None)
        return scope

    def ready(self, model: Any, lane: Lane, place: Place) -> Hosted:
        """The model is loaded, and its work runs in `lane`."""
        self.model, self.lane, self.place, self.state = model, lane, place, "ready"
        self.loaded_bytes = self.total_bytes
        return self

    def advance(self, done: int, whole: int) -> bool:
        """So many bytes of it are loaded; whether that is news worth telling."""
        self.loaded_bytes, self.total_bytes = done, whole
        step = done * STEPS // whole if whole else 0
        news, self._told = step != self._told, step
        return news

    def progress(self) -> dict[str, Any]:
        """How far its loading is, as it is told to callers and to the parent."""
        return {"name": self.name, "state": self.state, "loaded_bytes": self.loaded_bytes, "total_bytes": self.total_bytes}

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[Any]:
        """The loaded model, which stays where it is inside. Raises Unavailable while it is not loaded."""
        if self.state != "ready":
            raise Unavailable(f"the model {self.name} is not loaded: {self._how_far()}", retry_after=TRY_AGAIN_S)
        if self.residence is None:
            yield self.model
            return
        async with self.residence() as model:
            yield model

    def _how_far(self) -> str:
        if self.state != "loading" or not self.total_bytes:
            return f"it is {self.state}"
        return f"{self.loaded_bytes / 1e9:.1f} of {self.total_bytes / 1e9:.1f} GB are"


def chosen(hosted: Iterable[Hosted], name: str, modality: str) -> Hosted:
    """The model of that id for this kind of call; `*` takes the only one. Raises UnknownModel."""
    fit = [one for one in hosted if one.modality == modality]
    if name == "*" and len(fit) == 1:
        return fit[0]
    for one in fit:
        if name in one.names:
            return one
    there = ", ".join(one.name for one in fit) or "none"
    raise UnknownModel(f"no model {name[:200]!r} here for this route; there is {there}", param="model")
