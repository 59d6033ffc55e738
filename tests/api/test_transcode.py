"""The program that makes WAV is bounded: it ends with its time, and when its caller leaves."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from sensorium.api import transcode
from sensorium.errors import DeadlineExceeded, Unprocessable

HANGS = f"#!{sys.executable}\nimport os, pathlib, time\npathlib.Path({{note!r}}).write_text(str(os.getpid()))\ntime.sleep(600)\n"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that notes its process id and then hangs."""
    hangs = tmp_path / "ffmpeg"
    hangs.write_text(HANGS.format(note=str(tmp_path / "pid")), "utf-8")
    hangs.chmod(0o755)
    return hangs


def gone(note: Path) -> bool:
    """Whether the process that wrote `note` has ended; True where it never came that far."""
    if not note.exists() or not note.read_text():
        return True
    try:
        os.kill(int(note.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


def test_it_ends_with_its_time(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcode, "LONGEST_S", 0.01)
    with pytest.raises(DeadlineExceeded, match="send WAV"):
        asyncio.run(transcode.to_wav(b"ID3", "audio/mpeg", str(program)))
    assert gone(program.parent / "pid")


def test_it_ends_when_its_caller_leaves(program: Path) -> None:
    note = program.parent / "pid"

    async def main() -> None:
        working = asyncio.create_task(transcode.to_wav(b"ID3", "audio/mpeg", str(program)))
        async with asyncio.timeout(20):
            while not note.exists() or not note.read_text():
                await asyncio.sleep(0.01)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    asyncio.run(main())
    assert gone(note)


def test_a_result_beyond_the_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = tmp_path / "ffmpeg"
    writes.write_text(f"#!{sys.executable}\nimport sys\nopen(sys.argv[-1].removeprefix('file:'), 'wb').write(bytes(200))\n", "utf-8")
    writes.chmod(0o755)
    assert asyncio.run(transcode.to_wav(b"ID3", "audio/mpeg", str(writes))) == bytes(200)
    monkeypatch.setattr(transcode, "MOST_BYTES", 200)
    with pytest.raises(Unprocessable, match="longer than"):
        asyncio.run(transcode.to_wav(b"ID3", "audio/mpeg", str(writes)))
