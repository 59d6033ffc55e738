"""Who may call: section 2's rules of the Authorization header, and what an account's keys are refused with.

Guesses: a key without the `nvapi-` prefix is 401 and an unknown one that has it 403, since the real rule is unconfirmed; what counts as
unparsable; the words of the 500. Besides the keys that it is given, the simulator knows some that always fail in one way.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection

from sensorium.simulators.nvidia.call import Call
from sensorium.simulators.nvidia.catalog import Model
from sensorium.simulators.nvidia.incidents import INCIDENTS
from sensorium.simulators.nvidia.replies import TEXT, bare, problem
from sensorium.simulators.replies import Refused, Reply

DEFAULT_KEY = "nvapi-simulated"
UNAUTHENTICATED, UNAUTHORIZED = problem(401, "Authentication failed"), problem(403, "Authorization failed")
DEAD_KEYS = {"nvapi-expired": UNAUTHENTICATED, "nvapi-revoked": UNAUTHORIZED}
# Keys of the account that may not call models, each with the incident that it meets.
BARRED_KEYS = {
    "nvapi-no-credits": "402",
    "nvapi-missing-resource": "missing-resource",
    "nvapi-not-shared": "not-shared",
    "nvapi-not-granted": "not-granted",
}


def bearer(call: Call) -> str:
    """The key that a call carries, whoever it belongs to. Raises Refused when the header cannot be used."""
    given = call.header("authorization")
    if not call.has("authorization"):
        raise Refused(bare(401, "Header of type `authorization` was missing"))
    scheme, _, key = given.partition(" ")
    if not key.strip() or not given.isascii():
        raise Refused(bare(401, "Unauthorized access"))
    if scheme.lower() != "bearer":
        raise Refused(Reply(500, b"Missing request extension: Extension of type `ApiKey` was not found.", {"content-type": TEXT}))
    return key.strip()


class Auth:
    """The accepted keys of the one account."""

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = tuple(key.encode() for key in keys)

    def member(self, call: Call) -> str:
        """The key of a call that belongs to the account. Raises Refused."""
        key = bearer(call)
        if not self._knows(key) and key not in BARRED_KEYS:
            raise Refused(DEAD_KEYS.get(key) or (UNAUTHORIZED if key.startswith("nvapi-") else UNAUTHENTICATED))
        return key

    def caller(self, call: Call, model: Model) -> str:
        """The key of a call that may call `model`. Raises Refused."""
        key = self.member(call)
        if not self._knows(key):
            raise Refused(INCIDENTS[BARRED_KEYS[key]].answer(model))
        return key

    def _knows(self, key: str) -> bool:
        return any(hmac.compare_digest(key.encode(), known) for known in self._keys)
