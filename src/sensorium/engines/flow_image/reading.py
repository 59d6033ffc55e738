"""Reads free prompts about the synthetic world. What a prompt names is in the scene that comes out, or it is reported.

It does not know pixels, tensors or models, and fills no gaps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from sensorium.engines.flow_image import vocabulary
from sensorium.engines.flow_image.scene import COLOURS, MAX_COUNT, MAX_SIGN, NUMBERS, POSITIONS, SHAPES, SIZES, Parsed, Scene, Thing
from sensorium.engines.flow_image.vocabulary import SYNONYMS

_SIDES: Final = {"to the left of": ("left", "right"), "to the right of": ("right", "left")}
_FRAMES: Final = "picture|image|photo|photograph|scene|view|frame|drawing|painting"
_IN_THE_PICTURE: Final = re.compile(rf"\b(left|right|middle|center|centre)(?: side| half)? of (?:the|this|an?) (?:{_FRAMES})\b")


def parse(prompt: str) -> Parsed:
    """Read a free prompt. Never fails: what is not named stays None, and whatever is named but not in the scene ends up in `unknown`."""
    text, rest = _lettering(prompt)
    reader = _Reader(re.findall(r"[a-z']+|[0-9]+|[,;.]", _IN_THE_PICTURE.sub(r"\1", rest.lower())))
    return reader.read(text)


def _lettering(prompt: str) -> tuple[str | None, str]:
    """The lettering of a sign, and the prompt without it."""
    if not re.search(rf"\b({'|'.join(vocabulary.SIGN_NOUNS)})\b", prompt, re.IGNORECASE):
        return None, prompt
    found = re.search(rf"\b(?:{'|'.join(vocabulary.SAYS)})\s+[\"'“]?([A-Za-z0-9]{{1,{MAX_SIGN}}})\b[\"'”]?", prompt)
    found = found or re.search(rf"[\"“]([A-Za-z0-9]{{1,{MAX_SIGN}}})[\"”]", prompt)
    if found is None:
        return None, prompt
    return found.group(1).upper(), prompt[: found.start(1)] + " " + prompt[found.end(1) :]


@dataclass(frozen=True, slots=True)
class _Relation:
    """A relation as it was heard: `spoken`, with `before` objects named until then; `flipped` when the second thing comes first in it."""

    value: str
    spoken: str
    before: int
    flipped: bool


class _Reader:
    """Reads words from left to right. Adjectives and places wait for the noun they belong to; whatever finds no place is reported."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.things: list[Thing] = []
        self.counts: list[tuple[int | None, str]] = []
        self.unknown: list[str] = []
        self.surfaces: tuple[str, ...] = ()
        self.surface = ""
        self.relation: _Relation | None = None
        # Heard and not yet claimed: adjectives, a place, a relation, a preposition.
        self.colour: str | None = None
        self.size: str | None = None
        self.number: int | None = None
        self.hint: str | None = None
        self.place: str | None = None
        self.pending: _Relation | None = None
        self.on = self.inside = False
        # What came before: an object that nothing has closed, a surface as the last noun, a carrier ("on a cube stands"), a third object.
        self.open = self.on_surface = self.carrier = self.crowded = False

    def read(self, text: str | None) -> Parsed:
        """The scene, once every word was taken."""
        index = 0
        while index < len(self.words):
            index += self._take(index)
        return self._finish(text)

    def _take(self, index: int) -> int:
        """Consume one phrase or word; how many words were used."""
        for length in range(vocabulary.LONGEST_PHRASE, 0, -1):
            phrase = " ".join(self.words[index : index + length])
            if phrase in vocabulary.PHRASES:
                what, value = vocabulary.PHRASES[phrase]
                self.on = self.inside = False
                if what == "position":
                    self._position(value)
                elif what != "together":
                    about_it = phrase.endswith(" it") or self.words[index + length : index + length + 1] == ["it"]
                    self._relate(value, phrase, swapped=what == "swap", about_it=about_it)
                return length
        self._word(SYNONYMS.get(self.words[index], self.words[index]), index)
        return 1

    def _word(self, word: str, index: int) -> None:
        if _singular(word) is not None:
            self._object(word)
        elif word in vocabulary.SURFACE_NOUNS:
            self._surface(word)
        elif _is_adjective(word):
            self._adjective(word, index)
        elif word in ("on", "upon", "onto"):
            self._close_pair()
            self.on = True
        elif word == "in":
            self.inside = True
        elif word in vocabulary.BREAKS:
            self.open = self.on = self.inside = self.carrier = self.on_surface = False
            self._settle()
            self._close_pair()
        elif word not in vocabulary.FILLERS and word not in vocabulary.SAYS:
            self.unknown.append(word)

    def _position(self, value: str) -> None:
        """To the object just named, else to the next one."""
        if self.open and self.things[-1].position is None:
            self.things[-1] = replace(self.things[-1], position=value)
        elif self.place is None:
            self.place = value
        else:
            self.unknown.append(value)

    def _settle(self) -> None:
        """A place that no object followed belongs to the last one."""
        if self.place is not None and self.things and self.things[-1].position is None:
            self.things[-1], self.place = replace(self.things[-1], position=self.place), None

    def _relate(self, value: str, spoken: str, *, swapped: bool, about_it: bool) -> None:
        self._settle()
        self._forget_relation()
        before = len(self.things)
        # "behind a ball a cube", "a cube and behind it a ball", "a cube and a ball behind it": there the second thing stands behind.
        self.pending = _Relation(value, spoken, before, swapped != (before != 1 or about_it))

    def _forget_relation(self) -> None:
        if self.pending is not None:
            self.unknown.append(self.pending.spoken)
        self.pending = None

    def _adjective(self, word: str, index: int) -> None:
        """To the next noun, or to the last one ("a cube that is red")."""
        belongs, number = self._belongs(index), _number(word)
        impossible = number is not None and not 1 <= number <= MAX_COUNT
        if impossible or belongs == "stranger" or (belongs == "last" and self.on):
            self.unknown.append(word)
        elif belongs == "next" or not self.things:
            self._await_noun(word)
        elif self.on_surface and vocabulary.SURFACE_ADJECTIVES.get(word) in self.surfaces:
            self.surfaces = (vocabulary.SURFACE_ADJECTIVES[word],)
            self.surface = self.surface if word in self.surface else f"{word} {self.surface}"
        elif word in COLOURS and self.things[-1].colour in (None, word):
            self.things[-1] = replace(self.things[-1], colour=word)
        elif word in SIZES and self.things[-1].size in (None, word):
            self.things[-1] = replace(self.things[-1], size=word)
        elif number is not None and self.counts[-1][0] in (None, number):
            self.counts[-1] = (number, self.counts[-1][1])
        else:
            self.unknown.append(word)

    def _belongs(self, index: int) -> str:
        """Whose an adjective is: the "next" noun's, the "last" one's, or that of a "stranger" that means nothing here."""
        stranger = joined = False
        for heard in self.words[index + 1 :]:
            word = SYNONYMS.get(heard, heard)
            if _singular(word) is not None or word in vocabulary.SURFACE_NOUNS:
                return "next"
            if word in (",", "and"):
                joined = True
                if stranger:
                    break
            elif word in vocabulary.PHRASE_WORDS or word in vocabulary.FILLERS or word in vocabulary.SAYS or word in vocabulary.BREAKS:
                if word not in vocabulary.LINKS:
                    break
            elif not _is_adjective(word):
                stranger = stranger or not joined
        return "stranger" if stranger else "last"

    def _await_noun(self, word: str) -> None:
        number = _number(word)
        if number is not None:
            self._lose(self.number is not None and self.number != number and NUMBERS[self.number])
            self.number = number
        if word in SIZES:
            self._lose(self.size != word and self.size)
            self.size = word
        if word in vocabulary.SURFACE_ADJECTIVES:
            self._lose(self.hint not in COLOURS and self.hint != word and self.hint)
            self.hint = word
        if word in COLOURS:
            self._lose(self.colour != word and self.colour)
            self.colour = word

    def _lose(self, *words: str | bool | None) -> None:
        self.unknown.extend(word for word in words if isinstance(word, str))

    def _lose_adjectives(self) -> None:
        self._lose(self.number is not None and NUMBERS[self.number], self.size, self.colour, self.hint not in COLOURS and self.hint)
        self.colour = self.size = self.number = self.hint = None

    def _object(self, word: str) -> None:
        shape = _singular(word) or word
        if len(self.things) == 2 and shape != "sign":
            self._forget_relation()
            self._lose_adjectives()
            self.unknown.append(shape)
            self.crowded = True
            return
        self._connect()
        self.things.append(Thing(self.colour, shape, self.size, self.place))
        self.counts.append((self.number if self.number is not None else (None if word != shape else 1), word))
        self.colour = self.size = self.number = self.place = None
        self._lose_adjectives()
        self.open, self.on_surface = True, False

    def _connect(self) -> None:
        """What stands between the first object and the one that comes now."""
        if self.things and self.relation is None:
            self.relation, self.pending = self.pending, None
            if self.relation is None and (self.on or self.carrier):
                self.relation = _Relation("on top of", "on", 1, self.carrier and not self.on)
            self._lose(self.inside and "in")
        self.carrier = self.on and not self.things
        self.on = self.inside = False

    def _close_pair(self) -> None:
        """A relation that came after both objects, and has not turned out to be one to something else."""
        if len(self.things) == 2 and self.relation is None and self.pending is not None and not self.crowded:
            self.relation, self.pending = self.pending, None

    def _surface(self, noun: str) -> None:
        options = vocabulary.SURFACE_NOUNS[noun]
        spoken, hinted = noun, vocabulary.SURFACE_ADJECTIVES.get(self.hint or "")
        if hinted is not None and hinted in options:
            options, spoken = (hinted,), f"{self.hint} {noun}"
            self.colour = None if self.colour == self.hint else self.colour
            self.hint = None
        self._lose_adjectives()
        if self.pending is not None and self.pending.value == "on top of" and self.pending.spoken in ("on top of", "atop"):
            self.pending = None
        self._forget_relation()
        both = tuple(surface for surface in self.surfaces if surface in options)
        self._lose(bool(self.surfaces) and not both and self.surface)
        self.surfaces, self.surface = both or options, spoken
        self.on = self.inside = False
        self.on_surface = True

    def _finish(self, text: str | None) -> Parsed:
        self._settle()
        self._lose_adjectives()
        signs = [thing for thing in self.things if thing.shape == "sign"]
        kind = "sign" if signs else ("", "single", "pair")[len(self.things)]
        count: int | None = 1
        if kind == "sign":
            self._lose(self.relation is not None and self.relation.spoken, *(thing.shape for thing in self.things if thing.shape != "sign"))
            self.things, self.relation = signs[:1], None
        elif kind == "single" and self.counts[0][0] != 1:
            kind, count = "count", self.counts[0][0]
        value = self._pair() if kind == "pair" else None
        if kind in ("single", "sign") and self.things[0].position is None and self.pending is not None and self.pending.before == 1:
            self.things[0] = replace(self.things[0], position=_SIDES.get(self.pending.value, (None,))[0])
            self.pending = None if self.things[0].position else self.pending
        if kind in ("count", "pair"):
            self._lose(kind == "count" and self.things[0].position)
            self.things = [replace(thing, position=None) for thing in self.things]
        self._forget_relation()
        self._lose(self.place)
        surface = self.surfaces[0] if len(self.surfaces) == 1 else None
        return Parsed(Scene(kind, tuple(self.things), surface, value, count, text), tuple(self.unknown), self.surfaces)

    def _pair(self) -> str | None:
        """Put two things in order; the relation between them, None when the prompt leaves it open."""
        self._lose(*(word if number is None else NUMBERS[number] for number, word in self.counts if number != 1))
        self._close_pair()
        if self.relation is not None and self.relation.flipped:
            self.things.reverse()
        places = [thing.position for thing in self.things]
        value = (self.relation.value if self.relation is not None else "") or _side_by_side(*places)
        self._lose(*(place for place, side in zip(places, _SIDES.get(value or "", ("", "")), strict=True) if place != side))
        return value


def _side_by_side(first: str | None, second: str | None) -> str | None:
    """The relation of two things with places of their own."""
    here = POSITIONS.index(first) if first else None
    there = POSITIONS.index(second) if second else None
    middle = POSITIONS.index("middle")
    apart = (middle if here is None else here) - (middle if there is None else there)
    return None if apart == 0 else "to the left of" if apart < 0 else "to the right of"


def _singular(word: str) -> str | None:
    """The shape, or the sign, that a noun names."""
    if word in vocabulary.SIGN_NOUNS:
        return "sign"
    names = (SYNONYMS.get(name, name) for name in (word, word.removesuffix("s"), word.removesuffix("es")))
    return next((name for name in names if name in SHAPES), None)


def _number(word: str) -> int | None:
    """The number that a word says, if any; "one" is a pronoun more often."""
    if word in NUMBERS and word != "one":
        return NUMBERS.index(word)
    return int(word) if word.isdecimal() and len(word) < 4 else None


def _is_adjective(word: str) -> bool:
    return word in COLOURS or word in vocabulary.SURFACE_ADJECTIVES or word in SIZES or _number(word) is not None
