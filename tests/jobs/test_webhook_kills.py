"""A hub that is killed around the sending of a webhook: the next one sends it, under the same id, and never a third time."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from sensorium.jobs.outbox import Outbox, State
from sensorium.store.database import Database
from tests.hub_process import ROOT, hub_environment
from tests.jobs.telling_program import ID, POINTS
from tests.receivers import receiving


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_hub_sends_it_after_its_restart(tmp_path: Path, point: str) -> None:
    with receiving() as receiver:

        def life(dies_at: str) -> int:
            command = [sys.executable, "-m", "tests.jobs.telling_program", str(tmp_path), f"{receiver.base}/hook", dies_at]
            return subprocess.run(command, cwd=ROOT, env=hub_environment(), timeout=60, check=False).returncode

        assert life(point) == -signal.SIGKILL
        with closing(Database(tmp_path)) as database:
            assert (Outbox(database).log_of(ID) is None) == (point == "end not committed")
        assert life("never") == 0
        assert life("never") == 0
    assert len(receiver.got) == (2 if point == "webhook sent" else 1)
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1
    with closing(Database(tmp_path)) as database:
        found = Outbox(database).log_of(ID)
    assert found is not None
    assert (found[0].state, len(found[1])) == (State.DELIVERED, 1)
