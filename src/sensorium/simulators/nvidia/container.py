"""Which code answers a request that has reached a model's container. The same containers stand behind gateways, behind function hosts,
and by themselves."""

from __future__ import annotations

from collections.abc import Callable

from sensorium.simulators.nvidia import chat, completions, images, local, retrieval, speech, video
from sensorium.simulators.nvidia.ask import Ask
from sensorium.simulators.nvidia.incidents import INCIDENTS
from sensorium.simulators.nvidia.replies import detail
from sensorium.simulators.replies import Refused, Reply

ROUTES: dict[str, dict[str, Callable[[Ask], Reply]]] = {
    "chat": {"/v1/chat/completions": chat.answer, "/v1/completions": completions.complete, "/v1/responses": completions.respond},
    "embed": {"/v1/embeddings": retrieval.embed},
    "rerank": {"/v1/ranking": retrieval.rerank},
    "image": {"/v1/infer": images.answer, "/v1/images/generations": images.openai, "/v1/images/edits": images.edit},
    "video": {"/v1/infer": video.answer},
}


def answer(ask: Ask) -> Reply:
    """The container's answer, refusals included. Blocking: it draws, encodes and decodes."""
    if ask.hosted and not ask.model.over_http:  # the function speaks gRPC only, and nobody listens for HTTP
        return INCIDENTS["inference-connection"].answer(ask.model)
    try:
        return local.about(ask) or _work(ask)
    except Refused as refused:
        return refused.reply


def _work(ask: Ask) -> Reply:
    if ask.model.kind in ("asr", "tts"):
        return speech.answer(ask)
    handler = ROUTES[ask.model.kind].get(ask.path)
    if handler is None:
        return detail(404, "Not Found")
    return handler(ask) if ask.method == "POST" else detail(405, "Method Not Allowed")
