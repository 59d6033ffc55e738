"""Settings into providers and routes: one route per model that the operator lists, an open one where any name of a modality goes on.

The keys stay in the vault, or in the settings' own memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from sensorium.options import (
    ANTHROPIC_TIMEOUT_S,
    CONNECT_S,
    IDLE_S,
    TIMEOUT_S,
    AudioSettings,
    Limits,
    ModalitySettings,
    NamedModel,
    ProviderSettings,
    SecretRef,
)
from sensorium.routing.call import ANY_MODEL, Credential, Dialect, Modality, Provider, Route
from sensorium.settings import ROUTER, Settings
from sensorium.store.vault import Vault

# what a table of the settings' `router` serves
MODALITIES: Final[dict[str, tuple[Modality, ...]]] = {
    "chat": ("chat",),
    "image": ("image",),
    "audio": ("speech", "transcribe"),
    "video": ("video",),
    "embeddings": ("embed",),
}
NVIDIA: Final[dict[Modality, Dialect]] = {
    "chat": "openai",
    "embed": "nvidia",
    "image": "genai",
    "speech": "nvidia",
    "transcribe": "nvidia",
    "video": "genai",
    "rerank": "nvidia",
}
# which modalities of a kind take any name, and where they are below its base URL
OPEN: Final[dict[str, dict[Modality, str]]] = {
    "nvidia": {"chat": "", "embed": "", "image": "/genai", "rerank": "/retrieval/nvidia"},
    "hub": {"chat": "", "embed": "", "image": "/genai"},
    "anthropic": {"chat": ""},
}
ON_AI: Final = ("image", "rerank")  # of kind nvidia, on its second host
TIMES: Final = ("connect_s", "first_byte_s", "timeout_s", "idle_s", "hedge_after_s")  # of a model, over its provider's
EITHER, TEXT, EDIT, NOTHING = frozenset({"text", "vision"}), frozenset({"text"}), frozenset({"edit"}), frozenset[str]()


def routes(settings: Settings, vault: Vault | None) -> list[Route]:
    """Every route that the settings name: the tables of `router` first, then the providers in their order.

    `vault` may be missing when no table names a secret; ValueError otherwise.
    """
    found = [
        route
        for name, table in settings.router.given.items()
        for route in _of_modality(name, table, settings.keys.get(f"{ROUTER}{name}"), vault)
    ]
    for name, provider in settings.providers.items():
        found += _of_provider(name, provider, settings.keys.get(name), vault)
    return found


def _of_modality(name: str, table: ModalitySettings, key: str | None, vault: Vault | None) -> Iterator[Route]:
    sealed, plain = _key(table.key, vault), Credential(table.key_env, lambda: key)
    for modality in MODALITIES[name]:
        provider = _provider(f"{ROUTER}{name}", table.address(modality), modality, table, sealed, plain)
        if isinstance(table, AudioSettings):
            provider = replace(provider, language=table.language, voices=table.voices, speech_model=table.asr_model)
        dialect = NVIDIA[modality] if table.dialect == "nvidia" else "openai"
        if name != "audio":
            yield from (_route(model, modality, provider, dialect) for model in table.models)
        yield _open(modality, provider, dialect)


def _of_provider(name: str, table: ProviderSettings, key: str | None, vault: Vault | None) -> Iterator[Route]:
    sealed, plain = _key(table.key, vault), Credential(table.key_env, lambda: key)

    def provider(modality: Modality) -> Provider:
        return _provider(name, _address(table, modality), modality, table, sealed, plain)

    for model in table.models:
        dialect = model.dialect if model.dialect == "genai" else _dialect(table, model.modality)
        route = _route(model, model.modality, provider(model.modality), dialect, table.private)
        # fal's chat is about a picture, and never without one
        yield replace(route, capabilities=frozenset({"vision"})) if route.dialect == "fal" and route.modality == "chat" else route
    if table.kind == "nvidia" or not table.models:
        yield from (_open(modality, provider(modality), _dialect(table, modality)) for modality in OPEN.get(table.kind, ()))


def _address(table: ProviderSettings, modality: Modality) -> str:
    base = table.ai_url if table.kind == "nvidia" and modality in ON_AI else table.base_url
    assert base is not None  # the settings' checks see to it
    return base + OPEN.get(table.kind, {}).get(modality, "")


def _dialect(table: ProviderSettings, modality: Modality) -> Dialect:
    if table.kind == "nvidia":
        return NVIDIA[modality]
    if table.kind in ("anthropic", "fal"):
        return table.kind
    return "genai" if table.kind == "genai" or (table.kind == "hub" and modality == "image") else "openai"


def _route(model: NamedModel, modality: Modality, provider: Provider, dialect: Dialect, private: bool = False) -> Route:
    able = (
        (EITHER if model.vision or dialect == "anthropic" else TEXT)
        if modality == "chat"
        else EDIT
        if modality == "image" and model.edit
        else NOTHING
    )
    own = {name: seconds for name in TIMES if (seconds := getattr(model, name)) is not None}
    at = replace(provider, **own) if own else provider
    return Route(
        model.id,
        modality,
        dialect,
        able,
        at,
        model.upstream or model.id,
        inline_limit=model.inline_limit,
        inline_urls=model.inline_urls,
        private=private or model.private,
    )


def _open(modality: Modality, provider: Provider, dialect: Dialect) -> Route:
    return Route(ANY_MODEL, modality, dialect, EITHER if modality == "chat" else NOTHING, provider, ANY_MODEL)


class _Sealed:
    """A key in the vault."""

    def __init__(self, vault: Vault, secret: str) -> None:
        self._vault, self._secret = vault, secret

    def credential(self, url: str) -> Credential:
        return Credential(
            self._secret,
            lambda: self._vault.reveal(self._secret, url).value,
            lambda: self._vault.state(self._secret, url).version,
            lambda version: self._vault.mark_refused(self._secret, version),
        )

    def unusable(self, url: str) -> str | None:
        """Why it cannot be sent. A refused one can: whether to try it is known where the refusal was met."""
        standing = self._vault.state(self._secret, url)
        return None if standing.status in ("ready", "refused") else standing.reason


def _key(ref: SecretRef | None, vault: Vault | None) -> _Sealed | None:
    if ref is None:
        return None
    if vault is None:
        raise ValueError(f"{ref} needs the vault")
    return _Sealed(vault, ref.name)


def _provider(name: str, url: str, modality: Modality, limits: Limits, sealed: _Sealed | None, plain: Credential) -> Provider:
    down: Callable[[], str | None] = partial(sealed.unusable, url) if sealed else lambda: None
    kind = limits.kind if isinstance(limits, ProviderSettings) else ""
    return Provider(
        name,
        url,
        sealed.credential(url) if sealed else plain,
        limits.timeout_s or (ANTHROPIC_TIMEOUT_S if kind == "anthropic" else TIMEOUT_S[modality]),
        limits.idle_s or IDLE_S,
        local=kind == "engine",
        down=down,
        per_minute=limits.per_minute,
        burst=limits.burst,
        status_url=limits.status_url,
        connect_s=limits.connect_s or CONNECT_S,
        first_byte_s=limits.first_byte_s,
        hedge_after_s=limits.hedge_after_s,
        queue=limits.queue,
        stream_usage=limits.stream_usage,
    )
