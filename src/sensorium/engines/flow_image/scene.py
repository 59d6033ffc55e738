"""What a picture of the synthetic world can hold: its colours, shapes, surfaces, sizes, places and relations, and a scene of them.

Data only. It does not know prompts, pixels or models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (214, 36, 40),
    "orange": (245, 128, 22),
    "yellow": (246, 214, 40),
    "green": (30, 142, 58),
    "cyan": (40, 205, 220),
    "blue": (38, 72, 214),
    "purple": (132, 48, 178),
    "pink": (248, 128, 188),
    "brown": (126, 74, 36),
    "black": (34, 34, 38),
}
SHAPES: Final = ("cube", "ball", "cone", "cylinder", "ring", "star", "heart", "cross")
PLURALS: Final[dict[str, str]] = {shape: "crosses" if shape == "cross" else shape + "s" for shape in SHAPES}
SURFACES: Final = ("white table", "wooden table", "grey floor", "green lawn", "sandy beach")
SIZES: Final = ("small", "medium", "large")
POSITIONS: Final = ("left", "middle", "right")
POSITION_PHRASES: Final[dict[str, str]] = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
RELATIONS: Final = ("to the left of", "to the right of", "on top of", "in front of")
SUPPORTS: Final = ("cube", "cylinder")
NUMBERS: Final = ("zero", "one", "two", "three", "four", "five")
MAX_COUNT: Final = 5
MAX_SIGN: Final = 5
KINDS: Final = ("single", "count", "pair", "sign")


@dataclass(frozen=True, slots=True)
class Thing:
    """One object; `None` means "not named". `position` is only used by single objects."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    position: str | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """One picture. `kind` is one of KINDS or "" (nothing known); a pair reads things[0] `relation` things[1];
    `count` is 2..5 for a count, else 1 (None: a plural without a number); `text` is the lettering of a sign."""

    kind: str
    things: tuple[Thing, ...] = ()
    surface: str | None = None
    relation: str | None = None
    count: int | None = 1
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Parsed:
    """What was understood of a prompt (`scene`, with gaps), the words that mean nothing here or cannot be kept, and the surfaces that
    the prompt leaves to choose from."""

    scene: Scene
    unknown: tuple[str, ...] = ()
    surfaces: tuple[str, ...] = ()
