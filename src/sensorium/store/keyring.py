"""The master keys that this process holds, and which of them is in force: the one that the records name."""

from __future__ import annotations

from pathlib import Path

from sensorium.errors import SettingsError
from sensorium.store.masterkey import Keeper
from sensorium.store.sealing import MasterKey
from sensorium.store.secret import SecretLocked


class KeyRing:
    """Keys by their id, learnt from `keeper` when one is missing. `store` is the database's path, for messages."""

    def __init__(self, keeper: Keeper, store: Path) -> None:
        self._keeper, self._store = keeper, store
        self._keys = {key.id: key for key in keeper.candidates()}

    def __call__(self, key_id: str) -> MasterKey:
        """The key of this id. Raises SecretLocked."""
        if key_id not in self._keys:  # another process has changed the master key, or the record is damaged
            self._learn()
        if key_id not in self._keys:
            raise SecretLocked(f"the vault is sealed with the master key {str(key_id)[:16]}, which is not in {self._keeper.place}")
        return self._keys[key_id]

    def in_force(self, named: list[str]) -> MasterKey:
        """The key to seal with, of those that records name, most frequent first; a new one is made only when there are no records.

        Call it with every other writer kept out. Raises SecretLocked with what to do.
        """
        kept = self._learn()
        known = [self._keys[key_id] for key_id in named if key_id in self._keys]
        if named and not known:
            found = "holds another master key than" if kept else "is missing, the master key of"
            raise SecretLocked(
                f"{self._keeper.place} {found} the vault in {self._store} ({named[0]}); put that key back; "
                f"if it is lost, so are the values: move {self._store.name} away and store the secrets again"
            )
        key = known[0] if known else kept[-1] if kept else self._keeper.create()
        self.settle(key)
        return key

    def stage(self, key: MasterKey) -> None:
        """Keep and know `key`, which is about to be in force."""
        self._keeper.stage(key)
        self._keys[key.id] = key

    def settle(self, key: MasterKey) -> None:
        """`key` is in force."""
        self._keys[key.id] = key
        self._keeper.settle(key)

    def _learn(self) -> list[MasterKey]:
        try:
            kept = self._keeper.candidates()
        except SettingsError as error:
            raise SecretLocked(error.message) from None
        self._keys |= {key.id: key for key in kept}
        return kept
