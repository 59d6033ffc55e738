"""The doors about webhooks: keys for everybody, deliveries for their owner, a target that is refused at submit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sensorium.api.auth import Auth
from sensorium.api.fal_webhooks import JWKS, WebhooksDoor, check_target, entries
from sensorium.api.router import Entry, Router
from sensorium.api.visit import Visit
from sensorium.jobs import outbox as outboxes
from sensorium.jobs.outbox import Delivery, Outbox
from sensorium.jobs.webhook_keys import AHEAD_S, Keys
from sensorium.store.database import Database
from sensorium.store.masterkey import KeyFile
from sensorium.store.signing import Signing
from sensorium.store.vault import Vault
from sensorium.wire import fal_errors, openai, webhook
from tests.api.hubs import Hub
from tests.serving import serving
from tests.store.vaults import KEY, Clock

URL = "https://a.example/hook?job=1"


class Site:
    """A hub of these doors alone. Who calls is said in a header, to play several callers."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.clock, self.database, self.woken = Clock(), database, 0
        self.outbox = Outbox(database, self.clock)
        self.keys = Keys(self.outbox, Signing(Vault(database, KeyFile(folder / KEY), self.clock)), self.clock)
        self.door = WebhooksDoor(self.outbox, self.keys, self.wake)
        self.hub = Hub("http://nowhere", [])

    def wake(self) -> None:
        self.woken += 1

    def app(self) -> Router:
        async def shown(visit: Visit) -> None:
            await self.door.deliveries(as_told(visit), visit.params[0])

        async def again(visit: Visit) -> None:
            await self.door.redeliver(as_told(visit), visit.params[0])

        async def rotate(visit: Visit) -> None:
            await self.door.rotate(as_told(visit))

        more = [Entry("GET", "/of/*", shown, openai.error), Entry("POST", "/of/*", again, openai.error)]
        more.append(Entry("POST", "/rotate", rotate, openai.error))
        return Router([*entries(self.door), *more], Auth("word"), lambda path: openai.error, 1000)

    def call(self, method: str, path: str, caller: str = "ann") -> tuple[int, Any]:
        return self.hub.json(method, path, headers={"authorization": "Bearer word", "x-caller": caller})


def as_told(visit: Visit) -> Visit:
    visit.caller = visit.header("x-caller")
    return visit


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(Database(tmp_path)) as database:
        site = Site(database, tmp_path)
        with database.write() as db:
            outboxes.add(db, "r-1", "ann", URL, site.clock())
        with serving(site.app()) as base:
            site.hub = Hub(base, [])
            yield site
            site.hub.close()


@pytest.mark.parametrize("path", JWKS)
def test_the_keys_are_for_everybody(site: Site, path: str) -> None:
    reply, raw = site.hub.call("GET", path)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.headers["cache-control"] == "public, max-age=3600"
    (plain, padded) = json.loads(raw)["keys"]
    assert raw == webhook.jwks([(plain["kid"], site.keys.seed())])
    assert padded == {**plain, "x": plain["x"] + "="}


def test_an_administrator_has_the_hub_sign_with_a_new_key_in_a_day(site: Site) -> None:
    status, told = site.call("POST", "/v1/webhooks/rotate")
    assert (status, told["first_use_at"]) == (200, site.clock() + AHEAD_S)
    assert told["kid"] in str(site.hub.json("GET", JWKS[0]))
    status, told = site.call("POST", "/rotate")
    assert (status, told["error"]["code"]) == (403, "missing_scope")


def test_the_owner_and_administrators_see_every_try(site: Site) -> None:
    found = site.outbox.log_of("r-1")
    assert found is not None
    site.outbox.failed(found[0], Delivery(site.clock(), "93.184.216.34", 500, 12.5, "out of order", None), site.clock() + 5)
    for caller in ("ann", "token", "local"):
        status, told = site.call("GET", "/of/r-1", caller)
        assert status == 200
        assert (told["request_id"], told["url"], told["state"], told["webhook_id"]) == ("r-1", URL, "waiting", found[0].webhook_id)
        assert told["next_try_at"] == site.clock() + 5
        assert told["data"] == [
            {"at": site.clock(), "address": "93.184.216.34", "status": 500, "ms": 12.5, "reply": "out of order", "error": None}
        ]


