"""NVIDIA's rules per model, held against the tables of its page (sections 7.1 to 7.4)."""

from __future__ import annotations

import json

import pytest

from sensorium.errors import Unprocessable
from sensorium.wire import jsonbody, nvidia_models

SCHNELL, DEV = "black-forest-labs/flux.1-schnell", "black-forest-labs/flux.1-dev"
KONTEXT, KLEIN = "black-forest-labs/flux.1-kontext-dev", "black-forest-labs/flux.2-klein-4b"
SD3, SDXL, OLD_SDXL = "stabilityai/stable-diffusion-3-medium", "stabilityai/stable-diffusion-xl", "stabilityai/sdxl"
TRELLIS = "microsoft/trellis"
SAMPLE, OWN = "data:image/png;example_id,{}", "data:image/png;base64,AA=="
LEAST = {
    KONTEXT: {"prompt": "a red cube", "image": SAMPLE.format(0)},
    SDXL: {"text_prompts": [{"text": "a red cube", "weight": 1}]},
    OLD_SDXL: {"text_prompts": [{"text": "a red cube"}]},
}


def members(call: object) -> jsonbody.Members:
    return jsonbody.members(json.dumps(call).encode())


def checked(model: str, call: dict[str, object]) -> None:
    nvidia_models.check(model, members({**LEAST.get(model, {"prompt": "a red cube"}), **call}))


@pytest.mark.parametrize(
    ("model", "call"),
    [
        (SCHNELL, {"steps": 4, "seed": 0}),
        (SCHNELL, {"steps": 1, "cfg_scale": 0, "mode": "base", "image": None, "samples": 1}),
        (SCHNELL, {"width": 1344, "height": 768, "seed": 4294967295}),
        (DEV, {"steps": 5, "cfg_scale": 9}),
        (DEV, {"steps": 100, "cfg_scale": 1.5, "seed": None}),
        (DEV, {"steps": 8.0}),
        (DEV, {"mode": "canny", "image": SAMPLE.format(3)}),
        (KONTEXT, {"steps": 20, "width": 672, "height": 1568, "cfg_scale": 3.5}),
        (KONTEXT, {"steps": 50, "aspect_ratio": "match_input_image", "image": SAMPLE.format(2)}),
        (KLEIN, {"steps": 4, "cfg_scale": 0, "mode": "Image Generation"}),
        (KLEIN, {"mode": "Image Editing", "image": SAMPLE.format(0)}),
        (SD3, {"steps": 50, "aspect_ratio": "16:9", "negative_prompt": "", "mode": "text-to-image", "model": "sd3"}),
        (SD3, {"negative_prompt": None, "output_format": "jpeg", "cfg_scale": 5, "seed": 1}),
        (SDXL, {"width": 1024, "height": 1024, "steps": 25, "cfg_scale": 5, "sampler": "DDIM"}),
        (SDXL, {"text_prompts": [{"text": "a", "weight": 1}, {"text": "b", "weight": -1}], "clip_guidance_preset": "NONE"}),
        (OLD_SDXL, {"style_preset": "none"}),
        (TRELLIS, {"ss_sampling_steps": 10, "slat_cfg_scale": 10, "output_format": "stl", "no_texture": True}),
        (TRELLIS, {"prompt": None, "mode": "image", "image": SAMPLE.format(3)}),
        ("some/other", {"steps": 999, "anything": 1}),
    ],
)
def test_calls_that_the_hosted_model_takes(model: str, call: dict[str, object]) -> None:
    checked(model, call)


@pytest.mark.parametrize("model", nvidia_models.MODELS)
def test_the_least_and_the_defaults_are_taken(model: str) -> None:
    checked(model, {})
    checked(model, dict(nvidia_models.MODELS[model].defaults))


