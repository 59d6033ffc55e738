"""Settings: one TOML file, a few flags and the environment, checked all at once and frozen.

An unknown key is an error that names its path. Secrets never stand in the file: a provider names the secret of the vault, or the
environment variable, that holds its key.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sensorium.errors import SettingsError

DEFAULT_PORT = 8789
MODEL_ID = re.compile(r"[A-Za-z0-9._:/@+-]{1,200}")
RESERVED = ("hub", "local")
SECRET_NAME = re.compile(r"(?!nvapi-)[a-z0-9][a-z0-9._-]{0,63}")
MASTER_KEY, MASTER_KEY_FILE = "SENSORIUM_MASTER_KEY", "SENSORIUM_MASTER_KEY_FILE"
FROM_ENVIRONMENT = ("token", "keys", "child_environment", "master_key")


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A secret of the vault, by its name. Whether it is there is known when it is revealed."""

    name: str


Reveal = Callable[[SecretRef, str], str]
"""`reveal(ref, url)`: the secret's value for a call to `url`, asked anew for each call. Raises a SensoriumError of status 503 when the
secret is missing, disabled, damaged or not bound to that host; the call must not go out then."""


def _host_port(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError("write it as HOST:PORT, such as 192.168.1.20:8000")
    return text.lower()


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("must look like https://host/v1, without user, query or fragment")
    return text.rstrip("/")


def _model_id(text: str) -> str:
    if not MODEL_ID.fullmatch(text) or ".." in text or "//" in text:
        raise ValueError("may hold letters, digits and . _ - : / @ +, and no .. or //")
    return text


def _secret_ref(text: object) -> SecretRef:
    scheme, _, name = text.partition(":") if isinstance(text, str) else ("", "", "")
    if scheme != "secret" or not SECRET_NAME.fullmatch(name):
        raise ValueError('write it as "secret:NAME", after `sensorium secret put NAME`; the key itself never stands in the file')
    return SecretRef(name)


HostPort = Annotated[str, AfterValidator(_host_port)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]


class Section(BaseModel):
    """A table of the settings file: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(Section):
    """Where the hub listens and what it bears. Sizes in bytes, times in seconds."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = DEFAULT_PORT
    data_dir: Path | None = None
    max_body_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    grace_s: Annotated[float, Field(ge=0, le=600)] = 20.0
    allow_egress: tuple[HostPort, ...] = ()


class Local(Section):
    """The models that ship in the package. `stand_ins` lets them answer for well-known ids and say so."""

    enabled: bool = True
    stand_ins: bool = True
    queue: Annotated[int, Field(ge=1, le=10_000)] = 32
    deadline_s: Annotated[float, Field(gt=0)] = 120.0


class HostedModel(Section):
    """One model of a provider: the id callers use, and `upstream`, the provider's own name when it differs."""

    id: Annotated[str, AfterValidator(_model_id)]
    modality: Literal["chat", "embed", "image"] = "chat"
    vision: bool = False
    upstream: str | None = None


class ProviderSettings(Section):
    """A hosted API. `kind` is its dialect, `key` the secret of the vault that is its key, or `key_env` the environment variable."""

    kind: Literal["openai", "genai"]
    base_url: BaseUrl
    key: Annotated[SecretRef, BeforeValidator(_secret_ref)] | None = None
    key_env: str | None = None
    timeout_s: Annotated[float, Field(gt=0)] = 180.0
    idle_s: Annotated[float, Field(gt=0)] = 300.0
    models: Annotated[tuple[HostedModel, ...], Field(min_length=1)]


class VaultSettings(Section):
    """Where the vault's master key lies; by default in the data folder."""

    master_key_file: Path | None = None


class Settings(Section):
    """Everything that `sensorium serve` can be told. `token`, `keys` and `master_key` come from the environment only."""

    server: Server = Server()
    vault: VaultSettings = VaultSettings()
    local: Local = Local()
    providers: dict[str, ProviderSettings] = {}
    token: str | None = Field(None, exclude=True, repr=False)
    keys: dict[str, str] = Field({}, exclude=True, repr=False)
    child_environment: dict[str, str] = Field({}, exclude=True, repr=False)
    master_key: str | None = Field(None, exclude=True, repr=False)

    @property
    def data_dir(self) -> Path:
        """The folder for state; made when missing."""
        assert self.server.data_dir is not None
        return self.server.data_dir

    def hosts_of(self, secret: str) -> tuple[str, ...]:
        """Where the providers that use this secret are, as `host[:port]`, plain http with its scheme."""
        users = [provider.base_url for provider in self.providers.values() if provider.key == SecretRef(secret)]
        return tuple(dict.fromkeys(_bound_host(url) for url in users))


def load(path: Path | None, environ: Mapping[str, str], **flags: Any) -> Settings:
    """Read the file (none is fine), lay `flags` over its `server` table, take token and keys from `environ`.

    Raises SettingsError with every problem found.
    """
    settings, problems = _validated(path, environ, flags)
    from_environment = {
        "token": environ.get("MAC_API_TOKEN", "").strip() or None,
        "keys": _keys(settings, environ),
        "child_environment": {name: text for name, text in environ.items() if name != MASTER_KEY},
    }
    settings = settings.model_copy(update=from_environment)
    problems += _contradictions(settings)
    if problems:
        raise SettingsError(problems)
    return settings


def load_for_vault(path: Path | None, environ: Mapping[str, str], **flags: Any) -> Settings:
    """`load` for whoever manages secrets beside a hub: of the environment only the master key counts, not what the hub needs to run.

    Raises SettingsError with every problem found.
    """
    settings, problems = _validated(path, environ, flags)
    if problems:
        raise SettingsError(problems)
    return settings


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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


def _keys(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    named = {name: provider.key_env for name, provider in settings.providers.items() if provider.key_env}
    given = {name: environ.get(variable, "").strip() for name, variable in named.items()}
    return {name: key for name, key in given.items() if key}


def _contradictions(settings: Settings) -> list[str]:
    problems = []
    if not settings.token and not is_loopback(settings.server.host):
        problems.append(
            f"server.host is {settings.server.host}, which other machines can reach, and no token is set; "
            "set MAC_API_TOKEN to a long random string, or bind 127.0.0.1"
        )
    for name, provider in settings.providers.items():
        if name in RESERVED:
            problems.append(f"providers.{name}: this name is the hub's own; choose another")
        if provider.key and provider.key_env:
            problems.append(f"providers.{name}: key and key_env both name a key; keep one")
        if provider.key_env and name not in settings.keys:
            problems.append(f"providers.{name}.key_env: the environment variable {provider.key_env} is empty or not set")
        if provider.kind == "genai":
            wrong = [model.id for model in provider.models if model.modality != "image"]
            problems += [f'providers.{name}.models: {model} must have modality "image", for kind is "genai"' for model in wrong]
    return problems


def _bound_host(url: str) -> str:
    parts = urlsplit(url)
    return parts.netloc if parts.scheme == "https" else f"http://{parts.netloc}"


def _sentence(detail: Any) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    reason = "unknown key" if detail["type"] == "extra_forbidden" else detail["msg"].removeprefix("Value error, ")
    return f"{path}: {reason}"
