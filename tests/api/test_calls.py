"""Every call leaves one record that can be read, however it ends, and the records hold nothing of what was said."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from sensorium import app
from sensorium.api.auth import Auth
from sensorium.api.calls import CallsDoor
from sensorium.api.router import Entry, Router
from sensorium.settings import Settings
from sensorium.store.calls import Calls
from sensorium.store.database import Database, StoreUnavailable
from sensorium.wire import openai
from tests.api.hubs import MODELS, Hub, LazyUpstream, Scripted, living
from tests.serving import serving
from tests.simulators.site import KEY, MAGPIE, eventually, running
from tests.store.test_calls import finished
from tests.store.vaults import every_byte, opened
from tests.upstream_program import PNG, Provider

CHAT = "/v1/chat/completions"
CANARY = "canary-Zq7-prompt"
DEAD = "http://127.0.0.1:1/v1"


def ask(model: str = "good", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": CANARY}], **more}


def settings(provider: str) -> Settings:
    """`dead` answers nobody, `talk` is what answers after it; pictures in both dialects."""
    talk = [
        *({"id": id, "vision": True} for id in (*MODELS, "refuse-422")),
        {"id": "dead-picture", "modality": "image", "upstream": "good"},
    ]
    talk += [{"id": "vector", "modality": "embed"}]
    table = {
        "dead": {"kind": "openai", "base_url": DEAD, "models": ["good", {"id": "dead-picture", "modality": "image"}]},
        "talk": {"kind": "openai", "base_url": f"{provider}/v1", "models": talk},
        "paint": {"kind": "genai", "base_url": f"{provider}/v1/genai", "models": [{"id": "org/good", "modality": "image"}]},
    }
    return Settings.model_validate({"local": {"enabled": False}, "providers": table})


@contextmanager
def recorded(configured: Settings, folder: Path) -> Iterator[tuple[Hub, Calls]]:
    """A hub that records."""
    upstream = LazyUpstream()
    with opened(folder) as vault, closing(Database(folder)) as database:
        calls = Calls(database, keep_s=1e6, keep=100_000)
        at = configured.model_copy(update={"server": configured.server.model_copy(update={"data_dir": folder})})
        built = app.build(at, None, upstream.send, vault, calls=calls)
        with serving(living(built.router, built.durable.jobs, upstream)) as base:
            hub = Hub(base, [])
            try:
                yield hub, calls
            finally:
                hub.close()


@pytest.fixture
def hub(at: str, tmp_path: Path) -> Iterator[tuple[Hub, Calls]]:
    with recorded(settings(at), tmp_path) as made:
        yield made


def records(hub: Hub, count: int, query: str = "") -> list[dict[str, Any]]:
    """The records, newest first, once there are `count` of them; a record may come a moment after its reply."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found[:] = hub.json("GET", f"/v1/calls?limit=1000{query}")[1]["data"]
        return len(found) >= count

    eventually(there)
    assert len(found) == count
    return found


def only(hub: Hub) -> dict[str, Any]:
    return records(hub, 1)[0]


def test_a_failover_is_one_record_with_the_route_that_failed(hub: tuple[Hub, Calls]) -> None:
    names = {"X-MAC-Agent-ID": "coder-1", "X-MAC-Fleet": "blue", "X-MAC-Task-ID": "two words", "X-MAC-Lease-ID": "l" * 300}
    context = {"task_id": "t-9", "agent": "not this", "command": "run", "lease_id": 4, "more": CANARY}
    reply, raw = hub[0].call("POST", CHAT, ask(_mac_context=context), {"x-request-id": "mine", **names})
    assert reply.status == 200
    call = only(hub[0])
    assert (call["id"], call["door"], call["caller"], call["asked"], call["modality"]) == ("mine", CHAT, "local", "good", "chat")
    assert (call["provider"], call["model"], call["status"], call["outcome"], call["stream"]) == ("talk", "good", 200, "answered", False)
    assert (call["bytes_in"], call["bytes_out"]) == (len(json.dumps(ask(_mac_context=context))), len(raw))
    assert 0 < call["first_byte_s"] <= call["total_s"]
    assert [(one["provider"], one["class"], one["asked"]) for one in call["attempts"]] == [("dead", "transport", True)]
    assert "30 s" in call["attempts"][0]["reaction"]
    given = {"agent": "coder-1", "task": "t-9", "lease": "l" * 256, "command": "run", "request": None, "fleet": "blue"}
    assert call["attribution"] == given


