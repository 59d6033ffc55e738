"""The simulated apps: what each takes, checked in pydantic's words, and what it makes: placeholder pictures, videos and sentences.

FLUX's and the video's ranges are those of their public pages as far as known, the rest a guess; the vision app's rules are section 9's.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

from PIL import Image
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from sensorium.errors import BadRequest
from sensorium.simulators import drawing
from sensorium.simulators.fal.replies import DOCUMENTED, item, refuse
from sensorium.simulators.film import film
from sensorium.wire import dataurl

FILTER_WORD = "nsfw"
SEED_MOST = 2**32 - 1
SIZES: Final = {
    "square_hd": (1024, 1024), "square": (512, 512), "portrait_4_3": (768, 1024), "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768), "landscape_16_9": (1024, 576),
}  # fmt: skip
FILM_SIZE, FILM_FPS = (384, 256), 24
STEPS: Final = 256  # of the vision app where the call does not say
Output = dict[str, Any]
Store = Callable[[bytes, str], str]
"""Keeps a file of this media type and says where it is."""


@dataclass(frozen=True, slots=True)
class Work:
    """One run of an app: its input, the place for its files, and the simulator's own chance."""

    input: Mapping[str, Any]
    store: Store
    draw: random.Random


def _no_flag(given: Any) -> Any:
    if isinstance(given, bool):
        raise ValueError("a flag")
    return given


Prompt = Annotated[str, Field(strict=True)]


class Size(BaseModel):
    """A size of one's own."""

    width: Annotated[int, Field(gt=0, le=14142)] = 512
    height: Annotated[int, Field(gt=0, le=14142)] = 512


class Drawing(BaseModel):
    """fal-ai/flux/schnell; unknown members are ignored."""

    prompt: Prompt
    image_size: Size | Literal["square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"] = "landscape_4_3"
    num_inference_steps: Annotated[int, Field(ge=1, le=12)] = 4
    seed: int | None = None
    guidance_scale: Annotated[float, Field(ge=1, le=20)] = 3.5
    sync_mode: bool = False
    num_images: Annotated[int, Field(ge=1, le=4)] = 1
    enable_safety_checker: bool = True
    output_format: Literal["jpeg", "png"] = "jpeg"


class LongDrawing(Drawing):
    """fal-ai/flux/dev."""

    num_inference_steps: Annotated[int, Field(ge=1, le=50)] = 28


class Film(BaseModel):
    """fal-ai/ltx-video."""

    prompt: Prompt
    negative_prompt: str = "low quality, worst quality, deformed"
    seed: int | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=50)] = 30
    guidance_scale: Annotated[float, Field(ge=1, le=10)] = 3.0
    num_frames: Annotated[int, Field(ge=9, le=161)] = 121


class Question(BaseModel):
    """fal-ai/nemotron-diffusion-vlm."""

    image_url: Prompt
    prompt: Prompt
    max_tokens: Annotated[int, BeforeValidator(_no_flag), Field(ge=1, le=8192)] = 512
    num_inference_steps: Annotated[int, BeforeValidator(_no_flag), Field(ge=1, le=1024)] | None = None
    inference_steps: Annotated[int, BeforeValidator(_no_flag), Field(ge=1, le=1024)] | None = None
    block_length: Annotated[int, BeforeValidator(_no_flag), Field(ge=8, le=128)] = 32
    threshold: Annotated[float, BeforeValidator(_no_flag), Field(ge=0, le=1)] = 0.9


Schema = TypeVar("Schema", bound=BaseModel)
OPTIONAL_NULLS: Final = ("max_tokens", "num_inference_steps", "inference_steps", "block_length", "threshold", "seed")


def draw(work: Work) -> Output:
    """A flux app."""
    return _drawn(work, _read(Drawing, work))


def draw_long(work: Work) -> Output:
    """A flux app of more steps."""
    return _drawn(work, _read(LongDrawing, work))


def make_film(work: Work) -> Output:
    """A text-to-video app."""
    wish = _read(Film, work)
    seed = work.draw.randint(0, SEED_MOST) if wish.seed is None else wish.seed
    made = film(drawing.picture(*FILM_SIZE, wish.prompt, seed), wish.num_frames, FILM_FPS)
    return {
        "video": {"url": work.store(made, "video/mp4"), "content_type": "video/mp4", "file_name": "video.mp4", "file_size": len(made)},
        "seed": seed,
    }


