"""Checks of a checkpoint folder that load no weights: header, config, ids of marks, template, picture sizes, stored values.

Sizes and numbers of tokens are those of the specification for the official picture rule, else recomputed here from the config's numbers.
It does not know models.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from sensorium.engines.diffusion_vlm import image
from sensorium.engines.diffusion_vlm.config import OFFICIAL_LONGEST_SIDE, SideConfig, VLMConfig
from sensorium.engines.diffusion_vlm.prompt import IMAGE_BREAK, IMAGE_END, IMAGE_PAD, IMAGE_START, PromptBuilder
from sensorium.engines.diffusion_vlm.verification.checks import hold
from sensorium.engines.diffusion_vlm.weights import CONVERSIONS
from sensorium.engines.weights import Plan, Tensors

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
MARKS = (TURN_START, TURN_END, IMAGE_START, IMAGE_PAD, IMAGE_BREAK, IMAGE_END)
THINKING = ("<think>", "</think>")
# (width, height) of a picture -> (rows, columns, tokens), for cells of 28 and a longest side of 1400.
OFFICIAL = {(300, 200): (8, 11, 97), (2800, 1400): (25, 50, 1276), (1400, 1400): (50, 50, 2551)}
OFFICIAL_CELL = 28
QUESTION = "What is in this picture?"


def header(tensors: Tensors, plan: Plan) -> str:
    """Names, shapes and number formats against the plan; every difference is named."""
    problems = [f"{prefix}*: {cause}" for prefix, cause in CONVERSIONS.items() if any(name.startswith(prefix) for name in tensors)]
    problems += [f"missing {name} {list(shape)}" for name, shape in plan.items() if name not in tensors]
    problems += [f"unexpected {name} {list(tensors.shape(name))}" for name in tensors if name not in plan]
    problems += [
        f"{name} has shape {list(tensors.shape(name))}, expected {list(shape)}"
        for name, shape in plan.items()
        if name in tensors and tensors.shape(name) != tuple(shape)
    ]
    problems += tensors.scale_problems()
    hold(not problems, "\n".join(problems))
    kinds = Counter(tensors.stored(name)[0].kind for name in tensors)
    formats = ", ".join(f"{kind} in {count}" for kind, count in sorted(kinds.items()))
    return f"{len(plan)} tensors as planned, {parameters(plan) / 1e6:,.1f} million parameters, stored as {formats}"


def parameters(plan: Plan) -> int:
    """How many numbers a plan's tensors hold."""
    return sum(math.prod(shape) for shape in plan.values())


def sizes(config: VLMConfig, values: Mapping[str, Any]) -> str:
    """The config has been read, which judged it; its numbers in a line."""
    rope, vision = config.rope, config.vision
    return (
        f"{values.get('model_type')}: {config.layers} layers of {config.hidden}, {config.heads}/{config.kv_heads} heads of "
        f"{config.head_dim}, vocabulary {config.vocab}, {config.positions} positions (theta {rope.theta:g}, factor {rope.factor:g} beyond "
        f"{rope.window}); "
        f"tower {vision.layers} layers of {vision.hidden}, {vision.activation}"
    )


def finite(tensors: Tensors) -> str:
    """Every stored number looked at, tensor by tensor, without decoding it."""
    wrong = []
    for name in tensors:
        count = tensors.not_finite(name)
        if count:
            wrong.append(f"{name}: {count} values are NaN or infinite")
    hold(not wrong, "\n".join(wrong))
    return f"no NaN and no infinity in {len(tensors)} tensors"


def marks(tokenizer: Tokenizer, config: VLMConfig) -> str:
    """Each mark is one token of its own, and the ids that end an answer are among the marks."""
    special = special_ids(tokenizer)
    problems, ids = [], {}
    for mark in MARKS:
        ids[mark] = tokenizer.token_to_id(mark)
        if ids[mark] is None:
            problems.append(f"{mark} is no token")
        elif tokenizer.encode(mark, add_special_tokens=False).ids != [ids[mark]] or ids[mark] not in special:
            problems.append(f"{mark} is not read as its own id {ids[mark]}")
    problems += [
        f"{one} is token {id}, beyond vocab_size {config.vocab}" for one, id in ids.items() if id is not None and id >= config.vocab
    ]
    if ids[TURN_END] not in config.ends:
        problems.append(f"eos_token_id {sorted(config.ends)} has no {TURN_END} ({ids[TURN_END]}): answers would not end")
    problems += [f"eos_token_id {id} is an ordinary word: {word(tokenizer, id)!r}" for id in sorted(config.ends) if is_word(tokenizer, id)]
    hold(not problems, "\n".join(problems))
    thinking = {mark: tokenizer.token_to_id(mark) for mark in THINKING}
    return ", ".join(f"{mark} {id}" for mark, id in (ids | thinking).items()) + f"; ends {sorted(config.ends)}"


