"""Rerank and embeddings between the two protocols."""

from __future__ import annotations

import json

import pytest

from sensorium.errors import UpstreamFailed
from sensorium.wire import jsonbody, retrieval

BASE = "https://ai.api.nvidia.com/v1/retrieval/nvidia"
FOUND = jsonbody.members(b'{"query":"q","documents":["a",{"text":"b","id":1}],"top_n":1,"return_documents":true}')


@pytest.mark.parametrize(
    ("base", "model", "url"),
    [
        (BASE, "nvidia/llama-3.2-nv-rerankqa-1b-v2", f"{BASE}/llama-3_2-nv-rerankqa-1b-v2/reranking"),
        (f"{BASE}/reranking", "nvidia/any", f"{BASE}/reranking"),
        ("http://nim:8000/v1/ranking", "any", "http://nim:8000/v1/ranking"),
    ],
)
def test_where_a_model_ranks(base: str, model: str, url: str) -> None:
    assert retrieval.ranking_url(base, model) == url


def test_a_rerank_body() -> None:
    members, changes = retrieval.ranking({**FOUND, "truncate": jsonbody.members(b'{"x":"END"}')["x"]})
    assert json.loads(jsonbody.encode(members)) == {"query": {"text": "q"}, "passages": [{"text": "a"}, {"text": "b"}], "truncate": "END"}
    assert changes == ()


def test_its_answer() -> None:
    body = b'{"rankings":[{"index":0,"logit":-800.5},{"index":1,"logit":0},{"index":7,"logit":9}]}'
    answer = json.loads(retrieval.ranked(body, FOUND, "m", "id", "p"))
    assert answer == {"id": "id", "model": "m", "results": [{"index": 1, "relevance_score": 0.5, "document": {"text": "b", "id": 1}}]}


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"rankings":[1]}', b'{"rankings":[{"index":"x","logit":1}]}', b'{"rankings":[{"logit":1}]}']
)
def test_what_is_no_ranking(body: bytes) -> None:
    with pytest.raises(UpstreamFailed, match="p answered without rankings"):
        retrieval.ranked(body, FOUND, "m", "id", "p")


def test_an_embeddings_body_keeps_every_other_byte() -> None:
    found = jsonbody.members(b'{"input": [1.50, "a"], "user":"u","encoding_format":"base64"}')
    members, changes = retrieval.embedding(found)
    assert jsonbody.encode(members) == b'{"input":[1.50, "a"],"encoding_format":"base64","input_type":"query"}'
    assert changes == ("user dropped", "input_type query added")
