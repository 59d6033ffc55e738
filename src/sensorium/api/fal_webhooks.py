"""What callers and receivers see of webhooks: the public keys, the record of deliveries, asking for one again, a URL checked at submit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any, Final

import msgspec

from sensorium.api.auth import ADMINISTRATORS, require_administrator
from sensorium.api.router import Entry
from sensorium.api.visit import Visit
from sensorium.errors import AddressRefused
from sensorium.jobs.outbox import Delivery, Notification, Outbox, State
from sensorium.jobs.receivers import receiver
from sensorium.jobs.request import UnknownRequest
from sensorium.jobs.webhook_keys import Keys
from sensorium.wire import fal_errors, fal_submit, openai

JWKS: Final = ("/.well-known/jwks.json", "/fal/rest/.well-known/jwks.json")
ROTATE: Final = "/v1/webhooks/rotate"
_FRESH_S: Final = 3600  # a new key is published a day before it is used
_STATES: Final = {State.WAITING: "waiting", State.DELIVERED: "delivered", State.GIVEN_UP: "given_up"}


class WebhooksDoor:
    """Handlers about webhooks. `wake` tells the loop of deliveries that something is due."""

    def __init__(self, outbox: Outbox, keys: Keys, wake: Callable[[], None]) -> None:
        self._outbox, self._keys, self._wake = outbox, keys, wake

    async def jwks(self, visit: Visit) -> None:
        """GET /.well-known/jwks.json: the keys that webhooks are checked with, for everybody."""
        found = await asyncio.to_thread(self._keys.published)
        await visit.answer(found, {"cache-control": f"public, max-age={_FRESH_S}"})

    async def rotate(self, visit: Visit) -> None:
        """POST /v1/webhooks/rotate: sign with a new key in a day. Raises Forbidden."""
        require_administrator(visit, "change the hub's keys")
        key = await asyncio.to_thread(self._keys.rotate)
        await _answer(visit, {"object": "webhook_key", "kid": key.kid, "first_use_at": key.first_use_at})

    async def deliveries(self, visit: Visit, request_id: str) -> None:
        """GET /v1/requests/ID/deliveries: the notification of a request, and every try. Raises UnknownRequest."""
        await _answer(visit, await asyncio.to_thread(self._shown, visit.caller, request_id))

    async def redeliver(self, visit: Visit, request_id: str) -> None:
        """POST /v1/requests/ID/redeliver: send it again, at once, under the same id. Raises UnknownRequest."""

        def again() -> dict[str, Any]:
            self._known(visit.caller, request_id)
            self._outbox.again(request_id)
            return self._shown(visit.caller, request_id)

        told = await asyncio.to_thread(again)
        self._wake()
        await _answer(visit, told, 202)

    def _shown(self, caller: str, request_id: str) -> dict[str, Any]:
        notification, tries = self._known(caller, request_id)
        waits = notification.state is State.WAITING
        paused = self._outbox.paused_since(notification.place) if waits else None
        return {
            "object": "list",
            "request_id": notification.request_id,
            "webhook_id": notification.webhook_id,
            "url": notification.url,
            "state": "paused" if paused is not None else _STATES[notification.state],
            "next_try_at": notification.due_at if waits and paused is None else None,
            "data": [asdict(one) for one in tries],
        }

    def _known(self, caller: str, request_id: str) -> tuple[Notification, list[Delivery]]:
        found = self._outbox.log_of(request_id)
        if found is None or (found[0].caller != caller and caller not in ADMINISTRATORS):
            raise UnknownRequest(
                f"there is no notification of a request {request_id[:80]}",
                hint="one is written when a request ends that was submitted with fal_webhook, and kept for webhooks.keep_days",
            )
        return found


def check_target(url: str, allow: Collection[str]) -> None:
    """Refuse a `fal_webhook` that would never be called, at submit. A name is only resolved, and checked, when it is called.

    Raises Refused, which is a 422 that names the parameter of the query.
    """
    try:
        receiver(url, allow)
    except AddressRefused as error:
        said = f"{error.message} ({error.hint})" if error.hint else error.message
        raise fal_submit.webhook_refused(url, said) from None


def entries(door: WebhooksDoor) -> list[Entry]:
    """The routes of their own; those below /v1/requests are mounted by whoever owns that path."""
    public = [Entry("GET", path, door.jwks, fal_errors.error, public=True) for path in JWKS]
    return [*public, Entry("POST", ROTATE, door.rotate, openai.error)]


async def _answer(visit: Visit, told: dict[str, Any], status: int = 200) -> None:
    await visit.answer(msgspec.json.encode(told), {"cache-control": "no-store"}, status)
