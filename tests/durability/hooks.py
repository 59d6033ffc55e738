"""A receiver of webhooks that keeps all of them with the time they came, and checks them as users do."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.receivers import Got, fals_recipe


@dataclass(slots=True)
class Hooks:
    """The ASGI app. `got` are the notifications, each with its time in seconds since the epoch."""

    got: list[tuple[float, Got]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): text.decode() for name, text in scope["headers"]}
        self.got.append((time.time(), Got(scope["path"], headers, body)))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def of(self, id: str) -> list[Got]:
        """What came about a request."""
        return [got for _, got in list(self.got) if got.headers["x-fal-webhook-request-id"] == id]

    def ids(self, id: str) -> set[str]:
        """The webhook ids under which a request was told of."""
        return {got.headers["webhook-id"] for got in self.of(id)}

    def check(self, keys: Sequence[Mapping[str, str]]) -> None:
        """Every one is signed twice, by a published key, with a fresh timestamp."""
        for at, got in list(self.got):
            assert fals_recipe(got.headers, got.body, keys, at), got
            assert standard_recipe(got.headers, got.body, keys, at), got


def standard_recipe(headers: Mapping[str, str], body: bytes, keys: Sequence[Mapping[str, str]], now: float) -> bool:
    """Standard Webhooks' asymmetric signature, which its Python package does not know."""
    id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
    signed = [text.removeprefix("v1a,") for text in headers["webhook-signature"].split() if text.startswith("v1a,")]
    if abs(now - int(timestamp)) > 300 or not signed:
        return False
    for key in keys:
        public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"].rstrip("=") + "="))
        try:
            public.verify(base64.b64decode(signed[0]), f"{id}.{timestamp}.".encode() + body)
        except InvalidSignature:
            continue
        return True
    return False
