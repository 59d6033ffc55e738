"""Trains the drawing model on fresh renders, on the CPU.

    python -m training.flow_train --minutes 60 --out runs/flow              # resumes where the folder's checkpoint stands
    python -m training.flow_train --minutes 20 --out runs/flow-distilled --stage distill --start runs/flow/checkpoint.pt
    python -m training.flow_train --minutes 40 --out runs/flow --start src/sensorium/models/scenes-flow --compiled # from what ships
    python -m training.flow_train --smoke                                   # seconds: falls, stops, resumes

Several processes of one thread each take micro-batches from one counter, so a core that is slowed down does not hold up the other.
Beside the checkpoint lie `log.jsonl`, `run.json` and sheets of samples for fixed held-out prompts and seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from sensorium.engines import weights
from training.flow_data import Batch, Captions, batch, words
from training.flow_model import FlowConfig, FlowModel, is_modulation
from training.flow_run import BUCKETS, CHECKPOINT, STAGES, Clock, Keeper, Plan, averaged, configured, read_checkpoint
from training.flow_state import FlatState
from training.optim import schedule

SLOWEST = 0.25  # below this time the velocity loss is not sharpened any further
ADAM_ONLY = ("embed", "proj_out.weight", "norm_out")


def uses_muon(name: str, parameter: nn.Parameter) -> bool:
    """Inner matrices of the blocks; not embeddings, modulation, input or output."""
    inner = "blocks." in name or "text_encoder.layers." in name
    return inner and parameter.ndim == 2 and not is_modulation(name)


def ema_at(step: int, limit: float) -> float:
    """Decay of the moving average: short at first, `limit` later."""
    return min(limit, (1 + step) / (10 + step))


def weighted_errors(predicted: Tensor, target: Tensor, data: Batch) -> Tensor:
    """[B] velocity errors, objects weighted up."""
    error = ((predicted.float() - target).square() * data.weight).mean((1, 2))
    return error / data.t.clamp(min=SLOWEST).square()


class Objective:
    """The loss of one micro-batch, for either stage."""

    def __init__(self, plan: Plan, model: FlowModel, teacher: FlowModel | None) -> None:
        self.teacher, self.seed = teacher, plan.seed
        forward: Any = torch.compile(model, dynamic=False) if plan.compiled else model
        self.forward = forward

    def errors(self, data: Batch, number: int) -> Tensor:
        """[B] losses, one per picture."""
        with torch.autocast("cpu", torch.bfloat16):
            return self._errors(data, number)

    def _errors(self, data: Batch, number: int) -> Tensor:
        t = data.t[:, None, None]
        x = (1 - t) * data.clean + t * data.noise
        if self.teacher is None:
            return weighted_errors(self.forward(x, data.t, data.ids), data.clean, data)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        guidance = 1 + 4 * torch.rand(len(t), generator=generator)
        with torch.no_grad():
            both = torch.cat([data.ids, torch.zeros_like(data.ids)])
            told, blind = self.teacher(torch.cat([x, x]), data.t.repeat(2), both).chunk(2)
            target = blind + guidance[:, None, None] * (told - blind)
        return weighted_errors(self.forward(x, data.t, data.ids, guidance), target, data)


def work(
    rank: int, plan: Plan, config: FlowConfig, state: FlatState, clock: Clock, teacher: dict[str, Tensor] | None, elapsed: float
) -> None:
    """One process of a run."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model = FlowModel(config)
    state.bind(model, state.weight, state.gradients[rank])
    objective = Objective(plan, model, teacher_model(config, teacher))
    captions, share = Captions(config.slots), state.share(rank, plan.processes)
    keeper = Keeper(plan, config, state, clock, elapsed) if rank == 0 else None
    while not clock.stop.value:
        micros = clock.micros(plan)
        while (micro := clock.take(micros)) is not None:
            add_gradients(plan, config, captions, objective, clock, micro)
        clock.barrier.wait()
        state.collect(share, rank, micros)
        if keeper is not None:
            keeper.look()
        clock.barrier.wait()
        step = clock.step.value
        factor = min(1.0, (step + 1) / plan.warmup) * schedule(10**9, clock.progress.value)
        norm = state.step(
            share, step=step + 1, adam_lr=plan.adam_lr * factor, muon_lr=plan.muon_lr * factor, clip=1.0, ema=ema_at(step, plan.ema)
        )
        clock.barrier.wait()
        if keeper is not None:
            clock.step.value, clock.next.value, clock.drawn.value = step + 1, 0, clock.drawn.value + micros
            keeper.after_step(norm, micros)
        clock.barrier.wait()


