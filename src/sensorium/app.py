"""Composition root: builds the parts from the settings, starts and stops what runs."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.handlers
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from sensorium import certificates, durable, local_engines, providers
from sensorium.api.fal_proxy import FalProxy
from sensorium.doors import Operators, realtime_bytes, router
from sensorium.durable import Durable
from sensorium.engines.supervisor import EngineProcess
from sensorium.errors import SettingsError, Unavailable
from sensorium.live import Change, LiveSettings, Source
from sensorium.metrics import Counted, Metrics
from sensorium.model_folders import PACKAGED
from sensorium.overview import overview
from sensorium.probe import AT_START_S, Prober
from sensorium.routing import shipped
from sensorium.routing.call import Record, Route
from sensorium.routing.catalog import Catalog
from sensorium.routing.company import Company
from sensorium.routing.dispatch import Dispatch, Parts, Send
from sensorium.routing.health import Health
from sensorium.routing.ledger import Ledger
from sensorium.routing.own import Own
from sensorium.routing.shipped import ShippedModel
from sensorium.routing.under_way import UnderWay
from sensorium.routing.upstream import Upstream
from sensorium.settings import Settings
from sensorium.status import Status
from sensorium.store.calls import DAY_S, Calls
from sensorium.store.database import Database, StoreUnavailable
from sensorium.store.masterkey import keeper
from sensorium.store.vault import Vault
from sensorium.store.writer import end_process
from sensorium.webserver import Server, Tls, address, configured, listen

LOG_FILE, LOG_BYTES = "hub.log", 8 * 1024 * 1024
TABLE_WAIT_S = 10.0
HANG_S = 60.0  # of the shipped models
log = logging.getLogger("sensorium.hub")


def shipped_models(folder: Path = PACKAGED) -> dict[Path, ShippedModel]:
    """The model folders of the package, each with what its side config declares."""
    found = {}
    for side in sorted(folder.glob("*/sensorium.json")):
        declared = json.loads(side.read_text("utf-8"))
        found[side.parent] = ShippedModel(f"sensorium/{side.parent.name}", declared["kind"], declared["scope"])
    return found


def catalog(settings: Settings, engine: EngineProcess | None, vault: Vault | None = None, own: Sequence[Route] = ()) -> Catalog:
    """Every route: the operator's providers in their order, then the engines' `own`, then the shipped models and their stand-ins."""
    hosted = providers.routes(settings, vault)
    if engine is None:
        return Catalog([*hosted, *own])
    ours = shipped_routes(settings, engine, taken={route.id for route in (*hosted, *own)})
    # An open route takes the well-known names of its modality too.
    opened = {route.modality for route in hosted if route.open and route.dialect != "anthropic"}
    return Catalog([*hosted, *own, *(route for route in ours if not (route.stand_in and route.modality in opened))])


def shipped_routes(settings: Settings, engine: EngineProcess | None = None, taken: Collection[str] = ()) -> list[Route]:
    """The shipped models and their stand-ins; without an engine, as they would be."""
    if not settings.local.enabled:
        return []
    local = local_engines.provider("local", settings.local.deadline_s, engine)
    return shipped.routes(shipped_models().values(), local, settings.local.stand_ins, taken)


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

    router: FalProxy
    dispatch: Dispatch
    prober: Prober
    status: Status
    durable: Durable


def build(
    settings: Settings,
    engine: EngineProcess | None,
    send: Send,
    vault: Vault,
    source: Source | None = None,
    calls: Calls | None = None,
    own: Sequence[EngineProcess] = (),
) -> Hub:
    """The hub over `send`, the transport to the models.

    `source` is where its settings come from; finished calls go into `calls`, without it only into the log. `own` are the engines of the
    settings' tables, `engine` that of the shipped models.
    """
    files = durable.shelf(settings, vault)
    under_way, health, clock = UnderWay(Company(Own(send, files.own))), Health(time.monotonic), time.monotonic
    counted = Counted()

    def ended(done: Record) -> None:
        counted.record(done)
        record(done)

    recorded = Ledger(calls, ended).record if calls else ended
    routes = local_engines.routes(settings, {one.name: one for one in own})  # for good: these tables change with a restart only
    dispatch = Dispatch(catalog(settings, engine, vault, routes), Parts(under_way, recorded, health, clock), settings.router.order)
    prober = Prober(send, health, clock)

    def take_over(after: Settings, change: Change) -> None:
        dispatch.catalog, dispatch.order = catalog(after, engine, vault, routes), after.router.order
        health.forget(change.providers)
        whole.max_body = after.server.max_body_bytes

    live = LiveSettings(settings, source, take_over, time.time)
    engines = [*([engine] if engine else []), *own]
    lasting = durable.build(settings, dispatch, vault, files)
    jobs = lasting.jobs
    status = Status(lambda: dispatch.catalog, health, under_way, prober, live, vault.database, jobs, engines, clock, clock())
    metrics = Metrics(counted, status, dispatch.waiting, jobs, calls, lasting.files, lasting.outbox, lasting.webhooks)
    behind = Operators(vault, status, calls, metrics)
    whole = router(settings, dispatch, lambda: {one.name: one.state for one in engines}, jobs, behind, lasting)
    return Hub(FalProxy(whole), dispatch, prober, status, lasting)


async def run(settings: Settings, say: Callable[[str], None], require: Sequence[str] = (), source: Source | None = None) -> bool:
    """Serve until told to stop: the engines first, then the hub; at the end the other way round. True when Ctrl-C stopped it.

    `say` gets the start-up table, once the engines and the first tries of the providers have ended, or a while after the start.
    Raises SettingsError when the address cannot be had, or a modality that is in `require` is off.
    """
    async with AsyncExitStack() as stopping:  # backwards, each step whatever became of those before
        listener = listen(settings.server.host, settings.server.port, "server.port")
        stopping.callback(listener.close)
        tls, secured = _secured(settings)
        if secured is not None:
            stopping.callback(secured.close)
        _log_to(settings.data_dir)
        database = Database(settings.data_dir)
        stopping.callback(database.close)
        database.keep_hubs_off()
        database.fatal = end_process
        vault = Vault(database, keeper(settings))
        stopping.callback(_flush, vault)
        _beside(stopping, vault.keep_audit())
        calls = Calls(database, settings.calls.keep_days * DAY_S, settings.calls.keep)
        stopping.callback(calls.close)
        _beside(stopping, calls.keep_writing())
        engine, own = _engine(settings), local_engines.processes(settings)
        engines = [*([engine] if engine else []), *own]
        stopping.push_async_callback(_ended, engines)
        upstream = Upstream(allow_egress=settings.server.allow_egress)
        stopping.push_async_callback(upstream.close)
        hub = build(settings, engine, upstream.send, vault, source, calls, own)
        lasting = hub.durable
        stopping.callback(lasting.jobs.requests.close)
        _insist(require, hub.status)  # as far as settings and keys tell
        _follow(stopping, hub.status.live)
        _beside(stopping, lasting.webhooks.run())
        _beside(stopping, lasting.jobs.run())
        _beside(stopping, lasting.keep_swept())
        _beside(stopping, lasting.keep_small())
        for one in engines:
            await one.start()
        if settings.server.probe_at_start:
            _beside(stopping, hub.prober.keep(lambda: hub.dispatch.catalog.routes))
        started = _beside(stopping, _started(engines, hub.prober if settings.server.probe_at_start else None))
        if require:
            await asyncio.wait({started}, timeout=AT_START_S + TABLE_WAIT_S)
            _insist(require, hub.status)
        secure = Server(_served(settings, hub.router, tls), signals=False) if tls is not None else None
        server = Server(_served(settings, hub.router), beside=[secure] if secure is not None else ())
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping.push_async_callback(_stopped, server, serving)
        if secure is not None and secured is not None:
            stopping.push_async_callback(_stopped, secure, asyncio.create_task(secure.serve(sockets=[secured])))
        await asyncio.wait({serving, started}, timeout=TABLE_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            told, token = hub.status.standings(), settings.token is not None
            places = [address(listener), *([address(secured, "https")] if secured is not None else [])]
            say(overview(places, hub.dispatch.catalog.routes, told, token, settings.data_dir / LOG_FILE))
        await serving
        return server.interrupted


def serve(source: Source, say: Callable[[str], None], require: Sequence[str] = ()) -> None:
    """Blocking twin of `run`, for the command line. Raises KeyboardInterrupt after a stop by Ctrl-C."""
    os.umask(0o077)  # whatever is written, also by libraries and engines, is for the hub's user alone
    if asyncio.run(run(source.read(), say, require, source)):
        raise KeyboardInterrupt


def _beside(stopping: AsyncExitStack, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Something that runs beside the hub until that stops."""
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stopping.push_async_callback(end)
    return task


