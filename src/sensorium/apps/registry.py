"""Which app an endpoint is: fal's own apps that this hub has, and every model of the catalogue as it stands at this moment."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final

from sensorium import fetch
from sensorium.apps import flux, models, nemotron
from sensorium.apps.app import App, UnknownApp
from sensorium.apps.files import Files
from sensorium.apps.flux import Flux
from sensorium.apps.models import Fetch, ModelApp, owner_and_alias, served
from sensorium.apps.nemotron import Nemotron
from sensorium.errors import UnknownModel
from sensorium.routing.call import Modality
from sensorium.routing.dispatch import Dispatch

ALIKE: Final = 3  # endpoints that a hint names
SHOWN: Final = 200  # characters of an unknown endpoint that are repeated


@dataclass(frozen=True, slots=True)
class Listed:
    """An endpoint, what it makes, the model behind it, and whether that is a stand-in."""

    endpoint: str
    modality: Modality
    model: str
    stand_in: bool


class Apps:
    """Every app of this hub. `read` fetches a sound that an input names; it checks the address."""

    def __init__(self, dispatch: Dispatch, files: Files, read: Fetch = fetch.fetch) -> None:
        self._dispatch, self._files, self._read = dispatch, files, read
        self._nemotron, self._flux = Nemotron(dispatch, files), Flux(dispatch, files)

    def find(self, endpoint: str) -> tuple[App, str]:
        """The app of an endpoint and the sub-path in it, "" or with a slash in front; slashes at the ends do not count.

        Raises UnknownApp, naming what comes close.
        """
        place = endpoint.strip("/")
        app = owner_and_alias(place)
        path = place.removeprefix(app)
        if place == nemotron.ID and self._serves(nemotron.ID, "chat"):
            return self._nemotron, path
        if app == flux.ID and path in flux.MODELS and self._serves(self._flux.lane(path), "image"):
            return self._flux, path
        if place in served(self._dispatch.catalog):
            return ModelApp(app, self._dispatch, self._files, self._read), path
        raise UnknownApp(f"Application '{place[:SHOWN]}' not found", hint=self._hint(place))

    def entries(self) -> list[Listed]:
        """Every endpoint that can be called now: fal's own apps first."""
        own: dict[str, tuple[str, Modality]] = {}
        if self._serves(nemotron.ID, "chat"):
            own[nemotron.ID] = (nemotron.ID, "chat")
        for path in flux.MODELS:
            if self._serves(model := self._flux.lane(path), "image"):
                own[flux.ID + path] = (model, "image")
        found = own | {place: one for place, one in served(self._dispatch.catalog).items() if place not in own}
        toys = {route.id for route in self._dispatch.catalog.routes if route.stand_in}
        return [Listed(place, modality, model, model in toys) for place, (model, modality) in found.items()]

    def _serves(self, model: str, modality: Modality) -> bool:
        try:
            routes = self._dispatch.catalog.named(model, modality)
        except UnknownModel:
            return False
        return any(route.modality == modality and route.dialect in models.KINDS[modality].dialects for route in routes)

    def _hint(self, place: str) -> str:
        known = [one.endpoint for one in self.entries()]
        below = [one for one in known if one.startswith(f"{place}/")]
        near = below or difflib.get_close_matches(place, known, n=ALIKE, cutoff=0.4)
        if near:
            return f"did you mean {' or '.join(near[:ALIKE])}?"
        return f"there are {', '.join(known[: ALIKE * 2])}" if known else "this hub serves no model yet"
