"""Fetching a checkpoint: what of a repository an engine reads, the licence that somebody has to agree to, files whole and checked.

Nothing here runs what it fetches: Python files and pickles are never taken. It does not know terminals; `tell` gets lines for one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from sensorium.engines.checkpoints.pulled import (
    Held,
    Listed,
    Record,
    Repository,
    digests,
    find,
    folder_of,
    read_record,
    size_of,
    write_record,
)
from sensorium.errors import SettingsError, UpstreamFailed

__all__ = ["Plan", "find", "look", "plan", "pull", "readable"]

INSTALL = 'pip install "sensorium[torch]"'
PART, LOCK = ".part", ".sensorium-pull.lock"
TOKENIZER = (
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|tekken\.json"
    r"|(?:tokenizer|spiece|sentencepiece)[a-z.]*\.model"
)
PAPERS = r"README\.md|(?:LICEN[CS]E|NOTICE|COPYING|USE_POLICY|EULA)[A-Za-z0-9_.-]*"
WHOLE = re.compile(
    rf"config\.json|generation_config\.json|sensorium\.json|chat_template\.(?:jinja|json)|{TOKENIZER}|{PAPERS}"
    r"|model[A-Za-z0-9_-]*\.safetensors(?:\.index\.json)?|linear_spec_lora/(?:adapter_config\.json|[A-Za-z0-9_-]+\.safetensors)"
)
COMPONENTS = re.compile(
    rf"model_index\.json|{PAPERS}|[a-z0-9_]+/(?:config\.json|(?:scheduler|preprocessor|generation)_config\.json|{TOKENIZER}"
    r"|(?:model|diffusion_pytorch_model)[A-Za-z0-9_-]*\.safetensors(?:\.index\.json)?)"
)
CODE = re.compile(r".*\.(?:pyc?|pyw|so|dll|sh|bin|pt|pth|ckpt|pkl|pickle|exe|bat)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pull would do: `files` are wanted, those in `missing` still have to come. `former` is the folder's record, if any."""

    repository: Repository
    folder: Path
    files: tuple[Listed, ...]
    missing: tuple[Listed, ...]
    former: Record | None

    @property
    def bytes_wanted(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def bytes_missing(self) -> int:
        """Bytes that have to come, less what an interrupted pull has left."""
        return sum(file.size - (size_of(part_of(self.folder, file)) or 0) for file in self.missing)

    @property
    def acknowledged(self) -> bool:
        """Whether the same licence of the same repository was agreed to in an earlier pull."""
        former = self.former
        return former is not None and (former.repository, former.licence) == (self.repository.name, self.repository.licence)


def look(model_id: str, revision: str | None, home: Path) -> Plan:
    """Ask the hub and hold the folder against it. Raises SensoriumError."""
    folder_of(model_id, home)  # refuses what is no name before anybody is asked
    try:
        # Start-up cost: the library is an extra, and slow to import.
        from sensorium.engines.checkpoints import hugging_face
    except ImportError as error:
        raise SettingsError([f"sensorium pull needs huggingface_hub, which is not installed ({error}); run: {INSTALL}"]) from None
    repository = hugging_face.look(model_id, revision)
    return plan(repository, folder_of(repository.name, home))


def plan(repository: Repository, folder: Path) -> Plan:
    """Which files of a repository are wanted and which are missing. Raises SettingsError when no engine could read any of it."""
    files = readable(repository.files)
    if not any(file.path.endswith(".safetensors") for file in files):
        raise SettingsError([f"{repository.name} holds no model*.safetensors and no diffusers components: no engine here reads it"])
    missing = tuple(file for file in files if size_of(folder / file.path) != file.size)
    return Plan(repository, folder, files, missing, read_record(folder))


def readable(files: Iterable[Listed]) -> tuple[Listed, ...]:
    """The files that an engine reads, by name: never code, never pickles, nothing outside the folder.

    A repository with a model_index.json is one of diffusers: its components count, weights in one piece beside them do not.
    """
    listed = tuple(files)
    pattern = COMPONENTS if any(file.path == "model_index.json" for file in listed) else WHOLE
    return tuple(file for file in listed if pattern.fullmatch(file.path) and not CODE.fullmatch(file.path))


def pull(chosen: Plan, now: datetime, tell: Callable[[str], None], *, trusting: bool = False) -> None:
    """Fetch what is missing, check everything, write the record. To be called once the licence has been agreed to, at `now`.

    Files that are there are read and compared with what the hub lists; `trusting` leaves out those that the record has as checked. A file
    that differs is deleted. Raises SettingsError when the disk is too small, UpstreamFailed for files that differ, Busy while another
    pull into the same folder is under way.
    """
    # Start-up cost: the library is an extra, and slow to import.
    from sensorium.engines.checkpoints import hugging_face

    _make_room(chosen)
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with hugging_face.alone(chosen.folder / LOCK):
        _pull(chosen, now, tell, trusting)


def _pull(chosen: Plan, now: datetime, tell: Callable[[str], None], trusting: bool) -> None:
    repository, former = chosen.repository, chosen.former.files if chosen.former else {}
    acknowledged = chosen.former.acknowledged_at if chosen.former and chosen.acknowledged else now.isoformat(timespec="seconds")
    record = Record(
        repository=repository.name, revision=repository.commit, licence=repository.licence, acknowledged_at=acknowledged, files=former
    )
    write_record(chosen.folder, record)
    held: dict[str, Held] = {}
    wrong: list[str] = []
    for file in chosen.files:
        known = former.get(file.path) if trusting and file not in chosen.missing else None
        trusted = known is not None and known.sha256 == file.sha256
        checked = known if trusted else _checked(chosen, file, tell)
        if checked is None:
            wrong.append(file.path)
        else:
            held[file.path] = checked
    if wrong:
        raise UpstreamFailed(f"not what the hub lists, and deleted: {', '.join(wrong)}; run it again to fetch them anew")
    for path in former.keys() - held.keys():
        (chosen.folder / path).unlink(missing_ok=True)
    for leftover in chosen.folder.rglob(f"*{PART}"):
        leftover.unlink()
    write_record(chosen.folder, msgspec.structs.replace(record, files=held, complete=True))


def _make_room(chosen: Plan) -> None:
    place = next(folder for folder in (chosen.folder, *chosen.folder.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if chosen.bytes_missing > free:
        raise SettingsError([f"{place} has {amount(free)} free, the files still to come take {amount(chosen.bytes_missing)}"])


def _checked(chosen: Plan, file: Listed, tell: Callable[[str], None]) -> Held | None:
    """One file, fetched if need be, compared with what the hub lists; None when it differed and was deleted."""
    # Start-up cost: the library is an extra, and slow to import.
    from sensorium.engines.checkpoints import hugging_face

    path = chosen.folder / file.path
    fresh = file in chosen.missing
    if fresh:
        part = part_of(chosen.folder, file)
        part.parent.mkdir(parents=True, exist_ok=True)
        if (size_of(part) or 0) > file.size:
            part.unlink()
        hugging_face.fetch(chosen.repository, file, part)
        part.replace(path)
    found = digests(path)
    if found.size != file.size or found.sha256 != (file.sha256 or found.sha256) or _other_blob(file, found.blob):
        path.unlink()
        tell(f"{file.path}: NOT what the hub lists, deleted")
        return None
    tell(f"{file.path}: {amount(file.size)}, {'fetched' if fresh else 'was there'}, checked")
    return Held(size=found.size, sha256=found.sha256)


def _other_blob(file: Listed, blob: str) -> bool:
    """Git's id is that of the content only where no SHA-256 is listed; of large files it is that of their pointer."""
    return file.sha256 is None and file.blob is not None and file.blob != blob


def part_of(folder: Path, file: Listed) -> Path:
    """Where a file is kept until it is whole; named after its content, so that another revision's does not go on with it."""
    path = folder / file.path
    return path.with_name(f"{path.name}.{(file.sha256 or file.blob or '')[:16]}{PART}")


def amount(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
