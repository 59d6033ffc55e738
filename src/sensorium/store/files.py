"""Files: uploads, and what models made. One row each in the database, the bytes below a folder, links that carry their own right.

The bytes and the folders above them are on disk before the row is; a file that has a row is whole. A row is marked before its bytes are
deleted, and deleted after them, so that no reader meets half of that.

    NotFound                404
    └── UnknownFile             unknown_file   there is none, or none for this caller; an altered or expired link
    Forbidden               403
    └── FileForbidden           file_forbidden its access list names this caller, or nobody
    BadRequest              400
    └── FileExists              file_exists    the key is taken
    BodyTooLarge            413
    └── QuotaSpent              quota_spent    its owner may not keep that much
"""

from __future__ import annotations

import math
import secrets
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlsplit

import msgspec

from sensorium import failpoints
from sensorium.errors import BadRequest, BodyTooLarge, Forbidden, NotFound
from sensorium.store.database import Connection, Database
from sensorium.store.objects import Incoming, Objects
from sensorium.store.signing import Signing
from sensorium.wire import filelinks, filenames
from sensorium.wire.lifecycle import KEPT, Lifecycle, decision

FOLDER = "files"
BATCH: Final = 500  # rows of one transaction
STRAY_S: Final = 24 * 3600.0  # bytes without a row are left alone for so long: somebody may be writing them
EMPTY_DAYS: Final = 3  # after so many days nothing is written into a day's folder any more
SIZES: Final = " + ".join(f"(SELECT coalesce(sum(size), 0) FROM {table} WHERE owner = ?1)" for table in ("files", "upload_parts"))
PLACES: Final = " UNION ALL ".join(f"SELECT place FROM {table} WHERE place >= ?1 AND place < ?2" for table in ("files", "upload_parts"))
COLUMNS: Final = "key, place, owner, request, content_type, name, size, sha256, acl, created_at, expires_at"
SHELF_HINT: Final = "delete files (DELETE /v1/files/KEY), give them shorter lives, or raise files.quota_mb"


class UnknownFile(NotFound):
    """There is no such file, or none for this caller."""

    code = "unknown_file"


class FileForbidden(Forbidden):
    """The file's access list does not admit this caller."""

    code = "file_forbidden"


class FileExists(BadRequest):
    """The key is taken: nothing is ever overwritten."""

    code = "file_exists"


class QuotaSpent(BodyTooLarge):
    """The owner may not keep that much."""

    code = "quota_spent"


@dataclass(frozen=True, slots=True)
class File:
    """A stored file. `size` is in bytes, `sha256` in hex, times in seconds since the epoch, `expires_at` None for never; `request` is the
    id of the request that made it."""

    key: str
    owner: str
    request: str | None
    content_type: str
    name: str
    size: int
    sha256: str
    acl: dict[str, Any] | None
    created_at: float
    expires_at: float | None


