"""Settings: one TOML file, a few flags and the environment, checked all at once and frozen.

An unknown key is an error that names its path. The tables themselves are in `options`.
"""

from __future__ import annotations

import base64
import binascii
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError

from sensorium import options_engines
from sensorium.errors import SettingsError
from sensorium.exchange import is_loopback
from sensorium.options import CallsSettings, Local, ProviderSettings, RouterSettings, Section, Server, VaultSettings
from sensorium.options_engines import EngineSettings
from sensorium.options_queue import CallerSettings, FilesSettings, Jobs, WebhookSettings

SHORT = 20  # characters; keys are longer
RESERVED = ("hub", "local")
ROUTER = "router."
MASTER_KEY, MASTER_KEY_FILE = "SENSORIUM_MASTER_KEY", "SENSORIUM_MASTER_KEY_FILE"
FROM_ENVIRONMENT = ("token", "keys", "child_environment", "master_key", "caller_tokens", "webhook_secrets")
CALLER_NAME = re.compile(r"[a-z0-9._-]{1,64}")
PRINCIPALS = ("token", "local")  # whoever has the hub's own token, and whoever is on its machine when it has none
WEBHOOK_SECRET, WEBHOOK_SECRET_BYTES = "whsec_", (24, 64)  # Standard Webhooks, "Signature scheme"


class Settings(Section):
    """Everything that `sensorium serve` can be told. What `FROM_ENVIRONMENT` names comes from the environment only.

    `caller_tokens` and `webhook_secrets` are by the callers' names.
    """

    server: Server = Server()
    vault: VaultSettings = VaultSettings()
    calls: CallsSettings = CallsSettings()
    local: Local = Local()
    jobs: Jobs = Jobs()
    files: FilesSettings = FilesSettings()
    webhooks: WebhookSettings = WebhookSettings()
    callers: dict[str, CallerSettings] = Field(default={})
    router: RouterSettings = RouterSettings()
    providers: dict[str, ProviderSettings] = Field(default={})
    engines: dict[str, EngineSettings] = Field(default={})
    token: str | None = Field(default=None, exclude=True, repr=False)
    keys: dict[str, str] = Field(default={}, exclude=True, repr=False)
    child_environment: dict[str, str] = Field(default={}, exclude=True, repr=False)
    master_key: str | None = Field(default=None, exclude=True, repr=False)
    caller_tokens: dict[str, str] = Field(default={}, exclude=True, repr=False)
    webhook_secrets: dict[str, str] = Field(default={}, exclude=True, repr=False)

    @property
    def data_dir(self) -> Path:
        """The folder for state; made when missing."""
        assert self.server.data_dir is not None
        return self.server.data_dir

    def hosts_of(self, secret: str) -> tuple[str, ...]:
        """Where the providers that use this secret are, as `host[:port]`, plain http with its scheme."""
        return tuple(dict.fromkeys(_bound_host(url) for name, url in self._keyed_urls() if name == secret))

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets that the file names, in its order."""
        return tuple(dict.fromkeys(name for name, _ in self._keyed_urls()))

    def _keyed_urls(self) -> list[tuple[str, str]]:
        modalities = [(table.key, url) for table in self.router.given.values() for url in table.urls]
        providers = [(table.key, url) for table in self.providers.values() for url in table.urls]
        return [(key.name, url) for key, url in modalities + providers if key is not None]


def load(path: Path | None, environ: Mapping[str, str], **flags: Any) -> Settings:
    """Read the file (none is fine), lay `flags` over its `server` table, take token and keys from `environ`.

    Raises SettingsError with every problem found.
    """
    settings, problems = _validated(path, environ, flags)
    from_environment = {
        "token": environ.get("MAC_API_TOKEN", "").strip() or None,
        "keys": _found(_variables(settings), environ),
        "child_environment": {name: text for name, text in environ.items() if name not in _hidden(settings)},
        "caller_tokens": _found(_token_variables(settings), environ),
        "webhook_secrets": _found(_webhook_variables(settings), environ),
    }
    settings = settings.model_copy(update=from_environment)
    problems += [*_contradictions(settings), *_missing(settings), *_unusable(settings)]
    if problems:
        raise SettingsError(problems)
    return settings


def load_for_vault(path: Path | None, environ: Mapping[str, str], **flags: Any) -> Settings:
    """`load` for whoever manages secrets beside a hub: of the environment only the master key counts, not what the hub needs to run.

    Raises SettingsError with every problem found.
    """
    settings, problems = _validated(path, environ, flags)
    problems += _contradictions(settings)
    if problems:
        raise SettingsError(problems)
    return settings


def problems_of(text: str) -> list[str]:
    """What is wrong with a text as a settings file, whatever the environment holds."""
    try:
        return list(_contradictions(Settings.model_validate(tomllib.loads(text))))
    except tomllib.TOMLDecodeError as error:
        return [f"not valid TOML: {error}"]
    except ValidationError as error:
        return [_sentence(detail) for detail in error.errors()]


def _validated(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> tuple[Settings, list[str]]:
    table = _read(path)
    problems = [f"{name}: comes from the environment, not from the file" for name in FROM_ENVIRONMENT if table.pop(name, None) is not None]
    server = table.setdefault("server", {})
    if isinstance(server, dict):
        given = {name: flag for name, flag in flags.items() if flag not in (None, (), [])}
        table["server"] = {"data_dir": _data_home(environ), **server, **given}
    vault = table.setdefault("vault", {})
    if isinstance(vault, dict) and environ.get(MASTER_KEY_FILE):
        table["vault"] = {**vault, "master_key_file": environ[MASTER_KEY_FILE]}
    try:
        settings = Settings.model_validate(table)
    except ValidationError as error:
        raise SettingsError(problems + [_sentence(detail) for detail in error.errors()]) from None
    master_key = environ.get(MASTER_KEY, "").strip() or None
    if master_key and settings.vault.master_key_file:
        problems.append(f"{MASTER_KEY} and a master key file ({settings.vault.master_key_file}) are both given; keep one")
    return settings.model_copy(update={"master_key": master_key}), problems


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: not valid TOML: {error}"]) from None


def _data_home(environ: Mapping[str, str]) -> Path:
    for variable, below in (("XDG_DATA_HOME", ""), ("LOCALAPPDATA", ""), ("HOME", ".local/share"), ("USERPROFILE", ".local/share")):
        if environ.get(variable):
            return Path(environ[variable], below, "sensorium")
    return Path("sensorium-data").resolve()


def _found(named: Iterable[tuple[str, str]], environ: Mapping[str, str]) -> dict[str, str]:
    """What the variables hold, by the names of those they are for; without those that hold nothing."""
    given = {name: environ.get(variable, "").strip() for name, variable in named}
    return {name: text for name, text in given.items() if text}


def _variables(settings: Settings) -> Iterator[tuple[str, str]]:
    """The tables that take their key from the environment, as `Settings.keys` names them, and its variables."""
    yield from ((f"{ROUTER}{name}", table.key_env) for name, table in settings.router.given.items() if table.key_env)
    yield from ((name, provider.key_env) for name, provider in settings.providers.items() if provider.key_env)


def _token_variables(settings: Settings) -> list[tuple[str, str]]:
    return [(name, caller.token_env) for name, caller in settings.callers.items()]


def _webhook_variables(settings: Settings) -> list[tuple[str, str]]:
    return [(name, caller.webhook_secret_env) for name, caller in settings.callers.items() if caller.webhook_secret_env]


def _hidden(settings: Settings) -> set[str]:
    """The variables that an engine's process does not get."""
    return {MASTER_KEY, *(variable for _, variable in _token_variables(settings) + _webhook_variables(settings))}


