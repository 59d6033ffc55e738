"""A hub with one protection off, for controls: `python -m tests.durability.unsafe_program PROTECTION serve ...`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from sensorium import cli
from sensorium.jobs import again, results
from sensorium.jobs.requests import Requests
from sensorium.jobs.results import Results
from sensorium.store import objects, writer
from sensorium.store.writer import Writer

LATE_S = 0.1


def reply_before_commit() -> None:
    """Whoever waits is told what a change made before it is on disk."""

    def commit(self: Writer, batch: Any) -> None:
        with self.database.write() as db:
            ended = [(future, *writer._made(db, change)) for change, future in batch]
            batch[0][1].get_loop().call_soon_threadsafe(writer._tell, ended)
            time.sleep(LATE_S)

    Writer._commit = commit  # type: ignore[method-assign]


def no_folder_sync() -> None:
    """A file's name may be lost with the power."""
    objects.synced = lambda folder: None
    results.synced = lambda folder: None


def no_recovery() -> None:
    """What a dead hub was running stays as it is."""

    async def nothing(self: Requests, *args: Any) -> list[Any]:
        return []

    Requests.recover = nothing  # type: ignore[method-assign,assignment]


def no_spool() -> None:
    """What a dead hub had made and could not write down is not looked for."""
    Results.spooled = lambda self, running: None  # type: ignore[method-assign]


def no_death_count() -> None:
    """What ends its engine is tried as often as anything else."""
    again.MOST_DEATHS = 99  # type: ignore[misc]


def no_handle() -> None:
    """Where a provider works on a request is forgotten with the process."""

    async def nothing(self: Requests, *args: Any) -> None:
        """Nothing is kept."""

    Requests.keep = nothing  # type: ignore[method-assign]


OFF: dict[str, Callable[[], None]] = {
    one.__name__.replace("_", "-"): one for one in (reply_before_commit, no_folder_sync, no_recovery, no_spool, no_death_count, no_handle)
}

if __name__ == "__main__":
    OFF[sys.argv.pop(1)]()
    cli.main()
