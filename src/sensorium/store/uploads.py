"""Uploads: tickets, files that arrive whole, and files that arrive in parts, in any order and several at once.

A ticket carries all that is known of its file, so an upload that is never begun leaves nothing behind. Parts are rows and bytes of their
own until they are complete. A part sent again takes the place of the first; which one is meant, its etag says.

    Forbidden               403
    └── TicketRefused           ticket_refused   an upload URL that was altered or has expired
    BadRequest              400
    ├── FileExists              file_exists      the upload is complete already
    └── BadParts                bad_parts        the list of parts and what has arrived differ
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sensorium.errors import BadRequest, BodyTooLarge, Busy, Forbidden, Unauthorized
from sensorium.store.database import Connection
from sensorium.store.files import File, FileExists, Files, QuotaSpent, UnknownFile, new_place
from sensorium.store.objects import Incoming
from sensorium.wire import filelinks
from sensorium.wire.filelinks import Ticket
from sensorium.wire.lifecycle import Lifecycle

TICKET_S: Final = 24 * 3600  # for a first byte and for the last one
TOKEN_S: Final = 3600
MOST_PARTS: Final = 10_000
PIECE: Final = 1024 * 1024  # bytes


class TicketRefused(Forbidden):
    """An upload URL that does not, or no longer, give a right to anything."""

    code = "ticket_refused"


class BadParts(BadRequest):
    """The parts named at the end of an upload are not those that have arrived."""

    code = "bad_parts"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an upload: its number from 1 on, and its etag, without quotes."""

    number: int
    etag: str


