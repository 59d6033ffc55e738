"""The state of a running hub, as `GET /v1/status` shows it: settings, data, modalities, routes, jobs, engines. Reading changes nothing.

No key, no prompt, and of addresses only what reasons name.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from sensorium import __version__
from sensorium.jobs.dispatcher import Jobs
from sensorium.live import LiveSettings
from sensorium.overview import Standing, standings
from sensorium.probe import Prober
from sensorium.routing.call import Route
from sensorium.routing.catalog import Catalog
from sensorium.routing.health import Condition, Health
from sensorium.routing.under_way import UnderWay
from sensorium.store.database import Database, StoreUnavailable

MOST_NAMES: Final = 50  # of models that no route lists and that do not work; of lanes


class Model(Protocol):
    """How far one model of an engine is."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def loaded_bytes(self) -> int: ...
    @property
    def total_bytes(self) -> int: ...


class Engine(Protocol):
    """What is shown of an engine process."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def restarts(self) -> int: ...
    @property
    def problems(self) -> Sequence[str]: ...
    @property
    def progress(self) -> Sequence[Model]: ...
    @property
    def silent_s(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Status:
    """Looks at the parts of a hub. `catalog()` is the one in force, `clock` in seconds from anywhere, `began` on it."""

    catalog: Callable[[], Catalog]
    health: Health
    under_way: UnderWay
    prober: Prober
    live: LiveSettings
    database: Database
    jobs: Jobs
    engines: Sequence[Engine]
    clock: Callable[[], float]
    began: float

    def why(self, route: Route) -> str | None:
        """Why a route is out, as calls and tries have shown; None for one that is asked."""
        found = self.prober.found(route)
        if found is not None and found.broken:
            return found.detail
        condition = self.health.condition(route)
        return condition.reason if condition.state == "out" else None

    def standings(self) -> list[Standing]:
        """Every modality, on or off."""
        return standings(self.catalog().routes, self.why)

    def loaded(self) -> dict[str, float]:
        """The part of its models that each engine has loaded, by its name, as far as it is known."""
        sizes = [(one, sum(model.total_bytes for model in one.progress)) for one in self.engines]
        return {one.name: sum(model.loaded_bytes for model in one.progress) / size for one, size in sizes if size}

    def report(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "object": "status",
            "version": __version__,
            "uptime_s": round(self.clock() - self.began, 1),
            "data": _data(self.database),
            "settings": {
                "file": self.live.file.name if self.live.file is not None else None,
                "loaded_at": int(self.live.loaded_at),
                "problems": self.live.problems,
                "needs_restart": self.live.needs_restart,
            },
            "modalities": {one.name: {"on": one.on, "detail": one.said, "trouble": one.trouble} for one in self.standings()},
            "routes": [self._route(route) for route in self._routes()],
            "jobs": _jobs(self.jobs),
            "engines": {one.name: _engine(one) for one in self.engines},
        }

    def _routes(self) -> Iterator[Route]:
        """Every route, and below an open one the names that callers gave and that do not work."""
        routes = self.catalog().routes
        listed = {(route.provider.name, route.upstream) for route in routes}
        for route in routes:
            yield route
            if route.open:
                named = [replace(route, id=name, upstream=name) for name in self.health.failed_names(route)]
                strange = [one for one in named if (one.provider.name, one.upstream) not in listed]
                yield from [one for one in strange if self.health.condition(one).state != "open"][:MOST_NAMES]

    def _route(self, route: Route) -> dict[str, Any]:
        condition, found = self.health.condition(route), self.prober.found(route)
        engine = next((one for one in self.engines if one.name == route.provider.name), None)
        if condition.state == "open" and engine is not None and engine.state != "ready":
            condition = replace(condition, reason=f"its engine is {engine.state}; calls wait for it")
        return {
            "model": route.id,
            "provider": route.provider.name,
            "modality": route.modality,
            "dialect": route.dialect,
            "local": route.provider.local,
            "answered_by": route.answers,
            **_shown(condition),
            "in_flight": self.under_way.on(route),
            "tried": None if found is None else {"state": found.state, "detail": found.detail},
        }


def _engine(engine: Engine) -> dict[str, Any]:
    """An engine; `loading` while its models are on their way, `silent_s` when nothing is heard of it."""
    told: dict[str, Any] = {"state": engine.state, "restarts": engine.restarts, "problems": engine.problems}
    if engine.state != "ready" and engine.progress:
        told["loading"] = [
            {"model": one.name, "state": one.state, "loaded_bytes": one.loaded_bytes, "total_bytes": one.total_bytes}
            for one in engine.progress
        ]
    if engine.silent_s is not None:
        told["silent_s"] = _rounded(engine.silent_s)
    return told


def _shown(condition: Condition) -> dict[str, Any]:
    last = None
    if condition.last_error is not None:
        last = {"class": condition.last_error, "ago_s": _rounded(condition.last_error_s)}
    return {
        "state": condition.state,
        "reason": condition.reason,
        "since_s": _rounded(condition.since_s),
        "next_try_s": _rounded(condition.next_try_s),
        "last_error": last,
        "tokens": _rounded(condition.tokens),
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 1)


def _jobs(jobs: Jobs) -> Mapping[str, Any]:
    """How many requests of the queue wait and run; None while the database cannot be read. `lanes` are the models that have the most."""
    lanes = sorted(jobs.lanes().items(), key=lambda lane: -sum(lane[1]))[:MOST_NAMES]
    shown = {name: {"waiting": waiting, "running": running} for name, (waiting, running) in lanes}
    try:
        waiting, running = jobs.requests.standing()
    except StoreUnavailable:
        return {"waiting": None, "running": None, "lanes": shown}
    return {"waiting": waiting, "running": running, "lanes": shown}


def _data(database: Database) -> Mapping[str, Any]:
    """Whether the data folder can be read and written, and its free bytes."""
    folder: Path = database.path.parent
    try:
        database.changes()
        free = shutil.disk_usage(folder).free
    except StoreUnavailable as error:
        return {"ok": False, "problem": error.message, "free_bytes": None}
    except OSError as error:
        return {"ok": False, "problem": f"the data folder cannot be used: {error.strerror}", "free_bytes": None}
    problem = None if os.access(folder, os.W_OK) else "the data folder cannot be written"
    return {"ok": problem is None, "problem": problem, "free_bytes": free}
