"""The judge: a small convolutional network that looks at a picture and says which scene it shows. numpy only.

It was trained on renders alone (`training.judge_train`), with its own code and seeds, and serves nothing but evaluation. One branch finds
object centres with colour, shape and size; the other reads surface, position and relation off the whole picture.

The kind of the scene is no output of its own: it follows from the objects found, by the world's definition. One object is a single; two
or more of one colour and shape are a count; two that differ in colour or shape are a pair; anything else is no scene of this world.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sensorium.engines import weights
from sensorium.engines.flow_image.world import COLOURS, POSITIONS, RELATIONS, SHAPES, SIZES, SURFACES, Scene, Thing

Array = NDArray[np.float32]
Image = NDArray[np.uint8]

SIDE: Final = 96
CELLS: Final = 24  # object centres are found on this grid
NO_KIND: Final = "none"
ORDERED: Final = ("to the left of", "on top of", "in front of")  # "to the right of" is the first one, read backwards
GLOBAL: Final = {"surface": SURFACES, "position": POSITIONS, "relation": ORDERED}
LOCAL: Final = {"colour": tuple(COLOURS), "shape": SHAPES, "size": SIZES}
FOLDER: Final = Path(__file__).parent / "judge"


@dataclass(frozen=True, slots=True)
class Object:
    """One object that the judge sees: its attributes and the centre of its box, as fractions of the side."""

    colour: str
    shape: str
    size: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the judge believes a picture shows."""

    surface: str
    position: str
    relation: str
    objects: tuple[Object, ...]

    @property
    def kind(self) -> str:
        """single, count, pair, or NO_KIND."""
        if len(self.objects) == 1:
            return "single"
        looks = {(one.colour, one.shape) for one in self.objects}
        if len(looks) == 1:
            return "count"
        return "pair" if len(self.objects) == 2 else NO_KIND


def normalised(image: Image) -> Array:
    """uint8 [96, 96, 3] -> float32 in -1..1."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def convolve(x: Array, weight: Array, bias: Array, stride: int = 1) -> Array:
    """x [H, W, C], weight [out, C, k, k] with k odd, zero padding that keeps the centre -> [H / stride, W / stride, out]."""
    reach = weight.shape[2] // 2
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(0, 1))[::stride, ::stride]
    rows, columns = windows.shape[:2]
    flat = windows.reshape(rows * columns, -1) @ weight.reshape(len(weight), -1).T + bias
    result: Array = flat.reshape(rows, columns, -1)
    return result


def relu(x: Array) -> Array:
    """Negative values become zero."""
    result: Array = np.maximum(x, 0)
    return result


class Judge:
    """A loaded judge."""

    def __init__(self, tensors: Mapping[str, Array]) -> None:
        self._tensors = dict(tensors.items())

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Judge:
        """Read `judge.safetensors`. Raises SettingsError when it is absent or damaged."""
        return cls(weights.open_tensors(folder, "judge"))

    def _conv(self, name: str, x: Array, stride: int = 1) -> Array:
        return convolve(x, self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"], stride)

    def outputs(self, image: Image) -> tuple[Array, Array]:
        """(whole-picture scores [sum of GLOBAL], map [24, 24, 1 + sum of LOCAL] with the objectness first), before any softmax."""
        fine = relu(self._conv("stem.1", relu(self._conv("stem.0", normalised(image), 2)), 2))
        deep = relu(self._conv("down", fine, 2))
        for number in range(3):
            deep = relu(deep + self._conv(f"deep.{number}", deep))
        whole = relu(self._conv("squeeze", deep)).reshape(-1)
        whole = relu(self._tensors["hidden.weight"] @ whole + self._tensors["hidden.bias"])
        scores: Array = self._tensors["answer.weight"] @ whole + self._tensors["answer.bias"]
        wide = self._conv("lift", deep).repeat(2, axis=0).repeat(2, axis=1)
        local = relu(self._conv("mix", relu(wide + self._conv("side", fine))))
        return scores, self._conv("map", local)

    def look(self, image: Image) -> Opinion:
        """The judge's opinion of a picture of 96 x 96 pixels."""
        scores, local = self.outputs(image)
        parts = dict(zip(GLOBAL, np.split(scores, np.cumsum([len(names) for names in GLOBAL.values()])[:-1]), strict=True))
        said = {name: GLOBAL[name][int(part.argmax())] for name, part in parts.items()}
        return Opinion(**said, objects=tuple(found(local)))


def found(local: Array) -> list[Object]:
    """Objects at the peaks of the objectness map."""
    peak = local[..., 0]
    around = np.lib.stride_tricks.sliding_window_view(np.pad(peak, 1, constant_values=-np.inf), (3, 3)).max((2, 3))
    result = []
    for row, column in np.argwhere((peak > 0) & (peak >= around)):
        parts = np.split(local[row, column, 1:], np.cumsum([len(names) for names in LOCAL.values()])[:-1])
        named = [names[int(part.argmax())] for names, part in zip(LOCAL.values(), parts, strict=True)]
        result.append(Object(named[0], named[1], named[2], (int(column) + 0.5) / CELLS, (int(row) + 0.5) / CELLS))
    return result


def ordered(scene: Scene) -> tuple[tuple[Thing, ...], str]:
    """A pair's things and relation in the judge's own order: left before right, upper before lower, front before back."""
    if scene.relation == RELATIONS[1]:
        return scene.things[::-1], ORDERED[0]
    return scene.things, scene.relation or ""


def _sorted_pair(opinion: Opinion, relation: str) -> tuple[Object, Object]:
    """The two objects in the order that the relation names them."""
    one, two = opinion.objects
    first = one.x < two.x if relation == ORDERED[0] else one.y < two.y if relation == ORDERED[1] else one.y > two.y
    return (one, two) if first else (two, one)


def check(opinion: Opinion, scene: Scene) -> dict[str, bool]:
    """What of a complete scene the judge saw, by aspect."""
    things, relation = ordered(scene)
    wanted = things if scene.kind == "pair" else things * (scene.count or 1)
    verdict = {"kind": opinion.kind == scene.kind, "surface": opinion.surface == scene.surface}
    verdict["count"] = len(opinion.objects) == len(wanted)
    seen: tuple[Object, ...] = opinion.objects
    if scene.kind == "pair":
        verdict["relation"] = opinion.relation == relation
        seen = _sorted_pair(opinion, relation) if verdict["count"] else seen
    elif scene.kind == "single":
        verdict["position"] = opinion.position == things[0].position
    for aspect in LOCAL:
        verdict[aspect] = verdict["count"] and all(getattr(a, aspect) == getattr(b, aspect) for a, b in zip(seen, wanted, strict=True))
    return verdict