class Uploads:
    """Uploads into `files`. Methods block and may be called from any thread; all raise StoreUnavailable."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._completing: set[str] = set()
        self._settling = threading.Lock()

    def token(self, owner: str) -> tuple[str, int]:
        """An upload token, and when it expires, in seconds since the epoch."""
        expires = int(self.files.now()) + TOKEN_S
        return filelinks.token(self.files.signing_key(), owner, expires), expires

    def token_owner(self, text: str) -> str:
        """Whose token this is. Raises Unauthorized."""
        owner = filelinks.token_owner(self.files.signing_key(), text, self.files.now())
        if owner is None:
            hint = "ask POST /fal/rest/storage/auth/token for a new one"
            raise Unauthorized("this upload token was altered or has expired", hint=hint, code="upload_token_refused")
        return owner

    def ticket(self, owner: str, content_type: str, name: str, lifecycle: Lifecycle) -> tuple[Ticket, str]:
        """A right to upload one file, and its text."""
        files = self.files
        key, expires = files.new_key(), int(files.now()) + TICKET_S
        given = Ticket(key, owner, content_type, name, files.most_bytes, expires, lifecycle.expires_s, lifecycle.acl)
        return given, filelinks.ticket(files.signing_key(), given)

    def link(self, ticket: Ticket, base_url: str) -> str:
        """The link to the file to be. It holds as long as the file will, even if that is complete only when the ticket ends."""
        until = self.files.until(ticket.lives_s, TICKET_S)
        return self.files.link(ticket.key, ticket.name, ticket.content_type, until, base_url)

    def opened(self, text: str) -> Ticket:
        """The ticket behind its text. Raises TicketRefused."""
        found = filelinks.opened(self.files.signing_key(), text, self.files.now())
        if isinstance(found, Ticket):
            return found
        why = "has expired" if found == "expired" else "is not one of this hub's, or was altered"
        raise TicketRefused(f"this upload URL {why}", hint="begin the upload again")

    def begin(self, ticket: Ticket) -> Incoming:
        """Begin to receive a file, or a part of it. Raises QuotaSpent."""
        return self.files.begin(ticket.key, ticket.owner)

    def finish(self, ticket: Ticket, incoming: Incoming) -> File:
        """A file that has arrived whole. The same bytes sent again change nothing. Raises FileExists for others, QuotaSpent."""
        lifecycle = Lifecycle(ticket.lives_s, ticket.acl)
        try:
            return self.files.finish(incoming, ticket.key, ticket.owner, ticket.content_type, ticket.name, lifecycle)
        except FileExists:
            file = self._known(ticket)
            if file is None or file.sha256 != incoming.sha256:
                raise
            return file

    def finish_part(self, ticket: Ticket, number: int, incoming: Incoming) -> Part:
        """A part that has arrived. Raises BadParts, FileExists, QuotaSpent, BodyTooLarge for what is too long together."""
        incoming.keep()
        part = Part(number, incoming.sha256)
        try:
            with self._settling, self.files.database.write() as db:
                self._check_open(db, ticket, number)
                where = "WHERE key = ? AND number = ?"
                before = db.execute(f"SELECT place FROM upload_parts {where}", (ticket.key, number)).fetchall()
                db.execute(f"DELETE FROM upload_parts {where}", (ticket.key, number))
                row = (ticket.key, number, incoming.place, ticket.owner, incoming.size, part.etag, ticket.expires)
                db.execute("INSERT INTO upload_parts (key, number, place, owner, size, sha256, until) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
                self._check_size(db, ticket)
                self.files.check_quota(db, ticket.owner)
        except (FileExists, QuotaSpent, BadParts, BodyTooLarge, Busy):
            self.files.objects.remove([incoming.place])
            raise
        self.files.objects.remove(place for (place,) in before)
        return part

    def complete(self, ticket: Ticket, named: Sequence[Part]) -> File:
        """Make the parts, in the order of their numbers, the file; asked once more it answers the same.

        Raises BadParts, FileExists, and Busy while it is done already.
        """
        with self._settling:
            if ticket.key in self._completing:
                raise Busy("this upload is being completed", retry_after=1)
            if (file := self._known(ticket)) is not None:
                return file
            self._completing.add(ticket.key)
        try:
            return self._assembled(ticket, named)
        finally:
            with self._settling:
                self._completing.discard(ticket.key)

    def _assembled(self, ticket: Ticket, named: Sequence[Part]) -> File:
        files = self.files
        rows = files.database.search("SELECT number, place, size, sha256 FROM upload_parts WHERE key = ? ORDER BY number", ticket.key)
        _check_named(named, {number: sha256 for number, _, _, sha256 in rows})
        places = [place for _, place, _, _ in rows]
        incoming = files.objects.begin(new_place(ticket.key), lambda more: None)
        try:
            for place in places:
                self._append(incoming, place)
            if incoming.size != sum(size for _, _, size, _ in rows):
                raise BadParts("a part of this upload was damaged on the hub's disk", hint="begin the upload again")
        except BaseException:
            incoming.drop()
            raise
        incoming.keep()
        times = (files.now(), files.until(ticket.lives_s))
        whole = (ticket.content_type, ticket.name, incoming.size, incoming.sha256, ticket.acl)
        file = File(ticket.key, ticket.owner, None, *whole, *times)
        try:
            with files.database.write() as db:
                files.insert(db, file, incoming.place)
                db.execute("DELETE FROM upload_parts WHERE key = ?", (ticket.key,))
        except FileExists:
            files.objects.remove([incoming.place])
            raise
        files.objects.remove(places)
        return file

    def _append(self, incoming: Incoming, place: str) -> None:
        try:
            with self.files.objects.open(place) as part:
                while piece := part.read(PIECE):
                    incoming.write(piece)
        except FileNotFoundError:
            raise BadParts("a part of this upload is lost from the hub's disk", hint="begin the upload again") from None

    def _known(self, ticket: Ticket) -> File | None:
        try:
            return self.files.of(ticket.owner, ticket.key)
        except UnknownFile:
            return None

    def _check_open(self, db: Connection, ticket: Ticket, number: int) -> None:
        if not 1 <= number <= MOST_PARTS:
            raise BadParts(f"parts have numbers from 1 to {MOST_PARTS}, not {number}")
        if ticket.key in self._completing:
            raise Busy("this upload is being completed", retry_after=1)
        if db.execute("SELECT 1 FROM files WHERE key = ?", (ticket.key,)).fetchone():
            raise FileExists("this upload is complete already", hint="ask for a new upload URL")

    def _check_size(self, db: Connection, ticket: Ticket) -> None:
        total = int(db.execute("SELECT sum(size) FROM upload_parts WHERE key = ?", (ticket.key,)).fetchone()[0])
        if total > ticket.most:
            raise BodyTooLarge(f"the parts have {total} bytes together; at most {ticket.most} are kept", hint="the cap is files.max_mb")


def _check_named(named: Sequence[Part], held: dict[int, str]) -> None:
    """Raises BadParts unless the parts named are all that have arrived, each once, numbered without a gap. Their order means nothing."""
    numbers = [part.number for part in named if 1 <= part.number <= MOST_PARTS]
    if len(numbers) < len(named):
        raise BadParts(f"parts have numbers from 1 to {MOST_PARTS}", param="parts")
    twice = sorted(number for number, times in Counter(numbers).items() if times > 1)
    missing = sorted(set(range(1, max([*numbers, *held, 1]) + 1)) - set(held))
    left_out = sorted(set(held) - set(numbers))
    wrong = sorted(part.number for part in named if part.number in held and part.etag != held[part.number])
    for found, what in (
        (twice, "named twice"),
        (missing, "missing: never arrived"),
        (left_out, "not named, though arrived"),
        (wrong, "other than what arrived last, by its etag"),
    ):
        if found:
            raise BadParts(
                f"part {', '.join(map(str, found[:10]))} is {what}", param="parts", hint="send it again, then complete the upload"
            )
