"""What each image model takes: the tables of sections 7.1, 7.2 and 7.6 as pydantic models, which also make the words of the 422s.

Guesses: `samples` and a guidance of "only 0" are ranges (ge = le), every enumeration is a literal, an empty prompt is allowed, the
pixels behind an aspect ratio, and all that section 7.6 leaves open about local containers.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from sensorium.simulators.nvidia.ask import Strict

Side = Literal[768, 832, 896, 960, 1024, 1088, 1152, 1216, 1280, 1344]
KONTEXT_SIDES = (672, 688, 720, 752, 800, 832, 880, 944, 1024, 1104, 1184, 1248, 1328, 1392, 1456, 1504, 1568)
KontextSide = Literal[672, 688, 720, 752, 800, 832, 880, 944, 1024, 1104, 1184, 1248, 1328, 1392, 1456, 1504, 1568]
RATIO_SIZES = {
    "1:1": (1024, 1024),
    "16:9": (1344, 768),
    "9:16": (768, 1344),
    "5:4": (1152, 896),
    "4:5": (896, 1152),
    "3:2": (1216, 832),
    "2:3": (832, 1216),
}
Ratio = Literal["1:1", "16:9", "9:16", "5:4", "4:5", "3:2", "2:3"]
KontextRatio = Literal[
    "match_input_image", "9:21", "5:11", "1:2", "7:13", "3:5", "2:3", "3:4", "6:7", "1:1",
    "7:6", "4:3", "3:2", "5:3", "13:7", "2:1", "11:5", "21:9",
]  # fmt: skip
Prompt = Annotated[str, Field(max_length=10_000)]
Seed = Annotated[int, Field(ge=0, le=4_294_967_295)]
NoGuidance = Annotated[float, Field(ge=0, le=0)]
Guidance = Annotated[float, Field(gt=1, le=9)]
MeshGuidance = Annotated[float, Field(gt=1, le=10)]
MeshSteps = Annotated[int, Field(ge=10, le=50)]
FewSteps = Annotated[int, Field(ge=1, le=4)]
ManySteps = Annotated[int, Field(ge=5, le=100)]
AnySteps = Annotated[int, Field(ge=1, le=100)]


class Wish(Strict):
    """What all have in common. `seed` 0 means random."""

    samples: Annotated[int, Field(ge=1, le=1)] = 1
    seed: Seed = 0

    def words(self) -> str:
        """What the picture depends on beside seed and size."""
        return ""

    def size(self) -> tuple[int, int]:
        """Width and height of the picture in pixels."""
        return (1024, 1024)

    def given(self) -> tuple[str | None, int, bool]:
        """The input image, how many of NVIDIA's own samples there are, and whether this call needs one."""
        return (None, 0, False)


class Square(Wish):
    """A prompt, and sides from a list."""

    prompt: Prompt
    width: Side = 1024
    height: Side = 1024

    def words(self) -> str:
        return self.prompt

    def size(self) -> tuple[int, int]:
        return (self.width, self.height)


class Schnell(Square):
    """black-forest-labs/flux.1-schnell."""

    steps: FewSteps = 4
    cfg_scale: NoGuidance = 0
    mode: Literal["base"] = "base"
    image: None = None


class Dev(Square):
    """black-forest-labs/flux.1-dev."""

    steps: ManySteps = 50
    cfg_scale: Guidance = 5
    mode: Literal["base", "canny", "depth"] = "base"
    image: str | None = None

    def given(self) -> tuple[str | None, int, bool]:
        return (self.image, 4, self.mode != "base")


class LocalDev(Dev):
    """flux.1-dev in a container of its own (7.6)."""

    steps: AnySteps = 50


class Kontext(Wish):
    """black-forest-labs/flux.1-kontext-dev."""

    prompt: Prompt
    image: str
    aspect_ratio: KontextRatio = "match_input_image"
    width: KontextSide | None = None
    height: KontextSide | None = None
    steps: Annotated[int, Field(ge=20, le=50)] = 30
    cfg_scale: Guidance = 3.5

    def words(self) -> str:
        return self.prompt

    def size(self) -> tuple[int, int]:
        across, _, down = self.aspect_ratio.partition(":")
        ratio = int(across) / int(down) if down else 1.0
        near = [min(KONTEXT_SIDES, key=lambda side: abs(side - wanted)) for wanted in (1024 * math.sqrt(ratio), 1024 / math.sqrt(ratio))]
        return (self.width or near[0], self.height or near[1])

    def given(self) -> tuple[str | None, int, bool]:
        return (self.image, 3, True)


