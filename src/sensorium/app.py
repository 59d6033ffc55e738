"""Composition root: builds the parts from the settings, lists all routes, starts and stops what runs."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.handlers
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn

from sensorium import providers
from sensorium.api import video
from sensorium.api.audio import AudioDoor
from sensorium.api.auth import Auth
from sensorium.api.health import HealthDoor
from sensorium.api.nvidia import GenaiDoor
from sensorium.api.openai import OpenAIDoor
from sensorium.api.router import Entry, Router
from sensorium.api.secrets import SecretsDoor
from sensorium.api.video import VideoDoor
from sensorium.api.videos import VideosDoor
from sensorium.engines.supervisor import EngineProcess
from sensorium.errors import SettingsError, Unavailable
from sensorium.exchange import Render
from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.requests import Requests
from sensorium.jobs.results import Results
from sensorium.overview import overview, standings
from sensorium.routing import shipped
from sensorium.routing.call import Credential, Provider, Record, Route
from sensorium.routing.catalog import Catalog
from sensorium.routing.dispatch import Dispatch, Parts, Send
from sensorium.routing.health import Health
from sensorium.routing.shipped import ShippedModel
from sensorium.routing.upstream import Upstream
from sensorium.settings import Settings
from sensorium.store.database import Database
from sensorium.store.masterkey import keeper
from sensorium.store.vault import Vault
from sensorium.webserver import Server, address, listen
from sensorium.wire import nvidia, openai

MODELS = Path(__file__).parent / "models"
NVIDIA_PATHS = ("/v1/genai/", "/v1/audio/", "/v1/video/")
LOG_FILE, LOG_BYTES = "hub.log", 8 * 1024 * 1024
TABLE_WAIT_S = 10.0
log = logging.getLogger("sensorium.hub")


def shipped_models(folder: Path = MODELS) -> dict[Path, ShippedModel]:
    """The model folders of the package, each with what its side config declares."""
    found = {}
    for side in sorted(folder.glob("*/sensorium.json")):
        declared = json.loads(side.read_text("utf-8"))
        found[side.parent] = ShippedModel(f"sensorium/{side.parent.name}", declared["kind"], declared["scope"])
    return found


def catalog(settings: Settings, engine: EngineProcess | None, vault: Vault | None = None) -> Catalog:
    """Every route: the operator's providers in their order, then the shipped models and their stand-ins."""
    hosted = providers.routes(settings, vault)
    if engine is None:
        return Catalog(hosted)
    ours = shipped_routes(settings, engine, taken={route.id for route in hosted})
    # An open route takes the well-known names of its modality too.
    opened = {route.modality for route in hosted if route.open}
    return Catalog([*hosted, *(route for route in ours if not (route.stand_in and route.modality in opened))])


def shipped_routes(settings: Settings, engine: EngineProcess | None = None, taken: Collection[str] = ()) -> list[Route]:
    """The shipped models and their stand-ins; without an engine, as they would be."""
    if not settings.local.enabled:
        return []
    deadline = settings.local.deadline_s
    local = Provider("local", "", Credential(), deadline, deadline, local=True)
    if engine is not None:
        key = Credential(None, lambda: engine.token)
        local = replace(local, base_url=f"{engine.base_url}/v1", credential=key, down=lambda: _failure(engine))
    return shipped.routes(shipped_models().values(), local, settings.local.stand_ins, taken)


def queue(settings: Settings, dispatch: Dispatch, database: Database, folder: Path) -> Jobs:
    """The queue of calls that outlive a connection, its results in `folder`."""
    kept_s = settings.jobs.keep_days * 86_400
    return Jobs(dispatch, Requests(database), Results(folder), {"video": video.kept}, at_once=settings.jobs.at_once, kept_s=kept_s)


def router(
    settings: Settings, dispatch: Dispatch, states: Callable[[], Mapping[str, str]], jobs: Jobs, vault: Vault | None = None
) -> Router:
    """All routes of the hub."""
    chat, genai, health = OpenAIDoor(dispatch, time.time), GenaiDoor(dispatch), HealthDoor(states)
    audio, film, videos = AudioDoor(dispatch), VideoDoor(jobs, dispatch.catalog), VideosDoor(jobs, dispatch.catalog)
    entries = [
        Entry("POST", "/v1/chat/completions", chat.chat, openai.error),
        Entry("POST", "/v1/completions", chat.completions, openai.error),
        Entry("POST", "/v1/responses", chat.responses, openai.error),
        Entry("POST", "/v1/rerank", chat.rerank, openai.error),
        Entry("POST", "/v1/embeddings", chat.embeddings, openai.error),
        Entry("POST", "/v1/images/generations", chat.images, openai.error),
        Entry("GET", "/v1/models", chat.models, openai.error),
        Entry("GET", "/v1/models/*", chat.model, openai.error),
        Entry("POST", "/v1/genai/*", genai.draw, nvidia.error),
        Entry("POST", "/v1/audio/transcriptions", audio.transcriptions, nvidia.error),
        Entry("POST", "/v1/audio/translations", audio.translations, nvidia.error),
        Entry("POST", "/v1/audio/synthesize", audio.synthesize, nvidia.error),
        Entry("POST", "/v1/audio/synthesize_online", audio.synthesize_online, nvidia.error),
        Entry("POST", "/v1/audio/speech", audio.speech, nvidia.error),
        Entry("GET", "/v1/audio/list_voices", audio.list_voices, nvidia.error),
        Entry("GET", "/v1/audio/*", audio.unknown, nvidia.error),
        Entry("POST", "/v1/audio/*", audio.unknown, nvidia.error),
        Entry("POST", "/v1/video/*", film.draw, nvidia.error),
        Entry("POST", "/v1/videos", videos.create, openai.error),
        Entry("GET", "/v1/videos", videos.entries, openai.error),
        Entry("GET", "/v1/videos/*", videos.entry, openai.error),
        Entry("DELETE", "/v1/videos/*", videos.remove, openai.error),
        Entry("GET", "/healthz", health.alive, openai.error, public=True),
        Entry("GET", "/readyz", health.ready, openai.error, public=True),
    ]
    if vault is not None:
        secrets = SecretsDoor(vault, settings.hosts_of)
        entries += [
            Entry("GET", "/v1/secrets", secrets.entries, openai.error),
            Entry("GET", "/v1/secrets/*", secrets.entry, openai.error),
            Entry("PUT", "/v1/secrets/*", secrets.put, openai.error),
            Entry("DELETE", "/v1/secrets/*", secrets.remove, openai.error),
        ]
    return Router(entries, Auth(settings.token), render, settings.server.max_body_bytes)


