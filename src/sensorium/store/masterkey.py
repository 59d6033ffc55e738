"""Where the master key is kept: a file that only its owner may read, or a value given from outside.

A file is replaced in two steps, so that at every moment a key that opens the records is on disk: the new key is staged beside it
(`.next`), the records are wrapped anew in one transaction, then the staged file takes the old one's place. Which of the two keys is
in force is decided by the records alone (`Keeper.settle`).
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sensorium.errors import SettingsError
from sensorium.settings import MASTER_KEY, Settings
from sensorium.store.sealing import MasterKey

FILE = "master.key"
OTHERS = stat.S_IWGRP | stat.S_IRWXO


class Keeper(Protocol):
    """Keeps the master key. All but `candidates` is called by one process at a time."""

    @property
    def place(self) -> str:
        """Where the key lies, for messages."""

    def candidates(self) -> list[MasterKey]:
        """Every key that may be in force. Raises SettingsError for one that cannot be used."""

    def create(self) -> MasterKey:
        """The first key of a vault that holds nothing yet, kept before it is returned."""

    def stage(self, key: MasterKey) -> None:
        """Keep `key` beside the one in force."""

    def settle(self, key: MasterKey) -> None:
        """`key` is in force: keep it alone."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A master key in a file. Raises SettingsError when a file cannot be used, OSError when it cannot be written."""

    path: Path

    @property
    def place(self) -> str:
        """Where the key lies, for messages."""
        return str(self.path)

    @property
    def _next(self) -> Path:
        return self.path.with_name(f"{self.path.name}.next")

    def candidates(self) -> list[MasterKey]:
        """The staged key, if any, and the key."""
        # This order: a staged file that takes the other's place between the two looks is then seen twice, never missed.
        found = [_read(self._next), _read(self.path)]
        return [key for key in found if key is not None]

    def create(self) -> MasterKey:
        """A new key in the file."""
        key = MasterKey.random()
        _write(self.path, key)
        return key

    def stage(self, key: MasterKey) -> None:
        """Keep `key` beside the one in force."""
        _write(self._next, key)

    def settle(self, key: MasterKey) -> None:
        """Let a staged `key` take the file's place; drop any other that is staged."""
        staged = _read(self._next)
        if staged == key:
            os.replace(self._next, self.path)
        elif staged is not None:
            self._next.unlink()
        if staged is not None:
            _sync_folder(self.path.parent)


@dataclass(frozen=True, slots=True)
class GivenKey:
    """A master key from the environment: only whoever starts the hub can change it."""

    key: MasterKey
    place: str = MASTER_KEY

    def candidates(self) -> list[MasterKey]:
        """The one key."""
        return [self.key]

    def create(self) -> MasterKey:
        """The one key."""
        return self.key

    def stage(self, key: MasterKey) -> None:
        """Nothing: the new key is kept by whoever gave it."""

    def settle(self, key: MasterKey) -> None:
        """Nothing."""


def keeper(settings: Settings) -> Keeper:
    """Who keeps the master key, by the settings: the environment's value, the file that is named, or one in the data folder.

    Raises SettingsError for a value that is no key.
    """
    if settings.master_key is not None:
        try:
            return GivenKey(MasterKey.parse(settings.master_key))
        except ValueError as error:
            raise SettingsError([f"{MASTER_KEY} {error}"]) from None
    return KeyFile(settings.vault.master_key_file or settings.data_dir / FILE)


def read_key(path: Path) -> MasterKey:
    """The key in a file. Raises SettingsError, also when there is no file."""
    key = _read(path)
    if key is None:
        raise SettingsError([f"{path}: there is no master key"])
    return key


def _read(path: Path) -> MasterKey | None:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(200).decode("ascii", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError([f"{path}: the master key cannot be read: {error.strerror}; run as the user that owns it"]) from None
    if os.name == "posix" and mode & OTHERS:
        raise SettingsError([f"{path}: the master key is open to other users of this machine; run: chmod 600 {path}"])
    try:
        return MasterKey.parse(text)
    except ValueError as error:
        raise SettingsError([f"{path}: the master key {error}"]) from None


def _write(path: Path, key: MasterKey) -> None:
    """Whole or not at all, and on disk when this returns."""
    draft = path.with_name(f"{path.name}.draft")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileNotFoundError):
        draft.unlink()
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(f"{key.text()}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