async def _started(engines: Sequence[EngineProcess], prober: Prober | None) -> None:
    """The engines are ready or have failed, and every provider has been tried."""
    if prober is not None:
        await prober.tried.wait()
    until = time.monotonic() + TABLE_WAIT_S
    for engine in engines:
        with suppress(SettingsError, Unavailable):  # the table says which of the two it was
            await engine.wait_ready(max(0.0, until - time.monotonic()))


async def _ended(engines: Sequence[EngineProcess]) -> None:
    """All stop at the same time: each has a grace of its own."""
    await asyncio.gather(*(engine.stop() for engine in engines))


def _insist(require: Sequence[str], status: Status) -> None:
    off = [f"{one.name} is required: {one.lack}" for one in status.standings() if one.name in require and one.lack]
    if off:
        raise SettingsError(off)


def _follow(stopping: AsyncExitStack, live: LiveSettings) -> None:
    """Take the settings file over when it changes, and on SIGHUP, which on a terminal means that the window is gone and stops the hub."""
    if live.file is None:
        return
    _beside(stopping, live.watch())
    if hasattr(signal, "SIGHUP") and not os.isatty(0):
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, live.reload_if_good)
        stopping.callback(loop.remove_signal_handler, signal.SIGHUP)


async def _stopped(server: Server, serving: asyncio.Task[None]) -> None:
    server.should_exit = True
    await asyncio.gather(serving, return_exceptions=True)


