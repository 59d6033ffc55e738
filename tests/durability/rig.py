"""An engine, a receiver of webhooks and a hub process between them, and what must hold of every request when all is over."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.jobs.request import State
from tests.durability.engine import MODEL, Engine
from tests.durability.history import Delivered, History, Logged, Row, violations
from tests.durability.history import Ran as RanOf
from tests.durability.hooks import Hooks
from tests.durability.hub import PROGRAM, SETTINGS, Hub, eventually, hashed
from tests.receivers import Got
from tests.serving import serving

ROUNDS = int(os.environ.get("SENSORIUM_DURABILITY_ROUNDS", "5"))  # of every step that kills the hub
KILLS = int(os.environ.get("SENSORIUM_DURABILITY_KILLS", "25"))  # at random moments, under load
RATE = float(os.environ.get("SENSORIUM_DURABILITY_RATE", "40"))  # submissions a second of that load
AT_ONCE = 16  # requests that run at the same time
FINISHES = int(os.environ.get("SENSORIUM_DURABILITY_FINISHES", "20"))  # whose system calls are read


@dataclass(frozen=True, slots=True)
class Rig:
    """The parts; `hook` is where the receiver is."""

    hub: Hub
    engine: Engine
    hooks: Hooks
    hook: str

    def row(self, id: str) -> tuple[State, int, int, int]:
        """State, attempt, runs and deaths of a request."""
        ((state, attempt, runs, deaths),) = self.hub.rows("SELECT state, attempt, runs, deaths FROM requests WHERE id = ?", id)
        return State(state), attempt, runs, deaths

    def of_key(self, key: str) -> list[str]:
        """The requests that an idempotency key has made."""
        return [id for (id,) in self.hub.rows("SELECT id FROM requests WHERE idem_key = ?", key)]

    def over(self, id: str) -> State:
        """The state of a request once it is terminal, by the database alone: nobody calls the hub before."""
        eventually(lambda: self.row(id)[0] >= State.SUCCEEDED, self.hub.said)
        self.hub.ended(id)  # it says so a moment after its disk
        return self.row(id)[0]

    def told(self, id: str, times: int = 1) -> None:
        """Wait until the receiver has heard of a request so often, and the hub has written that down."""
        eventually(lambda: len(self.hooks.of(id)) >= times, self.hub.said)
        eventually(lambda: self.hub.rows("SELECT state FROM outbox WHERE request_id = ?", id) == [(1,)], self.hub.said)

    def check(self, id: str, prompt: str, *, runs: int, starts: int) -> None:
        """It succeeded once, after so many runs, of which so many reached the engine; its result is what its webhook says, its picture
        can be read, and it was told of under one id."""
        state, attempt, counted, deaths = self.row(id)
        assert (state, attempt, counted, deaths) == (State.SUCCEEDED, runs, runs, 0)
        assert len(self.engine.runs(prompt)) == starts
        result = self.hub.result(id)
        assert result.status == 200 and self.hub.result(id).body == result.body
        (picture,) = result.json["images"]
        if not picture["url"].startswith("data:"):
            data = self.hub.file(picture["url"])
            sha256 = self.hub.rows("SELECT sha256 FROM files WHERE request = ? AND gone = 0", id)
            assert data.status == 200 and (hashlib.sha256(data.body).hexdigest(),) in sha256
        self.told(id)
        assert len(self.hooks.ids(id)) == 1
        assert {got.headers["content-type"] for got in self.hooks.of(id)} == {"application/json"}
        assert all(got.told["payload"] == result.json for got in self.hooks.of(id))

    def history(self) -> History:
        """What callers, the engine and the receiver have seen, and what is on disk."""
        rows, sql = list[Row](), "SELECT id, state, attempt, output FROM requests"
        for id, state, attempt, output in self.hub.rows(sql):
            file = self.hub.folder / "results" / id
            body = output or (file.read_bytes() if file.exists() else None)
            attempts = self.hub.rows("SELECT attempt FROM attempts WHERE request = ? ORDER BY attempt", id)
            result = hashed(body) if state == State.SUCCEEDED and body else None
            rows.append(Row(id, State(state).name, attempt, result, tuple(number for (number,) in attempts)))
        lost = self.hub.rows("SELECT request, attempt, ended FROM attempts WHERE outcome = 'lost'")
        cut_off = {(id, attempt): max((at for at, wall in self.hub.died if wall <= ended), default=None) for id, attempt, ended in lost}
        return History(
            submitted=list(self.hub.submitted),
            seen=list(self.hub.seen),
            runs=[
                RanOf(ran.id, ran.attempt, ran.began, ran.ended, MODEL, cut_off.get((ran.id, ran.attempt))) for ran in self.engine.journal
            ],
            delivered=[_delivered(got) for _, got in self.hooks.got],
            logged=[
                Logged(*line)
                for line in self.hub.rows("SELECT request, attempt, number FROM request_logs ORDER BY request, attempt, number")
            ],
            rows=rows,
            limits={MODEL: AT_ONCE},
        )

    def check_all(self) -> None:
        """What holds of the whole folder, and of all that was seen; the hub is stopped."""
        keys = self.hub.call("GET", "/.well-known/jwks.json").json["keys"]
        self.hooks.check(keys)
        self.hub.stop()
        self.hub.check_files()
        self.hub.check_database()
        found = violations(self.history())
        assert not found, "\n".join(map(str, found[:20]))


@contextmanager
def rigged(folder: Path, *, off: str = "", keep_days: float = 30.0) -> Iterator[Rig]:
    """A rig whose hub is not started yet; `off` is a protection to do without, `keep_days` how long payloads are kept."""
    engine, hooks = Engine(), Hooks()
    with serving(engine) as model, serving(hooks) as hook:
        allow = f'"{hook.removeprefix("http://")}"'
        settings = SETTINGS.format(allow=allow, engine=f"{model}/v1", at_once=AT_ONCE, keep_days=keep_days)
        program = ("tests.durability.unsafe_program", off) if off else PROGRAM
        hub = Hub(folder, settings, engine, program)
        try:
            yield Rig(hub, engine, hooks, f"{hook}/hook")
        finally:
            engine.released.set()
            if hub.process is not None and hub.process.poll() is None:
                hub.process.kill()
                hub.process.wait()


def _delivered(got: Got) -> Delivered:
    result = hashed(json.dumps(got.told["payload"]).encode()) if got.told["status"] == "OK" else None
    return Delivered(0.0, got.told["request_id"], got.headers["webhook-id"], result)


def picture(result: Any) -> str:
    """Where the picture of a result is."""
    url: str = result["images"][0]["url"]
    return url
