"""A tokenizer that has tokens across JSON's punctuation, a family of schemas, and grammars told the slow way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import llguidance
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from sensorium.engines.diffusion_vlm.config import VLMConfig, read_config
from sensorium.engines.diffusion_vlm.grammar import Grammars
from tests.engines.diffusion_vlm.checkpoints import OFFICIAL_IDS, write_checkpoint

VOCAB = 480  # more than the tokenizer has
MARKS = [name for name in OFFICIAL_IDS if name != "<|mask|>"]


@lru_cache
def tokenizer() -> Tokenizer:
    """Byte-level pairs learnt from a little JSON; the mask is an ordinary entry of the vocabulary, not an added token."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    things = [{"name": "red cube", "count": number, "on": ["a", "b"], "ok": True, "no": None} for number in range(60)]
    text = [json.dumps(thing, separators=style) for thing in things for style in ((",", ":"), (", ", ": "))]
    special = [AddedToken(name, special=True, normalized=False) for name in (*MARKS, "<|mask|>")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=440, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    described = json.loads(made.to_str())
    described["added_tokens"] = [token for token in described["added_tokens"] if token["content"] != "<|mask|>"]
    return Tokenizer.from_str(json.dumps(described))


@lru_cache
def config() -> VLMConfig:
    with TemporaryDirectory() as folder:
        plain = read_config(write_checkpoint(Path(folder) / "any"))
    ids = {name: tokenizer().token_to_id(name) for name in ("<|mask|>", "<|im_end|>")}
    return replace(plain, vocab=VOCAB, mask=ids["<|mask|>"], ends=frozenset({ids["<|im_end|>"]}))


def special() -> frozenset[int]:
    return frozenset(tokenizer().token_to_id(name) for name in (*MARKS, "<|mask|>"))


@lru_cache
def grammars() -> Grammars:
    return Grammars(tokenizer(), config(), special())


def ids_of(text: str) -> list[int]:
    return list(tokenizer().encode(text, add_special_tokens=False).ids)


def text_of(ids: Sequence[int]) -> str:
    return str(tokenizer().decode([id for id in ids if id not in special()], skip_special_tokens=False))


@lru_cache
def _library_tokens() -> Any:
    described = json.loads(tokenizer().to_str())
    mask = config().mask
    described["added_tokens"].append({**described["added_tokens"][0], "id": mask, "content": "<|mask|>"})
    return llguidance.LLTokenizer(json.dumps(described), n_vocab=VOCAB, eos_token=sorted(config().ends))


def allowed_after(schema: str, ids: Sequence[int]) -> set[int]:
    """What may follow, found from the beginning each time: no copies, no going back, bits read one by one."""
    options = {"whitespace_flexible": False, "item_separator": ",[ ]?", "key_separator": ":[ ]?"}
    matcher = llguidance.LLMatcher(_library_tokens(), llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=options), log_level=0)
    for id in ids:
        assert matcher.consume_token(id)
    words = matcher.compute_bitmask()
    assert not matcher.is_error()
    found = {id for id in range(tokenizer().get_vocab_size()) if words[id // 8] >> (id % 8) & 1}
    return found - (special() - config().ends)


def accepted(schema: str, ids: Sequence[int]) -> bool:
    """Whether each of the ids may come where it comes."""
    return all(id in allowed_after(schema, ids[:place]) for place, id in enumerate(ids))


def _ranges(least: int, most: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(least, most), st.integers(least, most)).map(lambda pair: (min(pair), max(pair)))


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=6)
LEAVES = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    _ranges(-300, 300).map(lambda ends: {"type": "integer", "minimum": ends[0], "maximum": ends[1]}),
    _ranges(0, 4).map(lambda ends: {"type": "string", "minLength": ends[0], "maxLength": ends[1]}),
    st.sampled_from(["^[a-c]{1,3}$", "^(red|blue) cube$", "^[0-9]+-x$", "^ü*$"]).map(lambda one: {"type": "string", "pattern": one}),
    st.lists(st.one_of(TEXTS, st.integers(-9, 99), st.booleans(), st.none()), min_size=1, max_size=4).map(lambda some: {"enum": some}),
    TEXTS.map(lambda one: {"const": one}),
)


def _deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arrays = st.tuples(inner, _ranges(0, 3)).map(
        lambda made: {"type": "array", "items": made[0], "minItems": made[1][0], "maxItems": made[1][1]}
    )
    return st.one_of(arrays, _objects(inner), st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some}))


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def made(pair: tuple[dict[str, Any], set[str]]) -> dict[str, Any]:
        properties, left_out = pair
        required = [name for name in properties if name not in left_out]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    names = st.sampled_from(["name", "count", "on", "ü", 'q"', "a b"])
    return st.tuples(st.dictionaries(names, inner, max_size=3), st.sets(names, max_size=2)).map(made)


SCHEMAS = _objects(st.recursive(LEAVES, _deeper, max_leaves=5))
