"""The apps fal-ai/flux/schnell and fal-ai/flux/dev in fal's schema. They draw with the catalogue's model of that id, else with FLUX.1."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from sensorium.apps.app import Output, Task, UnknownApp
from sensorium.apps.drawing import SIZES, Wish, drawn
from sensorium.apps.files import Files
from sensorium.apps.progress import told
from sensorium.routing.dispatch import Dispatch
from sensorium.wire.fal_input import REAL, WHOLE, Input, Text, described, read
from sensorium.wire.fal_openapi import Described, describe
from sensorium.wire.nvidia_models import SEED

ID: Final = "fal-ai/flux"
MODELS: Final = {"/schnell": "black-forest-labs/flux.1-schnell", "/dev": "black-forest-labs/flux.1-dev"}
MOST_SIDE: Final = 14142
Preset = Literal["square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"]


class ImageSize(BaseModel):
    """A size of one's own, in pixels."""

    width: Annotated[int, Field(gt=0, le=MOST_SIDE), WHOLE] = 512
    height: Annotated[int, Field(gt=0, le=MOST_SIDE), WHOLE] = 512


def _branch(given: Any) -> str:
    return "{size}" if isinstance(given, dict | ImageSize) else "{preset}"


Size = Annotated[Annotated[ImageSize, Tag("{size}")] | Annotated[Preset, Tag("{preset}")], Discriminator(_branch)]


class FluxSchnellInput(Input):
    """What FLUX.1 [schnell] draws."""

    prompt: Annotated[Text, described("The prompt to draw.", example="a red cube on a white table")]
    image_size: Annotated[Size, described("The size of the picture: a name, or its sides.")] = "landscape_4_3"
    num_inference_steps: Annotated[int, Field(ge=1, le=12), WHOLE, described("Steps from noise to picture.")] = 4
    seed: Annotated[
        Annotated[int, Field(ge=0, le=SEED.high), WHOLE] | None,
        described("The same seed and prompt draw the same picture. 0 and none: one is chosen, and told."),
    ] = None
    guidance_scale: Annotated[
        float, Field(ge=1, le=20, allow_inf_nan=False), REAL, described("How closely to keep to the prompt, where the model can tell.")
    ] = 3.5
    sync_mode: Annotated[bool, described("Answer the pictures as data: URLs; nothing is stored.")] = False
    num_images: Annotated[int, Field(ge=1, le=4), WHOLE, described("How many pictures, each with the next seed.")] = 1
    enable_safety_checker: Annotated[bool, described("Goes on to a provider that has a checker.")] = True
    output_format: Annotated[Literal["jpeg", "png"], described("The format of the files.")] = "jpeg"


class FluxDevInput(FluxSchnellInput):
    """What FLUX.1 [dev] draws."""

    num_inference_steps: Annotated[int, Field(ge=1, le=50), WHOLE, described("Steps from noise to picture.")] = 28


class Image(BaseModel):
    """A picture as a file."""

    url: Annotated[str, described("Where it is, or the picture itself as a data: URL.")]
    content_type: str
    file_name: str | None = None
    file_size: int | None = None
    width: int | None = None
    height: int | None = None


class DrawingOutput(BaseModel):
    """The pictures, and what they were drawn from."""

    images: list[Image]
    timings: Annotated[dict[str, float], described("`inference`: seconds.")]
    seed: Annotated[int, described("The seed of the first picture.")]
    has_nsfw_concepts: Annotated[list[bool], described("Whether the provider's filter took a picture for unsafe.")]
    prompt: str


SCHEMAS: Final[dict[str, type[FluxSchnellInput]]] = {"/schnell": FluxSchnellInput, "/dev": FluxDevInput}


class Flux:
    """The two apps."""

    id = ID

    def __init__(self, dispatch: Dispatch, files: Files) -> None:
        self._dispatch, self._files = dispatch, files

    def lane(self, path: str) -> str:
        """The model that draws. Raises UnknownApp for another sub-path than those of MODELS."""
        if path not in MODELS:
            raise UnknownApp(f"Application '{ID}{path}' not found", hint=f"there are {' and '.join(ID + one for one in MODELS)}")
        own = f"{ID}{path}"
        listed = any(route.id == own and route.modality == "image" for route in self._dispatch.catalog.routes)
        return own if listed else MODELS[path]

    async def run(self, task: Task) -> Output:
        """The pictures. Raises Refused for a bad input and for what cannot be drawn, and what a dispatch raises."""
        model = self.lane(task.path)
        with told(task, model):
            asked = read(SCHEMAS[task.path], task.input)
            # The distilled model has no guidance; a number for it would be refused by some of its providers.
            guided = task.path != "/schnell"
            own = {"enable_safety_checker": asked.enable_safety_checker} | ({} if guided else {"guidance_scale": asked.guidance_scale})
            wish = Wish(
                model,
                asked.prompt,
                size=sides(asked.image_size),
                steps=asked.num_inference_steps,
                guidance=asked.guidance_scale if guided else None,
                seed=asked.seed or None,
                count=asked.num_images,
                kind=asked.output_format,
                embedded=asked.sync_mode,
                own=own,
            )
            return await drawn(self._dispatch, self._files, task, wish)

    async def stream(self, task: Task) -> AsyncGenerator[Output, None]:
        """The whole output; a picture does not grow."""
        yield await self.run(task)

    def openapi(self, path: str, base_url: str) -> dict[str, Any]:
        """The description. Raises UnknownApp."""
        self.lane(path)
        title = f"FLUX.1 [{path[1:]}]"
        return describe(Described(f"{ID}{path}", title, "image", SCHEMAS[path], DrawingOutput), base_url)


def sides(size: ImageSize | str) -> tuple[int, int]:
    """Width and height."""
    return SIZES[size] if isinstance(size, str) else (size.width, size.height)