def mask(tokenizer: Tokenizer, config: VLMConfig) -> str:
    """The mask is within the vocabulary and not something that a text could hold."""
    hold(config.mask < config.vocab, f"mask_token_id {config.mask} is not below vocab_size {config.vocab}")
    text = word(tokenizer, config.mask)
    hold(not is_word(tokenizer, config.mask), f"mask_token_id {config.mask} is an ordinary word: {text!r}")
    taken = [mark for mark in MARKS if tokenizer.token_to_id(mark) == config.mask]
    hold(not taken, f"mask_token_id {config.mask} is also {', '.join(taken)}")
    return f"{config.mask}: {text or 'no token of the tokenizer'}"


def special_ids(tokenizer: Any) -> set[int]:
    return {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}


def word(tokenizer: Any, id: int) -> str:
    return str(tokenizer.id_to_token(id) or "")


def is_word(tokenizer: Any, id: int) -> bool:
    """Neither special, nor bracketed as reserved tokens are, nor unknown to the tokenizer."""
    text = word(tokenizer, id)
    return bool(text) and id not in special_ids(tokenizer) and not (len(text) > 2 and text[0] in "<[" and text[-1] in ">]")


def template(builder: PromptBuilder) -> str:
    """One picture with a question, rendered; what the specification leaves open is told in the figure."""
    ids = builder.build([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}], [(1, 1)]).ids
    tokenizer = builder.tokenizer
    find: Callable[[str], Any] = tokenizer.token_to_id
    turns = [place for place, id in enumerate(ids) if id == find(TURN_START)]
    hold(len(turns) >= 2, f"{len(turns)} turns begin in the prompt, expected the user's and the assistant's at least")
    last = tokenizer.decode(ids[turns[-1] :], skip_special_tokens=False)
    hold("assistant" in last, f"the prompt does not end with the assistant's turn: {last!r}")
    hold(turns[-2] < ids.index(find(IMAGE_START)) < turns[-1], "the picture is not in the user's turn")
    hold(find(TURN_END) not in ids[turns[-1] :], "the assistant's turn is ended before it begins")
    before = "begins with its first turn" if turns[0] == 0 else f"begins with {[word(tokenizer, id) for id in ids[: turns[0]]]}"
    system = "an additional turn before the user's" if len(turns) > 2 else "no system turn"
    opened = [mark for mark in THINKING if find(mark) in ids[turns[-1] :]]
    return f"{len(ids)} tokens, {before}, {system}, the answer begins after {''.join(opened) or 'no thinking mark'}: {last!r}"


def preprocessing(config: VLMConfig, side: SideConfig) -> str:
    """The sizes that pictures come out with, and their range of values."""
    told = []
    for (width, height), (rows, columns, _) in expected(config, side).items():
        pixels = image.see(Image.new("RGB", (width, height), (255, 128, 0)), config, side)
        wanted = (3, rows * config.cell, columns * config.cell)
        hold(pixels.shape == wanted, f"{width} x {height} comes out as {list(pixels.shape)}, expected {list(wanted)}")
        hold(bool(np.isfinite(pixels).all() and np.abs(pixels).max() < 5), f"{width} x {height} has values out of range")
        told.append(f"{width} x {height}: {columns} x {rows} cells")
    return ", ".join(told)


def expansion(builder: PromptBuilder, config: VLMConfig, side: SideConfig) -> str:
    """The tokens that pictures become in a prompt, from their start mark to their end mark."""
    find: Callable[[str], Any] = builder.tokenizer.token_to_id
    told = []
    for (width, height), (rows, columns, tokens) in expected(config, side).items():
        if tokens >= config.positions:
            told.append(f"{width} x {height}: {tokens}, more than the {config.positions} positions of this model")
            continue
        prompt = builder.build([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}], [(rows, columns)])
        found = prompt.ids.index(find(IMAGE_END)) - prompt.ids.index(find(IMAGE_START)) + 1
        hold(found == tokens, f"{width} x {height} takes {found} tokens, expected {tokens}")
        hold(
            len(prompt.pads) == rows * columns, f"{width} x {height} has {len(prompt.pads)} places for its cells, expected {rows * columns}"
        )
        told.append(f"{width} x {height}: {tokens}")
    return ", ".join(told)


def expected(config: VLMConfig, side: SideConfig) -> dict[tuple[int, int], tuple[int, int, int]]:
    """(width, height) -> (rows, columns, tokens) as they should be."""
    if (config.cell, side.longest_side, side.fit) == (OFFICIAL_CELL, OFFICIAL_LONGEST_SIDE, None):
        return OFFICIAL
    found = {}
    for width, height in OFFICIAL:
        if side.fit == "square":
            rows = columns = math.ceil(side.longest_side / config.cell)
        else:
            share = min(Fraction(1), Fraction(side.longest_side, max(width, height)))
            rows, columns = (math.ceil(max(1, round(length * share)) / config.cell) for length in (height, width))
        found[width, height] = (rows, columns, 1 + rows * (columns + 1))
    return found


def tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer alone, for a folder whose template cannot be used."""
    return Tokenizer.from_str((folder / "tokenizer.json").read_text("utf-8"))
