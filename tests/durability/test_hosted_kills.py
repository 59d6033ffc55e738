"""The hub dies while a hosted provider works for it: what the provider has named is taken up again, and paid for once (jobs.md, J-19)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from sensorium.jobs.request import State
from tests.durability.hub import PROGRAM, Hub, eventually
from tests.durability.rig import ROUNDS
from tests.simulators.site import AI, KEY, Site, running

COSMOS = "nvidia/cosmos-predict1-7b"
APP = f"/fal/queue/{COSMOS}"
WORK_S = 100.0  # on the simulator's clock: three long polls are answered 202 before it ends
SETTINGS = """
[server]
probe_at_start = false
[local]
enabled = false
[router.video]
url = "http://{address}{ai}/v1/cosmos"
key_env = "FILM_KEY"
models = ["{model}"]
"""


@contextmanager
def filming(folder: Path, monkeypatch: pytest.MonkeyPatch, off: str = "") -> Iterator[tuple[Hub, Site]]:
    """A hub in front of a simulated NVIDIA."""
    monkeypatch.setenv("FILM_KEY", KEY)
    program = ("tests.durability.unsafe_program", off) if off else PROGRAM
    with running(work_s={"*": WORK_S}) as site:
        hub = Hub(folder, SETTINGS.format(address=site.address, ai=AI, model=COSMOS), program=program)
        try:
            yield hub, site
        finally:
            site.clock.held = False
            if hub.process is not None and hub.process.poll() is None:
                hub.process.kill()
                hub.process.wait()


def submitted(hub: Hub, key: str) -> str:
    """The id of a film to be, whether or not the hub lives to tell it."""
    asked = {"prompt": "a forest", "seed": 7, "video_params": {"height": 64, "width": 96, "frames_count": 5, "frames_per_sec": 24}}
    try:
        assert hub.call("POST", APP, asked, {"idempotency-key": key}).status == 200
    except (OSError, HTTPException):
        """It died before it told."""
    ((id,),) = hub.rows("SELECT id FROM requests WHERE idem_key = ?", key)
    return str(id)


def finished(hub: Hub, id: str) -> dict[str, Any]:
    """The row and the lines of a request that has succeeded, its film whole."""
    eventually(lambda: hub.rows("SELECT state FROM requests WHERE id = ?", id)[0][0] >= State.SUCCEEDED, hub.said)
    ((state, runs, deaths),) = hub.rows("SELECT state, runs, deaths FROM requests WHERE id = ?", id)
    eventually(lambda: hub.call("GET", f"{APP}/requests/{id}").status != 400, hub.said)  # it says so a moment after its disk
    result = hub.call("GET", f"{APP}/requests/{id}")
    assert (state, result.status) == (State.SUCCEEDED, 200), result
    assert hub.file(result.json["video"]["url"]).body[4:8] == b"ftyp"
    lines = [line for (line,) in hub.rows("SELECT message FROM request_logs WHERE request = ? ORDER BY attempt, number", id)]
    return {"runs": runs, "deaths": deaths, "lines": lines}


def test_killed_once_the_job_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with filming(tmp_path, monkeypatch) as (hub, site):
        for number in range(1, ROUNDS + 1):
            hub.start("job_kept")
            id = submitted(hub, f"{number}")
            hub.gone()
            hub.start()
            told = finished(hub, id)
            assert (told["runs"], told["deaths"]) == (2, 0)
            assert site.simulator.counters["invoked"] == site.simulator.counters["fetched"] == number
            assert any("is taken up again" in line for line in told["lines"])
            hub.kill()
        hub.check_files()
        hub.check_database()


def test_killed_in_the_middle_of_a_poll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with filming(tmp_path, monkeypatch) as (hub, site):
        for number in range(1, ROUNDS + 1):
            hub.start()
            site.clock.held = True  # the call waits for its first answer
            id = submitted(hub, f"{number}")
            eventually(lambda: site.clock.waiting == 1, hub.said)
            site.simulator.counters["answered 202"] = 0
            site.clock.held = False
            eventually(lambda: site.simulator.counters["answered 202"] > 0, hub.said)
            site.clock.held = True
            eventually(lambda: site.clock.waiting == 1, hub.said)  # the next poll
            hub.kill()
            eventually(lambda: site.clock.waiting == 0 or bool(site.simulator.seen), hub.said)
            site.clock.held = False
            hub.start()
            finished(hub, id)
            assert site.simulator.counters["invoked"] == site.simulator.counters["fetched"] == number
            hub.kill()
        hub.check_files()


def test_killed_before_the_job_is_kept_the_call_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window that stays open: the provider works twice, and the request ends once."""
    with filming(tmp_path, monkeypatch) as (hub, site):
        for number in range(1, ROUNDS + 1):
            hub.start("job_known")
            id = submitted(hub, f"{number}")
            hub.gone()
            hub.start()
            assert finished(hub, id)["runs"] == 2
            assert site.simulator.counters["invoked"] == 2 * number
            assert [outcome for (outcome,) in hub.rows("SELECT outcome FROM attempts WHERE request = ? ORDER BY attempt", id)] == [
                "lost",
                "succeeded",
            ]
            hub.kill()
        hub.check_files()


def test_without_the_handle_a_job_that_is_known_is_submitted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    with filming(tmp_path, monkeypatch, off="no-handle") as (hub, site):
        hub.start("job_kept")
        id = submitted(hub, "once")
        hub.gone()
        hub.start()
        finished(hub, id)
        assert site.simulator.counters["invoked"] == 2
