"""Slots against a plain model of what each slot's positions hold, with every copy carried out."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.engines.diffusion_vlm.slots import SHORTEST, Slots, common

LENGTH = 4 * SHORTEST


def prompt(*pieces: tuple[int, int]) -> np.ndarray:
    """A prompt put together from (token, how often)."""
    return np.repeat([token for token, _ in pieces], [count for _, count in pieces]).astype(np.int64)


class Played:
    """Slots with real contents: what an answer writes, what copies move, and what a reader would find."""

    def __init__(self, count: int) -> None:
        self.slots = Slots(count)
        self.contents = np.full((count, LENGTH), -9, np.int64)
        self.busy: dict[int, np.ndarray] = {}

    def copy(self, copies: object) -> None:
        for one in copies:  # type: ignore[attr-defined]
            self.contents[one.target, : one.length] = self.contents[one.source, : one.length]

    def begin(self, names: np.ndarray) -> int:
        place = self.slots.take(names)
        assert place.slot not in self.busy and place.reused < len(names)
        self.copy(place.copies)
        assert (self.contents[place.slot, : place.reused] == names[: place.reused]).all()
        self.contents[place.slot, place.reused : len(names)] = names[place.reused :]
        self.contents[place.slot, len(names) :] = 1000 + len(self.busy)  # the answer
        self.slots.hold(place.slot, names)
        self.busy[place.slot] = names
        return place.reused

    def settle(self) -> None:
        names = self.busy.get(self.slots.highest)
        moved = self.slots.denser(len(names)) if names is not None else None
        if moved is not None and names is not None:
            del self.busy[max(self.busy)]
            self.copy(moved[1])
            self.busy[moved[0]] = names

    def check(self) -> None:
        for slot, names in self.busy.items():
            assert (self.contents[slot, : len(names)] == names).all(), "an answer lost what it had written"


pieces = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([1, 7, SHORTEST, SHORTEST + 5])), min_size=1, max_size=3)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.lists(st.one_of(pieces, st.integers(0, 5), st.none()), max_size=40))
def test_nobody_reads_what_is_not_theirs(count: int, actions: list[object]) -> None:
    """Lists begin an answer, numbers end one, None lets answers move together."""
    played = Played(count)
    for action in actions:
        if isinstance(action, list) and played.slots.free:
            played.begin(prompt(*action))
        elif isinstance(action, int) and action in played.busy:
            del played.busy[action]
            played.slots.release(action)
        elif action is None:
            played.settle()
        played.check()


def test_the_same_beginning_is_taken_over_but_never_the_last_position() -> None:
    played = Played(2)
    picture = (7, SHORTEST)
    assert played.begin(prompt(picture, (1, 3))) == 0
    assert played.begin(prompt(picture, (2, 3))) == SHORTEST
    played.busy.clear()
    played.slots.release(0)
    played.slots.release(1)
    assert played.begin(prompt(picture, (1, 3))) == SHORTEST + 2


def test_two_pictures_in_turn_both_stay_with_one_caller() -> None:
    played = Played(3)
    for turn in range(4):
        for token in (1, 2):
            reused = played.begin(prompt((token, SHORTEST), (0, 2)))
            assert (reused > 0) == (turn > 0)
            played.slots.release(next(iter(played.busy)))
            played.busy.clear()


def test_two_pictures_after_the_same_instructions_both_stay() -> None:
    """What they have in common is no reason to give up the rest."""
    played = Played(3)
    for turn in range(4):
        for token in (1, 2):
            reused = played.begin(prompt((0, SHORTEST), (token, SHORTEST), (0, 2)))
            assert reused == (2 * SHORTEST + 1 if turn > 0 else SHORTEST * (token == 2))
            played.slots.release(next(iter(played.busy)))
            played.busy.clear()


def test_a_conversation_that_grows_takes_one_slot() -> None:
    played = Played(3)
    for turns in range(1, 4):
        place = played.slots.take(names := prompt((1, turns * SHORTEST)))
        assert not place.copies
        played.slots.hold(place.slot, names)
        played.slots.release(place.slot)


def test_the_oldest_contents_go_first() -> None:
    played = Played(3)
    for token in (1, 2, 3, 4):
        played.begin(prompt((token, SHORTEST), (0, 2)))
        played.slots.release(0)
        played.busy.clear()
    kept = {token for token in range(1, 5) for held in played.slots._held if common(held, prompt((token, SHORTEST))) == SHORTEST}
    assert kept == {2, 3, 4}


def test_answers_move_together_only_when_a_forward_gets_smaller() -> None:
    played = Played(8)
    for token in range(5):
        played.begin(prompt((token, 5)))
    for slot in (0, 1):
        played.slots.release(slot)
        del played.busy[slot]
    played.settle()
    assert sorted(played.busy) == [0, 2, 3]  # three answers: four slots, not eight
    played.settle()
    assert sorted(played.busy) == [0, 2, 3]


def test_without_reuse_nothing_is_copied() -> None:
    slots = Slots(2, reuse=False)
    names = prompt((1, SHORTEST * 2))
    first = slots.take(names)
    slots.hold(first.slot, names)
    assert slots.take(names).reused == 0 and not first.copies
