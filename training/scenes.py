"""Sampler and renderer of the synthetic world: scenes with their layout, pictures of 96 x 96, dense labels per patch.

It does not know questions, tokens or models. Every picture is drawn on the fly: twice the size, then a box filter.
"""

from __future__ import annotations

import math
import random
import string
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sensorium.engines.flow_image.world import COLOURS, POSITIONS, RELATIONS, SHAPES, SIZES, SUPPORTS, SURFACES, Scene, Thing, sizes_for
from training.glyphs import ADVANCE, GLYPH_HEIGHT, GLYPHS

RGB = tuple[int, int, int]
Point = tuple[float, float]

RADII: Final[dict[str, tuple[float, float]]] = {"small": (0.085, 0.105), "medium": (0.12, 0.145), "large": (0.165, 0.195)}
CENTRES: Final[dict[str, float]] = {"left": 0.22, "middle": 0.5, "right": 0.78}
GROUND: Final[dict[str, tuple[RGB, RGB]]] = {  # the surface and what is behind it
    "white table": ((240, 240, 236), (150, 175, 195)),
    "wooden table": ((186, 134, 84), (226, 216, 196)),
    "grey floor": ((128, 128, 132), (206, 211, 216)),
    "green lawn": ((116, 182, 90), (168, 213, 246)),
    "sandy beach": ((228, 206, 158), (92, 160, 205)),
}
_SIGN_TEXT: Final = """
    STOP GO EXIT OPEN SHOP CAFE TAXI BUS HOTEL PARK SLOW WAIT PUSH PULL NORTH SOUTH EAST WEST LEFT RIGHT UP DOWN YES NO HELP INFO BANK
    BIKE FOOD FREE ZOO GATE HALL ROOM MILK TEA FISH BREAD SALE POST
"""
SIGN_WORDS: Final = tuple(_SIGN_TEXT.split())
KIND_WEIGHTS: Final[dict[str, float]] = {"single": 0.3, "count": 0.24, "pair": 0.3, "sign": 0.16}
SCALE: Final = 2
PIXEL: Final = 2 / 96  # one font pixel, as a fraction of the side
CALM: Final = 0.15  # the share of its variation that a calm source keeps
USUAL: Final = 0.6  # how often the usual one of two arrangements is taken
SIGN_TOP: Final = 0.26


