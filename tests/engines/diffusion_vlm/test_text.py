"""Pieces of text put together are the whole text; stop strings cut exactly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sensorium.engines.diffusion_vlm.text import StopStrings, TextStream
from tests.engines.diffusion_vlm.checkpoints import OFFICIAL_IDS, OTHER_IDS, byte_tokenizer, word_tokenizer

WORDS, BYTES = word_tokenizer(OFFICIAL_IDS), byte_tokenizer(OTHER_IDS)
SPECIAL = {id(WORDS): frozenset(OFFICIAL_IDS.values()), id(BYTES): frozenset(OTHER_IDS.values())}


def pieces(tokenizer: Tokenizer, blocks: list[list[int]]) -> list[str]:
    stream = TextStream(tokenizer, SPECIAL[id(tokenizer)])
    return [stream.push(block) for block in blocks] + [stream.flush()]


@pytest.mark.parametrize("tokenizer", [WORDS, BYTES], ids=["words", "bytes"])
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_pieces_put_together_are_the_whole(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = st.integers(0, tokenizer.get_vocab_size() + 20)
    blocks = data.draw(st.lists(st.lists(ids, max_size=5), max_size=12))
    plain = [one for block in blocks for one in block if one not in SPECIAL[id(tokenizer)]]
    assert "".join(pieces(tokenizer, blocks)) == tokenizer.decode(plain, skip_special_tokens=False)


def test_a_character_in_several_tokens_waits_for_its_end() -> None:
    ids = BYTES.encode("€ü!").ids
    assert pieces(BYTES, [[one] for one in ids]) == ["", "", "€", "ü", "!", ""]


def test_an_incomplete_character_at_the_end_is_not_lost() -> None:
    ids = BYTES.encode("a€").ids[:-1]
    assert "".join(pieces(BYTES, [[one] for one in ids])) == "a\ufffd"


def test_spaces_between_pieces_are_kept_and_the_first_one_is_not() -> None:
    ids = WORDS.encode("a red cube on the table").ids
    assert pieces(WORDS, [[one] for one in ids]) == ["a", " red", " cube", " on", " the", " table", ""]


def test_special_ids_between_words_leave_no_trace() -> None:
    start, end = OFFICIAL_IDS["<|im_start|>"], OFFICIAL_IDS["<|im_end|>"]
    a, red = WORDS.encode("a red").ids
    assert pieces(WORDS, [[start, a], [end], [end, red, end]]) == ["a", "", " red", ""]


def stopped(stops: list[str], texts: list[str]) -> tuple[str, bool]:
    stream = StopStrings(stops)
    out = ""
    for text in texts:
        out += stream.push(text)
        if stream.hit:
            return out, True
    return out + stream.flush(), False


@pytest.mark.parametrize(
    ("stops", "texts", "wanted"),
    [
        (["END"], ["abc"], ("abc", False)),
        (["END"], ["abcENDdef"], ("abc", True)),
        (["END"], ["abcE", "N", "Ddef"], ("abc", True)),
        (["END"], ["abcE", "N", "x"], ("abcENx", False)),
        (["END"], ["abcEN"], ("abcEN", False)),
        (["aab"], ["aa", "aa", "b"], ("aa", True)),
        (["xyz", "y"], ["wx", "y", "z"], ("wx", True)),
        (["yz", "xyz"], ["wxyz"], ("w", True)),
        ([], ["abc"], ("abc", False)),
    ],
)
def test_stop_strings(stops: list[str], texts: list[str], wanted: tuple[str, bool]) -> None:
    assert stopped(stops, texts) == wanted


def test_nothing_is_held_back_that_cannot_begin_a_stop_string() -> None:
    stream = StopStrings(["###"])
    assert [stream.push("a#"), stream.push("b"), stream.push("##"), stream.push(" ")] == ["a", "#b", "", "## "]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab.", min_size=1, max_size=3), min_size=1, max_size=3), st.lists(st.text("ab.", max_size=4), max_size=8))
def test_cutting_piece_by_piece_equals_cutting_the_whole(stops: list[str], texts: list[str]) -> None:
    """Piecewise, a stop string is found as soon as it is complete: the one that ends first wins, then the one that begins first."""
    whole = "".join(texts)
    got, hit = stopped(stops, texts)
    assert hit == any(stop in whole for stop in stops)
    assert whole.startswith(got) and not any(stop in got for stop in stops)
    if not hit:
        assert got == whole
    else:
        assert any(whole[len(got) :].startswith(stop) for stop in stops)
