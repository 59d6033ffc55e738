"""Embeddings and rerank between what callers send and what NVIDIA takes (spec: NVIDIA wire protocol, section 10)."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from sensorium.errors import BadRequest, Unprocessable, UpstreamFailed
from sensorium.wire import jsonbody, parameters
from sensorium.wire.jsonbody import Members
from sensorium.wire.parameters import Integer

REFUSED: Final = ("dimensions", "user")  # OpenAI's, which the hosted embedding models forbid
ASKED: Final = "query"
RANKING: Final = ("model", "query", "documents", "top_n", "return_documents", "truncate")
MOST_DOCUMENTS: Final = 10_000


def embedding(found: Members) -> tuple[Members, tuple[str, ...]]:
    """An OpenAI embeddings body as NVIDIA takes it, and what was changed."""
    members = {name: raw for name, raw in found.items() if name not in REFUSED}
    changes = tuple(f"{name} dropped" for name in REFUSED if name in found)
    if "input_type" in found:
        return members, changes
    return members | {"input_type": _raw(ASKED)}, (*changes, f"input_type {ASKED} added")


def ranking_url(base: str, model: str) -> str:
    """Where a model ranks: below `base` by its slug; a base that ends in /ranking or /reranking is one model's own address."""
    if base.endswith(("/ranking", "/reranking")):
        return base
    return f"{base}/{model.rpartition('/')[2].replace('.', '_')}/reranking"


def documents(found: Members) -> list[Any]:
    """What is to be ranked. Raises BadRequest when it is missing, Unprocessable when it is no list of texts or objects."""
    if "documents" not in found:
        raise BadRequest("documents is missing; send a non-empty array of texts", param="documents")
    given = jsonbody.value(found, "documents")
    if not isinstance(given, list) or not 0 < len(given) <= MOST_DOCUMENTS:
        raise Unprocessable(f"documents must be an array of 1 to {MOST_DOCUMENTS} texts", param="documents")
    for place, one in enumerate(given):
        whole = isinstance(one, str) or (isinstance(one, dict) and (isinstance(one.get("text"), str) or isinstance(one.get("image"), str)))
        if not whole:
            raise Unprocessable(f"documents[{place}] must be a text, or an object with text or image", param=f"documents[{place}]")
    return given


def ranking(found: Members) -> tuple[Members, tuple[str, ...]]:
    """A rerank body (`query`, `documents`) as NVIDIA takes it (`query.text`, `passages`), and what was changed.

    Raises BadRequest and Unprocessable for what cannot be ranked.
    """
    query = jsonbody.text(found, "query")
    if not query:
        raise Unprocessable("query is missing or empty; send the text to rank by", param="query")
    passages = [{"text": one} if isinstance(one, str) else {k: one[k] for k in ("text", "image") if k in one} for one in documents(found)]
    members: Members = {"query": _raw({"text": query}), "passages": _raw(passages)}
    if "truncate" in found:
        members["truncate"] = found["truncate"]
    unknown = [name for name in found if name not in RANKING]
    return members, ((f"{parameters.listed(unknown)} dropped",) if unknown else ())


def top(found: Members) -> int | None:
    """How many results the caller wants. Raises Unprocessable."""
    given = parameters.optional("top_n", jsonbody.value(found, "top_n"), Integer(1, MOST_DOCUMENTS), "rerank")
    return None if given is None else int(given)


def ranked(body: bytes, found: Members, model: str, call_id: str, provider: str) -> bytes:
    """NVIDIA's rankings in the shape of Cohere's and Jina's: `results`, best first, at most `top_n`.

    `relevance_score` is the logistic function of the logit, in 0..1; the order is the model's. Raises UpstreamFailed when there are none.
    """
    given = documents(found)
    try:
        rankings = sorted(msgspec.json.decode(body)["rankings"], key=lambda one: -float(one["logit"]))
        scored = [(int(one["index"]), float(one["logit"])) for one in rankings if 0 <= int(one["index"]) < len(given)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, ValueError):
        raise UpstreamFailed(f"{provider} answered without rankings") from None
    shown = jsonbody.flag(found, "return_documents")
    results: list[dict[str, Any]] = []
    for index, logit in scored[: top(found)]:
        document = {"document": {"text": given[index]} if isinstance(given[index], str) else given[index]} if shown else {}
        results.append({"index": index, "relevance_score": _logistic(logit), **document})
    return msgspec.json.encode({"id": call_id, "model": model, "results": results})


def _logistic(logit: float) -> float:
    return 0.5 * (1 + math.tanh(logit / 2))


def _raw(given: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(given))
