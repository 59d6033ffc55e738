"""The synthetic world that the two small models know: its scenes, their canonical captions, and free prompts turned into scenes.

Pure data and pure functions. It does not know pixels, tensors or models.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from sensorium.engines.flow_image.reading import parse
from sensorium.engines.flow_image.scene import (
    COLOURS,
    KINDS,
    MAX_COUNT,
    MAX_SIGN,
    NUMBERS,
    PLURALS,
    POSITION_PHRASES,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    SUPPORTS,
    SURFACES,
    Parsed,
    Scene,
    Thing,
)
from sensorium.engines.flow_image.vocabulary import SYNONYMS

__all__ = [
    "COLOURS", "KINDS", "MAX_COUNT", "MAX_SIGN", "NUMBERS", "PLURALS", "POSITIONS", "POSITION_PHRASES", "RELATIONS", "SHAPES", "SIZES",
    "SUPPORTS", "SURFACES", "SYNONYMS", "Parsed", "Scene", "Thing", "article", "canonical", "complete", "describe_world", "parse",
    "problem", "sizes_for",
]  # fmt: skip


def article(phrase: str) -> str:
    """`phrase` with its indefinite article."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def sizes_for(scene: Scene) -> tuple[str, ...]:
    """Sizes that fit into this kind of scene without overlap."""
    if scene.kind == "count" and scene.count is not None and scene.count > 2:
        return SIZES[:2] if scene.count == 3 else SIZES[:1]
    return SIZES


def canonical(scene: Scene) -> str:
    """The caption that names every attribute, e.g. `a small red cube on a white table, in the middle`."""
    words = [f"{thing.size} {thing.colour} {thing.shape}" for thing in scene.things]
    if scene.kind == "sign":
        first = scene.things[0]
        place = POSITION_PHRASES[first.position or "middle"]
        return f"a {first.size} {first.colour} sign that says {scene.text} on a {scene.surface}, {place}"
    if scene.kind == "count":
        first = scene.things[0]
        plural = PLURALS[first.shape or SHAPES[0]]
        return f"{NUMBERS[scene.count or 2]} {first.size} {first.colour} {plural} on a {scene.surface}"
    if scene.kind == "pair":
        return f"a {words[0]} {scene.relation} a {words[1]} on a {scene.surface}"
    return f"a {words[0]} on a {scene.surface}, {POSITION_PHRASES[scene.things[0].position or 'middle']}"


def problem(scene: Scene) -> str | None:
    """Why the world cannot hold this complete scene, as one sentence; None when it can."""
    if scene.kind == "pair":
        first, second = scene.things
        if scene.relation == "on top of" and second.shape not in SUPPORTS:
            return f"Only a cube or a cylinder can carry another object, not a {second.shape}."
        if (first.colour, first.shape) == (second.colour, second.shape):
            return f"A pair needs two different objects, not twice a {first.colour} {first.shape}."
    return None


def complete(parsed: Parsed, seed: int) -> Scene:
    """Fill every gap, the same way for the same seed. A size that cannot fit (five large objects) becomes the largest that can.

    The prompt must have named a shape (`parsed.scene.kind` not empty); else ValueError.
    """
    scene = parsed.scene
    if not scene.kind or not scene.things:
        raise ValueError("the prompt names no known shape")

    def pick(what: str, options: tuple[str, ...]) -> str:
        digest = hashlib.sha256(f"{seed}:{what}".encode()).digest()
        return options[int.from_bytes(digest[:8], "big") % len(options)]

    if scene.kind == "count" and scene.count is None:
        scene = replace(scene, count=NUMBERS.index(pick("count", NUMBERS[2:])))
    if scene.kind == "pair" and not scene.relation:
        scene = replace(scene, relation=pick("relation", RELATIONS[:2]))
    scene = replace(scene, surface=scene.surface or pick("surface", parsed.surfaces or SURFACES))
    allowed = sizes_for(scene)
    taken: list[tuple[str | None, str | None]] = []
    things = []
    for number, thing in enumerate(scene.things):
        free = tuple(colour for colour in COLOURS if (colour, thing.shape) not in taken and colour not in (scene.surface or ""))
        colour = thing.colour or pick(f"colour {number}", free)
        size = thing.size or pick(f"size {number}", allowed)
        position = (thing.position or pick("position", POSITIONS)) if scene.kind in ("single", "sign") else None
        things.append(Thing(colour, thing.shape, size if size in allowed else allowed[-1], position))
        taken.append((colour, thing.shape))
    text = (scene.text or "GO") if scene.kind == "sign" else None
    return replace(scene, things=tuple(things), text=text)


def describe_world() -> str:
    """One sentence that lists what a prompt may contain, for error messages and documentation."""
    return (
        f"shapes: {', '.join(SHAPES)}; colours: {', '.join(COLOURS)}; sizes: {', '.join(SIZES)}; surfaces: {', '.join(SURFACES)}; "
        f"one object on the left, in the middle or on the right, two to five equal objects, or two objects ({', '.join(RELATIONS)})"
    )
