"""The words of the vault: what is shown of a secret, what a name and a value may be, and why a secret cannot be used.

    Unavailable           503  the hub's state, not the caller's fault; another provider may still answer
    └── SecretUnusable
        ├── SecretMissing     secret_missing    nobody stored it
        ├── SecretDisabled    secret_disabled   an operator turned it off
        ├── HostNotBound      secret_not_bound  it may not be sent to this host
        ├── SecretLocked      secret_locked     sealed with a master key that this process does not have
        └── SecretDamaged     secret_damaged    its record was altered
    UnknownSecret         404  secret_not_found     there is none of this name to manage
    NoPreviousVersion     400  no_previous_version  there is nothing to roll back to
    InvalidSecret         400  invalid_secret       a name, value or host that cannot be

No message and no repr holds a value.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from sensorium.errors import BadRequest, NotFound, Unavailable
from sensorium.options import SECRET_NAME

Status = Literal["ready", "missing", "disabled", "refused", "unbound", "locked", "damaged", "unreadable"]
VALUE = re.compile(r"[!-~]+")
VALUE_CHARACTERS = 4096
NVIDIA_KEY, NVIDIA = "nvapi-", "nvidia.com"


class SecretUnusable(Unavailable):
    """A secret that cannot be sent. The call that needs it must not go out. `standing` is its one word in lists."""

    code = "secret_unusable"
    standing: Status = "unreadable"


class SecretMissing(SecretUnusable):
    """Nobody stored a secret of this name."""

    code = "secret_missing"
    standing: Status = "missing"


class SecretDisabled(SecretUnusable):
    """The secret is turned off."""

    code = "secret_disabled"
    standing: Status = "disabled"


class HostNotBound(SecretUnusable):
    """The secret is bound to other hosts."""

    code = "secret_not_bound"
    standing: Status = "unbound"


class SecretLocked(SecretUnusable):
    """The secret is sealed with a master key that this process does not have."""

    code = "secret_locked"
    standing: Status = "locked"


class SecretDamaged(SecretUnusable):
    """The record was altered, or moved from another name."""

    code = "secret_damaged"
    standing: Status = "damaged"


class UnknownSecret(NotFound):
    """There is no secret of this name to manage."""

    code = "secret_not_found"


class NoPreviousVersion(BadRequest):
    """There is nothing to roll back to."""

    code = "no_previous_version"


class InvalidSecret(BadRequest):
    """A name, value or host that cannot be one. The message does not repeat names and values: they may be pasted keys."""

    code = "invalid_secret"


@dataclass(frozen=True, slots=True)
class Revealed:
    """A value on its way into a header, and its version (for `Vault.mark_refused`)."""

    value: str = field(repr=False)
    version: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a secret can be used now: `reason` is None when it can, else a sentence that says what to do."""

    status: Status
    version: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """All that is ever shown of a secret. `created_at` is in seconds since the epoch, `previous` says that a rollback is possible."""

    name: str
    version: int
    hosts: tuple[str, ...]
    created_at: int
    previous: bool
    standing: Standing

    def shown(self) -> dict[str, Any]:
        """As JSON shows it, at the door and on the command line."""
        return {
            "object": "secret",
            "name": self.name,
            "version": self.version,
            "hosts": list(self.hosts),
            "created_at": self.created_at,
            "previous": self.previous,
            "state": self.standing.status,
            "reason": self.standing.reason,
        }


def check_name(name: str) -> str:
    """The name. Raises InvalidSecret."""
    if not SECRET_NAME.fullmatch(name):
        raise InvalidSecret(
            "a secret's name has up to 64 of a-z 0-9 . _ - and starts with a letter or digit, such as nvidia-image; it is not the key",
            param="name",
        )
    return name


def check_value(value: str) -> str:
    """The value, which must fit into one HTTP header. Raises InvalidSecret."""
    if not VALUE.fullmatch(value):
        reason = "is empty" if not value else "holds blanks, line ends or characters beyond printable ASCII"
        raise InvalidSecret(f"the value {reason}; store the bare key, without Bearer and quotes", param="value")
    if len(value) > VALUE_CHARACTERS:
        raise InvalidSecret(f"the value has {len(value)} characters; at most {VALUE_CHARACTERS} are stored", param="value")
    return value


def concerns(value: str, hosts: Collection[str]) -> list[str]:
    """What is odd about a value for these hosts, for whoever stores it. No reason to refuse it, and never its text."""
    theirs = any(host.removeprefix("*.").partition(":")[0].endswith(NVIDIA) for host in hosts)
    here = any(host.startswith("http://") for host in hosts)
    if value.startswith(NVIDIA_KEY) and not (theirs or here):
        return [f"this looks like a key of build.nvidia.com ({NVIDIA_KEY}...), and none of the hosts is NVIDIA's: {', '.join(hosts)}"]
    if theirs and not value.startswith(NVIDIA_KEY):
        return [f"keys of build.nvidia.com start with {NVIDIA_KEY}, this one does not; NVIDIA's hosted models refuse other keys"]
    return []
