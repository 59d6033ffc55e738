"""Walking the plan: who is asked next, who is asked twice, and that every call leaves one record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from sensorium.errors import DeadlineExceeded, Forbidden, SensoriumError, Unavailable, Unprocessable, UpstreamFailed, UpstreamRefused
from sensorium.routing.call import Call, Credential, Record, Reply, Route
from sensorium.routing.catalog import Catalog
from sensorium.routing.dispatch import Dispatch, Parts
from sensorium.routing.health import Health
from sensorium.store.secret import SecretMissing
from sensorium.wire import jsonbody
from tests.routing import virtual_time
from tests.routing.hosted import call, chat, image, provider


class Said(list[bytes | Exception]):
    """The chunks of a reply (an error among them breaks it off), with a status and headers."""

    def __init__(self, *chunks: bytes | Exception, status: int = 200, **headers: str) -> None:
        super().__init__(chunks)
        self.status = status
        self.headers = {name.replace("_", "-"): text for name, text in headers.items()}


class Transport:
    """Answers with the next of `outcomes`: an error to raise, or what is said."""

    def __init__(self, *outcomes: Exception | list[bytes | Exception]) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[str] = []
        self.closed = 0

    async def send(self, call: Call, route: Route) -> Reply:
        self.asked.append(route.provider.name)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        said = outcome if isinstance(outcome, Said) else Said(*outcome)

        async def chunks() -> AsyncIterator[bytes]:
            for chunk in said:
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk

        async def close() -> None:
            self.closed += 1

        return Reply(said.status, said.headers, chunks(), close, route)


class Clock:
    """Seconds that pass by one at each look, and by what is slept."""

    def __init__(self) -> None:
        self.now = -1.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        self.now += 1
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


ONE, TWO = chat("good", provider("http://one", "one")), chat("good", provider("http://two", "two"))
ENGINE = chat("good", provider("http://engine", "engine", local=True))


class Hub:
    """A dispatch over routes and a transport that goes on from call to call."""

    def __init__(self, transport: Transport, *routes: Route) -> None:
        self.transport, self.clock, self.records = transport, Clock(), list[Record]()
        self.still = 0.0
        self.health = Health(lambda: self.still)
        parts = Parts(transport.send, self.records.append, self.health, self.clock, self.sleep)
        self.dispatch = Dispatch(Catalog(routes), parts)

    async def sleep(self, seconds: float) -> None:
        self.still += seconds
        await self.clock.sleep(seconds)

    def call(self, read: int | None = None, **changes: object) -> bytes:
        async def main() -> bytes:
            reply = await self.dispatch(call(**changes))
            got = []
            try:
                async for chunk in reply.chunks:
                    got.append(chunk)
                    if len(got) == read:
                        break
            finally:
                await reply.close()
                await reply.close()
            return b"".join(got)

        return asyncio.run(main())


def dispatched(transport: Transport, *routes: Route, read: int | None = None) -> tuple[bytes, list[Record]]:
    hub = Hub(transport, *routes)
    return hub.call(read), hub.records


def test_an_answer_is_passed_on_and_recorded_once() -> None:
    transport = Transport([b"ab", b"c"])
    body, records = dispatched(transport, ONE, TWO)
    assert (body, transport.asked, transport.closed) == (b"abc", ["one"], 1)
    assert [(r.outcome, r.bytes_out, r.first_byte_s, r.total_s) for r in records] == [("answered", 3, 1, 2)]


def test_an_unreachable_provider_is_passed_over() -> None:
    transport = Transport(Unavailable("down"), [b"x"])
    body, records = dispatched(transport, ONE, TWO)
    assert (body, transport.asked) == (b"x", ["one", "two"])
    assert [(r.outcome, [str(a) for a in r.attempts]) for r in records] == [("answered", ["one good: transport"])]


def test_a_lost_engine_is_asked_again_but_a_hosted_provider_is_not() -> None:
    transport = Transport(UpstreamFailed("gone"), [b"x"])
    assert dispatched(transport, ENGINE)[0] == b"x"
    assert transport.asked == ["engine", "engine"]
    with pytest.raises(UpstreamRefused, match="gone") as refused:
        dispatched(Transport(UpstreamFailed("gone"), [b"x"]), ONE)
    assert refused.value.status == 502


def test_an_engine_that_dies_before_its_first_byte_is_asked_again() -> None:
    transport = Transport([UpstreamFailed("gone")], [b"x"])
    assert dispatched(transport, ENGINE)[0] == b"x"
    assert (transport.asked, transport.closed) == (["engine", "engine"], 2)


def test_a_provider_that_is_known_to_be_down_is_not_asked() -> None:
    transport = Transport([b"x"])
    down = chat("good", replace(provider("http://engine", "engine"), down=lambda: "no weights"))
    assert dispatched(transport, down, TWO)[0] == b"x"
    assert transport.asked == ["two"]
    with pytest.raises(Unavailable, match="engine: no weights"):
        dispatched(Transport(), down)


def test_every_attempt_is_named_when_nobody_is_there() -> None:
    with pytest.raises(Unavailable, match="one: one is down; two: two is down"):
        dispatched(Transport(Unavailable("one is down"), Unavailable("two is down")), ONE, TWO)


def test_a_caller_who_leaves_before_the_reply_is_recorded() -> None:
    records: list[Record] = []

    async def never(call: Call, route: Route) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    dispatch = Dispatch(Catalog([ONE]), Parts(never, records.append, Health(lambda: 0.0), lambda: 0.0))

    async def main() -> None:
        asking = asyncio.ensure_future(dispatch(call()))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(main())
    assert [(r.outcome, r.status) for r in records] == [("client_closed", 499)]


def test_a_slow_provider_is_passed_over_and_a_refusal_is_not() -> None:
    assert dispatched(Transport(DeadlineExceeded("slow"), [b"x"]), ONE, TWO)[0] == b"x"
    with pytest.raises(Unprocessable):
        dispatched(Transport(Unprocessable("no"), [b"x"]), ONE, TWO)


def test_star_goes_past_a_route_that_cannot_be_sent_the_call() -> None:
    """The rules of one model are not those of the next; a content filter is no rule of that kind."""
    hub = Hub(Transport(Unprocessable("steps is 9"), [b"x"]), ONE, TWO)
    assert (hub.call(model="*"), [attempt.asked for attempt in hub.records[0].attempts]) == (b"x", [False])
    with pytest.raises(Unprocessable, match="steps is 9"):
        Hub(Transport(Unprocessable("steps is 9"), Unavailable("down")), ONE, TWO).call(model="*")
    filtered = Hub(Transport(Unprocessable("filtered", code="content_policy_violation"), [b"x"]), ONE, TWO)
    with pytest.raises(Unprocessable, match="filtered"):
        filtered.call(model="*")
    assert filtered.transport.asked == ["one"]


@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        (b"data: [DONE]\n\n", "answered"),
        (b'event: message_stop\ndata: {"type": "message_stop"  }\n\n', "answered"),
        (b'data: {"text": "event: message_stop\\n"}\n\n', "client_closed"),
    ],
)
def test_a_stream_that_was_read_to_its_end_mark_is_answered(last: bytes, outcome: str) -> None:
    transport = Transport([b"data: 1\n\n", last, b""])
    assert [r.outcome for r in dispatched(transport, ONE, read=2)[1]] == [outcome]


def test_no_failover_after_the_first_byte() -> None:
    transport = Transport([b"a", UpstreamFailed("cut")], [b"whole"])
    with pytest.raises(UpstreamFailed, match="cut"):
        dispatched(transport, ONE, TWO)
    assert transport.asked == ["one"]
    assert transport.closed == 1


def test_a_caller_who_leaves_is_recorded_as_such() -> None:
    transport = Transport([b"a", b"b"])
    assert [r.outcome for r in dispatched(transport, ONE, read=1)[1]] == ["client_closed"]
    assert transport.closed == 1


EVENTS, EVENT_STREAM = {"content_type": "text/event-stream"}, {"content-type": "text/event-stream"}
DEGRADED = Said(b'{"detail":"Function id \'f\': DEGRADED function cannot be invoked"}', status=400)
REFUSED_KEY = Said(b'{"status":401,"title":"Unauthorized","detail":"Authentication failed"}', status=401)
PASSED_OVER: list[tuple[str, list[Exception | list[bytes | Exception]], str]] = [
    ("a 500", [Said(b"oops", status=500)], "provider_outage"),
    ("an outage that wears a 400", [DEGRADED], "provider_outage"),
    ("a full queue", [Said(b'{"title":"Too Many Requests"}', status=429)], "rate_limited"),
    ("a refused key, asked twice", [REFUSED_KEY, REFUSED_KEY], "auth"),
    ("no credit", [Said(b'{"detail":"Cloud credits expired"}', status=402)], "quota_exhausted"),
    ("a model that was not granted", [Said(b'{"detail":"Not found for account"}', status=404)], "model_unavailable"),
    ("nobody there", [Unavailable("refused")], "transport"),
    ("a late one", [DeadlineExceeded("slow")], "transport"),
    ("a broken connection", [UpstreamFailed("reset")], "transport"),
    ("an error as first event", [Said(b'data: {"error":{"message":"boom"}}\n\n', **EVENTS)], "provider_outage"),
    ("an empty stream", [Said(**EVENTS)], "transport"),
    ("a stream of comments only", [Said(b": hello\n\n", b": still\n\n", **EVENTS)], "transport"),
]


@pytest.mark.parametrize(("what", "outcomes", "kind"), PASSED_OVER, ids=[row[0] for row in PASSED_OVER])
def test_what_is_passed_over(what: str, outcomes: list[Exception | list[bytes | Exception]], kind: str) -> None:
    transport = Transport(*outcomes, [b"answer"])
    body, records = dispatched(transport, ONE, TWO)
    assert (body, transport.asked) == (b"answer", ["one"] * len(outcomes) + ["two"])
    assert [(r.outcome, [(a.failure.kind, a.asked) for a in r.attempts]) for r in records] == [("answered", [(kind, True)])]


@pytest.mark.parametrize(("what", "outcomes", "kind"), PASSED_OVER, ids=[row[0] for row in PASSED_OVER])
def test_one_clear_error_when_there_is_nobody_else(what: str, outcomes: list[Exception | list[bytes | Exception]], kind: str) -> None:
    hub = Hub(Transport(*outcomes), ONE)
    with pytest.raises(SensoriumError) as refused:
        hub.call()
    assert "one" in refused.value.message
    expected = {"rate_limited": {429}, "auth": {401}, "quota_exhausted": {402}, "model_unavailable": {404}}.get(kind, {502, 503, 504})
    assert refused.value.status in expected
    assert [(r.outcome, r.status, r.route) for r in hub.records] == [("failed", refused.value.status, None)]


@pytest.mark.parametrize(("status", "body"), [(400, b'{"detail":"bad prompt"}'), (422, b'{"detail":[{"loc":["body","x"],"msg":"no"}]}')])
def test_the_callers_fault_goes_to_nobody_else(status: int, body: bytes) -> None:
    transport = Transport(Said(body, status=status), [b"answer"])
    with pytest.raises(UpstreamRefused) as refused:
        dispatched(transport, ONE, TWO)
    assert (transport.asked, refused.value.status) == (["one"], status)


def test_the_star_goes_on_to_the_next_model_after_a_422() -> None:
    transport = Transport(Said(b'{"detail":"no images"}', status=422), [b"answer"])
    assert Hub(transport, ONE, TWO).call(model="*") == b"answer"


def test_an_engine_of_this_machine_speaks_for_itself() -> None:
    transport = Transport(Said(b'{"error":"mine"}', status=422))
    body, records = dispatched(transport, ENGINE)
    assert (body, [(r.outcome, r.status) for r in records]) == (b'{"error":"mine"}', [("refused", 422)])


def test_a_refused_key_takes_the_provider_out_until_the_key_changes() -> None:
    versions, refused = [1], list[int]()
    key = Credential("nvidia-upstream", lambda: "k", lambda: versions[0], refused.append)
    asking = chat("good", replace(provider("http://one", "one"), credential=key))
    hub = Hub(Transport(REFUSED_KEY, REFUSED_KEY, [b"two"], [b"two"], [b"one"]), asking, TWO)
    assert [hub.call(), hub.call()] == [b"two", b"two"]
    assert hub.transport.asked == ["one", "one", "two", "two"]
    assert refused == [1]
    versions[0] = 2
    assert hub.call() == b"one"


def test_a_late_refusal_does_not_hurt_the_key_that_came_meanwhile() -> None:
    versions, refused = [1], list[int]()

    class Rotating(Transport):
        async def send(self, call: Call, route: Route) -> Reply:
            versions[0] = 2
            return await super().send(call, route)

    key = Credential("nvidia-upstream", lambda: "k", lambda: versions[0], refused.append)
    hub = Hub(Rotating(REFUSED_KEY, REFUSED_KEY, [b"one"]), chat("good", replace(ONE.provider, credential=key)))
    with pytest.raises(UpstreamRefused):
        hub.call()
    assert (refused, hub.call()) == ([1], b"one")


def test_the_refused_key_is_named_and_never_shown() -> None:
    asking = chat("good", replace(ONE.provider, credential=Credential("nvidia-image", lambda: "nvapi-canary-1234567890")))
    with pytest.raises(UpstreamRefused, match=r"Authentication failed.*nvidia-image") as refused:
        dispatched(Transport(REFUSED_KEY, REFUSED_KEY), asking)
    assert (refused.value.status, refused.value.code) == (401, "upstream_key_rejected")
    assert "canary" not in str(refused.value) + str(refused.value.hint)


def test_without_its_secret_a_provider_is_never_asked() -> None:
    keyless = replace(ONE.provider, credential=Credential("nvidia-image"), down=lambda: "there is no secret nvidia-image")
    hub = Hub(Transport([b"two"]), chat("good", keyless), TWO)
    assert (hub.call(), hub.transport.asked) == (b"two", ["two"])
    with pytest.raises(SensoriumError, match="there is no secret nvidia-image") as refused:
        Hub(Transport(), chat("good", keyless)).call()
    assert (refused.value.status, refused.value.code) == (503, "secret_missing")


def test_three_outages_open_the_breaker_of_one_model_only() -> None:
    other = chat("other", ONE.provider)
    failing = [Said(b"", status=503)] * 3
    hub = Hub(Transport(*failing, [b"other"], [b"back"]), ONE, other)
    for _ in range(4):
        with pytest.raises(SensoriumError):
            hub.call()
    assert hub.transport.asked == ["one"] * 3
    assert hub.call(model="other") == b"other"
    hub.still += 30
    assert hub.call() == b"back"


def test_a_429_waits_for_its_time_when_nobody_else_is_there() -> None:
    hub = Hub(Transport(Said(b"", status=429, retry_after="7"), [b"later"]), ONE)
    with pytest.raises(UpstreamRefused) as refused:
        hub.call()
    assert (refused.value.status, refused.value.retry_after) == (429, 7)
    assert hub.call() == b"later"
    assert hub.clock.slept == [7]


def test_a_call_does_not_wait_beyond_its_deadline() -> None:
    hub = Hub(Transport(Said(b"", status=429, retry_after="50")), ONE)
    for _ in range(2):
        with pytest.raises(UpstreamRefused) as refused:
            hub.call(deadline_s=20.0)
        assert (refused.value.status, refused.value.retry_after) == (429, 50)
    assert (hub.clock.slept, hub.transport.asked) == ([], ["one"])


def test_a_provider_gets_no_more_than_its_rate() -> None:
    slow = chat("good", replace(ONE.provider, per_minute=30.0, burst=2))
    hub = Hub(Transport([b"1"], [b"2"], [b"3"]), slow)
    assert [hub.call(), hub.call(), hub.call()] == [b"1", b"2", b"3"]
    assert hub.clock.slept == [2]


def test_the_first_event_may_come_in_pieces_and_is_passed_on_unchanged() -> None:
    pieces = [b": hi\n\nda", b'ta: {"choices":[], "error": null}\r\n', b"\r\n", b"data: [DONE]\n\n"]
    assert dispatched(Transport(Said(*pieces, **EVENTS)), ONE)[0] == b"".join(pieces)


def test_a_slow_first_event_ends_with_the_deadline() -> None:
    async def never(call: Call, route: Route) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    hub = Hub(Transport(), ONE)
    hub.dispatch = Dispatch(Catalog([ONE]), Parts(never, hub.records.append, hub.health, lambda: 0.0))
    with pytest.raises(DeadlineExceeded, match=r"deadline of 0\.01 seconds passed: one: it did not") as refused:
        hub.call(deadline_s=0.01)
    assert refused.value.status == 504


@pytest.mark.parametrize(
    ("where", "asked"),
    [("any", "one"), ("local_first", "engine"), ("hosted_first", "one"), ("local_only", "engine"), ("hosted_only", "one")],
)
def test_where_a_call_goes(where: str, asked: str) -> None:
    hub = Hub(Transport([b"x"]), ONE, ENGINE)
    hub.call(where=where)
    assert hub.transport.asked == [asked]


def test_a_call_for_this_machine_never_leaves_it() -> None:
    hub = Hub(Transport(), ONE, TWO)
    with pytest.raises(Forbidden, match="local_only"):
        hub.call(where="local_only")
    assert hub.transport.asked == []


def test_a_caller_in_a_hurry_is_no_verdict_on_the_provider() -> None:
    async def never(call: Call, route: Route) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    hub = Hub(Transport(), ONE)
    hub.dispatch = Dispatch(Catalog([ONE]), Parts(never, hub.records.append, hub.health, lambda: 0.0))
    for _ in range(5):
        with pytest.raises(DeadlineExceeded):
            hub.call(deadline_s=0.001)
    assert hub.health.condition(ONE).state == "open"
    assert [(r.status, [str(a) for a in r.attempts]) for r in hub.records[:1]] == [(504, ["one good: transport"])]


def test_nothing_is_sent_after_the_deadline() -> None:
    hub = Hub(Transport([b"x"]), ONE)
    with pytest.raises(DeadlineExceeded):
        hub.call(deadline_s=-1.0)
    assert hub.transport.asked == []


def test_a_whole_reply_is_bound_by_the_deadline_and_a_stream_only_by_its_beginning() -> None:
    async def sent(_: Call, route: Route) -> Reply:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"data: 1\n\n"
            await asyncio.sleep(60)
            yield b"data: [DONE]\n\n"

        async def close() -> None:
            """Nothing is open."""

        return Reply(200, EVENT_STREAM, chunks(), close, route)

    async def read(**changes: object) -> tuple[bytes, Record]:
        records: list[Record] = []
        dispatch = Dispatch(Catalog([ONE]), Parts(sent, records.append, Health(virtual_time.now), virtual_time.now))
        reply, got = await dispatch(call(deadline_s=5.0, **changes)), b""
        try:
            async for chunk in reply.chunks:
                got += chunk
        except DeadlineExceeded:
            got += b"late"
        finally:
            await reply.close()
        return got, records[0]

    body, record = virtual_time.run(read())
    assert (body, record.outcome, record.total_s) == (b"data: 1\n\nlate", "failed", 5)
    assert virtual_time.run(read(stream=True))[0] == b"data: 1\n\ndata: [DONE]\n\n"


def test_a_deadline_that_passes_in_the_line_ends_the_wait() -> None:
    slow = chat("good", replace(ONE.provider, per_minute=6.0, burst=1))

    async def main() -> tuple[DeadlineExceeded, float]:
        transport = Transport(*[[b"x"]] * 9)
        dispatch = Dispatch(Catalog([slow]), Parts(transport.send, lambda _: None, Health(virtual_time.now), virtual_time.now))

        async def asked(caller: str, **changes: object) -> None:
            await (await dispatch(call(caller=caller, **changes))).close()

        await asked("a")
        first, second = asyncio.ensure_future(asked("a")), asyncio.ensure_future(asked("a", deadline_s=25.0))
        await asyncio.sleep(1)
        others = [asyncio.ensure_future(asked(caller)) for caller in "bc"]  # who go before the second call of a
        with pytest.raises(DeadlineExceeded) as late:
            await second
        ended = virtual_time.now()
        await asyncio.gather(first, *others)
        return late.value, ended

    error, second = virtual_time.run(main())
    assert (error.status, second) == (504, 25)
    assert "one: its rate limit is reached" in error.message


def test_the_limit_to_the_first_byte_is_a_verdict() -> None:
    async def silent(call: Call, route: Route) -> Reply:
        if route.provider.name == "one":
            await asyncio.sleep(1000)
        return await Transport([b"x"]).send(call, route)

    async def main() -> tuple[float, str]:
        patient = chat("good", replace(ONE.provider, first_byte_s=3.0))
        health = Health(virtual_time.now)
        dispatch = Dispatch(Catalog([patient, TWO]), Parts(silent, lambda _: None, health, virtual_time.now))
        for _ in range(3):
            await (await dispatch(call())).close()
        return virtual_time.now(), health.condition(patient).state

    assert virtual_time.run(main()) == (9, "out")


def test_a_key_that_cannot_be_sent_takes_the_provider_out_and_is_no_outage() -> None:
    class Keyless(Transport):
        async def send(self, call: Call, route: Route) -> Reply:
            self.asked.append(route.provider.name)
            raise SecretMissing("there is no secret nvidia-image")

    refused = list[int]()
    named = replace(ONE.provider, credential=Credential("nvidia-image", lambda: "k", lambda: 1, refused.append))
    hub = Hub(Keyless(), chat("good", named))
    for _ in range(5):
        with pytest.raises(Unavailable, match="there is no secret nvidia-image") as ended:
            hub.call()
        assert (ended.value.status, ended.value.code) == (503, "secret_missing")
    assert (hub.transport.asked, refused) == (["one"], [])
    assert [str(a) for record in hub.records for a in record.attempts] == ["one good: auth (not asked)"] * 5
    assert hub.health._breaker(chat("good", named)).state == "closed"


def test_an_empty_result_goes_on_to_the_next_and_is_a_502_when_there_is_none() -> None:
    one, two = image("p", ONE.provider), image("p", TWO.provider)
    drawn = Said(b'{"artifacts": [{"base64": "QUJD"}]}')
    changes = {"model": "p", "modality": "image", "dialects": ("genai",)}
    hub = Hub(Transport(Said(b'{"artifacts": []}'), drawn), one, two)
    assert hub.call(**changes) == drawn[0]
    assert hub.records[0].attempts[0].failure.code == "empty_result"
    for routes in ((one,), (one, two)):
        with pytest.raises(UpstreamRefused, match="no picture") as refused:
            Hub(Transport(*[Said(b'{"artifacts": []}')] * 2), *routes).call(**changes)
        assert (refused.value.status, refused.value.code) == (502, "empty_result")


def test_what_plan_refuses_is_recorded_too() -> None:
    hub = Hub(Transport(), ONE)
    with pytest.raises(SensoriumError):
        hub.call(model="nobody/has-it")
    assert [(r.outcome, r.status, r.route, r.attempts) for r in hub.records] == [("refused", 404, None, ())]


def test_a_provider_that_breaks_off_before_the_first_byte_is_passed_over() -> None:
    transport = Transport([UpstreamFailed("cut")], [b"x"])
    assert dispatched(transport, ONE, TWO)[0] == b"x"


def test_the_first_in_order_gets_every_call_however_busy_it_is() -> None:
    async def main() -> list[str]:
        transport = Transport(*[[b"x"]] * 20)
        dispatch = Dispatch(Catalog([ONE, TWO]), Parts(transport.send, lambda _: None, Health(lambda: 0.0), lambda: 0.0))
        replies = await asyncio.gather(*(dispatch(call()) for _ in range(20)))
        for reply in replies:
            await reply.close()
        return transport.asked

    assert asyncio.run(main()) == ["one"] * 20


def test_looking_changes_nothing() -> None:
    hub = Hub(Transport(*[Said(b"", status=503)] * 3, [b"back"]), ONE)
    for _ in range(3):
        with pytest.raises(SensoriumError):
            hub.call()
    hub.still += 30
    assert {hub.health.condition(ONE).state for _ in range(50)} == {"trying"}
    assert hub.call() == b"back"


def test_the_hubs_order_holds_for_calls_that_wish_nothing() -> None:
    hub = Hub(Transport([b"x"], [b"y"], [b"z"]), ONE, ENGINE)
    hub.dispatch = Dispatch(hub.dispatch.catalog, hub.dispatch._parts, "local_first")
    hub.call()
    hub.call(where="hosted_first")
    assert hub.transport.asked == ["engine", "one"]
    assert [route.provider.name for route in hub.dispatch.plan(call())] == ["engine", "one"]


def test_a_refusal_keeps_the_providers_name_for_the_call() -> None:
    limits = {"x_upstream_request_id": "theirs", "x_ratelimit_remaining": "0", "retry_after": "7", "content_type": "text/plain"}
    with pytest.raises(UpstreamRefused) as refused:
        dispatched(Transport(Said(b"", status=429, **limits)), ONE)
    assert refused.value.headers == {"x-upstream-request-id": "theirs", "x-ratelimit-remaining": "0"}


def test_a_translated_reply_is_bound_by_the_deadline_while_it_is_read() -> None:
    records, closed = list[Record](), list[Route]()

    async def sent(call: Call, route: Route) -> Reply:
        async def chunks() -> AsyncIterator[bytes]:
            yield b'{"choices": [{"message": {"content": "' + b"x" * 70_000
            await asyncio.sleep(3600)

        async def close() -> None:
            closed.append(route)

        return Reply(200, {"content-type": "application/json"}, chunks(), close, route)

    async def main() -> float:
        dispatch = Dispatch(Catalog([ONE]), Parts(sent, records.append, Health(virtual_time.now), virtual_time.now))
        with pytest.raises(DeadlineExceeded):
            await dispatch(call(operation="messages", dialects=("anthropic", "openai"), deadline_s=5.0))
        return virtual_time.now()

    assert virtual_time.run(main()) == 5.0
    assert (len(closed), [(record.status, record.outcome) for record in records]) == (1, [(504, "failed")])


def test_pictures_that_are_not_asked_for_in_time_are_not_charged() -> None:
    limited = image("org/draws", replace(provider("http://paint", "paint"), per_minute=60.0, burst=10))
    hub = Hub(Transport(), limited)
    with pytest.raises(DeadlineExceeded):
        hub.call(
            model="org/draws",
            modality="image",
            dialects=("openai", "genai"),
            operation="images/generations",
            members=jsonbody.members(b'{"n": 9}'),
            deadline_s=-1.0,
        )
    assert hub.health.condition(limited).tokens == 10
