"""The keys that notifications are signed with: which one now, which are published. A new one is published a day before it is used.

Receivers keep the published keys for up to a day, and a notification may be checked long after it was sent, so an old one stays.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final

from sensorium.jobs.outbox import Key, Outbox
from sensorium.store.signing import Signing
from sensorium.wire import webhook

AHEAD_S: Final = 24 * 3600.0
KEPT_S: Final = 72 * 3600.0


class Keys:
    """The signing keys of one hub. Methods block on the disk; all raise StoreUnavailable and SecretUnusable."""

    def __init__(self, outbox: Outbox, signing: Signing, now: Callable[[], float] = time.time) -> None:
        self._outbox, self._signing, self._now = outbox, signing, now

    def seed(self) -> bytes:
        """The key that signs now, as its 32 bytes. The first one is made when it is asked for: nobody knows an older."""
        now, known = self._now(), self._known()
        in_use = [key for key in known if key.first_use_at <= now]
        return self._seed(in_use[-1] if in_use else known[0])

    def published(self) -> bytes:
        """The JSON Web Key Set: the key in use, the one to come, and those used within the last KEPT_S."""
        over = self._now() - KEPT_S
        return webhook.jwks((key.kid, self._seed(key)) for key in self._known() if key.last_use_at is None or key.last_use_at > over)

    def rotate(self) -> Key:
        """The key to come, in AHEAD_S; one that is on its way already is not overtaken. Forgets those that are over."""
        now, known = self._now(), self._known()
        self._outbox.forget_keys([key.kid for key in known if key.last_use_at is not None and key.last_use_at <= now - KEPT_S])
        left = self._outbox.keys()
        if left[-1].first_use_at <= now:
            self._outbox.add_key(secrets.token_hex(8), now + AHEAD_S, len(left))
        return self._outbox.keys()[-1]

    def _known(self) -> list[Key]:
        found = self._outbox.keys()
        if not found:
            self._outbox.add_key(secrets.token_hex(8), self._now(), 0)
            found = self._outbox.keys()
        return found

    def _seed(self, key: Key) -> bytes:
        return self._signing.key(f"webhook/{key.kid}")
