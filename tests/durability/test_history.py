"""The checker finds nothing in a sound history, and the fault in every altered one. A test whose control passes would be broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.durability.history import Cancelled, Delivered, History, Kind, Logged, Ran, Row, Seen, Submitted, violations

SOUND = History(
    submitted=[
        Submitted(1.0, "plain", "lane", key="a 1"),
        Submitted(1.1, "plain", "lane", key="a 1"),  # a repeated submission, replayed
        Submitted(2.0, "hooked", "lane", webhook=True),
        Submitted(3.0, "retried", "lane"),
        Submitted(4.0, "cancelled", "lane"),
        Submitted(5.0, "stopped", "lane"),
        Submitted(6.0, "removed", "lane"),
    ],
    seen=[
        Seen(1.5, "plain", "QUEUED", position=3),
        Seen(1.6, "plain", "QUEUED", position=4, reason="another caller's share"),
        Seen(1.7, "plain", "QUEUED", position=0),
        Seen(2.5, "plain", "RUNNING", 1),
        Seen(3.5, "plain", "SUCCEEDED", 1, result="p"),
        Seen(3.0, "plain", "RUNNING", 1, client="slow"),
        Seen(3.2, "retried", "RUNNING", 1),
        Seen(3.9, "retried", "DELAYED", 1, position=0),
        Seen(9.0, "retried", "SUCCEEDED", 2, result="r"),
        Seen(5.0, "cancelled", "CANCELLED", 0, result="c"),
    ],
    cancelled=[Cancelled(4.5, "cancelled", waiting=True), Cancelled(8.0, "stopped", waiting=False)],
    runs=[
        Ran("plain", 1, 2.0, 3.0, "lane"),
        Ran("retried", 1, 3.0, None, "lane", cut_off=3.8),  # its hub was killed
        Ran("hooked", 1, 3.0, 4.0, "lane"),
        Ran("retried", 2, 4.0, 5.0, "lane"),
        Ran("stopped", 1, 6.0, 8.1, "lane"),
        Ran("removed", 1, 7.0, 7.5, "lane"),
    ],
    delivered=[Delivered(4.5, "hooked", "msg_1", "h"), Delivered(4.9, "hooked", "msg_1", "h")],
    logged=[
        *(Logged("retried", attempt, number, stream) for stream in ("x", "y") for attempt in (1, 2) for number in (1, 2, 3)),
        Logged("plain", 1, 1),
    ],
    rows=[
        Row("plain", "SUCCEEDED", 1, "p"),
        Row("hooked", "SUCCEEDED", 1, "h"),
        Row("retried", "SUCCEEDED", 2, "r"),
        Row("cancelled", "CANCELLED", 0, "c"),
        Row("stopped", "CANCELLED", 1, "s"),
    ],
    removed=frozenset({"removed"}),
    limits={"lane": 2},
)


def rows(**changed: Row | None) -> Callable[[History], History]:
    """Other rows of some requests; None: none."""
    return lambda history: replace(
        history, rows=[new for row in history.rows if (new := changed.get(row.id, row) if row.id in changed else row) is not None]
    )


def more(name: str, *given: object) -> Callable[[History], History]:
    return lambda history: replace(history, **{name: [*getattr(history, name), *given]})  # type: ignore[arg-type]


def without(name: str, *given: object) -> Callable[[History], History]:
    return lambda history: replace(history, **{name: [one for one in getattr(history, name) if one not in given]})  # type: ignore[arg-type]


ALTERED: list[tuple[Kind, str, Callable[[History], History]]] = [
    ("lost", "plain", rows(plain=None)),
    ("lost", "stopped", rows(stopped=Row("stopped", "RUNNING", 1))),
    ("doubled", "again", more("submitted", Submitted(1.2, "plain", "lane"), Submitted(1.2, "again", "lane", key="a 1"))),
    ("doubled", "retried", lambda history: replace(history, runs=[replace(run, cut_off=None) for run in history.runs])),
    ("doubled", "hooked", more("runs", Ran("hooked", 1, 9.0, 9.5, "lane"))),
    ("doubled", "hooked", more("runs", Ran("hooked", 2, 3.5, 3.6, "other"))),
    ("doubled", "plain", more("rows", Row("plain", "SUCCEEDED", 1, "p"))),
    ("overwritten", "plain", rows(plain=Row("plain", "SUCCEEDED", 1, "of a late run"))),
    ("overwritten", "plain", rows(plain=Row("plain", "FAILED", 1, "p"))),
    ("overwritten", "hooked", more("delivered", Delivered(5.0, "hooked", "msg_1", "another"))),
    ("fell back", "plain", more("seen", Seen(9.0, "plain", "QUEUED", 1))),
    ("fell back", "retried", more("seen", Seen(9.0, "retried", "SUCCEEDED", 1, result="r"))),
    ("fell back", "retried", rows(retried=Row("retried", "SUCCEEDED", 1, "r"))),
    (
        "over limit",
        "lane",
        more("runs", Ran("removed", 2, 7.6, 7.7, "lane"), Ran("other", 1, 7.5, 7.8, "lane"), Ran("more", 1, 7.5, 7.9, "lane")),
    ),
    ("over limit", "lane", lambda history: replace(history, limits={"lane": 1})),
    ("no hook", "hooked", lambda history: replace(history, delivered=[])),
    ("no hook", "hooked", more("delivered", Delivered(5.0, "hooked", "msg_2", "h"))),
    ("no hook", "plain", more("delivered", Delivered(5.0, "plain", "msg_3", "p"))),
    ("started after cancel", "cancelled", more("runs", Ran("cancelled", 1, 4.6, 4.7, "lane"))),
    ("started after cancel", "stopped", more("runs", Ran("stopped", 2, 8.2, 8.3, "lane"))),
    ("started after cancel", "cancelled", rows(cancelled=Row("cancelled", "SUCCEEDED", 1))),
    ("log gap", "retried", without("logged", Logged("retried", 1, 2, "x"))),
    ("log gap", "plain", more("logged", Logged("plain", 1, 1))),
    ("log gap", "retried", more("logged", Logged("retried", 1, 4, "x"))),
    ("position", "plain", more("seen", Seen(1.8, "plain", "QUEUED", position=2))),
]


def test_a_sound_history_has_no_faults() -> None:
    assert violations(SOUND) == []
    assert violations(History()) == []


@pytest.mark.parametrize(("kind", "of", "alter"), ALTERED)
def test_an_altered_one_is_flagged(kind: Kind, of: str, alter: Callable[[History], History]) -> None:
    found = violations(alter(SOUND))
    assert (kind, of) in {(one.kind, one.of) for one in found}, found


def test_all_eight_kinds_are_altered() -> None:
    eight = {"lost", "doubled", "overwritten", "fell back", "over limit", "no hook", "started after cancel", "log gap"}
    assert eight <= {kind for kind, _, _ in ALTERED}


RUNS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10), st.booleans()), max_size=12)


@given(RUNS, st.integers(1, 4))
def test_a_limit_is_broken_exactly_where_too_many_overlap(found: list[tuple[int, int, bool]], limit: int) -> None:
    runs = [
        Ran(str(number), 1, began, None if cut else began + took, "lane", began + took if cut else None)
        for number, (began, took, cut) in enumerate(found)
    ]
    most = max((sum(began <= moment < began + took for began, took, _ in found) for moment in range(60)), default=0)
    assert bool(violations(History(runs=runs, limits={"lane": limit}))) == (most > limit)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), max_size=12))
def test_a_log_is_whole_exactly_where_it_counts_up(found: list[tuple[int, int]]) -> None:
    expected, whole = (0, 0), True
    for attempt, number in found:
        whole = whole and ((attempt, number) == (expected[0], expected[1] + 1) or (attempt > expected[0] and number == 1))
        expected = (attempt, number)
    assert (violations(History(logged=[Logged("a", *one) for one in found])) == []) == whole
