"""JSON schemas as automata over a checkpoint's tokens: which ids may come next, so that what is written fits the schema (by llguidance).

Written without whitespace, but for one space after a comma or a colon where the model wants it. It does not know models or decoding.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from sensorium.engines.diffusion_vlm.answer_schema import WHERE, refused, screen
from sensorium.engines.diffusion_vlm.config import VLMConfig
from sensorium.engines.diffusion_vlm.rows import Bits
from sensorium.errors import BadRequest

SEPARATORS = {"item_separator": ",[ ]?", "key_separator": ":[ ]?"}
STRICT = {"whitespace_flexible": False, "lenient": False, "coerce_one_of": False, "json_allow_general_unicode_escapes": False}
# A third or less of llguidance's own: a step stays in milliseconds, an answer's automaton in tens of megabytes.
LIMITS = {
    "initial_lexer_fuel": 500_000,
    "step_lexer_fuel": 100_000,
    "step_max_items": 20_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
# Every byte that text in UTF-8 can hold, but for the control characters, which JSON escapes.
BYTES = frozenset({*range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF5)})


class Grammars:
    """The grammars of one checkpoint. The library and the vocabulary are read when the first schema comes. One thread at a time."""

    def __init__(self, tokenizer: Tokenizer, config: VLMConfig, special: frozenset[int]) -> None:
        """`special` ids leave no text: none of them but the config's ends is ever allowed."""
        self._tokenizer, self._config, self._special = tokenizer, config, special
        self._vocabulary: _Vocabulary | None = None

    def compile(self, schema: str) -> Grammar:
        """The grammar of a schema's JSON text, at its beginning.

        Raises BadRequest when this checkpoint or this installation cannot hold answers to a schema, and for a schema that is no JSON
        object, too large, not supported, or that nothing fits.
        """
        if self._vocabulary is None:
            self._vocabulary = _Vocabulary(self._tokenizer, self._config, self._special)
        vocabulary = self._vocabulary
        screen(schema)
        # Compiled anew for each answer, a matter of a millisecond: copies of a matcher share a lexer, whose limits one answer could use up.
        return Grammar(vocabulary.matcher(schema), vocabulary.text, vocabulary.ends)


class Grammar:
    """One answer's place in its grammar. Masks are words of 32 bits, the lowest bit first, as a row's `allowed` has them."""

    def __init__(self, matcher: Any, text: Bits, ends: frozenset[int]) -> None:
        """`matcher` has read nothing and is nobody else's; `text` has a bit for every id that may occur at all, `ends` not among them."""
        self.ends = ends
        self.ended = False
        self.somewhere: Bits = text | _bits(ends, len(text))
        self._matcher = matcher
        self._now: Bits | None = None

    def allowed(self) -> Bits:
        """The ids [words] that may come next: text that leads to an answer which fits, and the ends once it does. Never empty.

        Raises BadRequest when the schema turns out to be too much for the limits here or to lead nowhere, ValueError after the end.
        """
        if self.ended:
            raise ValueError("nothing may follow the end of an answer")
        if self._now is None:
            self._now = self._mask(self._matcher)
            if self._now is None:
                raise _stuck(self._matcher)
        return self._now

    def path(self, tokens: Sequence[int]) -> tuple[int, Bits]:
        """How many of the tokens may follow, before the first end, and the masks [n + 1, words] before each of them and after the last."""
        wanted = iter(tokens)

        def next_wanted(mask: Bits) -> int | None:
            token = next(wanted, None)
            return token if token is not None and _has(mask, token) else None

        went, masks = self._explore(next_wanted)
        return len(went), np.stack(masks)

    def forced(self, limit: int) -> list[int]:
        """The tokens that come next whatever the model says, up to `limit`: where one id is allowed, it will be that one."""
        if limit <= 0:
            return []
        room = iter(range(limit))
        went, masks = self._explore(lambda mask: _only(mask) if next(room, None) is not None else None)
        final = _only(masks[-1])
        return [*went, final] if final in self.ends and len(went) < limit else went

    def commit(self, tokens: Sequence[int]) -> None:
        """Go on by tokens that were allowed, one after the other. Raises BadRequest when the limits end it, ValueError after the end."""
        for token in tokens:
            if self.ended:
                raise ValueError("nothing may follow the end of an answer")
            if token in self.ends:
                self.ended = True
            elif not self._matcher.consume_token(token):
                raise _stuck(self._matcher)
            self._now = None

    def _explore(self, choose: Callable[[Bits], int | None]) -> tuple[list[int], list[Bits]]:
        """Go on while `choose` takes a token out of the mask and neither an end nor a limit is met: the tokens, the masks around them.

        On a copy: the library's way back leaves traces of where it was.
        """
        went, masks, ahead = list[int](), [self.allowed()], self._matcher.deep_copy()
        while (token := choose(masks[-1])) is not None and token not in self.ends:
            mask = self._mask(ahead) if ahead.consume_token(token) else None
            if mask is None:
                break
            went.append(token)
            masks.append(mask)
        return went, masks

    def _mask(self, matcher: Any) -> Bits | None:
        """What a matcher allows, but for ids that are no text; None when it has met its limits or nothing is left."""
        mask = np.frombuffer(matcher.compute_bitmask(), "<u4", len(self.somewhere)) & self.somewhere
        return mask if mask.any() and not matcher.is_error() else None


