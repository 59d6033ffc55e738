"""Which URLs are called with a notification: https on its own port, public addresses, and what the operator lists.

Stricter than for pictures (`egress`): a listed address of a cloud's metadata is not called either, and plain http has to be listed: what is
sent there is a result.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Final

from sensorium import egress
from sensorium.errors import AddressRefused
from sensorium.wire.fal_submit import LONGEST_URL

_METADATA_NAMES: Final = frozenset({"metadata", "metadata.google.internal", "instance-data"})
_ENDS_IN_A_NUMBER: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")  # URL standard: such a host is an IPv4 address, in odd spelling


def receiver(url: str, allow: Collection[str]) -> egress.Target:
    """Where a URL leads, checked as far as it can be without resolving its name.

    `allow` holds "host:port" entries. Raises AddressRefused.
    """
    if len(url) > LONGEST_URL:
        raise AddressRefused(f"a URL of {len(url)} characters is not called, only up to {LONGEST_URL}")
    target = egress.target(url)
    literal = _literal(target.host)
    if "%" in target.host or (literal is None and _ENDS_IN_A_NUMBER.fullmatch(target.host)):
        raise AddressRefused("not a proper URL: its host is no name and no address in its usual spelling")
    if target.host in _METADATA_NAMES or (literal is not None and egress.is_metadata(literal)):
        raise AddressRefused(f"{target.host} is not called: it leads to a cloud metadata address")
    if target.listed(allow):
        return target
    reason = egress.refusal(literal) if literal is not None else None
    if reason is not None:
        raise AddressRefused(f"{target.host} is not called: it is {reason}", hint=egress.LIST_IT)
    if (target.scheme, target.port) != ("https", 443):
        raise AddressRefused(f"{target.scheme} on port {target.port} is not called, only https on port 443", hint=egress.LIST_IT)
    return target


async def addresses(target: egress.Target, allow: Collection[str], resolve: egress.Resolve | None) -> list[str]:
    """The addresses of a receiver that may be connected to, never empty: all of them are fit, or none is called. Raises AddressRefused."""
    found = await egress.check(target.host, target.port, allow, resolve)
    if any(egress.is_metadata(ipaddress.ip_address(text)) for text in found):
        raise AddressRefused(f"{target.host} is not called: it leads to a cloud metadata address")
    return found


def _literal(host: str) -> egress.Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
