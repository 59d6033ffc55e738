"""Prompts that were encoded before: the least recently used go when there are more than `limit` bytes.

The tensors lie in the machine's memory, not the device's; page-locked where that makes the copy to the device faster.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

LIMIT: Final = 256 * 1024 * 1024
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt as FLUX takes it: T5's sequence [1, tokens, width] and CLIP's pooled vector [1, width]."""

    sequence: Any
    pooled: Any

    @property
    def bytes(self) -> int:
        """What it takes."""
        return int(self.sequence.nbytes + self.pooled.nbytes)

    def to(self, device: Any) -> Encoded:
        """A copy on a device; the very tensors where they are there already."""
        return Encoded(self.sequence.to(device, non_blocking=True), self.pooled.to(device, non_blocking=True))

    def resting(self, pinned: bool) -> Encoded:
        """A copy in the machine's memory."""
        sequence, pooled = self.sequence.cpu(), self.pooled.cpu()
        return Encoded(sequence.pin_memory(), pooled.pin_memory()) if pinned else Encoded(sequence, pooled)


class Embeddings:
    """The cache, by prompt and the number of tokens that it was read to. For one thread at a time."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit, self.bytes = limit, 0
        self.hits = self.misses = 0
        self._kept: OrderedDict[Key, Encoded] = OrderedDict()

    def get(self, key: Key) -> Encoded | None:
        """What is kept for the prompt, counted as a hit or a miss."""
        found = self._kept.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return found

    def put(self, key: Key, encoded: Encoded) -> None:
        """Keep it, unless it alone is beyond the limit."""
        if encoded.bytes > self._limit:
            return
        old = self._kept.pop(key, None)
        self.bytes += encoded.bytes - (old.bytes if old else 0)
        self._kept[key] = encoded
        while self.bytes > self._limit:
            self.bytes -= self._kept.popitem(last=False)[1].bytes

    def clear(self) -> None:
        """Forget all."""
        self._kept.clear()
        self.bytes = 0
