"""Every route of the hub: its path, who answers it, and the dialect of its errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from sensorium.api import fal_files, fal_proxy, fal_queue, fal_run, fal_tokens, fal_uploads, fal_webhooks
from sensorium.api import requests as queued_requests
from sensorium.api.anthropic import AnthropicDoor
from sensorium.api.audio import AudioDoor
from sensorium.api.auth import Auth
from sensorium.api.calls import CallsDoor
from sensorium.api.cors import Cors
from sensorium.api.fal_realtime import Limits, RealtimeDoor
from sensorium.api.fal_webhooks import WebhooksDoor, check_target
from sensorium.api.health import HealthDoor
from sensorium.api.media import MediaDoor
from sensorium.api.metrics import MetricsDoor
from sensorium.api.nvidia import GenaiDoor
from sensorium.api.openai import OpenAIDoor
from sensorium.api.outlook import Outlook
from sensorium.api.router import Entry, Router
from sensorium.api.secrets import SecretsDoor
from sensorium.api.status import StatusDoor
from sensorium.api.video import VideoDoor
from sensorium.api.videos import VideosDoor
from sensorium.durable import Durable
from sensorium.exchange import Render
from sensorium.jobs.dispatcher import Jobs
from sensorium.metrics import Metrics
from sensorium.routing.dispatch import Dispatch
from sensorium.settings import Settings
from sensorium.status import Status
from sensorium.store.calls import Calls
from sensorium.store.vault import Vault
from sensorium.wire import anthropic, fal_errors, nvidia, openai

NVIDIA_PATHS = ("/v1/genai/", "/v1/audio/", "/v1/video/")
ANTHROPIC_PATH = "/v1/messages"
FAL_PATH = "/fal/"
REALTIME_BYTES = 16 * 1024 * 1024  # of one message: msgpack may unfold into far more than a body of JSON


@dataclass(frozen=True, slots=True)
class Operators:
    """What the operator's doors open on. Without `calls` there are no records to read, without `metrics` no counters."""

    vault: Vault
    status: Status
    calls: Calls | None = None
    metrics: Metrics | None = None


def router(
    settings: Settings,
    dispatch: Dispatch,
    states: Callable[[], Mapping[str, str]],
    jobs: Jobs,
    operators: Operators | None = None,
    durable: Durable | None = None,
) -> Router:
    """All routes of the hub; those of its operator, and fal's, only where there is something behind them."""
    auth = Auth(settings.token, settings.caller_tokens)
    audio, health = AudioDoor(dispatch), HealthDoor(states, operators.status.loaded if operators else dict)
    media = MediaDoor(dispatch, audio, jobs)
    entries = [
        *_openai(dispatch, jobs),
        *_anthropic(dispatch),
        *_nvidia(dispatch, audio, jobs),
        Entry("GET", "/v1/media/jobs/*", media.job, openai.error),
        Entry("POST", "/v1/media/*", media.call, openai.error),
        Entry("GET", "/healthz", health.alive, openai.error, public=True),
        Entry("GET", "/readyz", health.ready, openai.error, public=True),
        *(_operators(operators, settings.server.public_metrics) if operators is not None else ()),
    ]
    most, cors = settings.server.max_body_bytes, Cors(settings.server.cors_origins)
    if durable is None:
        return Router(entries, auth, render, most, cors=cors)
    tokens = fal_tokens.Tokens(durable.signing, knows=auth.knows)
    entries += [*_fal(settings, dispatch, states, auth, durable), *fal_tokens.entries(tokens)]
    sockets = RealtimeDoor(durable.apps, auth, tokens, Limits(realtime_bytes(settings)), settings.server.public_url)
    return Router(entries, fal_tokens.TokenAuth(auth, tokens), render, most, cors=cors, sockets=sockets)


def realtime_bytes(settings: Settings) -> int:
    """How long one message of a websocket may be."""
    return min(settings.server.max_body_bytes, REALTIME_BYTES)


def render(path: str) -> Render:
    """The dialect in which errors on `path` are written."""
    if path == ANTHROPIC_PATH or path.startswith(f"{ANTHROPIC_PATH}/"):
        return anthropic.error
    if path.startswith(FAL_PATH):
        return fal_errors.error
    return nvidia.error if path.startswith(NVIDIA_PATHS) else openai.error


