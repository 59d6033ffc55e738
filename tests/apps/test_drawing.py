"""fal-ai/flux/schnell and /dev: fal's schema, the bodies that each kind of route is sent, files and data: URLs."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image

from sensorium.apps.app import UnknownApp
from sensorium.errors import BodyTooLarge, Forbidden, UpstreamFailed, UpstreamRefused
from sensorium.routing.call import Call, Route
from sensorium.wire.fal_errors import Refused
from sensorium.wire.lifecycle import Lifecycle
from tests.apps.stands import Bench, Says
from tests.routing.hosted import image, provider

SCHNELL, DEV = "fal-ai/flux/schnell", "fal-ai/flux/dev"
FLUX, FLUX_DEV = "black-forest-labs/flux.1-schnell", "black-forest-labs/flux.1-dev"
ENGINE, NVIDIA, FAL = provider("http://engine", "local", local=True), provider("http://nvidia", "nvidia"), provider("http://fal", "fal")
TOY, TOY_DEV = image(FLUX, ENGINE, "sensorium/scenes-flow", True), image(FLUX_DEV, ENGINE, "sensorium/scenes-flow", True)
CUBE = {"prompt": "a red cube"}


def picture(kind: str = "PNG", size: tuple[int, int] = (6, 4)) -> str:
    out = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(out, kind)
    return base64.b64encode(out.getvalue()).decode()


def drawing(call: Call, route: Route) -> Says:
    """What a genai service answers; fal's queue is behind the transport and answers in the same shape."""
    seed = json.loads(bytes(call.members["seed"]))
    finish = "CONTENT_FILTERED" if b"nsfw" in bytes(call.members["prompt"]) else "SUCCESS"
    return Says(json.dumps({"artifacts": [{"base64": picture(), "finishReason": finish, "seed": seed}]}).encode())


def bench(*routes: Route, model: Any = drawing) -> Bench:
    return Bench(routes or (TOY, TOY_DEV), model)


def test_a_picture_is_stored_and_linked() -> None:
    running = bench()
    kept = Lifecycle(60.0, {"default": "forbid"})
    made = running.run(SCHNELL, CUBE | {"seed": 7}, lifecycle=kept)
    (shown,) = made.body["images"]
    file = running.store.at(shown["url"])
    assert shown == {
        "url": "http://hub.example:8789/fal/cdn/files/sig/key0.bin",
        "content_type": "image/jpeg",
        "file_name": "picture-1.jpg",
        "file_size": len(file.data),
        "width": 6,
        "height": 4,
    }
    assert (file.owner, file.request, file.content_type, file.lifecycle) == ("alice", "r1", "image/jpeg", kept)
    assert Image.open(io.BytesIO(file.data)).format == "JPEG"
    assert (made.files, made.body["seed"], made.body["prompt"]) == (("key0",), 7, "a red cube")
    assert made.body["has_nsfw_concepts"] == [False]
    assert set(made.body["timings"]) == {"inference"}
    assert made.headers is not None
    assert made.headers["x-sensorium-stand-in"] == FLUX
    assert running.lines[0] == f"started: {FLUX}"
    assert running.lines[-1].startswith("finished after ")


def test_defaults_and_what_is_sent_to_the_engine() -> None:
    running = bench()
    running.run(SCHNELL, CUBE | {"seed": 7, "output_format": "png"})
    assert running.models.sent[0] == {
        "width": 1024, "height": 768, "steps": 4, "cfg_scale": 0, "prompt": "a red cube", "seed": 7, "output_format": "png",
    }  # fmt: skip
    running.run(DEV, CUBE | {"seed": 7, "image_size": {"width": 200, "height": 100}})
    sent = running.models.sent[1]
    assert (sent["width"], sent["height"], sent["steps"], sent["cfg_scale"]) == (200, 100, 28, 3.5)


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        ("square_hd", (1024, 1024)),
        ("square", (512, 512)),
        ("portrait_4_3", (768, 1024)),
        ("portrait_16_9", (576, 1024)),
        ("landscape_4_3", (1024, 768)),
        ("landscape_16_9", (1024, 576)),
        ({}, (512, 512)),
        ({"width": "640"}, (640, 512)),
    ],
)
def test_every_size_of_fals_schema_reaches_the_stand_in(size: Any, sides: tuple[int, int]) -> None:
    running = bench()
    running.run(SCHNELL, CUBE | {"image_size": size})
    assert (running.models.sent[0]["width"], running.models.sent[0]["height"]) == sides


