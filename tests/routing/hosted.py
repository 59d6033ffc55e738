"""Routes to a provider at some base URL, for tests."""

from __future__ import annotations

from dataclasses import replace

from sensorium.routing.call import Call, Credential, Provider, Route
from sensorium.wire import jsonbody

CALL = Call("r1", "good", "chat", ("openai",), "chat/completions", jsonbody.members(b'{"messages": [1, 2.50]}'))


def provider(base_url: str, name: str = "hosted", key: str | None = "k", local: bool = False) -> Provider:
    return Provider(name, base_url, Credential(None, lambda: key), timeout_s=5, idle_s=5, local=local)


def chat(id: str, at: Provider, capabilities: set[str] | None = None, upstream: str | None = None) -> Route:
    return Route(id, "chat", "openai", frozenset(capabilities or {"text", "vision"}), at, upstream or id)


def nvidia(modality: str, at: Provider, id: str = "*", dialect: str = "nvidia") -> Route:
    """A route in NVIDIA's dialect, open unless it has an id."""
    return Route(id, modality, dialect, frozenset(), at, id)  # type: ignore[arg-type]


def image(id: str, at: Provider, upstream: str | None = None, stand_in: bool = False) -> Route:
    return Route(id, "image", "genai", frozenset(), at, upstream or id, "synthetic-scenes", stand_in)


def call(**changes: object) -> Call:
    return replace(CALL, **changes)  # type: ignore[arg-type]
