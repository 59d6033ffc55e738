"""Vaults in a folder, as several processes would have them, and a clock that stands still until it is told to move."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sensorium.store.database import FILE, Database
from sensorium.store.masterkey import FILE as KEY
from sensorium.store.masterkey import Keeper, KeyFile
from sensorium.store.vault import Vault

HOST = "ai.api.nvidia.com"
URL = f"https://{HOST}/v1/genai"
WHO = "tester"


class Clock:
    """Seconds since the epoch, at the start of a minute."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def opened(folder: Path, keeper: Keeper | None = None, clock: Clock | None = None) -> Iterator[Vault]:
    """A vault over a database of its own, as one process has it."""
    with closing(Database(folder)) as database:
        yield Vault(database, keeper or KeyFile(folder / KEY), clock or Clock())


def meddle(folder: Path, *statements: str) -> None:
    """Change the database behind everybody's back, checks on references off."""
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def every_byte(folder: Path) -> bytes:
    """All files below a folder, one after the other."""
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())