class _Vocabulary:
    """A checkpoint's tokens as llguidance has them. `text` [words] has a bit for every id that stands for text, `ends` is what ends."""

    def __init__(self, tokenizer: Tokenizer, config: VLMConfig, special: frozenset[int]) -> None:
        """Raises BadRequest when the library is not there or the tokens cannot write every text."""
        try:
            # Start-up cost: read by callers of schemas alone, and not there without the extra.
            import llguidance
        except ImportError as error:
            hint = "install it with: pip install 'sensorium[torch]'; or leave response_format out"
            raise BadRequest(f"{WHERE} needs the library llguidance, which this engine does not have", param=WHERE, hint=hint) from error
        self._library = llguidance
        self.ends = frozenset(id for id in config.ends if id < tokenizer.get_vocab_size())
        try:
            described = _described(tokenizer, special)
            self._tokens = llguidance.LLTokenizer(
                described, n_vocab=config.vocab, eos_token=sorted(self.ends), slices=llguidance.LLTokenizer.json_slices()
            )
        except ValueError as error:
            raise _cannot_write(str(error)) from error
        ids = [id for id in range(tokenizer.get_vocab_size()) if id not in special and not self._tokens.is_special_token(id)]
        single = {written[0] for id in ids if len(written := self._tokens.decode_bytes([id])) == 1}
        if not self.ends or not single >= BYTES:
            raise _cannot_write(f"it has no token of its own for {len(BYTES - single)} of the bytes that text is made of")
        self.text: Bits = _bits(ids, -(-config.vocab // 32))

    def matcher(self, schema: str) -> Any:
        """A matcher at the beginning of a schema. Raises BadRequest."""
        library = self._library
        try:
            grammar = library.LLMatcher.grammar_from_json_schema(schema, overrides=SEPARATORS | STRICT)
        except ValueError as error:
            raise refused(str(error)) from error
        matcher = library.LLMatcher(self._tokens, grammar, log_level=0, limits=library.LLParserLimits(**LIMITS))
        problems = [matcher.get_error()] if matcher.is_error() else matcher.get_grammar_warnings()
        if problems:
            raise refused(problems[0])
        matcher.compute_bitmask()
        if matcher.is_error():
            raise refused("nothing fits it, or it is too complex")
        return matcher


def _described(tokenizer: Tokenizer, special: frozenset[int]) -> str:
    """tokenizer.json with other names for the special ids. Raises ValueError for another model than byte pairs.

    The library writes a schema's own texts by the whole tokenizer: a marker's name among them would become the marker, an end for one.
    """
    described = json.loads(tokenizer.to_str())
    if described["model"]["type"] != "BPE":
        raise ValueError("its tokenizer is no model of byte pairs")
    described["padding"] = described["truncation"] = None
    secret = secrets.token_hex(16)
    vocabulary = described["model"]["vocab"]
    described["model"]["vocab"] = {_renamed(secret, id) if id in special else token: id for token, id in vocabulary.items()}
    added = {token["id"]: token for token in described["added_tokens"]}
    for id in special:
        if tokenizer.id_to_token(id) is not None:
            plain = {"id": id, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            added[id] = added.get(id, plain) | {"content": _renamed(secret, id), "special": True}
    described["added_tokens"] = sorted(added.values(), key=lambda token: int(token["id"]))
    return json.dumps(described)


def _renamed(secret: str, id: int) -> str:
    return f"<{secret} {id}>"


def _bits(ids: Sequence[int] | frozenset[int], words: int) -> Bits:
    flags = np.zeros(words * 32, np.uint8)
    flags[list(ids)] = 1
    return np.packbits(flags, bitorder="little").view("<u4")


def _has(mask: Bits, id: int) -> bool:
    return 0 <= id < 32 * len(mask) and bool(mask[id // 32] >> np.uint32(id % 32) & 1)


def _only(mask: Bits) -> int | None:
    """The id of the only bit that is set; None when there are more."""
    words = np.flatnonzero(mask)
    word = int(mask[words[0]])
    return int(words[0]) * 32 + word.bit_length() - 1 if len(words) == 1 and word.bit_count() == 1 else None


def _cannot_write(reason: str) -> BadRequest:
    return BadRequest(
        f"this model's vocabulary cannot write every JSON text, so its answers cannot be held to {WHERE}: {reason:.200}",
        param=WHERE,
        hint="leave response_format out, or ask a model with byte-level tokens",
    )


def _stuck(matcher: Any) -> BadRequest:
    """The error for a place where a schema is too complex for the limits here, or where nothing fits it."""
    reason = " ".join(matcher.get_error().split()) or "no token can go on"
    return BadRequest(f"the schema in {WHERE} cannot be followed to the end of this answer: {reason:.300}", param=WHERE)