def add_gradients(plan: Plan, config: FlowConfig, captions: Captions, objective: Objective, clock: Clock, micro: int) -> None:
    """Forward and backward of one micro-batch into this process's gradient buffer."""
    number = clock.drawn.value + micro
    blank = plan.blank if plan.stage == "paths" else 0.0
    data = batch(plan.seed, number, plan.micro, captions, size=config.image_size, patch=config.patch, shift=plan.shift, blank=blank)
    errors = objective.errors(data, number)
    errors.mean().backward()  # type: ignore[no-untyped-call]
    for index, (low, high) in enumerate(pairwise(BUCKETS)):
        inside = (data.t >= low) & (data.t < high)
        clock.losses[micro, index, 0] = errors.detach()[inside].sum()
        clock.losses[micro, index, 1] = inside.sum()


def teacher_model(config: FlowConfig, tensors: dict[str, Tensor] | None) -> FlowModel | None:
    """The frozen model that the distillation stage imitates."""
    if tensors is None:
        return None
    model = FlowModel(replace(config, guidance_embeds=False))
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


def shipped(folder: Path) -> dict[str, Tensor]:
    """The weights of a model folder by training name."""
    files = {"transformer": "diffusion_pytorch_model", "text_encoder": "text_encoder"}
    parts = {prefix: weights.open_tensors(folder, file) for prefix, file in files.items()}
    return {f"{prefix}.{name}": torch.from_numpy(value) for prefix, part in parts.items() for name, value in part.items()}


def run(plan: Plan, config: FlowConfig) -> dict[str, Any]:
    """Train until the budget is spent, then return the last line of the log."""
    out = Path(plan.out)
    out.mkdir(parents=True, exist_ok=True)
    teacher = None
    torch.manual_seed(plan.seed)
    if plan.stage == "distill":
        if plan.start is None:
            raise ValueError("--stage distill needs --start: the checkpoint of the first stage")
        first = read_checkpoint(Path(plan.start))
        teacher, config = averaged(first), replace(configured(first), guidance_embeds=True)
    model = FlowModel(config)
    if teacher is not None:
        model.load_state_dict(teacher, strict=False)
    elif plan.start is not None:
        model.load_state_dict(shipped(Path(plan.start)))
    state, clock, elapsed = FlatState(model, uses_muon, plan.processes), Clock(plan.processes, plan.micros), 0.0
    if (out / CHECKPOINT).is_file():
        saved = read_checkpoint(out / CHECKPOINT)
        state.restore(saved)
        clock.step.value, clock.drawn.value, elapsed = saved["step"], saved["drawn"], saved["elapsed"]
        clock.progress.value = min(1.0, max(elapsed / (plan.minutes * 60), saved["step"] / plan.steps))
    (out / "run.json").write_text(json.dumps({"plan": asdict(plan), "config": asdict(config)}, indent=2, default=str) + "\n")
    arguments = (plan, config, state, clock, teacher, elapsed)
    if plan.processes == 1:
        work(0, *arguments)
    else:
        spawn(work, arguments, plan.processes)  # type: ignore[no-untyped-call]
    lines: list[dict[str, Any]] = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return next(line for line in reversed(lines) if "loss" in line)


def smoke() -> None:
    """A tiny model for a few steps, twice over the same folder. Raises RuntimeError when it does not learn or does not resume."""
    config = FlowConfig(num_layers=1, num_single_layers=1, text_layers=1, vocab_size=len(words()))
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(folder, steps=12, processes=1, micro=4, micros=1, save_every=math.inf, sheet_every=math.inf, warmup=4)
        first = run(plan, config)
        second = run(replace(plan, steps=40), config)
    if second["step"] != 40 or second["loss"] >= first["loss"]:
        raise RuntimeError(f"the smoke run did not resume or did not learn: {first} then {second}")
    print(json.dumps({"smoke": "ok", "loss": [first["loss"], second["loss"]]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = Plan("")
    for name in Plan.__dataclass_fields__:
        value = getattr(defaults, name)
        if isinstance(value, bool):
            parser.add_argument(f"--{name}", action="store_true")
        else:
            choices = STAGES if name == "stage" else None
            parser.add_argument(f"--{name.replace('_', '-')}", type=str if value is None else type(value), default=value, choices=choices)
    parser.add_argument("--smoke", action="store_true", help="a run of seconds on a tiny model")
    given = vars(parser.parse_args())
    if given.pop("smoke"):
        smoke()
        return
    if not given["out"] or (math.isinf(given["minutes"]) and given["steps"] == defaults.steps):
        parser.error("give --out, and --minutes or --steps")
    run(Plan(**given), FlowConfig(vocab_size=len(words())))


if __name__ == "__main__":
    main()
