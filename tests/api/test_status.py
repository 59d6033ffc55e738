"""GET /v1/status tells the state of every part and changes none; POST /v1/settings/reload takes a changed file over, or nothing of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from sensorium import app
from sensorium.api.auth import Auth, Principal
from sensorium.api.router import Entry, Router
from sensorium.api.status import StatusDoor
from sensorium.api.visit import Visit
from sensorium.engines.supervisor import EngineProcess
from sensorium.live import Source
from sensorium.settings import load
from sensorium.store.database import Database
from sensorium.store.masterkey import KeyFile
from sensorium.store.vault import Vault
from sensorium.wire import openai
from tests.api.hubs import Hub, LazyUpstream
from tests.serving import serving
from tests.upstream_program import Provider

RELOAD = "/v1/settings/reload"
CANARY = "nvapi-CANARY-q7Jx2"
LOCAL = "[local]\nenabled = false\n"
TALK = '[providers.talk]\nkind = "openai"\nbase_url = "{at}/v1"\nkey = "secret:talk"\nmodels = ["good", "refuse-503", "slow"]\n'
BASE = LOCAL + TALK
MORE = '[providers.paint]\nkind = "genai"\nbase_url = "{at}/v1/genai"\nmodels = [{{ id = "org/good", modality = "image" }}]\n'
HELLO = {"messages": [{"role": "user", "content": "hello"}]}


class Bench:
    """A hub built from a settings file in front of a test provider, and the file."""

    def __init__(self, folder: Path, at: str, upstream: LazyUpstream, vault: Vault) -> None:
        self.file, self.at = folder / "hub.toml", at
        self.write(BASE)
        self.vault = vault
        read = lambda: load(self.file, {"MAC_API_TOKEN": "t"}, data_dir=folder)  # noqa: E731
        self.built = app.build(read(), None, upstream.send, vault, Source(self.file, read))
        self.hub: Hub

    def write(self, text: str) -> None:
        self.file.write_text(text.format(at=self.at), "utf-8")

    def json(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return self.hub.json(method, path, body, {"authorization": "Bearer t"})

    def status(self) -> Any:
        code, told = self.json("GET", "/v1/status")
        assert (code, CANARY in json.dumps(told)) == (200, False)
        return told

    def route(self, model: str) -> Any:
        return next(one for one in self.status()["routes"] if one["model"] == model)


@contextmanager
def bench(folder: Path, at: str) -> Iterator[Bench]:
    with closing(Database(folder)) as database:
        vault = Vault(database, KeyFile(folder / "master.key"))
        vault.put("talk", CANARY, [at], who="test")
        upstream = LazyUpstream()
        made = Bench(folder, at, upstream, vault)

        async def closing_down(scope: Any, receive: Any, send: Any) -> None:
            await made.built.router(scope, receive, send)
            if scope["type"] == "lifespan":
                await upstream.close()

        with serving(closing_down) as base:
            made.hub = Hub(base, [])
            try:
                yield made
            finally:
                made.hub.close()


def test_a_new_hub_tells_what_there_is(tmp_path: Path, at: str) -> None:
    with bench(tmp_path, at) as hub:
        told = hub.status()
    assert (told["object"], told["engines"], told["data"]["ok"], told["data"]["problem"]) == ("status", {}, True, None)
    assert told["jobs"] == {"waiting": 0, "running": 0, "lanes": {}}
    assert told["settings"]["file"] == "hub.toml" and told["settings"]["problems"] == [] and told["settings"]["needs_restart"] == []
    assert told["modalities"]["chat"]["on"] and not told["modalities"]["video"]["on"]
    assert "router.video (URL + key)" in told["modalities"]["video"]["detail"]
    assert {one["model"]: (one["state"], one["provider"], one["dialect"]) for one in told["routes"]} == dict.fromkeys(
        ("good", "refuse-503", "slow"), ("open", "talk", "openai")
    )


def test_an_outage_and_its_end_are_seen_and_looking_costs_no_trial(tmp_path: Path, at: str) -> None:
    with bench(tmp_path, at) as hub:
        for _ in range(3):
            assert hub.json("POST", "/v1/chat/completions", {**HELLO, "model": "refuse-503"})[0] == 503
        first, second = hub.route("refuse-503"), hub.route("refuse-503")
        assert (first["state"], first["reason"], first["last_error"]["class"]) == ("out", "its last calls failed", "provider_outage")
        assert 0 <= second["next_try_s"] <= first["next_try_s"] <= 30
        assert hub.route("good")["state"] == "open"
        assert hub.status()["modalities"]["chat"]["trouble"] == ["talk: its last calls failed"]


def test_a_missing_key_is_told_and_a_new_one_ends_it(tmp_path: Path, at: str) -> None:
    with bench(tmp_path, at) as hub:
        hub.vault.remove("talk", who="test")
        assert "there is no secret talk" in hub.route("good")["reason"]
        assert not hub.status()["modalities"]["chat"]["on"]
        hub.vault.put("talk", CANARY, [at], who="test")
        assert hub.route("good")["state"] == "open"


def test_an_unreadable_database_is_told_and_the_rest_goes_on(tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(tmp_path, at) as hub:
        assert hub.json("POST", "/v1/chat/completions", {**HELLO, "model": "good"})[0] == 200
        hub.vault.database._reader.close()  # as a disk does that goes away
        told = hub.status()
        assert (told["data"]["ok"], "cannot be read" in told["data"]["problem"]) == (False, True)
        assert told["jobs"] == {"waiting": None, "running": None, "lanes": {}}
        assert hub.json("POST", "/v1/chat/completions", {**HELLO, "model": "good"})[0] == 200


def test_a_changed_file_is_taken_over_and_what_is_known_of_the_rest_stays(tmp_path: Path, at: str) -> None:
    with bench(tmp_path, at) as hub:
        for _ in range(3):
            hub.json("POST", "/v1/chat/completions", {**HELLO, "model": "refuse-503"})
        assert hub.json("POST", "/v1/genai/org/good", {"prompt": "a cube"})[0] == 404
        hub.write(BASE + MORE + "[server]\nport = 1\nmax_body_bytes = 4096\n")
        code, told = hub.json("POST", RELOAD)
        assert (code, told["changed"]) == (200, ["providers.paint", "server.max_body_bytes"])
        assert told["needs_restart"] == hub.status()["settings"]["needs_restart"] == ["server.port"]
        assert hub.json("POST", "/v1/genai/org/good", {"prompt": "a cube"})[0] == 200
        assert hub.route("refuse-503")["state"] == "out"
        assert hub.json("POST", "/v1/chat/completions", {**HELLO, "model": "good", "user": "u" * 5000})[0] == 413
        assert hub.json("PUT", "/v1/secrets/talk", {"value": CANARY})[0] == 200
        hub.write(MORE)
        assert hub.json("POST", RELOAD)[1]["changed"] == ["providers.talk", "server.max_body_bytes"]
        assert hub.json("POST", "/v1/chat/completions", {**HELLO, "model": "good"})[0] == 404


def test_a_changed_address_forgets_what_is_known_of_the_old_one(tmp_path: Path, at: str) -> None:
    with bench(tmp_path, at) as hub:
        for _ in range(3):
            hub.json("POST", "/v1/chat/completions", {**HELLO, "model": "refuse-503"})
        hub.write(BASE.replace("{at}/v1", "{at}/v2"))
        hub.json("POST", RELOAD)
        assert hub.route("refuse-503")["state"] == "open"


def test_a_file_with_problems_changes_nothing_and_both_doors_say_so(tmp_path: Path, at: str) -> None:
    with bench(tmp_path, at) as hub:
        hub.write(MORE + "prot = 1\n[router.image]\nurl = 'ftp://x'\n")
        code, told = hub.json("POST", RELOAD)
        assert (code, told["error"]["code"]) == (422, "invalid_settings")
        assert "providers.paint.prot: unknown key" in told["error"]["message"] and "router.image.url" in told["error"]["message"]
        assert len(hub.status()["settings"]["problems"]) == 2
        assert hub.json("POST", "/v1/chat/completions", {**HELLO, "model": "good"})[0] == 200
        hub.write(BASE)
        assert hub.json("POST", RELOAD)[1]["changed"] == []
        assert hub.status()["settings"]["problems"] == []


def test_a_call_in_flight_ends_on_its_old_route(tmp_path: Path, provider: Provider, at: str) -> None:
    with bench(tmp_path, at) as hub:
        asked = {**HELLO, "model": "slow", "stream": True}
        provider.step.release()
        reply = hub.hub.open("POST", "/v1/chat/completions", asked, {"authorization": "Bearer t"})
        begun = reply.read1()
        assert b"data:" in begun and hub.route("slow")["in_flight"] == 1
        hub.write(MORE)
        assert hub.json("POST", RELOAD)[0] == 200
        assert hub.json("POST", "/v1/chat/completions", asked)[0] == 404
        for _ in range(20):
            provider.step.release()
        assert b"[DONE]" in begun + reply.read()


def test_a_route_whose_engine_is_not_ready_says_so(tmp_path: Path) -> None:
    with closing(Database(tmp_path)) as database:
        vault = Vault(database, KeyFile(tmp_path / "master.key"))
        engine = EngineProcess("local", list(app.shipped_models()), environment={})
        try:
            told = app.build(load(None, {}, data_dir=tmp_path), engine, LazyUpstream().send, vault).status.report()
        finally:
            asyncio.run(engine.stop())
    assert {(one["state"], one["reason"]) for one in told["routes"]} == {("open", "its engine is stopped; calls wait for it")}
    assert told["engines"] == {"local": {"state": "stopped", "restarts": 0, "problems": []}}


def test_both_doors_need_the_token_and_the_second_an_administrator(tmp_path: Path, at: str) -> None:
    with bench(tmp_path, at) as hub:
        assert [hub.hub.json(method, path)[0] for method, path in (("GET", "/v1/status"), ("POST", RELOAD))] == [401, 401]

    class Agents(Auth):
        def __call__(self, visit: Visit) -> Principal:
            return Principal("agent-7")

    def untouched() -> dict[str, Any]:
        raise AssertionError("this caller may not")

    door = StatusDoor(untouched, untouched)
    entries = [Entry("GET", "/v1/status", door.status, openai.error), Entry("POST", RELOAD, door.reload, openai.error)]
    with serving(Router(entries, Agents(None), lambda _: openai.error, 2**20)) as base:
        agent = Hub(base, [])
        for method, path in (("GET", "/v1/status"), ("POST", RELOAD)):
            code, told = agent.json(method, path)
            assert (code, told["error"]["code"]) == (403, "missing_scope")
