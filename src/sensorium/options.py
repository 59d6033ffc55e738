"""The tables of the settings file: every option, its default, and what it may be. Reading the file is `settings`' work.

Secrets never stand in the file: a table names the secret of the vault, or the environment variable, that holds its key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

DEFAULT_PORT = 8789
MODEL_ID = re.compile(r"[A-Za-z0-9._:/@+-]{1,200}")
SECRET_NAME = re.compile(r"(?!nvapi-)[a-z0-9][a-z0-9._-]{0,63}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NO_KEY = "none"
NVIDIA_CHAT, NVIDIA_AI = "https://integrate.api.nvidia.com/v1", "https://ai.api.nvidia.com/v1"
FAL, FAL_KEY = "https://queue.fal.run", "fal"
NVIDIA_PER_MINUTE = 35.0  # its limit is 40 a minute and key, without a header that would say so
ANTHROPIC, ANTHROPIC_KEY = "https://api.anthropic.com/v1", "anthropic"
ANTHROPIC_TIMEOUT_S = 600.0
# the secret of each modality that has a URL of its own, unless it names another; embeddings go where chat goes
KEYS = {
    "chat": "nvidia-upstream",
    "image": "nvidia-image",
    "audio": "nvidia-audio",
    "video": "nvidia-video",
    "embeddings": "nvidia-upstream",
}
CONNECT_S, IDLE_S = 10.0, 300.0
TIMEOUT_S = {"chat": 60.0, "embed": 60.0, "rerank": 60.0, "image": 180.0, "speech": 120.0, "transcribe": 120.0, "video": 600.0}


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A secret of the vault, by its name. Whether it is there is known when it is revealed."""

    name: str

    def __str__(self) -> str:
        return f"secret:{self.name}"


