"""fal's queue answer by answer, on a clock of the test: what is asked when, what is believed, and what is given up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from sensorium.errors import SensoriumError, UpstreamFailed, UpstreamRefused
from sensorium.exchange import JSON
from sensorium.routing import falqueue
from sensorium.routing.call import Call, Reply, Route
from sensorium.routing.payload import Payload, payload
from sensorium.wire import jsonbody
from tests.routing.hosted import provider

AT = replace(provider("https://queue.example", "there"), timeout_s=60.0)
ROUTE = Route("m", "image", "fal", frozenset(), AT, "a/draw/fast")
CALL = Call("r", "m", "image", ("genai", "fal"), "m", jsonbody.members(b'{"prompt": "x", "mode": "base"}'))
PLACE = "https://queue.example/a/draw/requests/i"
TAKEN: dict[str, Any] = {
    "request_id": "i", "status_url": f"{PLACE}/status", "response_url": PLACE, "cancel_url": f"{PLACE}/cancel",
}  # fmt: skip
WAITING, DONE = (202, {"status": "IN_QUEUE"}), (200, {"status": "COMPLETED"})
OUTPUT = (200, {"images": [{"url": "data:image/png;base64,QQ=="}]})
Said = tuple[int, Any] | Exception


class There:
    """The other side: answers with the next of `outcomes`. `asked` are method, path and what the request was for."""

    def __init__(self, *outcomes: Said) -> None:
        self.outcomes, self.asked, self.slept, self.now = list(outcomes), list[tuple[str, str, str]](), list[float](), 0.0

    async def ask(self, method: str, url: str, data: bytes | None = None, to: falqueue.To = "queue") -> Reply:
        self.asked.append((method, url, to))
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        body = outcome[1] if isinstance(outcome[1], bytes) else json.dumps(outcome[1]).encode()

        async def chunks() -> AsyncIterator[bytes]:
            yield body

        async def close() -> None:
            """Nothing is open."""

        return Reply(outcome[0], {"content-type": JSON, "retry-after": "3"}, chunks(), close, ROUTE)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def job(self) -> falqueue.Job:
        return falqueue.Job(self.ask, CALL, ROUTE, lambda: self.now, self.sleep, 5.0)

    def finished(self) -> Reply:
        return asyncio.run(self.job().finished(payload(CALL, ROUTE)))

    def failed(self) -> tuple[SensoriumError, bool]:
        """What it ends with, and whether a request is left to be cancelled."""

        async def main() -> tuple[SensoriumError, bool]:
            job = self.job()
            with pytest.raises(SensoriumError) as raised:
                await job.finished(Payload(PLACE, JSON, b"{}"))
            return raised.value, job.abandoned

        return asyncio.run(main())


def test_it_submits_looks_ever_less_often_and_fetches() -> None:
    there = There((200, TAKEN), *[WAITING] * 8, DONE, OUTPUT)
    reply = there.finished()
    assert (reply.status, reply.headers["x-upstream-request-id"], reply.changes) == (200, "i", ("mode dropped",))
    assert there.asked[0] == ("POST", "https://queue.example/a/draw/fast", "queue")
    assert {asked[1] for asked in there.asked[1:-1]} == {"https://queue.example:443/a/draw/requests/i/status"}
    assert there.asked[-1][1] == "https://queue.example:443/a/draw/requests/i"
    assert there.slept == sorted(there.slept) and (there.slept[0], there.slept[-1]) == (0.2, 2.0)


@pytest.mark.parametrize("status", [401, 404, 422, 429, 500, 503])
def test_a_refused_submit_goes_on_as_it_came(status: int) -> None:
    there = There((status, {"detail": "no"}))
    reply = there.finished()
    assert (reply.status, reply.headers["retry-after"], len(there.asked)) == (status, "3", 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"request_id": ""}, {"request_id": 5}, {"request_id": "x" * 200}, {"request_id": "a b"},
        {"status_url": None}, {"status_url": "http://queue.example/x"},
        {"status_url": "https://elsewhere.example/x"}, {"response_url": "https://queue.example:8443/x"},
        {"cancel_url": "https://u:p@queue.example/x"}, {"cancel_url": "https://queue.example.evil.example/x"},
        {"response_url": "/relative"},
        {"response_url": "https://elsewhere.example\\@queue.example/x"}, {"response_url": "file:///etc/passwd"},
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_followed_is_not(changes: dict[str, Any]) -> None:
    there = There((200, {**TAKEN, **changes}))
    error, _ = there.failed()
    assert (type(error), len(there.asked)) == (UpstreamFailed, 1)


@pytest.mark.parametrize("status", [301, 302])
def test_a_redirect_is_no_request(status: int) -> None:
    assert isinstance(There((status, TAKEN)).failed()[0], UpstreamFailed)


@pytest.mark.parametrize("trouble", [(500, {}), (503, {}), (429, {}), (401, {}), (200, b"<html>"), UpstreamFailed("cut")])
def test_a_status_that_cannot_be_read_is_asked_for_again(trouble: Said) -> None:
    assert There((200, TAKEN), trouble, trouble, DONE, OUTPUT).finished().status == 200


@pytest.mark.parametrize(("status", "left"), [(404, False), (410, False), (400, True), (302, True)])
def test_a_request_that_nobody_knows_is_lost(status: int, left: bool) -> None:
    error, abandoned = There((200, TAKEN), (status, {})).failed()
    assert isinstance(error, UpstreamRefused)
    assert (error.code, error.source, error.retryable, abandoned) == ("result_lost", "there", False, left)


def test_the_end_of_patience_leaves_a_request_to_cancel() -> None:
    error, abandoned = There((200, TAKEN), WAITING).failed()
    assert (error.status, error.code, abandoned) == (504, "deadline_exceeded", True)


def test_silence_for_a_minute_is_a_lost_request() -> None:
    there = There((200, TAKEN), (503, {}))
    long = replace(ROUTE, provider=replace(AT, timeout_s=600.0))

    async def main() -> None:
        job = falqueue.Job(there.ask, CALL, long, lambda: there.now, there.sleep, 5.0)
        with pytest.raises(UpstreamRefused, match="answered 503"):
            await job.finished(Payload(PLACE, JSON, b"{}"))
        assert job.abandoned and 60 < there.now < 65

    asyncio.run(main())


def test_an_error_of_the_app_is_its_result_even_when_it_looks_like_a_passing_one() -> None:
    there = There((200, TAKEN), (200, {"status": "COMPLETED", "error": "x"}), (503, {"detail": "x"}))
    assert (there.finished().status, len(there.asked)) == (503, 3)
    assert There((200, TAKEN), DONE, (422, {"detail": []})).finished().status == 422


def test_a_result_is_fetched_again_before_it_is_lost() -> None:
    assert There((200, TAKEN), DONE, (503, {}), UpstreamFailed("cut"), OUTPUT).finished().status == 200
    for last in ((503, {}), (404, {}), (499, {}), (302, {})):
        error, abandoned = There((200, TAKEN), DONE, last).failed()
        assert (error.status, error.code if isinstance(error, UpstreamRefused) else "", abandoned) == (502, "result_lost", False)


@pytest.mark.parametrize(
    ("url", "to"),
    [("https://queue.example/files/a", "own file"), ("https://93.184.216.34/a.png", "public file")],
)
def test_files_are_fetched_without_the_key(url: str, to: str) -> None:
    there = There((200, TAKEN), DONE, (200, {"images": [{"url": url}]}), (200, b"\xff\xd8\xff"))
    assert there.finished().status == 200
    assert there.asked[-1][2] == to


@pytest.mark.parametrize(
    "url",
    ["http://93.184.216.34/x", "https://127.0.0.1/x", "https://169.254.169.254/x", "https://10.0.0.1/x", "file:///etc/passwd", "/x", ""],
)
def test_files_are_not_fetched_from_anywhere(url: str) -> None:
    there = There((200, TAKEN), DONE, (200, {"images": [{"url": url}]}), (200, b"x"))
    error, _ = there.failed()
    assert (type(error), len(there.asked)) == (UpstreamFailed, 3)


@pytest.mark.parametrize(("answer", "methods"), [((200, TAKEN), ["POST", "PUT"]), ((503, {}), ["POST"]), (UpstreamFailed("x"), ["POST"])])
def test_who_leaves_during_the_submit_leaves_a_request_behind(answer: Said, methods: list[str]) -> None:
    async def main() -> None:
        there, held = There(answer, (202, {})), asyncio.Event()

        async def ask(method: str, url: str, data: bytes | None = None, to: falqueue.To = "queue") -> Reply:
            reply = await there.ask(method, url, data, to)
            await held.wait()
            return reply

        job = falqueue.Job(ask, CALL, ROUTE, lambda: 0.0, there.sleep, 5.0)
        waiting = asyncio.create_task(job.finished(Payload(PLACE, JSON, b"{}")))
        while not there.asked:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        held.set()
        await job.cancel()
        assert [asked[0] for asked in there.asked] == methods

    asyncio.run(main())


@pytest.mark.parametrize("outcome", [(202, {}), (400, {}), UpstreamFailed("gone")])
def test_cancelling_is_asked_once_and_never_fails(outcome: Said) -> None:
    async def main() -> None:
        there = There((200, TAKEN), WAITING)
        job = there.job()
        await job.cancel()
        assert there.asked == []
        with pytest.raises(UpstreamRefused):
            await job.finished(Payload(PLACE, JSON, b"{}"))
        there.outcomes = [outcome]
        await job.cancel()
        assert there.asked[-1] == ("PUT", "https://queue.example:443/a/draw/requests/i/cancel", "queue")

    asyncio.run(main())
