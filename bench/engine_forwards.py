"""Forwards of the decoder: how long a block takes, beside the memory's speed and beside transformers; rows, reach, forms, kernels."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from bench.engine_clock import GB, median, percentile
from bench.engine_peer import Peer, quickest
from bench.engine_report import Goal
from bench.engine_rig import Rig
from bench.engine_shapes import BLOCK
from sensorium.engines.diffusion_vlm.rows import Row
from sensorium.engines.diffusion_vlm.torch_model import TorchModel

FORMS = ("auto", "sdpa", "split")
# Shares of the largest logit. A captured graph runs the kernels of the eager path; compiled code and transformers round elsewhere.
SAME_KERNELS, OTHER_KERNELS = 1e-3, 1e-1
NO_KERNELS = ("Memcpy", "Memset", "Context Sync", "Stream Sync", "Event Sync", "Stream Wait", "Event Record")


def block(rig: Rig) -> None:
    """One block at batch 1: its time, the share of the memory's bound that it reaches, and how far ahead of transformers it is."""
    reach, report = rig.scale.reaches[0], rig.report
    bandwidth = copied(rig)
    report.figure("device copy, bytes read and written", bandwidth / GB, "GB/s")
    rows = rig.blocks(1, reach)
    taken = _forward_ms(rig, rows)
    ours, bound = median(taken), 1000 * rig.bytes_read(rows) / bandwidth
    report.figure("block forward, batch 1", ours, "ms", Goal("<=", 6.0), f"median of {len(taken)}, reach {reach}, answers on the host")
    report.figure("block forward, batch 1, p95", percentile(taken, 95), "ms")
    report.figure("bytes that it must read", rig.bytes_read(rows) / GB, "GB")
    report.figure("share of the memory bound", bound / ours, "", Goal(">=", 0.8), f"bound {bound:.3g} ms")
    form, theirs = quickest(lambda form: peer(rig, form, reach), lambda one: _peer_ms(rig, one, rows[0]))
    report.figure("the same block in transformers, eager", theirs, "ms", note=f"Ministral3, attention {form}, same weights and reach")
    report.figure("times as fast as transformers", theirs / ours, "x", Goal(">=", 3.0))


def _forward_ms(rig: Rig, rows: list[Row]) -> list[float]:
    """Milliseconds of each forward of one row, as served."""
    with rig.model(1, rows[0].start + BLOCK) as model:
        rig.fill(model, 1, rows[0].start)
        return rig.clock.each(lambda: model.forward(rows), rig.scale.warm_up, rig.scale.repeats)


