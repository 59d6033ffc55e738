"""Checkpoints on this machine's disk: HOME/models/ORG--NAME with a record of what was fetched, and whether that is still there.

A folder whose record says `complete` held, when it was written, exactly what the repository lists. It does not know how to fetch.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

import msgspec

from sensorium.errors import SettingsError

RECORD = "sensorium-pull.json"
MODELS = "models"
PIECE = 1 << 22
MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


class Licence(msgspec.Struct, frozen=True, kw_only=True):
    """What the model card says: `name` as it stands there, `link` to the text (empty: it says nothing)."""

    name: str = ""
    link: str = ""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """One file as it was when it was checked: bytes, and SHA-256 in hex."""

    size: int
    sha256: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """`sensorium-pull.json`: which commit of which repository this folder holds, and who agreed to its licence when (UTC, ISO 8601).

    `files` are those that have been checked. `complete` is False from the first byte until all are.
    """

    format: int = 1
    repository: str
    revision: str
    licence: Licence
    acknowledged_at: str
    files: Mapping[str, Held] = {}
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """One file of a repository: bytes, git's id of it as a blob, and for large files (LFS) their SHA-256."""

    path: str
    size: int
    blob: str | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit, with what its model card says of its licence. `gated`: its owner wants something before access."""

    name: str
    commit: str
    files: tuple[Listed, ...]
    licence: Licence
    gated: bool


@dataclass(frozen=True, slots=True)
class Digests:
    """What is known of a file's content: bytes, SHA-256 and git's id of it as a blob, both in hex."""

    size: int
    sha256: str
    blob: str


def folder_of(model_id: str, home: Path) -> Path:
    """Where the checkpoint `model_id` belongs. Raises SettingsError for a name that is not ORG/NAME.

    The hub of checkpoints takes names in any case; a folder that differs in case only is the same model's.
    """
    if not MODEL_ID.fullmatch(model_id) or ".." in model_id:
        raise SettingsError([f"{model_id!r:.90} is not the name of a repository, which looks like nvidia/Nemotron-Labs-Diffusion-VLM-8B"])
    name = model_id.replace("/", "--")
    models = home / MODELS
    there = [folder.name for folder in models.iterdir()] if models.is_dir() else []
    return models / next((one for one in sorted(there) if one.lower() == name.lower()), name)


def find(model_id: str, home: Path) -> Path:
    """The folder of a checkpoint that `sensorium pull` has fetched completely.

    Raises SettingsError that says what to run when it is not there, or no longer as it was. Sizes are compared, contents are not.
    """
    folder = folder_of(model_id, home)
    record = read_record(folder)
    again = f"run: sensorium pull {model_id} --home {home}"
    if record is None:
        raise SettingsError([f"{model_id} is not in {home / MODELS}; {again}"])
    if not record.complete:
        raise SettingsError([f"{folder} is not complete, its download was interrupted; {again}"])
    wrong = [name for name, held in record.files.items() if size_of(folder / name) != held.size]
    if wrong:
        raise SettingsError([f"{folder} is no longer complete: {', '.join(wrong)} is gone or has another size; {again}"])
    return folder


def read_record(folder: Path) -> Record | None:
    """The record of a folder; None when there is none. Raises SettingsError when it is damaged."""
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"{folder / RECORD} is damaged ({error}); delete it and run sensorium pull again"]) from None
    # A pull deletes what is no longer listed: a record that came with its folder must not name files of others.
    outside = [name for name in record.files if PurePath(name).is_absolute() or ".." in PurePath(name).parts]
    if outside:
        raise SettingsError([f"{folder / RECORD} names {outside[0]!r}, which is not in its folder; delete it and run sensorium pull again"])
    return record


def write_record(folder: Path, record: Record) -> None:
    """Replace the record as a whole: readers see the former one or this one."""
    text = msgspec.json.format(msgspec.json.encode(record), indent=2)
    fresh = folder / f"{RECORD}.new"
    fresh.write_bytes(text + b"\n")
    os.replace(fresh, folder / RECORD)


def size_of(path: Path) -> int | None:
    """Bytes of a file; None when it is not there."""
    return path.stat().st_size if path.is_file() else None


def digests(path: Path) -> Digests:
    """Read a file once for all its digests. Git's id of a blob is the SHA-1 of "blob SIZE" NUL CONTENT."""
    size = path.stat().st_size
    content, blob = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            content.update(piece)
            blob.update(piece)
    return Digests(size, content.hexdigest(), blob.hexdigest())
