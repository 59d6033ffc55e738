"""Deliveries to a real receiver on loopback, by a clock that only moves when a test moves it."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sensorium.jobs import outbox as outboxes
from sensorium.jobs.outbox import Delivery, Notification, Outbox, State
from sensorium.jobs.webhook_keys import Keys
from sensorium.jobs.webhook_tries import DELAYS_S
from sensorium.jobs.webhooks import Way, Webhooks
from sensorium.store.database import Database, StoreUnavailable
from sensorium.store.masterkey import KeyFile
from sensorium.store.signing import Signing
from sensorium.store.vault import Vault
from sensorium.wire.webhook import Ended, secret_bytes
from tests.receivers import Answer, Receiver, fals_recipe, receiving, standard_package

BROKEN = Answer(500, body=b"out of order")
SECRET = "whsec_" + "QUJDRA" * 6
MINUTE, HOUR = 60.0, 3600.0


class Time:
    """Seconds since the epoch, whole ones at the start; sleepers wake when it is moved."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self._sleepers: dict[asyncio.Future[None], float] = {}
        self._slept = asyncio.Event()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers[woken] = self.now + seconds
        self._slept.set()
        try:
            await woken
        finally:
            del self._sleepers[woken]

    def move(self, seconds: float) -> None:
        self.now += seconds
        for woken, at in self._sleepers.items():
            if at <= self.now and not woken.done():
                woken.set_result(None)

    def move_to_next(self) -> None:
        self.move(min(self._sleepers.values()) - self.now)

    async def sleeping(self, until: Callable[[], bool]) -> None:
        """Return when somebody has begun to sleep and `until` holds."""
        async with asyncio.timeout(20):
            while True:
                await self._slept.wait()
                self._slept.clear()
                if until():
                    return


async def result(id: str) -> Ended | None:
    return Ended(id, f"{id}.1", True, 200, b'{"output":"a dog"}', None, f"http://hub/{id}")


