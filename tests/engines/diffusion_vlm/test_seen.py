"""Which pictures are kept, and that a failed look leaves nothing behind."""

from __future__ import annotations

import numpy as np
import pytest

from sensorium.engines.diffusion_vlm.ask import Picture
from sensorium.engines.diffusion_vlm.seen import Seen


def picture(name: str, cells: int) -> Picture:
    return Picture(np.zeros((3, 1, 1), np.float32), name.encode(), cells)


def test_pictures_used_last_are_kept_up_to_so_many_cells() -> None:
    looks: list[str] = []
    seen = Seen(lambda one: looks.append(one.digest.decode()) or one.digest, cells=10)
    for name in "ababcab":
        assert seen.rows(picture(name, 4)) == name.encode()
    assert "".join(looks) == "abcab"


def test_one_that_is_larger_than_all_room_is_kept_until_the_next() -> None:
    looks: list[str] = []
    seen = Seen(lambda one: looks.append(one.digest.decode()) or one.digest, cells=10)
    for name, cells in (("big", 40), ("big", 40), ("a", 4), ("a", 4), ("big", 40)):
        seen.rows(picture(name, cells))
    assert looks == ["big", "a", "big"]


def test_a_look_that_fails_is_made_again() -> None:
    faults = [MemoryError("full")]

    def look(one: Picture) -> bytes:
        if faults:
            raise faults.pop()
        return one.digest

    seen = Seen(look)
    with pytest.raises(MemoryError):
        seen.rows(picture("a", 1))
    assert seen.rows(picture("a", 1)) == b"a"
