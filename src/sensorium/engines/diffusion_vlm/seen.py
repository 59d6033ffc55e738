"""Pictures that a model has looked at lately: their projector rows by content, up to a number of cells."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from sensorium.engines.diffusion_vlm.ask import Picture

CELLS = 32 * 1024  # of the 8B model's projector rows: 270 MB in 16 bits


class Seen:
    """The rows of the pictures used last. `look` computes them."""

    def __init__(self, look: Callable[[Picture], Any], cells: int = CELLS) -> None:
        self._look, self._cells = look, cells
        self._kept: OrderedDict[bytes, tuple[int, Any]] = OrderedDict()
        self._total = 0

    def rows(self, picture: Picture) -> Any:
        """Projector rows of a picture. Raises what looking raises, and keeps nothing then."""
        if picture.digest not in self._kept:
            self._kept[picture.digest] = picture.cells, self._look(picture)
            self._total += picture.cells
        self._kept.move_to_end(picture.digest)
        while self._total > self._cells and len(self._kept) > 1:
            _, (cells, _) = self._kept.popitem(last=False)
            self._total -= cells
        return self._kept[picture.digest][1]
