"""Places in a lane against counting by hand: exact in short lanes, by the table in long ones."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.jobs import positions
from sensorium.jobs.positions import Key, Positions
from sensorium.jobs.request import Request, Rules, State
from tests.jobs.queues import put, table
from tests.store.vaults import Clock

ROW = Request(
    *(1, "id", "do", "an/app", "", "lane", "a", 0, 0.0, {}, Rules(), State.QUEUED, 0, 0, 0),
    *(None, {}, None, None, 1, 0.0, None, None, None, None, False),
)
KEYS = st.lists(st.tuples(st.integers(-1, 1), st.sampled_from([0.0, 0.5, 1.0, 7.25])), min_size=1, max_size=60)


class Lane:
    """A lane in a list; it counts how often it is asked."""

    def __init__(self, keys: list[Key]) -> None:
        self.keys, self.asked, self.clock = sorted(keys), 0, Clock()
        self.positions = Positions(lambda lane: len(self.keys), self.between, self.sampled, self.clock)

    def between(self, lane: str, low: Key | None, high: Key) -> int:
        self.asked += 1
        return sum((low is None or low <= key) and key < high for key in self.keys)

    def sampled(self, lane: str, every: int) -> list[Key]:
        return self.keys[::every]

    def of(self, key: Key) -> int:
        return self.positions.of(replace(ROW, id=str(key), prio=key[0], vtag=key[1], seq=key[2]))


@given(KEYS, st.integers(1, 9), st.booleans())
def test_a_place_is_how_many_are_before(found: list[tuple[int, float]], block: int, long: bool) -> None:
    keys = [(*key, seq) for seq, key in enumerate(found, 1)]
    with mock.patch.object(positions, "EXACT", 0 if long else 1000), mock.patch.object(positions, "BLOCK", block):
        lane = Lane(keys)
        for name in lane.positions.stale(["lane"]):
            lane.positions.build(name)
        assert [lane.of(key) for key in sorted(keys)] == list(range(len(keys)))


@given(KEYS, st.integers(0, 30), st.integers(0, 30))
def test_a_place_from_a_table_is_off_by_what_changed_at_most(found: list[tuple[int, float]], gone: int, came: int) -> None:
    keys = sorted((*key, seq) for seq, key in enumerate(found, 1))
    with mock.patch.object(positions, "EXACT", 0), mock.patch.object(positions, "BLOCK", 4):
        lane = Lane(keys)
        lane.positions.stale(["lane"])
        lane.positions.build("lane")
        lane.keys = sorted([*keys[min(gone, len(keys) - 1) :], *((0, 0.75, 1000 + number) for number in range(came))])
        for place, key in enumerate(lane.keys):
            assert abs(lane.of(key) - place) <= gone + came


def test_a_place_is_counted_four_times_a_second_at_most() -> None:
    lane = Lane([(0, 0.0, seq) for seq in range(1, 9)])
    for _ in range(50):
        lane.of((0, 0.0, 5))
    assert lane.asked == 1
    lane.clock.now += 0.3
    lane.keys = lane.keys[2:]
    assert (lane.of((0, 0.0, 5)), lane.asked) == (2, 2)


def test_another_version_is_counted_anew() -> None:
    lane = Lane([(0, 0.0, 1), (0, 0.0, 2), (1, 0.0, 3)])
    low = replace(ROW, prio=1, seq=3)
    assert lane.positions.of(low) == 2
    assert lane.positions.of(replace(low, prio=-1, ver=2)) == 0


def test_what_was_told_is_bounded() -> None:
    lane = Lane([(0, 0.0, seq) for seq in range(1, 50)])
    with mock.patch.object(positions, "MOST", 10):
        for key in lane.keys:
            lane.of(key)
    assert len(lane.positions._told) == 10


def test_a_table_is_built_once_at_a_time_and_rarely() -> None:
    lane = Lane([(0, 0.0, seq) for seq in range(1, 20)])

    def slow(name: str, every: int) -> list[Key]:
        lane.clock.now += 2.0
        assert lane.positions.stale(["lane"]) == []
        return lane.keys[::every]

    lane.positions = Positions(lambda name: len(lane.keys), lane.between, slow, lane.clock)
    with mock.patch.object(positions, "EXACT", 5):
        assert lane.positions.stale(["lane"]) == ["lane"]
        lane.positions.build("lane")
        lane.clock.now += 39.0  # 2 s are 5 % of 40 s
        assert lane.positions.stale(["lane"]) == []
        lane.clock.now += 1.5
        assert lane.positions.stale(["lane"]) == ["lane"]
        lane.positions.build("lane")
        lane.keys = lane.keys[:3]
        assert (lane.positions.stale(["lane"]), lane.positions._tables) == ([], {})


def test_a_table_that_could_not_be_built_is_tried_again() -> None:
    lane = Lane([(0, 0.0, 1)])

    def broken(name: str, every: int) -> list[Key]:
        raise OSError

    lane.positions = Positions(lambda name: 1, lane.between, broken, lane.clock)
    with mock.patch.object(positions, "EXACT", 0):
        for _ in range(2):
            assert lane.positions.stale(["lane"]) == ["lane"]
            try:
                lane.positions.build("lane")
            except OSError:
                continue


@settings(max_examples=15)
@given(KEYS, st.integers(2, 7))
def test_the_rows_tell_the_same(found: list[tuple[int, float]], every: int) -> None:
    async def does(folder: Path) -> None:
        async with table(folder) as requests:
            made = [await put(requests, prio=prio, vtag=tag) for prio, tag in found]
            await put(requests, lane="another")
            keys = sorted((one.prio, one.vtag, one.seq) for one in made)
            assert [requests.between("lane", None, key) for key in keys] == list(range(len(keys)))
            assert requests.between("lane", keys[0], keys[-1]) == len(keys) - 1
            assert [tuple(key) for key in requests.sampled("lane", every)] == keys[::every]

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(does(Path(folder)))


def test_no_question_of_every_moment_scans_the_table(tmp_path: Path) -> None:
    """Claims, places, deadlines and what is shown of the queue go by an index: no step of them reads all rows."""
    order = "ORDER BY prio, vtag, seq LIMIT 4"
    asked = [
        f"SELECT seq FROM requests WHERE lane = 'x' AND state = 0 {order}",
        f"SELECT prio, vtag, seq FROM requests WHERE lane = 'x' AND caller = 'a' AND state = 0 {order}",
        "SELECT min(caller) FROM requests WHERE lane = 'x' AND state = 0 AND caller > 'a'",
        "SELECT count(*) FROM requests WHERE lane = 'x' AND state = 0 AND (prio, vtag, seq) < (0, 1.0, 5)",
        "SELECT 1 FROM requests WHERE state = 2 AND not_before <= 1",
        "SELECT 1 FROM requests WHERE state IN (0, 2) AND start_deadline <= 1",
        "SELECT 1 FROM requests WHERE state = 0 AND prio > 0 AND created_at <= 1",
        "SELECT seq FROM requests WHERE state > 2 AND payload_gone = 0 AND payload_expires_at <= 1 LIMIT 5",
        "SELECT id FROM requests WHERE payload_gone = 1 AND finished_at <= 1 LIMIT 5",
        "SELECT seq FROM requests WHERE state = 1",
        "SELECT request FROM request_logs WHERE at <= 1 LIMIT 5",
        "SELECT seq FROM requests WHERE caller = 'a' AND app = 'b' AND idem_key = 'c'",
    ]

    async def does() -> list[str]:
        async with table(tmp_path) as requests:
            return [f"{sql}: {row[3]}" for sql in asked for row in requests._database.read(f"EXPLAIN QUERY PLAN {sql}")]

    plans = asyncio.run(does())
    assert not [plan for plan in plans if ("SCAN" in plan.rsplit(": ", 1)[1] and "INDEX" not in plan) or "TEMP B-TREE" in plan]