class Files:
    """The files of one database and of `folder`/files. An owner may keep `quota_bytes`; a file may have `most_bytes` and lives `kept_s`
    seconds unless its lifecycle says otherwise. Methods block and may be called from any thread; all raise StoreUnavailable."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        signing: Signing,
        *,
        quota_bytes: int,
        most_bytes: int,
        kept_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.database, self.objects, self.now = database, Objects(folder / FOLDER), now
        self.most_bytes, self._quota, self._kept_s = most_bytes, quota_bytes, kept_s
        self._signing = signing
        self._arriving: Counter[str] = Counter()  # bytes by owner that are being written and have no row
        self._stored: dict[str, int] = {}  # bytes by owner that had a row when one of its files was begun last
        self._counting = threading.Lock()

    def put(
        self, data: bytes, *, owner: str, content_type: str, name: str, request: str | None = None, lifecycle: Lifecycle = KEPT
    ) -> File:
        """Store a file; it is on disk when this returns. Raises QuotaSpent, BodyTooLarge."""
        key = self.new_key()
        if len(data) > self.most_bytes:
            raise BodyTooLarge(f"the file has {len(data)} bytes; at most {self.most_bytes} are kept", hint="the cap is files.max_mb")
        incoming = self.begin(key, owner)
        try:
            incoming.write(data)
        except BaseException:
            incoming.drop()
            raise
        return self.finish(incoming, key, owner, content_type, name, lifecycle, request)

    def begin(self, key: str, owner: str) -> Incoming:
        """Begin to write bytes that shall belong to `key`; what is written counts against the quota at once. Raises QuotaSpent then."""
        stored = self._used(self.database.read, owner)
        with self._counting:
            self._stored[owner] = stored
        return self.objects.begin(new_place(key), lambda more: self._grown(owner, more))

    def finish(
        self, incoming: Incoming, key: str, owner: str, content_type: str, name: str, lifecycle: Lifecycle, request: str | None = None
    ) -> File:
        """Make what was written the file `key`. Raises QuotaSpent, FileExists, and then it is dropped."""
        incoming.keep()
        times = (self.now(), self.until(lifecycle.expires_s))
        kept = File(key, owner, request, content_type, name, incoming.size, incoming.sha256, lifecycle.acl, *times)
        try:
            with self.database.write() as db:
                self.insert(db, kept, incoming.place)
                self.check_quota(db, owner)
        except (FileExists, QuotaSpent):  # after any other trouble the row may be there
            self.objects.remove([incoming.place])
            raise
        return kept

    def insert(self, db: Connection, file: File, place: str) -> None:
        """The row of a file whose bytes are on disk. Raises FileExists."""
        if db.execute("SELECT 1 FROM files WHERE key = ?", (file.key,)).fetchone():
            raise FileExists(f"{file.name} is stored already, and a file is never overwritten", hint="ask for a new upload URL")
        acl = None if file.acl is None else msgspec.json.encode(file.acl).decode()
        row = (file.key, place, file.owner, file.request, file.content_type, file.name, file.size, file.sha256, acl)
        db.execute(f"INSERT INTO files ({COLUMNS}) VALUES ({', '.join('?' * 11)})", (*row, file.created_at, file.expires_at))

    def check_quota(self, db: Connection, owner: str) -> None:
        """Raises QuotaSpent when the owner has more than it may, parts of uploads included."""
        used = self._used(lambda sql, *values: db.execute(sql, values).fetchall(), owner)
        if used > self._quota:
            raise self._spent(owner, used)

    def new_key(self) -> str:
        """A key for a file to be."""
        return f"{datetime.fromtimestamp(self.now(), UTC):%Y/%m/%d}/{uuid.uuid4().hex}"

    def until(self, lives_s: float | None, after_s: float = 0.0) -> float | None:
        """When a file ends that begins its life `after_s` seconds from now; None is never."""
        ends = self.now() + after_s + (self._kept_s if lives_s is None else lives_s)
        return None if math.isinf(ends) else ends

    def signing_key(self) -> bytes:
        """The key of links, tickets and tokens."""
        return self._signing.key("files")

    def url(self, file: File, base_url: str) -> str:
        """The link to a file, good as long as the file lives."""
        return self.link(file.key, file.name, file.content_type, file.expires_at, base_url)

    def link(self, key: str, name: str, content_type: str, expires_at: float | None, base_url: str) -> str:
        """The link to a file that may be still to come."""
        subject = f"{key}.{filenames.extension(name, content_type)}"
        sig = filelinks.seal(self.signing_key(), filelinks.READ, subject, 0 if expires_at is None else math.ceil(expires_at))
        return f"{base_url}{filelinks.PREFIX}{sig}/{subject}"

    def check(self, link: filelinks.Link) -> None:
        """Raises UnknownFile for a link that was altered or has expired."""
        if filelinks.standing(self.signing_key(), filelinks.READ, link.subject, link.sig, self.now()) != "valid":
            raise UnknownFile("there is no such file, or its link has expired")

    def linked(self, link: filelinks.Link, caller: Callable[[], str]) -> tuple[File, BinaryIO]:
        """The file behind a link, opened; `caller` is asked only where an access list is. Raises UnknownFile, FileForbidden."""
        self.check(link)
        found = self._row(link.key)
        if found is None:
            raise UnknownFile("there is no such file, or its link has expired")
        file, place = found
        if file.acl is not None and (who := caller()) != file.owner:
            said = decision(file.acl, who)
            if said == "hide":
                raise UnknownFile("there is no such file, or its link has expired")
            if said == "forbid":
                raise FileForbidden("this file is not for you", hint="its owner may read it, with its own key")
        try:
            return file, self.objects.open(place)
        except FileNotFoundError:
            raise UnknownFile("the bytes of this file are lost") from None

    def own(self, url: str, caller: str, most: int | None = None) -> tuple[bytes, str] | None:
        """Data and content type when the URL is a link of this hub, under whatever name it is reached; None when it is not.

        Raises UnknownFile for a link of ours that is altered or expired, FileForbidden, and BodyTooLarge before it reads a file of more
        than `most` bytes.
        """
        try:
            path = urlsplit(url).path
        except ValueError:
            return None
        link = filelinks.link(path.partition(filelinks.PREFIX)[2])
        if link is None or link.rest or not filelinks.signed_with(self.signing_key(), link.sig):
            return None
        file, opened = self.linked(link, lambda: caller)
        with opened:
            if most is not None and file.size > most:
                raise BodyTooLarge(f"the file has {file.size} bytes; at most {most} are read here")
            return opened.read(), file.content_type

    def of(self, owner: str, key: str) -> File:
        """One of the owner's files. Raises UnknownFile."""
        found = self._row(key)
        if found is None or found[0].owner != owner:
            raise UnknownFile(f"there is no file {key[:80]!r}")
        return found[0]

    def listed(self, owner: str, limit: int, after: str | None = None) -> list[File]:
        """The owner's files, the newest first; those older than `after`. Raises UnknownFile for an `after` that is not there."""
        where, values = "", list[Any]()
        if after is not None:
            last = self.of(owner, after)
            where, values = " AND (created_at, key) < (?, ?)", [last.created_at, last.key]
        sql = f"SELECT {COLUMNS} FROM files WHERE owner = ? AND gone = 0 AND (expires_at IS NULL OR expires_at > ?){where}"
        rows = self.database.search(f"{sql} ORDER BY created_at DESC, key DESC LIMIT ?", owner, self.now(), *values, limit)
        return [_read(row)[0] for row in rows]

    def standing(self) -> tuple[int, int]:
        """How many files there are, and their bytes; parts of unfinished uploads are not among them."""
        count, size = self.database.search("SELECT count(*), coalesce(sum(size), 0) FROM files")[0]
        return int(count), int(size)

    def discard(self, keys: Sequence[str]) -> None:
        """Delete files; unknown keys are passed over."""
        for start in range(0, len(keys), BATCH):
            batch = keys[start : start + BATCH]
            with self.database.write() as db:
                db.execute(f"UPDATE files SET gone = 1 WHERE key IN ({', '.join('?' * len(batch))})", tuple(batch))
        self._bury()

    def sweep(self) -> int:
        """Delete what has expired, parts of abandoned uploads, and bytes without a row that are older than a day. Returns how many."""
        expired, marked = "SELECT key FROM files WHERE gone = 0 AND expires_at <= ? LIMIT ?", BATCH
        while marked == BATCH:
            with self.database.write() as db:
                marked = db.execute(f"UPDATE files SET gone = 1 WHERE key IN ({expired})", (self.now(), BATCH)).rowcount
        return self._bury() + self._abandon() + self._forget_strays()

    def _bury(self) -> int:
        """Of marked files first the bytes, then the rows."""
        count = 0
        while rows := self.database.search("SELECT key, place FROM files WHERE gone = 1 LIMIT ?", BATCH):
            self.objects.remove(place for _, place in rows)
            failpoints.reach("file_removed")
            with self.database.write() as db:
                db.executemany("DELETE FROM files WHERE key = ? AND gone = 1", [(key,) for key, _ in rows])
            count += len(rows)
        return count

    def _abandon(self) -> int:
        """Parts whose ticket has ended: first the rows, then the bytes, which are strays if the hub dies in between."""
        count = 0
        while rows := self.database.search("SELECT place FROM upload_parts WHERE until <= ? LIMIT ?", self.now(), BATCH):
            with self.database.write() as db:
                db.executemany("DELETE FROM upload_parts WHERE place = ?", rows)
            self.objects.remove(place for (place,) in rows)
            count += len(rows)
        return count

    def _forget_strays(self) -> int:
        count = 0
        today = datetime.fromtimestamp(self.now() - EMPTY_DAYS * STRAY_S, UTC).strftime("%Y/%m/%d")
        for day in self.objects.days():
            old = self.objects.older(day, self.now() - STRAY_S)
            known = {place for (place,) in self.database.search(PLACES, f"{day}/", f"{day}0")} if old else set()
            count += self.objects.forget(place for place in old if place not in known)
            if day < today:
                self.objects.forget_day(day)
        return count

    def _row(self, key: str) -> tuple[File, str] | None:
        rows = self.database.read(f"SELECT {COLUMNS} FROM files WHERE key = ? AND gone = 0", key)
        found = _read(rows[0]) if rows else None
        return found if found and (found[0].expires_at is None or found[0].expires_at > self.now()) else None

    def _used(self, read: Callable[..., list[Any]], owner: str) -> int:
        return int(read(f"SELECT {SIZES}", owner)[0][0])

    def _grown(self, owner: str, more: int) -> None:
        with self._counting:
            used = self._stored.get(owner, 0) + self._arriving[owner] + more
            if more > 0 and used > self._quota:
                raise self._spent(owner, used)
            self._arriving[owner] += more
            if not self._arriving[owner]:
                del self._arriving[owner]

    def _spent(self, owner: str, used: int) -> QuotaSpent:
        return QuotaSpent(f"{owner} would keep {used} bytes or more in files; at most {self._quota} are allowed", hint=SHELF_HINT)


def disown(db: Connection, owner: str, request: str) -> None:
    """Mark the files that a request of this owner's has made: nobody reads them, and the next `discard` or `sweep` deletes them."""
    db.execute("UPDATE files SET gone = 1 WHERE request = ? AND owner = ?", (request, owner))


def new_place(key: str) -> str:
    """Where bytes for a key may lie. Every try has another place, so that no two write to the same file."""
    return f"{key}-{secrets.token_hex(4)}"


def _read(row: tuple[Any, ...]) -> tuple[File, str]:
    key, place, owner, request, content_type, name, size, sha256, acl, created_at, expires_at = row
    given = None if acl is None else msgspec.json.decode(acl)
    return File(key, owner, request, content_type, name, size, sha256, given, created_at, expires_at), place