def _flush(vault: Vault) -> None:
    try:
        vault.flush()
    except StoreUnavailable as error:
        log.warning("the last uses of secrets are missing in the audit: %s", error.message)


def _log_to(folder: Path) -> None:
    """Calls go to a file of bounded size, warnings to the terminal as well. Neither ever holds prompts, pictures or keys."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    calls = logging.handlers.RotatingFileHandler(folder / LOG_FILE, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")
    terminal = logging.StreamHandler()
    terminal.setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, handlers=[calls, terminal], format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def _secured(settings: Settings) -> tuple[Tls, socket.socket] | tuple[None, None]:
    """What the listener with TLS shows, and its socket. Raises SettingsError when one of them cannot be had."""
    server = settings.server
    if server.tls_port is None:
        return None, None
    tls = certificates.shown(settings.data_dir / certificates.FOLDER, server.tls_cert, server.tls_key)
    return tls, listen(server.host, server.tls_port, "server.tls_port")


def _served(settings: Settings, app: FalProxy, tls: Tls | None = None) -> uvicorn.Config:
    server = settings.server
    return configured(app, grace_s=server.grace_s, most_message=realtime_bytes(settings), tls=tls)


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
        hang_s=HANG_S,
        environment=settings.child_environment,
        log=settings.data_dir / "engine-local.log",
    )