def _missing(settings: Settings) -> Iterator[str]:
    """What the environment should hold and does not."""
    if not (settings.token or settings.callers) and not is_loopback(settings.server.host):
        yield (
            f"server.host is {settings.server.host}, which other machines can reach, and no token is set; "
            "set MAC_API_TOKEN to a long random string, or bind 127.0.0.1"
        )
    for name, variable in _variables(settings):
        if name not in settings.keys:
            place = name if name.startswith(ROUTER) else f"providers.{name}"
            yield f"{place}.key_env: the environment variable {variable} is empty or not set"
    for name, engine in settings.engines.items():
        yield from (f"engines.{name}{problem}" for problem in options_engines.missing(engine, settings.data_dir))
    for option, variables, found in (
        ("token_env", _token_variables(settings), settings.caller_tokens),
        ("webhook_secret_env", _webhook_variables(settings), settings.webhook_secrets),
    ):
        for name, variable in variables:
            if name not in found:
                yield f"callers.{name}.{option}: the environment variable {variable} is empty or not set"


def _unusable(settings: Settings) -> Iterator[str]:
    """What the environment holds for callers and cannot be used. No value is repeated."""
    known = {settings.token: "MAC_API_TOKEN"} if settings.token else {}
    for name, token in settings.caller_tokens.items():
        if not (token.isascii() and token.isprintable()):
            yield f"callers.{name}.token_env: its token holds characters that no header can carry"
        if token in known:
            yield f"callers.{name}.token_env: its token is that of {known[token]}; each needs its own"
        known.setdefault(token, f"callers.{name}")
    for name, secret in settings.webhook_secrets.items():
        if not _is_webhook_secret(secret):
            fewest, most = WEBHOOK_SECRET_BYTES
            yield f"callers.{name}.webhook_secret_env: must hold {WEBHOOK_SECRET} and {fewest} to {most} bytes in base64"


