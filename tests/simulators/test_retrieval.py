"""Embeddings and rerank: what is required, what is refused, and vectors that mean something."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import pytest

from tests.simulators.site import AI, INTEGRATE, Site

EMBED = f"{INTEGRATE}/v1/embeddings"
E5, LLAMA, BGE = "nvidia/nv-embedqa-e5-v5", "nvidia/llama-3.2-nv-embedqa-1b-v2", "baai/bge-m3"
QUERY = {"model": E5, "input": "a red cube", "input_type": "query"}
RERANK = "llama-3_2-nv-rerankqa-1b-v2"


def test_the_shape_of_an_answer(site: Site) -> None:
    answer = site.post(EMBED, {**QUERY, "input": ["a red cube", "a ball"]}).json
    assert (answer["object"], answer["model"], answer["usage"]) == ("list", E5, {"prompt_tokens": 5, "total_tokens": 5})
    assert [(entry["object"], entry["index"], len(entry["embedding"])) for entry in answer["data"]] == [
        ("embedding", 0, 1024),
        ("embedding", 1, 1024),
    ]


def vector(site: Site, text: str, **changes: Any) -> list[float]:
    return list(site.post(EMBED, {**QUERY, "input": text, **changes}).json["data"][0]["embedding"])


def test_vectors_have_length_1_and_follow_from_the_words(site: Site) -> None:
    red, again, similar, other = (vector(site, text) for text in ("a red cube", "a red cube", "a red ball", "seven green hills"))
    assert math.isclose(sum(x * x for x in red), 1, rel_tol=1e-9)
    assert red == again
    assert sum(map(lambda a, b: a * b, red, similar)) > sum(map(lambda a, b: a * b, red, other)) + 0.2


def test_base64_holds_the_same_floats(site: Site) -> None:
    encoded = site.post(EMBED, {**QUERY, "encoding_format": "base64"}).json["data"][0]["embedding"]
    floats = struct.unpack("<1024f", base64.b64decode(encoded))
    assert floats == pytest.approx(vector(site, "a red cube"), abs=1e-7)


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"input_type": None}, 400, "'input_type' parameter is required for asymmetric models"),
        (
            {"dimensions": 256},
            400,
            "detail={'type': 'extra_forbidden', 'loc': ('body', 'dimensions'), 'msg': 'Extra inputs are not permitted'}",
        ),
        ({"user": "me"}, 400, "'loc': ('body', 'user')"),
        ({"input": []}, 422, "too_short"),
        ({"input": ""}, 422, "string_too_short"),
        ({"input_type": "document"}, 422, "Input should be 'query' or 'passage'"),
        ({"input": "word " * 9000}, 400, "exceeds maximum allowed token size 8192"),
    ],
)
def test_what_is_refused(site: Site, change: dict[str, Any], status: int, said: str) -> None:
    body = {name: value for name, value in {**QUERY, **change}.items() if value is not None}
    answer = site.post(EMBED, body)
    assert (answer.status, said in answer.body.decode()) == (status, True)


def test_what_some_models_take(site: Site) -> None:
    assert len(vector(site, "a", model=LLAMA, dimensions=384)) == 384
    assert len(vector(site, "a", model=LLAMA)) == 2048
    assert site.post(EMBED, {"model": BGE, "input": "a"}).status == 200
    assert site.post(EMBED, {**QUERY, "input": "word " * 9000, "truncate": "END"}).json["usage"]["prompt_tokens"] == 8192


@pytest.mark.parametrize("path", [f"nvidia/{RERANK}/reranking", "nvidia/reranking", "nvidia/llama-nemotron-rerank-vl-1b-v2/reranking"])
def test_rerank_puts_the_best_first(site: Site, path: str) -> None:
    passages = [{"text": "a blue ball"}, {"text": "the red cube on a table"}, {"text": "nothing of that"}]
    body = {"model": "nvidia/llama-3.2-nv-rerankqa-1b-v2", "query": {"text": "red cube"}, "passages": passages, "truncate": "END"}
    answer = site.post(f"{AI}/v1/retrieval/{path}", body).json
    assert list(answer) == ["rankings"]
    logits = [ranking["logit"] for ranking in answer["rankings"]]
    assert (answer["rankings"][0]["index"], sorted(logits, reverse=True), len(logits)) == (1, logits, 3)


@pytest.mark.parametrize(
    ("change", "where"),
    [({"query": "red cube"}, ["body", "query"]), ({"passages": []}, ["body", "passages"]), ({"top_n": 1}, ["body", "top_n"])],
)
def test_rerank_bodies_that_are_refused(site: Site, change: dict[str, Any], where: list[str]) -> None:
    body = {"model": "a", "query": {"text": "a"}, "passages": [{"text": "b"}], **change}
    answer = site.post(f"{AI}/v1/retrieval/nvidia/{RERANK}/reranking", body)
    assert (answer.status, answer.json["detail"][0]["loc"]) == (422, where)
