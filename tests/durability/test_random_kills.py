"""The hub is killed at random moments under a steady load, and started again at once (jobs.md, J-02)."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from sensorium.jobs.request import State
from tests.durability.engine import Act
from tests.durability.history import violations
from tests.durability.hub import PROGRAM, eventually
from tests.durability.load import Load, loaded
from tests.durability.rig import KILLS, RATE, Rig, rigged

SHORTEST_S, LONGEST_S = 0.3, 2.5  # of a hub's life, from the start of its process: some die before they are ready
WORK_S = (0.0, 0.02, 0.1, 0.3)


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


def check(rig: Rig, load: Load) -> None:
    """Everybody fetches everything once more, and all that anybody saw is held together."""
    for id, key, state, runs in rig.hub.rows("SELECT id, idem_key, state, runs FROM requests"):
        assert state == State.SUCCEEDED and 1 <= len(rig.engine.runs(key)) <= runs <= 10, (id, state, runs)
        assert load.look(id)
    rig.check_all()
    assert load.refused == []


def told(rig: Rig, load: Load) -> str:
    """The figures of a load."""
    found = Counter(one.kind for one in violations(rig.history()))
    runs = Counter(runs for (runs,) in rig.hub.rows("SELECT runs FROM requests"))
    tries, replayed = sum(one.tries for one in load.acknowledged), sum(one.replayed for one in load.acknowledged)
    return (
        f"{len(load.acknowledged)} acknowledged in {tries} tries ({replayed} replayed), {found['lost']} lost, {found['doubled']} doubled,"
        f" {found['overwritten']} changed, {found['no hook']} not told of once, {found.total()} violations in all; requests by runs"
        f" {dict(sorted(runs.items()))}; {len(rig.hooks.got)} webhooks, {len(rig.hub.seen)} looks"
    )


def test_nothing_is_lost_and_nothing_is_done_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with rigged(tmp_path) as rig:
        begun = time.monotonic()
        load = killed(rig, KILLS, RATE)
        with capsys.disabled():
            print(f"\n{KILLS} kills in {time.monotonic() - begun:.0f} s: {told(rig, load)}")
        check(rig, load)


def test_a_hub_that_replies_before_it_commits_loses_requests(tmp_path: Path) -> None:
    """The control."""
    with rigged(tmp_path, off="reply-before-commit") as rig:
        killed(rig, 6, RATE)
        assert {"lost", "doubled"} & {one.kind for one in violations(rig.history())}
