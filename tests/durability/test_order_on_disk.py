"""The system calls of finishes with large results: data, sync, name, the folder's sync, the row, its sync, and only then the word."""

from __future__ import annotations

from pathlib import Path

from tests.durability.engine import Act
from tests.durability.hub import eventually
from tests.durability.rig import FINISHES, Rig, rigged
from tests.durability.trace import Call, acknowledged, problems, read, tracing


def traced(rig: Rig, folder: Path, count: int, *, wait: bool = True) -> tuple[list[Call], list[str]]:
    """The system calls of so many requests; every second one has its picture inside its result, the others in a file."""
    trace = folder / "trace.txt"
    rig.engine.usual = lambda: Act(large=True)
    rig.hub.start(wrapper=tracing(trace))
    ids = []
    for number in range(count):
        ids.append(rig.hub.submit(f"{number}", hook=rig.hook, embedded=number % 2 == 1).json["request_id"])
        if wait:
            rig.hub.ended(ids[-1])
            rig.told(ids[-1])
    rig.hub.stop()
    eventually(lambda: "+++ exited" in trace.read_text("utf-8", "replace")[-2000:])
    return read(trace.read_text("utf-8", "replace")), ids


def wrong(rig: Rig, folder: Path, calls: list[Call], ids: list[str]) -> list[str]:
    """What was done in another order than promised."""
    found = []
    for number, id in enumerate(ids):
        if number % 2 == 1:
            written = [folder / "results" / id, folder / "results" / f"{id}.spool"]
        else:
            written = [folder / "files" / place for (place,) in rig.hub.rows("SELECT place FROM files WHERE request = ?", id)]
        assert written
        found += problems(calls, id, written)
    return found


def test_nothing_is_told_before_it_is_on_disk(tmp_path: Path) -> None:
    with rigged(tmp_path) as rig:
        assert wrong(rig, tmp_path, *traced(rig, tmp_path, FINISHES)) == []


def test_without_the_sync_of_folders_that_is_found(tmp_path: Path) -> None:
    """A control."""
    with rigged(tmp_path, off="no-folder-sync") as rig:
        found = wrong(rig, tmp_path, *traced(rig, tmp_path, 4))
        assert len([problem for problem in found if "the folder of" in problem]) == 6  # two files, two results with their spools
        assert len(found) == 6


def test_a_reply_before_the_commit_is_found(tmp_path: Path) -> None:
    """A control."""
    with rigged(tmp_path, off="reply-before-commit") as rig:
        calls, ids = traced(rig, tmp_path, 2, wait=False)
        assert [acknowledged(calls, id) for id in ids] == [False, False]
