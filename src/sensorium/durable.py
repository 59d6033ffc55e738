"""Composition of what outlives a connection: the queue, the files, the webhooks, and the apps that fal's doors run."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sensorium import fetch
from sensorium.api.video import kept
from sensorium.apps import queued
from sensorium.apps.registry import Apps
from sensorium.jobs.calls import WORK, CallWork
from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.lanes import Lanes
from sensorium.jobs.outbox import Outbox
from sensorium.jobs.policy import Outside, Policy
from sensorium.jobs.request import State, UnknownRequest
from sensorium.jobs.requests import Requests
from sensorium.jobs.results import Results
from sensorium.jobs.run import Work
from sensorium.jobs.share import Shares
from sensorium.jobs.webhook_keys import Keys
from sensorium.jobs.webhooks import Way, Webhooks
from sensorium.routing.dispatch import Dispatch
from sensorium.routing.repeat import verdict
from sensorium.settings import Settings
from sensorium.store.calls import DAY_S
from sensorium.store.database import Database, StoreUnavailable
from sensorium.store.files import Files
from sensorium.store.signing import Signing
from sensorium.store.uploads import Uploads
from sensorium.store.vault import Vault
from sensorium.store.writer import Writer
from sensorium.wire import webhook
from sensorium.wire.webhook import Ended

MB = 1024 * 1024
SWEEP_EVERY_S, REST_EVERY_S = 3600.0, 60.0
log = logging.getLogger("sensorium.hub")


@dataclass(frozen=True, slots=True)
class Durable:
    """The parts, built."""

    jobs: Jobs
    apps: Apps
    files: Files
    uploads: Uploads
    outbox: Outbox
    keys: Keys
    webhooks: Webhooks
    signing: Signing
    limit: Callable[[str], int]

    async def keep_swept(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Delete files whose time is over, and what belongs to none, from time to time."""
        while True:
            try:
                await asyncio.to_thread(self.files.sweep)
            except (StoreUnavailable, OSError) as error:
                log.warning("old files are not swept: %s", type(error).__name__)
            await sleep(SWEEP_EVERY_S)

    async def keep_small(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Empty the database's log whenever nothing is written for a while."""
        seen = -1
        while True:
            await sleep(REST_EVERY_S)
            try:
                seen = await asyncio.to_thread(self.files.database.rest, seen)
            except StoreUnavailable as error:
                log.warning("the database's log is not emptied: %s", error.message)


def shelf(settings: Settings, vault: Vault) -> Files:
    """The files, in the data folder of `settings`."""
    return Files(
        vault.database,
        settings.data_dir,
        Signing(vault),
        quota_bytes=settings.files.quota_mb * MB,
        most_bytes=settings.files.max_mb * MB,
        kept_s=settings.files.keep_days * DAY_S,
    )


def build(settings: Settings, dispatch: Dispatch, vault: Vault, files: Files) -> Durable:
    """All of it, in the data folder of `settings`."""
    database, folder, signing = vault.database, settings.data_dir, Signing(vault)
    apps = Apps(dispatch, files, partial(fetch.fetch, allow=settings.server.allow_egress))
    outbox = Outbox(database)
    keys, secrets = Keys(outbox, signing), {name: webhook.secret_bytes(text) for name, text in settings.webhook_secrets.items()}

    async def payload(id: str) -> Ended | None:
        return await ended(jobs, id, settings.server.public_url or "")

    way = Way(settings.server.allow_egress, secrets=secrets)
    webhooks = Webhooks(outbox, keys, payload, way, kept_s=settings.webhooks.keep_days * DAY_S)
    outside = Outside(verdict, ended=lambda request: webhooks.wake(), discard=files.discard)
    jobs = queue(settings, dispatch, database, folder, {queued.NAME: queued.work(apps.find)}, outside)
    return Durable(jobs, apps, files, Uploads(files), outbox, keys, webhooks, signing, _limits(settings, dispatch))


def queue(
    settings: Settings,
    dispatch: Dispatch,
    database: Database,
    folder: Path,
    works: Mapping[str, Work] | None = None,
    outside: Outside | None = None,
) -> Jobs:
    """The queue, its large results in `folder`. It runs the calls of doors, and `works` beside them."""
    jobs, callers = settings.jobs, settings.callers

    def ready(lane: str) -> bool:
        """Whether anybody can be called for a model now; of one that is not known any more, the run will tell."""
        routes = [route for route in dispatch.catalog.routes if route.id == lane]
        return not routes or any(route.provider.down() is None and route.provider.loading() is None for route in routes)

    policy = Policy(
        most_waiting=jobs.max_waiting,
        most_waiting_of={name: table.max_waiting for name, table in callers.items() if table.max_waiting is not None},
        kept_s=jobs.keep_days * DAY_S,
        log_s=jobs.log_days * DAY_S,
        unserved_s=jobs.max_unserved_s,
        low_max_wait_s=jobs.low_max_wait_s,
    )
    most_running = {name: table.max_running for name, table in callers.items() if table.max_running is not None}
    lanes = Lanes(jobs.at_once, _limits(settings, dispatch), most_running, ready)
    all_works: dict[str, Work] = {WORK: CallWork(dispatch, {"video": kept}), **(works or {})}
    shares = Shares({name: table.weight for name, table in callers.items()})
    requests = Requests(database, Writer(database))
    return Jobs(requests, Results(folder), all_works, lanes, outside or Outside(verdict), policy=policy, shares=shares)


async def ended(jobs: Jobs, id: str, base_url: str) -> Ended | None:
    """What a webhook tells of a request; None when it is forgotten, or not over."""
    try:
        # As it is on disk: memory follows a moment later, and a notification that is read in between would be given up as too early.
        request = await asyncio.to_thread(jobs.requests.of, None, id)
    except UnknownRequest:
        return None
    if not request.done:  # it was sent back to the queue meanwhile, and its next end writes a notification of its own
        return None
    body = None if request.payload_gone else await asyncio.to_thread(jobs.kept_output, id)
    last = id if request.attempt <= 1 else str(uuid.uuid5(uuid.UUID(id), str(request.attempt)))
    at = f"{request.call.get('base_url') or base_url}/fal/queue/{request.app}/requests/{id}"
    error = request.told.get("error") if request.status in (None, 499, 500, 504) else None
    return Ended(id, last, request.state is State.SUCCEEDED, request.status or 500, body, error, at)


def _limits(settings: Settings, dispatch: Dispatch) -> Callable[[str], int]:
    jobs = settings.jobs

    def limit(lane: str) -> int:
        """How many requests of a model run at once: a device on this machine does so many side by side, most one."""
        routes = [route for route in dispatch.catalog.routes if route.id == lane]
        local = bool(routes) and all(route.provider.local for route in routes)
        return jobs.limits.get(lane, jobs.per_model or (max(route.slots for route in routes) if local else jobs.at_once))

    return limit