def test_several_pictures_have_seeds_of_their_own() -> None:
    running = bench()
    made = running.run(SCHNELL, CUBE | {"seed": 2**32 - 2, "num_images": 4, "sync_mode": True})
    assert [sent["seed"] for sent in running.models.sent] == [2**32 - 2, 2**32 - 1, 1, 2]
    assert made.body["seed"] == 2**32 - 2
    assert [one["url"].partition(",")[0] for one in made.body["images"]] == ["data:image/jpeg;base64"] * 4
    assert (made.files, running.store.files) == ((), {})
    assert running.lines[1:5] == [f"picture {number} of 4" for number in (1, 2, 3, 4)]


def test_without_a_seed_one_is_drawn_and_told() -> None:
    running = bench()
    seeds = {running.run(SCHNELL, CUBE | more).body["seed"] for more in ({}, {"seed": 0}, {"seed": None}, {})}
    assert len(seeds) == 4
    assert [sent["seed"] for sent in running.models.sent] and 0 not in seeds


def test_a_filtered_picture_is_marked() -> None:
    made = bench().run(SCHNELL, {"prompt": "nsfw"})
    assert made.body["has_nsfw_concepts"] == [True]
    nothing = json.dumps({"artifacts": [{"finishReason": "CONTENT_FILTERED", "base64": ""}]}).encode()
    with pytest.raises((Refused, UpstreamRefused, UpstreamFailed)):
        bench(model=lambda call, route: Says(nothing)).run(SCHNELL, CUBE)


@pytest.mark.parametrize(
    ("app", "given", "loc", "kind"),
    [
        (SCHNELL, {"prompt": ...}, ["prompt"], "missing"),
        (SCHNELL, {"prompt": 5}, ["prompt"], "string_type"),
        (SCHNELL, {"num_inference_steps": 13}, ["num_inference_steps"], "less_than_equal"),
        (DEV, {"num_inference_steps": 51}, ["num_inference_steps"], "less_than_equal"),
        (SCHNELL, {"num_inference_steps": True}, ["num_inference_steps"], "int_type"),
        (SCHNELL, {"image_size": "huge"}, ["image_size"], "literal_error"),
        (SCHNELL, {"image_size": 512}, ["image_size"], "literal_error"),
        (SCHNELL, {"image_size": {"width": 0}}, ["image_size", "width"], "greater_than"),
        (SCHNELL, {"image_size": {"height": 14143}}, ["image_size", "height"], "less_than_equal"),
        (SCHNELL, {"num_images": 5}, ["num_images"], "less_than_equal"),
        (SCHNELL, {"guidance_scale": 0.5}, ["guidance_scale"], "greater_than_equal"),
        (SCHNELL, {"guidance_scale": float("nan")}, ["guidance_scale"], "finite_number"),
        (SCHNELL, {"output_format": "webp"}, ["output_format"], "literal_error"),
        (SCHNELL, {"seed": -1}, ["seed"], "greater_than_equal"),
        (SCHNELL, {"sync_mode": "perhaps"}, ["sync_mode"], "bool_parsing"),
    ],
)
def test_inputs_out_of_fals_schema(app: str, given: dict[str, Any], loc: list[str], kind: str) -> None:
    running = bench()
    (found,) = running.refused(app, {name: value for name, value in (CUBE | given).items() if value is not ...})
    assert (found["loc"], found["type"]) == (["body", *loc], kind)
    assert running.models.sent == []


def test_the_engines_own_limits_name_fals_fields() -> None:
    for param, field in (("width", "image_size"), ("cfg_scale", "guidance_scale"), ("steps", "num_inference_steps"), ("prompt", "prompt")):
        error = {"error": {"message": f"{param} is out of range", "code": "invalid_parameter", "param": param}}
        (found,) = bench(model=lambda call, route, error=error: Says(json.dumps(error).encode(), status=422)).refused(DEV, CUBE)
        assert (found["loc"], found["msg"], found["type"]) == (["body", field], f"{param} is out of range", "value_error")


@pytest.mark.parametrize(
    ("app", "given", "field", "words"),
    [
        (SCHNELL, {"image_size": "square"}, "image_size", "nearest valid size: 768 x 768"),
        (SCHNELL, {"image_size": {"width": 1000, "height": 2000}}, "image_size", "nearest valid size: 1024 x 1344"),
        (SCHNELL, {"num_inference_steps": 8}, "num_inference_steps", "nearest valid value: 4"),
        (DEV, {"num_inference_steps": 2}, "num_inference_steps", "nearest valid value: 5"),
        (DEV, {"guidance_scale": 12}, "guidance_scale", "takes a number above 1 and up to 9"),
    ],
)
def test_what_nvidia_does_not_draw_is_told_before_the_call(app: str, given: dict[str, Any], field: str, words: str) -> None:
    running = bench(image(FLUX, NVIDIA), image(FLUX_DEV, NVIDIA))
    (found,) = running.refused(app, CUBE | given)
    assert found["loc"] == ["body", field]
    assert words in found["msg"]
    assert running.models.sent == []


