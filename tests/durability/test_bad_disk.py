"""A disk that is full, and one that fails under a sync: what was acknowledged stays, what cannot be kept is refused (jobs.md, J-22)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from sensorium.store.writer import IO_ERROR_EXIT
from tests.durability.engine import Act
from tests.durability.hub import APP, eventually
from tests.durability.rig import Rig, picture, rigged
from tests.durability.trace import failing

SIZE, PIECE = "24m", 64 * 1024
TRIES = 300


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own with little room. Fails where this user may not mount one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], capture_output=True, check=False)
    assert mounted.returncode == 0, f"this test mounts a small file system, which takes root: {mounted.stderr.decode()}"
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(filler: Path) -> None:
    """Leave no room at all."""
    with filler.open("ab", buffering=0) as file:
        size = PIECE
        while size:
            try:
                if file.write(b"x" * size) < size:
                    size //= 2
            except OSError:
                size //= 2


def refused(rig: Rig, acknowledged: list[str]) -> bool:
    """Submit until that is refused, as clearly as it can be."""
    for number in range(TRIES):
        answer = rig.hub.submit(f"{number} " + "more " * 1000, hook=rig.hook)
        if answer.status != 200:
            assert answer.status == 503 and "retry-after" in answer.headers, answer
            return True
        acknowledged.append(answer.json["request_id"])
    return False


def test_a_full_disk_refuses_submissions_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as folder, rigged(folder) as rig:
        rig.hub.start()
        acknowledged = [rig.hub.submit("before", hook=rig.hook).json["request_id"]]
        rig.hub.ended(acknowledged[0])
        result = rig.hub.result(acknowledged[0])
        rig.engine.acts["meanwhile"] = [Act(held=True, large=True)]
        acknowledged.append(rig.hub.submit("meanwhile", hook=rig.hook).json["request_id"])
        eventually(lambda: len(rig.engine.runs("meanwhile")) == 1)
        fill(folder / "filler")
        assert refused(rig, acknowledged)
        rig.engine.released.set()  # its picture cannot be kept now
        for _ in range(3):
            assert rig.hub.result(acknowledged[0]).body == result.body
            assert rig.hub.file(picture(result.json)).status == 200
            assert rig.hub.call("GET", f"{APP}/requests").status == 200
            assert refused(rig, acknowledged)
        assert rig.hub.process is not None and rig.hub.process.poll() is None
        (folder / "filler").unlink()
        acknowledged.append(rig.hub.submit("after", hook=rig.hook).json["request_id"])
        for id in acknowledged:
            assert rig.hub.ended(id).get("error") is None
        eventually(lambda: rig.hub.rows("SELECT count(*) FROM outbox WHERE state = 0") == [(0,)], rig.hub.said)
        rig.check_all()


def test_a_disk_that_fails_under_a_sync_ends_the_hub_and_the_next_one_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    with rigged(tmp_path) as rig:
        rig.hub.start(wrapper=failing("fdatasync", 60))
        acknowledged = list[str]()
        try:
            for number in range(TRIES):
                answer = rig.hub.submit(f"{number}", hook=rig.hook)
                assert answer.status == 200
                acknowledged.append(answer.json["request_id"])
        except (OSError, HTTPException):
            """It has ended."""
        assert rig.hub.process is not None
        assert rig.hub.process.wait(30) == IO_ERROR_EXIT
        rig.hub.died.append((time.monotonic(), time.time()))
        assert 0 < len(acknowledged) < TRIES
        rig.hub.start()
        for id in acknowledged:
            assert rig.hub.ended(id).get("error") is None
            rig.told(id)
        rig.check_all()
