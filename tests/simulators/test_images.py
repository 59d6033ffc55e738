"""Image models: every rule of the tables as a 422, the refusal of users' pictures, and replies whose pictures decode."""

from __future__ import annotations

import base64
import io
import json
import struct
from typing import Any

import pytest
from PIL import Image

from tests.simulators.site import AI, CUBE, SCHNELL, Site

FLUX = "black-forest-labs/flux.1-"
DEV, KONTEXT, KLEIN = f"{FLUX}dev", f"{FLUX}kontext-dev", "black-forest-labs/flux.2-klein-4b"
SD3, XL, TRELLIS = "stabilityai/stable-diffusion-3-medium", "stabilityai/stable-diffusion-xl", "microsoft/trellis"
SAMPLE = "data:image/png;example_id,0"
SIDES = "768, 832, 896, 960, 1024, 1088, 1152, 1216, 1280 or 1344"


def draw(site: Site, model: str, body: Any, **headers: str) -> Any:
    return site.post(f"{AI}/v1/genai/{model}", body, **headers)


def opened(text: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    image.load()
    return image


RULES = [
    (f"{FLUX}schnell", {}, "prompt", "missing", "Field required"),
    (f"{FLUX}schnell", {"prompt": "a" * 10_001}, "prompt", "string_too_long", "String should have at most 10000 characters"),
    (f"{FLUX}schnell", {**CUBE, "steps": 5}, "steps", "less_than_equal", "Input should be less than or equal to 4"),
    (f"{FLUX}schnell", {**CUBE, "steps": 0}, "steps", "greater_than_equal", "Input should be greater than or equal to 1"),
    (f"{FLUX}schnell", {**CUBE, "cfg_scale": 1}, "cfg_scale", "less_than_equal", "Input should be less than or equal to 0"),
    (f"{FLUX}schnell", {**CUBE, "width": 1000}, "width", "literal_error", f"Input should be {SIDES}"),
    (f"{FLUX}schnell", {**CUBE, "mode": "canny"}, "mode", "literal_error", "Input should be 'base'"),
    (f"{FLUX}schnell", {**CUBE, "image": SAMPLE}, "image", "none_required", "Input should be None"),
    (f"{FLUX}schnell", {**CUBE, "samples": 2}, "samples", "less_than_equal", "Input should be less than or equal to 1"),
    (f"{FLUX}schnell", {**CUBE, "seed": 4_294_967_296}, "seed", "less_than_equal", "Input should be less than or equal to 4294967295"),
    (f"{FLUX}schnell", {**CUBE, "model": "a"}, "model", "extra_forbidden", "Extra inputs are not permitted"),
    (DEV, {**CUBE, "steps": 4}, "steps", "greater_than_equal", "Input should be greater than or equal to 5"),
    (DEV, {**CUBE, "steps": 101}, "steps", "less_than_equal", "Input should be less than or equal to 100"),
    (DEV, {**CUBE, "steps": 7.5}, "steps", "int_from_float", "Input should be a valid integer, got a number with a fractional part"),
    (DEV, {**CUBE, "steps": "many"}, "steps", "int_parsing", "Input should be a valid integer, unable to parse string as an integer"),
    (DEV, {**CUBE, "cfg_scale": 1}, "cfg_scale", "greater_than", "Input should be greater than 1"),
    (DEV, {**CUBE, "cfg_scale": 9.5}, "cfg_scale", "less_than_equal", "Input should be less than or equal to 9"),
    (DEV, {**CUBE, "aspect_ratio": "1:1"}, "aspect_ratio", "extra_forbidden", "Extra inputs are not permitted"),
    (DEV, {**CUBE, "mode": "canny"}, "image", "missing", "Field required"),
    (KONTEXT, {"prompt": "a"}, "image", "missing", "Field required"),
    (KONTEXT, {"prompt": "a", "image": SAMPLE, "steps": 19}, "steps", "greater_than_equal", "Input should be greater than or equal to 20"),
    (KONTEXT, {"prompt": "a", "image": SAMPLE, "steps": 51}, "steps", "less_than_equal", "Input should be less than or equal to 50"),
    (KLEIN, {**CUBE, "steps": 5}, "steps", "less_than_equal", "Input should be less than or equal to 4"),
    (KLEIN, {**CUBE, "mode": "base"}, "mode", "literal_error", "Input should be 'Image Generation' or 'Image Editing'"),
    (SD3, {"prompt": "a", "width": 1024}, "width", "extra_forbidden", "Extra inputs are not permitted"),
    (SD3, {"prompt": "a", "output_format": "png"}, "output_format", "literal_error", "Input should be 'jpeg'"),
    (SD3, {"prompt": "a", "model": "sd3.5"}, "model", "literal_error", "Input should be 'sd3'"),
    (TRELLIS, {"prompt": "a" * 78}, "prompt", "string_too_long", "String should have at most 77 characters"),
    (TRELLIS, {"prompt": "a", "output_format": "GLB"}, "output_format", "literal_error", "Input should be 'glb' or 'stl'"),
    (
        TRELLIS,
        {"prompt": "a", "ss_sampling_steps": 9},
        "ss_sampling_steps",
        "greater_than_equal",
        "Input should be greater than or equal to 10",
    ),
    (TRELLIS, {"prompt": "a", "ss_cfg_scale": 11}, "ss_cfg_scale", "less_than_equal", "Input should be less than or equal to 10"),
    (TRELLIS, {}, "image", "missing", "Field required"),
]


@pytest.mark.parametrize(("model", "body", "field", "kind", "said"), RULES)
def test_a_broken_rule_is_a_422_item(site: Site, model: str, body: Any, field: str, kind: str, said: str) -> None:
    answer = draw(site, model, body)
    assert (answer.status, answer.headers["content-type"], len(answer.json["detail"])) == (422, "application/json", 1)
    (item,) = answer.json["detail"]
    assert (item["type"], item["loc"], item["msg"]) == (kind, ["body", field], said)
    assert item["input"] == (body if kind == "missing" else body[field])
    assert "url" not in item


def test_the_items_carry_their_limits(site: Site) -> None:
    found = {item["loc"][1]: item["ctx"] for item in draw(site, DEV, {**CUBE, "steps": 4, "cfg_scale": 1, "width": 5}).json["detail"]}
    assert found == {"width": {"expected": SIDES}, "steps": {"ge": 5}, "cfg_scale": {"gt": 1.0}}


@pytest.mark.parametrize(
    ("body", "kind", "where"),
    [(b"{", "json_invalid", ["body", 1]), (b"[]", "model_attributes_type", ["body"]), (b"", "json_invalid", ["body", 0])],
)
def test_vanity_bodies_that_are_no_object(site: Site, body: bytes, kind: str, where: list[Any]) -> None:
    answer = site.call("POST", SCHNELL, body, {"Content-Type": "application/json"})
    assert (answer.status, answer.json["detail"][0]["type"], answer.json["detail"][0]["loc"]) == (422, kind, where)


@pytest.mark.parametrize(
    ("model", "body"),
    [
        (f"{FLUX}schnell", {"prompt": "a", "steps": 4, "seed": 0, "cfg_scale": 0, "mode": "base", "image": None, "samples": 1}),
        (DEV, {"prompt": "a", "steps": 5, "cfg_scale": 9, "seed": 4_294_967_295}),
        (DEV, {"prompt": "a", "mode": "depth", "image": "data:image/png;example_id,3"}),
        (KONTEXT, {"prompt": "a", "image": "data:image/png;example_id,2", "aspect_ratio": "21:9"}),
        (KLEIN, {"prompt": "a", "mode": "Image Editing", "image": SAMPLE}),
        (TRELLIS, {"image": "data:image/png;example_id,3", "no_texture": True}),
        (SD3, {"prompt": "a", "negative_prompt": None, "mode": "text-to-image", "model": "sd3"}),
    ],
)
def test_what_the_tables_allow_is_drawn(site: Site, model: str, body: Any) -> None:
    assert draw(site, model, body).status == 200


@pytest.mark.parametrize(
    ("model", "image", "said"),
    [
        (KONTEXT, "data:image/png;base64,iVBORw0KGgo=", "Expected: example_id, got: base64"),
        (TRELLIS, "data:image/png;asset_id,0c1f0b0e-0000-4000-8000-000000000000", "Expected: example_id, got: asset_id"),
        (TRELLIS, "data:image/png;example_id,4", "Not valid example_id, expected value 0, 1, 2, 3"),
        (KONTEXT, "data:image/png;example_id,3", "Not valid example_id, expected value 0, 1, 2"),
        (KLEIN, "https://example.com/a.png", "Image has been provided in the invalid form"),
    ],
)
def test_users_pictures_are_refused_with_a_string(site: Site, model: str, image: str, said: str) -> None:
    mode = {"mode": "Image Editing"} if model == KLEIN else {}
    answer = draw(site, model, {"prompt": "a", "image": image, **mode})
    assert (answer.status, answer.body.decode()) == (422, json.dumps({"detail": said}, separators=(",", ":")))


def test_the_account_lacks_sdxl(site: Site) -> None:
    for path in (XL, "stabilityai/sdxl"):
        answer = draw(site, path, {"text_prompts": [{"text": "a", "weight": 1}]})
        assert (answer.status, "Not found for account 'simulated-account'" in answer.json["detail"]) == (404, True)


def test_a_picture_is_a_jpeg_of_the_size_asked_for(site: Site) -> None:
    answer = draw(site, DEV, {"prompt": "a red cube", "width": 1344, "height": 768, "seed": 7})
    (artifact,) = answer.json["artifacts"]
    image = opened(artifact["base64"])
    assert (image.format, image.size, artifact["finishReason"], artifact["seed"]) == ("JPEG", (1344, 768), "SUCCESS", 7)
    assert list(artifact) == ["base64", "finishReason", "seed"]
    assert len(base64.b64decode(artifact["base64"])) > 15 * 1024


def test_pictures_follow_from_prompt_and_seed(site: Site) -> None:
    def picture(**changes: Any) -> str:
        return str(draw(site, f"{FLUX}schnell", {**CUBE, "seed": 3, **changes}).json["artifacts"][0]["base64"])

    assert picture() == picture()
    assert len({picture(), picture(seed=4), picture(prompt="a blue ball")}) == 3


def test_seed_0_is_random_and_tells_what_it_became(site: Site) -> None:
    seeds = {draw(site, f"{FLUX}schnell", {**CUBE, "seed": 0}).json["artifacts"][0]["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert 0 not in seeds


def test_stable_diffusion_3_answers_in_its_own_shape(site: Site) -> None:
    answer = draw(site, SD3, {"prompt": "a", "aspect_ratio": "16:9", "seed": 0}).json
    assert (list(answer), answer["finish_reason"], answer["seed"]) == (["image", "finish_reason", "seed"], "SUCCESS", 0)
    assert (opened(answer["image"]).format, opened(answer["image"]).size) == ("JPEG", (1344, 768))


@pytest.mark.parametrize(("ratio", "size"), [("match_input_image", (1024, 1024)), ("21:9", (1568, 672)), ("1:2", (720, 1456))])
def test_kontext_takes_ratios(site: Site, ratio: str, size: tuple[int, int]) -> None:
    body = {"prompt": "a", "image": SAMPLE, "aspect_ratio": ratio}
    assert opened(draw(site, KONTEXT, body).json["artifacts"][0]["base64"]).size == size


def test_trellis_answers_meshes(site: Site) -> None:
    glb = base64.b64decode(draw(site, TRELLIS, {"prompt": "a chair", "seed": 1}).json["artifacts"][0]["base64"])
    magic, version, size, length, kind = struct.unpack_from("<4sIII4s", glb)
    assert (magic, version, size, kind) == (b"glTF", 2, len(glb), b"JSON")
    scene = json.loads(glb[20 : 20 + length])
    assert scene["buffers"][0]["byteLength"] == len(glb) - 28 - length
    stl = base64.b64decode(draw(site, TRELLIS, {"prompt": "a", "output_format": "stl"}).json["artifacts"][0]["base64"])
    assert len(stl) == 84 + 50 * struct.unpack_from("<I", stl, 80)[0]


def test_a_filtered_picture_is_black_small_and_http_200(site: Site) -> None:
    for body, headers in (({**CUBE, "prompt": "something NSFW"}, {}), (CUBE, {"x_simulate": "filtered"})):
        answer = draw(site, f"{FLUX}schnell", body, **headers)
        (artifact,) = answer.json["artifacts"]
        image = opened(artifact["base64"])
        assert (answer.status, artifact["finishReason"], image.size) == (200, "CONTENT_FILTERED", (768, 768))
        assert len(base64.b64decode(artifact["base64"])) < 15 * 1024
        assert max(high for _, high in image.getextrema()) == 0
    sd3 = draw(site, SD3, {"prompt": "nsfw"}).json
    assert sd3["finish_reason"] == "CONTENT_FILTERED"


def test_pictures_that_did_not_come(site: Site) -> None:
    (artifact,) = draw(site, DEV, CUBE, x_simulate="finish-error").json["artifacts"]
    assert (artifact["finishReason"], artifact["base64"]) == ("ERROR", "")
    assert draw(site, DEV, CUBE, x_simulate="empty-artifacts").json == {"artifacts": []}


def test_the_shapes_to_which_trellis_drifted(site: Site) -> None:
    shapes = {json.dumps(_skeleton(draw(site, TRELLIS, {"prompt": "a"}, x_simulate="drift").json)) for _ in range(40)}
    assert shapes == {
        '{"artifacts": ["..."]}',
        '{"data": [{"base64": "..."}]}',
        '{"artifacts": [{"url": "..."}]}',
        '{"artifacts": {"0": {"base64": "..."}}}',
    }


def _skeleton(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _skeleton(inner) for name, inner in value.items()}
    return [_skeleton(inner) for inner in value] if isinstance(value, list) else "..."
