"""Any model of the catalogue as an app: its input by its modality, its output in fal's shapes.

The endpoint is the model's id; an id without a slash stands below `models/`. Members that an input does not name go on to the model.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel

from sensorium import fetch
from sensorium.apps import talking, works
from sensorium.apps.app import Output, Task, UnknownApp, last
from sensorium.apps.files import Files
from sensorium.apps.flux import DrawingOutput
from sensorium.apps.progress import told
from sensorium.routing.call import Dialect, Modality
from sensorium.routing.catalog import Catalog
from sensorium.routing.dispatch import Dispatch
from sensorium.wire import fal
from sensorium.wire.fal_openapi import Described, describe

OWNER: Final = "models"  # of the endpoints of ids that have none
RESERVED: Final = "requests"  # a segment that the queue's addresses need
Fetch = Callable[[str], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a modality's models take and make, the dialects that they can be called in, and the work."""

    input: type[BaseModel]
    output: type[BaseModel]
    dialects: tuple[Dialect, ...]
    work: Callable[[works.Run], AsyncGenerator[Output, None]]


KINDS: Final[Mapping[Modality, Kind]] = {
    "chat": Kind(talking.ChatInput, talking.ChatOutput, talking.DIALECTS, talking.talk),
    "image": Kind(works.ImageInput, DrawingOutput, ("openai", "genai", "fal"), works.draw),
    "embed": Kind(works.EmbedInput, works.EmbedOutput, ("openai", "nvidia"), works.embed),
    "rerank": Kind(works.RerankInput, works.RerankOutput, ("openai", "nvidia"), works.rank),
    "speech": Kind(works.SpeechInput, works.SpeechOutput, ("nvidia", "openai"), works.speak),
    "transcribe": Kind(works.TranscribeInput, works.TranscribeOutput, ("nvidia", "openai"), works.transcribe),
    "video": Kind(works.VideoInput, works.VideoOutput, works.FILMS, works.film),
}


def endpoint(model: str) -> str | None:
    """The endpoint of a model; None for an id that no endpoint can have."""
    parts = model.split("/")
    if RESERVED in parts or not all(parts):
        return None
    return model if len(parts) > 1 else f"{OWNER}/{model}"


def served(catalog: Catalog) -> dict[str, tuple[str, Modality]]:
    """Every model that can be called as an app: id and modality by endpoint, in the catalogue's order."""
    found: dict[str, tuple[str, Modality]] = {}
    for route in catalog.routes:
        place = None if route.open else endpoint(route.id)
        if place is not None and route.dialect in KINDS[route.modality].dialects:
            found.setdefault(place, (route.id, route.modality))
    return found


class ModelApp:
    """The models below one owner and alias, as the catalogue has them at each call; `read` fetches a file by its URL."""

    def __init__(self, id: str, dispatch: Dispatch, files: Files, read: Fetch = fetch.fetch) -> None:
        self.id = id
        self._dispatch, self._files, self._read = dispatch, files, read

    def lane(self, path: str) -> str:
        """The model. Raises UnknownApp."""
        return self._model(path)[0]

    async def run(self, task: Task) -> Output:
        """The whole output. Raises Refused for a bad input, and what a dispatch raises."""
        return await last(self.stream(task))

    async def stream(self, task: Task) -> AsyncGenerator[Output, None]:
        """A chat model's text as it grows; of all others the whole output."""
        model, modality = self._model(task.path)
        with told(task, model):
            run = works.Run(self._dispatch, self._files, task, model, self._read)
            async with aclosing(KINDS[modality].work(run)) as outputs:
                async for made in outputs:
                    yield made

    def openapi(self, path: str, base_url: str) -> dict[str, Any]:
        """The description. Raises UnknownApp."""
        model, modality = self._model(path)
        kind = KINDS[modality]
        app = Described(f"{self.id}{path}", model, modality, kind.input, kind.output, streams=modality == "chat")
        return describe(app, base_url)

    def _model(self, path: str) -> tuple[str, Modality]:
        found = served(self._dispatch.catalog).get(f"{self.id}{path}")
        if found is None:
            raise UnknownApp(f"Application '{self.id}{path}' not found")
        return found


def owner_and_alias(place: str) -> str:
    """The part of an endpoint that its requests are found under."""
    return fal.endpoint(place)
