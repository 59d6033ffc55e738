"""Large inputs and results as files in the data folder: whole and on disk before anybody is told of them.

A result that could not be had a second time is spooled: beside its body stands what the row will say, so that a hub that dies between the
two writes finishes the request from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import msgspec

from sensorium import failpoints
from sensorium.jobs.request import Made, Request
from sensorium.store.objects import synced

FOLDER = "results"
INPUT = ".in"  # the ending of an input's name


class Spooled(msgspec.Struct):
    """What a spool says beside the body."""

    attempt: int
    status: int
    told: dict[str, Any]
    files: tuple[str, ...]


class Results:
    """The folder of results. Names are the ids of requests, which the hub made. Methods block on the disk."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def put(self, id: str, attempt: int, data: bytes) -> None:
        """Write the result of one run. It shows under its name only when it is whole and synced, and so does the folder."""
        unfinished = self._folder / f"{id}.{attempt}.part"
        try:
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self._folder / id)
        except OSError:
            unfinished.unlink(missing_ok=True)  # a full disk needs the room
            raise
        synced(self._folder)

    def get(self, id: str) -> bytes | None:
        """The result of a request, None when there is none."""
        try:
            return (self._folder / id).read_bytes()
        except FileNotFoundError:
            return None

    def spool(self, running: Request, made: Made) -> None:
        """Write what a run made, before its end is in the database."""
        self.put(running.id, running.attempt, made.body)
        failpoints.reach("result_half_spooled")
        self.put(
            _spool(running.id), running.attempt, msgspec.json.encode(Spooled(running.attempt, made.status, dict(made.told), made.files))
        )

    def spooled(self, running: Request) -> Made | None:
        """What this run had made when its hub died; None when there is nothing whole."""
        raw, body = self.get(_spool(running.id)), self.get(running.id)
        if raw is None or body is None:
            return None
        try:
            said = msgspec.json.decode(raw, type=Spooled)
        except msgspec.DecodeError:
            return None
        return Made(body, said.status, said.told, said.files) if said.attempt == running.attempt else None

    def unspool(self, ended: Request, filed: bool) -> None:
        """The end is in the database; the body stays when it is not."""
        self.remove([_spool(ended.id)] if filed else [_spool(ended.id), ended.id])

    def remove(self, ids: Iterable[str]) -> None:
        """Delete the results of these requests."""
        for id in ids:
            (self._folder / id).unlink(missing_ok=True)

    def sweep(self, kept: Callable[[Collection[str]], Collection[str]]) -> None:
        """Delete what belongs to no request: what a hub that died was writing, or about to delete. `kept` says of some ids which have a
        payload; it is asked about those only of which something lies here."""
        lying = {name: name.removesuffix(INPUT) for name in os.listdir(self._folder)}
        known = kept({id for id in lying.values() if id.isascii()})  # of other names none is ours, and not all are text
        for name, id in lying.items():
            if id not in known:
                (self._folder / name).unlink(missing_ok=True)


def input_name(id: str) -> str:
    """The file of a request's input."""
    return f"{id}{INPUT}"


def _spool(id: str) -> str:
    return f"{id}.spool"
