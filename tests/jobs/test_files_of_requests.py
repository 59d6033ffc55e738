"""Files that requests made: erased with them, and with runs that a hub has lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sensorium.jobs.request import Made, Request, State
from sensorium.jobs.run import Run
from sensorium.store.files import File, Files, UnknownFile
from tests.jobs.queues import ASKED, claimed, put, queue, table
from tests.store.shelves import on_disk, shelved


def stored(files: Files, request: str, owner: str = "a") -> File:
    return files.put(b"bytes", owner=owner, content_type="image/png", name="a.png", request=request)


def test_a_removed_request_takes_its_files_along_and_nobody_elses(tmp_path: Path) -> None:
    async def beside() -> None:
        with shelved(tmp_path) as files:

            async def work(run: Run) -> Made:
                await asyncio.to_thread(stored, files, run.request.id)
                return Made(b"1")

            async with queue(tmp_path, work) as jobs:
                request, _ = await jobs.submit(ASKED)
                other, _ = await jobs.submit(ASKED)
                await jobs.ended(request)
                await jobs.ended(other)
                namesake = stored(files, request.id, "b")  # whose own call had chosen the same id
                await jobs.remove("a", request.id)
                assert [file.request for file in files.listed("a", 9)] == [other.id]
                assert files.of("b", namesake.key) == namesake
            files.sweep()
            assert len(on_disk(tmp_path)) == 2

    asyncio.run(beside())


@pytest.mark.parametrize(
    ("spooled", "cancelled", "state", "kept"),
    [
        (None, False, State.QUEUED, False),
        (None, True, State.CANCELLED, False),
        (Made(b"1"), False, State.SUCCEEDED, True),
    ],
)
def test_files_of_a_lost_run_go_where_its_result_is_lost(
    tmp_path: Path, spooled: Made | None, cancelled: bool, state: State, kept: bool
) -> None:
    async def beside() -> None:
        async with table(tmp_path) as requests:
            with shelved(tmp_path) as files:
                waits = await put(requests)
                await claimed(requests)
                file = stored(files, waits.id)
                if cancelled:
                    await requests.cancel("a", waits.id)
                (found,) = await requests.recover(lambda request: spooled, 10, 1.0, ())
                assert found.state is state
                if kept:
                    assert files.of("a", file.key) == file
                else:
                    with pytest.raises(UnknownFile):
                        files.of("a", file.key)
                assert files.sweep() == (0 if kept else 1)

    asyncio.run(beside())


def test_a_request_that_waits_has_none_and_is_removed_as_well(tmp_path: Path) -> None:
    async def beside() -> Request:
        async with table(tmp_path) as requests:
            waits = await put(requests)
            return await requests.remove("a", waits.id)

    assert asyncio.run(beside()).waits
