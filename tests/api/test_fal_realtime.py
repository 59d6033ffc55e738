"""fal's realtime websocket, called by the official client and by a plain one."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import fal_client
import fal_client.client
import msgpack
import pytest
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect

from sensorium.api import fal_tokens
from sensorium.api.auth import Auth
from sensorium.api.fal_realtime import Inbox, Limits, Line, RealtimeDoor
from sensorium.api.fal_tokens import Tokens
from sensorium.api.router import Router
from sensorium.errors import Cancelled
from sensorium.store.signing import Signing
from sensorium.wire import fal_errors
from sensorium.wire.fal_tokens import Wanted
from tests.api.fal_apps import Echo, OneApp
from tests.serving import serving
from tests.store.vaults import opened

KEY = "kid:ksecret"
HEADERS = {"Authorization": f"Key {KEY}"}


class Site:
    """A hub with one app, its clock, and how often the door has asked the web server for a message."""

    def __init__(self, base: str, app: Echo, tokens: Tokens, clock: list[float], reads: SimpleQueue[int]) -> None:
        self.base, self.app, self.tokens, self.clock, self.reads = base, app, tokens, clock, reads

    def url(self, path: str = "/t/rt/realtime", **query: Any) -> str:
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        return f"{self.base.replace('http', 'ws')}/fal/run{path}?{asked}"

    def token(self, *apps: str, seconds: float = 120) -> str:
        return self.tokens.made("ann", Wanted(apps or ("rt",), seconds))


@contextmanager
def hub(folder: Path, *, keys: bool = True, **limits: Any) -> Iterator[Site]:
    clock = [time.time()]
    with opened(folder) as vault:
        tokens = Tokens(Signing(vault), lambda: clock[0])
        app = Echo()
        auth = Auth(None, {"bob": KEY} if keys else {})
        door = RealtimeDoor(OneApp(app), auth, tokens, Limits(**{"message": 4096, **limits}))
        numbers, reads = count(1), SimpleQueue[int]()

        async def sockets(scope: Any, receive: Any, send: Any) -> None:
            async def counted() -> Any:
                reads.put(next(numbers))
                return await receive()

            await door(scope, counted, send)

        router = Router(fal_tokens.entries(tokens), auth, lambda path: fal_errors.error, 4096, sockets=sockets)

        with serving(router, websockets=True, most_message=8192) as base:
            yield Site(base, app, tokens, clock, reads)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with hub(tmp_path) as site:
        yield site


@pytest.fixture
def client(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[fal_client.SyncClient]:
    monkeypatch.setattr(fal_client.client, "REST_URL", f"{site.base}/fal/rest")
    monkeypatch.setattr(fal_client.client, "REALTIME_URL_FORMAT", f"{site.base.replace('http', 'ws')}/fal/run/")
    client = fal_client.SyncClient(key=KEY, default_timeout=10)
    yield client
    client._client.close()


def ask(line: Any, **arguments: Any) -> Any:
    line.send(msgpack.packb(arguments))
    return told(line)


def told(line: Any) -> Any:
    """The next result or error; what the clients pass over is passed over."""
    while True:
        frame = line.recv(timeout=10)
        said = json.loads(frame) if isinstance(frame, str) else msgpack.unpackb(frame)
        if said.get("type") != "x-fal-message":
            return said


def ended(line: Any) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as closed:
        line.recv(timeout=10)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


@pytest.mark.parametrize("jwt", [True, False])
def test_the_official_client_with_and_without_a_token(site: Site, client: fal_client.SyncClient, jwt: bool) -> None:
    with client.realtime("t/rt", use_jwt=jwt, max_buffering=2) as line:
        for prompt in ("a", "b"):
            line.send({"prompt": prompt})
            assert line.recv() == {"echo": {"prompt": prompt}, "path": "", "caller": "bob"}
    assert [task.base_url for task in site.app.ran] == [site.base] * 2
    assert len({task.id for task in site.app.ran}) == 2


def test_a_sub_path_and_the_raw_connection_without_a_path(client: fal_client.SyncClient) -> None:
    with client.realtime("t/rt/sub") as line:
        line.send({})
        assert line.recv()["path"] == "/sub"
    with client.ws_connect("t/rt") as raw:
        assert ask(raw, a=1)["echo"] == {"a": 1}


def test_the_official_client_tells_what_is_wrong_and_goes_on(client: fal_client.SyncClient) -> None:
    with client.realtime("t/rt") as line:
        line.send({"do": "refuse"})
        with pytest.raises(fal_client.client.RealtimeError, match="VALIDATION_ERROR: prompt: Field required") as refused:
            line.recv()
        assert refused.value.payload["detail"][0]["loc"] == ["body", "prompt"]
        line.send({"do": "busy"})
        with pytest.raises(fal_client.client.RealtimeError, match="BUSY: the queue is full"):
            line.recv()
        line.send({"prompt": "still there"})
        assert line.recv()["echo"] == {"prompt": "still there"}


def test_the_asynchronous_client(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fal_client.client, "REST_URL", f"{site.base}/fal/rest")
    monkeypatch.setattr(fal_client.client, "REALTIME_URL_FORMAT", f"{site.base.replace('http', 'ws')}/fal/run/")

    async def talk() -> Any:
        client = fal_client.AsyncClient(key=KEY, default_timeout=10)
        async with client.realtime("t/rt") as line:
            await line.send({"prompt": "a"})
            answer = await line.recv()
        await (await client._client).aclose()
        return answer

    assert asyncio.run(talk())["echo"] == {"prompt": "a"}


def test_who_answered_follows_each_result(site: Site) -> None:
    with connect(site.url(), additional_headers=HEADERS) as line:
        line.send(msgpack.packb({}))
        assert isinstance(line.recv(timeout=10), bytes)
        said = json.loads(line.recv(timeout=10))
    assert (said["type"], said["action"], said["request_id"]) == ("x-fal-message", "timings", site.app.ran[0].id)
    assert said["timing"] >= 0 and said["headers"] == {"x-sensorium-source": "toy"}


def test_what_cannot_be_read_is_told_and_the_connection_goes_on(site: Site) -> None:
    with connect(site.url(), additional_headers=HEADERS) as line:
        line.send("text")
        assert (said := told(line))["error"] == "INVALID_REQUEST" and "binary frames" in said["reason"]
        line.send(b"\xc1")
        assert "not valid msgpack" in told(line)["reason"]
        line.send(msgpack.packb([1]))
        assert told(line)["detail"][0]["type"] == "model_attributes_type"
        line.send(msgpack.packb({"a": "x" * 5000}))
        assert told(line)["error"] == "BODY_TOO_LARGE"
        assert ask(line, a=1)["echo"] == {"a": 1}


def test_a_message_beyond_what_the_web_server_reads_ends_the_connection(site: Site) -> None:
    with connect(site.url(), additional_headers=HEADERS) as line:
        line.send(b"\0" * 10_000)
        assert ended(line)[0] == 1009


def test_what_was_not_foreseen_shows_nothing(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with connect(site.url(), additional_headers=HEADERS) as line:
        said = ask(line, do="break")
        assert said["error"] == "INTERNAL_ERROR"
        assert said["request_id"] in said["reason"]
        assert ask(line, a=1)["echo"] == {"a": 1}
    assert "ZeroDivisionError in fal_apps.py" in caplog.text
    assert "s3cret" not in caplog.text + json.dumps(said)


def test_an_unknown_caller_is_told_as_both_clients_look_for_it(site: Site) -> None:
    for query, headers in (({}, {}), ({}, {"Authorization": "Key no:no"}), ({"fal_jwt_token": "eyJ.a.b"}, HEADERS)):
        with connect(site.url(**query), additional_headers=headers) as line:
            said = told(line)
            assert (said["type"], said["status"], said["error"]) == ("x-fal-error", "error", "Unauthorized")
            closed, reason = ended(line)
            assert closed == 1008 and said["reason"].startswith(reason)
    assert site.app.ran == []


def test_pages_of_other_sites_and_other_names_do_not_reach_a_hub_without_a_token(tmp_path: Path) -> None:
    with hub(tmp_path, keys=False) as site:
        with connect(site.url(), origin="http://localhost:3000") as line:  # type: ignore[arg-type]
            assert ask(line)["caller"] == "local"
        with connect(site.url(), origin="https://evil.example") as line:  # type: ignore[arg-type]
            assert told(line)["error"] == "FORBIDDEN"
            assert ended(line)[0] == 1008
        port = int(site.base.rpartition(":")[2])
        with connect(site.url().replace("127.0.0.1", "evil.example"), sock=socket.create_connection(("127.0.0.1", port))) as line:
            assert told(line)["error"] == "FORBIDDEN"
    assert len(site.app.ran) == 1


def test_a_token_is_for_its_apps_and_its_time(site: Site) -> None:
    good, foreign = site.token(), site.token("other")
    with connect(site.url(fal_jwt_token=good)) as line:
        assert ask(line)["caller"] == "ann"
    with connect(site.url(fal_jwt_token=foreign)) as line:
        assert "not for the app rt" in told(line)["reason"]
    site.clock[0] += 121
    with connect(site.url(fal_jwt_token=good)) as line:
        assert "expired" in told(line)["reason"]


@pytest.mark.parametrize(
    ("path", "query", "error"),
    [
        ("/nobody/nothing/realtime", {}, "APP_NOT_FOUND"),
        ("/t/rt/else/realtime", {}, "APP_NOT_FOUND"),
        ("/t/rt/realtime", {"max_buffering": 0}, "INVALID_REQUEST"),
        ("/t/rt/realtime", {"max_buffering": 61}, "INVALID_REQUEST"),
        ("/t/rt/realtime", {"max_buffering": "ten"}, "INVALID_REQUEST"),
        ("/t/rt/realtime", {"max_buffering": "²"}, "INVALID_REQUEST"),
        ("/t/rt/realtime", {"max_buffering": "9" * 5000}, "INVALID_REQUEST"),
    ],
)
def test_a_connection_that_cannot_be_served_says_why(site: Site, path: str, query: dict[str, Any], error: str) -> None:
    with connect(site.url(path, **query).replace("²", "%C2%B2"), additional_headers=HEADERS) as line:
        assert told(line)["error"] == error
        assert ended(line)[0] == 1008


def test_other_paths_refuse_the_handshake(site: Site) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(site.base.replace("http", "ws") + "/v1/models"):
        pass
    assert refused.value.response.status_code == 404
    assert json.loads(refused.value.response.body or b"")["error_type"] == "unknown_route"


def test_the_work_ends_when_the_peer_leaves(site: Site) -> None:
    with connect(site.url(), additional_headers=HEADERS) as line:
        line.send(msgpack.packb({"do": "wait"}))
        line.send(msgpack.packb({"never": "reached"}))
        assert site.app.waiting.wait(10)
    assert site.app.cancelled.wait(10)
    assert len(site.app.ran) == 1


def test_a_hub_that_stops_says_so_and_ends_the_work(tmp_path: Path) -> None:
    with ExitStack() as running:
        site = running.enter_context(hub(tmp_path))
        with connect(site.url(), additional_headers=HEADERS) as line:
            line.send(msgpack.packb({"do": "wait"}))
            assert site.app.waiting.wait(10)
            running.close()
            assert site.app.cancelled.is_set()
            assert ended(line)[0] == 1012


def test_each_message_is_a_request_of_its_own_under_the_terms_of_the_handshake(site: Site) -> None:
    terms = {"x-sensorium-where": "local_only", "x-mac-agent-id": "agent7"}
    with connect(site.url(), additional_headers=HEADERS | terms) as line:
        ask(line)
        ask(line)
    origins = [origin for origin, _ in site.app.under if origin is not None]
    assert [(one.caller, one.door, one.attribution, one.over) for one in origins] == [("bob", "/fal/run/*", {"agent": "agent7"}, True)] * 2
    assert [one.id for one in origins] == [task.id for task in site.app.ran]
    assert [where for _, where in site.app.under] == ["local_only"] * 2
    with connect(site.url(), additional_headers=HEADERS | {"x-sensorium-where": "moon"}) as line:
        assert "x-sensorium-where" in told(line)["reason"]
        assert ended(line)[0] == 1008


def test_answers_come_in_order_and_nothing_is_lost_without_a_number(site: Site) -> None:
    with connect(site.url(), additional_headers=HEADERS) as line:
        for number in range(200):
            line.send(msgpack.packb({"n": number}))
        assert [told(line)["echo"]["n"] for _ in range(200)] == list(range(200))


def test_with_a_number_the_oldest_that_wait_are_dropped(site: Site) -> None:
    with connect(site.url(max_buffering=2), additional_headers=HEADERS) as line:
        line.send(msgpack.packb({"do": "wait"}))
        assert site.app.waiting.wait(10)
        for number in range(5):
            line.send(msgpack.packb({"n": number}))
        while site.reads.get(timeout=10) < 1 + 6 + 1:  # the handshake, all messages, and the wait for another
            pass
        site.app.go_on.set()
        assert [told(line)["echo"] for _ in range(3)] == [{"do": "wait"}, {"n": 3}, {"n": 4}]


def test_a_connection_on_which_nothing_comes_is_closed_clean(tmp_path: Path) -> None:
    with hub(tmp_path, idle_s=0.05) as site, connect(site.url(), additional_headers=HEADERS) as line:
        assert told(line)["error"] == "TIMEOUT"
        with pytest.raises(ConnectionClosedOK):
            line.recv(timeout=10)


def test_one_connection_too_many_is_told_to_come_back(tmp_path: Path) -> None:
    with hub(tmp_path, at_most=1) as site, connect(site.url(), additional_headers=HEADERS) as first:
        assert ask(first, a=1)["echo"] == {"a": 1}
        with connect(site.url(), additional_headers=HEADERS) as second:
            assert told(second)["error"] == "BUSY"
            assert ended(second)[0] == 1013
        assert ask(first, a=2)["echo"] == {"a": 2}


def test_one_caller_leaves_room_for_others(tmp_path: Path) -> None:
    with hub(tmp_path, at_most=3, of_one=1) as site, connect(site.url(), additional_headers=HEADERS) as first:
        assert ask(first, a=1)["echo"] == {"a": 1}
        with connect(site.url(), additional_headers=HEADERS) as second:
            assert told(second)["error"] == "BUSY"
            assert ended(second)[0] == 1013
        with connect(site.url(fal_jwt_token=site.token())) as others:
            assert ask(others, a=2)["echo"] == {"a": 2}


def test_tokens_are_in_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with hub(tmp_path) as site:
        token = site.token()
        with connect(site.url(fal_jwt_token=token)) as line:
            ask(line)
    assert "WS '/fal/run/t/rt/realtime' by ann" in caplog.text
    assert token not in "".join(record.getMessage() for record in caplog.records if not record.name.startswith("websockets.client"))


def test_an_inbox_drops_the_oldest_until_count_and_bytes_hold() -> None:
    async def left(*frames: bytes) -> list[bytes | str]:
        inbox = Inbox(3, 10, dropping=True)
        for frame in frames:
            await inbox.put(frame)
        return [await inbox.take() for _ in range(inbox.waiting)]

    assert asyncio.run(left(b"1", b"2", b"3", b"4")) == [b"2", b"3", b"4"]
    assert asyncio.run(left(b"1", b"22222", b"333333")) == [b"333333"]
    assert asyncio.run(left(b"1", b"x" * 99)) == [b"x" * 99]


def test_an_inbox_that_drops_nothing_makes_the_reader_wait() -> None:
    async def talk() -> list[bytes | str]:
        inbox = Inbox(2, 10, dropping=False)
        await inbox.put(b"1")
        await inbox.put(b"2")
        third = asyncio.ensure_future(inbox.put(b"3"))
        await asyncio.sleep(0)
        assert not third.done()
        taken = [await inbox.take()]
        await third
        return [*taken, await inbox.take(), await inbox.take()]

    assert asyncio.run(talk()) == [b"1", b"2", b"3"]


def test_a_peer_that_takes_nothing_is_gone() -> None:
    async def send(message: Any) -> None:
        await asyncio.Event().wait()

    async def broken(message: Any) -> None:
        raise RuntimeError("Unexpected ASGI message")

    for sending in (send, broken):
        with pytest.raises(Cancelled):
            asyncio.run(Line(None, sending, 0.01).tell(b"result"))  # type: ignore[arg-type]