@dataclass(frozen=True, slots=True)
class Placed:
    """One object in the picture: ground contact (x, y) and half size r, as fractions of the side."""

    thing: Thing
    x: float
    y: float
    r: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom), as fractions of the side; may leave the picture by a little."""
        return (self.x - self.r, self.y - 2 * self.r, self.x + self.r, self.y)


@dataclass(frozen=True, slots=True)
class Layout:
    """A scene and where its objects are, drawn in the order of `placed` (back to front)."""

    scene: Scene
    placed: tuple[Placed, ...]


def _bucket(key: str, modulus: int) -> bool:
    return zlib.crc32(key.encode()) % modulus == 0


def held_out_triple(colour: str, shape: str, surface: str) -> bool:
    """About a tenth of all triples, by checksum, and always the red cube on a white table."""
    return (colour, shape, surface) == ("red", "cube", "white table") or _bucket(f"{colour}|{shape}|{surface}", 10)


def held_out_relation(first: str, relation: str, second: str) -> bool:
    """About a twentieth of (shape, relation, shape); mirrored relations share one key."""
    if relation == "to the right of":
        first, relation, second = second, "to the left of", first
    return _bucket(f"{first}|{relation}|{second}", 20)


def held_out_sign(text: str) -> bool:
    """About a fifth of all letterings."""
    return _bucket(text, 5)


def held_out(scene: Scene) -> tuple[bool, bool]:
    """(the first object, relation or lettering is held out; anything in the scene is held out)."""
    surface = scene.surface or ""
    if scene.kind == "sign":
        hit = held_out_sign(scene.text or "")
        return hit, hit
    triples = [held_out_triple(thing.colour or "", thing.shape or "", surface) for thing in scene.things]
    relation = scene.kind == "pair" and held_out_relation(scene.things[0].shape or "", scene.relation or "", scene.things[1].shape or "")
    return triples[0] or relation, any(triples) or relation


class Calm(random.Random):
    """A random source for layouts that hardly vary: places and sizes stay near the middle of their ranges, ways to arrange are the usual.

    What is chosen (kinds, colours, shapes, surfaces) is as random as ever. The drawing model learns from such layouts: a caption
    then has nearly one picture, which few steps can hit.
    """

    def uniform(self, a: float, b: float) -> float:
        """Near the middle of a range within the picture; ranges in pixels (grass, grains) stay what they are."""
        share = CALM if b - a <= 1 else 1.0
        return (a + b) / 2 + share * (super().uniform(a, b) - (a + b) / 2)


def sample(rng: random.Random, held: bool | None = False, kinds: Sequence[str] = tuple(KIND_WEIGHTS)) -> Layout:
    """A random layout. held True: built on something held out of training; False: free of it; None: either."""
    weights = [KIND_WEIGHTS[kind] for kind in kinds]
    while True:
        layout = _SAMPLERS[rng.choices(kinds, weights)[0]](rng)
        first, anything = held_out(layout.scene)
        if held is None or (first if held else not anything):
            return layout


def _thing(rng: random.Random, sizes: Sequence[str] = SIZES, position: str | None = None, shapes: Sequence[str] = SHAPES) -> Thing:
    return Thing(rng.choice(tuple(COLOURS)), rng.choice(shapes), rng.choice(sizes), position)


def _radius(rng: random.Random, thing: Thing) -> float:
    return rng.uniform(*RADII[thing.size or "medium"])


def _single(rng: random.Random) -> Layout:
    position = rng.choice(POSITIONS)
    thing = _thing(rng, position=position)
    place = Placed(thing, CENTRES[position] + rng.uniform(-0.04, 0.04), rng.uniform(0.72, 0.88), _radius(rng, thing))
    return Layout(Scene("single", (thing,), rng.choice(SURFACES)), (place,))


def _count(rng: random.Random) -> Layout:
    number = rng.randint(2, 5)
    thing = _thing(rng, sizes_for(Scene("count", count=number)))
    spots = []
    deep = number > 2
    flip = rng.uniform(0, 1) < USUAL
    for i in range(number):
        x = (0.5 + (i - (number - 1) / 2) * (0.45 if number == 2 else 0.7 / (number - 1))) + rng.uniform(-0.02, 0.02)
        back = deep and (i % 2 == 0) == flip
        y = rng.uniform(0.6, 0.63) if back else rng.uniform(0.88, 0.91) if deep else rng.uniform(0.74, 0.86)
        spots.append(Placed(thing, x, y, _radius(rng, thing)))
    spots.sort(key=lambda spot: spot.y)
    return Layout(Scene("count", (thing,), rng.choice(SURFACES), count=number), tuple(spots))


def _pair(rng: random.Random) -> Layout:
    relation = rng.choice(RELATIONS)
    first, second = _thing(rng), _thing(rng, shapes=SUPPORTS if relation == "on top of" else SHAPES)
    while (first.colour, first.shape) == (second.colour, second.shape):
        first = _thing(rng)
    scene = Scene("pair", (first, second), rng.choice(SURFACES), relation)
    r1, r2 = _radius(rng, first), _radius(rng, second)
    if relation == "on top of":
        x, y = 0.5 + rng.uniform(-0.14, 0.14), rng.uniform(0.86, 0.93)
        top = y - (1.9 if second.shape == "cube" else 1.93) * r2
        return Layout(scene, (Placed(second, x, y, r2), Placed(first, x + rng.uniform(-0.02, 0.02), top, r1)))
    if relation == "in front of":
        side = (1 if rng.uniform(0, 1) < USUAL else -1) * 0.8 * (r1 + r2) / 2
        x, y = 0.5 + rng.uniform(-0.06, 0.06), rng.uniform(0.88, 0.93)
        back = Placed(second, x - side, y - rng.uniform(0.19, 0.23), r2)
        return Layout(scene, (back, Placed(first, x + side, y, r1)))
    left, right = (first, second) if relation == RELATIONS[0] else (second, first)
    y = rng.uniform(0.74, 0.86)
    one = Placed(left, 0.26 + rng.uniform(-0.04, 0.03), y + rng.uniform(-0.03, 0.03), r1 if left is first else r2)
    two = Placed(right, 0.74 + rng.uniform(-0.03, 0.04), y + rng.uniform(-0.03, 0.03), r2 if left is first else r1)
    return Layout(scene, (one, two))


def sign_text(rng: random.Random) -> str:
    """Lettering: a number of 1-3 digits, a word of the list, or (half) random letters, so that signs are read and not remembered."""
    kind = rng.random()
    if kind < 0.3:
        return str(rng.randrange(10 ** rng.randint(1, 3)))
    if kind < 0.5:
        return rng.choice(SIGN_WORDS)
    return "".join(rng.choices(string.ascii_uppercase, k=rng.randint(2, 5)))


def _sign(rng: random.Random) -> Layout:
    thing = Thing(rng.choice(tuple(COLOURS)), "sign", "medium", "middle")
    scene = Scene("sign", (thing,), rng.choice(SURFACES), text=sign_text(rng))
    return Layout(scene, (Placed(thing, 0.5 + rng.uniform(-0.04, 0.04), rng.uniform(0.8, 0.86), rng.uniform(0.19, 0.23)),))


_SAMPLERS: Final = {"single": _single, "count": _count, "pair": _pair, "sign": _sign}


def shade(colour: RGB, factor: float) -> RGB:
    """`colour` times `factor`, within a byte."""
    red, green, blue = (min(255, int(value * factor)) for value in colour)
    return red, green, blue


def _lit(colour: RGB) -> RGB:
    if sum(colour) < 150:
        return colour[0] + 45, colour[1] + 45, colour[2] + 48
    red, green, blue = (value + (255 - value) * 3 // 10 for value in colour)
    return red, green, blue


def _cube(d: ImageDraw.ImageDraw, c: RGB, edge: RGB, x: float, y: float, r: float) -> None:
    a, b, t = x - 0.95 * r, x + 0.5 * r, 0.5 * r
    top = y - 1.5 * r
    d.polygon([(a, top), (a + t, top - 0.45 * r), (b + t, top - 0.45 * r), (b, top)], fill=_lit(c), outline=edge, width=SCALE)
    d.polygon([(b, top), (b + t, top - 0.45 * r), (b + t, y - 0.45 * r), (b, y)], fill=shade(c, 0.62), outline=edge, width=SCALE)
    d.polygon([(a, top), (b, top), (b, y), (a, y)], fill=c, outline=edge, width=SCALE)


def _ball(d: ImageDraw.ImageDraw, c: RGB, edge: RGB, x: float, y: float, r: float) -> None:
    d.ellipse((x - r, y - 2 * r, x + r, y), fill=shade(c, 0.72), outline=edge, width=SCALE)
    d.ellipse((x - 0.92 * r, y - 1.94 * r, x + 0.66 * r, y - 0.36 * r), fill=c)
    d.ellipse((x - 0.62 * r, y - 1.72 * r, x - 0.12 * r, y - 1.22 * r), fill=_lit(c))


def _cone(d: ImageDraw.ImageDraw, c: RGB, edge: RGB, x: float, y: float, r: float) -> None:
    tip = (x, y - 2.1 * r)
    d.ellipse((x - r, y - 0.42 * r, x + r, y), fill=c, outline=edge, width=SCALE)
    d.polygon([(x - r, y - 0.21 * r), tip, (x + r, y - 0.21 * r)], fill=c)
    d.polygon([(x + 0.25 * r, y - 0.02 * r), tip, (x + r, y - 0.21 * r)], fill=shade(c, 0.64))
    d.polygon([(x - 0.55 * r, y - 0.1 * r), tip, (x - 0.3 * r, y - 0.06 * r)], fill=_lit(c))
    d.line([(x - r, y - 0.21 * r), tip, (x + r, y - 0.21 * r)], fill=edge, width=SCALE)


def _cylinder(d: ImageDraw.ImageDraw, c: RGB, edge: RGB, x: float, y: float, r: float) -> None:
    w = 0.74 * r
    d.ellipse((x - w, y - 0.4 * r, x + w, y), fill=c, outline=edge, width=SCALE)
    d.rectangle((x - w, y - 1.9 * r, x + w, y - 0.2 * r), fill=c)
    d.rectangle((x + 0.28 * r, y - 1.9 * r, x + w, y - 0.16 * r), fill=shade(c, 0.64))
    d.line([(x - w, y - 1.9 * r), (x - w, y - 0.2 * r)], fill=edge, width=SCALE)
    d.line([(x + w, y - 1.9 * r), (x + w, y - 0.2 * r)], fill=edge, width=SCALE)
    d.ellipse((x - w, y - 2.1 * r, x + w, y - 1.66 * r), fill=_lit(c), outline=edge, width=SCALE)


def _ring(d: ImageDraw.ImageDraw, c: RGB, edge: RGB, x: float, y: float, r: float) -> None:
    band = 0.4 * r
    d.ellipse((x - r, y - 2 * r, x + r, y), outline=edge, width=round(band))
    d.ellipse((x - r + SCALE, y - 2 * r + SCALE, x + r - SCALE, y - SCALE), outline=c, width=round(band - 2 * SCALE))
    d.arc((x - r + SCALE, y - 2 * r + SCALE, x + r - SCALE, y - SCALE), 10, 120, fill=shade(c, 0.66), width=round(band - 2 * SCALE))


_STAR: Final = [
    (radius * math.cos(angle), radius * math.sin(angle))
    for radius, angle in ((0.46 if i % 2 else 1.12, i * math.pi / 5 - math.pi / 2) for i in range(10))
]
_HEART: Final = [
    (math.sin(t) ** 3 * 1.02, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 15.5 - 0.08)
    for t in (i * math.tau / 28 for i in range(28))
]
_ARM: Final = 0.33  # half the width of a cross's arm
_CROSS: Final = [
    (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
    (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
]  # fmt: skip


def _flat(outline: list[Point], d: ImageDraw.ImageDraw, c: RGB, edge: RGB, x: float, y: float, r: float) -> None:
    """A flat standing figure with a thickness to the right, like a biscuit."""
    points = [(x + px * r * 0.96, y - r + py * r) for px, py in outline]
    d.polygon([(px + 0.1 * r, py - 0.04 * r) for px, py in points], fill=shade(c, 0.62), outline=edge, width=SCALE)
    d.polygon(points, fill=c, outline=edge, width=SCALE)


def _star(d: ImageDraw.ImageDraw, c: RGB, edge: RGB, x: float, y: float, r: float) -> None:
    _flat(_STAR, d, c, edge, x, y, r)


def _heart(d: ImageDraw.ImageDraw, c: RGB, edge: RGB, x: float, y: float, r: float) -> None:
    _flat(_HEART, d, c, edge, x, y, r)


def _cross(d: ImageDraw.ImageDraw, c: RGB, edge: RGB, x: float, y: float, r: float) -> None:
    _flat(_CROSS, d, c, edge, x, y, r)


_DRAW: Final = {
    "cube": _cube, "ball": _ball, "cone": _cone, "cylinder": _cylinder, "ring": _ring, "star": _star, "heart": _heart, "cross": _cross,
}  # fmt: skip


def render(layout: Layout, rng: random.Random, size: int = 96) -> NDArray[np.uint8]:
    """The picture, uint8 [size, size, 3]. Colours and horizon vary a little with `rng`."""
    side = size * SCALE
    surface = layout.scene.surface or SURFACES[0]
    jitter = rng.randint
    base, behind = ((r + jitter(-6, 6), g + jitter(-6, 6), b + jitter(-6, 6)) for r, g, b in GROUND[surface])
    picture = Image.new("RGB", (side, side), behind)
    d = ImageDraw.Draw(picture)
    _ground(d, surface, base, side, rng)
    stacked = layout.scene.relation == "on top of"
    for number, item in enumerate(layout.placed):
        x, y, r = item.x * side, item.y * side, item.r * side
        if not (stacked and number):
            wide = 0.4 * r if item.thing.shape == "sign" else r
            d.ellipse((x - 0.95 * wide, y - 0.24 * wide, x + 1.3 * wide, y + 0.2 * wide), fill=shade(base, 0.72))
        red, green, blue = COLOURS[item.thing.colour or "red"]
        colour = red + jitter(-6, 6), green + jitter(-6, 6), min(255, blue + jitter(-6, 6))
        if item.thing.shape == "sign":
            _draw_sign(d, layout, item, colour, side)
        else:
            _DRAW[item.thing.shape or "cube"](d, colour, shade(colour, 0.5), x, y, r)
    return np.asarray(picture.reduce(SCALE))


def _ground(d: ImageDraw.ImageDraw, surface: str, base: RGB, side: int, rng: random.Random) -> None:
    horizon = side * (0.5 + rng.uniform(-0.03, 0.03))
    if "table" in surface:
        d.polygon([(side * 0.1, horizon), (side * 0.9, horizon), (side * 1.06, side * 0.93), (-side * 0.06, side * 0.93)], fill=base)
        d.rectangle((0, side * 0.93, side, side), fill=shade(base, 0.7))
        if surface == "wooden table":
            for i in range(1, 4):
                y = horizon + (side * 0.93 - horizon) * i / 4
                d.line([(0, y), (side, y)], fill=shade(base, 0.86), width=SCALE)
            d.rectangle((0, 0, side, horizon - side * 0.3), fill=(214, 203, 184))
        return
    d.rectangle((0, horizon, side, side), fill=base)
    if surface == "green lawn":
        for _ in range(16):
            x, y = rng.uniform(0, side), rng.uniform(horizon + 6, side)
            d.line((x, y, x + 1, y - 6), fill=shade(base, 0.8), width=SCALE)
    elif surface == "sandy beach":
        d.rectangle((0, 0, side, horizon - side * 0.16), fill=(176, 218, 244))
        for _ in range(16):
            x, y = rng.uniform(0, side), rng.uniform(horizon + 4, side)
            d.line((x, y, x + 3, y), fill=shade(base, 0.84), width=SCALE)
    else:
        for i in range(1, 6):
            d.line([(side * (i / 5 - 0.1), horizon), (side * (0.5 + (i / 5 - 0.6) * 2.4), side)], fill=shade(base, 0.9), width=SCALE)


def letter_corner(item: Placed, text: str, index: int) -> Point:
    """Left top corner of one letter of a sign, as fractions of the side."""
    width = (ADVANCE * len(text) - 1) * PIXEL
    return item.x - width / 2 + index * ADVANCE * PIXEL, SIGN_TOP + item.r - 0.21


def _draw_sign(d: ImageDraw.ImageDraw, layout: Layout, item: Placed, colour: RGB, side: int) -> None:
    text = layout.scene.text or ""
    x, y = item.x * side, item.y * side
    left, top = letter_corner(item, text, 0)
    half = max(0.16, item.x - left + 3 * PIXEL) * side
    board = (x - half, (top - 3 * PIXEL) * side, x + half, (top + (GLYPH_HEIGHT + 3) * PIXEL) * side)
    d.rectangle((x - 5, board[3], x + 5, y), fill=(122, 108, 96), outline=(60, 52, 46), width=SCALE)
    d.rectangle(board, fill=colour, outline=shade(colour, 0.5), width=SCALE)
    ink = (20, 20, 24) if sum(w * v for w, v in zip((0.3, 0.59, 0.11), colour, strict=True)) > 120 else (250, 250, 250)
    step = PIXEL * side
    for index, letter in enumerate(text):
        corner_x, corner_y = (value * side for value in letter_corner(item, text, index))
        for row, bits in enumerate(GLYPHS[letter]):
            for start, length in bits:
                px, py = round(corner_x + start * step), round(corner_y + row * step)
                d.rectangle((px, py, px + round(length * step) - 1, py + round(step) - 1), fill=ink)
