"""The vault: secrets sealed in the database, revealed only for the hosts that they are bound to, replaced in one call.

`secret` has the errors and nouns, `records` the rows, `masterkey` the place of the master key, `audit` what was done.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable

from sensorium.errors import SettingsError
from sensorium.store import audit, hosts, records
from sensorium.store.audit import Action, Row, Uses
from sensorium.store.database import Database, StoreUnavailable
from sensorium.store.hosts import Binding
from sensorium.store.keyring import KeyRing
from sensorium.store.masterkey import Keeper
from sensorium.store.records import Head, Record, Version
from sensorium.store.sealing import MasterKey
from sensorium.store.secret import (
    Entry,
    HostNotBound,
    InvalidSecret,
    NoPreviousVersion,
    Revealed,
    SecretDisabled,
    SecretLocked,
    SecretMissing,
    SecretUnusable,
    Standing,
    UnknownSecret,
    check_name,
    check_value,
)

AUDIT_EVERY_S = 60.0
log = logging.getLogger("sensorium.vault")


class Vault:
    """The secrets of one database. Methods may be called from any thread; all block on the disk but `reveal`, `state` and
    `mark_refused`, which answer from memory as long as nobody has changed anything.

    `now` is the time in seconds since the epoch; `who` names this process in the audit of uses. Raises SettingsError when there are
    sealed records and the master key is missing or another one.
    """

    def __init__(self, database: Database, keeper: Keeper, now: Callable[[], float] = time.time, who: str = "hub") -> None:
        self._database, self._now, self._who = database, now, who
        self._lock = threading.Lock()
        self._ring = KeyRing(keeper, database.path)
        self._cache: dict[str, Record] = {}
        self._admissions: dict[tuple[str, str], tuple[Record, str]] = {}
        self._changes = self._generation = -1
        self._refused: dict[str, int] = {}
        self._uses = Uses()
        with database.exclusive():
            if records.key_ids(database):
                try:
                    self._in_force()
                except SecretLocked as error:
                    raise SettingsError([error.message]) from None

    @property
    def database(self) -> Database:
        """Where the secrets are."""
        return self._database

    def reveal(self, name: str, host: str) -> Revealed:
        """The value, to be sent to `host` and nowhere else: a URL, or `host[:port]` for https.

        Raises a SecretUnusable that says which of its reasons it is, StoreUnavailable, AddressRefused for what is no address.
        """
        try:
            record, shown = self._admitted(name, host)
        except SecretUnusable:
            self._uses.count(int(self._now()), self._who, "refuse", name, 0, _shown(host))
            raise
        self._uses.count(int(self._now()), self._who, "reveal", name, record.version, shown)
        return Revealed(record.value, record.version)

    def state(self, name: str, host: str | None = None) -> Standing:
        """Whether the secret can be used, for `host` when one is given. It is no use of it and changes nothing."""
        try:
            record = self._usable(name) if host is None else self._admitted(name, host)[0]
        except SecretUnusable as error:
            return Standing(error.standing, 0, error.message)
        except StoreUnavailable as error:
            return Standing("unreadable", 0, error.message)
        if self._refused.get(name) == record.version:
            return Standing("refused", record.version, f"the provider refused secret {name}; store a working key: {_put(name)}")
        return Standing("ready", record.version)

    def mark_refused(self, name: str, version: int) -> None:
        """The provider said 401 or 403 to this version. It is held in memory until there is another version.

        A mark for a version that is not the current one has no effect, so a late answer cannot hurt a new key.
        """
        self._refused[name] = max(version, self._refused.get(name, 0))

    def entries(self) -> list[Entry]:
        """Every secret, by name; damaged ones too."""
        found = [self._entry(name) for name in records.names(self._database)]
        return [entry for entry in found if entry is not None]

    def entry(self, name: str) -> Entry:
        """One secret. Raises UnknownSecret."""
        found = self._entry(name)
        if found is None:
            raise UnknownSecret(f"there is no secret of this name; store it with: {_put('NAME')}", param="name")
        return found

    def put(self, name: str, value: str, bound: Iterable[str] = (), *, otherwise: Iterable[str] = (), who: str) -> Entry:
        """Store a new version, which is the current one from now on, in every process; the one before stays for `rollback`.

        `bound` are the hosts that it may be sent to. Without any it keeps those of the version before; a new one takes `otherwise`.
        A disabled secret stays disabled. Raises InvalidSecret, SecretDamaged, SecretLocked, StoreUnavailable.
        """
        check_name(name)
        check_value(value)
        listed = hosts.bindings(bound, value)
        with self._database.exclusive():
            key = self._in_force()
            record = self._load(name)
            listed = listed or (record.hosts if record else hosts.bindings(otherwise))
            if not listed:
                raise InvalidSecret(f"secret {name} is new: name the host that it may be sent to ({_put(name)} --host HOST)", param="hosts")
            self._store(key, name, record, value, listed, "rotate" if record else "put", who)
            return self.entry(name)

    def rotate(self, name: str, value: str, *, who: str) -> Entry:
        """`put` for a secret that is there already, with the hosts that it has. Raises UnknownSecret."""
        with self._database.exclusive():
            self._existing(name)
            return self.put(name, value, who=who)

    def rollback(self, name: str, *, who: str) -> Entry:
        """Make the version before current again, value and hosts, under a new number. Twice leads back.

        Raises UnknownSecret, NoPreviousVersion.
        """
        with self._database.exclusive():
            key, record = self._in_force(), self._existing(name)
            if record.previous is None:
                raise NoPreviousVersion(f"secret {name} has no version before this one")
            value = records.value(record.previous, self._ring)
            self._store(key, name, record, value, records.hosts(record.previous), "rollback", who)
            return self.entry(name)

    def disable(self, name: str, *, who: str) -> Entry:
        """Keep the secret, but let nobody use it. Raises UnknownSecret."""
        return self._switch(name, "disable", who)

    def enable(self, name: str, *, who: str) -> Entry:
        """Undo `disable`. Raises UnknownSecret."""
        return self._switch(name, "enable", who)

    def remove(self, name: str, *, who: str) -> None:
        """Erase every version; works on a damaged secret too. The audit stays. Raises UnknownSecret."""
        with self._database.exclusive():
            key = self._in_force()
            self.entry(name)
            version = records.newest(self._database, name)
            with self._database.write() as db:
                records.erase_versions(db, name)
                records.write_head(db, Head.sealed(key, name, version, "removed", int(self._now())))
                audit.write(db, self._row("remove", who, name, version))
            self._database.checkpoint()

    def rekey(self, new: MasterKey | None = None, *, who: str) -> int:
        """Put every record under another master key, `new` or a random one; running calls and other processes notice nothing.

        All records change in one transaction, and before and after it a key that opens them is kept: a crash at any point is
        settled by the next start or write. Returns how many versions were wrapped. Raises SecretDamaged, InvalidSecret.
        """
        with self._database.exclusive():
            old, key = self._in_force(), new or MasterKey.random()
            if key == old:
                raise InvalidSecret("this is the master key that is in force already")
            self._ring.stage(key)
            with self._database.write() as db:
                count = records.rewrap(db, key, self._ring)
                audit.write(db, self._row("rekey", who))
            self._ring.settle(key)
            self._database.checkpoint()
        return count

    def audit(self, limit: int = 100, name: str | None = None) -> list[Row]:
        """The last rows of the audit, newest first. Uses of the last minute may still be counted in memory."""
        return audit.read(self._database, limit, name)

    def flush(self) -> None:
        """Write the uses counted in memory to the audit. Raises StoreUnavailable, and then keeps them."""
        uses = self._uses.take()
        if not uses:
            return
        try:
            with self._database.write() as db:
                for use in uses:
                    audit.write(db, use)
                audit.prune(db, int(self._now()))
        except StoreUnavailable:
            self._uses.put_back(uses)
            raise

    async def keep_audit(self, every_s: float = AUDIT_EVERY_S) -> None:
        """Flush now and then, off the event loop, until cancelled. A store that cannot be written is logged and tried again."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await asyncio.to_thread(self.flush)
            except StoreUnavailable as error:
                log.warning("uses of secrets are not written to the audit yet: %s", error.message)

    def _usable(self, name: str) -> Record:
        with self._lock:
            self._forget_stale()
            record = self._cache.get(name)
            if record is None:
                record = self._load(name)
                if record is None:
                    raise SecretMissing(f"there is no secret {name}; store it with: {_put(name)}")
                self._cache[name] = record
        if record.disabled:
            raise SecretDisabled(f"secret {name} is disabled; turn it on with: sensorium secret enable {name}")
        return record

    def _admitted(self, name: str, host: str) -> tuple[Record, str]:
        """The secret, when it may go to `host`, and the host in its one spelling."""
        record = self._usable(name)
        found = self._admissions.get((name, host))
        if found is None or found[0] is not record:
            if not hosts.admit(record.hosts, hosts.address(host)):
                bound = ", ".join(record.hosts)
                raise HostNotBound(f"secret {name} is bound to {bound} and is not sent to {_shown(host)}; store it again with --host")
            found = self._admissions[name, host] = (record, _shown(host))
        return found

    def _forget_stale(self) -> None:
        try:
            changes = self._database.changes()
            generation = records.generation(self._database) if changes != self._changes else self._generation
        except StoreUnavailable:
            if not self._cache:
                raise
            return  # the last known good: a database in trouble must not look like missing keys
        if generation != self._generation:
            self._cache.clear()
            self._admissions.clear()
        self._changes, self._generation = changes, generation

    def _load(self, name: str) -> Record | None:
        return records.load(self._database, name, self._ring)

    def _existing(self, name: str) -> Record:
        record = self._load(name)
        if record is None:
            raise UnknownSecret(f"there is no secret {check_name(name)}", param="name")
        return record

    def _entry(self, name: str) -> Entry | None:
        try:
            record = self._load(name)
        except SecretUnusable as error:
            return Entry(name, records.newest(self._database, name), (), 0, False, Standing(error.standing, 0, error.message))
        if record is None:
            return None
        return Entry(name, record.version, record.hosts, record.created_at, record.previous is not None, self.state(name))

    def _in_force(self) -> MasterKey:
        return self._ring.in_force(records.key_ids(self._database))

    def _store(
        self, key: MasterKey, name: str, record: Record | None, value: str, listed: tuple[str, ...], action: Action, who: str
    ) -> None:
        at, version = int(self._now()), records.newest(self._database, name) + 1
        with self._database.write() as db:
            records.write_head(db, Head.sealed(key, name, version, "disabled" if record and record.disabled else "active", at))
            records.write_version(db, Version.of(key, name, version, listed, at, value))
            audit.write(db, self._row(action, who, name, version, ", ".join(listed)))

    def _switch(self, name: str, action: Action, who: str) -> Entry:
        with self._database.exclusive():
            key, record = self._in_force(), self._existing(name)
            head = Head.sealed(key, name, record.version, "disabled" if action == "disable" else "active", int(self._now()))
            with self._database.write() as db:
                records.write_head(db, head)
                audit.write(db, self._row(action, who, name, record.version))
            return self.entry(name)

    def _row(self, action: Action, who: str, name: str = "", version: int = 0, host: str = "") -> Row:
        return Row(int(self._now()), who, action, name, version, host)


def _shown(host: str) -> str:
    address = hosts.address(host)
    return str(Binding(address.scheme, address.host, address.port, below=False))


def _put(name: str) -> str:
    return f"sensorium secret put {name}"
