"""Asking a second route when the first is slow: one answer goes on, the other is closed, and nothing is held against anybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.errors import SensoriumError, Unavailable, Unprocessable, UpstreamFailed
from sensorium.routing import hedge
from sensorium.routing.call import Call, Record, Reply, Route
from sensorium.routing.catalog import Catalog
from sensorium.routing.dispatch import Dispatch, Parts
from sensorium.routing.health import Health
from tests.routing import virtual_time
from tests.routing.hosted import call, chat, provider
from tests.routing.virtual_time import now


@dataclass
class Play:
    """What a provider does: after `after` seconds it answers `status`, or raises; its body comes in `pieces`, `gap` seconds apart."""

    after: float = 0.0
    status: int = 200
    error: SensoriumError | None = None
    pieces: tuple[bytes, ...] = (b"x", b"y")
    gap: float = 0.0
    breaks: bool = False


@dataclass
class Stage:
    """A transport that plays; `open` counts replies that nobody has closed, `cancelled` those that were given up before they began."""

    plays: dict[str, Play]
    asked: list[str] = field(default_factory=list)
    open: int = 0
    cancelled: list[str] = field(default_factory=list)

    async def send(self, call: Call, route: Route) -> Reply:
        name = route.provider.name
        play = self.plays[name]
        self.asked.append(name)
        try:
            await asyncio.sleep(play.after)
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        if play.error is not None:
            raise play.error

        async def chunks() -> AsyncIterator[bytes]:
            for piece in play.pieces:
                await asyncio.sleep(play.gap)
                yield name.encode() + piece
            if play.breaks:
                raise UpstreamFailed("cut")

        closed = False

        async def close() -> None:
            nonlocal closed
            self.open -= not closed
            closed = True

        self.open += 1
        return Reply(play.status, {}, chunks(), close, route)


def hub(stage: Stage, hedge_after_s: float | None, records: list[Record], **more: object) -> Dispatch:
    routes = [
        chat("good", replace(provider(f"http://{name}", name), hedge_after_s=hedge_after_s, **more))  # type: ignore[arg-type]
        for name in stage.plays
    ]
    return Dispatch(Catalog(routes), Parts(stage.send, records.append, Health(now), now))


async def answered(dispatch: Dispatch, **changes: object) -> bytes:
    reply = await dispatch(call(**changes))
    try:
        return b"".join([chunk async for chunk in reply.chunks])
    finally:
        await reply.close()


@dataclass
class End:
    """How a call ended: its body or its error, when, and its records."""

    body: bytes | SensoriumError
    second: float
    records: list[Record]
    attempts: list[str]


def ended(stage: Stage, hedge_after_s: float | None = 2.0, **changes: object) -> End:
    async def main() -> End:
        records: list[Record] = []
        body: bytes | SensoriumError
        try:
            body = await answered(hub(stage, hedge_after_s, records), **changes)
        except SensoriumError as error:
            body = error
        return End(body, now(), records, [str(attempt) for record in records for attempt in record.attempts])

    end = virtual_time.run(main())
    assert stage.open == 0, "a reply was left open"
    assert len(end.records) == 1
    return end


def test_a_quick_route_is_asked_alone() -> None:
    stage = Stage({"one": Play(after=1.9), "two": Play()})
    end = ended(stage)
    assert (end.body, stage.asked, end.attempts) == (b"onexoney", ["one"], [])


def test_the_second_answers_first_and_the_first_is_given_up() -> None:
    stage = Stage({"one": Play(after=60), "two": Play(after=1)})
    end = ended(stage)
    assert (end.body, end.second, stage.cancelled) == (b"twoxtwoy", 3, ["one"])
    assert end.records[0].route is not None and end.records[0].route.provider.name == "two"
    assert end.attempts == ["one good: overtaken"]


def test_the_first_answers_after_all_and_the_second_is_given_up() -> None:
    stage = Stage({"one": Play(after=3), "two": Play(after=60)})
    end = ended(stage)
    assert (end.body, end.second, stage.cancelled, end.attempts) == (b"onexoney", 3, ["two"], ["two good: overtaken"])


def test_of_two_that_answer_at_once_one_is_closed() -> None:
    stage = Stage({"one": Play(after=5), "two": Play(after=3)})
    end = ended(stage)
    assert end.body in (b"onexoney", b"twoxtwoy")
    assert len(end.attempts) == 1 and end.attempts[0].endswith("overtaken")


def test_headers_alone_are_no_answer() -> None:
    stage = Stage({"one": Play(gap=60), "two": Play(after=1)})
    assert ended(stage).body == b"twoxtwoy"


def test_a_failure_of_the_first_leaves_the_second_alone() -> None:
    stage = Stage({"one": Play(after=3, error=Unavailable("down")), "two": Play(after=4), "three": Play()})
    end = ended(stage)
    assert (end.body, end.second, stage.asked, end.attempts) == (b"twoxtwoy", 6, ["one", "two"], ["one good: transport"])


def test_the_second_goes_on_to_the_third() -> None:
    stage = Stage({"one": Play(after=60), "two": Play(status=503, pieces=()), "three": Play(after=1)})
    end = ended(stage)
    assert (end.body, stage.asked) == (b"threexthreey", ["one", "two", "three"])
    assert end.attempts == ["two good: provider_outage", "one good: overtaken"]


def test_when_all_fail_all_are_named() -> None:
    stage = Stage({name: Play(after=3, error=Unavailable(f"{name} is down")) for name in ("one", "two", "three")})
    end = ended(stage)
    assert isinstance(end.body, Unavailable)
    assert all(f"{name} is down" in end.body.message for name in stage.plays)
    assert sorted(stage.asked) == ["one", "three", "two"]


def test_the_callers_own_fault_ends_both() -> None:
    stage = Stage({"one": Play(after=60), "two": Play(after=1, error=Unprocessable("no"))})
    end = ended(stage)
    assert isinstance(end.body, Unprocessable) and stage.cancelled == ["one"]


def test_the_deadline_holds_for_both() -> None:
    stage = Stage({"one": Play(after=60), "two": Play(after=60)})
    end = ended(stage, deadline_s=5.0)
    assert isinstance(end.body, SensoriumError)
    assert (end.body.status, end.second, sorted(stage.cancelled)) == (504, 5, ["one", "two"])


def test_nobody_else_to_ask_changes_nothing() -> None:
    stage = Stage({"one": Play(after=10)})
    assert ended(stage).body == b"onexoney"


def test_the_one_given_up_has_no_mark_and_its_breaker_stays_closed() -> None:
    stage = Stage({"one": Play(after=60), "two": Play(after=1)})

    async def main() -> list[str]:
        dispatch = hub(stage, 2.0, [])
        for _ in range(5):
            await answered(dispatch)
        return [dispatch.health.condition(route).state for route in dispatch.catalog.routes]

    assert virtual_time.run(main()) == ["open", "open"]


def test_a_probe_that_is_given_up_lets_the_next_call_probe() -> None:
    stage = Stage({"one": Play(error=Unavailable("down")), "two": Play(after=1)})

    async def main() -> tuple[bytes, list[str]]:
        dispatch = hub(stage, 2.0, [])
        for _ in range(3):
            await answered(dispatch)
        await asyncio.sleep(31)
        stage.plays["one"] = Play(after=60)
        await answered(dispatch)  # the probe, overtaken
        stage.plays["one"] = Play()
        return await answered(dispatch), [dispatch.health.condition(route).state for route in dispatch.catalog.routes]

    assert virtual_time.run(main()) == (b"onexoney", ["open", "open"])


NEVER_TWICE: list[dict[str, object]] = [
    {"modality": "image"},
    {"modality": "speech"},
    {"modality": "video"},
    {"stream": True},
    {"operation": "responses"},
    {"operation": "responses?api-version=1"},
]
TWICE: list[dict[str, object]] = [{}, {"operation": "completions"}, *({"modality": one} for one in ("embed", "rerank", "transcribe"))]


@pytest.mark.parametrize("changes", NEVER_TWICE)
def test_what_costs_money_or_has_begun_is_never_sent_twice(changes: dict[str, object]) -> None:
    assert hedge.after_s(call(**changes), chat("good", replace(provider("http://one"), hedge_after_s=1.0))) is None


@pytest.mark.parametrize("changes", TWICE)
def test_what_may_be_sent_twice(changes: dict[str, object]) -> None:
    assert hedge.after_s(call(**changes), chat("good", replace(provider("http://one"), hedge_after_s=1.0))) == 1.0
    assert hedge.after_s(call(**changes), chat("good", provider("http://one"))) is None


ERRORS = st.sampled_from([None, None, Unavailable("down"), UpstreamFailed("reset"), Unprocessable("no")])
PLAYS = st.builds(
    Play,
    after=st.floats(0, 6),
    status=st.sampled_from([200, 200, 200, 429, 500, 401, 422]),
    error=ERRORS,
    pieces=st.sampled_from([(), (b"x",), (b"x", b"y")]),
    gap=st.floats(0, 3),
    breaks=st.booleans(),
)


@settings(max_examples=80)
@given(
    st.lists(PLAYS, min_size=1, max_size=3),
    st.one_of(st.none(), st.floats(0.1, 4)),
    st.one_of(st.none(), st.floats(0.1, 10)),
    st.lists(st.tuples(st.floats(0, 5), st.floats(0.01, 15)), min_size=1, max_size=4),
    st.one_of(st.none(), st.sampled_from([30.0, 600.0])),
)
def test_every_call_ends_in_one_record_and_leaves_nothing_open(
    plays: list[Play],
    hedge_after_s: float | None,
    deadline_s: float | None,
    calls: list[tuple[float, float]],
    per_minute: float | None,
) -> None:
    """Whatever the routes do and whenever callers leave. `run` fails when a task is left over or everybody hangs."""
    stage = Stage({f"r{number}-": play for number, play in enumerate(plays)})
    bodies: list[bytes] = []

    async def main() -> list[Record]:
        records: list[Record] = []
        dispatch = hub(stage, hedge_after_s, records, per_minute=per_minute, burst=1)

        async def one(second: float, patience: float) -> None:
            await asyncio.sleep(second)
            async with asyncio.timeout(patience):
                bodies.append(await answered(dispatch, deadline_s=deadline_s))

        await asyncio.gather(*(one(*each) for each in calls), return_exceptions=True)
        assert dispatch._turns._lines == {}
        return records

    records = virtual_time.run(main())
    assert len(records) == len(calls)
    assert stage.open == 0
    for body in bodies:
        assert len({piece[:1] for piece in body.split(b"r") if piece}) <= 1, "two replies mixed"
    for record in records:
        assert record.outcome in ("answered", "refused", "failed", "client_closed")