def copied(rig: Rig) -> float:
    """Bytes per second of a copy within the device, read and written."""
    source = torch.empty(rig.scale.copied // 2, dtype=torch.int16, device=rig.device).random_(-1000, 1000)
    target = torch.empty_like(source)
    taken = rig.clock.each(lambda: target.copy_(source), 3, 10)
    return 2 * source.numel() * source.element_size() / (median(taken) / 1000)


def peer(rig: Rig, form: str, reach: int) -> Peer:
    """transformers over the same weights, its cache full up to where the block begins."""
    made = Peer(rig.scale.raw, rig.weights, rig.device, rig.config.mask, form)
    made.fill(rig.tokens(reach)[: reach - BLOCK])
    return made


def _peer_ms(rig: Rig, one: Peer, row: Row) -> float:
    taken = rig.clock.each(lambda: one.forward(row.tokens), rig.scale.warm_up, max(2, rig.scale.repeats // 2))
    return median(taken)


def same(rig: Rig) -> None:
    """Graphs, compiled code, attention forms and transformers against the plainest path: best ids and logits of full blocks."""
    reach = rig.scale.reaches[0]
    rows = rig.blocks(2, reach)
    plain, logits = _answers(rig, rows, graphs=False, compile=False, attention="sdpa")
    others = {
        "graphs": {"graphs": True, "compile": False, "attention": "sdpa"},
        "compiled": {"graphs": False, "compile": True, "attention": "sdpa"},
        "split attention": {"graphs": False, "compile": False, "attention": "split"},
        "all as served": {},
    }
    for name, options in others.items():
        answers, theirs = _answers(rig, rows, **options)
        margin = SAME_KERNELS if name == "graphs" else OTHER_KERNELS
        _compare(rig, name, (plain, logits), (answers, theirs), margin)
    theirs = peer(rig, "sdpa", reach).logits(rows[0].tokens).float()
    rig.report.figure("transformers: largest difference of logits", _apart(logits, theirs), "of largest", Goal("<=", OTHER_KERNELS))


def _answers(rig: Rig, rows: list[Row], **options: Any) -> tuple[list[Any], torch.Tensor]:
    """What a model with these options answers to the rows, and the logits of the first."""
    with rig.model(len(rows), rows[0].start + BLOCK, **options) as model:
        rig.fill(model, len(rows), rows[0].start)
        for _ in range(3):  # a graph is captured on a later call than the first
            answers = model.forward(rows)
        return list(answers), model.logits(rows[0]).float().clone()


def _compare(rig: Rig, name: str, one: tuple[list[Any], torch.Tensor], other: tuple[list[Any], torch.Tensor], margin: float) -> None:
    ids = [(a[0] == b[0]).mean() for a, b in zip(one[0], other[0], strict=True)]
    confidences = max(float(np.abs(a[1] - b[1]).max()) for a, b in zip(one[0], other[0], strict=True))
    goal = Goal(">=", 1.0) if name == "graphs" else None
    rig.report.figure(f"{name}: equal ids", float(np.mean(ids)), "of 1", goal)
    rig.report.figure(f"{name}: largest difference of confidences", confidences, "", Goal("<=", margin))
    rig.report.figure(f"{name}: largest difference of logits", _apart(one[1], other[1]), "of largest", Goal("<=", margin))


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of two tensors in shares of the larger one's largest value; the head's mask column may be banned in one."""
    usable = torch.isfinite(one) & torch.isfinite(other)
    difference = torch.where(usable, one - other, 0).abs().max()
    return float(difference / torch.where(usable, one, 0).abs().max())


def table(rig: Rig) -> None:
    """Rows by reach, attention forms side by side, with and without compiled code; what eight blocks at once gain over one."""
    scale = rig.scale
    taken: dict[tuple[str, bool, int, int], float] = {}
    choices = [(form, True) for form in FORMS] + [("auto", False)]
    for form, compiled in choices:
        for (count, reach), milliseconds in _all_ms(rig, form, compiled).items():
            taken[form, compiled, count, reach] = milliseconds
    for reach in scale.reaches:
        for count in scale.rows:
            columns = {name_of(form, compiled): taken[form, compiled, count, reach] for form, compiled in choices}
            positions = count * BLOCK / taken["auto", True, count, reach]
            rig.report.row("milliseconds of a forward", rows=count, reach=reach, **columns, positions_per_ms=positions)
    first = scale.reaches[0]
    gain = 8 * taken["auto", True, 1, first] / taken["auto", True, 8, first]
    rig.report.figure("tokens/s of 8 blocks over those of one", gain, "x", Goal(">=", 5.0), f"reach {first}")


def _all_ms(rig: Rig, form: str, compiled: bool) -> dict[tuple[int, int], float]:
    """Milliseconds by rows and reach of one way to run forwards; the longest reach and the most rows first, as captures like it."""
    scale = rig.scale
    with rig.model(max(scale.rows), max(scale.reaches), attention=form, compile=compiled) as model:
        rig.fill(model, max(scale.rows), max(scale.reaches) - BLOCK)
        cases = [(count, reach) for reach in reversed(scale.reaches) for count in reversed(scale.rows)]
        return {(count, reach): _block_ms(rig, model, count, reach) for count, reach in cases}


def name_of(form: str, compiled: bool) -> str:
    """The column of a way to run forwards."""
    return form if compiled else f"{form}, not compiled"


def _block_ms(rig: Rig, model: TorchModel, count: int, reach: int) -> float:
    rows = rig.blocks(count, reach)
    return median(rig.clock.each(lambda: model.forward(rows), max(3, rig.scale.warm_up), max(2, rig.scale.repeats // 3)))


def kernels(rig: Rig) -> None:
    """How many kernels a forward is, and where its time goes, as served and without graphs and compiled code."""
    for name, options in (("as served", {}), ("eager", {"graphs": False, "compile": False})):
        count, micros = _launched(_traced(rig, options), rig.clock.cuda)
        rig.report.figure(f"kernels per forward, {name}", sum(count.values()), "", note="" if rig.clock.cuda else "operators on a CPU")
        rig.report.figure(f"time within kernels, {name}", sum(micros.values()) / 1000, "ms")
        for kernel, spent in micros.most_common(6):
            rig.report.row(f"longest, {name}", microseconds=spent, times=count[kernel], kernel=kernel[:90])


def _traced(rig: Rig, options: dict[str, Any]) -> Any:
    """A trace of one forward at batch 1."""
    rows = rig.blocks(1, rig.scale.reaches[0])
    with rig.model(1, rig.scale.reaches[0], **options) as model:
        rig.fill(model, 1, rows[0].start)
        for _ in range(4):
            model.forward(rows)
        rig.clock.settle()
        with profile(activities=[ProfilerActivity.CUDA if rig.clock.cuda else ProfilerActivity.CPU]) as traced:
            model.forward(rows)
            rig.clock.settle()
    return traced


def _launched(traced: Any, cuda: bool) -> tuple[Counter[str], Counter[str]]:
    """Kernels by name: how often, and the microseconds of all of them."""
    count: Counter[str] = Counter()
    micros: Counter[str] = Counter()
    kind = torch.autograd.DeviceType.CUDA if cuda else torch.autograd.DeviceType.CPU
    for event in traced.events():
        if event.device_type == kind and not event.is_user_annotation and not event.name.startswith(NO_KERNELS):
            count[event.name] += 1
            micros[event.name] += round(event.time_range.elapsed_us())
    return count, micros
