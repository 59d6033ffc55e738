"""A secret as rows: what is sealed in which column and with what it is authenticated, and all SQL on `secrets` and `secret_versions`.

    secrets.seal               no content; authenticates the row: nobody can point it at an older version or enable it again
    secret_versions.wrapped    the version's data key, under the master key
    secret_versions.sealed     the value, under the data key; authenticates name, version, hosts and time

So a row opens under its own name, with its own version and hosts, or not at all.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from sqlite3 import Connection
from typing import Literal, NamedTuple

from sensorium.store.database import Database
from sensorium.store.sealing import KEY_BYTES, Broken, MasterKey, seal, unseal
from sensorium.store.secret import SecretDamaged

HeadState = Literal["active", "disabled", "removed"]
Ring = Callable[[str], MasterKey]
_HEADS = "SELECT name, version, state, changed_at, key_id, seal FROM secrets"
_VERSIONS = "SELECT name, version, hosts, created_at, key_id, wrapped, sealed FROM secret_versions"
_JOINED = """SELECT s.name, s.version, s.state, s.changed_at, s.key_id, s.seal,
    v.name, v.version, v.hosts, v.created_at, v.key_id, v.wrapped, v.sealed
    FROM secrets s LEFT JOIN secret_versions v ON v.name = s.name WHERE s.name = ? ORDER BY v.version DESC"""


class Head(NamedTuple):
    """A row of `secrets`."""

    name: str
    version: int
    state: HeadState
    changed_at: int
    key_id: str
    seal: bytes

    @classmethod
    def sealed(cls, key: MasterKey, name: str, version: int, state: HeadState, at: int) -> Head:
        """The row of a secret whose newest version is `version`."""
        return cls(name, version, state, at, key.id, seal(key.material, b"", ("head", key.id, name, version, state, at)))

    def check(self, ring: Ring) -> None:
        """Raises Broken when anything in the row was altered."""
        belonging = ("head", self.key_id, self.name, self.version, self.state, self.changed_at)
        unseal(ring(self.key_id).material, self.seal, belonging)


class Version(NamedTuple):
    """A row of `secret_versions`; `hosts` is a JSON list."""

    name: str
    version: int
    hosts: str
    created_at: int
    key_id: str
    wrapped: bytes
    sealed: bytes

    @classmethod
    def of(cls, key: MasterKey, name: str, version: int, hosts: tuple[str, ...], at: int, value: str) -> Version:
        """The row of a value, under a data key of its own."""
        listed, data_key = json.dumps(hosts), secrets.token_bytes(KEY_BYTES)
        sealed = seal(data_key, value.encode("ascii"), ("value", name, version, listed, at))
        return cls(name, version, listed, at, key.id, seal(key.material, data_key, ("key", key.id, name, version)), sealed)

    def value(self, ring: Ring) -> str:
        """The value. Raises Broken when anything in the row was altered."""
        belonging = ("value", self.name, self.version, self.hosts, self.created_at)
        return unseal(self._data_key(ring), self.sealed, belonging).decode("ascii")

    def wrapped_by(self, key: MasterKey, ring: Ring) -> Version:
        """The same version with its data key under another master key. Raises Broken."""
        wrapped = seal(key.material, self._data_key(ring), ("key", key.id, self.name, self.version))
        return self._replace(key_id=key.id, wrapped=wrapped)

    def _data_key(self, ring: Ring) -> bytes:
        return unseal(ring(self.key_id).material, self.wrapped, ("key", self.key_id, self.name, self.version))


@dataclass(frozen=True, slots=True)
class Record:
    """A secret that is there, opened. `previous` is the row that a rollback would bring back."""

    name: str
    version: int
    disabled: bool
    hosts: tuple[str, ...]
    created_at: int
    value: str = field(repr=False)
    previous: Version | None = field(repr=False)


def load(database: Database, name: str, ring: Ring) -> Record | None:
    """The secret of this name, None when there is none. Raises SecretDamaged, and what `ring` raises."""
    rows = database.read(_JOINED, name)
    if not rows:
        return None
    head = Head(*rows[0][:6])
    versions = [Version(*row[6:]) for row in rows if row[6] is not None]
    with _damage(name):
        head.check(ring)
        if head.state == "removed" and not versions:
            return None
        if head.state == "removed" or not versions or versions[0].version != head.version:
            raise Broken
        current, previous = versions[0], versions[1] if len(versions) > 1 else None
        opened = current.value(ring)
    return Record(name, head.version, head.state == "disabled", hosts(current), current.created_at, opened, previous)


def value(version: Version, ring: Ring) -> str:
    """The value of a version. Raises SecretDamaged, and what `ring` raises."""
    with _damage(version.name):
        return version.value(ring)


def hosts(version: Version) -> tuple[str, ...]:
    """The bound hosts of a version that has been opened."""
    return tuple(json.loads(version.hosts))


def newest(database: Database, name: str) -> int:
    """The highest version number ever given to this name, 0 for a new one; unchecked."""
    found = database.read("SELECT version FROM secrets WHERE name = ? UNION SELECT version FROM secret_versions WHERE name = ?", name, name)
    return max((int(row[0]) for row in found), default=0)


def names(database: Database) -> list[str]:
    """Every name ever used, removed ones too."""
    return [row[0] for row in database.read("SELECT name FROM secrets UNION SELECT name FROM secret_versions ORDER BY name")]


def key_ids(database: Database) -> list[str]:
    """The ids of the master keys that records name, the most frequent first. More than one is damage."""
    both = "SELECT key_id FROM secrets UNION ALL SELECT key_id FROM secret_versions"
    return [row[0] for row in database.read(f"SELECT key_id FROM ({both}) GROUP BY key_id ORDER BY count(*) DESC")]


def generation(database: Database) -> int:
    """A number that has grown when any secret was changed by anybody."""
    return int(database.read("SELECT generation FROM vault_state")[0][0])


def write_head(db: Connection, head: Head) -> None:
    """Insert or replace a row of `secrets`, and tell every process that something changed."""
    db.execute(
        "INSERT INTO secrets (name, version, state, changed_at, key_id, seal) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE"
        " SET version = excluded.version, state = excluded.state, changed_at = excluded.changed_at, key_id = excluded.key_id,"
        " seal = excluded.seal",
        head,
    )
    db.execute("UPDATE vault_state SET generation = generation + 1")


def write_version(db: Connection, version: Version) -> None:
    """Insert a new version; of the older ones only the one before stays."""
    db.execute("DELETE FROM secret_versions WHERE name = ? AND version < ?", (version.name, version.version - 1))
    db.execute(
        "INSERT INTO secret_versions (name, version, hosts, created_at, key_id, wrapped, sealed) VALUES (?, ?, ?, ?, ?, ?, ?)", version
    )


def erase_versions(db: Connection, name: str) -> None:
    """Delete every version of a secret."""
    db.execute("DELETE FROM secret_versions WHERE name = ?", (name,))


def rewrap(db: Connection, key: MasterKey, ring: Ring) -> int:
    """Put every record under another master key; sealed values stay as they are. Returns how many versions there were.

    The generation stays: what other processes hold in memory is still right. Raises SecretDamaged: a record that cannot be opened
    must stop this, not come out of it with a valid wrap.
    """
    versions = [Version(*row) for row in db.execute(_VERSIONS)]
    for version in versions:
        with _damage(version.name):
            version.value(ring)
            again = version.wrapped_by(key, ring)
        changed = (again.key_id, again.wrapped, again.name, again.version)
        db.execute("UPDATE secret_versions SET key_id = ?, wrapped = ? WHERE name = ? AND version = ?", changed)
    for head in [Head(*row) for row in db.execute(_HEADS)]:
        with _damage(head.name):
            head.check(ring)
        sealed = Head.sealed(key, head.name, head.version, head.state, head.changed_at)
        db.execute("UPDATE secrets SET key_id = ?, seal = ? WHERE name = ?", (sealed.key_id, sealed.seal, head.name))
    return len(versions)


@contextmanager
def _damage(name: str) -> Iterator[None]:
    try:
        yield
    except Broken:
        raise SecretDamaged(f"the record of secret {name} was altered; remove it, then store it again") from None
