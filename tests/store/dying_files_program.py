"""A put, a completed upload and a deletion in a process that kills itself: `python -m tests.store.dying_files_program FOLDER POINT`.

Prints what it was told is done, one word to a line, before it goes on.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from sensorium.store import objects
from sensorium.store.uploads import Uploads
from sensorium.wire.lifecycle import KEPT
from tests.store.shelves import shelved

POINTS = (
    *("put: bytes not synced", "put: folder not synced", "put: row not committed", "put: done"),
    *("complete: whole file not synced", "complete: row not committed", "complete: parts not deleted", "complete: done"),
    *("discard: mark not committed", "discard: bytes not deleted", "discard: row not deleted", "discard: done"),
)
DATA = b"data" * 1000
doing = ""


def pass_by(point: str) -> None:
    if f"{doing}: {point}" == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)


def watch(statement: str) -> None:
    """Called by SQLite before each statement of the writing connection."""
    if statement == "COMMIT":
        pass_by("row not committed")
        pass_by("mark not committed")
    elif statement.startswith("DELETE FROM files"):
        pass_by("row not deleted")


def fsync(descriptor: int) -> None:
    folder = Path(f"/proc/self/fd/{descriptor}").is_dir()
    pass_by("folder not synced" if folder else "bytes not synced")
    pass_by("whole file not synced")
    synced(descriptor)


def remove(self: objects.Objects, places: list[str]) -> None:
    pass_by("parts not deleted")
    pass_by("bytes not deleted")
    removed(self, places)


if __name__ == "__main__":
    synced, removed = os.fsync, objects.Objects.remove
    with shelved(Path(sys.argv[1]), quota_bytes=1_000_000, most_bytes=1_000_000) as files:
        uploads = Uploads(files)
        ticket, text = uploads.ticket("ada", "a/b", "parted", KEPT)
        parts = []
        for number in (1, 2):
            incoming = uploads.begin(ticket)
            incoming.write(DATA)
            parts.append(uploads.finish_part(ticket, number, incoming))
        doomed = files.put(DATA, owner="ada", content_type="a/b", name="doomed")
        files.put(DATA, owner="ada", content_type="a/b", name="kept")
        files.database._writer.set_trace_callback(watch)
        os.fsync, objects.Objects.remove = fsync, remove  # type: ignore[assignment,method-assign]
        print(text, *(part.etag for part in parts), flush=True)
        for doing, work in (
            ("put", lambda: files.put(DATA, owner="ada", content_type="a/b", name="put")),
            ("complete", lambda: uploads.complete(ticket, parts)),
            ("discard", lambda: files.discard([doomed.key])),
        ):
            work()
            print(doing, flush=True)
            pass_by("done")
