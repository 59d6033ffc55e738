"""Who is calling. One token opens the hub; without one, only this machine is served."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from sensorium.api.visit import Visit
from sensorium.errors import Forbidden, Unauthorized
from sensorium.routing.call import Where
from sensorium.settings import is_loopback

OTHER_HEADER = "x-api-key"  # where Anthropic's clients put it
TOKEN_HINT = "send `Authorization: Bearer $MAC_API_TOKEN` with the token that this hub was started with"


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever a call is done for. `where` is the place that its calls are bound to or prefer; None leaves it to them."""

    name: str
    where: Where | None = None


class Auth:
    """Checks callers against the hub's token, in constant time."""

    def __init__(self, token: str | None) -> None:
        self._token = token.encode() if token else None

    def __call__(self, visit: Visit) -> Principal:
        """The caller's principal. Raises Unauthorized for a missing or unknown token, Forbidden for another machine."""
        if self._token is None:
            _require_this_machine(visit)
            return Principal("local")
        scheme, _, bearer = visit.header("authorization").partition(" ")
        sent = [token for token in (bearer if scheme.lower() == "bearer" else "", visit.header(OTHER_HEADER)) if token]
        if not sent:
            raise Unauthorized("no token was sent with this call", hint=TOKEN_HINT)
        if not any(hmac.compare_digest(token.strip().encode("latin-1"), self._token) for token in sent):
            raise Unauthorized("this hub does not know the token that was sent", hint=TOKEN_HINT)
        return Principal("token")


def _require_this_machine(visit: Visit) -> None:
    if visit.peer is not None and not is_loopback(visit.peer):
        raise Forbidden("this hub has no token and serves callers on its own machine only", hint="set MAC_API_TOKEN on the hub")
    # A web page must not reach a token-less hub through the browser of whoever runs it: neither under a
    # name that was re-pointed to this machine (Host), nor from another site (Origin).
    host = _name(visit.header("host"))
    site = visit.header("origin").partition("://")[2]
    if host and not is_loopback(host):
        raise Forbidden(f"this hub has no token and does not answer to the name {host[:80]}", hint="set MAC_API_TOKEN on the hub")
    if visit.header("origin") and not is_loopback(_name(site)):
        raise Forbidden("this hub has no token and does not answer pages of other sites", hint="set MAC_API_TOKEN on the hub")


def _name(host_port: str) -> str:
    if host_port.startswith("["):
        return host_port[1:].partition("]")[0]
    return host_port.partition(":")[0].lower()
