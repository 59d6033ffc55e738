"""A hub in a process that can be killed and started again on the same folder and port, and what its callers see of it."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sensorium import failpoints
from tests.durability.engine import MODEL, Engine
from tests.durability.history import Seen, Submitted
from tests.hub_process import ROOT, hub_environment

APP = "/fal/queue/fal-ai/flux"
WAIT_S = 60.0
PROGRAM = ("sensorium.cli",)
STATES = {"IN_QUEUE": "QUEUED", "IN_PROGRESS": "RUNNING"}
ENDS = {"": "SUCCEEDED", "client_cancelled": "CANCELLED"}
SETTINGS = """
[server]
probe_at_start = false
grace_s = 1.0
allow_egress = [{allow}]
[local]
enabled = false
[jobs]
at_once = 64
per_model = {at_once}
keep_days = {keep_days}
[providers.stub]
kind = "engine"
base_url = "{engine}"
key = "none"
models = [{{ id = "black-forest-labs/flux.1-schnell", modality = "image" }}]
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Hub:
    """One data folder and its hub processes, one after the other. `program` is what runs instead of the `sensorium` command."""

    def __init__(self, folder: Path, settings: str, engine: Engine | None = None, program: tuple[str, ...] = PROGRAM) -> None:
        self.folder, self.port, self.engine, self.program = folder, _port(), engine or Engine(), program
        self.base = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.died = list[tuple[float, float]]()  # when a process was seen dead, on the monotonic clock and since the epoch
        self.submitted, self.seen = list[Submitted](), list[Seen]()
        self._seen_by: dict[str, int] = {}
        self._settings = folder / "sensorium.toml"
        self._settings.write_text(settings, "utf-8")

    def spawn(self, step: str = "", wrapper: tuple[str, ...] = ()) -> None:
        """Start a process, armed with a step to die at, and do not wait for it."""
        arguments = ["serve", "--port", str(self.port), "--data-dir", str(self.folder), "--settings", str(self._settings)]
        self.engine.hub += 1
        with (self.folder / "said.txt").open("ab") as said:
            self.process = subprocess.Popen(
                [*wrapper, sys.executable, "-m", *self.program, *arguments],
                cwd=ROOT,
                env=hub_environment(**({failpoints.VARIABLE: step} if step else {})),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def start(self, step: str = "", wrapper: tuple[str, ...] = ()) -> None:
        """Start a process and wait until it is ready."""
        self.spawn(step, wrapper)
        eventually(self.ready, self.said)

    def ready(self) -> bool:
        """Whether it answers. Fails when it has ended."""
        assert self.process is not None and self.process.poll() is None, self.said()
        try:
            return self.call("GET", "/readyz").status == 200
        except (OSError, HTTPException):
            return False

    def kill(self) -> None:
        """End it as the kernel ends it: no word of warning."""
        assert self.process is not None
        self.process.kill()
        self.gone()

    def gone(self) -> None:
        """Wait until it has died by a SIGKILL, its own or ours."""
        assert self.process is not None
        assert self.process.wait(WAIT_S) == -signal.SIGKILL, self.said()
        self.died.append((time.monotonic(), time.time()))

    def stop(self) -> None:
        """End it in order, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(WAIT_S)

    def said(self) -> str:
        """What the processes have printed."""
        return (self.folder / "said.txt").read_text("utf-8", "replace")[-4000:]

    def call(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, timeout: float = 30) -> Answer:
        """One call on a connection of its own. Raises OSError and HTTPException when it breaks."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with closing(connection):
            raw = None if body is None else json.dumps(body).encode()
            connection.request(method, path, raw, {"content-type": "application/json", **(headers or {})})
            reply = connection.getresponse()
            return Answer(reply.status, {name.lower(): text for name, text in reply.getheaders()}, reply.read())

    def submit(self, prompt: str, *, key: str = "", hook: str = "", embedded: bool = False, **more: Any) -> Answer:
        """Ask for a picture at fal's queue; `more` are members of the input. Raises as `call` does."""
        query = f"?fal_webhook={quote(hook, safe='')}" if hook else ""
        asked = {"prompt": prompt, "seed": 7, "sync_mode": embedded, "output_format": "png", "image_size": "square_hd", **more}
        answer = self.call("POST", f"{APP}/schnell{query}", asked, {"idempotency-key": key} if key else {})
        if answer.status == 200:
            self.submitted.append(Submitted(time.monotonic(), answer.json["request_id"], MODEL, bool(hook), key or None))
        return answer

    def status(self, id: str) -> dict[str, Any]:
        """What the queue says of a request."""
        process = self.engine.hub
        answer = self.call("GET", f"{APP}/requests/{id}/status?logs=1&wait=0")
        assert answer.status in (200, 202), answer
        told: dict[str, Any] = answer.json
        self._saw(id, told, process)
        return told

    def _saw(self, id: str, told: Mapping[str, Any], process: int) -> None:
        state = STATES.get(told["status"]) or ENDS.get(told.get("error_type", ""), "FAILED")
        started = self._seen_by.get(id, process) == process == self.engine.hub
        self._seen_by[id] = self.engine.hub
        # After a start whatever was running waits again, before all others.
        place, reason = told.get("queue_position"), None if started else "the hub was started"
        self.seen.append(Seen(time.monotonic(), id, state, told["sensorium"]["attempt"], place, reason=reason))

    def ended(self, id: str) -> dict[str, Any]:
        """The status of a request once it is completed."""
        eventually(lambda: self.status(id)["status"] == "COMPLETED", lambda: f"{self.status(id)}\n{self.said()}")
        return self.status(id)

    def result(self, id: str) -> Answer:
        """The result of a request."""
        answer = self.call("GET", f"{APP}/requests/{id}")
        if answer.status == 200:
            self.seen.append(Seen(time.monotonic(), id, "SUCCEEDED", result=hashed(answer.body), attempt=self._attempt(id)))
        return answer

    def _attempt(self, id: str) -> int:
        return next((seen.attempt for seen in reversed(self.seen) if seen.id == id), 0)

    def file(self, url: str) -> Answer:
        """A file by its link."""
        return self.call("GET", url.removeprefix(self.base))

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """What stands in the database, also beside a hub that runs. Only reads."""
        with closing(sqlite3.connect(f"file:{self.folder}/sensorium.db?mode=ro", uri=True, timeout=30)) as database:
            return database.execute(sql, values).fetchall()

    def check_files(self) -> int:
        """Every file that has a row is there, with the bytes that the row names. How many there are."""
        rows = self.rows("SELECT place, size, sha256 FROM files WHERE gone = 0")
        for place, size, sha256 in rows:
            data = (self.folder / "files" / place).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (size, sha256), place
        return len(rows)

    def check_database(self) -> None:
        """SQLite finds nothing wrong with it."""
        with closing(sqlite3.connect(self.folder / "sensorium.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def hashed(result: bytes) -> str:
    """The hash of a result, however its JSON is spaced."""
    return hashlib.sha256(json.dumps(json.loads(result), sort_keys=True).encode()).hexdigest()


def eventually(fact: Callable[[], bool], told: Callable[[], str] = str, patience: float = WAIT_S) -> None:
    """Wait until `fact` holds; fails with what is told."""
    give_up = time.monotonic() + patience
    while not fact():
        assert time.monotonic() < give_up, told() or "it did not come true"
        time.sleep(0.01)


def _port() -> int:
    """A free port that the system gives to no outgoing connection: it must stay free while no hub runs."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
