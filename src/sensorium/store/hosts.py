"""Which hosts a secret may be sent to: the entries that an operator writes, and whether an address is among them.

ai.api.nvidia.com          this host, https, port 443
ai.api.nvidia.com:8443     this host, https, this port
*.api.nvidia.com           every host below this name, not the name itself
http://127.0.0.1:9000      plain http, which must be said
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from sensorium import egress
from sensorium.egress import PORTS, Target
from sensorium.errors import AddressRefused
from sensorium.store.secret import InvalidSecret

SHORTEST = 12  # characters of a value that is looked for among hosts: a shorter one may be part of a name by chance


@dataclass(frozen=True, slots=True)
class Binding:
    """One entry. `below` says that `host` stands for the names under it."""

    scheme: str
    host: str
    port: int
    below: bool

    def admits(self, address: Target) -> bool:
        """Whether this entry names the address."""
        named = address.host.endswith(f".{self.host}") if self.below else address.host == self.host
        return named and (address.scheme, address.port) == (self.scheme, self.port)

    def __str__(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else f"*.{self.host}" if self.below else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{'http://' if self.scheme == 'http' else ''}{shown}{port}"


def binding(entry: str) -> Binding:
    """One entry, read. Raises InvalidSecret with the forms that it may have."""
    scheme, _, rest = entry.strip().rpartition("://")
    below = rest.startswith("*.")
    try:
        if set(rest) & set("/?#"):
            raise AddressRefused("more than a host")
        found = address(f"{scheme or 'https'}://{rest.removeprefix('*.')}")
    except AddressRefused:
        raise InvalidSecret(f"{entry!r} is no host; write HOST, HOST:PORT, *.SUFFIX or http://HOST:PORT", param="hosts") from None
    if below and ("." not in found.host or _is_address(found.host)):
        raise InvalidSecret(f"{entry!r} is too wide; a suffix has at least two labels, such as *.nvidia.com", param="hosts")
    return Binding(found.scheme, found.host, found.port, below)


def bindings(entries: Iterable[str], value: str = "") -> tuple[str, ...]:
    """Entries in their one spelling, sorted, none twice. Raises InvalidSecret, also when the secret's `value` was written among them."""
    entries = tuple(entries)
    if len(value) >= SHORTEST and any(value.lower() in entry.lower() for entry in entries):
        raise InvalidSecret("the value itself stands among the hosts, which are no secret; name where it may be sent", param="hosts")
    return tuple(sorted({str(binding(entry)) for entry in entries}))


def admit(entries: Iterable[str], address: Target) -> bool:
    """Whether any of these entries names the address."""
    return any(binding(entry).admits(address) for entry in entries)


def address(host: str) -> Target:
    """Where a secret is about to be sent: a URL, or `host[:port]` for https. Raises AddressRefused."""
    return egress.target(host if "://" in host else f"https://{host}")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