class LocalKontext(Kontext):
    """flux.1-kontext-dev in a container of its own (7.6)."""

    steps: AnySteps = 30


class Klein(Square):
    """black-forest-labs/flux.2-klein-4b."""

    steps: FewSteps = 4
    cfg_scale: NoGuidance = 0
    mode: Literal["Image Generation", "Image Editing"] = "Image Generation"
    image: str | None = None

    def given(self) -> tuple[str | None, int, bool]:
        return (self.image, 4, self.mode == "Image Editing")


class Diffusion3(Wish):
    """stabilityai/stable-diffusion-3-medium."""

    prompt: Prompt
    negative_prompt: Prompt | None = None
    aspect_ratio: Ratio = "1:1"
    steps: ManySteps = 50
    cfg_scale: Guidance = 5
    mode: Literal["text-to-image"] = "text-to-image"
    model: Literal["sd3"] = "sd3"
    output_format: Literal["jpeg"] = "jpeg"

    def words(self) -> str:
        return f"{self.prompt}\0{self.negative_prompt or ''}"

    def size(self) -> tuple[int, int]:
        return RATIO_SIZES[self.aspect_ratio]


class WeighedText(Strict):
    """One prompt of stable-diffusion-xl."""

    text: Prompt
    weight: Literal[1, -1] = 1


class DiffusionXL(Wish):
    """stabilityai/stable-diffusion-xl."""

    text_prompts: Annotated[list[WeighedText], Field(min_length=1, max_length=2)]
    width: Literal[1024] = 1024
    height: Literal[1024] = 1024
    steps: ManySteps = 25
    cfg_scale: Guidance = 5
    sampler: Literal["DDIM", "K_EULER_ANCESTRAL", "K_LMS", "K_DPM_2_ANCESTRAL"] = "K_EULER_ANCESTRAL"
    clip_guidance_preset: Literal["NONE"] = "NONE"
    style_preset: Literal["none"] = "none"

    def words(self) -> str:
        return "\0".join(f"{part.weight} {part.text}" for part in self.text_prompts)


class Trellis(Wish):
    """microsoft/trellis: a mesh instead of a picture."""

    prompt: Annotated[str, Field(max_length=77)] | None = None
    mode: Literal["text", "image"] | None = None
    image: str | None = None
    output_format: Literal["glb", "stl"] = "glb"
    no_texture: bool = False
    ss_sampling_steps: MeshSteps = 25
    slat_sampling_steps: MeshSteps = 25
    ss_cfg_scale: MeshGuidance = 7.5
    slat_cfg_scale: MeshGuidance = 3

    def words(self) -> str:
        return self.prompt or ""

    def given(self) -> tuple[str | None, int, bool]:
        return (self.image, 4, self.mode == "image" or self.prompt is None)


class Qwen(Wish):
    """qwen/qwen-image, which exists as a local container only (7.3)."""

    prompt: Prompt
    mode: Literal["base"] = "base"
    width: Annotated[int, Field(ge=256, le=2048)] = 1024
    height: Annotated[int, Field(ge=256, le=2048)] = 1024
    steps: AnySteps = 50

    def words(self) -> str:
        return self.prompt

    def size(self) -> tuple[int, int]:
        return (self.width, self.height)


HOSTED: dict[str, type[Wish]] = {
    "black-forest-labs/flux.1-schnell": Schnell,
    "black-forest-labs/flux.1-dev": Dev,
    "black-forest-labs/flux.1-kontext-dev": Kontext,
    "black-forest-labs/flux.2-klein-4b": Klein,
    "stabilityai/stable-diffusion-3-medium": Diffusion3,
    "stabilityai/stable-diffusion-xl": DiffusionXL,
    "microsoft/trellis": Trellis,
}
LOCAL = HOSTED | {
    "black-forest-labs/flux.1-dev": LocalDev,
    "black-forest-labs/flux.1-kontext-dev": LocalKontext,
    "qwen/qwen-image": Qwen,
}