def test_what_the_caller_says_about_itself_never_goes_upstream(hub: tuple[Hub, Calls], provider: Provider) -> None:
    context = {"_mac_context": {"agent": "a"}}
    paths = [(CHAT, ask()), ("/v1/genai/org/good", {"prompt": "p"}), ("/v1/images/generations", {"model": "org/good", "prompt": "p"})]
    paths += [("/v1/embeddings", {"model": "vector", "input": "x"})]
    before = len(provider.seen)
    for path, body in paths:
        reply, _ = hub[0].call("POST", path, body | context)
        assert (reply.status, reply.getheader("x-sensorium-changed")) == (200, None)
    assert not any(b"_mac_context" in body for _, _, body in provider.seen[before:])
    assert {call["attribution"]["agent"] for call in records(hub[0], len(paths))} == {"a"}


@pytest.mark.parametrize(("model", "status", "outcome"), [("refuse-401", 401, "refused"), ("refuse-503", 503, "failed")])
def test_an_error_of_the_provider_is_one_record(hub: tuple[Hub, Calls], model: str, status: int, outcome: str) -> None:
    assert hub[0].json("POST", CHAT, ask(model))[0] == status
    call = only(hub[0])
    assert (call["status"], call["outcome"], call["provider"], call["first_byte_s"]) == (status, outcome, None, None)
    assert [(one["provider"], one["status"], one["message"]) for one in call["attempts"]] == [("talk", status, "refused on purpose")]


def test_what_cannot_be_read_is_no_call_and_what_nobody_serves_is_a_refused_one(hub: tuple[Hub, Calls]) -> None:
    for method, path, body in (("POST", CHAT, b"{"), ("GET", "/nowhere", None), ("GET", CHAT, None)):
        assert hub[0].json(method, path, body)[0] in (400, 404, 405)
    assert hub[0].json("POST", CHAT, ask("no-such-model"))[0] == 404
    call = only(hub[0])
    assert (call["status"], call["outcome"], call["provider"], call["attempts"]) == (404, "refused", None, [])


def test_a_stream_that_is_cut_has_failed(hub: tuple[Hub, Calls]) -> None:
    _, raw = hub[0].call("POST", CHAT, ask("cut", stream=True))
    call = only(hub[0])
    assert (call["status"], call["outcome"], call["stream"], call["bytes_out"]) == (200, "failed", True, len(raw))


@pytest.mark.parametrize("frames", [0, 1])
def test_a_caller_who_hangs_up_is_one_record(hub: tuple[Hub, Calls], provider: Provider, frames: int) -> None:
    asked = len(provider.seen)
    connection = HTTPConnection(hub[0].address, timeout=10)
    connection.request("POST", CHAT, json.dumps(ask("slow", stream=True)))
    eventually(lambda: len(provider.seen) > asked)
    for _ in range(frames):
        provider.step.release()
        connection.getresponse().read(5)
    connection.close()
    call = only(hub[0])
    assert (call["outcome"], call["status"]) == ("client_closed", 200 if frames else 499)
    assert call["provider"] == "talk"


def test_pictures_of_several_calls_are_one_record(hub: tuple[Hub, Calls]) -> None:
    assert hub[0].json("POST", "/v1/images/generations", {"model": "org/good", "prompt": CANARY, "n": 3})[0] == 200
    call = only(hub[0])
    assert (call["asked"], call["provider"], call["usage"]["images"]) == ("org/good", "paint", 3)


def test_a_door_that_goes_on_to_the_next_provider_leaves_one_record(hub: tuple[Hub, Calls]) -> None:
    assert hub[0].json("POST", "/v1/images/generations", {"model": "dead-picture", "prompt": CANARY})[0] == 200
    call = only(hub[0])
    assert (call["status"], call["outcome"], call["provider"], call["usage"]["images"]) == (200, "answered", "talk", 1)
    assert {one["provider"] for one in call["attempts"]} == {"dead"}


def test_speech_counts_characters_and_seconds_and_a_look_at_the_voices_is_part_of_its_call(tmp_path: Path) -> None:
    with running() as site:
        audio = {"url": f"http://{site.address}{MAGPIE}/v1/audio", "key_env": "SIMULATED_KEY"}
        configured = Settings.model_validate({"local": {"enabled": False}, "router": {"audio": audio}})
        with recorded(configured.model_copy(update={"keys": {"router.audio": KEY}}), tmp_path) as (hub, _):
            _, sound = hub.call("POST", "/v1/audio/synthesize", {"text": "hello", "voice": "Magpie-Multilingual.EN-US.Aria"})
            said = only(hub)
            assert hub.json("POST", "/v1/audio/synthesize", {"text": "hello", "voice": "Magpie-Multilingual.EN-US.Nobody"})[0] == 400
            refused = records(hub, 2)[0]
    assert (said["usage"]["characters"], said["usage"]["seconds"]) == (5, (len(sound) - 44) / (2 * 22050))
    assert (refused["outcome"], refused["status"], refused["door"]) == ("refused", 400, "/v1/audio/synthesize")
    assert set(refused["usage"].values()) == {None}


