"""Token ids to text, piece by piece: what may be shown now, what must wait, and where a stop string ends the answer.

It does not know how the ids came about.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

INCOMPLETE = "\ufffd"


class TextStream:
    """Decodes a growing list of ids so that the pieces put together are the text of the whole list.

    Special ids, and padding ids that the tokenizer does not know, leave no text. Text that ends in U+FFFD waits, since the next id may
    complete the character. Each piece is the difference of two decodings that share their first id, so the whole list is never decoded
    again and a leading space comes out as in the whole.
    """

    def __init__(self, tokenizer: Tokenizer, special: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._ids: list[int] = []
        self._shown = 0
        self._anchor = 0

    def push(self, ids: Sequence[int]) -> str:
        """Take more ids; the text that is now certain."""
        self._ids += [id for id in ids if id not in self._special and self._tokenizer.id_to_token(id) is not None]
        return self._advance(flush=False)

    def flush(self) -> str:
        """The rest of the text, incomplete characters included."""
        return self._advance(flush=True)

    def _advance(self, *, flush: bool) -> str:
        before = self._decode(self._ids[self._anchor : self._shown])
        now = self._decode(self._ids[self._anchor :])
        if now.endswith(INCOMPLETE) and not flush:
            return ""
        self._anchor, self._shown = max(self._shown - 1, 0), len(self._ids)
        return now[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text


class StopStrings:
    """Cuts a text stream at the first occurrence of any stop string; what could begin one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """Take more text; the part that no stop string can touch any more. Sets `hit` when one has occurred."""
        if self.hit:
            return ""
        text = self._held + text
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
