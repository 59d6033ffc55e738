"""Results as files in the data folder, one to a request: whole and on disk before anybody is told of them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

FOLDER = "results"


class Results:
    """The folder of results. Names are the ids of requests, which the hub made. Methods block on the disk."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, id: str, attempt: int, data: bytes) -> None:
        """Write the result of one run. It shows under its name only when it is whole and synced, and so does the folder."""
        unfinished = self._folder / f"{id}.{attempt}.part"
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._folder / id)
        _synced(self._folder)

    def get(self, id: str) -> bytes | None:
        """The result of a request, None when there is none."""
        try:
            return (self._folder / id).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, ids: Iterable[str]) -> None:
        """Delete the results of these requests."""
        for id in ids:
            (self._folder / id).unlink(missing_ok=True)

    def sweep(self, known: Collection[str]) -> None:
        """Delete what belongs to no known request: what a hub that died was writing, or about to delete."""
        for file in self._folder.iterdir():
            if file.name not in known:
                file.unlink(missing_ok=True)


def _synced(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
