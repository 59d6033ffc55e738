"""Files in a folder as a hub has them, with limits small enough to meet, and a clock that stands still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sensorium.store.files import Files
from sensorium.store.signing import Signing
from sensorium.store.uploads import Uploads
from tests.store.vaults import Clock, opened

LIMITS: dict[str, Any] = {"quota_bytes": 1000, "most_bytes": 600, "kept_s": 1000.0}


@contextmanager
def shelved(folder: Path, clock: Clock | None = None, **limits: Any) -> Iterator[Files]:
    """Files with room for `quota_bytes` to an owner, `most_bytes` to a file, kept for `kept_s` seconds."""
    with opened(folder) as vault:
        yield Files(vault._database, folder, Signing(vault), **{**LIMITS, **limits}, now=clock or Clock())


@contextmanager
def uploading(folder: Path, clock: Clock | None = None, **limits: Any) -> Iterator[Uploads]:
    """Uploads into such files."""
    with shelved(folder, clock, **limits) as files:
        yield Uploads(files)


def on_disk(folder: Path) -> list[str]:
    """What lies below the folder of files, by path."""
    root = folder / "files"
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if not path.is_dir())
