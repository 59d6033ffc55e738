"""Train scenes-vlm: first the tower on dense labels, then everything on packed questions. `python -m training.vlm_train --help`.

Two processes of one thread each share every step. The run continues from the last checkpoint in --out; its schedule is a fraction of
--minutes (or of --steps). Loss lines go to log.jsonl beside the checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from sensorium.engines import weights
from training import tokenizer
from training.dense import DenseHead
from training.grow import grow
from training.optim import FlatOptimiser, schedule
from training.vlm_data import FIRST_PROBE, Batch, Packer
from training.vlm_model import CONFIG, VisionLanguageModel

ADAM_ONLY = ("embed_tokens", "diffusion_head", "dense.")
FIRST_TRAINING_SEED = 100_000
EVALUATION_SEED = 77
CHECKPOINT = "vlm.pt"
LOG = "log.jsonl"
SMOKE_STEPS = 14
EARLY = 0.4  # share of the run in which what is hard to begin, yes and no above all, is asked more
SAVE_EVERY, EVALUATE_EVERY = 120.0, 300.0  # seconds


@dataclass(frozen=True, slots=True)
class Options:
    """Command line of one run."""

    out: Path
    minutes: float
    steps: int
    batch: int
    length: int
    processes: int
    tower_share: float
    muon_lr: float
    adam_lr: float
    dense_weight: float
    question_weight: float
    noise: float
    boost: float
    signs: float
    pairs: float
    descriptions: float
    twins: float
    probes: int
    seed: int
    smoke: bool
    restart_schedule: bool
    start: Path | None


class Trainee(nn.Module):
    """The model and its throw-away dense head."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.model = VisionLanguageModel(config)
        self.dense = DenseHead(config["vision_config"]["hidden_size"])


def smoke_config() -> dict[str, Any]:
    """A tiny model with the real vocabulary, for the smoke run."""
    config = copy.deepcopy(CONFIG)
    config.update(hidden_size=64, num_hidden_layers=2, intermediate_size=128, num_attention_heads=2, head_dim=32)
    config["vision_config"].update(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, head_dim=32, intermediate_size=128)
    return config


def losses(trainee: Trainee, batch: Batch, dense_weight: float, question_weight: float) -> tuple[Tensor, dict[str, float]]:
    """The joint loss, and its parts for the log."""
    with torch.autocast("cpu", torch.bfloat16):
        return _losses(trainee, batch, dense_weight, question_weight)


def _losses(trainee: Trainee, batch: Batch, dense_weight: float, question_weight: float) -> tuple[Tensor, dict[str, float]]:
    model = trainee.model
    seen, image = model.look(batch.pixels)
    dense, accuracy = trainee.dense(seen, batch.labels)
    hidden = model.hidden(batch.ids, batch.positions, batch.visible, image, batch.pads)
    use = batch.targets >= 0
    logits = model.diffusion_head(hidden[use]).float()
    noisy, question, targets = batch.noisy[use], batch.question[use], batch.targets[use]
    mask = torch.zeros(logits.shape[-1])
    mask[model.config["mask_token_id"]] = -1e4
    each = F.cross_entropy(logits + mask, targets, reduction="none") * batch.weights[use]
    size = batch.weights[use]
    causal, diffusion, asking = (each[part].sum() / size[part].sum().clamp_min(1e-6) for part in (~noisy & ~question, noisy, question))
    _, shape, _, _, letter = accuracy.tolist()
    probes = batch.group[use] >= FIRST_PROBE
    right = (logits[probes].argmax(-1) == targets[probes]).float().mean()
    parts = {"ar": causal.item(), "diffusion": diffusion.item(), "question": asking.item(), "dense": dense.item()}
    parts |= {"probe": right.item()} if probes.any() else {}
    return causal + diffusion + question_weight * asking + dense_weight * dense, {**parts, "shape": shape, "letter": letter}


@torch.no_grad()
def exact_match(trainee: Trainee, packer: Packer, pictures: int, held: bool | None) -> dict[str, float]:
    """Share of questions per type whose every answer token is the causal argmax, i.e. greedy decoding would be exact."""
    model, hits = trainee.model, dict[str, list[float]]()
    for _ in range(0, pictures, 10):
        batch = packer.batch(10, held, share=0.0)
        _, image = model.look(batch.pixels)
        best = model.diffusion_head(model.hidden(batch.ids, batch.positions, batch.visible, image, batch.pads)).argmax(-1)
        wrong = (best != batch.targets) & (batch.targets >= 0) & ~batch.question
        for row, asked in enumerate(batch.asked):
            bad = set(batch.group[row][wrong[row]].tolist())
            for number, one in enumerate(asked, 1):
                hits.setdefault(one.kind, []).append(float(number not in bad))
    every = [value for values in hits.values() for value in values]
    return {"all": round(sum(every) / len(every), 3), "n": len(every), **{k: round(sum(v) / len(v), 2) for k, v in sorted(hits.items())}}


