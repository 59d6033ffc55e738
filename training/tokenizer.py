"""The word-level tokenizer files of the small models: tokenizer.json, tokenizer_config.json, chat_template.jinja.

Lower-case words are one token; capitals and digits of lettering are single characters. Ids 0-127 are reserved; the special tokens
have the ids of the large checkpoint, so that code which confuses "looked up by name" with a constant is caught elsewhere, not here.
"""

from __future__ import annotations

import json
import random
import re
import string
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from sensorium.engines.flow_image import world
from training import questions, scenes, wordings

SPECIAL: Final[dict[str, int]] = {
    "<unk>": 0, "<s>": 1, "</s>": 2, "<|im_start|>": 10, "<|im_end|>": 11, "<think>": 12, "</think>": 13,
    "<|image_start|>": 18, "<|image_pad|>": 19, "<|image_break|>": 20, "<|image_end|>": 21, "<|mask|>": 100,
}  # fmt: skip
FIRST_WORD: Final = 128
CHARACTERS: Final = string.digits + string.ascii_uppercase + ".,?!\"'\n:"
SPACE: Final = "\u2581"
SINGLE: Final = r"""[0-9]|[A-Z](?![a-z])|[.,?!"'\n:]"""
CHAT_TEMPLATE: Final = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string %}
{{- message['content'] }}
{%- else %}
{%- for part in message['content'] %}
{%- if part['type'] == 'text' %}
{{- part['text'] }}
{%- else %}
{{- '<|image_start|>' }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""


def _pieces(text: str) -> list[str]:
    """Words as the pre-tokenizer would see them, without the single characters."""
    return [piece for word in text.split() for piece in re.split(SINGLE, SPACE + word) if piece]


def vocabulary() -> dict[str, int]:
    """Every token of questions, answers and captions -> its id."""
    words: set[str] = {SPACE, "user", "assistant", "system"}
    for name in wordings.EXTRA + wordings.NONSENSE:
        words.update(_pieces(name) + _pieces(name.capitalize()))
    for group in (*wordings.WORDINGS.values(), wordings.OPENERS):
        for template in group:
            plain = re.sub(r"\{\w+\}", "", template)
            words.update(_pieces(plain) + _pieces(plain.lower()))
    rng = random.Random(1)
    for _ in range(6000):
        scene = scenes.sample(rng, None).scene
        if scene.kind != "sign":
            words.update(_pieces(world.canonical(scene)))
        for text in (questions.describe(scene), questions.summary(scene)):
            words.update(_pieces(text))
        for kind in questions.WEIGHTS[scene.kind]:
            asked = questions.ask(rng, scene, kind=kind)
            words.update(_pieces(asked.answer))
            if kind != "describe":
                words.update(_pieces(asked.question) + _pieces(asked.question.lower()))
    tokens = [f"<SPECIAL_{number}>" for number in range(FIRST_WORD)]
    for token, number in SPECIAL.items():
        tokens[number] = token
    tokens += list(CHARACTERS) + sorted(words - set(CHARACTERS))
    return {token: number for number, token in enumerate(tokens)}


def build() -> Tokenizer:
    """The tokenizer object."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=True),
            pre_tokenizers.Split(Regex(SINGLE), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(SPACE, prepend_scheme="always", split=True)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


def write(folder: Path) -> None:
    """Write the three files into `folder`."""
    tokenizer = build()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "<|im_end|>",
        "mask_token": "<|mask|>",
        "pad_token": "<|im_end|>",
        "clean_up_tokenization_spaces": False, "model_max_length": 1024,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def render(messages: list[dict[str, object]]) -> str:
    """The chat template in plain Python, for training; a test compares it with the template itself."""
    text = ""
    for message in messages:
        content = message["content"]
        parts: list[dict[str, str]] = content if isinstance(content, list) else [{"type": "text", "text": str(content)}]
        body = "".join(part["text"] if part["type"] == "text" else "<|image_start|>" for part in parts)
        text += f"<|im_start|>{message['role']}\n{body}<|im_end|>\n"
    return text + "<|im_start|>assistant\n"