def _is_webhook_secret(text: str) -> bool:
    try:
        key = base64.b64decode(text.removeprefix(WEBHOOK_SECRET), validate=True)
    except (binascii.Error, ValueError):
        return False
    return text.startswith(WEBHOOK_SECRET) and WEBHOOK_SECRET_BYTES[0] <= len(key) <= WEBHOOK_SECRET_BYTES[1]


def _contradictions(settings: Settings) -> Iterator[str]:
    for name, table in settings.router.given.items():
        if table.key and table.key_env:
            yield f"router.{name}: key and key_env both name a key; keep one"
        if not (table.key or table.key_env) and is_hosted_by_nvidia(table.url):
            yield (f'router.{name}.key: NVIDIA answers nobody without a key; leave "none" out')
        if name == "video" and table.dialect == "openai":
            yield ("router.video.dialect: only NVIDIA's is spoken for video")
        if name == "audio" and table.models:
            yield ("router.audio.models: speech services are called by path, not by model; leave it out")
    for name, provider in settings.providers.items():
        yield from (f"providers.{name}{problem}" for problem in _of_provider(name, provider))
    for name, engine in settings.engines.items():
        if name in RESERVED or name in settings.providers:
            yield f"engines.{name}: this name is {'the hub' if name in RESERVED else 'a provider'}'s own; choose another"
        yield from (f"engines.{name}{problem}" for problem in options_engines.contradictions(name, engine))
    for name in settings.callers:
        if name in PRINCIPALS:
            yield f"callers.{name}: this name is the hub's own; choose another"
        elif not CALLER_NAME.fullmatch(name):
            yield f"callers.{name[:80]}: a caller's name has 1 to 64 of a-z, 0-9, dot, underscore and dash"


def is_hosted_by_nvidia(url: str) -> bool:
    """Whether `url` is on one of NVIDIA's hosts."""
    return _on(url, "nvidia.com")


def _of_provider(name: str, provider: ProviderSettings) -> Iterator[str]:
    if name in RESERVED or name.startswith(ROUTER):
        yield ": this name is the hub's own; choose another"
    if provider.key and provider.key_env:
        yield ": key and key_env both name a key; keep one"
    if provider.kind == "nvidia" and not (provider.key or provider.key_env):
        yield ".key: NVIDIA answers nobody without a key; name it here or in key_env"
    if provider.kind == "anthropic" and not (provider.key or provider.key_env) and _on(provider.base_url, "anthropic.com"):
        yield ".key: Anthropic answers nobody without a key; name it here or in key_env"
    if provider.base_url is None:
        yield f'.base_url: is missing, for kind is "{provider.kind}"'
    if provider.ai_url is not None and provider.kind != "nvidia":
        yield '.ai_url: is for kind "nvidia" only'
    if provider.private and provider.kind != "engine":
        yield '.private: is for kind "engine", where calls stay on this machine; of a hosted provider mark single models'
    if not provider.models and provider.kind not in ("nvidia", "hub", "anthropic"):
        yield f'.models: name at least one, for kind is "{provider.kind}"'
    if provider.kind in ("nvidia", "hub"):
        elsewhere = [model.id for model in provider.models if model.modality in ("speech", "transcribe")]
        yield from (f".models: {model} speaks or listens; set router.audio (URL + key) for it" for model in elsewhere)
    if provider.kind == "anthropic":
        yield from (
            f'.models: {model.id} must be a chat model, for kind is "anthropic"' for model in provider.models if model.modality != "chat"
        )
    drawn = [model.id for model in provider.models if model.dialect == "genai" and (provider.kind, model.modality) != ("engine", "image")]
    yield from (
        f'.models: {model}: dialect "genai" is for image models of kind "engine"; kind "genai" speaks it by itself' for model in drawn
    )
    films = [model.id for model in provider.models if model.modality == "video" and provider.kind != "fal"]
    yield from (f".models: {model} makes videos; set router.video (URL + key) for it" for model in films)
    if provider.kind == "fal":
        others = [model.id for model in provider.models if model.modality not in ("chat", "image", "video")]
        yield from (f'.models: {model} must have modality "chat", "image" or "video", for kind is "fal"' for model in others)
    if provider.kind == "genai":
        wrong = [model.id for model in provider.models if model.modality != "image"]
        yield from (f'.models: {model} must have modality "image", for kind is "genai"' for model in wrong)


def _on(url: str | None, domain: str) -> bool:
    return url is not None and f".{urlsplit(url).hostname}".endswith(f".{domain}")


def _bound_host(url: str) -> str:
    parts = urlsplit(url)
    return parts.netloc if parts.scheme == "https" else f"http://{parts.netloc}"


def _sentence(detail: Any) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{path}: unknown key"
    return f"{path}: {detail['msg'].removeprefix('Value error, ')}{_given(path, detail['input'])}"


def _given(path: str, value: object) -> str:
    """What was written there, if it is short and cannot be a key in the wrong place."""
    plain = isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= SHORT and "key" not in path)
    return f"; it is {value!r}" if plain and "nvapi-" not in str(value) else ""
