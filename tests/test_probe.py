"""Every provider is tried once per modality, and again when it or its key has changed; what is learnt is there before the first caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import pytest

from sensorium.probe import AGAIN_S, Prober
from sensorium.routing.call import Credential, Provider, Route
from sensorium.routing.health import Health
from sensorium.routing.upstream import Upstream
from tests.hub_process import free_port
from tests.routing.hosted import chat, image, nvidia
from tests.simulators.site import AI, INTEGRATE, KEY, Site, running

LLAMA = "meta/llama-3.1-8b-instruct"


class Key:
    """A key that can be replaced, and remembers which of its versions was refused."""

    def __init__(self, value: str = KEY) -> None:
        self.value, self.version, self.refused = value, 1, list[int]()

    def replace(self, value: str) -> None:
        self.value, self.version = value, self.version + 1

    def at(self, url: str, name: str = "hosted") -> Provider:
        credential = Credential("nvidia-key", lambda: self.value, lambda: self.version, self.refused.append)
        return Provider(name, url, credential, timeout_s=10, idle_s=10)


class Bench:
    """A prober in front of a simulator, with a clock that stands still until it is told to move."""

    def __init__(self, site: Site, upstream: Upstream) -> None:
        self.site, self.now = site, 0.0
        self.health = Health(lambda: self.now)
        self.prober = Prober(upstream.send, self.health, lambda: self.now)

    async def look(self, *routes: Route) -> list[str]:
        """The paths that were called for it."""
        before = len(self._calls())
        await self.prober.look(routes)
        return [path.rpartition("/")[2] for path in self._calls()[before:]]

    def _calls(self) -> list[str]:
        return [call["path"] for call in self.site.get("/simulator/calls").json]

    def state(self, route: Route) -> str | None:
        found = self.prober.found(route)
        return None if found is None else found.state


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running() as site:
        yield site


def on_bench(site: Site, test: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        upstream = Upstream()
        try:
            await test(Bench(site, upstream))
        finally:
            await upstream.close()

    asyncio.run(main())


def test_each_provider_is_tried_once_per_modality_by_its_first_route(site: Site) -> None:
    key = Key()
    talk, draw = key.at(f"http://{site.address}{INTEGRATE}/v1", "talk"), key.at(f"http://{site.address}{AI}/v1/genai", "draw")
    routes = [chat(LLAMA, talk), chat("meta/other", talk), chat("*", talk), nvidia("image", draw, dialect="genai")]
    ours = replace(talk, name="local", local=True, own=True)
    shipped = [image("black-forest-labs/flux.1-dev", ours, stand_in=True), chat("ours", ours)]

    async def test(bench: Bench) -> None:
        assert sorted(await bench.look(*routes, *shipped)) == ["completions", "flux.1-schnell"]
        assert [bench.state(route) for route in routes] == ["works"] * 4
        assert [bench.state(route) for route in shipped] == [None, None]
        assert await bench.look(*routes) == []

    on_bench(site, test)


def test_a_refused_key_takes_the_provider_out_before_anybody_calls_and_a_new_one_is_tried_at_once(site: Site) -> None:
    key = Key("nvapi-wrong")
    route = nvidia("image", key.at(f"http://{site.address}{AI}/v1/genai"), dialect="genai")

    async def test(bench: Bench) -> None:
        await bench.look(route)
        found = bench.prober.found(route)
        assert found is not None and found.detail == "403 auth: Authorization failed; replace the key nvidia-key"
        condition = bench.health.condition(route)
        assert (condition.state, condition.reason, key.refused) == ("out", "it refused the hub's key", [1])
        bench.now += AGAIN_S
        assert await bench.look(route) == []  # it is known to be refused: asking again cannot help
        key.replace(KEY)
        assert await bench.look(route) == ["flux.1-schnell"]
        assert (bench.state(route), bench.health.condition(route).state) == ("works", "open")

    on_bench(site, test)


def test_a_model_that_is_not_granted_is_out_alone(site: Site) -> None:
    at = Key().at(f"http://{site.address}{INTEGRATE}/v1")
    gone, there = chat("no/such-model", at), chat(LLAMA, at)

    async def test(bench: Bench) -> None:
        await bench.look(gone, there)
        assert (bench.state(gone), bench.state(there)) == ("fails", None)
        assert [bench.health.condition(route).state for route in (gone, there)] == ["out", "open"]
        assert await bench.look(there, gone) == ["completions"]
        assert bench.state(there) == "works"

    on_bench(site, test)


def test_who_cannot_be_reached_is_tried_again_later_or_counts_as_well_once_it_answers(site: Site) -> None:
    down = chat("m", Key().at(f"http://127.0.0.1:{free_port()}/v1"))

    async def test(bench: Bench) -> None:
        await bench.look(down)
        assert bench.state(down) == "fails"
        assert bench.health.condition(down).last_error == "transport"
        bench.now += 1
        admission = bench.health.enter(down)
        admission.answered()  # type: ignore[union-attr]
        assert bench.state(down) is None
        bench.now += AGAIN_S
        await bench.look(down)
        assert bench.state(down) == "fails"

    on_bench(site, test)


def test_another_address_is_tried_and_what_is_gone_is_forgotten(site: Site) -> None:
    key = Key()
    old, new = chat(LLAMA, key.at("http://127.0.0.1:9/v1")), chat(LLAMA, key.at(f"http://{site.address}{INTEGRATE}/v1"))

    async def test(bench: Bench) -> None:
        await bench.look(old)
        assert (bench.state(old), bench.state(new)) == ("fails", None)
        bench.health.forget(["hosted"])
        assert await bench.look(new) == ["completions"]
        assert (bench.state(old), bench.state(new)) == (None, "works")
        await bench.look()
        assert bench.state(new) is None

    on_bench(site, test)


def test_tries_go_on_whatever_happens_to_one_of_them() -> None:
    looks: list[int] = []

    async def sleep(_: float) -> None:
        looks.append(1)
        if len(looks) == 2:
            raise asyncio.CancelledError

    def routes() -> list[Route]:
        raise RuntimeError("a fault of ours")

    async def main() -> None:
        async def send(*_: object) -> object:
            raise AssertionError("nothing is to be sent")

        prober = Prober(send, Health(lambda: 0.0), lambda: 0.0)  # type: ignore[arg-type]
        with pytest.raises(asyncio.CancelledError):
            await prober.keep(routes, sleep)
        assert prober.tried.is_set()

    asyncio.run(main())
