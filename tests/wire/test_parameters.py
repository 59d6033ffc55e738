"""Which values a kind admits, and how a refusal reads."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import Unprocessable
from sensorium.wire import parameters
from sensorium.wire.parameters import Integer, Number, OneOf, Rule, Text

NAN = float("nan")


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        (Integer(1, 4), [1, 4, 2.0], [0, 5, -1, 2.5, True, False, "2", None, [1], {}, NAN, math.inf, 10**400]),
        (Integer(768, 1344, step=64), [768, 832, 1344, 896.0], [800, 704, 1408, 768.5]),
        (Integer(0, 2**32 - 1), [0, 2**32 - 1], [-1, 2**32]),
        (Number(1, 9), [1, 9, 2.5], [0, 0.99, 9.1, True, "2", None, NAN, math.inf, -math.inf, 10**400]),
        (Number(1, 9, above=True), [1.01, 9], [1, 1.0, 0]),
        (Number(1, 9, or_zero=True), [0, 0.0, 1], [False, 0.5, None]),
        (Number(), [-(10**400), 0, 1e300], [NAN, math.inf, True, "1"]),
        (OneOf((0,)), [0, 0.0], [1, False, None, "0", []]),
        (OneOf((False, True)), [False, True], [0, 1, "true"]),
        (OneOf(("base", "canny")), ["base"], ["Base", "", None, {}]),
        (OneOf(()), [], [0, None, "x"]),
        (Text(1, 3), ["a", "äöü"], ["", "abcd", 5, None, ["a"]]),
    ],
    ids=str,
)
def test_what_a_rule_admits(rule: Rule, good: list[object], bad: list[object]) -> None:
    assert [value for value in good if not rule.admits(value)] == []
    assert [value for value in bad if rule.admits(value)] == []


@pytest.mark.parametrize(
    ("value", "rule", "message"),
    [
        (5, Integer(1, 4), "it is 5; a/model takes an integer, 1..4"),
        (800, Integer(768, 1344, step=64), "it is 800; a/model takes an integer, 768..1344 in steps of 64"),
        (2, Integer(1, 1), "it is 2; a/model takes only 1"),
        ("four", Integer(1, 4), 'it is "four"; a/model takes an integer, 1..4'),
        (True, Number(1, 9), "it is true; a/model takes a number, 1..9"),
        (NAN, Number(1, 9, above=True), "it is NaN; a/model takes a number above 1 and up to 9"),
        (99, Number(1, 9, or_zero=True), "it is 99; a/model takes a number, 1..9, or 0 for the default"),
        ("1", Number(), 'it is "1"; a/model takes a number'),
        (None, Text(1, 77), "it is missing; a/model takes a string of 1 to 77 characters"),
        ("x" * 78, Text(1, 77), "it is a string of 78 characters; a/model takes a string of 1 to 77 characters"),
        ({"a": 1}, OneOf(("a", "b")), "it is an object; a/model takes one of a, b"),
        ("c", OneOf((True, False)), 'it is "c"; a/model takes one of true, false'),
        ("c", OneOf((0,)), 'it is "c"; a/model takes only 0'),
        ([1], OneOf(()), "it is an array; a/model takes none; leave it out"),
    ],
)
def test_a_refusal_says_what_its_value_and_what_is_taken(value: object, rule: Rule, message: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        parameters.check("it", value, rule, "a/model")
    assert (caught.value.message, caught.value.param) == (message, "it")


def test_even_a_number_that_python_does_not_print_is_refused_by_a_sentence() -> None:
    assert parameters.shown(10**5000) == "a number of thousands of digits"
    assert not Integer(1, 4).admits(10**5000) and not Number(1, 4).admits(10**5000)


def test_what_may_be_left_out_may_not_be_wrong() -> None:
    assert parameters.optional("it", None, Integer(1, 4), "a/model") is None
    with pytest.raises(Unprocessable):
        parameters.optional("it", 0, Integer(1, 4), "a/model")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_any_value_gets_a_short_plain_sentence(value: object) -> None:
    shown = parameters.shown(value)
    assert len(shown) <= 300 and shown.isascii() and shown.isprintable()


def test_a_prompt_or_picture_is_not_repeated() -> None:
    assert "AAAA" not in parameters.shown("data:image/png;base64," + "A" * 100)
    assert "AAAA" not in parameters.shown([{"text": "AAAA"}])


def test_an_unknown_name_is_told_with_the_known_ones() -> None:
    parameters.refuse_unknown(["steps"], ("prompt", "steps"), "a/model")
    with pytest.raises(Unprocessable, match=r"^x+: extra inputs are not permitted; a/model takes prompt, steps$") as caught:
        parameters.refuse_unknown(["prompt", "x" * 1000], ("prompt", "steps"), "a/model")
    assert caught.value.param == "x" * 80


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_a_list_of_names_is_one_plain_header_line(names: list[str]) -> None:
    line = parameters.listed(names)
    assert line.isascii() and (line.isprintable() or not line)
    assert len(line) <= 40 * (12 * 60 + 2) + 30


def test_a_long_list_is_cut_with_a_count() -> None:
    assert parameters.listed(["so schön", "a"]) == "so sch%C3%B6n, a"
    assert parameters.listed([str(number) for number in range(43)]).endswith(", 39 and 3 more")


def test_a_range_lists_its_values() -> None:
    assert json.dumps(list(Integer(768, 960, step=64).values)) == "[768, 832, 896, 960]"
