"""Grammars over a checkpoint's tokens: what may follow, where an answer may end, what is refused and why."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sensorium.engines.diffusion_vlm.answer_schema import LARGEST
from sensorium.engines.diffusion_vlm.config import read_config
from sensorium.engines.diffusion_vlm.grammar import Grammar, Grammars
from sensorium.engines.diffusion_vlm.rows import Bits
from sensorium.errors import BadRequest
from tests.engines.diffusion_vlm.checkpoints import OFFICIAL_IDS, byte_tokenizer, word_tokenizer
from tests.torch.schemas import SCHEMAS, VOCAB, accepted, allowed_after, config, grammars, ids_of, special, text_of, tokenizer

SHIPPED = Path(__file__).parent.parent.parent / "src" / "sensorium" / "models" / "scenes-vlm"
END = next(iter(config().ends))
OK = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}


def begun(schema: Any) -> Grammar:
    return grammars().compile(schema if isinstance(schema, str) else json.dumps(schema))


def bits(mask: Bits) -> set[int]:
    return {id for id in range(32 * len(mask)) if int(mask[id // 32]) >> (id % 32) & 1}


def fits(schema: Any, text: str) -> bool:
    try:
        jsonschema.validate(json.loads(text), schema)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


@settings(max_examples=60)
@given(SCHEMAS, st.randoms(use_true_random=False))
def test_a_walk_at_random_ends_only_in_what_fits(schema: Any, rng: random.Random) -> None:
    grammar, written = begun(schema), list[int]()
    while not grammar.ended and len(written) < 120:
        mask = grammar.allowed()
        assert mask.shape == (VOCAB // 32,) and mask.dtype == np.uint32
        may = bits(mask)
        assert may and not may & (special() - {END}) and max(may) < tokenizer().get_vocab_size()
        assert (END in may) == fits(schema, text_of(written))
        chosen = END if END in may and rng.random() < 0.5 else rng.choice(sorted(may))
        grammar.commit([chosen])
        written.append(chosen)
    if grammar.ended:
        assert fits(schema, text_of(written)), text_of(written)


@settings(max_examples=40)
@given(SCHEMAS, st.randoms(use_true_random=False))
def test_paths_and_forced_tokens_are_what_single_steps_find(schema: Any, rng: random.Random) -> None:
    """Looking ahead is like being there, and leaves no trace: masks equal those of a matcher that has read nothing else."""
    text, grammar, written = json.dumps(schema), begun(schema), list[int]()
    for _ in range(4):
        guess: list[int] = []
        for _ in range(rng.randrange(6)):
            may = sorted(allowed_after(text, written + guess) - {END})
            if not may:
                break
            guess.append(rng.choice(may))
        wrong = [rng.choice([END, config().mask, VOCAB - 1, VOCAB * 2, -1])]
        count, masks = grammar.path(guess + wrong + guess)
        assert count == len(guess) and masks.shape == (count + 1, VOCAB // 32)
        assert [bits(mask) for mask in masks] == [allowed_after(text, written + guess[:n]) for n in range(count + 1)]
        limit = rng.randrange(5)
        forced = grammar.forced(limit)
        after = [allowed_after(text, written + forced[:n]) for n in range(len(forced))]
        assert [[id] for id in forced] == [sorted(may) for may in after]
        assert len(forced) <= limit
        assert len(forced) == limit or END in forced or len(allowed_after(text, written + forced)) > 1
        step = guess[: rng.randrange(len(guess) + 1)] or forced
        grammar.commit(step)
        written += step
        if grammar.ended:
            return


def test_the_end_is_forced_where_nothing_else_may_follow() -> None:
    grammar = begun(OK)
    grammar.commit(ids_of('{"ok":true'))
    assert grammar.forced(9) == [*ids_of("}"), END] and grammar.forced(1) == ids_of("}") and grammar.forced(0) == []
    grammar.commit([*ids_of("}"), END])
    assert grammar.ended
    with pytest.raises(ValueError, match="end"):
        grammar.allowed()
    with pytest.raises(ValueError, match="end"):
        grammar.commit(ids_of("}"))


def test_one_space_may_follow_a_comma_or_a_colon_and_no_other() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}, "required": ["a"]}
    for text, good in [
        ('{"a":[1,2]}', True),
        ('{"a": [1, 2]}', True),
        ('{"a":  [1]}', False),
        ('{"a" :[1]}', False),
        ('{ "a":[1]}', False),
        ('{"a":[1\n]}', False),
        ('{"a":[1]} ', False),
        (' {"a":[1]}', False),
    ]:
        grammar = begun(schema)
        taken = 0
        try:
            for id in ids_of(text):
                grammar.commit([id])
                taken += 1
        except BadRequest:
            pass
        assert (taken == len(ids_of(text))) == good, text


def test_a_model_in_love_with_space_comes_to_an_end() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"enum": [1, None]}, "maxItems": 9}}, "required": ["a"]}
    grammar, written = begun(schema | {"additionalProperties": False}), list[int]()
    while not grammar.ended:
        may = sorted(bits(grammar.allowed()), key=lambda id: (-sum(map(str.isspace, text_of([id]))), id == END, id))
        grammar.commit(may[:1])
        written += may[:1]
        assert len(written) < 60
    assert "  " not in text_of(written) and text_of(written).startswith('{"a": [')


def test_markers_in_a_schema_are_written_as_text() -> None:
    """Their ids mean something else, and would leave no text."""
    words = "<|im_end|> <|mask|> <|image_pad|>"
    schema = {"type": "object", "properties": {"a": {"const": words}}, "required": ["a"], "additionalProperties": False}
    grammar, written = begun(schema), list[int]()
    while not grammar.ended:
        step = grammar.forced(100) or [min(bits(grammar.allowed()))]
        grammar.commit(step)
        written += step
    assert json.loads(text_of(written)) == {"a": words}


def test_what_a_schema_adds_to_json() -> None:
    """Members come in the schema's order, text beyond ASCII as it is."""
    schema = {"type": "object", "properties": {"z": {"const": "ü"}, "a": {"type": "null"}}, "required": ["a", "z"]}
    assert accepted(json.dumps(schema), ids_of('{"z":"ü","a":null')) and begun(schema)
    assert not accepted(json.dumps(schema), ids_of('{"a":null'))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "not an object"),
        ("true", "not an object"),
        ('{"minimum": NaN}', "NaN"),
        ('{"const": Infinity}', "Infinity"),
        ('{"const": "\\ud800"}', ""),
        ({"type": "strange"}, "strange"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {}, "then": {}}, "if"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "format": "of my own"}, "of my own"),
        ({"type": "string", "pattern": "(("}, "unclosed"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "greater"),
        ({"enum": []}, "empty"),
        ({"$ref": "#"}, "nothing fits"),
        ({"$ref": "http://127.0.0.1:9/schema"}, "127.0.0.1"),
        ({"$ref": "file:///etc/passwd"}, "passwd"),
        ({"$ref": "#/$defs/gone"}, "gone"),
        ({"x-guidance": {"lenient": True}, "type": "object"}, "x-guidance"),
    ],
)
def test_a_schema_that_cannot_be_held_is_refused_with_the_reason(schema: Any, reason: str) -> None:
    with pytest.raises(BadRequest) as refused:
        begun(schema)
    assert refused.value.param == "response_format" and reason in refused.value.message and "\n" not in refused.value.message


