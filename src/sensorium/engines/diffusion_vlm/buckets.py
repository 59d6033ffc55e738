"""How the rows of a tick are put together into batches of few shapes. Pure arithmetic: no tensors, no devices.

In a batch, row r is slot r, so a batch reaches from slot 0 to the last slot that has a row, and other slots in between are idle in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sensorium.engines.diffusion_vlm.rows import Row

LENGTHS = (1, 8, 16, 32, 64, 128)
LONGEST = LENGTHS[-1]
SHORTEST_REACH = 1024
RIDGE = 256
"""Tokens of a forward up to which reading the weights takes longer than computing (250-300 on an H100)."""


@dataclass(frozen=True, slots=True, order=True)
class Bucket:
    """The shape of a batch: rows, tokens per row and positions that it can see; and what it can do beyond that.

    `noisy`: rows with a temperature. `constrained`: rows with masks of allowed ids. `drafting`: rows that use the draft adapter.
    """

    rows: int
    tokens: int
    reach: int
    noisy: bool = False
    constrained: bool = False
    drafting: bool = False

    @property
    def cost(self) -> int:
        """The time it takes, in tokens computed; a small batch takes as long as reading the weights."""
        return max(RIDGE, self.rows * self.tokens)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model has: slots, positions per slot, and whether a draft adapter."""

    slots: int
    length: int
    adapter: bool = False


def goes_alone(row: Row) -> bool:
    """Whether a row is a piece of a prompt that no batch has room for."""
    return len(row.tokens) > LONGEST or row.features is not None


def bucket_of(rows: Sequence[Row], limits: Limits) -> Bucket:
    """The smallest bucket that holds all of these rows."""
    return Bucket(
        rows=min(_doubled(1, max(row.slot for row in rows) + 1), limits.slots),
        tokens=next(length for length in LENGTHS if length >= max(len(row.tokens) for row in rows)),
        reach=min(_doubled(SHORTEST_REACH, max(row.start + len(row.tokens) for row in rows)), limits.length),
        noisy=any(row.temperature > 0 for row in rows),
        constrained=any(row.allowed is not None for row in rows),
        drafting=limits.adapter and any(row.draft for row in rows),
    )


def _doubled(least: int, wanted: int) -> int:
    """`least`, doubled until it is not below `wanted`."""
    while least < wanted:
        least *= 2
    return least


def grouped(rows: Sequence[Row], limits: Limits) -> list[list[Row]]:
    """Rows of any lengths as batches: those of one length together, and with longer ones wherever padding costs no more time."""
    by_length: dict[int, list[Row]] = {}
    for row in rows:
        by_length.setdefault(bucket_of([row], limits).tokens, []).append(row)
    groups: list[list[Row]] = []
    for length in sorted(by_length, reverse=True):
        shorter = by_length[length]
        joined = [*groups[-1], *shorter] if groups else shorter
        if groups and bucket_of(joined, limits).cost <= sum(bucket_of(group, limits).cost for group in (groups[-1], shorter)):
            groups[-1] = joined
        else:
            groups.append(shorter)
    return groups


def common_buckets(limits: Limits, lengths: Sequence[int] = (1, 32)) -> list[Bucket]:
    """The plain buckets that ordinary calls use, to make them ready before the first call: rows and reaches up to the limits."""
    rows = sorted({min(2**power, limits.slots) for power in range(limits.slots.bit_length() + 1)})
    reaches = sorted({min(SHORTEST_REACH * 2**power, limits.length) for power in range(limits.length.bit_length())})
    return [Bucket(count, length, reach) for count in rows for length in lengths for reach in reaches]
