"""What this hub has counted and what state it is in, as Prometheus text.

Labels are names from the settings or from the hub's own code: never a model, a caller or anything else that comes with a call, so that
callers cannot make series grow.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from sensorium import __version__
from sensorium.jobs.dispatcher import Jobs
from sensorium.jobs.outbox import Outbox
from sensorium.jobs.webhooks import Webhooks
from sensorium.routing.call import Record
from sensorium.routing.origin import ORIGIN
from sensorium.status import Status
from sensorium.store.calls import Calls
from sensorium.store.database import StoreUnavailable
from sensorium.store.files import Files

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
NOBODY: Final = ""  # the provider of a call that none answered; to Prometheus an empty label is a missing one
STATES: Final = ("open", "trying", "limited", "loading", "out")
ENDS: Final = ("succeeded", "failed", "cancelled")
Named = TypeVar("Named", bound=tuple[str, ...])
log = logging.getLogger("sensorium.hub")


class Counted:
    """What finished calls add up to since the start. One per hub, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        whose = ("modality", "provider")
        self._calls = self._counter("calls", "Calls that ended.", "door", *whose, "outcome", "status")
        self._bytes = self._counter("bytes_out", "Bytes of replies that were sent on.", *whose)
        self._tokens = self._counter("tokens", "Tokens, as far as replies told them.", *whose, "direction")
        self._attempts = self._counter("attempts_failed", "Routes that did not answer a call.", "provider", "class", "asked")
        self._first = self._histogram("first_byte_seconds", "Seconds to the first byte of a reply.", *whose)
        self._total = self._histogram("call_seconds", "Seconds until a call had ended.", *whose)

    def record(self, done: Record) -> None:
        """A dispatched call has ended. Never fails."""
        try:
            self._count(done)
        except Exception as error:  # outermost: a fault of counting must not become the call's
            log.warning("a finished call could not be counted: %s", type(error).__name__)

    def _count(self, done: Record) -> None:
        origin, modality = ORIGIN.get(), done.call.modality
        door = (origin.door if origin is not None else "") or "other"
        provider = done.route.provider.name if done.route is not None else NOBODY
        self._calls.labels(door, modality, provider, done.outcome, f"{done.status // 100}xx").inc()
        self._total.labels(modality, provider).observe(done.total_s)
        if done.first_byte_s:
            self._first.labels(modality, provider).observe(done.first_byte_s)
        if done.bytes_out:
            self._bytes.labels(modality, provider).inc(done.bytes_out)
        for direction, count in (("in", done.usage.tokens_in), ("out", done.usage.tokens_out)):
            if count is not None:
                self._tokens.labels(modality, provider, direction).inc(count)
        for attempt in done.attempts:
            self._attempts.labels(attempt.route.provider.name, attempt.failure.kind, "yes" if attempt.asked else "no").inc()

    def _counter(self, name: str, said: str, *labels: str) -> Counter:
        return Counter(f"sensorium_{name}", said, labels, registry=self.registry)

    def _histogram(self, name: str, said: str, *labels: str) -> Histogram:
        return Histogram(f"sensorium_{name}", said, labels, registry=self.registry, buckets=BUCKETS_S)


