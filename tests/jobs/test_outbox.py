"""The outbox over a real database: written with the end or not at all, rounds, pauses, retention, the ids of keys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.jobs import outbox as outboxes
from sensorium.jobs.outbox import BATCH, Delivery, Notification, Outbox, State
from sensorium.jobs.webhook_tries import LONGEST_S
from sensorium.store.database import Database
from tests.store.vaults import Clock

URL = "https://a.example/hook"
TAKEN, BROKEN = Delivery(1.0, "93.184.216.34", 200, 12.5, "ok", None), Delivery(1.0, "93.184.216.34", 500, 12.5, "no", None)


class Held:
    """An outbox and what is below it."""

    def __init__(self, database: Database) -> None:
        self.database, self.clock = database, Clock()
        self.outbox = Outbox(database, self.clock)

    def end(self, *ids: str, url: str = URL, caller: str = "ann") -> None:
        with self.database.write() as db:
            for id in ids:
                outboxes.add(db, id, caller, url, self.clock())

    def of(self, id: str) -> Notification:
        found = self.outbox.log_of(id)
        assert found is not None
        return found[0]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    with closing(Database(tmp_path)) as database:
        yield Held(database)


def test_it_is_written_with_the_end_of_the_request_or_not_at_all(held: Held) -> None:
    with contextlib.suppress(ZeroDivisionError), held.database.write() as db:
        outboxes.add(db, "r-1", "ann", URL, 1.0)
        raise ZeroDivisionError
    assert held.outbox.log_of("r-1") is None
    held.end("r-1")
    assert held.of("r-1").state is State.WAITING


def test_a_request_that_ends_again_is_told_under_another_id(held: Held) -> None:
    held.end("r-1")
    first = held.of("r-1")
    held.outbox.failed(first, BROKEN, held.clock() + 5)
    held.clock.now += 60
    held.end("r-1")
    second = held.of("r-1")
    assert (second.state, second.tries, second.due_at, second.created_at) == (State.WAITING, 0, held.clock(), first.created_at)
    assert second.webhook_id != first.webhook_id
    held.outbox.delivered(first, TAKEN)  # of the first end, which was under way
    assert held.of("r-1").state is State.WAITING
    held.outbox.delivered(second, TAKEN)
    assert held.of("r-1").state is State.DELIVERED


def test_ids_of_notifications_can_be_signed(held: Held) -> None:
    """Standard Webhooks: no dot in an id, as the signed content is divided by dots."""
    held.end("r-1", "r-2")
    ids = {held.of(id).webhook_id for id in ("r-1", "r-2")}
    assert len(ids) == 2
    assert all(id.startswith("msg_") and "." not in id for id in ids)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["u", "v?x=1", "v?x=2", "w#f"]), st.integers(0, 9)), max_size=12))
def test_every_place_waits_with_its_first_time(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]]) -> None:
    with closing(Database(tmp_path_factory.mktemp("outbox"))) as database:
        held = Held(database)
        expected: dict[str, float] = {}
        for number, (caller, url, at) in enumerate(rows):
            held.clock.now = float(at)
            held.end(f"r-{number}", url=f"https://{url}", caller=caller)
            name = f"{caller}\nhttps://{url[0]}"
            expected[name] = min(at, expected.get(name, at))
        found = held.outbox.waiting()
        assert dict(found) == expected
        assert [at for _, at in found] == sorted(expected.values())
        for name, ones in held.outbox.first(list(expected), 2).items():
            assert [one.place for one in ones] == [name] * len(ones)
            assert ones[0].due_at == expected[name]
            assert len(ones) <= 2


def test_tries_are_counted_and_told(held: Held) -> None:
    held.end("r-1")
    held.outbox.failed(held.of("r-1"), BROKEN, held.clock() + 5)
    assert (held.of("r-1").state, held.of("r-1").tries, held.of("r-1").due_at) == (State.WAITING, 1, held.clock() + 5)
    held.outbox.delivered(held.of("r-1"), TAKEN)
    found = held.outbox.log_of("r-1")
    assert found is not None
    assert (found[0].state, found[0].tries, found[0].ended_at) == (State.DELIVERED, 2, held.clock())
    assert found[1] == [BROKEN, TAKEN]
    assert held.outbox.waiting() == []


def test_what_comes_of_an_older_round_does_not_end_the_newer(held: Held) -> None:
    held.end("r-1")
    in_flight = held.of("r-1")
    held.clock.now += 60
    assert held.outbox.again("r-1")
    held.outbox.delivered(in_flight, TAKEN)
    now = held.of("r-1")
    assert (now.state, now.tries, now.due_at, now.webhook_id) == (State.WAITING, 0, held.clock(), in_flight.webhook_id)
    held.outbox.failed(now, BROKEN, None)
    assert held.of("r-1").state is State.GIVEN_UP


def test_a_pause_holds_back_its_place_alone_until_somebody_asks_again(held: Held) -> None:
    held.end("r-1", "r-2")
    held.end("r-3", caller="bob")
    held.outbox.failed(held.of("r-1"), BROKEN, None, pause=True)
    assert [place for place, _ in held.outbox.waiting()] == [f"bob\n{URL}"]
    assert held.outbox.paused_since(f"ann\n{URL}") == held.clock()
    assert not held.outbox.again("unknown")
    assert held.outbox.again("r-1")
    assert [place for place, _ in held.outbox.waiting()] == [f"ann\n{URL}", f"bob\n{URL}"]
    assert held.outbox.paused_since(f"ann\n{URL}") is None


def test_it_is_forgotten_some_time_after_its_end_and_given_up_when_it_could_not_be_sent_for_as_long(held: Held) -> None:
    held.end("old", "held back")
    held.outbox.delivered(held.of("old"), TAKEN)
    held.clock.now += LONGEST_S
    held.end("new")
    assert held.outbox.sweep(60 + LONGEST_S) == held.outbox.sweep(LONGEST_S) == 0
    held.clock.now += 1
    assert held.outbox.sweep(LONGEST_S) == 2
    assert held.outbox.log_of("old") is None
    assert held.of("held back").state is State.GIVEN_UP
    assert held.of("new").state is State.WAITING
    assert held.database.read("SELECT count(*) FROM deliveries") == [(0,)]


def test_old_ones_go_in_batches(held: Held) -> None:
    held.end(*[f"r-{number}" for number in range(BATCH + 20)])
    held.clock.now += LONGEST_S + 1
    assert [held.outbox.sweep(0) for _ in range(4)] == [BATCH, 20, 0, 0]
    held.clock.now += 1
    assert [held.outbox.sweep(0) for _ in range(3)] == [BATCH, 20, 0]


def test_what_was_erased_leaves_nothing_and_is_not_written_to(held: Held) -> None:
    held.end("r-1", "r-2")
    in_flight = held.of("r-1")
    held.outbox.failed(in_flight, BROKEN, held.clock() + 5)
    with held.database.write() as db:
        outboxes.forget(db, ["r-1"])
    held.outbox.delivered(in_flight, TAKEN)
    assert held.outbox.log_of("r-1") is None
    assert held.database.read("SELECT count(*) FROM deliveries") == [(0,)]
    assert held.of("r-2").state is State.WAITING


def test_all_of_it_outlives_the_process(tmp_path: Path) -> None:
    with closing(Database(tmp_path)) as database:
        before = Held(database)
        before.end("r-1", "r-2", "r-3")
        before.outbox.failed(before.of("r-1"), BROKEN, 5.0)
        before.outbox.failed(before.of("r-3"), BROKEN, None, pause=True)
        told = [before.outbox.log_of(id) for id in ("r-1", "r-2", "r-3")]
    with closing(Database(tmp_path)) as database:
        after = Held(database)
        assert [after.outbox.log_of(id) for id in ("r-1", "r-2", "r-3")] == told
        assert after.outbox.waiting() == []
