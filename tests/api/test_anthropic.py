"""The Anthropic door: relayed byte for byte to who speaks its protocol, translated for the others, errors in its shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sensorium import app
from sensorium.settings import Settings
from tests.anthropic_program import KEY, MESSAGE, WORDS, Program, events
from tests.api.hubs import Hub, Scripted, over
from tests.serving import serving
from tests.simulators.site import eventually

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
TOKEN = {"x-api-key": "s3cret"}
HELLO = {"model": "claude", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
DOCUMENT = {**HELLO, "messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}
PICTURE = [{"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}]


def settings(provider: str, **kinds: list[Any] | None) -> Settings:
    """A provider of each kind, with these models; None takes any name."""
    tables = {
        kind: {"kind": kind, "base_url": f"{provider}/v1", "key_env": "K", **({} if models is None else {"models": models})}
        for kind, models in kinds.items()
    }
    made = Settings.model_validate({"server": {"max_body_bytes": 4096}, "providers": tables})
    return made.model_copy(update={"token": "s3cret", "keys": dict.fromkeys(kinds, KEY)})


@contextmanager
def hub_of(provider: str, **kinds: list[Any] | None) -> Iterator[Hub]:
    configured = settings(provider, **kinds)
    with over(app.catalog(configured, None).routes, configured) as hub:
        yield hub


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.fixture
def at(program: Program) -> Iterator[str]:
    with serving(program) as base:
        yield base


@pytest.fixture
def relay(at: str) -> Iterator[Hub]:
    """A hub in front of a provider of Anthropic's protocol that takes any name, and of another one with three models."""
    with hub_of(at, anthropic=None, openai=["good", {"id": "org/slow", "upstream": "slow"}, {"id": "org/cut", "upstream": "cut"}]) as hub:
        yield hub


def ask(hub: Hub, body: Any = HELLO, path: str = MESSAGES, **headers: str) -> tuple[int, dict[str, str], bytes]:
    reply, raw = hub.call("POST", path, body, TOKEN | {name.replace("_", "-"): text for name, text in headers.items()})
    return reply.status, {name.lower(): text for name, text in reply.getheaders()}, raw


def told(raw: bytes) -> list[dict[str, Any]]:
    return [json.loads(frame.partition(b"data: ")[2]) for frame in raw.split(b"\n\n") if frame]


def test_a_call_and_its_answer_are_relayed_byte_for_byte(relay: Hub, program: Program) -> None:
    body = b'{"messages":[{"role":"user","content":"\\u00e4"}],"max_tokens":5,"top_k":4,"temperature":1e-1,"model":"claude"}'
    status, headers, raw = ask(relay, body, anthropic_beta="a-2026-01-01,b", x_request_id="mine-1", cookie="a=b")
    assert (status, raw) == (200, MESSAGE)
    assert (headers["x-request-id"], headers["request-id"], headers["x-upstream-request-id"]) == ("mine-1", "mine-1", "req_theirs")
    assert (headers["x-sensorium-source"], headers["x-sensorium-model"]) == ("anthropic", "claude")
    assert headers["anthropic-ratelimit-requests-remaining"] == "9"
    assert {"anthropic-organization-id", "x-sensorium-changed"} & set(headers) == set()
    ((method, path, query, sent, asked),) = program.seen
    assert (method, path, query, asked) == ("POST", "/v1/messages", b"", body)
    assert (sent["x-api-key"], sent["anthropic-version"], sent["anthropic-beta"]) == (KEY, "2023-06-01", "a-2026-01-01,b")
    assert {"authorization", "cookie"} & set(sent) == set()


def test_the_callers_version_and_query_go_on_without_credentials(relay: Hub, program: Program) -> None:
    _, headers, _ = ask(relay, path=f"{MESSAGES}?beta=true&api_key=x", anthropic_version="2029-01-01")
    assert (program.seen[0][2], program.seen[0][3]["anthropic-version"]) == (b"beta=true", "2029-01-01")
    assert headers["x-sensorium-changed"] == "query api_key dropped"


