"""Measures a picture of the synthetic world without anything learnt: surface, objects, their colours, places and sizes.

A pixel is an object's when it is far from every colour that the surface and its backdrop can have, and nearer to a shade of an object: so
an edge lies halfway between the two, blurred or not. Objects are connected pixels of one palette colour. Shapes are not measured. All
constants come from the renderer. numpy only; it does not know which model drew the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, permutations, product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sensorium.engines.flow_image.world import COLOURS, SURFACES, Scene
from training.scenes import RADII

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int64]
Distances = NDArray[np.float64]

MIN_AREA: Final = 0.008  # of the picture; what is smaller is a speck
FAR: Final = 22.0  # distance in RGB from every background colour that makes a pixel an object's
TINT: Final = 24.0  # how far a picture's own background colour may be from the renderer's
COMPANY: Final = 4  # of the nine pixels around and with a pixel, so many must be objects', else it is a speck or a spur
SHADES: Final = (1.0, 0.72, 0.63, 0.5)  # lit sides of objects are mixed with white instead
SIZE_LIMITS: Final = (0.1125, 0.155)  # half size, as a fraction of the side: between small, medium and large
THIRDS: Final = (0.36, 0.64)
BEHIND: Final = 0.21  # how much higher than the front object the one behind it stands
THIN: Final = 0.05  # of the side; what is thinner and of no palette colour is an edge in the background
STRAY: Final = "none"  # the colour of an object that has none of the palette's
# width, height and root of the area of a shape over its half size: medians over renders
EXTENTS: Final = {
    "cube": (1.92, 1.92, 1.92), "ball": (1.96, 1.97, 1.81), "cone": (1.99, 2.07, 1.58), "cylinder": (1.49, 2.06, 1.78),
    "ring": (1.97, 1.98, 1.44), "star": (1.92, 1.93, 1.36), "heart": (2.02, 1.80, 1.58), "cross": (1.98, 2.03, 1.60),
}  # fmt: skip
SLACK: Final = 0.023  # of the side: how far the box around two touching objects of one colour may be from what their sizes explain
BACKGROUND: Final[dict[str, tuple[tuple[int, int, int], ...]]] = {  # ground, then backdrops
    "white table": ((240, 240, 236), (150, 175, 195)),
    "wooden table": ((186, 134, 84), (226, 216, 196), (214, 203, 184)),
    "grey floor": ((128, 128, 132), (206, 211, 216)),
    "green lawn": ((116, 182, 90), (168, 213, 246)),
    "sandy beach": ((228, 206, 158), (92, 160, 205), (176, 218, 244)),
}
TOP: Final = {"white table": 1, "wooden table": 2, "grey floor": 1, "green lawn": 1, "sandy beach": 2}  # the backdrop at the upper edge
BOTTOM: Final = {"white table": 0.7, "wooden table": 0.7}  # how dark the ground is at the lower edge
GROUND_SHADES: Final = (0.69, 1.03)  # shadows, edges and marks on the ground are darker copies of it


@dataclass(frozen=True, slots=True)
class Found:
    """One object: palette colour (or STRAY), area as a share of the picture, and its box (left, top, right, bottom) as fractions of the
    side, without the outer halves of its border pixels, which are mostly blended."""

    colour: str
    area: float
    box: tuple[float, float, float, float]

    @property
    def x(self) -> float:
        """Middle of the box."""
        return (self.box[0] + self.box[2]) / 2

    @property
    def y(self) -> float:
        """Middle of the box."""
        return (self.box[1] + self.box[3]) / 2

    @property
    def width(self) -> float:
        """Of the box."""
        return self.box[2] - self.box[0]

    @property
    def height(self) -> float:
        """Of the box."""
        return self.box[3] - self.box[1]

    def radius(self, shape: str | None) -> float:
        """Half size that an object of this shape would have: the median of what width, height and area say, so that one may be off."""
        said = zip((self.width, self.height, math.sqrt(self.area)), EXTENTS[shape or "ball"], strict=True)
        return sorted(value / extent for value, extent in said)[1]


def surface(image: Image) -> str:
    """The surface whose colours at the upper and lower edge are nearest."""
    top, bottom = (np.median(image[rows].reshape(-1, 3), axis=0) for rows in (slice(0, 5), slice(-4, None)))

    def distance(name: str) -> float:
        expected = np.array(BACKGROUND[name][TOP[name]]), np.array(BACKGROUND[name][0]) * BOTTOM.get(name, 1.0)
        return float(np.linalg.norm(top - expected[0]) + np.linalg.norm(bottom - expected[1]))

    return min(SURFACES, key=distance)


def to_background(image: Image, on: str) -> Distances:
    """[S, S] distances in RGB from ground, backdrop and their blends on surface `on`; the actual tint is read off the picture first."""
    pixels = image.reshape(-1, 3).astype(np.float64)
    tints = [_tint(pixels, np.array(colour, np.float64)) for colour in BACKGROUND[on]]
    ends = [(tints[0] * GROUND_SHADES[0], tints[0] * GROUND_SHADES[1]), *pairwise(tints)]
    nearest: Distances = np.min([_distance(pixels, *end) for end in ends], axis=0)
    return nearest.reshape(image.shape[:2])


def _distance(pixels: NDArray[np.float64], begin: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] distances from the straight line between two colours."""
    step = end - begin
    along = np.clip((pixels - begin) @ step / max(float(step @ step), 1.0), 0, 1)
    distance: NDArray[np.float64] = np.linalg.norm(pixels - begin - along[:, None] * step, axis=1)
    return distance


