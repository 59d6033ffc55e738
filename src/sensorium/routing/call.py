"""The nouns of routing: a call that came in, the routes that could answer it, the reply, and the record of what happened.

Nothing here does I/O; `Reply` only carries the stream that `upstream` opened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sensorium.errors import Cause, UpstreamFailed
from sensorium.wire.failure import Failure
from sensorium.wire.jsonbody import Members
from sensorium.wire.multipart import Part
from sensorium.wire.usage import UNKNOWN, Usage

Dialect = Literal["openai", "genai", "nvidia", "anthropic", "fal"]
"""How a route is spoken to. `openai`: the operation below the base URL, the model in the body. `genai`: the model's name below the base
URL (pictures, video). `nvidia`: what NVIDIA does in a way of its own: speech NIMs (the operation below the base URL, forms, no model),
rerank (the model's slug below the base URL) and embeddings (`input_type`). `anthropic`: the operation below the base URL, the model in the
body, the key and the protocol's version in headers of its own. `fal`: fal's queue, the app's id below the base URL."""
Modality = Literal["chat", "embed", "image", "speech", "transcribe", "video", "rerank"]
Where = Literal["any", "local_first", "hosted_first", "local_only", "hosted_only"]
ANY_MODEL = "*"


@dataclass(frozen=True, slots=True)
class Credential:
    """The key of a provider, revealed at call time and kept nowhere.

    `reveal()` gives it (None: no key is sent), `version()` tells one key from the next without revealing it, `refused(version)` is told
    when the provider did not take it. `name` is how the operator calls it.
    """

    name: str | None = None
    reveal: Callable[[], str | None] = lambda: None
    version: Callable[[], int] = lambda: 0
    refused: Callable[[int], None] = lambda version: None


@dataclass(frozen=True, slots=True)
class Loading:
    """An engine whose models are on their way: how far in words, in how many seconds asking again makes sense, and waiting for them.

    `over()` returns when they are there or never will be, or when a call has waited for them long enough.
    """

    said: str
    retry_after_s: float
    over: Callable[[], Awaitable[None]]


async def _guilty() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Provider:
    """A base URL that answers calls, with what it takes as a key; times are in seconds.

    `local` marks an engine on this machine: calls to it have no side effect, so one that was lost may be sent again. An `own` one is run
    by this hub; `fate()` begins to watch its process, and what it returns tells, when that process has ended, whether it ended itself
    because a cancelled job did not stop.
    `down()` gives the reason when it is known that calling is in vain, else None; `loading()` tells of models that are on their way.
    `per_minute` and `burst` are what it lets us
    send, `queue` how many calls may wait for that. `connect_s`, `first_byte_s` (None: no limit of its own), `idle_s` and `timeout_s` bound
    each attempt; after `hedge_after_s` the next route is asked too (None: never). `status_url` is where NVCF jobs are polled (None:
    /v1/status on the host of the base URL; the key goes there too). `stream_usage` tells that it may be asked for token counts on streams.
    For speech: `language` where the caller names none, `voices` as short names of voices, `speech_model` as the recogniser's internal
    name.
    """

    name: str
    base_url: str
    credential: Credential
    timeout_s: float
    idle_s: float
    local: bool = False
    own: bool = False
    fate: Callable[[], Callable[[], Awaitable[bool]]] = lambda: _guilty
    down: Callable[[], str | None] = lambda: None
    loading: Callable[[], Loading | None] = lambda: None
    per_minute: float | None = None
    burst: int = 10
    status_url: str | None = None
    language: str | None = None
    voices: Mapping[str, str] = field(default_factory=dict)
    speech_model: str | None = None
    connect_s: float = 10.0
    first_byte_s: float | None = None
    hedge_after_s: float | None = None
    queue: int = 1000
    stream_usage: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    """A model on a provider, called in `dialect`. `upstream` is the provider's name for it, `scope` what it knows about.

    An open route, whose `upstream` is `*`, takes any name of its modality.
    On a stand-in, `id` is the well-known id and `answers` the shipped model that really answers.
    `inline_limit` is how many base64 characters of a picture the model takes, `inline_urls` that it takes none by URL.
    A `private` one keeps its id from all hosted providers. `slots` is how many calls an engine of this hub works at side by side, `licence`
    the name of that of weights of the operator's own (None: not told).
    """

    id: str
    modality: Modality
    dialect: Dialect
    capabilities: frozenset[str]
    provider: Provider
    upstream: str
    scope: str = "general"
    stand_in: bool = False
    inline_limit: int | None = None
    inline_urls: bool = False
    private: bool = False
    slots: int = 1
    licence: str | None = None

    @property
    def answers(self) -> str:
        """The id of the model that really answers."""
        return self.upstream if self.stand_in else self.id

    @property
    def open(self) -> bool:
        """Whether it takes any name."""
        return self.upstream == ANY_MODEL


@dataclass(frozen=True, slots=True)
class Call:
    """What a caller wants: the model it named (or `*`), the operation, and the body's members as they came.

    `dialects` are those in which the members can be sent on, `operation` is the path (and query) below an OpenAI base URL, `needs` are
    the capabilities that the content asks for; `stream` says that the reply will be an event stream,
    `caller` is the principal's name, `where` which routes the caller wants, `deadline_s` how long it waits for the first byte, and for
    the whole of what is no stream; `headers` go on to the provider, those of a protocol only to a route that speaks it.
    `form` stands beside `members` where the caller sent a form; `changes` is what the door has changed already, one phrase each.
    `optional` says that a service of this modality need not have the operation, so that its 404 tells nothing about the model.
    `extensions` are members beyond OpenAI's protocol, which a route of that dialect is not sent.
    Calls of the queue are not `repeatable`: whoever runs them counts what they die of, and asks again. `attempt` is the id of the queue's
    request and the number of the attempt at it, for engines to keep an older run from outliving a newer one.
    """

    id: str
    model: str
    modality: Modality
    dialects: tuple[Dialect, ...]
    operation: str
    members: Members
    needs: frozenset[str] = frozenset()
    stream: bool = False
    caller: str = ""
    where: Where = "any"
    deadline_s: float | None = None
    method: str = "POST"
    form: tuple[Part, ...] | None = None
    changes: tuple[str, ...] = ()
    optional: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    extensions: frozenset[str] = frozenset()
    repeatable: bool = True
    attempt: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A route that did not answer a call, why, and seconds after which it may (None: unknown).

    `asked` is False when the route was passed over without a call; `headers` name the call at the provider's, `cause` is what the failure
    means for a later run where the failure alone does not tell.
    """

    route: Route
    failure: Failure
    asked: bool
    retry_after_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cause: Cause | None = None

    def __str__(self) -> str:
        return f"{self.route.provider.name} {self.route.upstream}: {self.failure.kind}" + ("" if self.asked else " (not asked)")


@dataclass(slots=True)
class Reply:
    """An answer whose body is still arriving. Iterate `chunks` to the end or not, then `close` in any case.

    Iterating raises UpstreamFailed or DeadlineExceeded when the upstream breaks off. `headers` have lower-case names, `changes` is what
    differs between the caller's body and the one that was sent, `usage()` what of its usage was seen so far.
    """

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]
    close: Callable[[], Awaitable[None]]
    route: Route
    attempts: tuple[Attempt, ...] = ()
    changes: tuple[str, ...] = ()
    usage: Callable[[], Usage] = lambda: UNKNOWN

    async def whole(self, cap: int = 64 * 1024 * 1024) -> bytes:
        """The body to its end, at most `cap` bytes; closes the reply. Raises UpstreamFailed when it is longer."""
        try:
            parts, size = [], 0
            async for chunk in self.chunks:
                size += len(chunk)
                if size > cap:
                    raise UpstreamFailed(f"{self.route.provider.name} answered more than {cap} bytes")
                parts.append(chunk)
            return b"".join(parts)
        finally:
            await self.close()


@dataclass(frozen=True, slots=True)
class Record:
    """One finished call: who answered (None: nobody), how it ended, seconds to the first byte and in total, bytes sent on,
    every route before that did not answer, and what the reply said it used.

    `outcome` is answered, refused (an error status), failed (broke off) or client_closed.
    """

    call: Call
    route: Route | None
    status: int
    outcome: str
    first_byte_s: float
    total_s: float
    bytes_out: int
    attempts: tuple[Attempt, ...] = ()
    usage: Usage = UNKNOWN
