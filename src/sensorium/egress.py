"""Which addresses may be called on a caller's behalf (webhooks, pictures by URL).

The policy is a pure function of an address; resolving a name is separate. Whoever connects must use an address that was checked here,
not the name again, or the name may point elsewhere the second time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

from sensorium.errors import AddressRefused

PORTS = {"http": 80, "https": 443}
LIST_IT = "the operator can permit it with --allow-egress HOST:PORT"
_HOST = re.compile(r"(?!-)[a-z0-9._-]{1,253}")
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
# Tunnels that carry an IPv4 address, the deprecated relays to them, protocol assignments, documentation.
_SPECIAL = tuple(ipaddress.ip_network(text) for text in ("2002::/16", "2001::/23", "3fff::/20", "192.88.99.0/24", "192.0.0.0/24"))
# IPv6 addresses whose last 32 bits are an IPv4 address: compatible, mapped, translated, NAT64.
_WRAPPING = tuple(ipaddress.ip_network(text) for text in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96"))
# Where clouds tell their machines their own credentials.
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        *("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
        *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254"),
    )
)

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[list[str]]]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads. `host` is a lower-case ASCII name or an address without brackets; `url` is rebuilt from the checked parts."""

    scheme: str
    host: str
    port: int
    url: str

    @property
    def netloc(self) -> str:
        """Host and port as a Host header says them: the port only where it is not the scheme's own."""
        return bracketed(self.host) if self.port == PORTS[self.scheme] else f"{bracketed(self.host)}:{self.port}"

    def at(self, address: str) -> str:
        """The same URL on one of its checked addresses."""
        return f"{self.scheme}://{bracketed(address)}:{self.port}/{self.url.partition('://')[2].partition('/')[2]}"

    def listed(self, allow: Collection[str]) -> bool:
        """Whether the operator's list of "host:port" names it."""
        return listed(self.host, self.port, allow)


def bracketed(host: str) -> str:
    """A name or an address as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def listed(host: str, port: int, allow: Collection[str]) -> bool:
    """Whether `allow`, entries of "host:port" in lower case or not, names this host and port."""
    return f"{bracketed(host)}:{port}".lower() in {entry.lower() for entry in allow}


def target(url: str) -> Target:
    """Take a URL apart, without resolving anything.

    Raises AddressRefused for another scheme than http and https, for credentials inside, and for what is no proper URL.
    """
    if any(ord(character) <= 32 or ord(character) == 127 or character == "\\" for character in url):
        raise AddressRefused("a URL with blanks, control characters or backslashes is not called")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except (ValueError, UnicodeError):
        raise AddressRefused("not a proper URL") from None
    if parts.scheme not in PORTS:
        raise AddressRefused(f"only http and https URLs are called, not {parts.scheme[:20] or 'one without a scheme'}")
    if parts.username is not None or parts.password is not None:
        raise AddressRefused("a URL that carries a user name or password is not called")
    if not (_is_address(host) or _HOST.fullmatch(host)) or port == 0:
        raise AddressRefused("not a proper URL: the host or port cannot be read")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = port or PORTS[parts.scheme]
    return Target(parts.scheme, host, port, f"{parts.scheme}://{bracketed(host)}:{port}{path}")


def refusal(address: Address) -> str | None:
    """Why this address may not be called, in a few words; None when it may. Only ordinary public unicast addresses may."""
    if is_metadata(address):
        return "a cloud metadata address"
    if address.is_loopback or address.is_unspecified:
        return "this machine itself"
    if address.is_private or address.is_link_local or (isinstance(address, IPv6Address) and address.is_site_local):
        return "an address of a private network"
    special = any(address in network for network in _SPECIAL if network.version == address.version)
    if isinstance(address, IPv6Address) and address not in _GLOBAL_V6:
        special = True
    if special or address.is_multicast or address.is_reserved or not address.is_global:
        return "not an ordinary public address"
    return None


def is_metadata(address: Address) -> bool:
    """Whether a cloud tells its machines their own credentials there. However an IPv6 address wraps it."""
    if isinstance(address, IPv6Address):
        if any(address in network for network in _WRAPPING):
            return IPv4Address(int(address) & 0xFFFFFFFF) in _METADATA
        return (address.sixtofour or address) in _METADATA
    return address in _METADATA


async def check(host: str, port: int, allow: Collection[str], resolve: Resolve | None = None) -> list[str]:
    """The addresses of `host` that may be connected to, never empty.

    `allow` holds "host:port" entries that may be reached although private; a name among them still must not lead to a cloud's metadata.
    One refused address among several refuses the name: it is either a mistake or a trick. Raises AddressRefused, also when the name
    cannot be resolved.
    """
    found = [host] if _is_address(host) else await _resolved(host, port, resolve or by_system)
    name = f"{bracketed(host)}:{port}"
    if listed(host, port, allow):
        if any(text != host and is_metadata(ipaddress.ip_address(text)) for text in found):
            raise AddressRefused(f"{name} is not called: it leads to a cloud metadata address")
        return found
    for text in found:
        reason = refusal(ipaddress.ip_address(text))
        if reason is not None:
            raise AddressRefused(f"{name} is not called: it is {reason}", hint=LIST_IT)
    return found


async def by_system(host: str, port: int) -> list[str]:
    """The addresses that the operating system knows for a name. Raises OSError when there are none."""
    entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


async def _resolved(host: str, port: int, resolve: Resolve) -> list[str]:
    try:
        found = await resolve(host, port)
    except (OSError, UnicodeError):
        found = []
    if not found or not all(_is_address(text) for text in found):
        raise AddressRefused(f"{host} cannot be resolved to an address")
    return found


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
