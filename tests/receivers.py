"""Receivers of webhooks: one that answers as it is told, and the two public recipes by which users check what they get."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from typing import Any
from unittest import mock

import standardwebhooks
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.serving import serving

TOLERANCE_S = 300


def fals_recipe(headers: Mapping[str, str], body: bytes, keys: Sequence[Mapping[str, str]], now: float) -> bool:
    """As fal's page says: four headers, a timestamp within five minutes, any key that fits. Keys are decoded without adding padding."""
    said = {name.lower(): text for name, text in headers.items()}
    names = [f"x-fal-webhook-{name}" for name in ("request-id", "user-id", "timestamp", "signature")]
    if not all(said.get(name) for name in names):
        return False
    request_id, user_id, timestamp, signature = (said[name] for name in names)
    if abs(int(now) - int(timestamp)) > TOLERANCE_S:
        return False
    message = "\n".join([request_id, user_id, timestamp, hashlib.sha256(body).hexdigest()]).encode("utf-8")
    for key in keys:
        try:
            Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"])).verify(bytes.fromhex(signature), message)
        except (InvalidSignature, ValueError):
            continue
        return True
    return False


class _Clock(datetime):
    """The package looks at the machine's clock; here it is given one."""

    at = 0.0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.fromtimestamp(cls.at, tz=tz)


def standard_package(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """What the Standard Webhooks package says, with a clock of our own."""
    with mock.patch.object(standardwebhooks.webhooks, "datetime", _Clock), mock.patch.object(_Clock, "at", now):
        try:
            standardwebhooks.Webhook(secret).verify(body, dict(headers))
        except standardwebhooks.WebhookVerificationError:
            return False
        return True


@dataclass(slots=True)
class Answer:
    """What a receiver says, if it is not silent until the caller leaves."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"taken"
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Got:
    """One notification as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class Receiver:
    """An ASGI app. `answers` are given in turn, the last for ever; `got` fills as notifications arrive, `arrived` is raised with each."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers or (Answer(),))
        self.got: list[Got] = []
        self.arrived = threading.Semaphore(0)
        self.base = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        path = scope["raw_path"].decode() + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
        headers = {name.decode(): text.decode() for name, text in scope["headers"]}
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.got.append(Got(path, headers, body))
        self.arrived.release()
        while answer.silent:
            if (await receive())["type"] == "http.disconnect":
                return
        raw = [(name.encode(), text.encode()) for name, text in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": raw})
        await send({"type": "http.response.body", "body": answer.body})


@contextmanager
def receiving(*answers: Answer) -> Iterator[Receiver]:
    """A receiver at `base`."""
    receiver = Receiver(*answers)
    with serving(receiver) as base:
        receiver.base = base
        yield receiver