def _openai(dispatch: Dispatch, jobs: Jobs) -> list[Entry]:
    door, videos = OpenAIDoor(dispatch), VideosDoor(jobs, dispatch)
    return [
        Entry("POST", "/v1/chat/completions", door.chat, openai.error),
        Entry("POST", "/v1/completions", door.completions, openai.error),
        Entry("POST", "/v1/responses", door.responses, openai.error),
        Entry("POST", "/v1/rerank", door.rerank, openai.error),
        Entry("POST", "/v1/embeddings", door.embeddings, openai.error),
        Entry("POST", "/v1/images/generations", door.images, openai.error),
        Entry("POST", "/v1/images/edits", door.edits, openai.error),
        Entry("GET", "/v1/models", door.models, openai.error),
        Entry("GET", "/v1/models/*", door.model, openai.error),
        Entry("POST", "/v1/videos", videos.create, openai.error),
        Entry("GET", "/v1/videos", videos.entries, openai.error),
        Entry("GET", "/v1/videos/*", videos.entry, openai.error),
        Entry("DELETE", "/v1/videos/*", videos.remove, openai.error),
    ]


def _anthropic(dispatch: Dispatch) -> list[Entry]:
    door = AnthropicDoor(dispatch)
    return [
        Entry("POST", ANTHROPIC_PATH, door.messages, anthropic.error),
        Entry("POST", f"{ANTHROPIC_PATH}/count_tokens", door.count_tokens, anthropic.error),
    ]


def _nvidia(dispatch: Dispatch, audio: AudioDoor, jobs: Jobs) -> list[Entry]:
    return [
        Entry("POST", "/v1/genai/*", GenaiDoor(dispatch).draw, nvidia.error),
        Entry("POST", "/v1/audio/transcriptions", audio.transcriptions, nvidia.error),
        Entry("POST", "/v1/audio/translations", audio.translations, nvidia.error),
        Entry("POST", "/v1/audio/synthesize", audio.synthesize, nvidia.error),
        Entry("POST", "/v1/audio/synthesize_online", audio.synthesize_online, nvidia.error),
        Entry("POST", "/v1/audio/speech", audio.speech, nvidia.error),
        Entry("GET", "/v1/audio/list_voices", audio.list_voices, nvidia.error),
        Entry("GET", "/v1/audio/*", audio.unknown, nvidia.error),
        Entry("POST", "/v1/audio/*", audio.unknown, nvidia.error),
        Entry("POST", "/v1/video/*", VideoDoor(jobs, dispatch).draw, nvidia.error),
    ]


def _fal(settings: Settings, dispatch: Dispatch, states: Callable[[], Mapping[str, str]], auth: Auth, behind: Durable) -> list[Entry]:
    public, allow = settings.server.public_url, settings.server.allow_egress
    outlook = Outlook(lambda: dispatch.catalog, behind.jobs.cost, behind.limit, states)
    webhooks = WebhooksDoor(behind.outbox, behind.keys, behind.webhooks.wake)
    queue = fal_queue.QueueDoor(behind.jobs, behind.apps, partial(check_target, allow=allow), public, outlook=outlook)
    return [
        *fal_run.entries(fal_run.RunDoor(behind.apps, public)),
        *fal_queue.entries(queue),
        *fal_uploads.entries(fal_uploads.FalUploads(behind.uploads, auth, public)),
        *fal_files.entries(fal_files.FalFiles(behind.files, auth, public)),
        *fal_webhooks.entries(webhooks),
        *fal_proxy.entries(),
        *queued_requests.entries(behind.jobs, webhooks),
    ]


def _operators(behind: Operators, public: bool) -> list[Entry]:
    live = behind.status.live
    secrets = SecretsDoor(behind.vault, lambda name: live.current.hosts_of(name))
    operation = StatusDoor(behind.status.report, live.reloaded)
    entries = [
        Entry("GET", "/v1/status", operation.status, openai.error),
        Entry("POST", "/v1/settings/reload", operation.reload, openai.error),
        Entry("GET", "/v1/secrets", secrets.entries, openai.error),
        Entry("GET", "/v1/secrets/*", secrets.entry, openai.error),
        Entry("PUT", "/v1/secrets/*", secrets.put, openai.error),
        Entry("DELETE", "/v1/secrets/*", secrets.remove, openai.error),
    ]
    if behind.metrics is not None:
        metrics = MetricsDoor(behind.metrics.text, public)
        entries.append(Entry("GET", "/metrics", metrics.scrape, openai.error, public))
    if behind.calls is None:
        return entries
    past = CallsDoor(behind.calls)
    return [*entries, Entry("GET", "/v1/calls", past.latest, openai.error), Entry("GET", "/v1/calls/*", past.call, openai.error)]
