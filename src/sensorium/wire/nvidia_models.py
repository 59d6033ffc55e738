"""NVIDIA's hosted image models: what each takes, as its published request schema of August 2026 says (NVIDIA page, sections 7.1 to 7.4).

Models that are not in the table pass through unchecked. Remarks in it mark what is a guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sensorium.errors import Unprocessable
from sensorium.wire import jsonbody, parameters
from sensorium.wire.jsonbody import Members
from sensorium.wire.parameters import Integer, Number, OneOf, Rule, Text

PROMPT = Text(1, 10_000)
SEED = Integer(0, 2**32 - 1)


@dataclass(frozen=True, slots=True)
class Sample:
    """One of `count` pictures that NVIDIA keeps, named by example_id; the hosted models take no others."""

    count: int

    def admits(self, given: Any) -> bool:
        return given in [f"data:image/png;example_id,{number}" for number in range(self.count)]

    def __str__(self) -> str:
        return f"NVIDIA's own samples only, data:image/png;example_id,0 to {self.count - 1}"


@dataclass(frozen=True, slots=True)
class WeightedPrompts:
    """One or two prompts, each with the weight 1 or -1."""

    def admits(self, given: Any) -> bool:
        return isinstance(given, list) and len(given) in (1, 2) and all(self._is_one(item) for item in given)

    def _is_one(self, item: Any) -> bool:
        # A guess: a text is as long as a prompt may be, and a weight may be left out.
        return (
            isinstance(item, dict)
            and item.keys() <= {"text", "weight"}
            and PROMPT.admits(item.get("text"))
            and OneOf((1, -1)).admits(item.get("weight", 1))
        )

    def __str__(self) -> str:
        return 'an array of one or two {"text": "...", "weight": 1 or -1}'


@dataclass(frozen=True, slots=True)
class Model:
    """The members that a model's body may have, its defaults, and the members that it must have.

    `plain` is the mode, and the default, that works without a picture where every other mode needs one.
    """

    fields: Mapping[str, Rule]
    defaults: Mapping[str, Any]
    needs: tuple[str, ...] = ("prompt",)
    plain: str | None = None

    def choices(self, name: str) -> Sequence[Any]:
        """The values of a member that has few; none where the model has no such member."""
        rule = self.fields.get(name)
        return rule.values if isinstance(rule, Integer | OneOf) else ()


_SHARED: dict[str, Rule] = {"prompt": PROMPT, "seed": SEED, "samples": Integer(1, 1)}
_GUIDANCE = Number(1, 9, above=True)
_SQUARE = {"width": 1024, "height": 1024}
# Whether the hosted models draw every pair of sides is disputed; all are let through.
_SIDES = Integer(768, 1344, step=64)
_KONTEXT_SIDES = OneOf((672, 688, 720, 752, 800, 832, 880, 944, 1024, 1104, 1184, 1248, 1328, 1392, 1456, 1504, 1568))
_KONTEXT_RATIOS = (
    "9:21", "5:11", "1:2", "7:13", "3:5", "2:3", "3:4", "6:7", "1:1",
    "7:6", "4:3", "3:2", "5:3", "13:7", "2:1", "11:5", "21:9",
)  # fmt: skip
_DISTILLED: dict[str, Rule] = {**_SHARED, "width": _SIDES, "height": _SIDES, "steps": Integer(1, 4), "cfg_scale": OneOf((0,))}
_DISTILLED_DEFAULTS = {**_SQUARE, "steps": 4, "cfg_scale": 0}
_SDXL = Model(
    {
        "text_prompts": WeightedPrompts(),
        "seed": SEED,
        "samples": Integer(1, 1),
        "width": OneOf((1024,)),
        "height": OneOf((1024,)),
        "steps": Integer(5, 100),
        "cfg_scale": _GUIDANCE,
        "sampler": OneOf(("DDIM", "K_EULER_ANCESTRAL", "K_LMS", "K_DPM_2_ANCESTRAL")),
        "clip_guidance_preset": OneOf(("NONE",)),
        "style_preset": OneOf(("none",)),
    },
    {**_SQUARE, "steps": 25, "cfg_scale": 5},
    needs=("text_prompts",),
)

MODELS = {
    "black-forest-labs/flux.1-schnell": Model({**_DISTILLED, "mode": OneOf(("base",)), "image": OneOf(())}, _DISTILLED_DEFAULTS),
    "black-forest-labs/flux.1-dev": Model(
        {
            **_SHARED,
            "width": _SIDES,
            "height": _SIDES,
            "steps": Integer(5, 100),
            "cfg_scale": _GUIDANCE,
            "mode": OneOf(("base", "canny", "depth")),
            "image": Sample(4),
        },
        {**_SQUARE, "steps": 50, "cfg_scale": 5},
        plain="base",
    ),
    "black-forest-labs/flux.1-kontext-dev": Model(
        {
            **_SHARED,
            "width": _KONTEXT_SIDES,
            "height": _KONTEXT_SIDES,
            "aspect_ratio": OneOf(("match_input_image", *_KONTEXT_RATIOS)),  # that it may stand beside sides is a guess
            "steps": Integer(20, 50),
            "cfg_scale": _GUIDANCE,
            "image": Sample(3),
        },
        {"aspect_ratio": "match_input_image", "steps": 30, "cfg_scale": 3.5},
        needs=("prompt", "image"),
    ),
    "black-forest-labs/flux.2-klein-4b": Model(
        {**_DISTILLED, "mode": OneOf(("Image Generation", "Image Editing")), "image": Sample(4)},
        _DISTILLED_DEFAULTS,
        plain="Image Generation",
    ),
    "stabilityai/stable-diffusion-3-medium": Model(
        {
            **_SHARED,
            "negative_prompt": Text(0, 10_000),
            "aspect_ratio": OneOf(("1:1", "16:9", "9:16", "5:4", "4:5", "3:2", "2:3")),
            "steps": Integer(5, 100),
            "cfg_scale": _GUIDANCE,
            "mode": OneOf(("text-to-image",)),
            "model": OneOf(("sd3",)),
            "output_format": OneOf(("jpeg",)),
        },
        {"steps": 50, "cfg_scale": 5},
    ),
    "stabilityai/stable-diffusion-xl": _SDXL,
    "stabilityai/sdxl": _SDXL,  # its path of 2024; that the rules are the same is a guess
    "microsoft/trellis": Model(
        {
            **_SHARED,
            "prompt": Text(1, 77),
            "mode": OneOf(("text", "image")),
            "image": Sample(4),
            "ss_sampling_steps": Integer(10, 50),
            "slat_sampling_steps": Integer(10, 50),
            "ss_cfg_scale": Number(1, 10, above=True),
            "slat_cfg_scale": Number(1, 10, above=True),
            "output_format": OneOf(("glb", "stl")),
            "no_texture": OneOf((False, True)),
        },
        {"ss_sampling_steps": 25, "slat_sampling_steps": 25, "ss_cfg_scale": 7.5, "slat_cfg_scale": 3},
        needs=(),  # a guess: with a picture it does without a prompt
    ),
}


def check(model: str, found: Members) -> None:
    """Refuse what the hosted model would refuse, before anything is spent; null counts as not given.

    Raises Unprocessable that names the parameter, its value and the range. A model without rules is not checked.
    """
    rules = MODELS.get(model)
    if rules is None:
        return
    parameters.refuse_unknown(found, rules.fields, model)
    if rules.plain is not None:
        _check_picture(model, rules, found)
    for name, rule in rules.fields.items():
        held = parameters.check if name in rules.needs else parameters.optional
        held(name, jsonbody.value(found, name), rule, model)


def explicit(model: str, found: Members) -> Members:
    """The call with the hosted model's defaults written out, for a stand-in that has other defaults.

    Raises Unprocessable for the modes that work on a picture: a stand-in draws from the prompt alone.
    """
    rules = MODELS.get(model)
    if rules is None:
        return found
    mode = jsonbody.text(found, "mode")
    if rules.plain is not None and mode not in (None, rules.plain):
        raise Unprocessable(f"mode is {parameters.shown(mode)}; the stand-in for {model} takes only {rules.plain}", param="mode")
    kept = {name: raw for name, raw in found.items() if name not in ("mode", "image") and bytes(raw) != b"null"}
    return {name: msgspec.Raw(msgspec.json.encode(default)) for name, default in rules.defaults.items()} | kept


def _check_picture(model: str, rules: Model, found: Members) -> None:
    mode, image = jsonbody.value(found, "mode"), jsonbody.value(found, "image")
    if mode in (None, rules.plain) and image is not None:
        raise Unprocessable(f"image: {model} takes none in mode {rules.plain!r}; leave it out", param="image")
    if mode not in (None, rules.plain) and image is None and rules.fields["mode"].admits(mode):
        raise Unprocessable(f"image is missing; in mode {mode!r} {model} takes {rules.fields['image']}", param="image")