def test_two_hundred_calls_at_once_leave_two_hundred_records(hub: tuple[Hub, Calls]) -> None:
    def call(number: int) -> int:
        model = ("good", "odd", "refuse-422", "cut")[number % 4]
        body = json.dumps(ask(model, stream=model == "cut"))
        with closing(HTTPConnection(hub[0].address, timeout=60)) as connection:
            connection.request("POST", CHAT, body, {"x-request-id": f"r{number}"})
            reply = connection.getresponse()
            reply.read()
            return reply.status

    with ThreadPoolExecutor(50) as pool:
        statuses = list(pool.map(call, range(200)))
    found = records(hub[0], 200)
    assert sorted(one["id"] for one in found) == sorted(f"r{number}" for number in range(200))
    assert {one["id"]: one["status"] for one in found} == {f"r{number}": status for number, status in enumerate(statuses)}
    assert {"answered", "refused", "failed"} == {one["outcome"] for one in found}


@pytest.mark.parametrize("streamed", [False, True])
def test_tokens_are_counted_though_nobody_asked_and_the_caller_does_not_see_it(
    scripted_calls: tuple[Scripted, Hub], streamed: bool
) -> None:
    program, hub = scripted_calls
    usage = b'"usage":{"prompt_tokens":7,"completion_tokens":9}'
    delta, last, done = b'data: {"choices":[{"delta":{}}]}\n\n', b'data: {"choices":[],' + usage + b"}\n\n", b"data: [DONE]\n\n"
    if streamed:
        program.body, program.media = delta + last + done, b"text/event-stream"
    else:
        program.body = b'{"choices":[],' + usage + b"}"
    reply, raw = hub.call("POST", CHAT, ask("slow", stream=streamed, stream_options={"x": 1}))
    assert (reply.getheader("x-sensorium-changed"), raw) == (None, delta + done if streamed else program.body)
    assert json.loads(program.asked[0][1])["stream_options"] == ({"x": 1, "include_usage": True} if streamed else {"x": 1})
    told = only(hub)["usage"]
    assert told == {"tokens_in": 7, "tokens_out": 9, "images": None, "seconds": None, "characters": None}
    if streamed:
        _, raw = hub.call("POST", CHAT, ask("slow", stream=True, stream_options={"include_usage": True}))
        assert raw == program.body


@pytest.fixture
def scripted_calls(tmp_path: Path) -> Iterator[tuple[Scripted, Hub]]:
    program = Scripted()
    with serving(program) as base, recorded(settings(base), tmp_path) as (hub, _):
        yield program, hub


def test_no_usage_is_unknown_and_not_nothing(hub: tuple[Hub, Calls]) -> None:
    hub[0].call("POST", CHAT, ask())
    assert set(only(hub[0])["usage"].values()) == {None}


def test_nothing_of_what_was_said_or_drawn_is_kept(at: str, tmp_path: Path) -> None:
    picture = base64.b64encode(b"canary picture" * 20).decode()
    seen = [{"type": "text", "text": CANARY}, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}]
    token = {"Authorization": "Bearer canary-token", "X-MAC-Task-ID": f"see {CANARY}", "X-MAC-Agent-ID": "nvapi-canary-key"}
    with recorded(settings(at).model_copy(update={"token": "canary-token"}), tmp_path) as (hub, calls):
        for model in ("good", "refuse-401", "refuse-503"):
            hub.call("POST", CHAT, {"model": model, "messages": [{"role": "user", "content": seen}]}, token)
        hub.call("POST", "/v1/genai/org/good", {"prompt": CANARY}, token)
        eventually(lambda: len(hub.json("GET", "/v1/calls", None, token)[1]["data"]) == 4)
        kept = every_byte(tmp_path)
        assert calls.waiting == 0
    assert b"refused on purpose" in kept
    for canary in (CANARY, picture[:40], PNG[:40], "canary-token", "nvapi-canary-key"):
        assert canary.encode() not in kept


def test_a_provider_that_quotes_the_prompt_is_not_quoted(scripted_calls: tuple[Scripted, Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    _, hub = scripted_calls

    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        body = json.dumps({"error": {"message": f"not allowed: {CANARY}!"}}).encode()
        await receive()
        await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})

    monkeypatch.setattr(Scripted, "__call__", lambda self, *exchange: refuse(*exchange))
    assert CANARY in json.dumps(hub.json("POST", CHAT, ask("slow"))[1])
    call = only(hub)
    assert (call["outcome"], call["status"], call["attempts"][0]["message"]) == ("refused", 400, "(it repeats the call)")


