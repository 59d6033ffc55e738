"""GET /metrics: what it counts is what was called, its states are those of the hub, and nothing that comes with a call stands in it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import sensorium
from sensorium import app
from sensorium.api.auth import Auth, Principal
from sensorium.api.metrics import TEXT, MetricsDoor
from sensorium.api.router import Entry, Router
from sensorium.api.visit import Visit
from sensorium.engines.supervisor import EngineProcess
from sensorium.metrics import Counted
from sensorium.routing.call import Attempt, Record
from sensorium.settings import load
from sensorium.store.calls import Calls
from sensorium.store.database import StoreUnavailable
from sensorium.wire import openai
from sensorium.wire.failure import Failure
from sensorium.wire.usage import Usage
from tests.api.hubs import Hub, LazyUpstream, living
from tests.jobs.queues import claimed, put, table
from tests.routing.hosted import call, chat, provider
from tests.serving import serving
from tests.simulators.site import CUBE, HELLO, KEY, SETTINGS, eventually, running
from tests.store.vaults import opened
from tests.upstream_program import Provider

CHAT, GENAI, METRICS = "/v1/chat/completions", "/v1/genai/black-forest-labs/flux.1-schnell", "/metrics"
TOKEN, CANARY = "token-of-the-tests", "canary-Zq7"
SECRETS = ("nvidia-upstream", "nvidia-image", "nvidia-audio", "nvidia-video")
TWO = """
[local]
enabled = false
[providers.talk]
kind = "openai"
base_url = "{site}/v1"
per_minute = 60.0
burst = 20
models = ["good", "slow", "refuse-503", "refuse-401"]
[providers.dead]
kind = "openai"
base_url = "http://127.0.0.1:1/v1"
models = ["gone"]
"""


@dataclass
class Bench:
    """A hub, and what its metrics say."""

    hub: Hub

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        reply, raw = self.hub.call(method, path, body, {"authorization": f"Bearer {TOKEN}", **headers})
        return reply.status, raw

    def page(self) -> str:
        status, raw = self.call("GET", METRICS)
        assert status == 200
        return raw.decode()

    def value(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name that have these labels."""
        return total(parsed(self.page()), name, **labels)


def parsed(page: str) -> list[Metric]:
    """As Prometheus reads it; no series may stand there twice."""
    families = list(text_string_to_metric_families(page))
    series = [(one.name, tuple(sorted(one.labels.items()))) for family in families for one in family.samples]
    assert len(series) == len(set(series))
    assert all(family.type != "unknown" and family.documentation for family in families)
    return families


def total(families: list[Metric], name: str, **labels: str) -> float:
    samples = [one for family in families for one in family.samples if one.name == f"sensorium_{name}"]
    return sum(one.value for one in samples if labels.items() <= one.labels.items())


@contextmanager
def bench(folder: Path, site: str, text: str, more: str = "", calls: type[Calls] = Calls, queue: bool = True) -> Iterator[Bench]:
    """A hub with a token in front of `site`; without `queue` nothing takes requests from the one on disk."""
    with opened(folder) as vault:
        for name in SECRETS:
            vault.put(name, KEY, [site], who="test")
        file = folder / "hub.toml"
        file.write_text(text.format(site=site) + more, "utf-8")
        upstream = LazyUpstream()
        configured = load(file, {"MAC_API_TOKEN": TOKEN}, data_dir=folder)
        built = app.build(configured, None, upstream.send, vault, calls=calls(vault.database, 1e6, 10_000))
        with serving(living(built.router, built.durable.jobs, upstream) if queue else built.router) as base:
            made = Hub(base, [])
            try:
                yield Bench(made)
            finally:
                made.close()


