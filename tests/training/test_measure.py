"""Measurement: right on real renders, also on degraded ones, and wrong as soon as one thing is."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from sensorium.engines.flow_image.world import COLOURS, POSITIONS, RELATIONS, SHAPES, SIZES, SURFACES, Scene, Thing
from training import measure, scenes

KINDS = ("single", "count", "pair")
Change = Callable[[measure.Image, random.Random], measure.Image]
Wrong = Callable[[scenes.Layout, random.Random], tuple[scenes.Layout, Scene] | None]


def layouts(count: int, kind: tuple[str, ...] = KINDS, seed: int = 11) -> list[tuple[scenes.Layout, measure.Image]]:
    rng = random.Random(seed)
    return [(layout, scenes.render(layout, rng)) for layout in (scenes.sample(rng, None, kind) for _ in range(count))]


def test_every_real_render_measures_right() -> None:
    assert [layout.scene for layout, image in layouts(150) if not measure.right(image, layout.scene)] == []


def blur(image: measure.Image, radius: float) -> measure.Image:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def noise(image: measure.Image, rng: random.Random, amount: float) -> measure.Image:
    added = np.random.default_rng(rng.getrandbits(32)).standard_normal(image.shape, np.float32) * amount
    return np.clip(image + added, 0, 255).round().astype(np.uint8)


def jpeg(image: measure.Image, quality: int) -> measure.Image:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def shifted(image: measure.Image, rng: random.Random, most: float) -> measure.Image:
    return np.clip(image + np.array([rng.uniform(-most, most) for _ in range(3)]), 0, 255).round().astype(np.uint8)


def resized(image: measure.Image, side: int) -> measure.Image:
    other = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(other.resize((96, 96), Image.Resampling.LANCZOS))


DEGRADATIONS: dict[str, tuple[Change, int]] = {  # and how many of 50 must measure right
    "blur 0.4": (lambda image, rng: blur(image, 0.4), 50),
    "blur 0.7": (lambda image, rng: blur(image, 0.7), 50),
    "blur 1.0": (lambda image, rng: blur(image, 1.0), 47),
    "noise 4": (lambda image, rng: noise(image, rng, 4), 50),
    "noise 12": (lambda image, rng: noise(image, rng, 12), 47),
    "JPEG 90": (lambda image, rng: jpeg(image, 90), 49),
    "JPEG 75": (lambda image, rng: jpeg(image, 75), 47),
    "JPEG 50": (lambda image, rng: jpeg(image, 50), 46),
    "colour shift 10": (lambda image, rng: shifted(image, rng, 10), 48),
    "72 pixels and back": (lambda image, rng: resized(image, 72), 50),
    "256 pixels and back": (lambda image, rng: resized(image, 256), 50),
    "shift 6, blur 0.6, noise 4": (lambda image, rng: noise(blur(shifted(image, rng, 6), 0.6), rng, 4), 49),
    "blur 0.6, JPEG 75": (lambda image, rng: jpeg(blur(image, 0.6), 75), 47),
}


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_degraded_renders_measure_right(name: str) -> None:
    change, least = DEGRADATIONS[name]
    rng = random.Random(51)
    right = [measure.right(change(image, rng), layout.scene) for layout, image in layouts(50, seed=51)]
    assert sum(right) >= least


@pytest.mark.parametrize("shape", SHAPES)
def test_half_sizes_are_those_of_the_renderer(shape: str) -> None:
    rng = random.Random(502)
    ratios = []
    for number in range(24):
        thing = Thing(rng.choice(tuple(COLOURS)), shape, SIZES[number % 3], "middle")
        radius = rng.uniform(*scenes.RADII[thing.size or ""])
        layout = scenes.Layout(Scene("single", (thing,), rng.choice(SURFACES)), (scenes.Placed(thing, 0.5, 0.8, radius),))
        (found,) = measure.objects(scenes.render(layout, rng))
        ratios.append(found.radius(shape) / radius)
    assert 0.98 < np.median(ratios) < 1.02 and min(ratios) > 0.93 and max(ratios) < 1.07


def other(rng: random.Random, options: tuple[str, ...], *now: str | None) -> str:
    return rng.choice([option for option in options if option not in now])


def neighbour(rng: random.Random, size: str | None) -> str:
    """The next smaller or larger word."""
    place = SIZES.index(size or "")
    return SIZES[rng.choice([one for one in (place - 1, place + 1) if 0 <= one < len(SIZES)])]


def repainted(layout: scenes.Layout, place: int, **changes: object) -> scenes.Layout:
    """The layout with one object drawn otherwise."""
    placed = list(layout.placed)
    placed[place] = replace(placed[place], **changes)  # type: ignore[arg-type]
    return scenes.Layout(layout.scene, tuple(placed))


def wrong_size(layout: scenes.Layout, rng: random.Random) -> tuple[scenes.Layout, Scene]:
    place = rng.randrange(len(layout.placed))
    size = neighbour(rng, layout.placed[place].thing.size)
    return repainted(layout, place, r=rng.uniform(*scenes.RADII[size])), layout.scene


def wrong_size_word(layout: scenes.Layout, rng: random.Random) -> tuple[scenes.Layout, Scene]:
    things = list(layout.scene.things)
    place = rng.randrange(len(things))
    things[place] = replace(things[place], size=neighbour(rng, things[place].size))
    return layout, replace(layout.scene, things=tuple(things))


def wrong_place(layout: scenes.Layout, rng: random.Random) -> tuple[scenes.Layout, Scene] | None:
    scene = layout.scene
    if scene.kind == "pair":
        return layout, replace(scene, relation=other(rng, RELATIONS, scene.relation))
    if scene.kind == "count":
        return None
    position = other(rng, POSITIONS, scene.things[0].position)
    return repainted(layout, 0, x=scenes.CENTRES[position] + rng.uniform(-0.04, 0.04)), scene


def wrong_colour(layout: scenes.Layout, rng: random.Random) -> tuple[scenes.Layout, Scene]:
    place = rng.randrange(len(layout.placed))
    thing = layout.placed[place].thing
    return repainted(layout, place, thing=replace(thing, colour=other(rng, tuple(COLOURS), thing.colour))), layout.scene


def missing_object(layout: scenes.Layout, rng: random.Random) -> tuple[scenes.Layout, Scene]:
    place = rng.randrange(len(layout.placed))
    return scenes.Layout(layout.scene, layout.placed[:place] + layout.placed[place + 1 :]), layout.scene


def free_spot(layout: scenes.Layout, rng: random.Random, radius: float) -> tuple[float, float] | None:
    """Ground contact of a further object that touches no other."""
    for _ in range(300):
        x, y = rng.uniform(radius, 1 - radius), rng.uniform(2 * radius, 1)
        box = (x - radius - 0.04, y - 2 * radius - 0.04, x + radius + 0.04, y + 0.04)
        if all(box[2] < b[0] or box[0] > b[2] or box[3] < b[1] or box[1] > b[3] for b in (item.box for item in layout.placed)):
            return x, y
    return None


def extra_object(layout: scenes.Layout, rng: random.Random) -> tuple[scenes.Layout, Scene] | None:
    """The shapes of least area cover 1.2 % at this size."""
    spot = free_spot(layout, rng, 0.082)
    thing = Thing(rng.choice((layout.scene.things[0].colour or "", rng.choice(tuple(COLOURS)))), rng.choice(SHAPES), "small")
    return None if spot is None else (scenes.Layout(layout.scene, (scenes.Placed(thing, *spot, 0.082), *layout.placed)), layout.scene)


WRONG: tuple[Wrong, ...] = (wrong_size, wrong_size_word, wrong_place, wrong_colour, missing_object, extra_object)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_wrong_pictures_are_refused(wrong: Wrong) -> None:
    rng, passed, count = random.Random(61), [], 0
    while count < 70:
        case = wrong(scenes.sample(rng, None, KINDS), rng)
        if case is not None:
            drawn, wanted = case
            count += 1
            passed += [wanted] if measure.right(scenes.render(drawn, rng), wanted) else []
    assert len(passed) <= 2, passed


FOREIGN = ((160, 240, 60), (0, 150, 130), (200, 0, 120), (110, 10, 40), (60, 60, 120), (250, 120, 110), (90, 60, 60), (200, 120, 250))


def test_something_of_no_colour_of_the_world_is_noticed() -> None:
    rng, passed, count = random.Random(62), 0, 0
    while count < 60:
        layout = scenes.sample(rng, None, KINDS)
        image, spot, radius = scenes.render(layout, rng).copy(), free_spot(layout, rng, 0.063), 0.063
        if spot is None:
            continue
        rows, columns = np.ogrid[:96, :96]
        inside = ((columns + 0.5) / 96 - spot[0]) ** 2 + ((rows + 0.5) / 96 - spot[1] + radius) ** 2 < radius**2
        image[inside] = rng.choice(FOREIGN)
        count += 1
        passed += measure.right(image, layout.scene)
    assert passed <= 1


@pytest.mark.parametrize("relation", ["on top of", "in front of"])
def test_touching_objects_of_one_colour_are_measured_as_a_whole(relation: str) -> None:
    rng, right, wrong, count = random.Random(63), 0, 0, 0
    while count < 50:
        layout = scenes.sample(rng, None, ("pair",))
        colour, shapes = layout.scene.things[0].colour, {thing.shape for thing in layout.scene.things}
        if layout.scene.relation != relation or len(shapes) == 1:
            continue
        things = tuple(replace(thing, colour=colour) for thing in layout.scene.things)
        scene = replace(layout.scene, things=things)
        placed = tuple(replace(item, thing=replace(item.thing, colour=colour)) for item in layout.placed)
        image = scenes.render(scenes.Layout(scene, placed), rng)
        count += 1
        verdict = measure.check(image, scene)
        assert {type(value) for value in verdict.values()} == {bool}
        right += all(verdict.values())
        wrong += measure.right(image, wrong_size_word(scenes.Layout(scene, placed), rng)[1])
    assert right >= 48 and wrong <= 9


def test_an_empty_ground_holds_no_object() -> None:
    image = np.full((96, 96, 3), (128, 128, 132), np.uint8)
    image[:48] = (206, 211, 216)
    assert measure.surface(image) == "grey floor" and measure.objects(image) == []
    wanted = Scene("single", (Thing("red", "cube", "small", "left"),), "grey floor")
    assert measure.check(image, wanted) == {"surface": True, "count": False, "colour": False, "size": False, "position": False}


def test_a_wrong_surface_is_noticed() -> None:
    rng = random.Random(5)
    for layout, image in layouts(20, seed=21):
        assert not measure.check(image, replace(layout.scene, surface=other(rng, SURFACES, layout.scene.surface)))["surface"]


def test_regions_connect_over_corners_but_not_over_labels() -> None:
    labels = np.array([[0, -1, 1, 1], [-1, 0, -1, 0], [0, -1, -1, 0]])
    regions = measure.components(labels)
    assert regions[0, 0] == regions[1, 1] == regions[2, 0] and regions[1, 3] == regions[2, 3]
    assert len({regions[0, 0], regions[0, 2], regions[1, 3]}) == 3 and (regions[labels < 0] == -1).all()


def ground() -> measure.Image:
    image = np.full((96, 96, 3), (240, 240, 236), np.uint8)
    image[:48], image[-7:] = (150, 175, 195), (168, 168, 165)
    return image


def test_a_speck_is_no_object_and_a_large_patch_is() -> None:
    image = ground()
    image[60:66, 20:26] = COLOURS["red"]
    assert measure.objects(image) == []
    image[60:80, 20:40] = COLOURS["red"]
    (found,) = measure.objects(image)
    assert found.colour == "red" and found.area == 400 / 9216 and found.x == pytest.approx(0.3125, abs=0.02)


def test_specks_beside_an_object_do_not_widen_it() -> None:
    image = ground()
    image[60:80, 20:40] = COLOURS["red"]
    (clean,) = measure.objects(image)
    for row, column in ((58, 30), (70, 18), (81, 25), (65, 42), (64, 40), (79, 41)):
        image[row, column] = COLOURS["red"]
    image[70, 40:44] = COLOURS["red"]  # a spur of single pixels
    (found,) = measure.objects(image)
    assert np.abs(np.array(found.box) - clean.box).max() < 1.1 / 96 and found.area == pytest.approx(clean.area, rel=0.02)
