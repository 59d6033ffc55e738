"""Who may call (section 2). Besides the keys that it is given, the simulator knows one whose account is locked."""

from __future__ import annotations

import hmac
from collections.abc import Collection

from sensorium.simulators.fal.replies import LOCKED, MALFORMED, NO_HEADER, UNAUTHORIZED
from sensorium.simulators.replies import Refused

DEFAULT_KEY = "simulated-id:simulated-secret"
LOCKED_KEY = "locked-id:locked-secret"


class Auth:
    """The accepted keys; each is an account of its own."""

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = tuple(key.encode() for key in keys)

    def account(self, header: str) -> str:
        """The key of an Authorization header. Raises Refused."""
        scheme, _, key = header.strip().partition(" ")
        key = key.strip()
        if not header.strip():
            raise Refused(NO_HEADER)
        if scheme.lower() not in ("key", "bearer") or ":" not in key:
            raise Refused(MALFORMED)
        if key == LOCKED_KEY:
            raise Refused(LOCKED)
        if not any(hmac.compare_digest(key.encode("latin-1", "replace"), known) for known in self._keys):
            raise Refused(UNAUTHORIZED)
        return key
