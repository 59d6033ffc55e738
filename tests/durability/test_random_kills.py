"""The hub is killed at random moments under a steady load, and started again at once (jobs.md, J-02)."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from sensorium.jobs.request import State
from tests.durability.engine import Act
from tests.durability.hub import PROGRAM, eventually
from tests.durability.load import Load, loaded
from tests.durability.rig import KILLS, RATE, Rig, rigged

SHORTEST_S, LONGEST_S = 0.3, 2.5  # of a hub's life, from the start of its process: some die before they are ready
WORK_S = (0.0, 0.02, 0.1, 0.3)


@dataclass(frozen=True, slots=True)
class Found:
    """What became of a load: requests acknowledged, those of them that are not there, keys with several ids, results that changed,
    requests told of under several ids or not at all, and how often requests were run."""

    acknowledged: int
    lost: list[str]
    doubled: list[str]
    changed: list[str]
    untold: list[str]
    runs: Counter[int]


def killed(rig: Rig, kills: int, rate: float) -> Load:
    """Kill the hub so often under load; afterwards one runs, and all is over that was acknowledged and is there."""
    rig.engine.usual = lambda: Act(work_s=random.choice(WORK_S), large=random.random() < 0.25)
    rig.hub.start()
    with loaded(rig.hub, rig.hook, rate) as load:
        for number in range(kills):
            time.sleep(random.uniform(SHORTEST_S, LONGEST_S))
            rig.hub.kill()
            if number == kills - 1:  # what is lost was lost before; this one brings the rest to its end
                rig.hub.program = PROGRAM
            rig.hub.spawn()
        eventually(rig.hub.ready, rig.hub.said)
    eventually(lambda: rig.hub.rows("SELECT count(*) FROM requests WHERE state < 3") == [(0,)], rig.hub.said)
    eventually(lambda: rig.hub.rows("SELECT count(*) FROM outbox WHERE state = 0") == [(0,)], rig.hub.said)
    return load


def found(rig: Rig, load: Load) -> Found:
    """Hold what callers, the engine and the receiver saw against each other. Every result is fetched once more."""
    there = {id: (key, State(state), runs) for id, key, state, runs in rig.hub.rows("SELECT id, idem_key, state, runs FROM requests")}
    acknowledged = {one.id: one.key for one in load.acknowledged}
    for id in acknowledged.keys() & there.keys():
        load.look(id)
    ids_of_keys = Counter(
        key for _, key in {(one.id, one.key) for one in load.acknowledged} | {(id, key) for id, (key, _, _) in there.items()}
    )
    results = load.results()
    return Found(
        len(acknowledged),
        sorted(acknowledged.keys() - there.keys()),
        [key for key, count in ids_of_keys.items() if count > 1],
        [id for id in there if len(results.get(id, ())) > 1],
        [id for id in there if len(rig.hooks.ids(id)) != 1],
        Counter(runs for _, _, runs in there.values()),
    )


def check(rig: Rig, load: Load, what: Found) -> None:
    assert (load.refused, what.lost, what.doubled, what.changed, what.untold) == ([], [], [], [], [])
    assert load.regressions() == []
    results = load.results()
    for id, key, state, runs in rig.hub.rows("SELECT id, idem_key, state, runs FROM requests"):
        assert state == State.SUCCEEDED and runs <= 10, (id, state, runs)
        assert key.startswith("caller")
        ran = rig.engine.runs(key)
        assert 1 <= len(ran) <= runs
        # No two hubs, and no hub twice, had the same request in hand at the same time: who began later was another process.
        assert len({one.hub for one in ran}) == len(ran), ran
        assert len(results.get(id, {""})) == 1
    rig.check_all()


def told(rig: Rig, load: Load, what: Found) -> str:
    tries, replayed = sum(one.tries for one in load.acknowledged), sum(one.replayed for one in load.acknowledged)
    return (
        f"{what.acknowledged} acknowledged in {tries} tries ({replayed} replayed), {len(what.lost)} lost, {len(what.doubled)} doubled,"
        f" {len(what.changed)} results changed; requests by runs {dict(sorted(what.runs.items()))}; {len(rig.hooks.got)} webhooks,"
        f" {len(what.untold)} requests not told of under one id; {len(load.seen)} looks"
    )


def test_nothing_is_lost_and_nothing_is_done_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with rigged(tmp_path) as rig:
        begun = time.monotonic()
        load = killed(rig, KILLS, RATE)
        over = time.monotonic()
        what = found(rig, load)
        with capsys.disabled():
            print(f"\n{KILLS} kills in {over - begun:.0f} s: {told(rig, load, what)}")
        check(rig, load, what)


def test_a_hub_that_replies_before_it_commits_loses_requests(tmp_path: Path) -> None:
    """The control: the test above finds it."""
    with rigged(tmp_path, off="reply-before-commit") as rig:
        load = killed(rig, 6, RATE)
        what = found(rig, load)
        assert what.lost or what.doubled
        with pytest.raises(AssertionError):
            check(rig, load, what)