def test_only_the_name_of_the_model_is_replaced(at: str, program: Program) -> None:
    with hub_of(at, anthropic=[{"id": "mine", "upstream": "claude-9"}]) as hub:
        assert ask(hub, {**HELLO, "model": "mine"})[0] == 200
        assert ask(hub, {**HELLO, "model": "*"})[1]["x-sensorium-model"] == "mine"
        assert ask(hub, {name: HELLO[name] for name in ("max_tokens", "messages")})[0] == 200
        assert ask(hub, {**HELLO, "model": "other"})[0] == 404
    assert [json.loads(body) for *_, body in program.seen][:2] == [{**HELLO, "model": "claude-9"}] * 2


@pytest.mark.parametrize("model", ["slow", "org/slow"])
def test_a_delta_goes_out_when_it_arrives(relay: Hub, program: Program, model: str) -> None:
    program.step.release(1 if model == "org/slow" else 3)
    stream = relay.open("POST", MESSAGES, {**HELLO, "model": model, "stream": True}, TOKEN)
    for word in WORDS:
        line = b""
        while b"text_delta" not in line:
            line = stream.readline()
            assert line
        assert json.loads(line.removeprefix(b"data: "))["delta"]["text"] == word
        program.step.release()
    program.step.release(9)
    assert told(stream.read())[-1] == {"type": "message_stop"}
    assert stream.getheader("content-type") == "text/event-stream; charset=utf-8"


def test_a_stream_is_relayed_byte_for_byte(relay: Hub) -> None:
    assert ask(relay, {**HELLO, "model": "good-claude", "stream": True})[2] == b"".join(events())


def test_a_caller_who_leaves_a_translated_stream_closes_the_upstream_call(relay: Hub, program: Program) -> None:
    program.step.release()
    stream = relay.open("POST", MESSAGES, {**HELLO, "model": "org/slow", "stream": True}, TOKEN)
    stream.readline()
    stream.close()
    relay.close()
    assert program.closed.wait(10)
    eventually(lambda: [record.outcome for record in relay.records] == ["client_closed"])


@pytest.mark.parametrize(("model", "whole"), [("cut", 2), ("org/cut", 4)])
def test_a_stream_that_breaks_ends_with_an_error_event(relay: Hub, model: str, whole: int) -> None:
    _, _, raw = ask(relay, {**HELLO, "model": model, "stream": True})
    *before, last = raw.rstrip().split(b"\n\n")
    assert len(before) == whole
    assert last.startswith(b"event: error\ndata: ")
    error = json.loads(last.partition(b"data: ")[2])
    assert (error["type"], error["error"]["type"], error["error"]["details"]["error_code"]) == ("error", "api_error", "upstream_failed")
    eventually(lambda: [record.outcome for record in relay.records] == ["failed"])


def test_a_providers_error_inside_its_stream_keeps_its_class(relay: Hub) -> None:
    *_, last = told(ask(relay, {**HELLO, "model": "torn", "stream": True})[2])
    assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")
    assert "Overloaded" in last["error"]["message"]


@pytest.mark.parametrize(
    ("model", "status", "kind", "code"),
    [
        ("refuse-529", 529, "overloaded_error", "provider_outage"),
        ("refuse-503", 503, "overloaded_error", "provider_outage"),
        ("refuse-500", 502, "api_error", "provider_outage"),
        ("refuse-429", 429, "rate_limit_error", "rate_limited"),
        ("refuse-401", 401, "authentication_error", "upstream_key_rejected"),
        ("refuse-404", 404, "not_found_error", "model_unavailable"),
        ("refuse-400", 400, "invalid_request_error", "upstream_rejected_request"),
        ("refuse-413", 413, "request_too_large", "upstream_rejected_request"),
        ("late", 529, "overloaded_error", "provider_outage"),
    ],
)
def test_a_providers_refusal_keeps_status_and_retry_after(relay: Hub, model: str, status: int, kind: str, code: str) -> None:
    got, headers, raw = ask(relay, {**HELLO, "model": model, "stream": model == "late"})
    error = json.loads(raw)
    assert (got, error["type"], error["error"]["type"], error["error"]["details"]["error_code"]) == (status, "error", kind, code)
    assert error["request_id"] == headers["request-id"] == headers["x-request-id"]
    assert headers["x-sensorium-source"] == "anthropic"
    if status in (429, 503, 529) and model != "late":
        assert headers["retry-after"] == "7"


