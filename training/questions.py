"""Questions about a scene, with their one right answer: twelve types, several wordings each, yes and no equally often.

It does not know pixels or tokens. A yes/no question draws its answer first, then a question that has it.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sensorium.engines.flow_image.world import (
    COLOURS,
    NUMBERS,
    PLURALS,
    POSITION_PHRASES,
    POSITIONS,
    SHAPES,
    SIZES,
    SURFACES,
    Scene,
    Thing,
    article,
)
from training.scenes import Layout
from training.wordings import NONSENSE, OPENERS, WORDINGS

KINDS: Final = (
    "describe", "short", "count", "colour", "shape", "size", "surface", "relation", "sign", "exists", "is_colour", "is_relation",
)  # fmt: skip
YES_NO: Final = ("exists", "is_colour", "is_relation")
WEIGHTS: Final[dict[str, dict[str, float]]] = {
    "single": {"describe": 2, "short": 1, "count": 0.3, "colour": 1, "shape": 1.5, "size": 1.5, "surface": 0.7, "relation": 1,
               "exists": 2, "is_colour": 1, "is_relation": 1, "sign": 0.05},
    "count": {"describe": 2, "short": 1, "count": 2, "colour": 0.7, "shape": 1.2, "size": 0.7, "surface": 0.5, "exists": 1.5,
              "is_colour": 0.8, "sign": 0.05},
    "pair": {"describe": 2, "short": 1, "count": 0.1, "colour": 1, "shape": 1.5, "size": 2, "surface": 0.5, "relation": 3, "exists": 2,
             "is_colour": 1.2, "is_relation": 3},
    "sign": {"describe": 1.5, "short": 1, "sign": 3, "colour": 0.5, "surface": 0.5, "exists": 0.6, "is_colour": 0.7},
}  # fmt: skip
PROBES: Final[dict[str, tuple[str, ...]]] = {
    "single": ("colour", "shape", "shape", "both", "both", "surface", "size", "place", "place"),
    "count": ("colour", "shape", "shape", "both", "both", "surface", "number"),
    "pair": ("colour", "shape", "shape", "both", "both", "surface", "size", "relation", "relation", "relation", "relation"),
    "sign": ("colour", "surface", "letter", "letter", "letter"),
}
INVERSE: Final[dict[str, str]] = {
    "to the left of": "to the right of", "to the right of": "to the left of", "on top of": "under", "in front of": "behind",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """One question of a type, and its exact answer."""

    kind: str
    question: str
    answer: str


def name(thing: Thing, *, counted: bool = False) -> str:
    """`small red cube`; a medium size is not said."""
    size = "" if thing.size == "medium" else f"{thing.size} "
    shape = thing.shape or SHAPES[0]
    return f"{size}{thing.colour} {PLURALS[shape] if counted else shape}"


def sentence(text: str) -> str:
    """`text` as a sentence: capital first letter, full stop."""
    return text[0].upper() + text[1:] + "."


def told(scene: Scene) -> tuple[Thing, str, Thing]:
    """A pair as it is told: (first, relation, second), never "to the right of"."""
    first, second = scene.things
    relation = scene.relation or ""
    return (second, "to the left of", first) if relation == "to the right of" else (first, relation, second)


def describe(scene: Scene) -> str:
    """The description, in whole sentences."""
    surface = f"on {article(scene.surface or '')}"
    first = scene.things[0]
    if scene.kind == "single":
        return f"The image shows {article(name(first))} {surface}. It is {POSITION_PHRASES[first.position or 'middle']}."
    if scene.kind == "count":
        return f"The image shows {NUMBERS[scene.count or 2]} {name(first, counted=True)} {surface}."
    if scene.kind == "sign":
        return f"The image shows {article(first.colour or '')} sign {surface}. The sign says {scene.text}."
    one, relation, two = told(scene)
    return f"The image shows two objects {surface}. {sentence(article(name(one)) + ' is ' + relation + ' ' + article(name(two)))}"


def summary(scene: Scene) -> str:
    """The description in one short sentence."""
    surface = f"on {article(scene.surface or '')}"
    first = scene.things[0]
    if scene.kind == "single":
        return sentence(f"{article(name(first))} {surface}")
    if scene.kind == "count":
        return sentence(f"{NUMBERS[scene.count or 2]} {name(first, counted=True)} {surface}")
    if scene.kind == "sign":
        return f"{sentence(article(first.colour or '') + ' sign that says ' + (scene.text or ''))}"
    one, _, two = told(scene)
    return sentence(f"{article(name(one))} and {article(name(two))} {surface}")


def ask(rng: random.Random, scene: Scene | Layout, boost: float = 1.0, kind: str | None = None) -> Asked:
    """A random question about `scene`. `boost` multiplies the weight of yes/no and shape questions; `kind` fixes the type.

    Raises ValueError when this scene has no question of that type.
    """
    scene = scene.scene if isinstance(scene, Layout) else scene
    weights = WEIGHTS[scene.kind]
    if kind is None:
        kinds = tuple(weights)
        kind = rng.choices(kinds, [weights[k] * (boost if k in YES_NO or k == "shape" else 1.0) for k in kinds])[0]
    elif kind not in weights:
        raise ValueError(f"a {scene.kind} scene has no {kind} question")
    if kind == "describe" and rng.random() < 0.2:
        return Asked(kind, nonsense(rng), describe(scene))
    question, answer = _BUILDERS[kind](rng, scene)
    return Asked(kind, dress(rng, question), answer)


def probe(rng: random.Random, scene: Scene | Layout) -> tuple[str, bool]:
    """A few words, and whether they are true of the scene: half of them are.

    A yes/no question is one bit and hangs on several steps of thought; this is its first step alone, dozens to a picture.
    """
    scene = scene.scene if isinstance(scene, Layout) else scene
    true, thing = rng.random() < 0.5, rng.choice(scene.things)
    kind = rng.choice(PROBES[scene.kind])
    if kind == "relation":
        first, relation, second = _relation_of(rng, scene)
        first, second = (first, second) if true else (second, first)
        told = f"{_short_name(first, second)} {relation}"
        return told + (f" the {_short_name(second, first)}" if rng.random() < 0.5 else ""), true
    if kind == "both":
        return f"{thing.colour} {thing.shape}" if true else " ".join(_absent(rng, scene, thing)), true
    words: dict[str, tuple[tuple[str, ...], tuple[str | None, ...]]] = {
        "colour": (tuple(COLOURS), tuple(t.colour for t in scene.things)),
        "shape": (SHAPES, tuple(t.shape for t in scene.things)),
        "size": (SIZES, tuple(t.size for t in scene.things)),
        "surface": (SURFACES, (scene.surface,)),
        "place": (POSITIONS, (thing.position,)),
        "number": (NUMBERS[2:], (NUMBERS[scene.count or 2],)),
        "letter": (tuple(string.ascii_uppercase + string.digits), tuple(scene.text or "")),
    }
    options, present = words[kind]
    return (rng.choice(present) or "") if true else _other(rng, options, *present), true


def dress(rng: random.Random, question: str) -> str:
    """The question as people type it: sometimes a polite opener, lower case, no question mark."""
    if rng.random() < 0.1:
        opener = rng.choice(OPENERS)
        question = opener + (" " if opener[-1] != "\n" else "") + (question if opener[-1] in ".,!" else question[0].lower() + question[1:])
    if rng.random() < 0.2:
        question = question.lower()
    if rng.random() < 0.15:
        question = question.rstrip("?.")
    return question


def nonsense(rng: random.Random) -> str:
    """A question with mostly unknown words; it is answered with a description."""
    words = [rng.choice(NONSENSE) if rng.random() < 0.35 else "".join(rng.choices("bdfgklmnprstvz", k=4)) for _ in range(rng.randint(1, 9))]
    words[rng.randrange(len(words))] = "zzyzx"
    text = " ".join(words)
    return (text[0].upper() + text[1:] if rng.random() < 0.6 else text) + rng.choice(("?", "?", ".", ""))


def _wording(rng: random.Random, kind: str, **parts: str) -> str:
    return rng.choice(WORDINGS[kind]).format(**parts)


def _described(rng: random.Random, scene: Scene) -> tuple[str, str]:
    return _wording(rng, "describe"), describe(scene)


def _summarised(rng: random.Random, scene: Scene) -> tuple[str, str]:
    return _wording(rng, "short"), summary(scene)


def _counted(rng: random.Random, scene: Scene) -> tuple[str, str]:
    number = len(scene.things) if scene.kind != "count" else scene.count or 2
    things = "objects"
    if scene.kind == "count" and rng.random() < 0.4:
        things = PLURALS[scene.things[0].shape or SHAPES[0]]
    return _wording(rng, "count", things=things), sentence(NUMBERS[number])


def _places(scene: Scene) -> tuple[str, str]:
    """What the places of things[0] and things[1] are called."""
    relation = scene.relation
    if relation == "on top of":
        return "on top", "at the bottom"
    if relation == "in front of":
        return "in front", "at the back"
    return ("on the left", "on the right") if relation == "to the left of" else ("on the right", "on the left")


def _subject(rng: random.Random, scene: Scene, *, shape: bool = True, colour: bool = False) -> tuple[Thing, str, bool]:
    """(a thing, how a question refers to it, plural). `shape` / `colour` say which of its attributes may be given away."""
    if scene.kind != "pair":
        thing = scene.things[0]
        plural = scene.kind == "count"
        word = thing.shape or SHAPES[0]
        if thing.shape == "sign":
            return thing, "sign", False
        if shape and rng.random() < 0.5:
            return thing, (PLURALS[word] if plural else word), plural
        if colour and rng.random() < 0.4:
            return thing, f"{thing.colour} " + ("objects" if plural else "object"), plural
        return thing, "objects" if plural else "object", plural
    number = rng.randrange(2)
    thing, other = scene.things[number], scene.things[1 - number]
    if shape and thing.shape != other.shape and rng.random() < 0.5:
        return thing, thing.shape or SHAPES[0], False
    if colour and thing.colour != other.colour and rng.random() < 0.4:
        return thing, f"{thing.colour} object", False
    return thing, f"object {_places(scene)[number]}", False


def _coloured(rng: random.Random, scene: Scene) -> tuple[str, str]:
    thing, subject, plural = _subject(rng, scene)
    return _wording(rng, "colours" if plural else "colour", subject=subject), sentence(thing.colour or "")


def _shaped(rng: random.Random, scene: Scene) -> tuple[str, str]:
    thing, subject, plural = _subject(rng, scene, shape=False, colour=True)
    return _wording(rng, "shapes" if plural else "shape", subject=subject), sentence(thing.shape or "")


def _sized(rng: random.Random, scene: Scene) -> tuple[str, str]:
    thing, subject, plural = _subject(rng, scene, colour=True)
    return _wording(rng, "sizes" if plural else "size", subject=subject), sentence(thing.size or "")


def _surfaced(rng: random.Random, scene: Scene) -> tuple[str, str]:
    return _wording(rng, "surface" if scene.kind in ("single", "sign") else "surfaces"), sentence(article(scene.surface or ""))


def _short_name(thing: Thing, other: Thing) -> str:
    return thing.shape or "" if thing.shape != other.shape else f"{thing.colour} {thing.shape}"


def _relation_of(rng: random.Random, scene: Scene) -> tuple[Thing, str, Thing]:
    """A true statement about the pair: (thing, relation, other), from either side."""
    first, second = scene.things
    relation = scene.relation or ""
    return (first, relation, second) if rng.random() < 0.5 else (second, INVERSE[relation], first)


def _related(rng: random.Random, scene: Scene) -> tuple[str, str]:
    if scene.kind == "single":
        return _wording(rng, "place", subject=_subject(rng, scene)[1]), sentence(POSITION_PHRASES[scene.things[0].position or "middle"])
    thing, relation, other = _relation_of(rng, scene)
    names = {"first": _short_name(thing, other), "second": _short_name(other, thing)}
    return _wording(rng, "relation", **names), sentence(f"{relation} the {names['second']}")


def _lettered(rng: random.Random, scene: Scene) -> tuple[str, str]:
    return _wording(rng, "sign"), f"The sign says {scene.text}." if scene.kind == "sign" else "There is no sign."


def _yes(answer: bool) -> str:
    return "Yes." if answer else "No."


def _other(rng: random.Random, options: tuple[str, ...], *taken: str | None) -> str:
    return rng.choice([option for option in options if option not in taken])


def _absent(rng: random.Random, scene: Scene, thing: Thing) -> tuple[str, str]:
    """A colour and a shape that no object has together; one of them is `thing`'s, or each is of another object."""
    first, second = scene.things[0], scene.things[-1]
    if scene.kind == "pair" and first.colour != second.colour and first.shape != second.shape and rng.random() < 0.4:
        return rng.choice(((first.colour or "", second.shape or ""), (second.colour or "", first.shape or "")))
    if rng.random() < 0.5:
        return _other(rng, tuple(COLOURS), *(t.colour for t in scene.things if t.shape == thing.shape)), thing.shape or ""
    return thing.colour or "", _other(rng, SHAPES, *(t.shape for t in scene.things if t.colour == thing.colour))


