"""Memory and first answers: whether all slots fit, how long until the first block about a large picture, whether memory grows."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from typing import Any

import numpy as np
from PIL import Image

from bench.engine_clock import GB, median, resident_bytes
from bench.engine_report import Goal
from bench.engine_rig import Rig
from bench.engine_script import Scripted
from bench.engine_shapes import BLOCK
from sensorium.engines.diffusion_vlm.ask import Ask
from sensorium.engines.diffusion_vlm.decode import Decoding, Request, diffuse, tick
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.diffusion_vlm.schedule import make_schedule
from sensorium.engines.lane import Lane
from sensorium.engines.shared_lane import SharedLane

PACE = 2.5  # tokens per denoising step: about what the real weights commit
MB = 1e6
REPEATED = 3
QUESTION = "what is on the table ? "


def room(rig: Rig) -> None:
    """All slots full to their end: the most memory that was taken, from loading on, a large picture included."""
    scale = rig.scale
    with rig.backend(scale.slots, scale.context) as backend:
        rig.report.figure("memory of the model at rest", rig.clock.bytes_now() / GB, "GB", note=f"{scale.slots} slots of {scale.context}")
        rig.fill(backend.model, scale.slots, scale.context - BLOCK)
        for _ in range(3):
            backend.forward(rig.blocks(scale.slots, scale.context))
        backend.join([backend.features(rig_pixels(rig))])
        rig.clock.settle()
        peak, free = rig.clock.bytes_peak() / GB, (rig.clock.bytes_of_device()) / GB
        rig.report.figure("peak memory", peak, "GB", Goal("<=", 80.0), f"the device has {free:.1f} GB")


def rig_pixels(rig: Rig, seed: int = 0) -> Any:
    """Pixels of a picture of the scale's size."""
    side = -(-rig.scale.picture // rig.config.cell) * rig.config.cell
    return np.random.default_rng(seed).standard_normal((3, side, side), np.float32)


def picture(side: int, seed: int) -> Image.Image:
    """Noise, which no cache has seen."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def first_block(rig: Rig) -> None:
    """From a decoded picture to the first committed block, in its parts."""
    scale, times = rig.scale, max(3, rig.scale.repeats // 10)
    with rig.backend(1, min(4096, scale.context)) as backend:
        scripted = Scripted(backend, PACE, rig.config.mask, rig.word, rig.other)
        model = DiffusionVLM.over(rig.prompts, rig.config, scripted, shared=True)
        for number in range(scale.warm_up):
            _parts(rig, model, scripted, number)
        found = [_parts(rig, model, scripted, scale.warm_up + number) for number in range(times)]
        larger = picture(10 * scale.picture // 7, 0)
        resized = rig.clock.each(lambda: model.see(larger), 1, 3)
    for name in found[0]:
        rig.report.figure(name, median([parts[name] for parts in found]), "ms")
    total = median([sum(parts.values()) for parts in found])
    rig.report.figure(
        "first block about a picture", total, "ms", Goal("<=", 250.0), f"{scale.picture} x {scale.picture}, {PACE} tokens a step"
    )
    rig.report.figure("a larger picture on the host, resized", median(resized), "ms", note=f"{larger.width} x {larger.height}")


def _parts(rig: Rig, model: DiffusionVLM, backend: Scripted, seed: int) -> dict[str, float]:
    """Milliseconds of each part for a new picture."""
    made: dict[str, Any] = {}
    shown = picture(rig.scale.picture, seed)
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    ask = Ask([{"role": "user", "content": content}], (shown,), max_tokens=2 * BLOCK)

    def prepare() -> None:
        made["job"] = model.prepare(ask)

    def look() -> None:
        made["features"] = backend.join([backend.features(one.pixels) for one in made["job"].pictures])

    def read() -> None:
        prompt = made["job"].prompt
        request = Request(prompt.ids, 2 * BLOCK, rig.config.mask, rig.config.ends, pads=prompt.pads, features=made["features"])
        made["decoding"] = decoding = Decoding(request, lambda one: diffuse(one, make_schedule(2 * BLOCK, None, BLOCK), 0.9))
        while decoding.row is not None and decoding.row.start < len(prompt.ids):
            tick([decoding], backend.forward)

    def answer() -> None:
        while not tick([made["decoding"]], backend.forward)[0]:
            pass

    steps = {"picture and prompt, on the host": prepare, "tower": look, "prefill": read, "first block's forwards": answer}
    return {name: rig.clock.once(step) for name, step in steps.items()}


def growth(rig: Rig) -> None:
    """Many requests of all kinds through the lane that serves them: memory before the last half and after it."""
    half = rig.scale.requests // 2
    with rig.backend(min(8, rig.scale.slots), rig.scale.context) as backend:
        scripted = Scripted(backend, PACE, rig.config.mask, rig.word, rig.other)
        model = DiffusionVLM.over(rig.prompts, rig.config, scripted, shared=True)
        lane = SharedLane("bench", model.batch, limit=256)
        try:
            asyncio.run(served(rig, model, lane, range(half)))
            grown, resident = _grown(rig, model, lane, range(half, 2 * half))
        finally:
            lane.close()
        counters = lane.counters
    said = f"{counters.finished} finished, {counters.cancelled} cancelled, {counters.failed} failed"
    rig.report.figure("memory grown over the last half", grown / MB, "MB", Goal("<=", 32.0), f"{half} requests")
    rig.report.figure("memory of the process grown", resident / MB, "MB")
    rig.report.figure("requests that failed", counters.failed, "", Goal("==", 0), said)


def _grown(rig: Rig, model: DiffusionVLM, lane: Lane, numbers: range) -> tuple[int, int]:
    """Bytes on the device and of the process by which these requests let memory grow. They are repeated a few times while they
    bring up shapes of forwards that were not there before, since what is kept for those is no leak."""
    for _ in range(REPEATED):
        shapes, device, process = _shapes(model), rig.clock.bytes_now(), resident_bytes()
        asyncio.run(served(rig, model, lane, numbers))
        if shapes == _shapes(model):
            break
    return rig.clock.bytes_now() - device, resident_bytes() - process


def _shapes(model: DiffusionVLM) -> int:
    """How many shapes of forwards are kept ready."""
    backend: Any = model.batch.backend
    return len(backend.model._programs)


async def served(rig: Rig, model: DiffusionVLM, lane: Lane, numbers: range) -> None:
    """Put these requests of the script through the lane, more at once than there are slots."""
    places = asyncio.Semaphore(12)

    async def one(number: int) -> None:
        async with places:
            await _serve(rig, model, lane, number)

    await asyncio.gather(*(one(number) for number in numbers))


async def _serve(rig: Rig, model: DiffusionVLM, lane: Lane, number: int) -> None:
    """One request of the script; each tenth caller goes away after the first piece."""
    job = model.prepare(mixed(rig, random.Random(number)))
    with lane.admitted() as turn:
        async with aclosing(turn.stream(model.work(job))) as events:
            async for _ in events:
                if number % 10 == 9:
                    return


def mixed(rig: Rig, rng: random.Random) -> Ask:
    """A request of any mode, length, block length and temperature, every third about one of a few pictures."""
    mode = rng.choice(("diffusion", "ar", "linear"))
    content: list[dict[str, str]] = [{"type": "text", "text": QUESTION * rng.randint(1, 6)}]
    shown: tuple[Image.Image, ...] = ()
    if rng.random() < 1 / 3:
        content.insert(0, {"type": "image"})
        shown = (picture(rng.choice((28, 56, rig.scale.picture // 2)), rng.randint(0, 3)),)
    return Ask(
        [{"role": "user", "content": content}],
        shown,
        max_tokens=rng.randint(1, max(8, rig.scale.answer // 4)),
        block_length=rng.choice((8, 16, 32, 32)),
        mode=mode,
        temperature=0.0 if mode == "linear" else rng.choice((0.0, 0.0, 0.7)),
        seed=rng.randint(0, 9),
    )
