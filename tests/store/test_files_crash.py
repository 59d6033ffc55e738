"""A hub that is killed at any step of storing or deleting files: what it said is done stays done, and nothing is half there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sensorium.store.files import STRAY_S
from sensorium.store.uploads import Part, Uploads
from tests.hub_process import ROOT, hub_environment
from tests.store.dying_files_program import DATA, POINTS
from tests.store.shelves import on_disk, shelved
from tests.store.vaults import Clock


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the program looks at /proc to tell files from folders")
@pytest.mark.parametrize("point", POINTS)
def test_a_hub_killed_at(point: str, tmp_path: Path) -> None:
    environment = hub_environment()
    environment["PYTHONPATH"] += os.pathsep + str(ROOT)
    command = [sys.executable, "-m", "tests.store.dying_files_program", str(tmp_path), point]
    died = subprocess.run(command, env=environment, cwd=ROOT, timeout=60, capture_output=True, check=False)
    assert died.returncode == -9, died.stderr.decode()
    begun, *done = died.stdout.decode().splitlines()
    text, *etags = begun.split()
    clock = Clock()
    with shelved(tmp_path, clock, quota_bytes=1_000_000, most_bytes=1_000_000) as files:
        uploads, parts = Uploads(files), [Part(number, etag) for number, etag in enumerate(etags, 1)]
        there = {file.name: file for file in files.listed("ada", 10)}
        expected = {"kept"} | ({"put"} & {*done}) | ({"parted"} if "complete" in done else set())
        assert expected <= set(there)
        assert "doomed" in there or point.startswith("discard")
        assert "doomed" not in there or "discard" not in done
        for name, file in there.items():
            whole = DATA * 2 if name == "parted" else DATA
            assert files.own(files.url(file, ""), "ada") == (whole, "a/b")
        assert uploads.complete(uploads.opened(text), parts).size == 2 * len(DATA)
        for place in on_disk(tmp_path):
            os.utime(tmp_path / "files" / place, (clock.now - STRAY_S - 1,) * 2)
        files.sweep()
        rows = sorted(place for (place,) in files.database.read("SELECT place FROM files"))
        assert on_disk(tmp_path) == rows
        assert len(rows) == len(files.listed("ada", 10)) == len({*there} | {"parted"})
