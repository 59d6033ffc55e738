"""Which answer has which slot, and what each slot's positions hold, so that a prompt which begins like an earlier one need not be computed.

Answers stay in the lowest slots: a forward spans all slots up to the highest in use. Pure bookkeeping; whoever computes does the copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sensorium.engines.diffusion_vlm.rows import Ids

SHORTEST = 32  # positions: a shorter common beginning is computed again as quickly as it is copied
NOTHING: Ids = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Copy:
    """Have slot `target` begin with the first `length` positions of slot `source`."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class Place:
    """A slot whose first `reused` positions hold what they should, once `copies` have been made in their order."""

    slot: int
    reused: int
    copies: Sequence[Copy]


class Slots:
    """`count` slots. Positions of a free slot keep what the last answer wrote until they are given away."""

    def __init__(self, count: int, *, reuse: bool = True) -> None:
        self._busy = [False] * count
        self._held: list[Ids] = [NOTHING] * count
        self._used = [0] * count
        self._uses = 0
        self._reuse = reuse

    @property
    def free(self) -> int:
        """How many slots are free."""
        return self._busy.count(False)

    def take(self, identity: Ids) -> Place:
        """The lowest free slot, for a prompt that `identity` names position by position. At least its last position is never reused.

        Raises ValueError when no slot is free.
        """
        slot = self._busy.index(False)
        donor, reused = self._likest(identity[:-1], slot)
        copies: list[Copy] = []
        if donor != slot or len(self._held[slot]) - reused >= SHORTEST:
            copies += self._kept_elsewhere(slot, donor)
        if donor not in (None, slot):
            copies.append(Copy(donor, slot, reused))
        self._busy[slot], self._held[slot] = True, identity[:reused]
        self._touch(slot)
        return Place(slot, reused, copies)

    def hold(self, slot: int, written: Ids) -> None:
        """The slot's first positions hold `written` now."""
        if self._reuse:
            self._held[slot] = written

    def release(self, slot: int) -> None:
        """The answer in the slot is over; its positions may be reused."""
        self._busy[slot] = False
        self._touch(slot)

    def forget(self, slot: int) -> None:
        """What the slot's positions hold is not known any more."""
        self._held[slot] = NOTHING

    def denser(self, length: int) -> tuple[int, Sequence[Copy]] | None:
        """Where the answer in the highest slot in use should move, with its first `length` positions, so that forwards span half the
        slots or fewer; None while that would not be so."""
        highest, count = self.highest, self._busy.count(True)
        if highest + 1 <= _span(count):
            return None
        slot = self._busy.index(False)
        copies = [*self._kept_elsewhere(slot, highest), Copy(highest, slot, length)]
        self._held[slot], self._busy[slot], self._busy[highest] = self._held[highest], True, False
        self._touch(slot)
        return slot, copies

    @property
    def highest(self) -> int:
        """The highest slot in use, -1 when none is."""
        return max((slot for slot, busy in enumerate(self._busy) if busy), default=-1)

    def _likest(self, identity: Ids, slot: int) -> tuple[int | None, int]:
        """The slot that holds the longest beginning of `identity`, `slot` before others, and its length; (None, 0) if none is worth it."""
        lengths = [common(held, identity) for held in self._held]
        longest = max(lengths)
        if longest < SHORTEST:
            return None, 0
        return slot if lengths[slot] == longest else lengths.index(longest), longest

    def _kept_elsewhere(self, slot: int, besides: int | None) -> Sequence[Copy]:
        """Before a slot is given away: its contents to the free slot that was used longest ago, if that is longer ago."""
        others = [other for other, busy in enumerate(self._busy) if not busy and other not in (slot, besides)]
        oldest = min(others, key=self._used.__getitem__, default=slot)
        length = len(self._held[slot])
        if length < SHORTEST or self._used[oldest] >= self._used[slot]:
            return ()
        self._held[oldest], self._used[oldest] = self._held[slot], self._used[slot]
        return (Copy(slot, oldest, length),)

    def _touch(self, slot: int) -> None:
        self._uses += 1
        self._used[slot] = self._uses


def common(one: Ids, other: Ids) -> int:
    """How many first entries are equal."""
    length = min(len(one), len(other))
    differing = np.flatnonzero(one[:length] != other[:length])
    return int(differing[0]) if len(differing) else length


def _span(count: int) -> int:
    """The slots that a forward of so many answers spans at best: a power of two."""
    return 1 << (count - 1).bit_length() if count else 0
