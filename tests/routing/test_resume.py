"""Hosted jobs over real HTTP that one run begins and the next one takes up: submitted once, whatever became of the first hub."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from sensorium.errors import SensoriumError, Unavailable, UpstreamRefused
from sensorium.routing.call import Call, Record, Reply, Route
from sensorium.routing.catalog import Catalog
from sensorium.routing.dispatch import Dispatch, Parts
from sensorium.routing.health import Health
from sensorium.routing.repeat import verdict
from sensorium.routing.resume import Resumption, under_resumption
from sensorium.routing.upstream import Upstream
from sensorium.simulators.nvidia.faults import Rule
from sensorium.store.database import StoreUnavailable
from sensorium.wire import jsonbody
from tests.routing.hosted import image, provider
from tests.simulators import site as nvidia
from tests.simulators.fal import site as fal
from tests.simulators.site import AI, Clock

COSMOS, TRANSFER, FLUX = "nvidia/cosmos-predict1-7b", "nvidia/cosmos-transfer1-7b", "black-forest-labs/flux.1-schnell"
FILM = jsonbody.members(b'{"prompt": "a cube turns", "seed": 1, "video_params": {"height": 64, "width": 96, "frames_count": 4}}')
CUBE = jsonbody.members(b'{"prompt": "a red cube", "width": 768, "height": 768, "seed": 7}')
THREE = jsonbody.members(b'{"prompt": "a red cube", "n": 3, "size": "1024x1024"}')
State = dict[str, Any]


def filming(model: str = COSMOS) -> Call:
    return Call("c", model, "video", ("genai", "nvidia", "fal"), model, FILM, repeatable=False)


def drawing(model: str = FLUX) -> Call:
    return Call("c", model, "image", ("genai", "fal"), model, CUBE, repeatable=False)


def cosmos(site: nvidia.Site, model: str = COSMOS) -> Route:
    at = replace(provider(f"http://{site.address}{AI}/v1/cosmos", "cosmos", nvidia.KEY), timeout_s=3600.0, idle_s=300.0)
    return Route(model, "video", "genai", frozenset(), at, model)


def pictures(site: nvidia.Site) -> Route:
    at = replace(provider(f"http://{site.address}{AI}/v1/genai", "genai", nvidia.KEY), timeout_s=3600.0, idle_s=300.0)
    return Route(FLUX, "image", "genai", frozenset(), at, FLUX)


def queue(site: fal.FalSite, name: str = "fal") -> Route:
    return Route(FLUX, "image", "fal", frozenset(), replace(provider(site.queue, name, fal.KEY), timeout_s=60.0, idle_s=60.0), fal.SCHNELL)


class Disk:
    """What outlives a hub: the state of one request. With the write `stops_at` the hub ends; one that polls gets no further."""

    def __init__(self, state: State | None = None) -> None:
        self.state, self.said = state, list[str]()
        self.writes, self.stops_at = 0, 0
        self.stopped = asyncio.Event()

    async def keep(self, state: State) -> None:
        self.state = json.loads(json.dumps(state))
        self.writes += 1
        if self.writes == self.stops_at:
            self.stopped.set()
            if state["0"]["handles"][0]["kind"] == "nvcf":
                await asyncio.Event().wait()


class Hub:
    """One process of a hub: it has its own connections, and what it learned of its routes."""

    def __init__(self, clock: Clock, *routes: Route, health: Health | None = None) -> None:
        self.upstream, self.records = Upstream(clock.now, clock.sleep), list[Record]()
        parts = Parts(self.upstream.send, self.records.append, health or Health(clock.now), clock.now, clock.sleep)
        self.dispatch, self.detached = Dispatch(Catalog(routes), parts), False

    async def run(self, disk: Disk, *calls: Call) -> list[bytes]:
        with under_resumption(Resumption(disk.state, disk.keep, disk.said.append, lambda: self.detached)) as resumption:
            try:
                bodies = []
                for call in calls:
                    reply = await self.dispatch(call)
                    assert reply.status == 200
                    bodies.append(await reply.whole())
                return bodies
            finally:
                self.left = resumption.state

    async def begins(self, disk: Disk, *calls: Call, until: Callable[[], Awaitable[Any]], detached: bool = True) -> None:
        """A run that ends in its middle: with its hub, or because its caller wants no more."""
        task = asyncio.create_task(self.run(disk, *calls))
        stop = asyncio.ensure_future(until())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        assert stop.done(), task
        self.detached = detached
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self.upstream.close()

    async def ends(self, disk: Disk, *calls: Call) -> list[bytes]:
        try:
            return await self.run(disk, *calls)
        finally:
            await self.upstream.close()

    async def fails(self, disk: Disk, *calls: Call) -> SensoriumError:
        with pytest.raises(SensoriumError) as raised:
            await self.ends(disk, *calls)
        return raised.value


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


async def crashed(hub: Hub, disk: Disk, *calls: Call, at: int = 1) -> None:
    """The hub stops when the handle has been written for the `at`-th time, before it is used."""
    disk.stops_at = at
    await hub.begins(disk, *calls, until=disk.stopped.wait)


def test_a_job_whose_hub_ends_right_after_the_202_is_polled_by_the_next() -> None:
    async def test(site: nvidia.Site) -> None:
        disk = Disk()
        await crashed(Hub(site.clock, cosmos(site)), disk, filming())
        ((key, kept),) = disk.state.items() if disk.state else ()
        (handle,) = kept["handles"]
        assert (key, kept["provider"], kept["upstream"], handle["kind"]) == ("0", "cosmos", COSMOS, "nvcf")
        assert handle["urls"] == {"status_url": f"http://{site.address}{AI}/v1/status/{handle['id']}"} and handle["answer_by"] > 1e9
        assert [seen.headers["nvcf-poll-seconds"] for seen in site.simulator.seen if seen.method == "POST"] == ["30"]
        second = Hub(site.clock, cosmos(site))
        (body,) = await second.ends(disk, filming())
        assert b"b64_video" in body and disk.said == [f"the job {handle['id']} is taken up again at cosmos"]
        assert site.clock.at - nvidia.BEGIN == 100
        assert [(record.outcome, record.attempts) for record in second.records] == [("answered", ())]
        counters = site.simulator.counters
        assert (counters["invoked"], counters["fetched"], counters["cancelled by the caller"]) == (1, 1, 0)

    with nvidia.running(work_s={"*": 100.0}) as site:
        run(test(site))


def test_a_job_whose_hub_ends_in_the_middle_of_a_poll_is_polled_by_the_next() -> None:
    async def test(site: nvidia.Site) -> None:
        disk, hold = Disk(), site.clock

        async def polled() -> None:
            while disk.writes == 0 or hold.waiting == 0:
                hold.held = hold.held or disk.writes > 0
                await asyncio.sleep(0.001)

        keep = disk.keep

        async def then_hold(state: State) -> None:
            await keep(state)
            hold.held = True

        disk.keep = then_hold  # type: ignore[method-assign]
        await Hub(site.clock, cosmos(site)).begins(disk, filming(), until=polled)
        hold.held = False
        assert b"b64_video" in (await Hub(site.clock, cosmos(site)).ends(disk, filming()))[0]
        assert site.simulator.counters["invoked"] == 1

    with nvidia.running(work_s={"*": 100.0}) as site:
        run(test(site))


def test_a_job_that_is_gone_is_told_and_begun_anew_by_the_run_after() -> None:
    async def test(site: nvidia.Site) -> None:
        disk = Disk()
        await crashed(Hub(site.clock, cosmos(site)), disk, filming())
        site.clock.at += 61  # beyond twice the poll's time
        error = await Hub(site.clock, cosmos(site)).fails(disk, filming())
        assert isinstance(error, UpstreamRefused) and (error.lost, error.code) == (True, "result_lost")
        assert (verdict(error), disk.state, site.simulator.counters["invoked"]) == ("connection_error", {}, 1)
        assert "is given up" in disk.said[-1]
        await Hub(site.clock, cosmos(site)).ends(disk, filming())
        assert site.simulator.counters["invoked"] == 2

    with nvidia.running(work_s={"*": 100.0}) as site:
        run(test(site))


def test_a_take_over_comes_in_time_after_a_poll_lease_and_reaper() -> None:
    """30 s of an open poll, 15 s of the dead hub's lease and 2 s of the reaper's are less than the gap."""

    async def test(site: nvidia.Site) -> None:
        disk = Disk()
        await crashed(Hub(site.clock, cosmos(site)), disk, filming())
        site.clock.at += 47
        await Hub(site.clock, cosmos(site)).ends(disk, filming())
        assert site.simulator.counters["invoked"] == 1

    with nvidia.running(work_s={"*": 100.0}) as site:
        run(test(site))


def test_the_large_result_of_a_job_that_was_taken_up_is_fetched_without_the_key() -> None:
    async def test(site: nvidia.Site) -> None:
        disk, route = Disk(), cosmos(site, TRANSFER)
        await crashed(Hub(site.clock, route), disk, filming(TRANSFER))
        assert b"b64_video" in (await Hub(site.clock, route).ends(disk, filming(TRANSFER)))[0]
        assert site.simulator.counters["invoked"] == 1
        (fetched,) = [seen for seen in site.simulator.seen if "/results/" in seen.path]
        assert "authorization" not in fetched.headers

    with nvidia.running(work_s={"*": 100.0}) as site:
        run(test(site))


def test_a_route_that_cannot_be_polled_is_asked_in_one_piece_and_remembered() -> None:
    async def test(site: nvidia.Site) -> None:
        hub, disk = Hub(site.clock, pictures(site)), Disk()
        await hub.run(disk, drawing(), drawing())
        await hub.upstream.close()
        assert [seen.headers["nvcf-poll-seconds"] for seen in site.simulator.seen] == ["30", "295", "295"]
        assert (site.simulator.counters["cancelled by 504"], disk.writes) == (1, 0)

    with nvidia.running(work_s={"*": 100.0}) as site:
        run(test(site))


def test_without_a_resumption_nothing_is_kept_and_polls_are_as_long_as_may_be() -> None:
    async def test(site: nvidia.Site) -> None:
        hub = Hub(site.clock, cosmos(site))
        await (await hub.dispatch(filming())).whole()
        await hub.upstream.close()
        assert site.simulator.seen[0].headers["nvcf-poll-seconds"] == "295"

    with nvidia.running(work_s={"*": 100.0}) as site:
        run(test(site))


def test_a_request_in_fals_queue_goes_on_when_its_hub_stops() -> None:
    async def test(site: fal.FalSite) -> None:
        disk = Disk()
        site.fault("slow", seconds=20.0)
        await Hub(site.clock, queue(site)).begins(disk, drawing(), until=lambda: looked(site))
        assert disk.state is not None and disk.state["0"]["handles"][0]["urls"].keys() == {"status_url", "response_url", "cancel_url"}
        assert b"artifacts" in (await Hub(site.clock, queue(site)).ends(disk, drawing()))[0]
        assert (len(site.seen(method="POST")), site.seen(method="PUT")) == (1, [])

    with fal.running() as site:
        run(test(site))


@pytest.mark.parametrize("taken_up", [False, True])
def test_a_request_in_fals_queue_ends_with_the_wish_for_it(taken_up: bool) -> None:
    async def test(site: fal.FalSite) -> None:
        disk, hub = Disk(), Hub(site.clock, queue(site))
        site.fault("stuck")
        if taken_up:
            await crashed(Hub(site.clock, queue(site)), disk, drawing())
        before = len(site.seen(ending="/status"))
        await hub.begins(disk, drawing(), until=lambda: looked(site, before), detached=False)
        assert (len(site.seen(method="POST")), len(site.seen(method="PUT", ending="/cancel")), hub.left, disk.state) == (1, 1, {}, {})

    with fal.running() as site:
        run(test(site))


async def looked(site: fal.FalSite, before: int = 0) -> None:
    while len(site.seen(ending="/status")) <= before:
        await asyncio.sleep(0.001)


def test_a_result_that_cannot_be_fetched_now_is_fetched_by_the_next_run() -> None:
    async def test(site: fal.FalSite) -> None:
        disk = Disk()
        site.fault("result-503", times=3)
        error = await Hub(site.clock, queue(site)).fails(disk, drawing())
        assert isinstance(error, UpstreamRefused) and (error.lost, verdict(error)) == (False, "connection_error")
        await Hub(site.clock, queue(site)).ends(disk, drawing())
        assert len(site.seen(method="POST")) == 1

    with fal.running() as site:
        run(test(site))


def test_every_call_of_a_run_finds_its_own_job() -> None:
    async def test(site: fal.FalSite) -> None:
        disk, other = Disk(), replace(drawing(), members=jsonbody.members(b'{"prompt": "a blue ball", "seed": 8}'))
        await crashed(Hub(site.clock, queue(site)), disk, drawing(), other, at=2)
        bodies = await Hub(site.clock, queue(site)).ends(disk, drawing(), other)
        assert [json.loads(body)["artifacts"][0]["seed"] for body in bodies] == [7, 8]
        assert len(site.seen(method="POST")) == 2

    with fal.running() as site:
        run(test(site))


def test_the_pictures_of_one_call_are_each_paid_for_once() -> None:
    async def test(site: fal.FalSite) -> None:
        disk = Disk()
        call = Call("c", FLUX, "image", ("openai", "genai", "fal"), "images/generations", THREE, repeatable=False)
        await crashed(Hub(site.clock, queue(site)), disk, call, at=2)
        (body,) = await Hub(site.clock, queue(site)).ends(disk, call)
        assert (len(json.loads(body)["data"]), len(site.seen(method="POST"))) == (3, 3)

    with fal.running() as site:
        run(test(site))


def test_a_provider_that_is_gone_or_elsewhere_leaves_the_call_to_be_made_anew() -> None:
    async def test(site: fal.FalSite, there: fal.FalSite) -> None:
        disk = Disk()
        await crashed(Hub(site.clock, queue(site)), disk, drawing())
        moved = replace(queue(site), provider=replace(queue(there).provider, name="fal"))
        for number, route in enumerate((queue(there, "another"), moved), 1):
            copy = Disk(disk.state)
            await Hub(there.clock, route).ends(copy, drawing())
            assert "is given up" in " ".join(copy.said)
            assert len(there.seen(method="POST")) == number
        assert (len(site.seen(method="POST")), len(site.seen(method="PUT"))) == (1, 0)

    with fal.running() as site, fal.running() as there:
        run(test(site, there))


@pytest.mark.parametrize("state", [{"0": {"call": 5}}, {"x": []}, {"0": {"call": "c", "provider": "p", "upstream": "u", "handles": [{}]}}])
def test_a_state_that_cannot_be_read_is_none(state: State) -> None:
    async def test(site: fal.FalSite) -> None:
        disk = Disk(state)
        await Hub(site.clock, queue(site)).ends(disk, drawing())
        assert "cannot be read" in disk.said[0] and len(site.seen(method="POST")) == 1

    with fal.running() as site:
        run(test(site))


def test_another_call_in_its_place_does_not_get_the_job() -> None:
    async def test(site: fal.FalSite) -> None:
        disk = Disk()
        await crashed(Hub(site.clock, queue(site)), disk, drawing())
        await Hub(site.clock, queue(site)).ends(disk, replace(drawing(), operation="something/else"))
        assert len(site.seen(method="POST")) == 2

    with fal.running() as site:
        run(test(site))


def test_a_job_that_ended_in_an_error_leaves_the_call_to_the_next_route() -> None:
    async def test(site: fal.FalSite) -> None:
        disk, both = Disk(), (queue(site), queue(site, "another"))
        site.fault("error", times=1)
        await crashed(Hub(site.clock, *both), disk, drawing())
        second = Hub(site.clock, *both)
        await second.ends(disk, drawing())
        assert len(site.seen(method="POST")) == 2
        assert [attempt.route.provider.name for attempt in second.records[0].attempts] == ["fal"]
        assert disk.state is not None and disk.state["0"]["provider"] == "another"

    with fal.running() as site:
        run(test(site))


def test_nobody_else_is_asked_while_the_job_goes_on() -> None:
    """Its provider cannot be asked now, and it is paid for: a later run finds it there."""

    async def test() -> None:
        asked, routes = list[str](), [image(FLUX, provider(f"http://{name}", name)) for name in ("there", "other")]

        async def send(call: Call, route: Route) -> Reply:
            asked.append(route.provider.name)
            raise Unavailable("down")

        dispatch = Dispatch(Catalog(routes), Parts(send, lambda record: None, Health(lambda: 0.0), lambda: 0.0))
        handle = {"kind": "nvcf", "id": "i", "urls": {}, "secret": None, "version": 0, "answer_by": None}
        kept = {"0": {"call": f"image {FLUX} {FLUX}", "provider": "there", "upstream": FLUX, "handles": [handle]}}
        for state, expected in ((kept, ["there"]), ({}, ["there", "other"])):
            asked.clear()
            with under_resumption(Resumption(state, Disk().keep)), pytest.raises(SensoriumError) as raised:
                await dispatch(drawing())
            assert (asked, verdict(raised.value)) == (expected, "connection_error")

    run(test())


def test_neither_a_limit_nor_an_outage_keeps_a_job_waiting_that_is_paid_for() -> None:
    async def test(site: nvidia.Site) -> None:
        disk, health = Disk(), Health(site.clock.now)
        route = cosmos(site)
        route = replace(route, provider=replace(route.provider, per_minute=1.0, burst=1))
        await crashed(Hub(site.clock, route, health=health), disk, filming())
        assert health.closed_to(route) is not None
        await Hub(site.clock, route, health=health).ends(disk, filming())
        assert (site.simulator.counters["invoked"], site.clock.at - nvidia.BEGIN) == (1, 100)

    with nvidia.running(work_s={"*": 100.0}) as site:
        run(test(site))


def test_a_disk_that_is_full_does_not_end_the_job() -> None:
    async def test(site: nvidia.Site) -> None:
        async def full(state: State) -> None:
            raise StoreUnavailable("the disk is full")

        disk = Disk()
        disk.keep = full  # type: ignore[method-assign]
        assert b"b64_video" in (await Hub(site.clock, cosmos(site)).ends(disk, filming()))[0]

    with nvidia.running(work_s={"*": 100.0}) as site:
        run(test(site))


def test_a_poll_that_is_answered_504_is_a_lost_job() -> None:
    async def test(site: nvidia.Site) -> None:
        disk = Disk()
        await crashed(Hub(site.clock, cosmos(site)), disk, filming())
        site.simulator._faults.add(Rule("lost-worker", times=1))
        error = await Hub(site.clock, cosmos(site)).fails(disk, filming())
        assert isinstance(error, UpstreamRefused) and error.lost and disk.state == {}

    with nvidia.running(work_s={"*": 100.0}) as site:
        run(test(site))