def _tint(pixels: NDArray[np.float64], colour: NDArray[np.float64]) -> NDArray[np.float64]:
    """The picture's own version of a background colour: the median of what is near it."""
    near = pixels[np.linalg.norm(pixels - colour, axis=1) < TINT]
    found: NDArray[np.float64] = np.median(near, axis=0) if len(near) >= 40 else colour
    return found


def _palette() -> tuple[NDArray[np.float64], Labels]:
    """Every shade that an object can show, and the number of its colour."""
    shades, owners = [], []
    for number, colour in enumerate(COLOURS.values()):
        plain = np.array(colour, np.float64)
        lit = plain + np.array((45, 45, 48)) if plain.sum() < 150 else plain + (255 - plain) * 0.3
        rows = [plain * shade for shade in SHADES] + [lit]
        shades += rows
        owners += [number] * len(rows)
    return np.stack(shades), np.array(owners)


PALETTE, OWNERS = _palette()


def to_palette(image: Image) -> tuple[Distances, Labels]:
    """[S, S] distances in RGB from the nearest shade of an object, and the numbers of their palette colours."""
    pixels = image.reshape(-1, 3).astype(np.float64)
    squares = (pixels**2).sum(1)[:, None] + (PALETTE**2).sum(1) - 2 * pixels @ PALETTE.T
    distance: Distances = np.sqrt(squares.min(1).clip(0)).reshape(image.shape[:2])
    return distance, OWNERS[squares.argmin(1)].reshape(image.shape[:2])


def without_specks(mask: Mask) -> Mask:
    """The pixels that have company."""
    cleaned: Mask = mask & (_box_sum(mask.astype(np.int64), 1) >= COMPANY)
    return cleaned


def voted(owner: Labels, mask: Mask) -> Labels:
    """[S, S] number of the palette colour, -1 outside `mask`; each pixel takes the majority of its 5 x 5 neighbourhood."""
    inside = np.where(mask, owner, -1)
    votes = np.stack([_box_sum((inside == number).astype(np.int64), 2) for number in range(len(COLOURS))])
    labels: Labels = np.where(mask, votes.argmax(0), -1)
    return labels


def _box_sum(values: Labels, reach: int) -> Labels:
    """Sums over squares of side 2 * reach + 1."""
    side = 2 * reach + 1
    total = np.pad(values, ((reach + 1, reach), (reach + 1, reach))).cumsum(0).cumsum(1)
    summed: Labels = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return summed


def components(labels: Labels) -> Labels:
    """[S, S] one number per 8-connected region of equal label, -1 where the label is -1."""
    side = labels.shape
    region = np.where(labels >= 0, np.arange(labels.size).reshape(side), -1)
    edged, names = np.pad(labels, 1, constant_values=-2), region
    while True:
        around = np.pad(names, 1, constant_values=-1)
        best = names
        for dy, dx in ((0, 1), (0, 2), (1, 2), (2, 2), (0, 0), (1, 0), (2, 0), (2, 1)):
            window = slice(dy, dy + side[0]), slice(dx, dx + side[1])
            best = np.maximum(best, np.where(edged[window] == labels, around[window], -1))
        best = np.where(labels >= 0, best.reshape(-1)[best], -1)  # jump to where the neighbour already is
        if np.array_equal(best, names):
            return names
        names = best


def objects(image: Image, on: str | None = None) -> list[Found]:
    """All objects, from left to right. Pieces of one colour whose boxes touch are one object; something that lies apart from all of them
    and is of no palette colour is one too."""
    away, (near, owner) = to_background(image, on or surface(image)), to_palette(image)
    labels = voted(owner, without_specks((away > FAR) & (away > near)))
    pieces, held = _pieces(components(labels), labels)
    something = components(np.where(without_specks(away > FAR), 0, -1))
    something[np.isin(something, something[held])] = -1
    others, _ = _pieces(something, np.full_like(labels, len(COLOURS)))
    strays = [one for one in others if min(one.width, one.height) > THIN]
    return sorted([*_joined(pieces, 2.01 / image.shape[0]), *strays], key=lambda found: found.x)


def _pieces(regions: Labels, labels: Labels) -> tuple[list[Found], Mask]:
    """The regions that are no specks, and where they are."""
    found, held, side = [], np.zeros(regions.shape, bool), len(regions)
    for number in np.unique(regions[regions >= 0]):
        mask = regions == number
        rows, columns = np.nonzero(mask)
        if len(rows) >= MIN_AREA * mask.size:
            left, top, right, bottom = ((float(edge) + 0.5) / side for edge in (columns.min(), rows.min(), columns.max(), rows.max()))
            colour = (*COLOURS, STRAY)[labels[rows[0], columns[0]]]
            found.append(Found(colour, len(rows) / mask.size, (left, top, right, bottom)))
            held |= mask
    return found, held