def see(work: Work) -> Output:
    """The vision app: it tells the picture's size, and the question."""
    wish = _read(Question, work)
    _scheduled(wish)
    width, height = _looked_at(wish.image_url)
    text = f'The picture has {width} x {height} pixels. You asked: "{wish.prompt}"'
    words = text.split()[: wish.max_tokens]
    blocks = -(-wish.max_tokens // wish.block_length)
    names = ("image_validation_time", "preprocessing_time", "gpu_transfer_time", "generation_time", "decode_time")
    stages = dict(zip(names, (0.002, 0.003, 0.001, 0.05, 0.001), strict=True))
    return {
        "output": " ".join(words),
        "usage": {
            "prompt_tokens": 256 + len(wish.prompt.split()),
            "completion_tokens": len(words),
            "num_function_evals": min(len(words), STEPS) + blocks,
        },
        "timings": {"total_time": round(sum(stages.values()), 3), **stages},
    }


APPS: Final[dict[str, Callable[[Work], Output]]] = {
    "fal-ai/flux/schnell": draw,
    "fal-ai/flux/dev": draw_long,
    "fal-ai/nemotron-diffusion-vlm": see,
    "fal-ai/ltx-video": make_film,
}


def _drawn(work: Work, wish: Drawing) -> Output:
    seed = work.draw.randint(0, SEED_MOST) if wish.seed is None else wish.seed
    width, height = SIZES[wish.image_size] if isinstance(wish.image_size, str) else (wish.image_size.width, wish.image_size.height)
    flagged = wish.enable_safety_checker and FILTER_WORD in wish.prompt.lower()
    images = []
    for number in range(wish.num_images):
        picture = drawing.black(width, height) if flagged else drawing.picture(width, height, wish.prompt, seed + number)
        media, data = f"image/{wish.output_format}", _encoded(picture, wish.output_format)
        url = dataurl.build(media, data) if wish.sync_mode else work.store(data, media)
        images.append({"url": url, "width": width, "height": height, "content_type": media})
    return {
        "images": images,
        "timings": {"inference": 0.08},
        "seed": seed,
        "has_nsfw_concepts": [flagged] * wish.num_images,
        "prompt": wish.prompt,
    }


def _encoded(picture: Image.Image, kind: str) -> bytes:
    if kind == "jpeg":
        return drawing.jpeg(picture)
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def _read(schema: type[Schema], work: Work) -> Schema:
    """The input as `schema`; null for an option counts as left out. Raises Refused with the 422 list."""
    given = {name: value for name, value in work.input.items() if value is not None or name not in OPTIONAL_NULLS}
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        refuse(*(_told(schema, detail) for detail in error.errors(include_url=False)))


def _told(schema: type[BaseModel], detail: Any) -> dict[str, Any]:
    kind, field = detail["type"], str(detail["loc"][0])
    if kind == "value_error":  # a flag where a number belongs
        whole = field in schema.model_fields and field != "threshold"
        kind, detail["msg"] = ("int_type", "Input should be a valid integer") if whole else ("float_type", "Input should be a valid number")
        detail.pop("ctx", None)
    ctx = {"ctx": detail["ctx"]} if "ctx" in detail else {}
    given = detail["input"][:200] if isinstance(detail["input"], str) else detail["input"]
    return {"loc": ["body", *detail["loc"]], "msg": detail["msg"], "type": kind, "url": f"{DOCUMENTED}{kind}", "input": given} | ctx


def _scheduled(wish: Question) -> None:
    """Raises Refused for steps that do not fit the blocks."""
    both = (wish.num_inference_steps, wish.inference_steps)
    if None not in both and both[0] != both[1]:
        said = f"inference_steps is another name of num_inference_steps; they were given different values ({both[0]} and {both[1]})"
        refuse(item("value_error", "inference_steps", said, both[1]))
    field = "num_inference_steps" if both[0] is not None else "inference_steps"
    given = both[0] if both[0] is not None else both[1]
    blocks = -(-wish.max_tokens // wish.block_length)
    if given is None or (given >= blocks and given % blocks == 0):
        return
    shown = f"{blocks} (max_tokens {wish.max_tokens} / block_length {wish.block_length})"
    if given < blocks:
        refuse(item("greater_than_equal", field, f"Input should be greater than or equal to {shown}", given, {"ge": blocks}))
    refuse(item("multiple_of", field, f"Input should be a multiple of {shown}", given, {"multiple_of": blocks}))


def _looked_at(url: str) -> tuple[int, int]:
    """The size of a picture. The simulator fetches nothing, so that every link is one that cannot be reached."""
    if not dataurl.is_data_url(url):
        said = "Failed to download the file. Please check if the URL is accessible and try again."
        refuse(item("file_download_error", "image_url", said, url[:200]))
    try:
        with Image.open(io.BytesIO(dataurl.parse(url).data)) as image:
            image.load()
            return image.size
    except (BadRequest, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        refuse(item("image_load_error", "image_url", "Image load error", url[:200]))
