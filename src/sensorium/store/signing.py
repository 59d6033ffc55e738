"""Keys that the hub signs with, derived from one secret of the vault: one key to a purpose, so that none is good for another's."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from sensorium.store.secret import UnknownSecret
from sensorium.store.vault import Vault

NAME = "hub-signing"
HOST = "hub.invalid"  # the secret is bound to a host that cannot exist: it is sent nowhere
BYTES = 32


class Signing:
    """The hub's own signing keys. The secret is made when it is missing; a new version of it ends everything signed before."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        try:
            vault.entry(NAME)
        except UnknownSecret:
            vault.put(NAME, secrets.token_hex(BYTES), [HOST], who="hub")

    def key(self, purpose: str) -> bytes:
        """32 bytes for `purpose`. Raises SecretUnusable, StoreUnavailable."""
        master = self._vault.reveal(NAME, f"https://{HOST}").value
        return hmac.new(master.encode(), purpose.encode(), hashlib.sha256).digest()