def deep(kind: str, levels: int) -> str:
    inner = '{"type":"integer"}'
    for _ in range(levels):
        inner = f'{{"type":"array","items":{inner}}}' if kind == "array" else f'{{"anyOf":[{inner}]}}'
    return inner


def multiples(*divisors: float) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{place}": {"type": "number", "multipleOf": one} for place, one in enumerate(divisors)}}


@pytest.mark.parametrize(
    "schema",
    [
        json.dumps({"const": "x" * LARGEST}),
        "[" * 30_000 + "]" * 30_000,
        deep("array", 120),
        deep("anyOf", 60),
        multiples(999_983),
        multiples(997, 991, 983),
        multiples(0.0000000001),
        multiples(1e300),
        multiples(0.001, 997),
        {"type": "integer", "multipleOf": 10**30},
        {"allOf": [{"anyOf": [{"properties": {f"p{i}": {"const": j}}} for j in range(10)]} for i in range(12)]},
        {"allOf": [{"type": "string", "pattern": f"a.*b{i}"} for i in range(12)]},
        {"anyOf": [{"type": "integer", "multipleOf": 997 - i} for i in range(8)]},
    ],
    ids=range(13),
)
def test_a_schema_that_would_take_too_much_is_refused(schema: Any) -> None:
    with pytest.raises(BadRequest):
        begun(schema)