def test_the_counters_are_the_calls(tmp_path: Path) -> None:
    said = {**HELLO, "messages": [{"role": "user", "content": f"{CANARY} hello"}]}
    ours = {"x-mac-agent-id": f"{CANARY}-agent", "x-request-id": f"{CANARY}-id"}
    calls: list[tuple[str, Any]] = [*[(CHAT, said)] * 3, *[(CHAT, {**said, "stream": True})] * 2]
    calls += [*[(GENAI, {**CUBE, "prompt": CANARY})] * 2, ("/v1/embeddings", {"model": "*", "input": CANARY})]
    strange = [(CHAT, {**said, "model": f"{CANARY}/model-{number}"}) for number in range(5)]
    with running() as site, bench(tmp_path, f"http://{site.address}", SETTINGS) as hub:
        answers = [hub.call("POST", path, body, **ours) for path, body in calls]
        assert {status for status, _ in answers} == {200}
        refused = [hub.call("POST", path, body, **ours)[0] for path, body in strange]
        assert set(refused) == {404}
        assert hub.call("POST", CHAT, b"{", **ours)[0] == 400  # never becomes a call
        eventually(lambda: hub.value("calls_total") >= len(calls) + len(strange))
        page = hub.page()
        kept = json.loads(hub.call("GET", "/v1/calls?limit=100")[1])["data"]
    told = parsed(page)
    assert total(told, "calls_total") == len(kept) == len(calls) + len(strange)
    assert total(told, "calls_total", door=CHAT, modality="chat", outcome="answered", status="2xx") == 5
    assert total(told, "calls_total", door="/v1/genai/*", modality="image", outcome="answered", status="2xx") == 2
    assert total(told, "calls_total", door="/v1/embeddings", modality="embed", status="2xx") == 1
    assert total(told, "calls_total", status="4xx") == len(strange)
    assert total(told, "call_seconds_count") == total(told, "call_seconds_bucket", le="+Inf") == len(kept)
    assert total(told, "first_byte_seconds_count", modality="image") == 2
    assert total(told, "bytes_out_total", modality="image") == sum(len(raw) for _, raw in answers[5:7])
    for direction in ("in", "out"):
        counted = sum(one["usage"][f"tokens_{direction}"] or 0 for one in kept)
        assert total(told, "tokens_total", direction=direction) == counted > 0
    for word in (CANARY, KEY, TOKEN, "llama", "flux", site.address, "_created"):
        assert word not in page


def test_the_format_is_the_one_that_is_announced_and_a_head_has_no_body(tmp_path: Path, at: str) -> None:
    with bench(tmp_path, at, TWO) as hub:
        got = hub.hub.call("GET", METRICS, headers={"authorization": f"Bearer {TOKEN}"})
        head = hub.hub.call("HEAD", METRICS, headers={"authorization": f"Bearer {TOKEN}"})
        version = [one.labels for family in parsed(got[1].decode()) for one in family.samples if one.name == "sensorium_build_info"]
    assert got[0].getheader("content-type") == head[0].getheader("content-type") == TEXT
    assert (got[0].status, head[0].status, head[1]) == (200, 200, b"")
    assert version == [{"version": sensorium.__version__}]
    assert b"sensorium_" not in generate_latest(REGISTRY)


def test_states_and_failed_attempts(tmp_path: Path, at: str, provider: Provider) -> None:
    def ask(model: str) -> int:
        return hub.call("POST", CHAT, {"model": model, "messages": [{"role": "user", "content": CANARY}]})[0]

    with bench(tmp_path, at, TWO) as hub:
        assert hub.value("routes") == hub.value("routes", state="open") == 5
        assert hub.value("rate_limit_tokens", provider="talk") == 20
        assert [ask("refuse-503") for _ in range(3)] == [503] * 3 and ask("gone") in (502, 503)
        eventually(lambda: hub.value("calls_total") == 4)
        assert hub.value("routes", provider="talk", modality="chat", state="out") == 1
        assert hub.value("routes", provider="talk", modality="chat", state="open") == 3
        assert hub.value("attempts_failed_total", **{"class": "provider_outage", "provider": "talk", "asked": "yes"}) == 3
        assert hub.value("attempts_failed_total", **{"class": "transport", "provider": "dead"}) == 1
        assert hub.value("calls_total", outcome="failed", provider="") == 4
        assert 0 < hub.value("rate_limit_tokens", provider="talk") <= 20
        before = json.loads(hub.call("GET", "/v1/status")[1])["routes"]
        hub.page()
        after = json.loads(hub.call("GET", "/v1/status")[1])["routes"]
        assert [one["state"] for one in before] == [one["state"] for one in after]
        assert ask("refuse-503") == 503  # passed over now
        eventually(lambda: hub.value("attempts_failed_total", asked="no") == 1)


def test_calls_under_way_are_seen_until_they_end(tmp_path: Path, at: str, provider: Provider) -> None:
    with bench(tmp_path, at, TWO) as hub:
        assert hub.value("calls_under_way") == 0
        body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": CANARY}]}
        provider.step.release()
        reply = hub.hub.open("POST", CHAT, body, {"authorization": f"Bearer {TOKEN}"})
        assert (hub.value("calls_under_way", provider="talk"), hub.value("calls_under_way", provider="dead")) == (1, 0)
        for _ in range(10):
            provider.step.release()
        reply.read()
        eventually(lambda: hub.value("calls_under_way") == 0 and hub.value("calls_total", outcome="answered") == 1)


