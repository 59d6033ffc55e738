"""Who is calling. The hub's token and those of the settings' callers open the hub; without any, only this machine is served."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from sensorium.api.visit import Visit
from sensorium.errors import Forbidden, TokenMissing, Unauthorized
from sensorium.exchange import foreign
from sensorium.routing.call import Where
from sensorium.settings import PRINCIPALS

SCHEMES = ("bearer", "key")  # `Key` is fal's; its clients send `id:secret` as the key
OTHER_HEADER = "x-api-key"  # where Anthropic's clients put it
TOKEN_HINT = "send `Authorization: Bearer $MAC_API_TOKEN` with the token that this hub was started with"
HUB, HERE = PRINCIPALS
# Whoever has the hub's token, and with a hub that has none whoever is on its machine, may do everything.
# A principal of another name is none of the two until it has a scope that says so.
ADMINISTRATORS = frozenset(PRINCIPALS)


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever a call is done for. `where` is the place that its calls are bound to or prefer; None leaves it to them."""

    name: str
    where: Where | None = None


class Auth:
    """Checks callers against the hub's token and those of `callers`, which are by name: always against all of them, in constant time."""

    def __init__(self, token: str | None, callers: Mapping[str, str] | None = None) -> None:
        named = ({HUB: token} if token else {}) | dict(callers or {})
        self._known = [(name, text.encode()) for name, text in named.items()]

    def knows(self, name: str) -> bool:
        """Whether there is still a principal of this name: what was signed for one that is gone is worth nothing."""
        return name in {known for known, _ in self._known} if self._known else name == HERE

    def __call__(self, visit: Visit) -> Principal:
        """The caller's principal.

        Raises TokenMissing, Unauthorized for an unknown token, and Forbidden for another machine while there is no token at all.
        """
        if not self._known:
            _require_this_machine(visit)
            return Principal(HERE)
        scheme, _, rest = visit.header("authorization").strip().partition(" ")
        keys = (rest if scheme.lower() in SCHEMES else "", visit.header(OTHER_HEADER))
        sent = [key.strip().encode("latin-1") for key in keys if key.strip()]
        if not sent:
            raise TokenMissing("no token was sent with this call", hint=TOKEN_HINT)
        found = [name for key in sent for name, token in self._known if hmac.compare_digest(key, token)]
        if not found:
            raise Unauthorized("this hub does not know the token that was sent", hint=TOKEN_HINT)
        return Principal(found[0])


def anybody(name: str) -> bool:
    """Every name is known."""
    return True


def require_administrator(visit: Visit, what: str) -> None:
    """Raise Forbidden for any other caller; `what` says what it may not do."""
    if visit.caller not in ADMINISTRATORS:
        raise Forbidden(f"this token may not {what}: it lacks the scope admin", code="missing_scope")


def _require_this_machine(visit: Visit) -> None:
    reason = foreign(visit.peer, visit.header)
    if reason is not None:
        raise Forbidden(f"this hub has no token and {reason}", hint="set MAC_API_TOKEN on the hub")