@pytest.mark.parametrize(
    "schema",
    [
        multiples(0.01, 5, 0.25, 7),
        deep("array", 40),
        {"enum": [f"value {number}" for number in range(2000)]},
        {"type": "string", "pattern": "^(((a{1,100}){1,100}){1,100}){1,100}$"},
        {"type": "string", "pattern": "^(a|b)*a(a|b){30}$"},
        {"type": "string", "minLength": 10**6},
        {"type": "array", "items": {"type": "integer"}, "maxItems": 10**9},
        {"$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"},
        {
            "type": "string",
            "title": "t",
            "description": "d",
            "default": "x",
            "examples": ["y"],
            "$schema": "https://json-schema.org/draft/2020-12/schema",
        },
    ],
    ids=range(9),
)
def test_a_schema_that_only_looks_like_too_much_is_taken(schema: Any) -> None:
    assert bits(begun(schema).allowed())


def test_limits_that_are_met_on_the_way_end_the_answer_but_not_a_look_ahead() -> None:
    """Three thousand members that may all come next are more than a step may consider."""
    wide = {"type": "object", "properties": {f"p{number}": {} for number in range(3000)}, "additionalProperties": False}
    grammar = begun({"type": "object", "properties": {"a": wide}, "required": ["a"]})
    grammar.commit(ids_of('{"a":'))
    (opening,) = ids_of('{"')
    before = bits(grammar.allowed())
    assert opening in before and grammar.path([opening])[0] == 0
    assert bits(grammar.allowed()) == before and grammar.forced(3) == []
    assert grammar.path([*ids_of("{"), opening])[0] == 0 and grammar.path(ids_of(" "))[0] == 1
    with pytest.raises(BadRequest, match="cannot be followed"):
        grammar.commit([opening])


def test_a_place_where_nothing_fits_is_told() -> None:
    """An array that needs an item, and items that nothing fits: the compiler takes it."""
    nothing = {"type": "number", "multipleOf": 0.25, "anyOf": [{"enum": [1.5]}, {"enum": [[1], "a"]}]}
    grammar = begun({"type": "array", "items": nothing, "minItems": 1})
    with pytest.raises(BadRequest, match="cannot be followed"):
        while not grammar.ended:
            grammar.commit(sorted(bits(grammar.allowed()))[:1])


def test_answers_to_one_schema_know_nothing_of_each_other() -> None:
    one, other = begun(OK), begun(OK)
    one.commit(ids_of('{"ok"'))
    assert bits(other.allowed()) == allowed_after(json.dumps(OK), []) == bits(begun(OK).allowed())
    other.commit(ids_of('{"ok":false'))
    assert bits(one.allowed()) == allowed_after(json.dumps(OK), ids_of('{"ok"'))