@pytest.mark.parametrize(
    ("body", "status", "kind", "said"),
    [
        (b"not json", 400, "invalid_request_error", "not valid JSON"),
        ({"model": "claude", "max_tokens": 5}, 400, "invalid_request_error", "messages is missing"),
        ({"model": "claude", "messages": HELLO["messages"]}, 400, "invalid_request_error", "max_tokens is missing"),
        ({**HELLO, "model": "../x"}, 400, "invalid_request_error", "is not a model name"),
        ({**HELLO, "model": 3}, 422, "invalid_request_error", "model must be a string"),
        ({**HELLO, "stream": "yes"}, 422, "invalid_request_error", "stream must be true or false"),
        (b'{"a": "' + b"x" * 5000 + b'"}', 413, "request_too_large", "at most 4096"),
        ({**DOCUMENT, "model": "good"}, 400, "invalid_request_error", "content[0] is a block of type document: only a provider of kind"),
        ({**HELLO, "model": "good", "max_tokens": 0}, 400, "invalid_request_error", "max_tokens is 0"),
        ({**HELLO, "model": "good", "messages": [{"role": "user", "content": PICTURE}]}, 400, "invalid_request_error", "needs vision"),
    ],
)  # fmt: skip
def test_bad_calls_get_one_clear_error(relay: Hub, program: Program, body: Any, status: int, kind: str, said: str) -> None:
    got, headers, raw = ask(relay, body)
    error = json.loads(raw)
    assert (got, error["type"], error["error"]["type"], headers["x-sensorium-source"]) == (status, "error", kind, "hub")
    assert said in error["error"]["message"] and error["request_id"]
    assert program.seen == []


@pytest.mark.parametrize("header", ["anthropic-beta", "anthropic-version"])
def test_a_header_that_cannot_go_on_is_refused(relay: Hub, program: Program, header: str) -> None:
    status, _, raw = ask(relay, **{header: "x" * 3000})
    assert (status, header in json.loads(raw)["error"]["message"], program.seen) == (400, True, [])


def test_other_paths_and_methods_speak_the_same_dialect(relay: Hub) -> None:
    status, _, raw = ask(relay, path="/v1/messages/batches")
    assert (status, json.loads(raw)["error"]["type"]) == (404, "not_found_error")
    reply, raw = relay.call("GET", MESSAGES, headers=TOKEN)
    assert (reply.status, reply.getheader("allow"), json.loads(raw)["type"]) == (405, "POST", "error")
    assert json.loads(relay.call("GET", "/v1/messagesx", headers=TOKEN)[1])["error"]["code"] == "unknown_route"


@pytest.mark.parametrize(
    "headers",
    [{"x-api-key": "s3cret"}, {"authorization": "Bearer s3cret"}, {"authorization": "Basic x", "x-api-key": "s3cret"},
     {"authorization": "Bearer other", "x-api-key": "s3cret"}],
)  # fmt: skip
def test_the_hubs_token_comes_in_either_header_and_goes_no_further(relay: Hub, program: Program, headers: dict[str, str]) -> None:
    assert relay.call("POST", MESSAGES, HELLO, headers)[0].status == 200
    assert relay.call("GET", "/v1/models", headers=headers)[0].status == 200
    assert "s3cret" not in json.dumps(program.seen[0][3])


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "other"}, {"x-api-key": ""}, {"authorization": "s3cret"}])
def test_without_the_token_nobody_gets_in(relay: Hub, program: Program, headers: dict[str, str]) -> None:
    reply, raw = relay.call("POST", MESSAGES, HELLO, headers)
    error = json.loads(raw)
    assert (reply.status, error["error"]["type"], error["error"]["details"]["error_code"]) == (401, "authentication_error", "invalid_token")
    assert reply.getheader("request-id") and program.seen == []


