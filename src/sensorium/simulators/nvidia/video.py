"""Video containers (section 9): stable-video-diffusion and the cosmos family, which answer real MP4 files of JPEG frames.

Guesses: all of hosted cosmos, which schema each of its models has (predict1's for all but cosmos3), the bytes that "200 KB" means,
frame counts and rates where none are given.
"""

from __future__ import annotations

import base64
import io
import re
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import Field

from sensorium.errors import BadRequest
from sensorium.simulators import drawing
from sensorium.simulators.film import film
from sensorium.simulators.nvidia.ask import Ask, Strict, item, read, refuse
from sensorium.simulators.nvidia.image_schemas import Guidance, Seed
from sensorium.simulators.replies import Reply, json_reply
from sensorium.wire import dataurl

IMAGE_CAP = 200_000
SVD_SIZE, SVD_FRAMES, SVD_FPS = (1024, 576), 25, 6
PROMPT_WORDS = 250
SEED_MAX = 4_294_967_295
_IMAGE = re.compile(r"data:image/(?:jpg|png|jpeg);(?:base64|asset_id),(.+)", re.DOTALL)
_SIDES = {"16_9": (16, 9), "1_1": (1, 1), "9_16": (9, 16), "4_3": (4, 3), "3_4": (3, 4)}


class StillVideo(Strict):
    """stabilityai/stable-video-diffusion."""

    image: str
    cfg_scale: Guidance = 1.8
    seed: Seed = 0
    motion_bucket_id: Annotated[int, Field(ge=127, le=127)] = 127


class VideoParameters(Strict):
    """The size of a cosmos video."""

    height: Annotated[int, Field(ge=64, le=1920)] = 704
    width: Annotated[int, Field(ge=64, le=1920)] = 1280
    frames_count: Annotated[int, Field(ge=1, le=1000)] = 121
    frames_per_sec: Annotated[int, Field(ge=1, le=60)] = 24


class Cosmos(Strict):
    """cosmos-predict1, and our guess for its kin."""

    prompt: str
    negative_prompt: str | None = None
    prompt_upsampling: bool = True
    seed: Seed = 0
    guidance_scale: Annotated[float, Field(ge=1, le=10)] = 7
    steps: Annotated[int, Field(ge=1, le=50)] = 35
    image: str | None = None
    video: str | None = None
    video_params: VideoParameters = VideoParameters()


class Cosmos3(Strict):
    """cosmos3: named resolutions, and a frame count of the form 4k + 1."""

    prompt: str
    negative_prompt: str | None = None
    seed: Seed = 0
    resolution: Annotated[str, Field(pattern=r"^(256|480|720)_(16_9|1_1|9_16|4_3|3_4)$")] = "720_16_9"
    num_output_frames: Annotated[int, Field(ge=1, le=1001)] = 121
    fps: Annotated[int, Field(ge=1, le=60)] = 24
    guidance_scale: Annotated[float, Field(ge=1, le=7)] = 7
    steps: Annotated[int, Field(ge=1, le=100)] = 35
    image: str | None = None
    video: str | None = None


def answer(ask: Ask) -> Reply:
    """POST of a video route on the gateway, /v1/infer of a container. Raises Refused."""
    if ask.model.name.startswith("nvidia/cosmos"):
        return _cosmos(ask)
    body = read(StillVideo, ask)
    still = _still(ask, body.image)
    seed = body.seed or ask.draw.randint(1, SEED_MAX)
    filtered = ask.twist == "filtered"
    shown = drawing.black(*SVD_SIZE) if filtered else still.resize(SVD_SIZE)
    made = film(shown, SVD_FRAMES, SVD_FPS)
    finish: Literal["CONTENT_FILTERED", "SUCCESS"] = "CONTENT_FILTERED" if filtered else "SUCCESS"
    return json_reply({"video": base64.b64encode(made).decode(), "finish_reason": finish, "seed": seed})


def _cosmos(ask: Ask) -> Reply:
    body: Cosmos | Cosmos3 = read(Cosmos3, ask) if "cosmos3" in ask.model.name else read(Cosmos, ask)
    if len(body.prompt.split()) > PROMPT_WORDS:
        refuse([item("value_error", ("prompt",), f"Value error, prompt must have at most {PROMPT_WORDS} words", body.prompt)])
    width, height, frames, fps = _shape(body)
    seed = body.seed or ask.draw.randint(1, SEED_MAX)
    still = drawing.picture(width, height, f"{ask.model.name}\0{body.prompt}", seed)
    said: dict[str, Any] = {"b64_video": base64.b64encode(film(still, frames, fps)).decode(), "seed": seed}
    if isinstance(body, Cosmos) and body.prompt_upsampling:
        said["upsampled_prompt"] = f"{body.prompt}, in detail"
    files = {"metadata/frames.txt": f"{frames}\n".encode()} if ask.model.extra_files and ask.hosted else {}
    reply = json_reply(said)
    return Reply(reply.status, reply.body, reply.headers, files=files)


def _shape(body: Cosmos | Cosmos3) -> tuple[int, int, int, int]:
    """Width, height, frames, frames per second."""
    if isinstance(body, Cosmos):
        size = body.video_params
        return size.width, size.height, size.frames_count, size.frames_per_sec
    if body.num_output_frames % 4 != 1:
        refuse([item("value_error", ("num_output_frames",), "Value error, must be 4k+1", body.num_output_frames)])
    short, _, ratio = body.resolution.partition("_")
    across, down = _SIDES[ratio]
    scale = int(short) / min(across, down)
    return round(across * scale), round(down * scale), body.num_output_frames, body.fps


def _still(ask: Ask, url: str) -> Image.Image:
    """The input image. Raises Refused."""
    match = _IMAGE.fullmatch(url)
    if match is None:
        refuse([item("value_error", ("image",), "Value error, Image has been provided in the invalid form", url[:80])])
    try:
        data = ask.assets[match[1].lower()] if ";asset_id," in url[:40] else dataurl.parse(url).data
        if len(data) > IMAGE_CAP and ";base64," in url[:40]:
            refuse([item("value_error", ("image",), f"Value error, Image must be smaller than {IMAGE_CAP} bytes", url[:80])])
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except (BadRequest, KeyError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        refuse([item("value_error", ("image",), "Value error, Image cannot be decoded", url[:80])])