def test_an_answer_that_runs_into_the_limits_leaves_those_of_others_alone() -> None:
    """Each place in the text makes this pattern's automaton larger."""
    schema = {"type": "string", "pattern": "^(a|b)*a(a|b){18}$"}
    rng, greedy, modest = random.Random(0), begun(schema), begun(schema)
    greedy.commit(ids_of('"'))
    letters = [*ids_of("a"), *ids_of("b")]
    with pytest.raises(BadRequest, match="cannot be followed"):
        for _ in range(40_000):
            assert set(letters) <= bits(greedy.allowed())
            greedy.commit([rng.choice(letters)])
    written = ids_of('"' + "ab" * 40)
    for grammar in (modest, begun(schema)):
        assert grammar.path(written)[0] == len(written)


def test_looking_ahead_leaves_no_trace() -> None:
    """Ways that were looked at and not taken change nothing that comes after."""
    empty = {"type": "object", "properties": {}, "additionalProperties": False}
    schema = OK | {"properties": {'q"': empty, "name": {"type": "boolean"}}, "required": ["name"]}
    right, wrong = ids_of('{"name":true}'), [ids_of('{"q\\""'), ids_of('{"q\\"": {}'), ids_of('{"name": f'), ids_of('{"n')]
    wanted = [bits(mask) for mask in begun(schema).path(right)[1]]
    rng = random.Random(0)
    for _ in range(30):
        grammar = begun(schema)
        for place in range(len(right)):
            for _ in range(rng.randrange(4)):
                grammar.path(rng.choice(wrong)[place:])
            assert [bits(mask) for mask in grammar.path(right[place:])[1]] == wanted[place:]
            grammar.commit(right[place : place + 1])


@pytest.mark.parametrize("words", [word_tokenizer(OFFICIAL_IDS), Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))])
def test_a_vocabulary_of_words_is_told_apart(words: Tokenizer) -> None:
    made = Grammars(words, read_config(SHIPPED), frozenset(OFFICIAL_IDS.values()))
    with pytest.raises(BadRequest, match="vocabulary cannot write") as refused:
        made.compile('{"type":"object"}')
    assert refused.value.param == "response_format" and "leave response_format out" in (refused.value.hint or "")


@pytest.mark.parametrize("lost", ["{", "Ã", "7"])
def test_a_vocabulary_that_lacks_a_byte_is_refused(lost: str) -> None:
    described = json.loads(tokenizer().to_str())
    vocabulary = described["model"]["vocab"]
    described["model"]["merges"] = []
    described["model"]["vocab"] = {f"lost{id}" if token == lost else token: id for token, id in vocabulary.items()}
    with pytest.raises(BadRequest, match="1 of the bytes"):
        Grammars(Tokenizer.from_str(json.dumps(described)), config(), special()).compile('{"type":"object"}')


def test_an_end_that_the_tokenizer_lacks_is_refused() -> None:
    with pytest.raises(BadRequest, match="cannot write"):
        Grammars(tokenizer(), replace(config(), ends=frozenset({VOCAB - 1})), special()).compile('{"type":"object"}')


def test_several_ends_may_all_come() -> None:
    ends = frozenset({END, tokenizer().token_to_id("<unk>"), VOCAB - 1})
    grammar = Grammars(tokenizer(), replace(config(), ends=ends), special()).compile(json.dumps(OK))
    grammar.commit(ids_of('{"ok":true}'))
    assert bits(grammar.allowed()) == ends - {VOCAB - 1} and grammar.forced(5) == []


def test_a_tokenizer_with_other_ids_and_few_merges() -> None:
    ids = {**OFFICIAL_IDS, "<|im_end|>": 5, "<|im_start|>": 40, "<|mask|>": 17}
    plain = byte_tokenizer(ids)
    made = Grammars(plain, replace(config(), mask=17, ends=frozenset({5, 40}), vocab=352), frozenset(ids.values()))
    grammar = made.compile(json.dumps(OK))
    grammar.commit(plain.encode('{"ok":false}').ids)
    assert bits(grammar.allowed()) == {5, 40}


def test_without_the_library_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(BadRequest, match="llguidance") as refused:
        Grammars(tokenizer(), config(), special()).compile('{"type":"object"}')
    assert "sensorium[torch]" in (refused.value.hint or "") and refused.value.param == "response_format"