def render(path: str) -> Render:
    """The dialect in which errors on `path` are written."""
    return nvidia.error if path.startswith(NVIDIA_PATHS) else openai.error


def record(done: Record) -> None:
    """Where one finished call is written down: the log, until there is a store."""
    answered = (done.route.answers, done.route.provider.name) if done.route else ("nothing", "nobody")
    log.info(
        "call %s by %s: %s -> %s on %s: %s %s, first byte %.0f ms, total %.0f ms, %d bytes%s",
        *(done.call.id, done.call.caller, done.call.model, *answered, done.outcome, done.status),
        *(1000 * done.first_byte_s, 1000 * done.total_s, done.bytes_out),
        "".join(f"; {attempt}" for attempt in done.attempts),
    )


@dataclass(frozen=True, slots=True)
class Hub:
    """The parts that `run` needs to know."""

    catalog: Catalog
    router: Router
    jobs: Jobs


def build(settings: Settings, engine: EngineProcess | None, send: Send, vault: Vault, database: Database) -> Hub:
    """The hub over `send`, the transport to the models."""
    routes = catalog(settings, engine, vault)
    dispatch = Dispatch(routes, Parts(send, record, Health(time.monotonic), time.monotonic))
    jobs = queue(settings, dispatch, database, settings.data_dir)
    return Hub(routes, router(settings, dispatch, lambda: {"local": engine.state} if engine else {}, jobs, vault), jobs)


async def run(settings: Settings, say: Callable[[str], None], require: Sequence[str] = ()) -> bool:
    """Serve until told to stop: the engine first, then the hub; at the end the other way round. True when Ctrl-C stopped it.

    `say` gets the start-up table, once the engine is ready or has failed. Raises SettingsError when the address cannot be had, or a
    modality that is in `require` is off.
    """
    listener = listen(settings.server.host, settings.server.port, "server.port")
    _log_to(settings.data_dir)
    database = Database(settings.data_dir)
    vault = Vault(database, keeper(settings))
    auditing = asyncio.create_task(vault.keep_audit())
    engine = _engine(settings)
    upstream = Upstream(allow_egress=settings.server.allow_egress)
    working: asyncio.Task[None] | None = None
    try:
        hub = build(settings, engine, upstream.send, vault, database)
        off = [f"{one.name} is required: {one.lack}" for one in standings(hub.catalog.routes) if one.name in require and one.lack]
        if off:
            raise SettingsError(off)
        working = asyncio.create_task(hub.jobs.run())
        server = Server(_uvicorn(settings, hub.router))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        if engine is not None:
            await engine.start()
            with suppress(SettingsError, Unavailable):  # the table says which of the two it was
                await engine.wait_ready(TABLE_WAIT_S)
        say(overview(address(listener), hub.catalog.routes, settings.token is not None, settings.data_dir / LOG_FILE))
        await serving
        return server.interrupted
    finally:
        if working is not None:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        await upstream.close()
        if engine is not None:
            await engine.stop()
        auditing.cancel()
        vault.flush()
        database.close()


def serve(settings: Settings, say: Callable[[str], None], require: Sequence[str] = ()) -> None:
    """Blocking twin of `run`, for the command line. Raises KeyboardInterrupt after a stop by Ctrl-C."""
    if asyncio.run(run(settings, say, require)):
        raise KeyboardInterrupt


def _log_to(folder: Path) -> None:
    """Calls go to a file of bounded size, warnings to the terminal as well. Neither ever holds prompts, pictures or keys."""
    folder.mkdir(parents=True, exist_ok=True)
    calls = logging.handlers.RotatingFileHandler(folder / LOG_FILE, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, handlers=[calls, terminal], format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def _uvicorn(settings: Settings, app: Router) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=max(1, round(settings.server.grace_s)),
    )


def _engine(settings: Settings) -> EngineProcess | None:
    folders = list(shipped_models())
    if not settings.local.enabled or not folders:
        return None
    return EngineProcess(
        "local",
        folders,
        allow_egress=settings.server.allow_egress,
        queue=settings.local.queue,
        deadline_s=settings.local.deadline_s,
        environment=settings.child_environment,
        log=settings.data_dir / "engine-local.log",
    )


def _failure(engine: EngineProcess) -> str | None:
    return "; ".join(engine.problems) or "its engine cannot run" if engine.state == "failed" else None
