"""A route whose models are being loaded: others are asked first, then the call waits for it, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from sensorium.errors import DeadlineExceeded, Forbidden, SensoriumError, Unavailable, UpstreamFailed
from sensorium.routing.call import Call, Loading, Record, Reply, Route
from sensorium.routing.catalog import Catalog
from sensorium.routing.dispatch import Dispatch, Parts
from sensorium.routing.health import Health
from sensorium.routing.repeat import verdict
from tests.routing import virtual_time
from tests.routing.hosted import call, chat, provider
from tests.routing.test_dispatch import Transport

HOSTED = chat("good", provider("http://hosted", "hosted"))


class Engine:
    """Its models are there after `after_s` seconds of the loop, or will never be when it is `doomed`; a call waits `wait_s` for them."""

    def __init__(self, after_s: float, wait_s: float = 30.0, doomed: bool = False) -> None:
        self.after_s, self.wait_s, self.doomed = after_s, wait_s, doomed
        at = replace(provider("http://gpu", "gpu", local=True), loading=self.loading, down=self.down)
        self.route = chat("good", at)

    @property
    def over(self) -> bool:
        return virtual_time.now() >= self.after_s

    def down(self) -> str | None:
        return "no memory for its models" if self.over and self.doomed else None

    def loading(self) -> Loading | None:
        return None if self.over else Loading("its models are being loaded: 4.0 of 16.0 GB", 7.0, self._wait)

    async def _wait(self) -> None:
        await asyncio.sleep(min(self.after_s - virtual_time.now(), self.wait_s))


def dispatched(routes: Sequence[Route], transport: Transport, **changes: object) -> tuple[bytes | SensoriumError, float, list[Record]]:
    """What a call at second 0 gets, and when."""
    records: list[Record] = []

    async def main() -> tuple[bytes | SensoriumError, float]:
        parts = Parts(transport.send, records.append, Health(virtual_time.now), virtual_time.now)
        try:
            reply = await Dispatch(Catalog(routes), parts)(call(**changes))
        except SensoriumError as error:
            return error, virtual_time.now()
        return await reply.whole(), virtual_time.now()

    return (*virtual_time.run(main()), records)


def test_a_call_waits_for_models_that_come_in_time() -> None:
    transport = Transport([b"{}"])
    told, at, (record,) = dispatched([Engine(20).route], transport)
    assert (told, at, transport.asked) == (b"{}", 20, ["gpu"])
    assert (record.outcome, record.attempts) == ("answered", ())


def test_a_call_that_has_waited_long_enough_is_told_how_far_they_are_and_when_to_come_again() -> None:
    told, at, (record,) = dispatched([Engine(90).route], Transport())
    assert isinstance(told, Unavailable)
    assert (told.status, told.code, told.retry_after, at) == (503, "model_loading", 7.0, 30)
    assert "gpu: its models are being loaded: 4.0 of 16.0 GB" in told.message
    assert [(attempt.failure.kind, attempt.asked) for attempt in record.attempts] == [("provider_outage", False)]
    assert verdict(told) == "busy"  # the queue asks again, and counts no run


def test_others_who_may_take_the_call_are_asked_at_once() -> None:
    transport = Transport([b"{}"])
    told, at, (record,) = dispatched([Engine(20).route, HOSTED], transport)
    assert (told, at, transport.asked) == (b"{}", 0, ["hosted"])
    assert record.route is not None and record.route.provider.name == "hosted"


def test_when_the_others_fail_the_call_waits_after_all() -> None:
    transport = Transport(Unavailable("nobody there"), [b"{}"])
    told, at, _ = dispatched([Engine(20).route, HOSTED], transport)
    assert (told, at, transport.asked) == (b"{}", 20, ["hosted", "gpu"])


def test_a_private_models_call_stays_here_however_long_it_takes() -> None:
    private = replace(Engine(90).route, private=True)
    transport = Transport()
    told, at, _ = dispatched([private, HOSTED], transport)
    assert isinstance(told, Unavailable) and (told.code, at, transport.asked) == ("model_loading", 30, [])
    refused, _, _ = dispatched([private, HOSTED], transport, where="hosted_only")
    assert isinstance(refused, Forbidden) and transport.asked == []


def test_the_calls_own_deadline_ends_the_wait() -> None:
    told, at, _ = dispatched([Engine(20).route], Transport(), deadline_s=5.0)
    assert isinstance(told, DeadlineExceeded) and at == 5
    assert "its models are being loaded" in told.message


def test_models_that_will_never_come_are_told_as_that() -> None:
    told, at, _ = dispatched([Engine(10, doomed=True).route], Transport())
    assert isinstance(told, Unavailable)
    assert (told.code, told.retry_after, at) == ("unavailable", None, 10)
    assert "no memory for its models" in told.message


def test_a_call_that_lost_its_engine_waits_until_the_next_one_has_its_models() -> None:
    class Dying(Transport):
        async def send(self, call: Call, route: Route) -> Reply:
            if not self.asked:
                await asyncio.sleep(1)
                engine.after_s = 20  # a new process loads
            return await super().send(call, route)

    engine = Engine(0)
    lost = UpstreamFailed("the engine broke off")
    lost.cause = "death"
    transport = Dying(lost, [b"{}"])
    told, at, (record,) = dispatched([engine.route], transport)
    assert (told, at, transport.asked, record.outcome) == (b"{}", 20, ["gpu", "gpu"], "answered")


def test_waiting_is_no_verdict_on_the_engine() -> None:
    engine = Engine(90, wait_s=1.0)

    async def main() -> str:
        transport, health = Transport([b"{}"]), Health(virtual_time.now)
        dispatch = Dispatch(Catalog([engine.route]), Parts(transport.send, lambda _: None, health, virtual_time.now))
        for _ in range(5):
            with pytest.raises(Unavailable):
                await dispatch(call())
        assert (health.condition(engine.route).state, health.condition(engine.route).next_try_s) == ("loading", 7.0)
        await asyncio.sleep(90)
        await (await dispatch(call())).whole()
        return health.condition(engine.route).state

    assert virtual_time.run(main()) == "open"


def test_a_caller_who_leaves_while_it_waits_leaves_nothing_behind() -> None:
    records: list[Record] = []

    async def main() -> None:
        parts = Parts(Transport().send, records.append, Health(virtual_time.now), virtual_time.now)
        asking = asyncio.ensure_future(Dispatch(Catalog([Engine(20).route]), parts)(call()))
        await asyncio.sleep(3)
        asking.cancel()
        await asyncio.wait({asking})

    virtual_time.run(main())
    assert [record.outcome for record in records] == ["client_closed"]