@dataclass(frozen=True, slots=True)
class Metrics:
    """Everything that a scrape gets. `waiting()` gives by provider the calls that wait for their turn; reading changes nothing.

    What is None is not told.
    """

    counted: Counted
    status: Status
    waiting: Callable[[], Mapping[str, int]]
    jobs: Jobs
    calls: Calls | None = None
    files: Files | None = None
    outbox: Outbox | None = None
    webhooks: Webhooks | None = None

    async def text(self) -> bytes:
        """The page. What is in a store that cannot be read is left out."""
        looked = [*self._routing(), *self._engines(), *self._queue()]  # the loop's own, so here
        return await asyncio.to_thread(lambda: generate_latest(_Page(self.counted.registry, [*looked, *self._stored()])))

    def _routing(self) -> Iterator[Metric]:
        found = [(route, self.status.health.condition(route)) for route in self.status.catalog().routes]
        places = dict.fromkeys((route.provider.name, route.modality) for route, _ in found)
        states = Tally((route.provider.name, route.modality, condition.state) for route, condition in found)
        routes = {(*place, state): states[(*place, state)] for place in places for state in STATES}
        yield _gauge("routes", "Routes by what a call to them would meet now.", ("provider", "modality", "state"), routes)
        tokens = {(route.provider.name,): condition.tokens for route, condition in found if condition.tokens is not None}
        yield _gauge("rate_limit_tokens", "Calls that a provider's rate limit lets through now.", ("provider",), tokens)
        none = {(provider,): 0 for provider, _ in places}
        for name, said, counts in (
            ("calls_under_way", "Calls that were sent and whose reply is not over.", self.status.under_way.by_provider()),
            ("calls_waiting", "Calls that wait for their turn under a rate limit.", self.waiting()),
        ):
            yield _gauge(name, said, ("provider",), none | {(provider,): count for provider, count in counts.items()})

    def _engines(self) -> Iterator[Metric]:
        yield InfoMetricFamily("sensorium_build", "The version of this hub.", {"version": __version__})
        engines = self.status.engines
        states = {(engine.name, engine.state): 1 for engine in engines}
        yield _gauge("engine_state", "1 for the state that an engine process is in.", ("engine", "state"), states)
        loaded = {(name,): part for name, part in self.status.loaded().items()}
        yield _gauge("engine_loaded_ratio", "The part of its models that an engine process has loaded.", ("engine",), loaded)
        restarts = CounterMetricFamily("sensorium_engine_restarts", "Starts of an engine process after it had ended.", labels=("engine",))
        for engine in engines:
            restarts.add_metric((engine.name,), engine.restarts)
        yield restarts

    def _queue(self) -> Iterator[Metric]:
        ended = {name: self.jobs.ended_since_start().get(name, 0) for name in ENDS}
        yield _counter("queue_ended", "Requests of the queue that ended.", "state", ended)
        yield _counter("queue_runs_repeated", "Runs that were followed by another one.", "class", self.jobs.repeated_since_start())
        if self.webhooks is not None:
            yield _counter("webhook_tries", "Tries to deliver a webhook.", "outcome", self.webhooks.tries)

    def _stored(self) -> Iterator[Metric]:
        """What the database tells. Blocks on the disk."""
        try:
            queued, running = self.jobs.requests.standing()
            states = {("waiting",): queued, ("running",): running}
            yield _gauge("queue_requests", "Requests of the queue on disk, by state.", ("state",), states)
            if self.outbox is not None:
                waiting, paused = self.outbox.standing()
                yield _gauge("webhooks_waiting", "Webhooks that are to be delivered.", (), {(): waiting})
                yield _gauge("webhook_endpoints_paused", "Endpoints that said they are gone.", (), {(): paused})
            if self.files is not None:
                count, size = self.files.standing()
                yield _gauge("files", "Files that are kept.", (), {(): count})
                yield _gauge("files_bytes", "Bytes of the files that are kept.", (), {(): size})
            if self.calls is not None:
                yield _gauge("records_waiting", "Records of calls that are not written yet.", (), {(): self.calls.waiting})
                lost = self.calls.lost()
                yield CounterMetricFamily("sensorium_records_lost", "Records of calls that were lost since the store was made.", lost)
        except StoreUnavailable as error:
            log.warning("a scrape of the metrics is without what is stored: %s", error.message)


class _Page(Collector):
    """What was counted and what was looked at, without the times at which the library made its counters: they would double the series."""

    def __init__(self, counted: CollectorRegistry, looked: Iterable[Metric]) -> None:
        self._counted, self._looked = counted, looked

    def collect(self) -> Iterator[Metric]:
        yield from self._looked
        for family in self._counted.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


def _counter(name: str, said: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"sensorium_{name}", said, labels=(label,))
    for named, value in sorted(values.items()):
        family.add_metric((named,), value)
    return family


def _gauge(name: str, said: str, labels: tuple[str, ...], values: Mapping[Named, float]) -> Metric:
    family = GaugeMetricFamily(f"sensorium_{name}", said, labels=labels)
    for named, value in values.items():
        family.add_metric(named, value)
    return family
