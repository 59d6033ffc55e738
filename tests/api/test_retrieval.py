"""Embeddings, rerank, completions and responses in front of the simulator, with OpenAI's package where it has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest

from tests.api import hubs
from tests.api.hubs import Hub, Scripted
from tests.routing.hosted import chat, nvidia, provider
from tests.serving import serving
from tests.simulators.site import AI, INTEGRATE, KEY, Site
from tests.simulators.site import running as simulating

E5, CHAT, RERANK = "nvidia/nv-embedqa-e5-v5", "meta/llama-3.1-8b-instruct", "nvidia/llama-3.2-nv-rerankqa-1b-v2"
CHANGED = "x-sensorium-changed"
DOCUMENTS = ["seven green hills", "a red ball", "a red cube"]
RANK = {"model": RERANK, "query": "a red cube", "documents": DOCUMENTS}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with simulating() as site:
        yield site


@pytest.fixture(scope="module")
def hub(site: Site) -> Iterator[Hub]:
    talks = provider(f"http://{site.address}{INTEGRATE}/v1", "talks", KEY)
    ranks = provider(f"http://{site.address}{AI}/v1/retrieval/nvidia", "ranks", KEY)
    local = provider(f"http://{site.address}/nim/{RERANK}/v1/ranking", "nim", None)
    mine = replace(nvidia("rerank", local, "mine"), upstream=RERANK)
    with hubs.over([chat(CHAT, talks), nvidia("embed", talks, E5), nvidia("rerank", ranks), mine]) as hub:
        yield hub


@pytest.fixture
def client(hub: Hub) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://{hub.address}/v1", api_key="any", max_retries=0, timeout=30) as made:
        yield made


def test_openais_package_embeds(client: openai.OpenAI) -> None:
    for model in (E5, "*"):
        answer = client.embeddings.with_raw_response.create(model=model, input=["a red cube"], dimensions=256, user="me")
        assert len(answer.parse().data[0].embedding) == 1024
        assert answer.headers[CHANGED] == "dimensions dropped; user dropped; input_type query added"
        assert answer.headers["x-sensorium-model"] == E5


def test_a_callers_input_type_stays(hub: Hub) -> None:
    vectors = []
    for kind in ("query", "passage"):
        reply, body = hub.call("POST", "/v1/embeddings", {"model": E5, "input": "a", "input_type": kind})
        assert (reply.status, reply.getheader(CHANGED)) == (200, None)
        vectors.append(json.loads(body)["data"][0]["embedding"])
    assert len(vectors[0]) == 1024
    assert hub.json("POST", "/v1/embeddings", {"model": E5, "input": "a", "input_type": "document"})[0] == 422


@pytest.mark.parametrize("model", [RERANK, "mine"])
def test_documents_are_ranked(hub: Hub, model: str) -> None:
    status, answer = hub.json("POST", "/v1/rerank", {**RANK, "model": model, "top_n": 2, "return_documents": True})
    assert (status, answer["model"]) == (200, model)
    assert [(one["index"], one["document"]) for one in answer["results"]] == [(2, {"text": "a red cube"}), (1, {"text": "a red ball"})]
    assert 1 > answer["results"][0]["relevance_score"] > answer["results"][1]["relevance_score"] > 0


def test_documents_may_be_objects_and_unknown_members_are_told(hub: Hub) -> None:
    asked = {**RANK, "documents": [{"text": "a red cube", "id": 1}, {"text": "hills"}], "max_chunks_per_doc": 3}
    reply, body = hub.call("POST", "/v1/rerank", asked)
    assert [one["index"] for one in json.loads(body)["results"]] == [0, 1]
    assert reply.getheader(CHANGED) == "max_chunks_per_doc dropped"


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"documents": []}, 422, "documents"), ({"documents": "x"}, 422, "documents"), ({"documents": [1]}, 422, "documents[0]"),
        ({"documents": [{}]}, 422, "documents[0]"), ({"query": ""}, 422, "query"), ({"query": 1}, 422, "query"),
        ({"top_n": 0}, 422, "top_n"), ({"model": "../x"}, 400, "model"),
    ],
)  # fmt: skip
def test_what_cannot_be_ranked(hub: Hub, change: dict[str, Any], status: int, param: str) -> None:
    got, answer = hub.json("POST", "/v1/rerank", {**RANK, **change})
    assert (got, answer["error"]["param"]) == (status, param)


def test_a_rerank_model_that_is_not_there(hub: Hub) -> None:
    assert hub.json("POST", "/v1/rerank", {**RANK, "model": "nvidia/none"})[0] == 404
    assert hub.json("POST", "/v1/rerank", {**RANK, "model": CHAT})[1]["error"]["code"] == "invalid_model"


def test_rerank_is_relayed_to_a_provider_of_the_same_protocol() -> None:
    program = Scripted()
    program.body = b'{"results":[ ]}'
    with serving(program) as base, hubs.over([nvidia("rerank", provider(base), "m", "openai")]) as hub:
        reply, body = hub.call("POST", "/v1/rerank", b'{"model":"m","query":"q","documents":["a"],"x":1.50}')
        assert (reply.status, body, program.asked[0][1]) == (200, program.body, b'{"model":"m","query":"q","documents":["a"],"x":1.50}')


@pytest.mark.parametrize("body", [b"{}", b"[]", b"x", b'{"rankings":[{"index":0}]}', b'{"rankings":1}'])
def test_an_answer_without_rankings_is_a_failure(body: bytes) -> None:
    program = Scripted()
    program.body = body
    with serving(program) as base, hubs.over([nvidia("rerank", provider(base), "m")]) as hub:
        status, answer = hub.json("POST", "/v1/rerank", {**RANK, "model": "m"})
        assert (status, answer["error"]["code"]) == (502, "empty_result" if body == b"x" else "upstream_failed")


def test_completions_and_responses_are_relayed(client: openai.OpenAI) -> None:
    assert "hello" in client.completions.create(model=CHAT, prompt="hello").choices[0].text
    assert client.responses.create(model="*", input="hello").output_text == 'You wrote: "hello"'
    kinds = [event.type for event in client.responses.create(model=CHAT, input="hello", stream=True)]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    texts = [chunk.choices[0].text for chunk in client.completions.create(model=CHAT, prompt="hello", stream=True) if chunk.choices]
    assert "hello" in "".join(texts)


@pytest.mark.parametrize(
    ("given", "vision"),
    [
        ("hello", False), ([{"role": "user", "content": "hello"}], False), ([{"type": "input_image", "image_url": "data:"}], True),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}], True),
    ],
)  # fmt: skip
def test_a_picture_in_a_response_call_goes_to_a_model_that_sees(given: Any, vision: bool) -> None:
    blind, sees = Scripted(), Scripted()
    with serving(blind) as one, serving(sees) as two:
        routes = [chat("blind", provider(one, "blind"), {"text"}), chat("sees", provider(two, "sees"), {"text", "vision"})]
        with hubs.over(routes) as hub:
            assert hub.json("POST", "/v1/responses", {"model": "*", "input": given})[0] == 200
            assert hub.json("POST", "/v1/responses", {"model": "*"})[1]["error"]["param"] == "input"
    assert (len(blind.asked), len(sees.asked)) == ((0, 1) if vision else (1, 0))


def test_a_service_without_the_responses_protocol_still_chats() -> None:
    class Old(Scripted):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["path"].endswith("/responses"):
                await send({"type": "http.response.start", "status": 404, "headers": []})
                await send({"type": "http.response.body", "body": b'{"detail":"Not Found"}'})
                return
            await super().__call__(scope, receive, send)

    with serving(Old()) as base, hubs.over([chat("m", provider(base))]) as hub:
        for _ in range(2):
            assert hub.json("POST", "/v1/responses", {"model": "m", "input": "x"})[0] == 404
        assert hub.json("POST", "/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "x"}]})[0] == 200
