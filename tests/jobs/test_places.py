"""Places in memory against a list that is sorted anew each time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sensorium.jobs.places import Places

KEYS = st.tuples(st.integers(0, 1), st.floats(0, 9, allow_nan=False), st.integers(1, 30))
VERBS = st.lists(st.tuples(st.sampled_from(["add", "remove", "of"]), st.sampled_from(["a", "b"]), KEYS), max_size=60)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), KEYS), max_size=20), VERBS)
def test_a_place_is_how_many_are_before(
    there: list[tuple[str, tuple[int, float, int]]], verbs: list[tuple[str, str, tuple[int, float, int]]]
) -> None:
    places, model = Places(), set(there)
    places.load(sorted(model, reverse=True))
    for verb, lane, key in verbs:
        if verb == "add":
            places.add(lane, key)
            model.add((lane, key))
        elif verb == "remove":
            places.remove(lane, key)
            model.discard((lane, key))
        assert places.of(lane, key) == sum(one[0] == lane and one[1] < key for one in model)
