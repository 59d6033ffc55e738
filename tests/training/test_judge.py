"""The judge: numpy equals torch, the shipped weights know real renders, and its verdicts follow the scene."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from sensorium.engines.flow_image.world import Scene, Thing
from training import judge_train, scenes
from training.judge import CELLS, FOLDER, GLOBAL, NO_KIND, Judge, Object, Opinion, check, convolve, normalised

RED, BLUE = Thing("red", "cube", "small"), Thing("blue", "ball", "large")
LEFT, RIGHT = Object("red", "cube", "small", 0.25, 0.6), Object("blue", "ball", "large", 0.75, 0.7)


def opinion(relation: str, *objects: Object) -> Opinion:
    return Opinion("grey floor", "left", relation, objects)


def test_numpy_equals_torch() -> None:
    torch.manual_seed(1)
    network = judge_train.Network()
    pictures, classes, maps = judge_train.batch(0, 4)
    judge_train.loss(*network(pictures), classes, maps).backward()  # moves the batch norms off their start
    network.eval()
    image = scenes.render(scenes.sample(random.Random(4)), random.Random(4))
    ours = Judge({name: tensor.numpy() for name, tensor in judge_train.folded(network).items()}).outputs(image)
    with torch.no_grad():
        whole, local = network(torch.from_numpy(normalised(image)).permute(2, 0, 1)[None])
    assert np.abs(ours[0] - whole[0].numpy()).max() < 1e-4
    assert np.abs(ours[1] - local[0].permute(1, 2, 0).numpy()).max() < 1e-4


def test_the_shipped_judge_knows_held_out_renders() -> None:
    judging, rng = Judge.load(), random.Random(6)
    layouts = [scenes.sample(rng, True, ("single", "count", "pair")) for _ in range(100)]
    right = [all(check(judging.look(scenes.render(layout, rng)), layout.scene).values()) for layout in layouts]
    assert sum(right) >= 97
    assert (FOLDER / "judge.safetensors").stat().st_size < 2e6


def test_training_writes_a_judge_that_loads(tmp_path: object) -> None:
    loss = judge_train.train(1e9, tmp_path, steps=1, workers=0)  # type: ignore[arg-type]
    assert np.isfinite(loss)
    image = np.zeros((96, 96, 3), np.uint8)
    assert Judge.load(tmp_path).look(image).surface in GLOBAL["surface"]  # type: ignore[arg-type]


def test_targets_mark_each_centre_once() -> None:
    layout = scenes.sample(random.Random(8), None, ("count",))
    whole, maps = judge_train.targets(layout)
    assert (maps[0] == 1).sum() == len(layout.placed)
    assert whole == [GLOBAL["surface"].index(layout.scene.surface or ""), judge_train.IGNORE, judge_train.IGNORE]
    assert ((maps[1] >= 0) == (maps[0] == 1)).all() and maps.shape == (4, CELLS, CELLS)


@pytest.mark.parametrize("relation", ["to the left of", "to the right of"])
def test_a_pair_may_be_told_from_either_side(relation: str) -> None:
    things = (RED, BLUE) if relation == "to the left of" else (BLUE, RED)
    scene = Scene("pair", things, "grey floor", relation)
    assert all(check(opinion("to the left of", RIGHT, LEFT), scene).values())
    swapped = check(opinion("to the left of", RIGHT, LEFT), Scene("pair", things[::-1], "grey floor", relation))
    assert not swapped["colour"] and not swapped["shape"] and swapped["relation"] and swapped["count"]


def test_front_and_top_are_read_off_the_height() -> None:
    high, low = Object("red", "cube", "small", 0.5, 0.4), Object("blue", "ball", "large", 0.5, 0.7)
    assert all(check(opinion("on top of", low, high), Scene("pair", (RED, BLUE), "grey floor", "on top of")).values())
    assert all(check(opinion("in front of", low, high), Scene("pair", (BLUE, RED), "grey floor", "in front of")).values())


@pytest.mark.parametrize(
    ("objects", "kind"),
    [
        ((LEFT,), "single"),
        ((LEFT, LEFT), "count"),
        ((LEFT, Object("red", "cube", "medium", 0.5, 0.6), LEFT), "count"),
        ((LEFT, RIGHT), "pair"),
        ((LEFT, Object("red", "ball", "small", 0.75, 0.6)), "pair"),
        ((LEFT, RIGHT, LEFT), NO_KIND),
        ((), NO_KIND),
    ],
)
def test_the_kind_follows_from_the_objects(objects: tuple[Object, ...], kind: str) -> None:
    assert opinion("to the left of", *objects).kind == kind


def test_degraded_pictures_keep_their_shape_and_change() -> None:
    image = scenes.render(scenes.sample(random.Random(4)), random.Random(4))
    changed = [judge_train.degraded(image, random.Random(number)) for number in range(20)]
    assert all(one.shape == image.shape and one.dtype == np.uint8 for one in changed)
    distance = [np.abs(one.astype(float) - image).mean() for one in changed]
    assert max(distance) < 25 and sum(value > 0.5 for value in distance) > 12


def test_a_missing_object_fails_count_and_attributes() -> None:
    verdict = check(opinion("to the left of", LEFT), Scene("count", (RED,), "grey floor", count=2))
    assert verdict == {"kind": False, "surface": True, "count": False, "colour": False, "shape": False, "size": False}


def test_a_convolution_strides_like_torch() -> None:
    x, weight = np.random.default_rng(0).standard_normal((9, 9, 2)), np.random.default_rng(1).standard_normal((3, 2, 3, 3))
    ours = convolve(x.astype(np.float32), weight.astype(np.float32), np.zeros(3, np.float32), 2)
    theirs = torch.nn.functional.conv2d(torch.tensor(x).permute(2, 0, 1)[None].float(), torch.tensor(weight).float(), stride=2, padding=1)
    assert np.allclose(ours, theirs[0].permute(1, 2, 0).numpy(), atol=1e-5)
