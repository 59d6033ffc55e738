"""The queue's requests over HTTP: each caller has its own, administrators have all, and every fault is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from sensorium.api import requests
from sensorium.api.auth import Auth
from sensorium.api.router import Router
from sensorium.api.visit import Visit
from sensorium.jobs.logs import Line
from sensorium.jobs.request import LOW, NotRepeatable, Request, Rules, State, UnknownRequest
from sensorium.wire import openai
from tests.api.hubs import Hub
from tests.serving import serving

PATH = "/v1/requests"
ADMIN, ALICE, BOB = ({"authorization": f"Key {token}"} for token in ("sesame", "a1:s", "b2:s"))
AT = 1_800_000_000.0


def row(seq: int, caller: str, state: State = State.QUEUED, **more: Any) -> Request:
    plain = Request(
        seq=seq,
        id=f"r{seq}",
        work="app",
        app="fal-ai/echo",
        path="/sub",
        lane="echo",
        caller=caller,
        prio=0,
        vtag=0.0,
        call={},
        rules=Rules(),
        state=state,
        attempt=0,
        runs=0,
        deaths=0,
        upstream=None,
        told={},
        status=None,
        webhook_url=None,
        ver=1,
        created_at=AT + seq,
        claimed_at=None,
        finished_at=None,
        start_deadline=None,
        cancel_at=None,
        payload_gone=False,
    )
    return replace(plain, **more)


FAILED = {
    "told": {"error": "prompt: Field required", "error_type": "validation_error", "headers": {}},
    "status": 422,
    "attempt": 1,
    "runs": 1,
    "claimed_at": AT + 4.25,
    "finished_at": AT + 5.0004,
    "webhook_url": "https://a.example/hook",
}


class Queue:
    """What the door asks of `Jobs`, on rows in memory."""

    def __init__(self) -> None:
        rows = [
            row(1, "alice", State.SUCCEEDED, told={"inference_time": 0.5}, status=200, attempt=1, runs=1),
            row(2, "bob", prio=LOW, start_deadline=AT + 60),
            row(3, "alice", State.RUNNING, attempt=2, runs=2, deaths=1, app="fal-ai/other"),
            row(4, "alice", State.FAILED, **FAILED),
            row(5, "token", State.CANCELLED, told={"error": "Request cancelled", "error_type": "client_cancelled"}, status=499),
        ]
        self.rows = {one.id: one for one in rows}

    async def of(self, caller: str | None, id: str) -> Request:
        found = self.rows.get(id)
        if found is None or caller not in (None, found.caller):
            raise UnknownRequest(f"no request {id[:80]} of this caller is known")
        return found

    async def position(self, request: Request) -> int:
        return 7

    async def lines(self, request: Request, after: tuple[int, int] = (0, 0)) -> list[Line]:
        return [Line(1, 1, AT + 0.12345, "INFO", f"{request.id} started"), Line(1, 2, AT + 1, "WARN", "slow")]

    async def attempts(self, request: Request) -> list[tuple[int, float, float, str]]:
        return [(1, AT + 0.25, AT + 1.12345, "busy")]

    async def listed(
        self, caller: str | None, limit: int, after: str | None = None, app: str | None = None, states: Sequence[State] = ()
    ) -> list[Request]:
        bound = (await self.of(caller, after)).seq if after else 99
        found = [one for one in reversed(self.rows.values()) if caller in (None, one.caller) and one.seq < bound]
        return [one for one in found if app in (None, one.app) and (not states or one.state in states)][:limit]

    async def cancel(self, caller: str | None, id: str) -> bool:
        found = await self.of(caller, id)
        self.rows[id] = found if found.done else replace(found, state=State.CANCELLED, cancel_at=AT)
        return not found.done

    async def retry(self, caller: str | None, id: str) -> Request:
        found = await self.of(caller, id)
        if found.state is not State.FAILED:
            raise NotRepeatable(f"{id} did not fail")
        self.rows[id] = replace(found, state=State.QUEUED, told={})
        return self.rows[id]

    async def remove(self, caller: str | None, id: str) -> None:
        del self.rows[(await self.of(caller, id)).id]


class Notifications:
    async def deliveries(self, visit: Visit, id: str) -> None:
        await visit.answer(b'{"tries of": "%s"}' % id.encode())

    async def redeliver(self, visit: Visit, id: str) -> None:
        await visit.answer(b'{"again": "%s"}' % id.encode(), status=202)


@contextmanager
def door(auth: Auth) -> Iterator[Hub]:
    entries = requests.entries(Queue(), Notifications())  # type: ignore[arg-type]
    with serving(Router(entries, auth, lambda _: openai.error, 2**20)) as base:
        hub = Hub(base, [])
        try:
            yield hub
        finally:
            hub.close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with door(Auth("sesame", {"alice": "a1:s", "bob": "b2:s"})) as hub:
        yield hub


def listed(hub: Hub, query: str, headers: dict[str, str]) -> list[str]:
    status, told = hub.json("GET", PATH + query, headers=headers)
    assert (status, told["object"]) == (200, "list"), told
    return [one["id"] for one in told["data"]]


@pytest.mark.parametrize(
    ("query", "headers", "ids"),
    [
        ("", ADMIN, ["r5", "r4", "r3", "r2", "r1"]),
        ("", ALICE, ["r4", "r3", "r1"]),
        ("?caller=alice", ALICE, ["r4", "r3", "r1"]),
        ("?caller=bob", ADMIN, ["r2"]),
        ("?limit=2", ADMIN, ["r5", "r4"]),
        ("?limit=2&after=r4", ADMIN, ["r3", "r2"]),
        ("?app=fal-ai/other", ALICE, ["r3"]),
        ("?state=running,failed", ADMIN, ["r4", "r3"]),
        ("?status=COMPLETED", ADMIN, ["r5", "r4", "r1"]),
        ("?status=IN_QUEUE&app=fal-ai%2Fecho", BOB, ["r2"]),
        ("?state=&status=&after=&app=&caller=&limit=", BOB, ["r2"]),
    ],
)
def test_the_list_is_narrowed_and_holds_what_the_caller_may_see(hub: Hub, query: str, headers: dict[str, str], ids: list[str]) -> None:
    assert listed(hub, query, headers) == ids


def test_the_list_says_whether_there_is_more(hub: Hub) -> None:
    assert [hub.json("GET", f"{PATH}?limit={limit}", headers=ADMIN)[1]["has_more"] for limit in (4, 5)] == [True, False]


@pytest.mark.parametrize(
    ("query", "status", "code", "param"),
    [
        ("limit=0", 400, "invalid_request", "limit"),
        ("limit=1001", 400, "invalid_request", "limit"),
        ("limit=" + "9" * 30, 400, "invalid_request", "limit"),
        ("state=done", 400, "invalid_request", "state"),
        ("status=IN_PROGRESS_", 400, "invalid_request", "status"),
        ("status=COMPLETED&state=failed", 400, "invalid_request", "status"),
        ("model=x", 400, "invalid_request", "model"),
        ("caller=bob", 403, "missing_scope", None),
        ("after=r2", 404, "unknown_request", None),
    ],
)
def test_a_filter_that_is_none_is_named(hub: Hub, query: str, status: int, code: str, param: str | None) -> None:
    got, told = hub.json("GET", f"{PATH}?{query}", headers=ALICE)
    assert (got, told["error"]["code"], told["error"]["param"]) == (status, code, param)


def test_one_request_is_told_whole(hub: Hub) -> None:
    status, told = hub.json("GET", f"{PATH}/r4", headers=ALICE)
    assert status == 200
    assert told == {
        "object": "request",
        "id": "r4",
        "app": "fal-ai/echo",
        "path": "/sub",
        "lane": "echo",
        "caller": "alice",
        "state": "failed",
        "priority": "normal",
        "position": None,
        "attempt": 1,
        "runs": 1,
        "deaths": 0,
        "status": 422,
        "inference_s": None,
        "created_at": AT + 4,
        "claimed_at": AT + 4.25,
        "finished_at": AT + 5,
        "start_deadline": None,
        "cancel_at": None,
        "error": {"type": "validation_error", "message": "prompt: Field required"},
        "payload_gone": False,
        "webhook": "https://a.example/hook",
        "attempts": [{"attempt": 1, "began_at": AT + 0.25, "ended_at": AT + 1.123, "outcome": "busy"}],
        "logs": [
            {"attempt": 1, "at": AT + 0.123, "level": "INFO", "message": "r4 started"},
            {"attempt": 1, "at": AT + 1, "level": "WARN", "message": "slow"},
        ],
    }
    waiting = hub.json("GET", f"{PATH}/r2", headers=BOB)[1]
    assert (waiting["position"], waiting["priority"], waiting["start_deadline"], waiting["error"]) == (7, "low", AT + 60, None)
    assert hub.json("GET", f"{PATH}/r1", headers=ALICE)[1]["inference_s"] == 0.5


WAYS = [("GET", ""), ("GET", "/deliveries"), ("POST", "/cancel"), ("POST", "/retry"), ("POST", "/redeliver"), ("DELETE", "")]


@pytest.mark.parametrize(("method", "action"), WAYS)
def test_anothers_request_is_as_if_it_were_not_there(hub: Hub, method: str, action: str) -> None:
    for id in ("r4", "r5", "never"):
        status, told = hub.json(method, f"{PATH}/{id}{action}", headers=BOB)
        assert (status, told["error"]["code"]) == (404, "unknown_request")
    assert hub.json("GET", PATH)[0] == 401
    assert len(listed(hub, "", ADMIN)) == 5


@pytest.mark.parametrize(("method", "action", "status"), [("GET", "", 200), ("GET", "/deliveries", 200), ("POST", "/retry", 202)])
def test_administrators_reach_everybodys(hub: Hub, method: str, action: str, status: int) -> None:
    assert hub.json(method, f"{PATH}/r4{action}", headers=ADMIN)[0] == status
    with door(Auth(None)) as open_hub:
        assert open_hub.json(method, f"{PATH}/r4{action}")[0] == status


@pytest.mark.parametrize("headers", [ALICE, ADMIN])
def test_cancelling_once_is_taken_and_twice_is_too_late(hub: Hub, headers: dict[str, str]) -> None:
    status, told = hub.json("POST", f"{PATH}/r3/cancel", headers=headers)
    assert (status, told["state"], told["cancel_at"]) == (202, "cancelled", AT)
    status, told = hub.json("POST", f"{PATH}/r3/cancel", headers=headers)
    assert (status, told["error"]["code"]) == (409, "already_over")


def test_only_what_failed_is_run_again(hub: Hub) -> None:
    status, told = hub.json("POST", f"{PATH}/r4/retry", headers=ALICE)
    assert (status, told["state"], told["position"]) == (202, "queued", 7)
    status, told = hub.json("POST", f"{PATH}/r1/retry", headers=ALICE)
    assert (status, told["error"]["code"]) == (422, "not_repeatable")


def test_notifications_are_handed_on(hub: Hub) -> None:
    assert hub.json("GET", f"{PATH}/r4/deliveries", headers=ALICE) == (200, {"tries of": "r4"})
    assert hub.json("POST", f"{PATH}/r4/redeliver", headers=ALICE) == (202, {"again": "r4"})


def test_a_request_that_is_removed_is_gone(hub: Hub) -> None:
    assert hub.json("DELETE", f"{PATH}/r3", headers=ALICE) == (200, {"object": "request.deleted", "id": "r3", "deleted": True})
    assert hub.json("GET", f"{PATH}/r3", headers=ADMIN)[0] == 404


@pytest.mark.parametrize(("method", "path"), [("GET", "r4/logs"), ("GET", "r4/"), ("POST", "r4"), ("POST", "r4/again"), ("DELETE", "r4/x")])
def test_what_cannot_be_done_with_a_request(hub: Hub, method: str, path: str) -> None:
    status, told = hub.json(method, f"{PATH}/{path}", headers=ALICE)
    if path == "r4/":
        assert (status, told["id"]) == (200, "r4")
    else:
        assert (status, told["error"]["code"]) == (404, "unknown_route")
