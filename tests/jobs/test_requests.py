"""The queue's verbs on a real database: order, owners, late runs, what a dead hub left, and what has been kept long enough."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.jobs.requests import MOST_RUNS, Request, Requests, State, UnknownRequest
from sensorium.jobs.results import Results
from sensorium.store.database import Database

CALL = {"model": "a/b"}


@pytest.fixture
def requests(tmp_path: Path) -> Iterator[Requests]:
    with closing(Database(tmp_path)) as database:
        yield Requests(database)


def test_first_come_first_served_each_once(requests: Requests) -> None:
    made = [requests.submit("a", CALL, b"%d" % number).id for number in range(5)]
    first = requests.claim(3)
    assert requests.standing() == (2, 3)
    second = requests.claim(3)
    assert [(request.id, body) for request, body in first + second] == list(zip(made, [b"0", b"1", b"2", b"3", b"4"], strict=True))
    assert requests.claim(3) == []


def test_those_that_wait_and_run_are_told_apart(requests: Requests) -> None:
    assert requests.standing() == (0, 0)
    for _ in range(3):
        requests.submit("a", CALL, b"{}")
    ((running, _),) = requests.claim(1)
    assert (requests.standing(), requests.waiting()) == ((2, 1), 3)
    requests.finish(running, State.SUCCEEDED, {})
    assert (requests.standing(), requests.waiting()) == ((2, 0), 2)


def test_a_late_run_cannot_overwrite(requests: Requests) -> None:
    requests.submit("a", CALL, b"{}")
    ((early, _),) = requests.claim(1)
    requests.recover()
    ((late, _),) = requests.claim(1)
    assert (early.attempt, late.attempt) == (1, 2)
    assert not requests.finish(early, State.SUCCEEDED, {"of": "early"})
    requests.give_back(early)
    assert requests.of("a", early.id).state is State.RUNNING
    assert requests.finish(late, State.SUCCEEDED, {"of": "late"})
    assert not requests.finish(late, State.FAILED, {})
    done = requests.of("a", early.id)
    assert (done.state, done.told, done.done) == (State.SUCCEEDED, {"of": "late"}, True)


def test_what_ends_the_hub_is_not_run_for_ever(requests: Requests) -> None:
    made = requests.submit("a", CALL, b"{}")
    for _ in range(MOST_RUNS):
        assert len(requests.claim(1)) == 1
        requests.recover()
    assert requests.claim(1) == []
    assert (requests.of("a", made.id).state, requests.of("a", made.id).told["code"]) == (State.FAILED, "runner_disconnected")


def test_another_callers_request_is_not_there(requests: Requests) -> None:
    made = requests.submit("a", CALL, b"{}")
    for ask in (lambda: requests.of("b", made.id), lambda: requests.remove("b", made.id), lambda: requests.listed("b", 5, made.id)):
        with pytest.raises(UnknownRequest):
            ask()
    assert (requests.listed("b", 5), len(requests.listed("a", 5))) == ([], 1)


def test_only_what_ended_long_ago_expires(tmp_path: Path) -> None:
    now = [1000.0]
    with closing(Database(tmp_path)) as database:
        requests = Requests(database, lambda: now[0])
        old, young, waiting = (requests.submit("a", CALL, b"{}") for _ in range(3))
        (run_old, _), (run_young, _) = requests.claim(2)
        requests.finish(run_old, State.SUCCEEDED, {})
        now[0] = 2000.0
        requests.finish(run_young, State.FAILED, {})
        now[0] = 2600.0
        assert [request.id for request in requests.expired(1000)] == [old.id]
        assert requests.ids() == {young.id, waiting.id}


def test_the_input_is_not_kept_beyond_the_end(requests: Requests, tmp_path: Path) -> None:
    requests.submit("a", CALL, b'{"prompt": "canary-words"}')
    ((running, _),) = requests.claim(1)
    requests.finish(running, State.SUCCEEDED, {})
    requests._database.checkpoint()
    assert b"canary-words" not in b"".join(file.read_bytes() for file in tmp_path.rglob("sensorium.db*"))


def test_results_are_whole_or_absent(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.put("one", 1, b"film")
    (tmp_path / "results" / "two.1.part").write_bytes(b"half")
    results.put("three", 1, b"unknown")
    results.sweep({"one"})
    assert [results.get(name) for name in ("one", "two", "three")] == [b"film", None, None]
    results.remove(["one", "never"])
    assert list((tmp_path / "results").iterdir()) == []


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["submit", "claim", "finish", "back", "remove", "crash"]), st.integers(0, 9)), max_size=40))
def test_nothing_is_lost_and_nothing_ends_twice(verbs: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(Database(Path(folder))) as database:
        requests, alive, ended, runs = Requests(database), list[str](), dict[str, int](), list[Request]()
        for verb, pick in verbs:
            if verb == "submit":
                alive.append(requests.submit("a", CALL, b"{}").id)
            elif verb == "claim":
                runs += [request for request, _ in requests.claim(pick)]
            elif verb == "crash":
                requests.recover()
            elif verb == "remove" and alive:
                requests.remove("a", alive.pop(pick % len(alive)))
            elif runs:
                run = runs[pick % len(runs)]
                if verb == "back":
                    requests.give_back(run)
                elif requests.finish(run, State.SUCCEEDED, {"attempt": run.attempt}):
                    assert run.id not in ended
                    ended[run.id] = run.attempt
        assert requests.ids() == set(alive)
        for id in alive:
            found = requests.of("a", id)
            if found.state is State.SUCCEEDED:
                assert found.told == {"attempt": ended[id]}
            assert (found.state is State.SUCCEEDED) == (id in ended)
