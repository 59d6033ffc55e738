"""The words in which people ask for pictures of the synthetic world: synonyms, surfaces, relations, and words without weight.

Data only. It does not know how they are put together.
"""

from __future__ import annotations

from typing import Final

SYNONYMS: Final[dict[str, str]] = {
    "box": "cube", "block": "cube", "dice": "cube", "sphere": "ball", "globe": "ball", "orb": "ball", "pyramid": "cone",
    "tube": "cylinder", "barrel": "cylinder", "donut": "ring", "hoop": "ring", "torus": "ring", "plus": "cross",
    "violet": "purple", "turquoise": "cyan", "aqua": "cyan", "teal": "cyan", "crimson": "red", "scarlet": "red",
    "navy": "blue", "gold": "yellow", "golden": "yellow",
    "little": "small", "tiny": "small", "mini": "small", "big": "large", "huge": "large", "giant": "large", "normal": "medium",
    "average": "medium",
}  # fmt: skip
SURFACE_NOUNS: Final[dict[str, tuple[str, ...]]] = {
    "table": ("white table", "wooden table"), "desk": ("white table", "wooden table"), "tabletop": ("white table", "wooden table"),
    "floor": ("grey floor",), "ground": ("grey floor",), "concrete": ("grey floor",),
    "lawn": ("green lawn",), "grass": ("green lawn",), "meadow": ("green lawn",), "garden": ("green lawn",),
    "beach": ("sandy beach",), "sand": ("sandy beach",), "shore": ("sandy beach",),
}  # fmt: skip
SURFACE_ADJECTIVES: Final[dict[str, str]] = {
    "white": "white table", "wooden": "wooden table", "wood": "wooden table", "brown": "wooden table", "grey": "grey floor",
    "gray": "grey floor",
    "green": "green lawn", "grassy": "green lawn", "sandy": "sandy beach", "yellow": "sandy beach",
}  # fmt: skip
SIGN_NOUNS: Final = ("sign", "board", "signpost", "signboard")
SAYS: Final = ("says", "saying", "reads", "reading", "labelled", "labeled", "text", "word", "words")
_FILLER_WORDS: Final = """
    a an the of there is are be was it its this that these which photo photograph picture image drawing painting render rendering
    scene view please draw paint show make create generate give me i want would like to see can could you with and on in at by for
    from some one standing stands lying lies sitting sits
    placed located being side coloured colored sized size shape colour color object thing against
    background as i'd just only also here
"""
FILLERS: Final = frozenset(_FILLER_WORDS.split())
PHRASES: Final[dict[str, tuple[str, str]]] = {
    "to the left of": ("relation", "to the left of"), "on the left of": ("relation", "to the left of"),
    "left of": ("relation", "to the left of"),
    "to the right of": ("relation", "to the right of"), "on the right of": ("relation", "to the right of"),
    "right of": ("relation", "to the right of"), "on top of": ("relation", "on top of"), "on top": ("relation", "on top of"),
    "on it": ("relation", "on top of"), "atop": ("relation", "on top of"),
    "above": ("relation", "on top of"), "in front of": ("relation", "in front of"), "before": ("relation", "in front of"),
    "behind": ("swap", "in front of"), "under": ("swap", "on top of"), "below": ("swap", "on top of"), "beneath": ("swap", "on top of"),
    "underneath": ("swap", "on top of"), "next to each other": ("together", ""),
    "side by side": ("together", ""), "next to": ("relation", ""), "beside": ("relation", ""), "near": ("relation", ""),
    "left": ("position", "left"), "right": ("position", "right"), "middle": ("position", "middle"), "center": ("position", "middle"),
    "centre": ("position", "middle"), "central": ("position", "middle"),
}  # fmt: skip
LONGEST_PHRASE: Final = 4
PHRASE_WORDS: Final = frozenset(word for phrase in PHRASES for word in phrase.split())
# Words that may stand between an adjective and its noun.
LINKS: Final = frozenset(("coloured", "colored", "colour", "color", "sized", "size"))
BREAKS: Final = frozenset((",", ";", ".", "and", "with", "while"))
