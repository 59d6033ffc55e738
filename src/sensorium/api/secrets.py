"""The vault's door for administrators: store, list and remove secrets. No answer ever holds a value."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sensorium.api.auth import require_administrator
from sensorium.api.visit import Visit
from sensorium.errors import BadRequest
from sensorium.store.secret import Entry, concerns
from sensorium.store.vault import Vault

MAX_BODY = 64 * 1024
ACTION = "manage secrets"
FORM = '{"value": "...", "hosts": ["ai.api.nvidia.com"]}'


class Given(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a PUT. Without hosts the secret keeps those that it has."""

    value: str
    hosts: list[str] = []

    def __repr__(self) -> str:
        return f"Given(hosts={self.hosts})"


_given = msgspec.json.Decoder(Given)


class SecretsDoor:
    """Handlers of /v1/secrets. `hosts_of` tells where the settings send a secret, for a new one that names no hosts."""

    def __init__(self, vault: Vault, hosts_of: Callable[[str], Sequence[str]]) -> None:
        self._vault = vault
        self._hosts_of = hosts_of

    async def entries(self, visit: Visit) -> None:
        """GET /v1/secrets: every secret, and whether it can be used."""
        require_administrator(visit, ACTION)
        found = await asyncio.to_thread(self._vault.entries)
        await _answer(visit, {"object": "list", "data": [entry.shown() for entry in found]})

    async def entry(self, visit: Visit) -> None:
        """GET /v1/secrets/NAME. Raises UnknownSecret."""
        require_administrator(visit, ACTION)
        found = await asyncio.to_thread(self._vault.entry, visit.params[0])
        await _answer(visit, found.shown())

    async def put(self, visit: Visit) -> None:
        """PUT /v1/secrets/NAME: store or rotate, in force at once. Raises InvalidSecret, and BadRequest without repeating the body."""
        require_administrator(visit, ACTION)
        try:
            given = _given.decode(await visit.body(MAX_BODY))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadRequest(f"the body must look like {FORM}") from None

        def store() -> Entry:
            name = visit.params[0]
            return self._vault.put(name, given.value, given.hosts, otherwise=self._hosts_of(name), who=f"api:{visit.caller}")

        entry = await asyncio.to_thread(store)
        await _answer(visit, {**entry.shown(), "warnings": concerns(given.value, entry.hosts)})

    async def remove(self, visit: Visit) -> None:
        """DELETE /v1/secrets/NAME: every version of it. Raises UnknownSecret."""
        require_administrator(visit, ACTION)
        name = visit.params[0]
        await asyncio.to_thread(lambda: self._vault.remove(name, who=f"api:{visit.caller}"))
        await _answer(visit, {"object": "secret", "name": name, "deleted": True})


async def _answer(visit: Visit, told: dict[str, Any]) -> None:
    await visit.answer(msgspec.json.encode(told), {"cache-control": "no-store"})