def _host_port(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError("write it as HOST:PORT, such as 192.168.1.20:8000")
    return text.lower()


def _base_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        proper = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        proper = False
    if not proper or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("must look like https://host/v1, without user, query or fragment")
    return text.rstrip("/")


def _model_id(text: str) -> str:
    if not MODEL_ID.fullmatch(text) or ".." in text or "//" in text:
        raise ValueError("may hold letters, digits and . _ - : / @ +, and no .. or //")
    return text


def _secret_ref(text: object) -> SecretRef:
    if isinstance(text, SecretRef):
        return text
    scheme, _, name = text.partition(":") if isinstance(text, str) else ("", "", "")
    if scheme != "secret" or not SECRET_NAME.fullmatch(name):
        raise ValueError('write it as "secret:NAME", after `sensorium secret put NAME`; the key itself never stands in the file')
    return SecretRef(name)


def _secret_ref_or_none(text: object) -> SecretRef | None:
    return None if text is None or text == NO_KEY else _secret_ref(text)


def _short(model: object) -> object:
    return {"id": model} if isinstance(model, str) else model


def _variable_name(text: str) -> str:
    if not VARIABLE.fullmatch(text):
        raise ValueError("must be the name of an environment variable, such as NVIDIA_API_KEY; the key itself never stands in the file")
    return text


HostPort = Annotated[str, AfterValidator(_host_port)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
ModelId = Annotated[str, AfterValidator(_model_id)]
Order = Literal["any", "local_first", "hosted_first", "local_only", "hosted_only"]
Variable = Annotated[str, AfterValidator(_variable_name)]
Kind = Literal["openai", "genai", "nvidia", "anthropic", "fal", "engine", "hub"]


class Section(BaseModel):
    """A table of the settings file: frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(Section):
    """Where the hub listens and what it bears. Sizes in bytes, times in seconds."""

    host: str = Field(default="127.0.0.1", description="address to listen on; another one needs `MAC_API_TOKEN`")
    port: int = Field(default=DEFAULT_PORT, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    data_dir: Path | None = Field(default=None, description="folder of what the hub keeps; by default the user's data folder")
    max_body_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, description="a longer request body is answered 413")
    grace_s: float = Field(default=20.0, ge=0, le=600, description="how long a stopping hub waits for calls in flight")
    probe_at_start: bool = Field(
        default=True, description="try every provider once after the start, and again when it or its key is changed"
    )
    public_url: BaseUrl | None = Field(
        default=None, description="how callers reach the hub, for links in replies; by default the scheme and Host of each call"
    )
    cors_origins: tuple[str, ...] = Field(
        default=(), description="web pages that may call the hub from a browser, as `https://app.example`; pages of this machine always may"
    )
    tls_port: int | None = Field(default=None, ge=0, le=65535, description="listen with TLS on this port too; 0 takes a free one")
    tls_cert: Path | None = Field(
        default=None, description="its certificate, as PEM; by default what `sensorium tls` made in the data folder"
    )
    tls_key: Path | None = Field(default=None, description="and the key of that")
    public_metrics: bool = Field(default=False, description="let `GET /metrics` be read without the token, by whoever reaches the hub")
    allow_egress: tuple[HostPort, ...] = Field(
        default=(), description="private addresses that image URLs and webhooks may name, as `HOST:PORT`"
    )


class VaultSettings(Section):
    """The vault of provider keys."""

    master_key_file: Path | None = Field(default=None, description="file of the master key; by default `master.key` in the data folder")


class CallsSettings(Section):
    """The records of finished calls."""

    keep_days: float = Field(default=30.0, gt=0, description="older ones are forgotten")
    keep: int = Field(default=200_000, ge=1, description="and so are those beyond this number, the oldest first")


class Local(Section):
    """The models that ship in the package."""

    enabled: bool = Field(default=True, description="run them, in a process of their own")
    stand_ins: bool = Field(default=True, description="let them answer for well-known ids and say so")
    queue: int = Field(default=32, ge=1, le=10_000, description="calls that may wait for the device; more are answered 429")
    deadline_s: float = Field(default=120.0, gt=0, description="a call that takes longer is answered 504")


class Times(Section):
    """How long the hub waits for an answer, and when it asks somebody else too. A model's own go over its table's."""

    connect_s: float | None = Field(default=None, gt=0, description="until a connection is there; by default 10")
    first_byte_s: float | None = Field(
        default=None,
        gt=0,
        description="until the first byte of a reply, of a stream its first event; by default only the other limits hold",
    )
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        description="a whole reply, for streams none; by default 60 for text, 180 for pictures, 120 for audio, 600 for video and "
        'kind `"anthropic"`',
    )
    idle_s: float | None = Field(default=None, gt=0, description="silence inside a reply; by default 300")
    hedge_after_s: float | None = Field(
        default=None,
        gt=0,
        description="when it has not answered by then, the next route is asked too; chats without a stream, embeddings, rankings and "
        "transcriptions only; by default never",
    )


class NamedModel(Times):
    """One model of a table whose modality is known. A string stands for its `id`."""

    id: ModelId = Field(description="the name that callers use")
    vision: bool = Field(default=False, description="a chat model that takes pictures")
    edit: bool = Field(default=False, description='an image model that edits pictures; `"*"` picks among these for an edit')
    upstream: str | None = Field(default=None, min_length=1, description="the provider's own name for it, when it is another")
    inline_limit: int | None = Field(
        default=None,
        ge=20_000,
        description="base64 characters of a picture that it takes; a larger one is made smaller, and the reply says so",
    )
    inline_urls: bool = Field(default=False, description="it takes no picture by URL, so that the hub fetches it")
    private: bool = Field(default=False, description="no hosted provider ever gets a call for this id")


class HostedModel(NamedModel):
    """One model of a provider. A string stands for the `id` of a chat model."""

    modality: Literal["chat", "embed", "image", "speech", "transcribe", "rerank", "video"] = Field(
        default="chat", description="`chat`, `embed`, `image`, `speech`, `transcribe`, `rerank`, or `video` of kind `fal`"
    )
    dialect: Literal["openai", "genai"] = Field(
        default="openai", description="of an image model of kind `engine`: `genai` where a `sensorium engine` runs it"
    )


class Limits(Times):
    """What a provider lets the hub send, and how long the hub waits for it."""

    per_minute: float | None = Field(default=None, gt=0, description='calls a minute; by default no limit, 35 for kind `"nvidia"`')
    burst: int = Field(default=10, ge=1, description="of these, how many at once")
    queue: int = Field(default=1000, ge=1, description="calls that may wait for their turn, in turn by caller; more are answered 429")
    stream_usage: bool = Field(
        default=True, description="ask for token counts on every chat stream; `false` for a service that refuses `stream_options`"
    )
    status_url: BaseUrl | None = Field(default=None, description="where its long jobs are asked for; by default /v1/status on its host")


class ModalitySettings(Limits):
    """One modality with a URL and a key of its own. Any model name or path of it is passed on."""

    url: BaseUrl = Field(description="where it is")
    key: Annotated[SecretRef | None, BeforeValidator(_secret_ref_or_none)] = Field(
        default=None, description='its key, as `"secret:NAME"`; by default the one named above; `"none"` sends none'
    )
    key_env: Variable | None = Field(default=None, description="instead of `key`: the environment variable that holds it, read at start")
    dialect: Literal["nvidia", "openai"] = Field(default="nvidia", description="whose protocol is spoken there")
    models: tuple[Annotated[NamedModel, BeforeValidator(_short)], ...] = Field(
        default=(), description='models that are listed and that `"*"` picks from, best first; not for audio'
    )

    @property
    def urls(self) -> tuple[str, ...]:
        """Every address that its key goes to."""
        return tuple(url for url in (self.url, self.status_url) if url is not None)

    def address(self, modality: str) -> str:
        """Where calls of `modality` go."""
        return self.url


class AudioSettings(ModalitySettings):
    """Speech. NVIDIA hosts speaking and recognising at different addresses."""

    asr_url: BaseUrl | None = Field(default=None, description="where speech is recognised, if not at `url`")
    asr_model: str | None = Field(default=None, min_length=1, description="the recogniser's internal model name; by default none is sent")
    language: str | None = Field(default=None, min_length=2, description='where the caller names none; `"en-US"` by default')
    voices: dict[str, str] = Field(default={}, description="short names of voices, such as those of OpenAI's clients")

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(url for url in (self.url, self.asr_url, self.status_url) if url is not None)

    def address(self, modality: str) -> str:
        """The last word `audio` is left out: it is the first one of the caller's path."""
        return (self.asr_url if modality == "transcribe" and self.asr_url else self.url).removesuffix("/audio")


class RouterSettings(Section):
    """The modalities, each with its own URL and key, which no other modality ever gets; and where calls go."""

    order: Order = Field(
        default="any",
        description='where calls go that do not say it: `"any"` as the file lists the routes, `"local_first"`, `"hosted_first"`; '
        '`"local_only"` and `"hosted_only"` hold for every call',
    )
    chat: ModalitySettings | None = None
    image: ModalitySettings | None = None
    audio: AudioSettings | None = None
    video: ModalitySettings | None = None
    embeddings: ModalitySettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _keyed(cls, tables: Any) -> Any:
        if not isinstance(tables, dict):
            return tables
        mine = {name: table for name, table in tables.items() if name in KEYS and isinstance(table, dict) and "key_env" not in table}
        return {**tables, **{name: {"key": f"secret:{KEYS[name]}", **table} for name, table in mine.items()}}

    @property
    def given(self) -> dict[str, ModalitySettings]:
        """The modalities that are set, by name."""
        return {name: table for name in KEYS if (table := getattr(self, name)) is not None}


class ProviderSettings(Limits):
    """A hosted API, or an engine or hub of one's own."""

    kind: Kind = Field(
        description="`openai`: OpenAI's protocol; `genai`: NVIDIA's image models; `nvidia`: what NVIDIA hosts, with one key; "
        "`anthropic`: Anthropic's protocol; `fal`: fal's queue; "
        "`engine`: OpenAI's protocol on a machine of your own; `hub`: another Sensorium"
    )
    base_url: BaseUrl | None = Field(
        default=None,
        description=f"its address; three kinds have one: `nvidia` `{NVIDIA_CHAT}`, `anthropic` `{ANTHROPIC}`, `fal` `{FAL}`",
    )
    ai_url: BaseUrl | None = Field(default=None, description=f"kind `nvidia` only: its pictures and rerank; `{NVIDIA_AI}` by default")
    key: Annotated[SecretRef | None, BeforeValidator(_secret_ref_or_none)] = Field(
        default=None,
        description='its key, as `"secret:NAME"`; kind `nvidia` takes `"secret:nvidia-upstream"`, `fal` `"secret:fal"`, `anthropic` '
        'without a `base_url` `"secret:anthropic"`, others send none',
    )
    key_env: Variable | None = Field(default=None, description="instead of `key`: the environment variable that holds it, read at start")
    private: bool = Field(default=False, description="kind `engine` only: no hosted provider ever gets a call for one of its models")
    models: tuple[Annotated[HostedModel, BeforeValidator(_short)], ...] = Field(
        default=(),
        description='its models, in the order in which `"*"` prefers them; kinds `nvidia`, `hub` and `anthropic` pass on other names too',
    )

    @model_validator(mode="before")
    @classmethod
    def _by_kind(cls, table: Any) -> Any:
        if isinstance(table, dict) and table.get("kind") == "anthropic" and "base_url" not in table:
            key = {} if {"key", "key_env"} & set(table) else {"key": f"secret:{ANTHROPIC_KEY}"}
            return {"base_url": ANTHROPIC, **key, **table}
        if not isinstance(table, dict) or table.get("kind") not in ("nvidia", "fal"):
            return table
        nvidia = {"base_url": NVIDIA_CHAT, "ai_url": NVIDIA_AI, "per_minute": NVIDIA_PER_MINUTE}
        given, secret = (nvidia, KEYS["chat"]) if table["kind"] == "nvidia" else ({"base_url": FAL}, FAL_KEY)
        key = {} if {"key", "key_env"} & set(table) else {"key": f"secret:{secret}"}
        return {**given, **key, **table}

    @property
    def urls(self) -> tuple[str, ...]:
        """Every address that its key goes to."""
        return tuple(url for url in (self.base_url, self.ai_url, self.status_url) if url is not None)