class World:
    """The parts of a hub that webhooks need, over one database."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.time, self.database = Time(), database
        self.outbox = Outbox(database, self.time)
        self.keys = Keys(self.outbox, Signing(Vault(database, KeyFile(folder / "master.key"), self.time)), self.time)
        self.payload: Callable[[str], Awaitable[Ended | None]] = result
        self.way = Way()
        self.make: type[Webhooks] = Webhooks
        self.hooks = self.webhooks()

    def webhooks(self) -> Webhooks:
        return self.make(
            self.outbox,
            self.keys,
            lambda id: self.payload(id),
            self.way,
            kept_s=30 * 24 * HOUR,
            now=self.time,
            sleep=self.time.sleep,
            chance=lambda: 0.5,
        )

    def end(self, id: str, url: str, caller: str = "ann") -> None:
        with self.database.write() as db:
            outboxes.add(db, id, caller, url, self.time())
        self.hooks.wake()

    async def rest(self) -> None:
        """Until nothing is in flight and the loop waits for a time or a wake-up."""
        await self.time.sleeping(lambda: self.hooks.in_flight == 0)

    async def next_try(self, receiver: Receiver) -> None:
        """Move the clock until one more notification has come, and its end is written."""
        before = len(receiver.got)
        while len(receiver.got) == before:
            self.time.move_to_next()
            await self.rest()

    def log(self, id: str) -> tuple[Notification, list[Delivery]]:
        found = self.outbox.log_of(id)
        assert found is not None
        return found

    def state(self, id: str) -> State:
        return self.log(id)[0].state


def deliver(folder: Path, work: Callable[[World], Awaitable[None]], *receivers: Receiver, **way: Any) -> None:
    """Do `work` beside a loop of deliveries that may call the receivers."""

    async def beside() -> None:
        with closing(Database(folder)) as database:
            world = World(database, folder)
            allow = [receiver.base.removeprefix("http://") for receiver in receivers]
            world.way = Way(**{"allow": allow, **way})
            await during(world, work)

    asyncio.run(beside())


async def during(world: World, work: Callable[[World], Awaitable[None]]) -> None:
    """Do `work` beside a loop of its own; the first look at the outbox is over."""
    world.hooks = world.webhooks()
    running = asyncio.create_task(world.hooks.run())
    try:
        await world.rest()
        await work(world)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def keys_of(world: World) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(world.keys.published())["keys"]
    return found


def times(receiver: Receiver) -> list[int]:
    return [int(got.headers["x-fal-webhook-timestamp"]) for got in receiver.got]


def test_what_ended_is_told_at_once_and_once_at_the_url_as_it_was_written(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.end("r-1", f"{receiver.base}/hé/%2f/{{a}}?job=a%2Fb+c&x=%C3%A9é|'#part")
        await world.rest()
        world.time.move(72 * HOUR)
        await world.rest()
        notification, tries = world.log("r-1")
        assert (notification.state, notification.tries, len(tries)) == (State.DELIVERED, 1, 1)
        assert (tries[0].address, tries[0].status, tries[0].reply, tries[0].error) == ("127.0.0.1", 204, "", None)

    with receiving(Answer(204, body=b"")) as receiver:
        deliver(tmp_path, work, receiver)
    (got,) = receiver.got
    assert got.path == "/h%C3%A9/%2f/{a}?job=a%2Fb+c&x=%C3%A9%C3%A9|'"
    assert got.told == {"request_id": "r-1", "gateway_request_id": "r-1.1", "status": "OK", "payload": {"output": "a dog"}}
    assert got.headers["content-type"] == "application/json"
    assert got.headers["x-fal-webhook-user-id"] == "ann"


def test_a_receiver_that_is_down_is_asked_fifteen_times_in_two_days(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        began = int(world.time())
        world.end("r-1", f"{receiver.base}/hook")
        await world.rest()
        for _ in DELAYS_S:
            await world.next_try(receiver)
            got = receiver.got[-1]
            for late in (0, 300, -300):
                assert fals_recipe(got.headers, got.body, keys_of(world), world.time() + late)
                assert standard_package(SECRET, got.headers, got.body, world.time() + late)
        expected = [began + int(sum(DELAYS_S[:tries])) for tries in range(len(DELAYS_S) + 1)]
        assert times(receiver) == expected
        notification, tries = world.log("r-1")
        assert (notification.state, notification.tries, len(tries)) == (State.GIVEN_UP, 15, 15)
        assert {(one.status, one.reply) for one in tries} == {(500, "out of order")}
        assert [one.at for one in tries] == expected
        world.time.move(72 * HOUR)
        await world.rest()

    with receiving(BROKEN) as receiver:
        deliver(tmp_path, work, receiver, secrets={"ann": secret_bytes(SECRET)})
    assert len(receiver.got) == 15
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1
    assert len({got.body for got in receiver.got}) == 1


def test_it_comes_when_the_receiver_is_back_after_two_hours(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.end("r-1", f"{receiver.base}/hook")
        await world.rest()
        while world.state("r-1") is State.WAITING:
            await world.next_try(receiver)
        assert times(receiver)[-1] - times(receiver)[0] == sum(DELAYS_S[:10])

    with receiving(*[BROKEN] * 10, Answer()) as receiver:
        deliver(tmp_path, work, receiver)
    assert len(receiver.got) == 11


def test_a_hub_that_was_off_for_a_week_tries_each_once_more(tmp_path: Path) -> None:
    async def first_life(world: World) -> None:
        world.end("failing", f"{down.base}/hook")
        await world.rest()
        world.end("untried", f"{receiver.base}/hook")

    async def second_life(world: World) -> None:
        assert (world.state("failing"), len(world.log("failing")[1])) == (State.GIVEN_UP, 2)
        assert world.state("untried") is State.DELIVERED

    async def both() -> None:
        with closing(Database(tmp_path)) as database:
            world = World(database, tmp_path)
            world.way = Way(allow=[one.base.removeprefix("http://") for one in (receiver, down)])
            await during(world, first_life)
            world.time.move(7 * 24 * HOUR)
            await during(world, second_life)

    with receiving() as receiver, receiving(BROKEN) as down:
        asyncio.run(both())


class SignedOnce(Webhooks):
    """The control: all tries carry the first one's headers."""

    kept: tuple[bytes, dict[str, str]] | None = None

    def _signed(self, notification: Notification, ended: Ended) -> tuple[bytes, dict[str, str]]:
        self.kept = self.kept or super()._signed(notification, ended)
        return self.kept


