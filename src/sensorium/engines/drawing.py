"""What all drawing models here share: the wish that they are given, the steps that they tell of, and the drawing that comes out.

It knows no model, no dialect and no queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from sensorium.wire.parameters import Integer, Text

SEED = Integer(0, 2**32 - 1)
PROMPT = Text(1, 10_000)


def never() -> bool:
    """For callers that do not cancel."""
    return False


@dataclass(frozen=True, slots=True)
class Draw:
    """One wish. None means the model's default; a width or height alone makes a square.

    `guidance` goes by `cfg_scale` on the wire; 0 means the default as well.
    """

    prompt: str
    seed: int
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """`number` of `of` steps are done."""

    number: int
    of: int


@dataclass(frozen=True, slots=True)
class Drawing:
    """An RGB picture, the seed and caption really drawn ("": the prompt as it is), and what of the wish had no effect: words of the
    prompt, parameters."""

    image: Image.Image
    seed: int
    caption: str
    ignored: tuple[str, ...]


class Checked(Protocol):
    """What is known of a wish before it is drawn; both as in Drawing."""

    @property
    def caption(self) -> str:
        """The caption."""
        ...

    @property
    def ignored(self) -> tuple[str, ...]:
        """What has no effect."""
        ...


class Drawer(Protocol):
    """A loaded drawing model. Not safe for use from several threads at once; a lane serialises."""

    @property
    def name(self) -> str:
        """Its id in messages."""
        ...

    @property
    def scope(self) -> str | None:
        """What it is limited to; None for a model of everything."""
        ...

    def check(self, wish: Draw) -> Checked:
        """Refuse what cannot be drawn, without drawing. Raises Unprocessable that names parameter, value and range."""
        ...

    def steps(self, wish: Draw, cancelled: Callable[[], bool] = never) -> Iterator[Step | Drawing]:
        """Draw: a Step after each of them, then the Drawing. Raises as `check` does, and Cancelled between two steps."""
        ...


def finished(events: Iterator[Step | Drawing]) -> Drawing:
    """The drawing at the end of the steps."""
    *_, last = events
    assert isinstance(last, Drawing)
    return last
