"""Prompts to pictures, on a small model with random weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sensorium.engines import weights
from sensorium.engines.drawing import Draw
from sensorium.engines.flow_image import noise, numpy_model, sampler, text
from sensorium.engines.flow_image.engine import SIDE_MAX, FlowImage, caption_of, enlarged
from sensorium.errors import Cancelled, SettingsError, Unprocessable

from . import plain, tiny

CUBE = Draw("a red cube on a white table", seed=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FlowImage:
    return FlowImage.load(tiny.write(tmp_path_factory.mktemp("models") / "tiny-flow"))


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_a_picture_its_seed_and_its_caption(model: FlowImage) -> None:
    drawing = model.draw(CUBE)
    assert (drawing.image.mode, drawing.image.size, drawing.seed, drawing.ignored) == ("RGB", (16, 16), 3, ())
    assert drawing.caption == caption_of(CUBE.prompt, 3)[0]
    assert "red cube on a white table" in drawing.caption


def test_the_same_wish_gives_the_same_bytes_and_another_seed_does_not(model: FlowImage) -> None:
    assert model.draw(CUBE).image.tobytes() == model.draw(CUBE).image.tobytes()
    assert model.draw(CUBE).image.tobytes() != model.draw(replace(CUBE, seed=4)).image.tobytes()


def test_an_unnamed_attribute_comes_from_the_seed_and_the_model_sees_only_the_caption(model: FlowImage) -> None:
    caption = model.draw(CUBE).caption
    assert model.draw(replace(CUBE, prompt=caption)).image.tobytes() == model.draw(CUBE).image.tobytes()
    assert len({model.draw(replace(CUBE, seed=seed)).caption for seed in range(12)}) > 3


def test_the_whole_path_equals_the_slow_twin(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "tiny", replace(tiny.TRANSFORMER, guidance_embeds=True))
    model = FlowImage.load(folder)
    drawing = model.draw(replace(CUBE, steps=2, guidance=4.0))
    tensors, words = weights.open_tensors(folder, "diffusion_pytorch_model"), weights.open_tensors(folder, "text_encoder")
    ids = text.CaptionTokenizer(folder / "tokenizer.json", model.config.text).ids(drawing.caption)
    states = plain.encode(words, model.config.text, ids)
    x, times = noise.normal(3, (16, 48)).astype(np.float64), sampler.times(2, 1.5)
    for now, after in pairwise(times):
        clean = plain.forward(tensors, model.config.transformer, x, states, states.mean(0), now, 4.0)
        x = x + (after - now) * (x - clean) / now
    tokens = x.reshape(4, 4, 4, 4, 3)
    expected = np.zeros((16, 16, 3))
    for row in range(4):
        for column in range(4):
            expected[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = tokens[row, column]
    assert np.abs(pixels(drawing.image) - (expected.clip(-1, 1) + 1) * 127.5).max() <= 0.51


@pytest.mark.parametrize(("kind", "embeds", "neutral"), [("mixed", False, 1.0), ("embedded", True, 2.0)], ids=["mixed", "embedded"])
def test_guidance_acts_and_its_default_is_the_declared_one(tmp_path: Path, kind: str, embeds: bool, neutral: float) -> None:
    guidance = {"kind": kind, "default": neutral, "range": [1.0, 9.0]}
    model = FlowImage.load(tiny.write(tmp_path / "tiny", replace(tiny.TRANSFORMER, guidance_embeds=embeds), guidance=guidance))
    plain_picture = model.draw(CUBE).image.tobytes()
    assert model.draw(replace(CUBE, guidance=neutral)).image.tobytes() == plain_picture
    assert model.draw(replace(CUBE, guidance=7.0)).image.tobytes() != plain_picture
    assert model.check(replace(CUBE, guidance=0)).guidance == model.check(CUBE).guidance == neutral
    for wrong in (0.5, 9.1, float("nan"), float("inf"), 10**400, -(10**400), -1, True, False, "2", ""):
        with pytest.raises(Unprocessable, match=r"cfg_scale is .*; tiny takes a number, 1..9, or 0 for the default") as caught:
            model.check(replace(CUBE, guidance=wrong))  # type: ignore[arg-type]
        assert caught.value.param == "cfg_scale" and len(caught.value.message) < 200


def test_guidance_without_effect_is_reported(tmp_path: Path) -> None:
    model = FlowImage.load(tiny.write(tmp_path / "tiny", guidance={"kind": "none"}))
    drawing = model.draw(replace(CUBE, guidance=5.0))
    assert drawing.ignored == model.check(replace(CUBE, guidance=10**400)).ignored == ("cfg_scale",)
    assert drawing.image.tobytes() == model.draw(CUBE).image.tobytes()
    assert model.check(replace(CUBE, guidance=0)).ignored == ()


@pytest.mark.parametrize(
    ("steps", "shown"),
    [
        *((0, "0"), (-1, "-1"), (51, "51"), (10**9, "1000000000"), (2.5, "2.5"), (float("nan"), "NaN")),
        *(("four", '"four"'), (True, "true"), (False, "false"), ([4], "an array")),
    ],
)
def test_steps_outside_their_range_name_value_and_range(model: FlowImage, steps: object, shown: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        model.draw(replace(CUBE, steps=steps))  # type: ignore[arg-type]
    assert (caught.value.param, caught.value.message) == ("steps", f"steps is {shown}; tiny-flow takes an integer, 1..50")


def test_a_whole_float_counts_as_an_integer(model: FlowImage) -> None:
    resolved = model.check(replace(CUBE, seed=3.0, steps=4.0, width=32.0))  # type: ignore[arg-type]
    assert [resolved.seed, resolved.steps, resolved.width, resolved.height] == [3, 4, 32, 32]
    assert {type(value) for value in (resolved.seed, resolved.steps, resolved.width, resolved.height)} == {int}


@pytest.mark.parametrize(
    ("name", "value"), [("seed", -1), ("seed", 2**32), ("seed", True), ("width", 15), ("height", 0), ("width", SIDE_MAX + 1)]
)
def test_other_numbers_outside_their_range(model: FlowImage, name: str, value: int) -> None:
    with pytest.raises(Unprocessable, match=f"^{name} is") as caught:
        model.check(replace(CUBE, **{name: value}))
    assert caught.value.param == name


@pytest.mark.parametrize("steps", [1, 50])
def test_the_ends_of_the_range_work(model: FlowImage, steps: int) -> None:
    assert model.draw(replace(CUBE, steps=steps)).image.size == (16, 16)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("", "1 to 10000 characters"),
        (None, "prompt is missing"),
        (5, "prompt is 5"),
        ("   ", "no shape that this model can draw"),
        ("a " * 6000, "1 to 10000 characters"),
        ("9" * 5000, "no shape that this model can draw"),
        ("a photo of my cat", "no shape that this model can draw; it knows shapes: cube, ball"),
        ("red", "no shape"),
        ("a sign that says STOP", "cannot draw signs or lettering"),
        ("a red cube on top of a blue ball", "Only a cube or a cylinder can carry"),
    ],
)
def test_prompts_that_cannot_be_drawn(model: FlowImage, prompt: object, says: str) -> None:
    with pytest.raises(Unprocessable, match=says) as caught:
        model.check(replace(CUBE, prompt=prompt))  # type: ignore[arg-type]
    assert caught.value.param == "prompt"


def test_unknown_words_are_reported_once(model: FlowImage) -> None:
    drawing = model.draw(replace(CUBE, prompt="a shiny red cube, very shiny, on a white table"))
    assert drawing.ignored == ("shiny", "very")
    assert "red cube on a white table" in drawing.caption


def test_a_size_that_does_not_fit_is_reported() -> None:
    caption, ignored = caption_of("five large red balls on a green lawn", 1)
    assert caption == "five small red balls on a green lawn"
    assert ignored == ("large",)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(None, None, (16, 16)), (40, None, (40, 40)), (None, 33, (33, 33)), (16, 30, (16, 30)), (64, 48, (64, 48)), (17, 16, (17, 16))],
)
def test_sizes(model: FlowImage, width: int | None, height: int | None, size: tuple[int, int]) -> None:
    assert model.draw(replace(CUBE, width=width, height=height)).image.size == size


def test_a_longer_side_repeats_the_border() -> None:
    square = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    wide, high = pixels(enlarged(square, 13, 8)), pixels(enlarged(square, 8, 11))
    inner = pixels(square)
    assert np.array_equal(wide[:, 2:10], inner)
    assert np.array_equal(wide[:, :2], inner[:, :1].repeat(2, 1))
    assert np.array_equal(wide[:, 10:], inner[:, -1:].repeat(3, 1))
    assert np.array_equal(high[1:9], inner)
    assert np.array_equal(high[9:], inner[-1:].repeat(2, 0))


def test_a_cancelled_picture_is_not_finished(model: FlowImage) -> None:
    asked: list[bool] = []

    def cancelled() -> bool:
        asked.append(True)
        return len(asked) > 2

    with pytest.raises(Cancelled):
        model.draw(replace(CUBE, steps=10), cancelled)
    assert len(asked) == 3


def test_a_folder_with_other_tensors_is_refused_with_all_names(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "tiny")
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = tiny.random_tensors(numpy_model.plan(tiny.TRANSFORMER), 0)
    tensors["extra.weight"] = tensors.pop("proj_out.bias")
    tensors["x_embedder.bias"] = tensors["x_embedder.bias"][:-1]
    tiny.safetensors(path, tensors)
    with pytest.raises(SettingsError) as caught:
        FlowImage.load(folder)
    text = "\n".join(caught.value.problems)
    assert all(name in text for name in ("proj_out.bias", "extra.weight", "x_embedder.bias"))
