"""The bytes of files below one folder: written in pieces, synced with every folder above them, never overwritten.

A place is `yyyy/mm/dd/` and a name, made by the hub alone; nothing that a caller sent becomes part of a path. Methods block on the disk.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sensorium import failpoints
from sensorium.store.database import StoreUnavailable

PLACE = re.compile(r"([0-9]{4}/[0-9]{2}/[0-9]{2})/[0-9a-f][0-9a-f-]{0,80}")
_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Incoming:
    """A file that is being written; `size` and `sha256` are those of what was written so far.

    `grown` hears of every piece before it is written and may refuse it; at the end it hears of all of them, taken back.
    """

    def __init__(self, path: Path, place: str, grown: Callable[[int], None]) -> None:
        self.place, self.size = place, 0
        self._path, self._grown, self._digest, self._lock = path, grown, hashlib.sha256(), threading.Lock()
        self._file: BinaryIO | None = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAIN, 0o600), "wb", 0)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append a piece. Raises StoreUnavailable, and what `grown` raises."""
        with self._lock, told():
            if self._file is None:
                raise OSError("the upload was given up")
            self._grown(len(data))
            self.size += len(data)
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            self._digest.update(data)

    def keep(self) -> None:
        """Bring the bytes and the folder's entry to disk. Raises StoreUnavailable; then the file is deleted."""
        with self._lock, told():
            if self._file is None:
                raise OSError("the upload was given up")
            try:
                failpoints.reach("file_unsynced")
                os.fsync(self._file.fileno())
                synced(self._path.parent)
            except OSError:
                self._delete()
                raise
            finally:
                self._close()

    def drop(self) -> None:
        """Delete the file, unless it was kept. A write that is under way ends first."""
        with self._lock:
            if self._file is not None:
                self._close()
                self._delete()

    def _delete(self) -> None:
        with suppress(OSError):  # the sweep finds it
            self._path.unlink()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._grown(-self.size)


class Objects:
    """The folder of bytes; it and all in it are for the hub's user alone."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: set[str] = set()
        self._making = threading.Lock()
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        root.chmod(0o700)
        synced(root.parent)

    def begin(self, place: str, grown: Callable[[int], None]) -> Incoming:
        """Begin a file. Raises StoreUnavailable, also when there is one at this place."""
        with told():
            path = self._path(place)
            self._make(place)
            self._check_inside(path)
            return Incoming(path, place, grown)

    def open(self, place: str) -> BinaryIO:
        """The file at a place, for reading. Raises FileNotFoundError, StoreUnavailable."""
        try:
            path = self._path(place)
            self._check_inside(path)
            return os.fdopen(os.open(path, os.O_RDONLY | _PLAIN), "rb", 0)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unavailable(error) from None

    def remove(self, places: Iterable[str]) -> None:
        """Delete what lies at these places, if anything. Raises StoreUnavailable."""
        with told():
            for place in places:
                if PLACE.fullmatch(place):  # a row that was altered must not hold up the others
                    path = self._path(place)
                    self._check_inside(path)
                    path.unlink(missing_ok=True)

    def days(self) -> Iterator[str]:
        """The folders that hold files, as `yyyy/mm/dd`."""
        for day in sorted(self._root.glob("[0-9]*/[0-9]*/[0-9]*")):
            if day.is_dir() and day.resolve() == self._root.resolve() / day.relative_to(self._root):
                yield day.relative_to(self._root).as_posix()

    def older(self, day: str, than: float) -> list[str]:
        """The places of one day that were last written before `than`, in seconds since the epoch."""
        found: list[str] = []
        for path in (self._root / day).iterdir():
            with suppress(FileNotFoundError):  # somebody else was faster
                if path.lstat().st_mtime < than and not path.is_dir():
                    found.append(f"{day}/{path.name}")
        return found

    def forget(self, strays: Iterable[str]) -> int:
        """Delete entries of day folders that may not even be places of ours; links are not followed. Returns how many."""
        count = 0
        for stray in strays:
            (self._root / stray).unlink(missing_ok=True)
            count += 1
        return count

    def forget_day(self, day: str) -> None:
        """Remove the folder of a day that is long over, if it is empty, and those above it that are empty then."""
        with self._making, suppress(OSError):
            self._made.discard(day)
            for folder in (self._root / day, *(self._root / day).parents[:2]):
                folder.rmdir()

    def _path(self, place: str) -> Path:
        if not PLACE.fullmatch(place):
            raise FileNotFoundError(f"{place[:80]!r} is no place of a file")
        return self._root / place

    def _check_inside(self, path: Path) -> None:
        """A link on the way would lead out of the folder."""
        if path.parent.resolve() != self._root.resolve() / path.parent.relative_to(self._root):
            raise OSError(f"{path.parent} is not a folder of this hub's own")

    def _make(self, place: str) -> None:
        """The folders above a place. Once per process they are synced also when they were there: who made them may have died before."""
        day = place.rpartition("/")[0]
        with self._making:
            if day not in self._made:
                folder = self._root
                for part in day.split("/"):
                    (folder / part).mkdir(exist_ok=True, mode=0o700)
                    synced(folder)
                    folder /= part
                self._made.add(day)


def synced(folder: Path) -> None:
    """Bring a folder's entries to disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def told() -> Iterator[None]:
    """Trouble with the disk, in the words of the hub."""
    try:
        yield
    except OSError as error:
        raise _unavailable(error) from None


def _unavailable(error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"the hub's files cannot be used: {error.strerror or error}", retry_after=5)
