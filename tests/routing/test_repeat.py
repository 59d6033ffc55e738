"""What a failed call means for a later run: as a table, and for what really comes over the wire."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from sensorium.engines.fencing import ATTEMPT, REQUEST
from sensorium.engines.supervisor import EngineProcess
from sensorium.errors import (
    BadRequest,
    Busy,
    Cause,
    DeadlineExceeded,
    SensoriumError,
    Unavailable,
    Unprocessable,
    UpstreamFailed,
    UpstreamRefused,
)
from sensorium.routing import hedge
from sensorium.routing.call import Attempt, Call, Route
from sensorium.routing.catalog import Catalog
from sensorium.routing.dispatch import Dispatch, Parts
from sensorium.routing.health import Health
from sensorium.routing.payload import Payload
from sensorium.routing.refusal import overdue, refusal
from sensorium.routing.repeat import of_attempts, of_reply, of_status, verdict
from sensorium.routing.upstream import Upstream, headers
from sensorium.store.database import StoreUnavailable
from sensorium.store.secret import SecretMissing
from sensorium.wire.failure import Failure, understand
from tests.engines.flow_image import tiny
from tests.routing.hosted import call, chat, image, provider
from tests.routing.test_dispatch import ENGINE, ONE, Hub, Transport
from tests.serving import serving

SECOND_ENGINE = chat("good", provider("http://engine-2", "engine-2", local=True))


def refused(status: int, code: str = "x", lost: bool = False) -> UpstreamRefused:
    error = UpstreamRefused("no", status=status, code=code, source="there")
    error.lost = lost
    return error


def died() -> UpstreamFailed:
    error = UpstreamFailed("gone")
    error.cause = "death"
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SensoriumError("x"), "final"), (BadRequest("x"), "final"), (Unprocessable("x"), "final"), (UpstreamFailed("nonsense"), "final"),
        (Busy("x"), "busy"), (Unavailable("x"), "connection_error"), (StoreUnavailable("x"), "connection_error"),
        (SecretMissing("x"), "final"), (DeadlineExceeded("x"), "timeout"), (overdue(call(deadline_s=1.0), ()), "final"),
        (refused(502, "result_lost", lost=True), "connection_error"), (refused(502, "result_lost"), "connection_error"),
        (refused(504, "deadline_exceeded"), "timeout"), (died(), "death"),
        *((refused(status), "final") for status in (400, 401, 402, 403, 404, 409, 413, 422, 500, 501, 502, 505)),
        *((refused(status), "server_error") for status in (503, 504)), (refused(429), "busy"),
    ],
)  # fmt: skip
def test_what_an_error_means(error: SensoriumError, expected: Cause) -> None:
    assert verdict(error) == expected


@pytest.mark.parametrize(
    ("status", "without", "one", "zero"),
    [
        (500, "final", "server_error", "final"), (502, "final", "server_error", "final"), (503, "server_error", "server_error", "final"),
        (504, "server_error", "server_error", "final"), (429, "busy", "busy", "final"), (422, "final", "final", "final"),
        (400, "final", "final", "final"), (404, "final", "final", "final"), (302, "final", "final", "final"),
    ],
)  # fmt: skip
def test_what_a_status_means_and_what_its_sender_may_say(status: int, without: Cause, one: Cause, zero: Cause) -> None:
    assert (of_status(status), of_status(status, "1"), of_status(status, "0"), of_status(status, "yes")) == (without, one, zero, without)


def tried(kind: Any, status: int = 0, message: str = "m", asked: bool = True, wait: float | None = None, **more: Any) -> Attempt:
    return Attempt(ONE, Failure(kind, status, message, more.get("code")), asked, wait, cause=more.get("cause"))


DEATH, REFUSED, LATE = tried("transport", 502, cause="death"), tried("transport", 503), tried("transport", 504)
OUTAGE, LIMITED, KEY = tried("provider_outage", 503), tried("rate_limited", 429, wait=3.0), tried("auth", 401)


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([DEATH], "death"), ([REFUSED], "connection_error"), ([LATE], "timeout"), ([OUTAGE], "server_error"), ([LIMITED], "busy"),
        ([KEY], "final"), ([tried("quota_exhausted", 402)], "final"), ([tried("model_unavailable", 404)], "final"),
        ([tried("transport", 502)], "final"), ([tried("transport", 429)], "busy"),
        ([tried("provider_outage", 500)], "final"), ([tried("provider_outage", 502)], "final"),
        ([tried("provider_outage", 504)], "server_error"),
        ([tried("provider_outage", 502, code="empty_result")], "final"), ([tried("provider_outage", 400)], "server_error"),
        ([tried("provider_outage", 500, "ResourceExhausted: worker local total request limit")], "busy"),
        ([tried("provider_outage", asked=False, wait=20.0)], "busy"), ([tried("provider_outage", asked=False)], "final"),
        ([tried("rate_limited", asked=False)], "busy"), ([tried("auth", asked=False)], "final"),
        ([tried("provider_outage", 500, cause="server_error")], "server_error"), ([tried("overtaken")], "final"),
        ([KEY, LIMITED], "busy"), ([LIMITED, OUTAGE], "server_error"), ([OUTAGE, REFUSED, LATE], "timeout"), ([LATE, DEATH, KEY], "death"),
        ([DEATH, tried("semantic", 422)], "final"), ([OUTAGE, tried("semantic", 422, asked=False)], "server_error"),
    ],
)  # fmt: skip
def test_what_attempts_mean_together_and_that_the_error_carries_it(attempts: list[Attempt], expected: Cause) -> None:
    assert of_attempts(attempts) == expected
    if {attempt.failure.kind for attempt in attempts} != {"overtaken"}:
        assert verdict(refusal(attempts)) == expected


def test_the_disguises_of_outages_are_seen_through() -> None:
    for status, body, expected in (
        (400, b'{"detail": "DEGRADED function"}', "server_error"),
        (429, b'{"error": {"message": "insufficient_quota"}}', "final"),
    ):
        assert of_attempts([Attempt(ONE, understand(status, body), True)]) == expected


class Rude:
    """Answers as its path says: a status, `half` an answer, or `late`; with the header it was told."""

    def __init__(self, needs_retry: str) -> None:
        self.needs_retry, self.asked = needs_retry, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.asked += 1
        manner = scope["path"].split("/")[1]
        told = [(b"x-fal-needs-retry", self.needs_retry.encode())] if self.needs_retry else []
        match manner:
            case "half":
                head = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
                await send({"type": "http.response.start", "status": 200, "headers": head})
                await send({"type": "http.response.body", "body": b'{"a":', "more_body": True})
                raise ConnectionAbortedError
            case "late":
                await receive()
                await receive()
            case _:
                media = (b"content-type", b"application/json")
                await send({"type": "http.response.start", "status": int(manner), "headers": [media, *told]})
                await send({"type": "http.response.body", "body": b'{"error": {"message": "no"}}'})


def asked(route: Route) -> Cause | None:
    """What a call of the queue to this one route means."""

    async def main() -> Cause | None:
        upstream = Upstream()
        dispatch = Dispatch(Catalog([route]), Parts(upstream.send, lambda record: None, Health(lambda: 0.0), lambda: 0.0))
        try:
            reply = await dispatch(call(repeatable=False, attempt=("r", 1)))
            await reply.whole()
            return of_reply(reply)
        except SensoriumError as error:
            return verdict(error)
        finally:
            await upstream.close()

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("manner", "local", "hosted"),
    [
        ("500", "final", "final"), ("502", "final", "final"),
        ("503", "server_error", "server_error"), ("504", "server_error", "server_error"),
        ("429", "busy", "busy"), ("422", "final", "final"), ("302", "final", "final"), ("409", "final", "final"),
        ("half", "death", "server_error"), ("late", "timeout", "timeout"),
    ],
)  # fmt: skip
def test_what_comes_over_the_wire(manner: str, local: Cause, hosted: Cause) -> None:
    for here, expected in ((True, local), (False, hosted)):
        for needs in ("", "0", "1"):
            program = Rude(needs)
            with serving(program) as base:
                at = provider(f"{base}/{manner}", local=here)
                found = asked(chat("good", replace(at, timeout_s=0.1, idle_s=0.1) if manner == "late" else at))
            decided = needs and manner.isdecimal() and (int(manner) >= 500 or manner == "429")
            assert found == ({"0": "final", "1": "busy" if manner == "429" else "server_error"}[needs] if decided else expected), (
                here,
                needs,
            )
            assert program.asked == 1


@pytest.mark.parametrize(("local", "expected"), [(True, "death"), (False, "connection_error")])
def test_a_connection_that_is_closed_before_an_answer(local: bool, expected: Cause) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        hang_up = threading.Thread(target=lambda: server.accept()[0].close())
        hang_up.start()
        assert asked(chat("good", provider(f"http://127.0.0.1:{server.getsockname()[1]}", local=local))) == expected
        hang_up.join()


@pytest.mark.parametrize("local", [False, True])
def test_nobody_at_the_address(local: bool) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert asked(chat("good", provider(f"http://127.0.0.1:{taken.getsockname()[1]}", local=local))) == "connection_error"


def test_a_call_of_the_queue_is_not_repeated_here_and_its_death_is_told() -> None:
    hub = Hub(Transport(died(), [b"x"]), ENGINE)
    with pytest.raises(SensoriumError) as raised:
        hub.call(repeatable=False)
    assert (verdict(raised.value), hub.transport.asked) == ("death", ["engine"])
    assert Hub(Transport(died(), [b"x"]), ENGINE).call() == b"x"


def test_what_ended_one_engine_goes_to_a_hosted_route_but_to_no_other_engine() -> None:
    hub = Hub(Transport(died(), [b"x"]), ENGINE, SECOND_ENGINE, ONE)
    assert (hub.call(repeatable=False), hub.transport.asked) == (b"x", ["engine", "one"])
    hub = Hub(Transport(died(), Unavailable("down")), ENGINE, SECOND_ENGINE, ONE)
    with pytest.raises(SensoriumError) as raised:
        hub.call(repeatable=False)
    assert (verdict(raised.value), hub.transport.asked) == ("death", ["engine", "one"])


def test_a_call_of_the_queue_is_asked_of_one_route_at_a_time() -> None:
    slow = replace(ONE, provider=replace(ONE.provider, hedge_after_s=1.0))
    assert (hedge.after_s(call(), slow), hedge.after_s(call(repeatable=False), slow)) == (1.0, None)


def test_an_engine_that_is_killed_under_a_call_is_a_death_and_the_next_run_is_answered(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path / "tiny-flow", steps={"default": 4, "max": 20_000})

    async def drawn(upstream: Upstream, route: Route, attempt: int, steps: int) -> bytes:
        members = {"prompt": msgspec.Raw(b'"a red cube on a white table"'), "steps": msgspec.Raw(str(steps).encode())}
        asked = Call("c", "m", "image", ("genai",), "m", members, repeatable=False, attempt=("r", attempt))
        dispatch = Dispatch(Catalog([route]), Parts(upstream.send, lambda record: None, Health(lambda: 0.0), lambda: 0.0))
        return await (await dispatch(asked)).whole()

    async def main() -> None:
        upstream = Upstream()
        async with EngineProcess("local", [folder], environment=os.environ) as engine:
            await engine.wait_ready()
            at = replace(provider(f"{engine.base_url}/v1", "local", engine.token, local=True), timeout_s=60.0, idle_s=60.0)
            route = image("m", at, "sensorium/tiny-flow")
            first = asyncio.create_task(drawn(upstream, route, 1, 20_000))
            async with aiohttp.ClientSession(headers={"authorization": f"Bearer {engine.token}"}) as session:
                running = 0
                while not running:
                    async with session.get(f"{engine.base_url}/v1/lane") as reply:
                        running = (await reply.json())["running"]
                    assert not first.done()
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
            with pytest.raises(SensoriumError) as raised:
                await first
            assert verdict(raised.value) == "death"
            assert b"artifacts" in await drawn(upstream, route, 2, 2)
            assert engine.restarts == 1
        await upstream.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_engines_are_told_the_attempt_and_nobody_else_is() -> None:
    for route, told in ((ENGINE, ("r-1", "3")), (ONE, (None, None))):
        said = headers(call(attempt=("r-1", 3)), route, Payload("", None, None))
        assert (said.get(REQUEST), said.get(ATTEMPT)) == told
        assert REQUEST not in headers(call(), route, Payload("", None, None))