@pytest.mark.parametrize(("id", "caller"), [("r-1", "bob"), ("r-2", "ann"), ("r-2", "token"), ("", "ann")])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_for_everybody_else_there_is_none(site: Site, id: str, caller: str, method: str) -> None:
    status, told = site.call(method, f"/of/{id}", caller)
    assert (status, told["error"]["code"]) == (404, "unknown_request")
    assert site.woken == 0


def test_it_is_asked_for_again_under_its_id(site: Site) -> None:
    found = site.outbox.log_of("r-1")
    assert found is not None
    site.outbox.delivered(found[0], Delivery(site.clock(), "93.184.216.34", 200, 12.5, "", None))
    assert site.call("GET", "/of/r-1")[1]["state"] == "delivered"
    site.clock.now += 60
    status, told = site.call("POST", "/of/r-1")
    assert (status, told["state"], told["next_try_at"], told["webhook_id"]) == (202, "waiting", site.clock(), found[0].webhook_id)
    assert site.woken == 1


def test_a_paused_endpoint_is_said(site: Site) -> None:
    found = site.outbox.log_of("r-1")
    assert found is not None
    site.outbox.failed(found[0], Delivery(site.clock(), "93.184.216.34", 410, 12.5, "", None), None, pause=True)
    with site.database.write() as db:
        outboxes.add(db, "r-2", "ann", URL.replace("job=1", "job=2"), site.clock())
    assert site.call("GET", "/of/r-1")[1]["state"] == "given_up"
    told = site.call("GET", "/of/r-2")[1]
    assert (told["state"], told["next_try_at"]) == ("paused", None)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://optional.webhook.url/for/results",
            "https://my.app/hook?x=1&y=2",
            "https://93.184.216.34/",
            "https://[2606:4700::1111]/",
        ),
        *("https://EXAMPLE.com:443/", "https://bücher.example/", "https://example.com./", "http://192.168.1.5:9000/hook"),
        *("http://LAN.example:8080/", "https://127.0.0.1:8443/a", "http://[fd12::1]:80/"),
    ],
)
def test_targets_that_are_taken(url: str) -> None:
    check_target(url, ["192.168.1.5:9000", "lan.example:8080", "127.0.0.1:8443", "[fd12::1]:80"])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "proper URL|without a scheme"),
        ("optional.webhook.url/for/results", "without a scheme"),
        ("ftp://a.example/", "only http and https"),
        ("https://", "not a proper URL"),
        ("https://a.example:x/", "not a proper URL"),
        ("https://a b.example/", "blanks"),
        ("https://user:word@a.example/", "user name or password"),
        ("http://a.example/", r"only https on port 443 \(the operator can permit it"),
        ("https://a.example:8443/", "only https on port 443"),
        (f"https://a.example/?{'a' * 4096}", "4115 characters"),
        ("https://10.0.0.1/", "a private network"),
        ("https://127.0.0.1/", "this machine itself"),
        ("https://[::1]/", "this machine itself"),
        ("https://[::ffff:10.0.0.1]/", "private|ordinary"),
        ("https://[64:ff9b::a9fe:a9fe]/", "metadata"),
        ("https://[2002:a9fe:a9fe::]/", "metadata"),
        ("https://[fe80::1%25eth0]/", "usual spelling|private"),
        ("https://[2606:4700::1111%25eth0]/", "usual spelling|proper URL"),
        ("https://169.254.169.254/", "metadata"),
        ("http://169.254.169.254:80/latest", "metadata"),
        ("https://metadata.google.internal/", "metadata"),
        ("https://instance-data/", "metadata"),
        *[
            (f"https://{odd}/", "usual spelling|proper URL")
            for odd in ("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "a.0x7f", "1.2.3.4.5")
        ],
    ],
)
def test_targets_that_are_refused_at_submit(url: str, why: str) -> None:
    with pytest.raises(fal_errors.Refused, match=why) as caught:
        check_target(url, ["169.254.169.254:80", "127.0.0.1:80"])
    (fault,) = json.loads(fal_errors.error(caught.value, "call-1"))["detail"]
    assert (caught.value.status, fault["loc"], fault["type"], fault["input"]) == (422, ["query", "fal_webhook"], "value_error", url[:200])


def test_a_name_is_resolved_by_nobody_at_submit(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: Any) -> None:
        raise AssertionError("resolved")

    monkeypatch.setattr("socket.getaddrinfo", never)
    check_target("https://optional.webhook.url/for/results", [])