def test_the_control_signed_once_is_refused_by_the_recipe_when_it_comes_late(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.end("r-1", f"{receiver.base}/hook")
        await world.rest()
        verdicts = []
        for _ in range(7):
            await world.next_try(receiver)
            verdicts.append(fals_recipe(receiver.got[-1].headers, receiver.got[-1].body, keys_of(world), world.time()))
        assert verdicts == [True, True, True, True, False, False, False]

    async def once(world: World) -> None:
        world.make = SignedOnce
        await during(world, work)

    with receiving(BROKEN) as receiver, closing(Database(tmp_path)) as database:

        async def beside() -> None:
            world = World(database, tmp_path)
            world.way = Way(allow=[receiver.base.removeprefix("http://")])
            await once(world)

        asyncio.run(beside())


def test_a_redirect_ends_it_and_is_not_followed(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.end("r-1", f"{receiver.base}/hook")
        await world.rest()
        assert world.state("r-1") is State.GIVEN_UP
        world.time.move(72 * HOUR)
        await world.rest()

    with receiving() as elsewhere, receiving(Answer(307, {"location": f"{elsewhere.base}/there"})) as receiver:
        deliver(tmp_path, work, receiver, elsewhere)
    assert (len(receiver.got), len(elsewhere.got)) == (1, 0)


def test_gone_ends_it_and_pauses_that_callers_endpoint_until_somebody_asks_again(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        url = f"{receiver.base}/hook"
        world.end("r-1", f"{url}?a=1")
        await world.rest()
        assert world.state("r-1") is State.GIVEN_UP
        world.end("r-2", f"{url}?a=2")
        world.end("r-3", url, caller="bob")
        world.end("r-4", f"{receiver.base}/other")
        await world.rest()
        assert [world.state(id) for id in ("r-2", "r-3", "r-4")] == [State.WAITING, State.DELIVERED, State.DELIVERED]
        assert world.outbox.paused_since(world.log("r-2")[0].place) == world.time()
        assert world.outbox.again("r-1")
        world.hooks.wake()
        await world.rest()
        assert [world.state(id) for id in ("r-1", "r-2")] == [State.DELIVERED, State.DELIVERED]

    with receiving(Answer(410), Answer()) as receiver:
        deliver(tmp_path, work, receiver)


@pytest.mark.parametrize(
    ("status", "retry_after", "expected"), [(429, "120", 120), (503, "7200", 3600), (429, "1", 5), (429, "soon", 5), (500, "120", 5)]
)
def test_a_receiver_says_when(tmp_path: Path, status: int, retry_after: str, expected: int) -> None:
    async def work(world: World) -> None:
        world.end("r-1", f"{receiver.base}/hook")
        await world.rest()
        await world.next_try(receiver)
        assert times(receiver)[1] - times(receiver)[0] == expected
        assert world.state("r-1") is State.DELIVERED

    with receiving(Answer(status, {"retry-after": retry_after}), Answer()) as receiver:
        deliver(tmp_path, work, receiver)


def test_a_receiver_that_is_silent_is_left_after_15_seconds_and_then_after_30(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.end("r-1", f"{receiver.base}/hook")
        for seconds in (15, 30):
            await asyncio.to_thread(receiver.arrived.acquire)
            assert world.hooks.in_flight == 1
            world.time.move(seconds)
            await world.rest()
            assert world.log("r-1")[1][-1].error == f"no answer within {seconds} seconds"
            world.time.move_to_next()
        await asyncio.to_thread(receiver.arrived.acquire)
        await world.rest()
        assert [round(one.ms) for one in world.log("r-1")[1]] == [15_000, 30_000, 0]

    with receiving(Answer(silent=True), Answer(silent=True), Answer()) as receiver:
        deliver(tmp_path, work, receiver)
    assert [after - before for before, after in zip(times(receiver), times(receiver)[1:], strict=False)] == [15 + 5, 30 + 15]


def test_of_a_long_reply_the_beginning_is_kept(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.end("r-1", f"{receiver.base}/hook")
        await world.rest()
        (one,) = world.log("r-1")[1]
        assert (one.status, one.error, one.reply) == (200, None, "x" * 1024)

    with receiving(Answer(body=b"x" * 5 * 1024 * 1024)) as receiver:
        deliver(tmp_path, work, receiver)


def test_a_key_that_changes_in_between_is_published_before_and_after(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.end("r-1", f"{receiver.base}/hook")
        await world.rest()
        old = keys_of(world)
        world.keys.rotate()
        cached = keys_of(world)  # a receiver may keep this for a day
        while world.state("r-1") is State.WAITING:
            await world.next_try(receiver)
            got = receiver.got[-1]
            assert fals_recipe(got.headers, got.body, keys_of(world), world.time())
            assert fals_recipe(got.headers, got.body, cached, world.time())
            changed = world.time() >= times(receiver)[0] + 24 * HOUR
            assert fals_recipe(got.headers, got.body, old, world.time()) is not changed
        assert changed

    with receiving(BROKEN) as receiver:
        deliver(tmp_path, work, receiver)


def test_asked_again_it_has_the_same_id_and_a_new_time(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.end("r-1", f"{receiver.base}/hook")
        await world.rest()
        world.time.move(10 * MINUTE)
        assert world.outbox.again("r-1")
        world.hooks.wake()
        await world.rest()
        assert len(world.log("r-1")[1]) == 2
        assert fals_recipe(receiver.got[1].headers, receiver.got[1].body, keys_of(world), world.time())
        assert not fals_recipe(receiver.got[0].headers, receiver.got[0].body, keys_of(world), world.time())

    with receiving() as receiver:
        deliver(tmp_path, work, receiver)
    assert times(receiver)[1] - times(receiver)[0] == 10 * MINUTE
    assert len({got.headers["webhook-id"] for got in receiver.got}) == 1


def test_at_most_four_are_in_flight_to_one_endpoint_and_others_do_not_wait(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        for number in range(10):
            world.end(f"r-{number}", f"{slow.base}/hook?{number}")
        for _ in range(4):
            await asyncio.to_thread(slow.arrived.acquire)
        world.end("other", f"{receiver.base}/hook")
        await world.time.sleeping(lambda: world.hooks.in_flight == 4 and bool(receiver.got))
        assert world.state("other") is State.DELIVERED
        assert len(slow.got) == 4

    with receiving(Answer(silent=True)) as slow, receiving() as receiver:
        deliver(tmp_path, work, slow, receiver)


def test_an_endpoint_that_is_down_gets_one_probe_a_minute_and_all_when_it_is_back(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        for number in range(40):
            world.end(f"r-{number}", f"{down.base}/hook?{number}")
        await world.rest()
        first = len(down.got)
        assert 5 <= first <= 8  # four were in flight together when the fifth failure came
        world.end("other", f"{receiver.base}/hook")
        await world.rest()
        assert world.state("other") is State.DELIVERED
        for minute in range(1, 6):
            world.time.move(MINUTE)
            await world.rest()
            assert len(down.got) == first + minute
        down.answers[:] = [Answer()]
        world.time.move(MINUTE)
        await world.rest()
        while any(world.state(f"r-{number}") is State.WAITING for number in range(40)):
            world.time.move_to_next()  # to the seconds at which those that failed are due again
            await world.rest()
        assert {world.state(f"r-{number}") for number in range(40)} == {State.DELIVERED}

    with receiving(BROKEN) as down, receiving() as receiver:
        deliver(tmp_path, work, down, receiver)


class Slow(Outbox):
    """A database whose rows take a while to arrive, once `held` is there: they were read before that."""

    held: threading.Event | None = None

    def first(self, places: Collection[str], most: int) -> dict[str, list[Notification]]:
        rows = super().first(places, most)
        if self.held is not None:
            self.held.wait(20)
        return rows


def test_a_row_that_was_read_before_its_try_ended_is_not_sent_again(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        assert isinstance(world.outbox, Slow)
        gate = asyncio.Event()

        async def payload(id: str) -> Ended | None:
            await gate.wait()
            return await result(id)

        world.payload = payload
        world.end("r-1", f"{receiver.base}/hook?1")
        await world.time.sleeping(lambda: world.hooks.in_flight == 1)
        world.outbox.held = threading.Event()
        world.end("r-2", f"{receiver.base}/hook?2")
        gate.set()
        while world.hooks.in_flight:
            await asyncio.sleep(0)
        world.outbox.held.set()
        while world.state("r-2") is State.WAITING:
            await world.time.sleeping(lambda: True)
        await asyncio.sleep(0)
        assert sorted(got.path for got in receiver.got) == ["/hook?1", "/hook?2"]

    async def beside() -> None:
        with closing(Database(tmp_path)) as database:
            world = World(database, tmp_path)
            world.way = Way(allow=[receiver.base.removeprefix("http://")])
            world.outbox = Slow(database, world.time)
            await during(world, work)

    with receiving() as receiver:
        asyncio.run(beside())


class Dying(Outbox):
    """A database that cannot be written from the moment on that something is sent."""

    def delivered(self, tried: Notification, delivery: Delivery) -> None:
        raise StoreUnavailable("the disk is gone")


def test_a_hub_that_dies_between_sending_and_recording_sends_again_under_the_same_id(tmp_path: Path) -> None:
    async def first_life(world: World) -> None:
        world.end("r-1", f"{receiver.base}/hook")
        await asyncio.to_thread(receiver.arrived.acquire)
        for _ in range(3):  # it goes on trying to write it down, and does not send it again meanwhile
            await world.time.sleeping(lambda: world.hooks.in_flight == 1)
            world.time.move(2)
        assert len(receiver.got) == 1

    async def second_life(world: World) -> None:
        world.hooks.wake()
        await world.rest()
        assert world.state("r-1") is State.DELIVERED

    async def both() -> None:
        with closing(Database(tmp_path)) as database:
            world = World(database, tmp_path)
            world.way = Way(allow=[receiver.base.removeprefix("http://")])
            world.outbox = Dying(database, world.time)
            await during(world, first_life)
            world.outbox = Outbox(database, world.time)
            await during(world, second_life)

    with receiving() as receiver:
        asyncio.run(both())
    assert len(receiver.got) == 2
    assert receiver.got[0].headers["webhook-id"] == receiver.got[1].headers["webhook-id"]


@contextmanager
def listener() -> Iterator[tuple[int, list[int]]]:
    """A port on loopback, and the list that grows with every connection to it."""
    connections: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        stop = threading.Event()

        def accept() -> None:
            while not stop.is_set():
                with suppress(TimeoutError):
                    connection, _ = server.accept()
                    connections.append(1)
                    connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1], connections
        finally:
            stop.set()
            thread.join()


def knows(*found: str) -> Callable[[str, int], Awaitable[list[str]]]:
    async def resolve(host: str, port: int) -> list[str]:
        return list(found)

    return resolve


@pytest.mark.parametrize(
    ("url", "found", "allow", "why"),
    [
        ("http://127.0.0.1:{port}/", [], [], "this machine itself"),
        ("https://127.0.0.1:{port}/", [], [], "this machine itself"),
        ("https://hooks.example:{port}/", ["127.0.0.1"], [], "only https on port 443"),
        ("https://hooks.example/", ["127.0.0.1"], [], "this machine itself"),
        ("https://hooks.example/", ["93.184.216.34", "10.0.0.1"], [], "a private network"),
        ("http://hooks.example:{port}/", ["169.254.169.254"], ["hooks.example:{port}"], "metadata"),
        ("http://hooks.example:{port}/", ["64:ff9b::a9fe:a9fe"], ["hooks.example:{port}"], "metadata"),
        ("http://169.254.169.254:{port}/", [], ["169.254.169.254:{port}"], "metadata"),
        ("http://metadata.google.internal:{port}/", ["127.0.0.1"], ["metadata.google.internal:{port}"], "metadata"),
        ("http://0x7f.1:{port}/", ["127.0.0.1"], ["127.0.0.1:{port}"], "usual spelling"),
        ("http://2130706433:{port}/", ["127.0.0.1"], ["127.0.0.1:{port}"], "usual spelling"),
        ("http://user:word@127.0.0.1:{port}/", [], ["127.0.0.1:{port}"], "user name or password"),
        ("gopher://127.0.0.1:{port}/", [], ["127.0.0.1:{port}"], "only http and https"),
        ("http://hooks.example:{port}/", [], ["hooks.example:{port}"], "cannot be resolved"),
    ],
)
def test_an_address_that_is_not_permitted_is_not_connected_to(
    tmp_path: Path, url: str, found: list[str], allow: list[str], why: str
) -> None:
    async def work(world: World) -> None:
        world.end("r-1", url.format(port=port))
        await world.rest()
        (one,) = world.log("r-1")[1]
        assert one.error is not None
        assert why in one.error
        assert (one.address, one.status) == (None, None)
        assert world.state("r-1") is State.WAITING  # the operator may permit it, the name may be mended

    with listener() as (port, connections):
        deliver(tmp_path, work, allow=[entry.format(port=port) for entry in allow], resolve=knows(*found))
    assert connections == []


def test_a_listed_name_is_called_on_the_address_that_was_checked(tmp_path: Path) -> None:
    asked: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    async def work(world: World) -> None:
        world.end("r-1", f"http://hooks.example:{port}/hook")
        await world.rest()
        assert world.state("r-1") is State.DELIVERED

    with receiving() as receiver:
        port = receiver.base.rpartition(":")[2]
        deliver(tmp_path, work, allow=[f"Hooks.example:{port}"], resolve=resolve)
    assert asked == ["hooks.example"]
    assert receiver.got[0].headers["host"] == f"hooks.example:{port}"


def test_no_proxy_of_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(world: World) -> None:
        world.end("r-1", f"{receiver.base}/hook")
        await world.rest()
        assert world.state("r-1") is State.DELIVERED

    with listener() as (port, connections), receiving() as receiver:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        deliver(tmp_path, work, receiver)
    assert connections == []


def test_a_request_that_is_known_no_more_ends_it(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        async def nothing(id: str) -> Ended | None:
            return None

        world.payload = nothing
        world.end("r-1", f"{receiver.base}/hook")
        await world.rest()
        assert world.state("r-1") is State.GIVEN_UP
        assert world.log("r-1")[1][0].error == "the request runs again, or is known no more"

    with receiving() as receiver:
        deliver(tmp_path, work, receiver)
    assert receiver.got == []


def test_what_fails_in_the_hub_stops_no_other_and_is_no_try(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(world: World) -> None:
        failing: list[Exception] = [StoreUnavailable("the disk is gone")]

        async def payload(id: str) -> Ended | None:
            if id == "odd":
                raise ZeroDivisionError("a secret of the caller")
            if failing:
                raise failing.pop()
            return await result(id)

        world.payload = payload
        world.end("r-1", f"{receiver.base}/hook")
        await world.time.sleeping(lambda: world.hooks.in_flight == 1)
        world.end("odd", f"{receiver.base}/odd")
        await world.time.sleeping(lambda: bool(world.log("odd")[1]))
        world.time.move(2)
        await world.rest()
        assert world.state("r-1") is State.DELIVERED
        assert len(world.log("r-1")[1]) == 1
        assert world.log("odd")[1][0].error == "the hub failed on this delivery"

    with receiving() as receiver, caplog.at_level(logging.WARNING, "sensorium.webhooks"):
        deliver(tmp_path, work, receiver)
    assert "a secret of the caller" not in caplog.text
    assert "http://" not in caplog.text


def test_over_tls_the_name_is_asked_for_and_its_certificate_checked(tmp_path: Path) -> None:
    """The receiver's certificate is signed by itself: it is connected to on the checked address, under its name, and told nothing."""
    names: list[str | None] = []

    async def work(world: World) -> None:
        world.end("r-1", f"https://hooks.example:{port}/hook")
        await world.rest()
        (one,) = world.log("r-1")[1]
        assert (one.address, one.status) == ("127.0.0.1", None)
        assert "Certificate" in str(one.error)

    with tls_receiver(tmp_path, names) as port:
        deliver(tmp_path, work, allow=[f"hooks.example:{port}"], resolve=knows("127.0.0.1"))
    assert names == ["hooks.example"]


@contextmanager
def tls_receiver(folder: Path, names: list[str | None]) -> Iterator[int]:
    """A port on loopback that speaks TLS with a certificate of its own making, and notes the names that it is called by."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hooks.example")])
    began = datetime(2026, 1, 1)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), began, began + timedelta(days=36500))
    certificate = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example")]), critical=False).sign(key, None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    (folder / "receiver.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "receiver.pem")

    def noted(connection: Any, asked: str | None, context: ssl.SSLContext) -> None:
        names.append(asked)

    context.sni_callback = noted

    def shake() -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        thread = threading.Thread(target=shake)
        thread.start()
        yield server.getsockname()[1]
        thread.join()