def test_one_call_is_told_by_its_id_and_an_id_that_repeats_says_so(hub: tuple[Hub, Calls]) -> None:
    for model in ("good", "refuse-401"):
        hub[0].call("POST", CHAT, ask(model), {"x-request-id": "twice"})
    records(hub[0], 2)
    status, call = hub[0].json("GET", "/v1/calls/twice")
    assert (status, call["object"], call["status"], call["count"]) == (200, "call", 401, 2)
    status, error = hub[0].json("GET", "/v1/calls/never")
    assert (status, error["error"]["code"]) == (404, "unknown_call")


def test_the_list_goes_page_by_page_and_can_be_narrowed(hub: tuple[Hub, Calls]) -> None:
    for model in ("good", "refuse-401", "good"):
        hub[0].call("POST", CHAT, ask(model))
    records(hub[0], 3)
    page = hub[0].json("GET", "/v1/calls?limit=2")[1]
    assert (page["object"], len(page["data"]), page["has_more"], page["lost"]) == ("list", 2, True, 0)
    rest = hub[0].json("GET", f"/v1/calls?limit=2&before={page['data'][-1]['number']}")[1]
    assert (len(rest["data"]), rest["has_more"]) == (1, False)
    assert [call["status"] for call in records(hub[0], 1, "&outcome=refused")] == [401]
    assert len(records(hub[0], 3, "&caller=local")) == 3
    assert hub[0].json("GET", "/v1/calls?caller=somebody")[1]["data"] == []


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "before=-1", "before=9" + "9" * 40, "outcome=good", "model=m"])
def test_a_filter_that_is_none_is_named(hub: tuple[Hub, Calls], query: str) -> None:
    status, error = hub[0].json("GET", f"/v1/calls?{query}")
    assert (status, error["error"]["param"]) == (400, query.partition("=")[0])


def test_records_are_for_administrators(at: str, tmp_path: Path) -> None:
    with recorded(settings(at).model_copy(update={"token": "sesame"}), tmp_path) as (hub, _):
        for path in ("/v1/calls", "/v1/calls/x"):
            assert hub.json("GET", path)[0] == 401


def test_a_caller_reads_its_own_records_only(tmp_path: Path) -> None:
    with closing(Database(tmp_path)) as database:
        calls = Calls(database, keep_s=1e9, keep=100)
        for id, caller in (("a", "alice"), ("b", "bob"), ("both", "alice"), ("both", "bob")):
            calls.add(finished(id, caller=caller))
        door = CallsDoor(calls)
        entries = [Entry("GET", "/v1/calls", door.latest, openai.error), Entry("GET", "/v1/calls/*", door.call, openai.error)]
        with serving(Router(entries, Auth("sesame", {"alice": "a1:s"}), lambda _: openai.error, 2**20)) as base:
            hub, alice = Hub(base, []), {"authorization": "Key a1:s"}
            for query in ("", "?caller=alice"):
                told = hub.json("GET", f"/v1/calls{query}", headers=alice)[1]
                assert [call["id"] for call in told["data"]] == ["both", "a"]
            status, told = hub.json("GET", "/v1/calls?caller=bob", headers=alice)
            assert (status, told["error"]["code"]) == (403, "missing_scope")
            assert hub.json("GET", "/v1/calls/b", headers=alice)[0] == 404
            status, told = hub.json("GET", "/v1/calls/both", headers=alice)
            assert (status, told["caller"], told["count"]) == (200, "alice", 1)
            admin = {"authorization": "Bearer sesame"}
            assert hub.json("GET", "/v1/calls/both", headers=admin)[1]["count"] == 2
            assert len(hub.json("GET", "/v1/calls", headers=admin)[1]["data"]) == 4
            hub.close()


def failing(error: Exception) -> Callable[..., Any]:
    def write(*_: Any) -> Any:
        raise error

    return write


def test_a_database_that_cannot_be_written_delays_no_call(hub: tuple[Hub, Calls], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(Database, "write", failing(StoreUnavailable("locked")))
        for _ in range(3):
            assert hub[0].json("POST", CHAT, ask())[0] == 200
        assert hub[0].json("GET", "/v1/calls")[1]["data"] == []
        eventually(lambda: hub[1].waiting == 3)
    records(hub[0], 3)


def test_a_fault_of_the_recorder_costs_a_record_and_no_call(hub: tuple[Hub, Calls], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("sensorium.routing.ledger._used", failing(ZeroDivisionError()))
        assert hub[0].json("POST", CHAT, ask())[0] == 200
        eventually(lambda: hub[1].lost() == 1)
    hub[0].call("POST", CHAT, ask())
    only(hub[0])
    assert hub[0].json("GET", "/v1/calls")[1]["lost"] == 1