def test_calls_that_wait_for_their_turn_are_seen(tmp_path: Path, at: str) -> None:
    body = {"model": "good", "messages": [{"role": "user", "content": CANARY}]}
    slowly = TWO.replace("per_minute = 60.0\nburst = 20", "per_minute = 2.0\nburst = 1")
    with bench(tmp_path, at, slowly) as hub:
        assert hub.call("POST", CHAT, body)[0] == 200
        assert hub.value("calls_waiting") == 0
        leaving = HTTPConnection(hub.hub.address, timeout=10)
        leaving.request("POST", CHAT, json.dumps(body), {"authorization": f"Bearer {TOKEN}"})
        eventually(lambda: hub.value("calls_waiting", provider="talk") == 1)
        assert hub.value("routes", provider="talk", state="limited") == 4
        leaving.close()
        eventually(lambda: hub.value("calls_total", outcome="client_closed", status="4xx") == 1)
        assert hub.value("calls_waiting") == 0


class Losing(Calls):
    """Records of which some were lost."""

    def lost(self) -> int:
        return 7


def test_what_is_stored_is_told(tmp_path: Path, at: str) -> None:
    async def three() -> None:
        async with table(tmp_path) as requests:
            for _ in range(3):
                await put(requests)
            await claimed(requests)

    with bench(tmp_path, at, TWO, calls=Losing, queue=False) as hub:
        asyncio.run(three())
        told = parsed(hub.page())
    assert total(told, "records_lost_total") == 7
    assert (total(told, "queue_requests", state="waiting"), total(told, "queue_requests", state="running")) == (2, 1)


class Unreadable(Calls):
    """Records that cannot be read."""

    def lost(self) -> int:
        raise StoreUnavailable("the disk is gone")


def test_without_the_store_the_rest_is_told(tmp_path: Path, at: str) -> None:
    with bench(tmp_path, at, TWO, calls=Unreadable) as hub:
        told = parsed(hub.page())
    assert total(told, "routes") == 5
    assert not any(family.name == "sensorium_records_lost" for family in told)


def test_an_engine_tells_its_state_and_restarts(tmp_path: Path) -> None:
    with opened(tmp_path) as vault:
        engine = EngineProcess("local", list(app.shipped_models()), environment={})
        try:
            engine.state, engine.restarts = "restarting", 3
            built = app.build(load(None, {}, data_dir=tmp_path), engine, LazyUpstream().send, vault)
            with serving(built.router) as base:
                told = parsed(Hub(base, []).call("GET", METRICS)[1].decode())
        finally:
            asyncio.run(engine.stop())
    assert total(told, "engine_state") == total(told, "engine_state", engine="local", state="restarting") == 1
    assert total(told, "engine_restarts_total", engine="local") == 3


def test_it_needs_the_token_unless_the_settings_open_it(tmp_path: Path, at: str) -> None:
    with bench(tmp_path, at, TWO) as hub:
        assert hub.hub.json("GET", METRICS)[1]["error"]["code"] == "invalid_token"
    with bench(tmp_path / "open", at, TWO, "[server]\npublic_metrics = true\n") as hub:
        assert (hub.hub.call("GET", METRICS)[0].status, hub.hub.json("GET", "/v1/status")[0]) == (200, 401)


def test_it_is_for_administrators() -> None:
    class Agents(Auth):
        def __call__(self, visit: Visit) -> Principal:
            return Principal("agent-7")

    async def untouched() -> bytes:
        raise AssertionError("this caller may not")

    entry = Entry("GET", METRICS, MetricsDoor(untouched, public=False).scrape, openai.error)
    with serving(Router([entry], Agents(None), lambda _: openai.error, 2**20)) as base:
        code, told = Hub(base, []).json("GET", METRICS)
    assert (code, told["error"]["code"]) == (403, "missing_scope")


def done(model: str) -> Record:
    """A call to a model that somebody made up, on an open route, after one that failed."""
    route = replace(chat(model, provider("http://one")), upstream=model)
    failed = Attempt(route, Failure("transport", 502, model), asked=True)
    return Record(call(id=model, model=model, caller=model), route, 200, "answered", 0.01, 0.02, 100, (failed,), Usage(3, 4))


def test_names_that_callers_make_up_are_no_series() -> None:
    counted = Counted()
    counted.record(done("the-first"))
    series = len(generate_latest(counted.registry).splitlines())
    for number in range(10_000):
        counted.record(done(f"{CANARY}/{number}"))
    page = generate_latest(counted.registry).decode()
    assert len(page.splitlines()) == series and CANARY not in page
    assert total(list(text_string_to_metric_families(page)), "calls_total") == 10_001


def test_a_fault_of_counting_does_not_reach_the_call(caplog: pytest.LogCaptureFixture) -> None:
    broken: Any = replace(done(CANARY), status=None)
    with caplog.at_level(logging.WARNING):
        Counted().record(broken)
    assert "TypeError" in caplog.text and CANARY not in caplog.text