def _exists(rng: random.Random, scene: Scene) -> tuple[str, str]:
    answer = rng.random() < 0.5
    thing = rng.choice(scene.things)
    colour, shape = thing.colour or "", thing.shape or ""
    bare = shape != "sign" and rng.random() < 0.3  # only a shape, or only a colour
    if not answer and bare:
        shapes, colours = [t.shape for t in scene.things], [t.colour for t in scene.things]
        colour, shape = _other(rng, tuple(COLOURS), *colours), _other(rng, SHAPES, *shapes)
    elif not answer:
        colour, shape = _absent(rng, scene, thing)
    what = f"{colour} {shape}"
    if bare:
        what = shape if rng.random() < 0.5 else f"{colour} object"
    return _wording(rng, "exists", what=article(what)), _yes(answer)


def _is_colour(rng: random.Random, scene: Scene) -> tuple[str, str]:
    answer = rng.random() < 0.5
    thing, subject, plural = _subject(rng, scene)
    colour = thing.colour or ""
    if not answer:
        present = [t.colour or "" for t in scene.things if t.colour != thing.colour]
        colour = present[0] if present and rng.random() < 0.5 else _other(rng, tuple(COLOURS), thing.colour)
    return f"{'Are' if plural else 'Is'} the {subject} {colour}?", _yes(answer)


def _is_relation(rng: random.Random, scene: Scene) -> tuple[str, str]:
    answer = rng.random() < 0.5
    if scene.kind == "single":
        position = scene.things[0].position or ""
        position = position if answer else _other(rng, POSITIONS, position)
        return f"Is the {_subject(rng, scene)[1]} {POSITION_PHRASES[position]}?", _yes(answer)
    thing, relation, other = _relation_of(rng, scene)
    if not answer:
        thing, other = other, thing
    return f"Is the {_short_name(thing, other)} {relation} the {_short_name(other, thing)}?", _yes(answer)


_BUILDERS: Final[dict[str, Callable[[random.Random, Scene], tuple[str, str]]]] = {
    "describe": _described, "short": _summarised, "count": _counted, "colour": _coloured, "shape": _shaped, "size": _sized,
    "surface": _surfaced, "relation": _related, "sign": _lettered, "exists": _exists, "is_colour": _is_colour, "is_relation": _is_relation,
}  # fmt: skip