def test_a_name_that_several_take_goes_to_who_needs_no_translation(at: str, program: Program) -> None:
    with hub_of(at, hub=None, anthropic=None) as hub:
        assert ask(hub)[1]["x-sensorium-source"] == "anthropic"
        reply, _ = hub.call("POST", "/v1/chat/completions", HELLO, TOKEN)
        assert reply.getheader("x-sensorium-source") == "hub"
    assert [path for _, path, *_ in program.seen] == ["/v1/messages", "/v1/chat/completions"]


def test_other_doors_do_not_lead_to_anthropic(at: str, program: Program) -> None:
    with hub_of(at, anthropic=["claude"], openai=["good"]) as hub:
        status, reply = hub.json("POST", "/v1/chat/completions", HELLO, TOKEN)
        assert (status, "use POST /v1/messages" in reply["error"]["message"]) == (400, True)
        assert hub.call("POST", "/v1/chat/completions", {**HELLO, "model": "*"}, TOKEN)[0].getheader("x-sensorium-model") == "good"
    with hub_of(at, anthropic=None) as hub:
        status, reply = hub.json("POST", "/v1/chat/completions", HELLO, TOKEN)
        assert (status, reply["error"]["code"]) == (404, "model_not_found")
    assert {path for _, path, *_ in program.seen} == {"/v1/chat/completions"}


def test_what_only_anthropic_takes_goes_past_the_others(at: str) -> None:
    with hub_of(at, openai=["good"], anthropic=["claude"]) as hub:
        assert ask(hub, {**HELLO, "model": "*"})[1]["x-sensorium-model"] == "good"
        assert ask(hub, {**DOCUMENT, "model": "*"})[1]["x-sensorium-model"] == "claude"


def test_tokens_are_counted_by_who_answers(relay: Hub, program: Program) -> None:
    status, headers, raw = ask(relay, {"model": "claude", "messages": HELLO["messages"]}, COUNT)
    assert (status, raw, headers["x-sensorium-source"]) == (200, b'{"input_tokens": 42}', "anthropic")
    assert program.seen[0][1] == "/v1/messages/count_tokens"


@pytest.mark.parametrize("model", ["good", "*"])
def test_tokens_are_never_estimated(relay: Hub, program: Program, model: str) -> None:
    status, _, raw = ask(relay, {"model": model, "messages": HELLO["messages"]}, COUNT)
    error = json.loads(raw)["error"]
    assert (status, error["type"], error["details"]["error_code"]) == (404, "not_found_error", "not_configured")
    assert "the tokens of good cannot be counted here: openai has no call for that" in error["message"]
    assert program.seen == []


def test_an_answer_in_openais_protocol_is_translated_and_names_its_changes() -> None:
    upstream = Scripted()
    upstream.body = (
        b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}'
    )
    with serving(upstream) as base, hub_of(base, openai=[{"id": "mine", "upstream": "theirs"}]) as hub:
        status, headers, raw = ask(hub, {**HELLO, "model": "mine", "top_k": 3}, path=f"{MESSAGES}?beta=true")
        reply = json.loads(raw)
        assert (status, reply["model"], reply["content"]) == (200, "mine", [{"type": "text", "text": "hi"}])
        assert (headers["x-sensorium-changed"], headers["x-sensorium-model"]) == ("top_k dropped", "mine")
        assert (headers["content-type"], headers["content-length"]) == ("application/json", str(len(raw)))
        ((query, asked),) = upstream.asked
        assert (query, json.loads(asked)) == (
            b"",
            {"model": "theirs", "messages": HELLO["messages"], "max_tokens": 5, "stream": False},
        )
        upstream.body = b'{"answer": "none of this protocol"}'
        status, headers, raw = ask(hub, {**HELLO, "model": "mine"})
        assert (status, json.loads(raw)["error"]["type"]) == (502, "api_error")
        status, headers, raw = ask(hub, {**HELLO, "model": "mine", "stream": True})
        assert (status, "asked for a stream" in json.loads(raw)["error"]["message"]) == (502, True)
