"""The models that the simulated service has, their functions, and the routes on which its gateways offer them.

Guesses: which chat models are shown (the service has hundreds), their sizes, which of the disputed speech functions answer over HTTP
(none of the three), which routes run in compatibility mode (cosmos and stable-video-diffusion), and every function id outside
section 8.1. The `simulated/*` models are ours: each always fails in the way that its name says.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

ACCOUNT = "simulated-account"
INTEGRATE, AI, NVCF = "integrate.api.nvidia.com", "ai.api.nvidia.com", "api.nvcf.nvidia.com"
VANITY = (AI, "health.api.nvidia.com", "climate.api.nvidia.com", "optimize.api.nvidia.com")
HIDDEN = re.compile(r"^(_|stg/|playground_|nvdev/|internal/|private/)|(-staging|-turbo$)")
CHAT_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
CREATED = 735790403
Kind = Literal["chat", "embed", "rerank", "image", "video", "asr", "tts"]


@dataclass(frozen=True, slots=True)
class Model:
    """One model and its function. `routes` are (host, path) on the gateways, `path` is where its container does its main work.

    `ends` is the end of life (RFC 3339), `offline` an operator's sentence, `always` the incident that every call meets. `like` names
    the image model whose schema this one has.
    """

    name: str
    kind: Kind
    path: str
    routes: tuple[tuple[str, str], ...] = ()
    function_id: str = ""
    ends: str = ""
    offline: str = ""
    always: str = ""
    pexec: bool = False
    vision: bool = False
    audio: bool = False
    reasons: bool = False
    streams: bool = False
    inline_cap: int | None = None
    like: str = ""
    dimensions: int = 0
    asymmetric: bool = False
    resizable: bool = False
    over_http: bool = True
    extra_files: bool = False

    @property
    def function(self) -> str:
        """The function's id."""
        return self.function_id or str(uuid.uuid5(uuid.NAMESPACE_URL, f"simulated:{self.kind}:{self.name}"))

    @property
    def version(self) -> str:
        """The id of the function's only version."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"simulated:{self.function}:1"))

    @property
    def openai_shaped(self) -> bool:
        """Whether callers name it in the body."""
        return any(host == INTEGRATE for host, _ in self.routes)

    def retired(self, now: float) -> bool:
        """Whether its end of life lies before `now` (seconds since the epoch)."""
        return bool(self.ends) and datetime.fromisoformat(self.ends).timestamp() <= now


def _chat(name: str, *vanity: str, **facts: Any) -> Model:
    routes = tuple((INTEGRATE, path) for path in CHAT_PATHS) + tuple((AI, path) for path in vanity)
    return Model(name, "chat", CHAT_PATHS[0], routes, **facts)


def _vlm(name: str) -> Model:
    return Model(name, "chat", CHAT_PATHS[0], ((AI, f"/v1/vlm/{name}"),), vision=True, inline_cap=180_000)


def _embed(name: str, dimensions: int, **facts: Any) -> Model:
    return Model(name, "embed", "/v1/embeddings", ((INTEGRATE, "/v1/embeddings"),), dimensions=dimensions, **facts)


def _rerank(name: str, *older: str) -> Model:
    slug = name.removeprefix("nvidia/").replace(".", "_")
    paths = (f"/v1/retrieval/nvidia/{slug}/reranking", *older)
    return Model(name, "rerank", "/v1/ranking", tuple((AI, path) for path in paths))


def _image(name: str, *older: str, **facts: Any) -> Model:
    paths = (f"/v1/genai/{name}", *older)
    return Model(name, "image", "/v1/infer", tuple((AI, path) for path in paths), **facts)


def _cosmos(name: str, extra_files: bool = False) -> Model:
    routes = ((AI, f"/v1/cosmos/{name}"),)
    return Model(name, "video", "/v1/infer", routes, pexec=True, extra_files=extra_files)


def _speech(name: str, kind: Kind, function: str, over_http: bool = True) -> Model:
    path = "/v1/audio/synthesize" if kind == "tts" else "/v1/audio/transcriptions"
    return Model(name, kind, path, function_id=function, over_http=over_http)


MODELS = (
    _chat("meta/llama-3.1-8b-instruct"),
    _chat("nvdev/meta/llama-3.1-8b-instruct"),
    _chat("meta/llama-3.2-11b-vision-instruct", "/v1/gr/meta/llama-3.2-11b-vision-instruct/chat/completions", vision=True),
    _chat("meta/llama-3.2-90b-vision-instruct", "/v1/gr/meta/llama-3.2-90b-vision-instruct/chat/completions", vision=True),
    _chat("microsoft/phi-4-multimodal-instruct", vision=True, audio=True),
    _chat("openai/gpt-oss-120b", reasons=True),
    _chat("moonshotai/kimi-k3", reasons=True, streams=True),
    _chat("z-ai/glm4.7", ends="2026-05-14T00:00:00Z"),
    _vlm("google/paligemma"),
    _vlm("microsoft/phi-3-vision-128k-instruct"),
    _embed("nvidia/nv-embedqa-e5-v5", 1024, asymmetric=True),
    _embed("nvidia/llama-3.2-nv-embedqa-1b-v2", 2048, asymmetric=True, resizable=True),
    _embed("baai/bge-m3", 1024),
    _rerank("nvidia/llama-3.2-nv-rerankqa-1b-v2", "/v1/retrieval/nvidia/reranking"),
    _rerank("nvidia/llama-nemotron-rerank-1b-v2"),
    _rerank("nvidia/llama-nemotron-rerank-vl-1b-v2"),
    _image("black-forest-labs/flux.1-schnell"),
    _image("black-forest-labs/flux.1-dev"),
    _image("black-forest-labs/flux.1-kontext-dev"),
    _image("black-forest-labs/flux.2-klein-4b"),
    _image("stabilityai/stable-diffusion-3-medium"),
    _image("stabilityai/stable-diffusion-xl", "/v1/genai/stabilityai/sdxl", always="not-granted"),
    _image("microsoft/trellis"),
    Model("qwen/qwen-image", "image", "/v1/infer"),
    Model("stabilityai/stable-video-diffusion", "video", "/v1/infer", ((AI, "/v1/genai/stabilityai/stable-video-diffusion"),), pexec=True),
    _cosmos("nvidia/cosmos-predict1-7b"),
    _cosmos("nvidia/cosmos-predict1-5b"),
    _cosmos("nvidia/cosmos-transfer1-7b", extra_files=True),
    _cosmos("nvidia/cosmos-transfer2_5-2b", extra_files=True),
    _cosmos("nvidia/cosmos3-nano"),
    _speech("nvidia/magpie-tts-multilingual", "tts", "877104f7-e885-42b9-8de8-f6e4c6303969"),
    _speech("resemble-ai/chatterbox-tts-multilingual", "tts", "ddacc747-1269-4fab-bfd9-8f593dead106"),
    _speech("nvidia/parakeet-ctc-1.1b-en-us", "asr", "1598d209-5e27-4d3c-8079-4751568b1081"),
    _speech("openai/whisper-large-v3", "asr", "b702f636-f60c-4a3d-a6f4-f3568c13bd7d", over_http=False),
    _speech("nvidia/nemotron-asr-streaming", "asr", "bb0837de-8c7b-481f-9ec8-ef5663e9c1fa", over_http=False),
    _speech("nvidia/canary-1b", "asr", "b0e8b4a5-217c-40b7-9b96-17d84e666317", over_http=False),
    _chat("simulated/ending", ends="2999-12-31T00:00:00Z"),
    _chat("simulated/offline", offline="The model is offline for maintenance."),
    *(_chat(f"simulated/{name}", always=name) for name in ("degraded", "exhausted", "not-granted", "queue-full", "429", "500")),
    *(
        _image(f"simulated/{name}", always=name, like="black-forest-labs/flux.1-schnell")
        for name in ("degraded", "exhausted", "429", "500")
    ),
    _image("simulated/retired", ends="2026-05-14T00:00:00Z", like="black-forest-labs/flux.1-schnell"),
)


class Catalog:
    """Finds models by route, by function, by name."""

    def __init__(self, models: Iterable[Model] = MODELS) -> None:
        self.models = tuple(models)
        self._routes: dict[tuple[str, str], dict[str, Model]] = {}
        for model in self.models:
            for route in model.routes:
                self._routes.setdefault(route, {})[model.name] = model
        self._functions = {model.function: model for model in self.models}

    def by_name(self, path: str, name: str) -> Model | None:
        """The model of that name on an OpenAI-shaped path."""
        return self._routes.get((INTEGRATE, path), {}).get(name)

    def by_path(self, host: str, path: str) -> Model | None:
        """The model of a vanity path."""
        return next(iter(self._routes.get((host, path), {}).values()), None)

    def by_function(self, function: str) -> Model | None:
        """The model of a function id."""
        return self._functions.get(function.lower())

    def container(self, name: str) -> Model | None:
        """The model of that name, whatever its kind; the first when a name has several."""
        return next((model for model in self.models if model.name == name), None)

    def openai_shaped(self) -> Iterator[Model]:
        """One model per name on the OpenAI-shaped host, sorted by name."""
        yield from sorted({model.name: model for model in self.models if model.openai_shaped}.values(), key=lambda model: model.name)

    def listed(self, now: float) -> Iterator[Model]:
        """What GET /v1/models shows (4.2): chat models; neither hidden nor retired ones, no retrieval, image or speech models."""
        for model in self.openai_shaped():
            if model.kind == "chat" and not model.retired(now) and not HIDDEN.search(model.name):
                yield model


def rfc3339(text: str) -> str:
    """A date as the Deprecation header writes it."""
    return datetime.fromisoformat(text).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