@pytest.mark.parametrize(
    ("model", "call", "says"),
    [
        (DEV, {"steps": 4}, "steps is 4; black-forest-labs/flux.1-dev takes an integer, 5..100"),
        (SCHNELL, {"steps": 0}, "steps is 0; .* takes an integer, 1..4"),
        (SCHNELL, {"steps": 5}, "steps is 5"),
        (SCHNELL, {"steps": "four"}, 'steps is "four"'),
        (SCHNELL, {"steps": True}, "steps is true"),
        (SCHNELL, {"seed": -1}, "seed is -1; .* takes an integer, 0..4294967295"),
        (SCHNELL, {"seed": 2**32}, "seed is 4294967296"),
        (SCHNELL, {"width": 1000}, "width is 1000; .* takes an integer, 768..1344 in steps of 64"),
        (SCHNELL, {"cfg_scale": 3}, "cfg_scale is 3; .* takes only 0"),
        (DEV, {"cfg_scale": 1}, "cfg_scale is 1; .* takes a number above 1 and up to 9"),
        (DEV, {"cfg_scale": 10**400}, "cfg_scale is 1000"),
        (DEV, {"samples": 2}, "samples is 2; .* takes only 1"),
        (DEV, {"aspect_ratio": "1:1"}, "aspect_ratio: extra inputs are not permitted"),
        (DEV, {"image": OWN}, "image: .* takes none in mode 'base'"),
        (DEV, {"mode": "canny"}, "image is missing; in mode 'canny' .* takes NVIDIA's own samples only"),
        (
            DEV,
            {"mode": "depth", "image": SAMPLE.format(4)},
            "image is .* takes NVIDIA's own samples only, .*example_id,0 to 3",
        ),
        (DEV, {"mode": "sketch"}, 'mode is "sketch"; .* takes one of base, canny, depth'),
        (SCHNELL, {"mode": "canny"}, 'mode is "canny"; .* takes only base'),
        (SCHNELL, {"image": SAMPLE.format(0)}, "image is .* takes none; leave it out"),
        (SCHNELL, {"prompt": "x" * 10_001}, "prompt is a string of 10001 characters; .* takes a string of 1 to 10000 characters"),
        (SCHNELL, {"prompt": 5}, "prompt is 5"),
        (SCHNELL, {"prompt": None}, "prompt is missing"),
        (KONTEXT, {"steps": 19}, "steps is 19; .* takes an integer, 20..50"),
        (KONTEXT, {"width": 768}, "width is 768; .* takes one of 672, 688"),
        (KONTEXT, {"image": None}, "image is missing"),
        (KONTEXT, {"image": SAMPLE.format(3)}, "image is .*,0 to 2"),
        (KONTEXT, {"mode": "base"}, "mode: extra inputs"),
        (KONTEXT, {"aspect_ratio": "16:9"}, 'aspect_ratio is "16:9"'),
        (KLEIN, {"mode": "Image Editing"}, "image is missing"),
        (KLEIN, {"steps": 5}, "steps is 5"),
        (SD3, {"width": 1024}, "width: extra inputs"),
        (SD3, {"steps": 4}, "steps is 4"),
        (SD3, {"aspect_ratio": "21:9"}, 'aspect_ratio is "21:9"'),
        (SD3, {"output_format": "png"}, "output_format is .* takes only jpeg"),
        (SDXL, {"prompt": "a red cube"}, "prompt: extra inputs"),
        (SDXL, {"width": 768}, "width is 768; .* takes only 1024"),
        (SDXL, {"text_prompts": []}, "text_prompts is an array; .* takes an array of one or two"),
        (SDXL, {"text_prompts": [{"text": "a", "weight": 2}]}, "text_prompts"),
        (SDXL, {"text_prompts": [{"text": "a"}] * 3}, "text_prompts"),
        (SDXL, {"text_prompts": [{"text": "a", "more": 1}]}, "text_prompts"),
        (SDXL, {"text_prompts": None}, "text_prompts is missing"),
        (TRELLIS, {"prompt": "x" * 78}, "prompt is a string of 78 characters"),
        (TRELLIS, {"output_format": "GLB"}, 'output_format is "GLB"; .* takes one of glb, stl'),
        (TRELLIS, {"ss_sampling_steps": 9}, "ss_sampling_steps is 9"),
        (TRELLIS, {"no_texture": 1}, "no_texture is 1"),
        (TRELLIS, {"steps": 25}, "steps: extra inputs"),
    ],
)
def test_calls_that_it_refuses_name_the_parameter(model: str, call: dict[str, object], says: str) -> None:
    with pytest.raises(Unprocessable, match=says) as caught:
        checked(model, call)
    assert caught.value.param in (*call, "image")


@pytest.mark.parametrize(("model", "name"), [(SCHNELL, "prompt"), (KONTEXT, "prompt"), (KONTEXT, "image"), (SDXL, "text_prompts")])
def test_what_a_model_needs_must_be_there(model: str, name: str) -> None:
    least = {key: value for key, value in LEAST.get(model, {"prompt": "x"}).items() if key != name}
    with pytest.raises(Unprocessable, match=f"^{name} is missing"):
        nvidia_models.check(model, members(least))


def test_a_stand_in_is_told_the_hosted_defaults() -> None:
    sent = nvidia_models.explicit(DEV, members({"prompt": "x", "steps": 7, "width": None, "mode": "base"}))
    assert json.loads(jsonbody.encode(sent)) == {"prompt": "x", "steps": 7, "width": 1024, "height": 1024, "cfg_scale": 5}


def test_a_stand_in_has_no_modes_that_need_a_picture() -> None:
    with pytest.raises(Unprocessable, match=r'mode is "canny"; the stand-in for .* takes only base'):
        nvidia_models.explicit(DEV, members({"prompt": "x", "mode": "canny"}))
