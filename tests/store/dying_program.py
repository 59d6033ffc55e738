"""`rekey` in a process that kills itself at a named point: `python -m tests.store.dying_program FOLDER POINT`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from sensorium.store.database import Database
from sensorium.store.masterkey import KeyFile
from sensorium.store.sealing import MasterKey
from sensorium.store.vault import Vault

POINTS = ("before staging", "staged", "first value wrapped", "first head sealed", "all wrapped", "committed", "settled")
ENDS_WITH_THE_OLD_KEY = POINTS[:5]
STATEMENTS = {"UPDATE secret_versions": "first value wrapped", "UPDATE secrets": "first head sealed", "COMMIT": "all wrapped"}


def pass_by(point: str) -> None:
    if point == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)


class DyingFile(KeyFile):
    """A key file whose process may die before and after each step."""

    def stage(self, key: MasterKey) -> None:
        pass_by("before staging")
        super().stage(key)
        pass_by("staged")

    def settle(self, key: MasterKey) -> None:
        staged = key in self.candidates()[:-1]
        if staged:
            pass_by("committed")
        super().settle(key)
        if staged:
            pass_by("settled")


def watch(statement: str) -> None:
    """Called by SQLite before each statement of the writing connection."""
    for start, point in STATEMENTS.items():
        if statement.startswith(start) and (start != "COMMIT" or database._writer.in_transaction):
            pass_by(point)


if __name__ == "__main__":
    database = Database(Path(sys.argv[1]))
    vault = Vault(database, DyingFile(Path(sys.argv[1]) / "master.key"))
    database._writer.set_trace_callback(watch)
    vault.rekey(who="tester")