class Run:
    """One training process: rank 0 also logs, evaluates and saves."""

    def __init__(self, options: Options, rank: int) -> None:
        self.options, self.rank = options, rank
        self.config = smoke_config() if options.smoke else copy.deepcopy(CONFIG)
        torch.manual_seed(options.seed)
        self.trainee = Trainee(self.config)
        self.optimiser = FlatOptimiser(self.trainee.named_parameters(), ADAM_ONLY, options.muon_lr, options.adam_lr)
        self.words = tokenizer.build()
        vision = self.config["vision_config"]
        self.grid, self.merge = vision["image_size"] // vision["patch_size"], self.config["spatial_merge_size"]
        self.step, self.elapsed, self.pictures = 0, 0.0, 0
        self.before = {"steps": 0, "minutes": 0, "pictures": 0}
        self.started = self.saved = self.evaluated = time.monotonic()
        path = options.out / CHECKPOINT
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.optimiser.restore(state["optimiser"])
            self.pictures, self.before = state["pictures"], state["before"]
            if not options.restart_schedule:
                self.step, self.elapsed = state["step"], state["elapsed"]
            self.say({"resumed": self.step, "elapsed": round(self.elapsed)})
        elif options.start is not None:
            self.take(options.start)
        fresh = FIRST_TRAINING_SEED + options.seed * 1_000_003 + self.optimiser.count * 17 + rank * 500_009
        shares = (options.signs, options.probes, options.pairs, options.descriptions, options.twins)
        self.packer = self.make_packer(fresh, options.noise, *shares)

    def take(self, folder: Path) -> None:
        """Begin with the weights of a model folder, as it ships. The throw-away head and the optimiser begin afresh."""
        grow(self.trainee.model, {name: torch.from_numpy(values) for name, values in weights.open_tensors(folder).items()})
        self.optimiser.ema.copy_(self.optimiser.flat)
        self.before = json.loads((folder / "sensorium.json").read_text("utf-8"))["trained"]
        self.say({"started from": folder.name})

    def make_packer(self, seed: int, noise: float = 0.0, *shares: Any) -> Packer:
        """A source of batches with its own random numbers; `shares` as in Packer, after its noise."""
        return Packer(self.words, random.Random(seed), self.options.length, self.grid, self.merge, noise, *shares)

    def say(self, line: dict[str, Any]) -> None:
        """One line of the log."""
        if self.rank == 0:
            text = json.dumps(line)
            print(text, flush=True)
            with (self.options.out / LOG).open("a") as log:
                log.write(text + "\n")

    def fraction(self) -> float:
        """How much of the budget is used; rank 0 decides for all."""
        used = self.elapsed + time.monotonic() - self.started
        value = self.step / self.options.steps if self.options.steps else used / (self.options.minutes * 60)
        shared = torch.tensor([value])
        if dist.is_initialized():
            dist.broadcast(shared, 0)
        return float(shared)

    def train(self) -> None:
        """Until the budget is used."""
        recent: list[dict[str, float]] = []
        warm = 0
        phase = ""
        while (fraction := self.fraction()) < 1:
            tower = fraction < self.options.tower_share
            if phase != ("tower" if tower else "joint"):
                warm, phase = 0, "tower" if tower else "joint"
                self.optimiser.only("vision_tower" if tower else "")
            self.optimiser.zero()
            recent.append(self.tower_step() if tower else self.joint_step(fraction))
            if dist.is_initialized():
                dist.all_reduce(self.optimiser.grad)
                self.optimiser.grad.div_(dist.get_world_size())
            norm = self.optimiser.step(schedule(warm, fraction))
            self.step, warm = self.step + 1, warm + 1
            if self.step % 20 == 0 or self.options.smoke:
                mean = {k: round(sum(r[k] for r in recent) / len(recent), 4) for k in recent[0] if all(k in r for r in recent)}
                used = self.elapsed + time.monotonic() - self.started
                facts = {"step": self.step, "s": round(used), "pictures": self.pictures, "fraction": round(fraction, 4)}
                self.say({**facts, "norm": round(norm, 2), **mean})
                recent = []
            self.look_after()
        self.look_after(final=True)

    def tower_step(self) -> dict[str, float]:
        size = self.options.batch * 2
        pixels, labels, _ = self.packer.looks(size)
        loss, accuracy = self.trainee.dense(self.trainee.model.encoder.vision_tower(pixels), labels)
        torch.autograd.backward(loss)
        self.pictures += size * self.options.processes
        colour, shape, extent, surface, letter = accuracy.tolist()
        return {"dense": loss.item(), "colour": colour, "shape": shape, "size": extent, "surface": surface, "letter": letter}

    def joint_step(self, fraction: float) -> dict[str, float]:
        early = fraction < EARLY
        self.packer.probes = self.options.probes if early else self.options.probes // 2
        batch = self.packer.batch(self.options.batch, boost=self.options.boost if early else 1.0)
        loss, parts = losses(self.trainee, batch, self.options.dense_weight, self.options.question_weight)
        torch.autograd.backward(loss)
        self.pictures += self.options.batch * self.options.processes
        return parts

    def look_after(self, final: bool = False) -> None:
        """Save and measure now and then; other processes wait at the next broadcast."""
        now = time.monotonic()
        if self.rank:
            return
        if final or now - self.evaluated > EVALUATE_EVERY:
            self.optimiser.swap_average()
            pictures = 10 if self.options.smoke else 150 if final else 40
            for held in (False, True):
                packer = self.make_packer(EVALUATION_SEED)
                self.say({"step": self.step, "held": held, "exact": exact_match(self.trainee, packer, pictures, held)})
            self.optimiser.swap_average()
            self.evaluated = now
        if final or now - self.saved > SAVE_EVERY:
            self.save(self.elapsed + now - self.started)
            self.saved = now

    def save(self, elapsed: float) -> None:
        """Write the checkpoint beside the old one, then put it in its place."""
        path = self.options.out / CHECKPOINT
        spans = {name: (start, end, tuple(shape)) for name, (start, end, shape) in self.optimiser.spans.items()}
        facts = {"step": self.step, "elapsed": elapsed, "pictures": self.pictures, "config": self.config, "spans": spans}
        facts["before"] = self.before
        state = {"optimiser": self.optimiser.state(), **facts}
        torch.save(state, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)


