"""Finished calls: written in batches, kept for a while, and no trouble of the database reaches who adds them."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sensorium.store import calls as module
from sensorium.store.calls import BATCH, Attribution, Calls, Finished
from sensorium.store.database import FILE, Database, StoreUnavailable
from sensorium.wire.usage import Usage
from tests.hub_process import hub_environment

ATTEMPT = {"provider": "a", "model": "m", "class": "transport", "status": None, "asked": True, "message": "gone", "retry_after_s": 1.5}
FULL = Finished(
    *("full", 1_800_000_000.25, "token", "/v1/chat/completions", "*", "m", "here", "chat", 200, "answered", True),
    *(0.5, 1.25, 10, 20),
    usage=Usage(1, 2, 3, 4.5, 5),
    attribution=Attribution("a", "t", "l", "c", "r", "f"),
    attempts=[ATTEMPT],
)


def finished(id: str, **changes: Any) -> Finished:
    plain = Finished(id, 1_800_000_000.0, "token", "/v1/x", "m", None, None, "chat", 503, "failed", False, None, 0.0, None, 0)
    return replace(plain, **changes)


class Broken(Database):
    """A database whose disk is full while `full` is set: SQLite refuses a page more."""

    full = False

    def write(self) -> Any:
        pages = self._writer.execute("PRAGMA page_count").fetchone()[0]
        self._writer.execute(f"PRAGMA max_page_count = {pages if self.full else 1_000_000}").fetchall()
        return super().write()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Broken]:
    with closing(Broken(tmp_path)) as database:
        yield database


@pytest.fixture
def calls(database: Broken) -> Calls:
    return Calls(database, keep_s=1000, keep=10_000, now=lambda: 1_800_000_000.0)


def ids(calls: Calls, **filters: Any) -> list[str]:
    return [call["id"] for call in calls.latest(10_000, **filters)]


def test_a_call_comes_back_as_it_was_and_unknown_stays_unknown(calls: Calls) -> None:
    for call in (FULL, finished("bare")):
        calls.add(call)
    calls.flush()
    bare, full = calls.latest(2)
    assert full == FULL.shown(1)
    assert full["began"] == "2027-01-15T08:00:00.250Z"
    assert bare == finished("bare").shown(2)
    assert set(bare["usage"].values()) | set(bare["attribution"].values()) == {None}
    assert bare["model"] is bare["first_byte_s"] is bare["bytes_in"] is None


def test_the_newest_of_an_id_is_told_with_their_number(calls: Calls) -> None:
    for caller in ("one", "two", "three"):
        calls.add(finished("same", caller=caller))
    calls.add(finished("other"))
    calls.flush()
    found, count = calls.named("same")
    assert found is not None
    assert (found["caller"], count) == ("three", 3)
    assert calls.named("none") == (None, 0)


def test_the_list_goes_back_from_a_number_and_can_be_narrowed(calls: Calls) -> None:
    for number in range(6):
        calls.add(finished(str(number), caller="ab"[number % 2], outcome=("failed", "refused", "answered")[number % 3]))
    calls.flush()
    newest = calls.latest(2)
    assert [call["id"] for call in newest] == ["5", "4"]
    assert ids(calls, before=newest[-1]["number"]) == ["3", "2", "1", "0"]
    assert ids(calls, caller="a") == ["4", "2", "0"]
    assert ids(calls, caller="a", outcome="answered") == ["2"]
    assert ids(calls, caller="a' OR 1=1 --") == []


def test_many_calls_are_written_in_their_order_in_few_transactions(calls: Calls, database: Broken) -> None:
    statements: list[str] = []
    database._writer.set_trace_callback(statements.append)
    for number in range(2 * BATCH + 1):
        calls.add(finished(str(number)))
    calls.flush()
    assert ids(calls) == [str(number) for number in reversed(range(2 * BATCH + 1))]
    assert statements.count("COMMIT") == 3


def test_old_calls_and_those_beyond_the_number_are_forgotten(database: Broken) -> None:
    now = 1_800_000_000.0
    calls = Calls(database, keep_s=1000, keep=3, now=lambda: now)
    for number in range(5):
        calls.add(finished(str(number)))
    calls.flush()
    assert ids(calls) == ["4", "3", "2"]
    now += 1001
    calls.add(finished("new", began=now))
    calls.flush()
    assert ids(calls) == ["new"]


def test_a_full_queue_loses_what_comes_and_says_how_much(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 2)
    for number in range(5):
        calls.add(finished(str(number)))
    assert calls.lost() == 3
    calls.flush()
    assert (ids(calls), calls.lost()) == (["1", "0"], 3)


@pytest.mark.parametrize("bad", [{"outcome": "vanished"}, {"status": 2**70}, {"asked": None}, {"asked": "\ud800"}, {"model": object()}])
def test_a_row_that_the_table_refuses_is_lost_alone(calls: Calls, bad: dict[str, Any]) -> None:
    for call in (finished("before"), finished("bad", **bad), finished("after")):
        calls.add(call)
    calls.flush()
    assert (ids(calls), calls.lost(), calls.waiting) == (["after", "before"], 1, 0)


def test_a_full_disk_keeps_calls_waiting_until_there_is_room(calls: Calls, database: Broken) -> None:
    database.full = True
    for number in range(BATCH + 5):
        calls.add(finished(str(number), asked="x" * 200))
    with pytest.raises(StoreUnavailable, match="full"):
        calls.flush()
    assert (ids(calls), calls.waiting, calls.lost()) == ([], BATCH + 5, 0)
    database.full = False
    calls.flush()
    assert ids(calls) == [str(number) for number in reversed(range(BATCH + 5))]


def test_what_cannot_be_written_at_the_end_is_said(calls: Calls, database: Broken, caplog: pytest.LogCaptureFixture) -> None:
    database.full = True
    for number in range(BATCH):
        calls.add(finished(str(number), asked="x" * 200))
    calls.close()
    assert f"the records of {BATCH} finished calls are lost" in caplog.text


def test_a_writer_that_meets_a_failing_database_goes_on_and_writes_later(
    calls: Calls, database: Broken, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "GATHER_S", 0.0)
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    failed: list[StoreUnavailable] = []

    def flush() -> None:
        try:
            Calls.flush(calls)
        except StoreUnavailable as error:
            failed.append(error)
            database.full = len(failed) < 3
            raise

    monkeypatch.setattr(calls, "flush", flush)

    async def main() -> None:
        writing = asyncio.create_task(calls.keep_writing())
        database.full = True
        for number in range(BATCH):
            calls.add(finished(str(number), asked="x" * 200))
        while calls.waiting:
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    asyncio.run(asyncio.wait_for(main(), 60))
    assert (len(failed), len(ids(calls)), calls.lost()) == (3, BATCH, 0)
    assert caplog.text.count("are not written yet") == 1


def test_a_long_search_does_not_hold_up_a_short_read(calls: Calls, database: Broken) -> None:
    with database._searching:
        assert database.read("SELECT generation FROM vault_state") == [(0,)]


@pytest.mark.skipif(sys.platform == "win32", reason="the process is killed by POSIX means")
def test_a_killed_process_loses_at_most_what_was_not_written(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.store.recording_program", str(tmp_path)]
    with subprocess.Popen(command, env=hub_environment(), stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        written = [process.stdout.readline().strip() for _ in range(3)]
        process.kill()
        written += process.stdout.read().split()
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        found = [row[0] for row in connection.execute("SELECT id FROM calls ORDER BY number")]
    assert found[: len(written)] == written
    assert len(found) - len(written) in (0, 1)
