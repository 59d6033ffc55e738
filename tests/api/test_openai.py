"""The OpenAI door in front of a provider: relayed bytes, live streams, errors in its dialect."""

from __future__ import annotations

import json
import time
from http.client import HTTPConnection
from urllib.parse import parse_qsl

import pytest

from tests.api.hubs import SD3, SDXL, Hub, Scripted
from tests.upstream_program import PNG, Provider

CHAT = "/v1/chat/completions"
HELLO = {"model": "good", "messages": [{"role": "user", "content": "hello"}]}


def test_a_reply_comes_back_byte_for_byte_and_says_who_answered(hub: Hub, provider: Provider) -> None:
    reply, raw = hub.call("POST", CHAT, HELLO, {"x-request-id": "mine-1"})
    assert raw == b'{"model": "good", "choices": [{"message": {"role": "assistant", "content": "ok"}}]}'
    assert (reply.getheader("x-sensorium-source"), reply.getheader("x-sensorium-model")) == ("talk", "good")
    assert reply.getheader("x-request-id") == "mine-1"
    assert provider.seen[-1][1]["x-request-id"] == "mine-1"


def test_star_never_appears_upstream(hub: Hub, provider: Provider) -> None:
    hub.call("POST", CHAT, {**HELLO, "model": "*"})
    assert json.loads(provider.seen[-1][2])["model"] == "good"


def test_what_the_caller_sent_is_what_the_model_gets(hub: Hub, provider: Provider) -> None:
    hub.call("POST", CHAT, b'{"messages":[{"role":"user","content":"\xc3\xa4"}],"max_tokens":300,"temperature":1e-1,"model":"good"}')
    assert provider.seen[-1][2] == b'{"messages":[{"role":"user","content":"\xc3\xa4"}],"max_tokens":300,"temperature":1e-1,"model":"good"}'


@pytest.mark.parametrize(
    ("path", "model"), [("chat/completions", "good"), ("images/generations", "good-picture"), ("embeddings", "good-vector")]
)
def test_a_query_string_goes_on_without_credentials(scripted: tuple[Scripted, Hub], path: str, model: str) -> None:
    program, hub = scripted
    program.body = b'{"object": "an answer"}'
    call = {**HELLO, "model": model, "prompt": "x", "input": "x"}
    reply, raw = hub.call("POST", f"/v1/{path}?api-version=2026-01-01&name=a%20b%26c%2Bd&api_key=s3cret&Token=s3cret&beta", call)
    ((query, body),) = program.asked
    assert parse_qsl(query.decode(), keep_blank_values=True) == [("api-version", "2026-01-01"), ("name", "a b&c+d"), ("beta", "")]
    assert b"s3cret" not in query + body
    assert (raw, reply.getheader("x-sensorium-changed")) == (program.body, "query api_key, Token dropped")


def test_without_a_query_string_nothing_is_added(scripted: tuple[Scripted, Hub]) -> None:
    program, hub = scripted
    reply, _ = hub.call("POST", CHAT, HELLO)
    assert program.asked[0][0] == b""
    assert reply.getheader("x-sensorium-changed") is None


def test_frames_are_not_held_back(hub: Hub, provider: Provider) -> None:
    provider.step.release()  # a stream is opened once its first event is there
    stream = hub.open("POST", CHAT, {**HELLO, "model": "slow", "stream": True})
    for number in range(3):
        assert stream.readline() == b'data: {"n": %d}\n' % number
        assert stream.readline() == b"\n"
        provider.step.release()
    assert stream.read() == b"data: [DONE]\n\n"


def test_a_caller_who_leaves_closes_the_upstream_call(hub: Hub, provider: Provider) -> None:
    provider.closed.clear()
    provider.step.release()
    stream = hub.open("POST", CHAT, {**HELLO, "model": "slow", "stream": True})
    stream.readline()
    stream.close()
    hub.close()
    assert provider.closed.wait(5)
    deadline = time.monotonic() + 5
    while "client_closed" not in [record.outcome for record in hub.records[-1:]] and time.monotonic() < deadline:
        pass
    assert hub.records[-1].outcome == "client_closed"


def test_a_stream_that_breaks_ends_with_an_error_event(hub: Hub) -> None:
    _, raw = hub.call("POST", CHAT, {**HELLO, "model": "cut", "stream": True})
    first, last = raw.strip().split(b"\n\n")
    assert first == b'data: {"n": 0}'
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_failed"


@pytest.mark.parametrize("status", [401, 503])
def test_an_upstreams_error_passes_through_under_its_own_name(hub: Hub, status: int) -> None:
    reply, raw = hub.call("POST", CHAT, {**HELLO, "model": f"refuse-{status}"})
    assert (reply.status, reply.getheader("x-sensorium-source"), reply.getheader("retry-after")) == (status, "talk", "7")
    assert "refused on purpose" in json.loads(raw)["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"not json", 400, "invalid_request"),
        (b"[]", 400, "invalid_request"),
        (b"", 400, "invalid_request"),
        ({"model": "good"}, 400, "invalid_request"),
        ({"model": "good", "messages": []}, 422, "invalid_parameter"),
        ({"model": "good", "messages": [1]}, 422, "invalid_parameter"),
        ({"model": "nope", "messages": [{}]}, 404, "model_not_found"),
        ({"model": "../x", "messages": [{}]}, 400, "invalid_model"),
        ({"model": 3, "messages": [{}]}, 422, "invalid_parameter"),
        ({"model": "good", "messages": [{}], "stream": "yes"}, 422, "invalid_parameter"),
        (b'{"a": "' + b"x" * 5000 + b'"}', 413, "body_too_large"),
    ],
)
def test_bad_calls_get_one_clear_error(hub: Hub, body: object, status: int, code: str) -> None:
    got, reply = hub.json("POST", CHAT, body)
    assert (got, reply["error"]["code"]) == (status, code)
    assert reply["error"]["message"] and reply["error"]["request_id"]


