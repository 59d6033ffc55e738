"""What a training run of the drawing model agrees on and leaves behind: plan, clock, log, checkpoints, sheets of samples.

It does not know the loss or the optimiser.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, multiprocessing

from training import flow_sheet
from training.flow_data import words
from training.flow_model import FlowConfig, FlowModel
from training.flow_state import FlatState, shared

CHECKPOINT = "checkpoint.pt"
STAGES = ("paths", "distill")
BUCKETS = (0.0, 0.4, 0.7, 0.9, 1.01)  # of time, for the log


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. `minutes` and `steps` bound it, whichever comes first; `micro` pictures a micro-batch, `micros` of them a step, half as
    many during the share `early` of the run, where steps count more than their precision."""

    out: str
    minutes: float = math.inf
    steps: int = 10**9
    stage: str = "paths"
    start: str | None = None
    seed: int = 1
    processes: int = 2
    micro: int = 16
    micros: int = 4
    early: float = 0.3
    adam_lr: float = 1.5e-3
    muon_lr: float = 2e-3
    blank: float = 0.1
    shift: float = 1.5
    ema: float = 0.998
    compiled: bool = False
    save_every: float = 120.0
    sheet_every: float = 600.0
    warmup: int = 60


class Clock:
    """What the processes agree on: the next micro-batch, progress, whether to stop; and their barrier."""

    def __init__(self, processes: int, micros: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.barrier = context.Barrier(processes)
        self.next = context.Value("q", 0)
        self.step = context.Value("q", 0)
        self.drawn = context.Value("q", 0)
        self.progress = context.Value("d", 0.0)
        self.stop = context.Value("b", 0)
        self.losses = shared(torch.zeros(micros, len(BUCKETS) - 1, 2))

    def micros(self, plan: Plan) -> int:
        """Micro-batches in the present step."""
        return max(plan.micros // 2, 1) if self.progress.value < plan.early else plan.micros

    def take(self, limit: int) -> int | None:
        """The number of a micro-batch that nobody has taken yet in this step."""
        with self.next.get_lock():
            number = int(self.next.value)
            self.next.value = number + 1
        return number if number < limit else None


class Keeper:
    """Process 0's side jobs: time, log, checkpoints, sheets."""

    def __init__(self, plan: Plan, config: FlowConfig, state: FlatState, clock: Clock, elapsed: float) -> None:
        self.plan, self.config, self.state, self.clock = plan, config, state, clock
        self.before = history(plan)
        self.out = Path(plan.out)
        self.began = time.monotonic() - elapsed
        self.saved = self.drawn = self.logged = time.monotonic()
        self.sums = torch.zeros_like(clock.losses[0])
        self.pictures = 0

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, earlier sessions included."""
        return time.monotonic() - self.began

    def look(self) -> None:
        """Update progress and decide whether this was enough."""
        step, plan = self.clock.step.value, self.plan
        progress = max(self.elapsed / (plan.minutes * 60), (step + 1) / plan.steps)
        self.clock.progress.value, self.clock.stop.value = min(1.0, progress), int(progress >= 1)

    def after_step(self, norm: float, micros: int) -> None:
        """Log, save and draw when it is time."""
        now = time.monotonic()
        self.sums += self.clock.losses[:micros].sum(0)
        self.pictures += micros * self.plan.micro
        last = bool(self.clock.stop.value)
        if now - self.logged > 20 or last:
            self.log(norm, now)
        if now - self.saved > self.plan.save_every or last:
            self.save()
            self.saved = now
        if now - self.drawn > self.plan.sheet_every or last:
            self.draw()
            self.drawn = time.monotonic()

    def log(self, norm: float, now: float) -> None:
        """One line of JSON: losses are means since the last line, in all and by time."""
        parts = zip(BUCKETS[1:], self.sums.tolist(), strict=True)
        buckets = {f"below_{high:g}": round(total / count, 4) for high, (total, count) in parts if count}
        total, count = self.sums.sum(0).tolist()
        rate = self.pictures / (now - self.logged)
        line = {"step": self.clock.step.value, "seconds": round(self.elapsed), "progress": round(self.clock.progress.value, 4)}
        line |= {"loss": round(total / count, 5), **buckets, "norm": round(norm, 3), "per_second": round(rate, 1)}
        write_line(self.out, line)
        self.logged, self.pictures = now, 0
        self.sums.zero_()

    def save(self) -> None:
        """Write the checkpoint."""
        step, plan = self.clock.step.value, self.plan
        extra = {"config": asdict(self.config), "step": step, "elapsed": self.elapsed, "drawn": self.clock.drawn.value}
        extra["pictures"] = self.clock.drawn.value * plan.micro
        self.state.save(self.out / CHECKPOINT, {**extra, "stage": plan.stage, "shift": plan.shift, "words": words(), "before": self.before})

    def draw(self) -> None:
        """Write a sheet of samples and how many of them measure right."""
        model = FlowModel(self.config)
        self.state.bind(model, self.state.average)
        guidance = 2.0 if self.config.guidance_embeds else None
        right = flow_sheet.write(model, self.out / f"sheet-{self.clock.step.value:06d}.png", guidance=guidance)
        write_line(self.out, {"step": self.clock.step.value, "seconds": round(self.elapsed), "sheet_measured_right": right})


def write_line(out: Path, line: dict[str, Any]) -> None:
    """Append to the run's log and show it."""
    text = json.dumps(line)
    with (out / "log.jsonl").open("a") as file:
        file.write(text + "\n")
    print(text, file=sys.stderr, flush=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A saved run. Raises ValueError when its vocabulary is not today's."""
    saved: dict[str, Any] = torch.load(path, weights_only=True)
    if saved["words"] != words():
        raise ValueError(f"{path.name} was trained with another vocabulary: start a new run")
    return saved


def averaged(saved: dict[str, Any]) -> dict[str, Tensor]:
    """A checkpoint's averaged weights by name."""
    result, begin = {}, 0
    for name, shape in saved["names"]:
        result[name] = saved["average"][begin : begin + math.prod(shape)].view(tuple(shape))
        begin += math.prod(shape)
    return result


def configured(saved: dict[str, Any]) -> FlowConfig:
    """The sizes a checkpoint was trained with."""
    return FlowConfig(**{**saved["config"], "axes_dims_rope": tuple(saved["config"]["axes_dims_rope"])})


def history(plan: Plan) -> dict[str, Any]:
    """What was trained before this run, for the model card: the stage before, or the model that it starts from."""
    if plan.start is None:
        return {"step": 0, "elapsed": 0.0, "pictures": 0}
    if plan.stage == "distill":
        first = read_checkpoint(Path(plan.start))
        return {name: first[name] for name in ("step", "elapsed", "pictures")}
    trained = json.loads((Path(plan.start) / "sensorium.json").read_text("utf-8"))["trained"]
    return {"step": trained["steps"], "elapsed": 60.0 * trained["minutes"], "pictures": trained["pictures"]}
