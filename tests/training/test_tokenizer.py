"""Every answer comes back letter for letter, and the template in Python equals the template file."""

from __future__ import annotations

import random
from pathlib import Path

import jinja2
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from training import questions, scenes, tokenizer

WORDS = tokenizer.build()


@given(st.integers(0, 2**63))
def test_answers_round_trip_and_questions_are_known(seed: int) -> None:
    rng = random.Random(seed)
    asked = questions.ask(rng, scenes.sample(rng, None))
    ids = WORDS.encode(asked.answer).ids
    assert WORDS.decode(ids) == asked.answer
    assert tokenizer.SPECIAL["<unk>"] not in ids
    if asked.kind != "describe":
        assert tokenizer.SPECIAL["<unk>"] not in WORDS.encode(asked.question).ids, asked.question


@given(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=5))
def test_any_lettering_comes_back_letter_for_letter(text: str) -> None:
    sentence = f"The sign says {text}."
    assert WORDS.decode(WORDS.encode(sentence).ids) == sentence


def test_special_ids_and_vocabulary_size() -> None:
    for token, number in tokenizer.SPECIAL.items():
        assert WORDS.token_to_id(token) == number
    ordinary = [
        number for token, number in WORDS.get_vocab().items() if token not in tokenizer.SPECIAL and not token.startswith("<SPECIAL_")
    ]
    assert min(ordinary) == tokenizer.FIRST_WORD
    assert max(ordinary) < 448


def test_the_written_files_load_and_render_alike(tmp_path: Path) -> None:
    tokenizer.write(tmp_path)
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    messages: list[dict[str, object]] = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A red cube."}]},
        {"role": "user", "content": "Is there a ball?"},
    ]
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((tmp_path / "chat_template.jinja").read_text())
    rendered = template.render(messages=messages, add_generation_prompt=True)
    assert rendered == tokenizer.render(messages)
    assert again.encode(rendered).ids == WORDS.encode(rendered).ids
    assert rendered.endswith("<|im_end|>\n<|im_start|>assistant\n")
