"""What was done with secrets, by whom and when: never a value. Changes are written with the change, uses are counted per minute."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import astuple, dataclass
from sqlite3 import Connection
from typing import Literal

from sensorium.store.database import Database

Action = Literal["put", "rotate", "rollback", "remove", "disable", "enable", "rekey", "reveal", "refuse"]
KEPT_S = 400 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the audit. `at` is in seconds since the epoch; for uses (reveal, refuse) it is the start of the minute
    in which they were counted. `version` is 0 and `name` or `host` "" where there is none."""

    at: int
    who: str
    action: Action
    name: str = ""
    version: int = 0
    host: str = ""
    count: int = 1


Use = tuple[int, str, Action, str, int, str]


class Uses:
    """Counts uses in memory, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Use] = Counter()

    def count(self, at: int, who: str, action: Action, name: str, version: int, host: str) -> None:
        """One more use; only the minute of its time is kept."""
        with self._lock:
            self._counts[at - at % 60, who, action, name, version, host] += 1

    def take(self) -> list[Row]:
        """Everything counted so far, which is then forgotten here."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return [Row(*use, count) for use, count in taken.items()]

    def put_back(self, rows: list[Row]) -> None:
        """What `take` gave and could not be written."""
        with self._lock:
            for row in rows:
                self._counts[row.at, row.who, row.action, row.name, row.version, row.host] += row.count


def write(db: Connection, row: Row) -> None:
    """Append a row; uses of the same minute are added up."""
    db.execute(
        "INSERT INTO vault_audit (at, who, action, name, version, host, count) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (at, who, action, name, version, host) WHERE action IN ('reveal', 'refuse')"
        " DO UPDATE SET count = count + excluded.count",
        astuple(row),
    )


def prune(db: Connection, now: int) -> None:
    """Forget what is older than 400 days."""
    db.execute("DELETE FROM vault_audit WHERE at < ?", (now - KEPT_S,))


def read(database: Database, limit: int, name: str | None = None) -> list[Row]:
    """The last rows, newest first; of one secret when `name` is given."""
    columns = "SELECT at, who, action, name, version, host, count FROM vault_audit"
    if name is None:
        return [Row(*row) for row in database.read(f"{columns} ORDER BY at DESC, id DESC LIMIT ?", limit)]
    return [Row(*row) for row in database.read(f"{columns} WHERE name = ? ORDER BY at DESC, id DESC LIMIT ?", name, limit)]
