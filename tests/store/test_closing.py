"""A database that is closed while somebody still looks something up: the look-up ends, then it is closed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sensorium.store.database import Database, StoreUnavailable

LONG = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300000) SELECT count(*) FROM n"


@pytest.mark.parametrize("method", ["read", "search"])
def test_closing_waits_for_who_reads(tmp_path: Path, method: str) -> None:
    database, found, began = Database(tmp_path), list[int](), threading.Event()
    connection = database._reader if method == "read" else database._searcher
    connection.set_progress_handler(began.set, 1000)  # type: ignore[arg-type]
    looking = threading.Thread(target=lambda: found.append(getattr(database, method)(LONG)[0][0]))
    looking.start()
    assert began.wait(10)
    database.close()
    assert not looking.is_alive() or looking.join(10) is None
    assert found == [300_000]
    with pytest.raises(StoreUnavailable):
        getattr(database, method)("SELECT 1")