def work(rank: int, options: Options, meeting: str) -> None:
    """One process of the run."""
    torch.set_num_threads(1)
    if options.processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=options.processes)
    Run(options, rank).train()
    if dist.is_initialized():
        dist.destroy_process_group()


def parse(arguments: list[str] | None) -> Options:
    """Options from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the checkpoint and the log")
    parser.add_argument("--minutes", type=float, default=100.0, help="budget, from the first start of this run")
    parser.add_argument("--steps", type=int, default=0, help="budget in steps instead of minutes")
    parser.add_argument("--batch", type=int, default=8, help="pictures per step and process")
    parser.add_argument("--length", type=int, default=256, help="tokens per packed sequence")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tower-share", type=float, default=0.12, help="part of the budget for the tower alone")
    parser.add_argument("--muon-lr", type=float, default=1.5e-3)
    parser.add_argument("--adam-lr", type=float, default=1.2e-3)
    parser.add_argument("--dense-weight", type=float, default=0.15, help="weight of the labels per patch beside the questions")
    parser.add_argument("--question-weight", type=float, default=0.2, help="weight of predicting the question's own words")
    parser.add_argument("--noise", type=float, default=0.35, help="share of questions that also get noisy blocks")
    parser.add_argument("--boost", type=float, default=4.0, help="weight of yes/no and shape questions early in the run")
    parser.add_argument("--signs", type=float, default=0.2, help="share of pictures that are signs, beyond the sampler's own")
    parser.add_argument("--pairs", type=float, default=0.0, help="share of pictures that are pairs, beyond the sampler's own")
    parser.add_argument("--twins", type=float, default=0.0, help="share of pictures that are pairs of one shape")
    parser.add_argument("--descriptions", type=float, default=0.0, help="share of questions that ask for one, beyond their own weight")
    parser.add_argument(
        "--probes",
        type=int,
        default=30,
        help="at most so many words per picture that are true of it or not; half of it later in the run",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="a few steps of a tiny model in a folder of its own, then stop")
    parser.add_argument("--start", type=Path, help="a model folder to begin with, when --out holds no checkpoint yet")
    parser.add_argument("--restart-schedule", action="store_true", help="keep the weights, start the budget and schedule again")
    return Options(**vars(parser.parse_args(arguments)))


def smoke(options: Options) -> None:
    """A few steps of a tiny model, stopped and continued. Raises RuntimeError when the loss does not fall."""
    with tempfile.TemporaryDirectory() as folder:
        tiny = replace(options, out=Path(folder), processes=1, batch=2, tower_share=0.2, muon_lr=2e-2, adam_lr=2e-2)
        for steps in (SMOKE_STEPS, SMOKE_STEPS + 2):
            start(replace(tiny, steps=steps))
        log = [json.loads(line) for line in (Path(folder) / LOG).read_text().splitlines()]
    losses = [line["ar"] + line["diffusion"] for line in log if "ar" in line]
    if not any("resumed" in line for line in log) or losses[-1] > losses[0] - 0.5:
        raise RuntimeError(f"The smoke run did not learn or did not continue: losses {losses[0]:.2f} -> {losses[-1]:.2f}.")
    print(f"smoke run: loss {losses[0]:.2f} -> {losses[-1]:.2f} in {SMOKE_STEPS} + 2 steps")


def main(arguments: list[str] | None = None) -> None:
    """The smoke run or the real one."""
    options = parse(arguments)
    if options.smoke:
        smoke(options)
    else:
        start(options)


def start(options: Options) -> None:
    """Start the processes and wait for them."""
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        if options.processes == 1:
            work(0, options, meeting)
        else:
            spawn(work, args=(options, meeting), nprocs=options.processes)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
