"""Measurement: right on real renders, and wrong as soon as one thing is."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from sensorium.engines.flow_image.world import COLOURS, POSITIONS, RELATIONS, SIZES, SURFACES, Scene, Thing
from training import measure, scenes

KINDS = ("single", "count", "pair")


def layouts(count: int, kind: tuple[str, ...] = KINDS, seed: int = 11) -> list[tuple[scenes.Layout, measure.Image]]:
    rng = random.Random(seed)
    return [(layout, scenes.render(layout, rng)) for layout in (scenes.sample(rng, None, kind) for _ in range(count))]


def test_nearly_every_real_render_measures_right() -> None:
    seen = layouts(150)
    assert sum(measure.right(image, layout.scene) for layout, image in seen) >= 148


def changed(scene: Scene, aspect: str, rng: random.Random) -> Scene:
    """The scene with exactly one attribute changed."""
    first = scene.things[0]

    def other(options: tuple[str, ...], now: str | None) -> str:
        return rng.choice([option for option in options if option != now])

    if aspect == "surface":
        return replace(scene, surface=other(SURFACES, scene.surface))
    if aspect == "relation":
        return replace(scene, relation=other(RELATIONS, scene.relation))
    if aspect == "count":
        return replace(scene, count=(scene.count or 1) % 5 + 1)
    options = {"colour": tuple(COLOURS), "size": SIZES, "position": POSITIONS}[aspect]
    thing: Thing = replace(first, **{aspect: other(options, getattr(first, aspect))})
    return replace(scene, things=(thing, *scene.things[1:]))


@pytest.mark.parametrize(
    ("kind", "aspect"),
    [("single", "surface"), ("single", "colour"), ("single", "size"), ("single", "position"), ("count", "count"), ("count", "colour"),
     ("count", "size"), ("pair", "colour"), ("pair", "relation"), ("pair", "surface")],
)  # fmt: skip
def test_one_wrong_attribute_is_noticed(kind: str, aspect: str) -> None:
    rng = random.Random(5)
    for layout, image in layouts(12, (kind,), seed=21):
        scene = layout.scene
        if kind == "pair" and scene.things[0].colour == scene.things[1].colour:
            continue
        assert not measure.check(image, changed(scene, aspect, rng))[aspect], (scene, aspect)


def test_an_empty_ground_holds_no_object() -> None:
    image = np.full((96, 96, 3), (128, 128, 132), np.uint8)
    image[:48] = (206, 211, 216)
    assert measure.surface(image) == "grey floor" and measure.objects(image) == []
    wanted = Scene("single", (Thing("red", "cube", "small", "left"),), "grey floor")
    assert measure.check(image, wanted) == {"surface": True, "count": False, "colour": False, "size": False, "position": False}


def test_regions_connect_over_corners_but_not_over_labels() -> None:
    labels = np.array([[0, -1, 1, 1], [-1, 0, -1, 0], [0, -1, -1, 0]])
    regions = measure.components(labels)
    assert regions[0, 0] == regions[1, 1] == regions[2, 0] and regions[1, 3] == regions[2, 3]
    assert len({regions[0, 0], regions[0, 2], regions[1, 3]}) == 3 and (regions[labels < 0] == -1).all()


def test_a_speck_is_no_object_and_a_large_patch_is() -> None:
    image = np.full((96, 96, 3), (240, 240, 236), np.uint8)
    image[:48], image[-7:] = (150, 175, 195), (168, 168, 165)
    image[60:66, 20:26] = COLOURS["red"]
    assert measure.objects(image) == []
    image[60:80, 20:40] = COLOURS["red"]
    (found,) = measure.objects(image)
    assert found.colour == "red" and found.area == 400 and found.x == pytest.approx(0.3125, abs=0.02)