def test_what_nvidia_draws_goes_there_in_its_own_words() -> None:
    running = bench(image(FLUX, NVIDIA))
    running.run(SCHNELL, CUBE | {"seed": 7, "guidance_scale": 9, "enable_safety_checker": False})
    assert running.models.sent == [{"prompt": "a red cube", "seed": 7, "steps": 4, "width": 1024, "height": 768}]


def test_what_nvidia_does_not_draw_goes_to_fal_where_there_is_fal() -> None:
    running = bench(image(FLUX, NVIDIA), Route(FLUX, "image", "fal", frozenset(), FAL, SCHNELL))
    running.run(SCHNELL, CUBE | {"seed": 7, "image_size": "square", "guidance_scale": 2, "enable_safety_checker": False})
    assert running.models.sent == [
        {
            "sync_mode": True,
            "prompt": "a red cube",
            "num_inference_steps": 4,
            "seed": 7,
            "image_size": {"width": 512, "height": 512},
            "enable_safety_checker": False,
            "guidance_scale": 2.0,
            "output_format": "jpeg",
        }
    ]


def test_a_model_of_the_endpoints_own_id_comes_first() -> None:
    running = bench(TOY, Route(SCHNELL, "image", "fal", frozenset(), FAL, SCHNELL))
    made = running.run(SCHNELL, CUBE)
    assert made.headers is not None
    assert (made.headers["x-sensorium-source"], made.headers["x-sensorium-model"]) == ("fal", SCHNELL)


def test_a_service_that_speaks_openai() -> None:
    route = Route(FLUX, "image", "openai", frozenset(), provider("http://other", "other"), "flux")
    reply = json.dumps({"data": [{"b64_json": picture("JPEG")}]}).encode()
    running = bench(route, model=lambda call, _: Says(reply))
    made = running.run(SCHNELL, CUBE | {"seed": 7})
    assert running.models.sent == [{"prompt": "a red cube", "size": "1024x768", "model": "flux"}]
    assert made.headers is not None
    assert made.headers["x-sensorium-changed"] == "seed, steps dropped: OpenAI's protocol has none"
    assert made.body["seed"] == 7
    linked = json.dumps({"data": [{"url": "https://files.example/a.png"}]}).encode()
    made = bench(route, model=lambda call, _: Says(linked)).run(SCHNELL, CUBE)
    assert made.body["images"] == [{"url": "https://files.example/a.png", "content_type": "image/jpeg"}]


def test_nothing_stays_of_a_run_that_fails() -> None:
    running = bench()
    running.store.full_after = 2
    with pytest.raises(BodyTooLarge, match="full"):
        running.run(SCHNELL, CUBE | {"num_images": 4})
    assert running.store.files == {}
    assert running.lines[-1] == "failed: the store is full"


@pytest.mark.parametrize("body", [b"{}", b'{"artifacts": [{"base64": "!!!!"}]}', b'{"artifacts": [{"base64": "aGVsbG8gd29ybGQ="}]}'])
def test_a_reply_without_a_picture(body: bytes) -> None:
    with pytest.raises((UpstreamFailed, UpstreamRefused)):
        bench(model=lambda call, route: Says(body)).run(SCHNELL, CUBE)


def test_its_sub_paths() -> None:
    running = bench()
    app, path = running.apps.find(f"/{DEV}/")
    assert (app.id, path, app.lane(path)) == ("fal-ai/flux", "/dev", FLUX_DEV)
    for missing in ("fal-ai/flux", "fal-ai/flux/pro"):
        with pytest.raises(UnknownApp, match=f"Application '{missing}' not found") as caught:
            running.apps.find(missing)
        assert SCHNELL in str(caught.value.hint)
    with pytest.raises(UnknownApp, match="Application 'fal-ai/flux/pro' not found"):
        app.lane("/pro")
    assert len(running.outputs(SCHNELL, CUBE)) == 1


def test_a_private_model_is_told_as_such() -> None:
    hidden = Route(FLUX, "image", "genai", frozenset(), NVIDIA, FLUX, private=True)
    with pytest.raises(Forbidden):
        bench(hidden).run(SCHNELL, CUBE)
