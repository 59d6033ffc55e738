"""A database of the hub before the queue, with videos in every state, becomes one of today: nothing is lost."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from sensorium.jobs.request import State
from sensorium.store.database import FILE, SCHEMA, Database
from tests.jobs.queues import claimed, put, table
from tests.store.vaults import Clock

CALL = {"model": "nvidia/cosmos", "modality": "video", "id": "call-1", "dialects": ["genai"], "asked": {"prompt": "a cat"}}
BEFORE = [  # seq, id, state, attempt, told, input, claimed, finished
    (1, "waiting", 0, 0, {}, b'{"prompt": "1"}', None, None),
    (2, "again", 0, 3, {}, b'{"prompt": "2"}', 50.0, None),
    (3, "running", 1, 1, {}, b'{"prompt": "3"}', 60.0, None),
    (5, "made", 2, 1, {"headers": {"content-type": "video/mp4"}}, b"", 70.0, 80.0),
    (8, "failed", 3, 2, {"status": 422, "code": "bad", "message": "no such thing"}, b"", 70.0, 90.0),
]


def before(folder: Path) -> None:
    """A data folder as the schema of then left it."""
    old = folder / "old"
    old.mkdir()
    for file in sorted(SCHEMA.glob("000[123]_*.sql")):
        shutil.copy(file, old)
    with closing(Database(folder, old)):
        pass
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as db:
        for seq, id, state, attempt, told, body, claimed_at, finished_at in BEFORE:
            row = (seq, id, "someone", json.dumps(CALL), body, state, attempt, json.dumps(told), 10.0 + seq, claimed_at, finished_at)
            columns = "seq, id, caller, call, input, state, attempt, told, created_at, claimed_at, finished_at"
            db.execute(f"INSERT INTO requests ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def test_every_video_is_a_request(tmp_path: Path) -> None:
    before(tmp_path)

    async def does() -> None:
        async with table(tmp_path) as requests:
            found = {one.id: one for one in requests.listed("someone", 99, newest_first=False)}
            assert list(found) == [row[1] for row in BEFORE]
            for seq, id, state, attempt, told, body, claimed_at, finished_at in BEFORE:
                one = found[id]
                assert (one.seq, one.attempt, one.runs, one.told, one.call) == (seq, attempt, attempt, told, CALL)
                assert (one.work, one.app, one.lane, one.caller) == ("video", "video", "nvidia/cosmos", "someone")
                assert (one.created_at, one.claimed_at, one.finished_at) == (10.0 + seq, claimed_at, finished_at)
                assert (requests.input(id) or b"") == body
                assert one.state is [State.QUEUED, State.RUNNING, State.SUCCEEDED, State.FAILED][state]
                assert one.rules.no_retry  # as it was then
            assert [found[id].status for id in found] == [None, None, None, 200, 422]

    asyncio.run(does())


def test_the_queue_goes_on_with_them(tmp_path: Path) -> None:
    before(tmp_path)

    async def does() -> None:
        async with table(tmp_path) as requests:
            (orphan,) = await requests.recover(lambda request: None, 10, 1e6, ())
            assert (orphan.id, orphan.state) == ("running", State.QUEUED)
            order = [one.id for one in await claimed(requests, 9, lane="nvidia/cosmos")]
            assert order == ["waiting", "again", "running"]

    asyncio.run(does())


def test_those_that_are_over_expire(tmp_path: Path) -> None:
    before(tmp_path)
    clock = Clock()
    clock.now = 85.0 + 30 * 86_400

    async def does() -> None:
        async with table(tmp_path, clock) as requests:
            assert await requests.expire(1e6) == (["made"], False)
            clock.now += 10.0
            assert await requests.expire(1e6) == (["failed"], False)
            assert requests.kept(["waiting", "again", "running", "made", "failed"]) == {"waiting", "again", "running"}

    asyncio.run(does())


def test_a_new_request_never_takes_an_old_place(tmp_path: Path) -> None:
    before(tmp_path)

    async def does() -> None:
        async with table(tmp_path) as requests:
            await requests.remove("someone", "failed")
            assert (await put(requests)).seq == 9

    asyncio.run(does())
