"""Embeddings and rerank (section 10). Vectors count hashed words, so texts that share words lie closer; the same text, the same vector.

Guesses: the bodies of the 400s (vLLM's shape), the token limit, that `passages` may not be empty, the scale of logits.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import re
import struct
from typing import Annotated, Any, Literal

from pydantic import Field

from sensorium.simulators.nvidia.ask import Ask, Strict, read
from sensorium.simulators.nvidia.replies import vllm_error
from sensorium.simulators.replies import Refused, Reply, json_reply

TOKEN_CAP = 8192
MARKS = 8  # places of the vector that one word marks
LOGIT_SPAN = 20.0
_WORDS = re.compile(r"\w+")


class EmbedBody(Strict):
    """The body of an embeddings call."""

    model: str
    input: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)]
    input_type: Literal["query", "passage"] | None = None
    encoding_format: Literal["float", "base64"] = "float"
    truncate: Literal["NONE", "START", "END"] = "NONE"


class ResizableEmbedBody(EmbedBody):
    """The same, for models whose vectors may be shortened."""

    dimensions: Annotated[int, Field(ge=1)] | None = None


class Text(Strict):
    """A query."""

    text: str


class Passage(Strict):
    """What is ranked."""

    text: str | None = None
    image: str | None = None


class RerankBody(Strict):
    """The body of a rerank call."""

    model: str
    query: Text
    passages: Annotated[list[Passage], Field(min_length=1)]
    truncate: Literal["NONE", "END"] = "NONE"


def embed(ask: Ask) -> Reply:
    """POST /v1/embeddings. Raises Refused: 400 with a Python-style text for a field that the model does not take."""
    body = _read_embed(ask)
    if ask.model.asymmetric and body.input_type is None:
        raise Refused(vllm_error(400, "'input_type' parameter is required for asymmetric models"))
    texts = [body.input] if isinstance(body.input, str) else body.input
    words = [_WORDS.findall(text.lower()) for text in texts]
    longest = max(map(len, words))
    if body.truncate == "NONE" and longest > TOKEN_CAP:
        raise Refused(vllm_error(400, f"Input length {longest} exceeds maximum allowed token size {TOKEN_CAP}"))
    dimensions = getattr(body, "dimensions", None) or ask.model.dimensions
    kept = [found[-TOKEN_CAP:] if body.truncate == "START" else found[:TOKEN_CAP] for found in words]
    vectors = [_encoded(vector(found, dimensions), body.encoding_format) for found in kept]
    data = [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(vectors)]
    tokens = sum(map(len, kept))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_reply({"object": "list", "data": data, "model": ask.model.name, "usage": usage})


def rerank(ask: Ask) -> Reply:
    """POST .../reranking on the gateway, /v1/ranking of a container. Raises Refused."""
    body = read(RerankBody, ask)
    query = vector(_WORDS.findall(body.query.text.lower()), 1024)
    scores = [_cosine(query, vector(_WORDS.findall(f"{one.text or ''} {one.image or ''}".lower()), 1024)) for one in body.passages]
    ranked = sorted(enumerate(scores), key=lambda pair: -pair[1])
    return json_reply({"rankings": [{"index": index, "logit": LOGIT_SPAN * (score - 0.5)} for index, score in ranked]})


def vector(words: list[str], dimensions: int) -> list[float]:
    """A vector of length 1. Each word marks a few places that follow from its hash."""
    marks: dict[int, float] = {}
    for word in words or [""]:
        chance = random.Random(hashlib.sha256(word.encode("utf-8", "replace")).digest())
        for _ in range(MARKS):
            place = chance.randrange(dimensions)
            marks[place] = marks.get(place, 0.0) + chance.choice((-1.0, 1.0))
    length = math.sqrt(sum(mark * mark for mark in marks.values()))
    if not length:
        return [1.0] + [0.0] * (dimensions - 1)
    return [marks.get(place, 0.0) / length for place in range(dimensions)]


def _read_embed(ask: Ask) -> EmbedBody:
    try:
        return read(ResizableEmbedBody if ask.model.resizable else EmbedBody, ask)
    except Refused as refused:
        for found in json.loads(refused.reply.body)["detail"]:
            if found["type"] == "extra_forbidden":
                said = {"type": found["type"], "loc": tuple(found["loc"]), "msg": found["msg"]}
                raise Refused(vllm_error(400, f"1 validation error: detail={said!r}")) from None
        raise


def _encoded(values: list[float], form: str) -> Any:
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode() if form == "base64" else values


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
