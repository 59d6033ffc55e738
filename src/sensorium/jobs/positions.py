"""The place of a waiting request in its lane, cheaply: an exact count in lanes of moderate length, a table of every 256th place in others.

A count among a million rows takes 80 ms; a table of 4,000 keys and a count inside one block take 20 µs (jobs.md, section 11).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sensorium.jobs.request import Request

EXACT = 10_000  # waiting requests up to which places are counted
BLOCK = 256
KEPT_S = 0.25  # how long a counted place is told again
SHARE = 0.05  # of one core, for building tables
MOST = 20_000
Key = tuple[int, float, int]


@dataclass(frozen=True, slots=True)
class _Table:
    keys: Sequence[Key]
    again: float


class Positions:
    """`waiting(lane)` says how many wait, `between(lane, low, high)` counts those from one key (None: the first) to before another,
    `sampled(lane, BLOCK)` gives every BLOCK-th key. `clock` is in seconds. A place told from a table is off by what changed since it was
    built, at most."""

    def __init__(
        self,
        waiting: Callable[[str], int],
        between: Callable[[str, Key | None, Key], int],
        sampled: Callable[[str, int], Sequence[Key]],
        clock: Callable[[], float],
    ) -> None:
        self._waiting, self._between, self._sampled, self._clock = waiting, between, sampled, clock
        self._told: OrderedDict[str, tuple[float, int, int]] = OrderedDict()
        self._tables: dict[str, _Table] = {}
        self._building: set[str] = set()

    def of(self, request: Request) -> int:
        """How many are before it, 0 when it is next."""
        now, key = self._clock(), (request.prio, request.vtag, request.seq)
        told = self._told.get(request.id)
        if told is not None and told[0] > now and told[2] == request.ver:
            return told[1]
        table = self._tables.get(request.lane) if self._waiting(request.lane) > EXACT else None
        if table is None:
            place = self._between(request.lane, None, key)
        else:
            at = bisect_right(table.keys, key)
            place = max(0, at - 1) * BLOCK + self._between(request.lane, table.keys[at - 1] if at else None, key)
        self._told[request.id] = (now + KEPT_S, place, request.ver)
        self._told.move_to_end(request.id)
        if len(self._told) > MOST:
            self._told.popitem(last=False)
        return place

    def stale(self, lanes: Iterable[str]) -> list[str]:
        """Those of the lanes whose table is to be built anew, once each until it is. Tables of lanes that are short by now are dropped."""
        now = self._clock()
        long = [lane for lane in lanes if self._waiting(lane) > EXACT]
        for lane in set(self._tables) - set(long):
            del self._tables[lane]
        due = [lane for lane in long if lane not in self._building and (lane not in self._tables or self._tables[lane].again <= now)]
        self._building.update(due)
        return due

    def build(self, lane: str) -> None:
        """Build a lane's table. Blocks for up to a second where a million wait; the share of a core that this takes is bounded."""
        began = self._clock()
        try:
            keys = self._sampled(lane, BLOCK)
        finally:
            self._building.discard(lane)
        ended = self._clock()
        self._tables[lane] = _Table(keys, ended + max(KEPT_S, (ended - began) / SHARE))
