"""The renderer draws what the layout says, and training never sees what is held out."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from sensorium.engines.flow_image.world import COLOURS, RELATIONS, SHAPES, SIZES, SURFACES, Scene, Thing
from training import scenes
from training.dense import IGNORE, LETTERS, patch_labels
from training.glyphs import GLYPH_HEIGHT, GLYPHS


def single(colour: str, shape: str, size: str = "medium", surface: str = "white table") -> scenes.Layout:
    thing = Thing(colour, shape, size, "middle")
    return scenes.Layout(Scene("single", (thing,), surface), (scenes.Placed(thing, 0.5, 0.8, scenes.RADII[size][0]),))


def nearest(pixels: NDArray[np.float64]) -> list[str]:
    """The palette colour of every pixel that is close to one; shades, edges and shadows do not vote."""
    names = list(COLOURS)
    distance = np.sqrt(((pixels.reshape(-1, 1, 3) - np.array(list(COLOURS.values()), float)) ** 2).sum(-1))
    return [names[i] for i, near in zip(distance.argmin(1), distance.min(1) < 30, strict=True) if near]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_most_changed_pixels_have_the_named_colour(colour: str, shape: str) -> None:
    layout = single(colour, shape)
    picture = scenes.render(layout, random.Random(3))
    empty = scenes.render(scenes.Layout(layout.scene, ()), random.Random(3))
    changed = np.abs(picture.astype(int) - empty).sum(-1) > 40
    left, top, right, bottom = (round(v * 96) for v in layout.placed[0].box)
    inside = np.zeros_like(changed)
    inside[top:bottom, left:right] = True
    votes = nearest(picture[changed & inside].astype(float))
    assert max(set(votes), key=votes.count) == colour


def test_same_random_numbers_same_picture() -> None:
    layout = scenes.sample(random.Random(5))
    assert (scenes.render(layout, random.Random(1)) == scenes.render(layout, random.Random(1))).all()
    assert scenes.render(layout, random.Random(1)).shape == (96, 96, 3)


def test_training_scenes_are_free_of_everything_held_out_and_held_scenes_are_built_on_it() -> None:
    rng = random.Random(8)
    for _ in range(1500):
        assert scenes.held_out(scenes.sample(rng, False).scene) == (False, False)
        assert scenes.held_out(scenes.sample(rng, True).scene)[0]


def test_shares_of_the_held_out_sets() -> None:
    triples = [scenes.held_out_triple(c, s, f) for c in COLOURS for s in SHAPES for f in SURFACES]
    assert 0.06 < sum(triples) / len(triples) < 0.15
    assert scenes.held_out_triple("red", "cube", "white table")
    relations = [scenes.held_out_relation(a, r, b) for a in SHAPES for r in RELATIONS for b in SHAPES]
    assert 0.01 < sum(relations) / len(relations) < 0.1
    assert 4 <= sum(map(scenes.held_out_sign, scenes.SIGN_WORDS)) <= 14


def test_a_mirrored_relation_is_held_out_together_with_its_twin() -> None:
    for a in SHAPES:
        for b in SHAPES:
            assert scenes.held_out_relation(a, "to the left of", b) == scenes.held_out_relation(b, "to the right of", a)


def test_counted_objects_do_not_overlap_and_stay_in_the_picture() -> None:
    rng = random.Random(2)
    for _ in range(800):
        layout = scenes.sample(rng, None, ["count"])
        assert len(layout.placed) == layout.scene.count
        boxes = [item.box for item in layout.placed]
        for i, (left, top, right, bottom) in enumerate(boxes):
            assert left > -0.03 and right < 1.03 and top > 0 and bottom < 1
            for other in boxes[:i]:
                assert right <= other[0] or left >= other[2] or bottom <= other[1] or top >= other[3]


def test_the_picture_agrees_with_the_relation() -> None:
    rng = random.Random(4)
    for _ in range(800):
        layout = scenes.sample(rng, None, ["pair"])
        first, second = layout.scene.things
        place = {item.thing: item for item in layout.placed}
        a, b = place[first], place[second]
        relation = layout.scene.relation
        if relation == "on top of":
            assert a.y < b.y - b.r and abs(a.x - b.x) < 0.05 and layout.placed[-1].thing == first
        elif relation == "in front of":
            assert a.y > b.y + 0.15 and layout.placed[-1].thing == first
        else:
            assert (a.x < b.x - 0.3) == (relation == "to the left of")
            assert abs(a.y - b.y) < 0.1


def test_radii_of_the_sizes_leave_gaps() -> None:
    ranges = [scenes.RADII[size] for size in SIZES]
    assert all(smaller[1] + 0.01 < larger[0] for smaller, larger in pairwise(ranges))


def test_every_letter_has_its_own_glyph_of_seven_rows() -> None:
    assert set(GLYPHS) == set(LETTERS)
    assert all(len(rows) == GLYPH_HEIGHT for rows in GLYPHS.values())
    assert len(set(GLYPHS.values())) == len(GLYPHS)


def test_patch_labels_name_the_object_and_the_letters() -> None:
    rng = random.Random(6)
    for _ in range(200):
        layout = scenes.sample(rng, None)
        labels = patch_labels(layout, 8)
        shapes = set(labels[1].tolist()) - {0, IGNORE}
        named = {(*SHAPES, "sign").index(thing.shape or "") + 1 for thing in layout.scene.things}
        assert shapes == named
        read = "".join(LETTERS[value - 1] for value in labels[4] if value > 0)
        assert sorted(read) == sorted(layout.scene.text or "")