def _joined(pieces: list[Found], gap: float) -> list[Found]:
    """Pieces of one colour whose boxes are at most `gap` apart, as one."""
    for i, one in enumerate(pieces):
        for j, two in enumerate(pieces[:i]):
            apart = max(one.box[0] - two.box[2], two.box[0] - one.box[2], one.box[1] - two.box[3], two.box[1] - one.box[3])
            if one.colour == two.colour and apart <= gap:
                box = (*np.minimum(one.box[:2], two.box[:2]).tolist(), *np.maximum(one.box[2:], two.box[2:]).tolist())
                rest = [piece for k, piece in enumerate(pieces) if k not in (i, j)]
                return _joined([*rest, Found(one.colour, one.area + two.area, box)], gap)
    return pieces


def size_name(radius: float) -> str:
    """The word for a half size."""
    return "small" if radius < SIZE_LIMITS[0] else "medium" if radius < SIZE_LIMITS[1] else "large"


def position_name(x: float) -> str:
    """The third of the picture."""
    return "left" if x < THIRDS[0] else "middle" if x < THIRDS[1] else "right"


def relation_holds(relation: str, one: Found, two: Found) -> bool:
    """Whether the boxes stand as `one` `relation` `two` says."""
    if relation == "to the right of":
        return relation_holds("to the left of", two, one)
    lower = one.box[3] - two.box[3]
    if relation == "to the left of":
        return two.x - one.x > 0.2 and abs(lower) < 0.12
    if relation == "on top of":
        return one.box[3] < two.y + 0.02 and abs(one.x - two.x) < 0.12
    return lower > 0.1 and abs(one.x - two.x) < 0.35 and one.box[3] > two.y


def check(image: Image, scene: Scene) -> dict[str, bool]:
    """What of a complete scene the picture holds, by aspect: surface, count, colour, size, and position or relation."""
    on = surface(image)
    found = objects(image, on)
    verdict = {"surface": on == scene.surface}
    if scene.kind == "pair":
        return verdict | _check_pair(scene, found)
    thing = scene.things[0]
    verdict["count"] = len(found) == (scene.count or 1)
    verdict["colour"] = bool(found) and all(one.colour == thing.colour for one in found)
    verdict["size"] = bool(found) and all(size_name(one.radius(thing.shape)) == thing.size for one in found)
    if scene.kind == "single":
        verdict["position"] = len(found) == 1 and position_name(found[0].x) == thing.position
    return verdict


def _check_pair(scene: Scene, found: list[Found]) -> dict[str, bool]:
    """The best reading of two objects as the pair; objects of one colour that touch are one, and are measured as a whole."""
    one, two = scene.things
    wanted = [one.colour, two.colour]
    if len(found) == 1 and one.colour == two.colour == found[0].colour:
        return {"count": True, "colour": True, **_check_merged(scene, found[0])}
    readings = []
    for first, second in permutations(found, 2) if len(found) == 2 else ():
        sizes = [size_name(first.radius(one.shape)), size_name(second.radius(two.shape))] == [one.size, two.size]
        relation = relation_holds(scene.relation or "", first, second)
        readings.append({"count": True, "colour": [first.colour, second.colour] == wanted, "size": sizes, "relation": relation})
    nothing = dict.fromkeys(("count", "colour", "size", "relation"), False)
    return max(readings, key=lambda reading: sum(reading.values()) + reading["colour"] * 4, default=nothing)


def _check_merged(scene: Scene, whole: Found) -> dict[str, bool]:
    """Size and relation of two touching objects of one colour, by the box around both."""
    one, two = scene.things
    stacked = scene.relation == "on top of"
    if not stacked and scene.relation != "in front of":
        return {"size": False, "relation": False}
    ranges = [np.linspace(*RADII[thing.size or "medium"], 6) for thing in (one, two)]
    boxes = [_merged_box(scene, first, second) for first, second in product(*ranges)]
    away = min(max(abs(whole.width - width), abs(whole.height - height)) for width, height in boxes)
    return {"size": bool(away < SLACK), "relation": whole.height > 1.2 * whole.width if stacked else whole.height > 0.25}


def _merged_box(scene: Scene, first: float, second: float) -> tuple[float, float]:
    """Width and height of the box around a touching pair with these half sizes, as the renderer arranges it."""
    (wide, high, _), (wide_2, high_2, _) = (EXTENTS[thing.shape or "ball"] for thing in scene.things)
    if scene.relation == "on top of":
        return max(wide * first, wide_2 * second), high * first + 1.9 * second
    reach, half, half_2 = 0.4 * (first + second), wide * first / 2, wide_2 * second / 2  # one stands to each side, by their mean half size
    width = max(reach + half, half_2 - reach) - min(reach - half, -reach - half_2)
    return width, max(high * first, BEHIND + high_2 * second)


def right(image: Image, scene: Scene) -> bool:
    """Whether everything measurable is as the scene says."""
    return all(check(image, scene).values())