def test_a_long_body_of_unknown_length_is_refused_too(hub: Hub) -> None:
    chunked = HTTPConnection(hub.address, timeout=10)
    chunked.request("POST", CHAT, iter([b"x" * 1000] * 9), {"content-type": "application/json"}, encode_chunked=True)
    assert chunked.getresponse().status == 413
    chunked.close()


def test_pictures_are_translated_to_genai(hub: Hub, provider: Provider) -> None:
    before = len(provider.seen)
    reply, raw = hub.call("POST", "/v1/images/generations", {"model": "org/good", "prompt": "x", "n": 2, "size": "64x32"})
    assert [item["b64_json"] for item in json.loads(raw)["data"]] == [PNG, PNG]
    assert reply.getheader("x-sensorium-model") == "org/good"
    seeds = [json.loads(body)["seed"] for _, _, body in provider.seen[before:]]
    assert seeds[1] == seeds[0] + 1


@pytest.mark.parametrize(
    ("model", "sent", "body", "changed"),
    [
        (
            SD3,
            {"prompt": "x", "aspect_ratio": "3:2"},
            b'{"image":"QUJD","finish_reason":"SUCCESS","seed":0}',
            "size 600x400 -> aspect_ratio 3:2",
        ),
        (
            SDXL,
            {"text_prompts": [{"text": "x", "weight": 1}], "width": 1024, "height": 1024},
            b'{"artifacts":[{"base64":"QUJD","finishReason":"SUCCESS","seed":9}]}',
            "size 600x400 -> 1024x1024",
        ),
        ("org/good", {"prompt": "x", "width": 600, "height": 400}, b'{"created":1,"data":[{"b64_json":"QUJD"}]}', None),
    ],
)
def test_models_of_other_shapes_are_called_and_read_alike(
    scripted: tuple[Scripted, Hub], model: str, sent: dict[str, object], body: bytes, changed: str | None
) -> None:
    program, hub = scripted
    program.body = body
    reply, raw = hub.call("POST", "/v1/images/generations", {"model": model, "prompt": "x", "size": "600x400", "seed": 9})
    assert [item["b64_json"] for item in json.loads(raw)["data"]] == ["QUJD"]
    assert json.loads(program.asked[0][1]) == {**sent, "seed": 9}
    assert reply.getheader("x-sensorium-changed") == changed


def test_a_reply_without_a_picture_is_an_error(hub: Hub) -> None:
    assert hub.json("POST", "/v1/images/generations", {"model": "org/odd", "prompt": "x"})[0] == 502


def test_the_models_rules_hold_at_this_door_too(hub: Hub) -> None:
    status, reply = hub.json("POST", "/v1/images/generations", {"model": "black-forest-labs/flux.1-dev", "prompt": "x", "steps": 4})
    assert (status, reply["error"]["param"]) == (422, "steps")


def test_a_filtered_picture_is_an_error_here(hub: Hub) -> None:
    status, reply = hub.json("POST", "/v1/images/generations", {"model": "org/filtered", "prompt": "x"})
    assert (status, reply["error"]["code"]) == (422, "content_policy_violation")


def test_a_genai_error_leaves_in_openais_shape(hub: Hub) -> None:
    reply, raw = hub.call("POST", "/v1/images/generations", {"model": "org/refuse-422", "prompt": "x"})
    assert (reply.status, reply.getheader("x-sensorium-source"), reply.getheader("retry-after")) == (422, "paint", "7")
    assert json.loads(raw)["error"]["message"] == "refused on purpose"


def test_what_has_no_meaning_here_is_told(hub: Hub) -> None:
    reply, _ = hub.call("POST", "/v1/images/generations", {"model": "org/good", "prompt": "x", "quality": "high", "user": "me"})
    assert reply.getheader("x-sensorium-changed") == "quality dropped"
    reply, _ = hub.call("POST", "/v1/images/generations", {"model": "org/good", "prompt": "x", "a\r\nset-cookie: b": 1, "ü": 1})
    assert (reply.status, reply.getheader("x-sensorium-changed")) == (200, "a%0D%0Aset-cookie%3A b, %C3%BC dropped")


def test_models_are_listed_and_found_one_by_one(hub: Hub) -> None:
    _, listed = hub.json("GET", "/v1/models")
    assert listed["data"][0]["id"] == "good"
    assert hub.json("GET", "/v1/models/org/good")[1]["modality"] == "image"
    assert hub.json("GET", "/v1/models/org/none")[0] == 404


def test_a_modality_without_a_model_names_the_setting(hub: Hub) -> None:
    status, reply = hub.json("POST", "/v1/embeddings", {"input": "x"})
    assert (status, reply["error"]["code"]) == (404, "not_configured")
