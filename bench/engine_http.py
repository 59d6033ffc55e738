"""Tokens per second as callers see them: an engine process of its own, chat calls over HTTP, one and many callers at once.

The checkpoint has the full shapes and random weights. It is hardly ever confident, so that a block of diffusion takes nearly all its steps:
256 for an answer of 512 tokens, which makes 1.9 tokens per forward. Linear mode is measured with the shipped model alone: drafts of random
weights are never right.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from bench.engine_answers import MODES
from bench.engine_clock import percentile
from bench.engine_rig import Rig
from bench.engine_room import QUESTION
from bench.engine_shapes import SHIPPED, write_checkpoint
from sensorium.engines.orders import ModelOrder
from sensorium.engines.supervisor import EngineProcess

LOADING_S = 420.0
SMALL = "small"


def http(rig: Rig) -> None:
    """Tokens per second and the wait for the first words, by callers and mode, of the shipped model and of the full shapes."""
    # float32 on a CPU: the dtype that the device's own choice falls on is what is served.
    served(rig, ModelOrder(path=str(SHIPPED), name=SMALL, device=str(rig.device)))
    need = 2.2 * sum(rig.weights.size(name) for name in rig.weights)
    if shutil.disk_usage(rig.folder).free < need:
        rig.report.figure("disk space missing for a checkpoint of the full shapes", need / 1e9, "GB")
        return
    folder = write_checkpoint(rig.folder / "checkpoint", rig.scale.raw, rig.config)
    try:
        served(rig, ModelOrder(path=str(folder), name=rig.scale.name, device=str(rig.device), context=min(4096, rig.scale.context)))
    finally:
        shutil.rmtree(folder)


def served(rig: Rig, order: ModelOrder) -> None:
    """Start an engine with this model and call it."""
    rig.clock.forget_peak()
    asyncio.run(_served(rig, order))


async def _served(rig: Rig, order: ModelOrder) -> None:
    log, queue = rig.folder / f"{order.name}.log", 2 * max(rig.scale.callers)
    began = time.perf_counter()
    async with EngineProcess("bench", models=[order], environment=os.environ, queue=queue, deadline_s=None, log=log) as engine:
        try:
            await engine.wait_ready(LOADING_S)
        except Exception:
            print(_end_of(log), flush=True)
            raise
        rig.report.figure(f"{order.name}: from start to ready", time.perf_counter() - began, "s")
        headers = {"authorization": f"Bearer {engine.token}"}
        async with aiohttp.ClientSession(engine.base_url, headers=headers, timeout=aiohttp.ClientTimeout(total=None)) as session:
            for mode in MODES if order.name == SMALL else ("diffusion", "ar"):
                for callers in rig.scale.callers:
                    await _called(rig, session, order.name, mode, callers)


def _end_of(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-3000:] if log.exists() else ""


async def _called(rig: Rig, session: aiohttp.ClientSession, model: str, mode: str, callers: int) -> None:
    """So many callers who ask again as soon as they have their answer."""
    sums: Counter[str] = Counter()
    first_words: list[float] = []
    limit = rig.scale.answer if model != SMALL else 64

    async def caller(times: int, number: int) -> None:
        for turn in range(times):
            question = QUESTION * (1 + (number + turn) % 4)
            usage, waited = await answer(session, {"model": model, "mode": mode, "max_tokens": limit, **asked(question)})
            first_words.append(waited)
            sums.update({name: usage[name] for name in ("completion_tokens", "num_function_evals") if name in usage})

    await asyncio.gather(*(caller(1, number) for number in range(callers)))
    sums.clear()
    first_words.clear()
    began = time.perf_counter()
    await asyncio.gather(*(caller(rig.scale.calls_each, number) for number in range(callers)))
    seconds = time.perf_counter() - began
    rig.report.row(
        "through HTTP",
        model=model,
        mode=mode,
        callers=callers,
        tokens_per_s=sums["completion_tokens"] / seconds,
        tokens_per_forward=sums["completion_tokens"] / max(1, sums["num_function_evals"]),
        first_words_p50_ms=1000 * percentile(first_words, 50),
        first_words_p95_ms=1000 * percentile(first_words, 95),
    )


def asked(question: str) -> dict[str, Any]:
    """A streamed chat call with its usage at the end."""
    return {"messages": [{"role": "user", "content": question}], "stream": True, "stream_options": {"include_usage": True}}


async def answer(session: aiohttp.ClientSession, body: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """The usage of one call, and the seconds until its first words."""
    began, waited = time.perf_counter(), None
    usage: dict[str, Any] = {}
    async with session.post("/v1/chat/completions", json=body) as reply:
        if reply.status != 200:
            raise RuntimeError(f"a call was answered with {reply.status}: {(await reply.text())[:500]}")
        async for line in reply.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if waited is None and any(choice["delta"].get("content") for choice in event.get("choices", ())):
                waited = time.perf_counter() - began
            usage = event.get("usage") or usage
    return usage, waited if waited is not None else time.perf_counter() - began
