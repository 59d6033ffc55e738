"""Evaluates the shipped models through the shipped engines, on held-out scenes. numpy only.

    python -m training.evaluate flow --n 500 --seed 1 --held-out
    python -m training.evaluate vlm  --n 2000 --seed 1 --held-out --save vlm.json

A table for people, then one line of JSON: shares of one, and under `counts` the same figures as [hits, questions or pictures], from which
`wilson` makes intervals. Seeds 0 to 9999 belong to evaluation and are never trained on; training runs look at 9 and 77 while they learn,
so figures to publish take another. --save also keeps the command, the date and every failure; model cards and the report read that file.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import sensorium
from training import evaluate_flow, evaluate_vlm

MODELS = Path(sensorium.__file__).parent / "models"
Item = TypeVar("Item")


def wilson(hits: int, count: int) -> list[float]:
    """95 % interval of a share, [low, high] (Wilson)."""
    if count == 0:
        return [0.0, 1.0]
    z, share = 1.96, hits / count
    middle, spread = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return [round(end / (1 + z * z / count), 4) for end in (middle - spread, middle + spread)]


def progress(items: Iterable[Item], what: str, every: int = 50) -> Iterator[Item]:
    """The items, with a line on stderr now and then."""
    for number, item in enumerate(items):
        if number and number % every == 0:
            print(f"{what}: {number}", file=sys.stderr, flush=True)
        yield item


def table(rows: list[tuple[str, int, int, str]], title: str) -> str:
    """Lines of name, share, count, interval and remark."""
    lines = [title]
    for name, hits, count, remark in rows:
        low, high = wilson(hits, count)
        share = f"{100 * hits / max(count, 1):6.1f} %   of {count:>5}   ({100 * low:.1f} to {100 * high:.1f})"
        lines.append(f"  {name:<28} {share:<40} {remark}".rstrip())
    return "\n".join(lines)


def digest(folder: Path) -> str:
    """Which weights a model folder holds: the beginning of a checksum over its tensors' files."""
    found = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        found.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:16]


def command(options: argparse.Namespace) -> str:
    """What to type for the same figures; a model folder of one's own goes by its name alone."""
    parts = ["python -m training.evaluate", options.which, f"--n {options.n}", f"--seed {options.seed}"]
    parts += ["--held-out"] * options.held_out + ([f"--steps {options.steps}"] if options.steps else [])
    return " ".join(parts + ([f"--model {options.model.name}"] if options.model else []))


def flow(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draw, judge and measure."""
    score = evaluate_flow.evaluate(folder, options.n, options.seed, held=options.held_out or None, steps=options.steps, watch=progress)
    print(table(score.rows(), f"{folder.name}, {score.steps} steps, {options.n} scenes"))
    return score.summary() | {"ci": wilson(*score.right)}, score.failures


def vlm(options: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Ask and compare."""
    score = evaluate_vlm.evaluate(folder, options.n, options.seed, held=options.held_out or None, steps=options.steps, watch=progress)
    print(table(score.rows(), f"{folder.name}, {options.n} questions; blind: on a grey picture; constant: the best fixed answer"))
    return score.summary() | {"ci": wilson(*score.exact)}, score.failures()


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Options from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=("flow", "vlm"))
    parser.add_argument("--n", type=int, default=500, help="scenes or questions")
    parser.add_argument("--seed", type=int, default=1, help="0 to 9999")
    parser.add_argument("--held-out", action="store_true", help="only scenes that training never saw the like of")
    parser.add_argument("--steps", type=int, help="sampling steps (flow) or denoising budget (vlm); default: the model's own")
    parser.add_argument("--model", type=Path, help="a model folder; default: the one in the package")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the figures, how they came about, and all failures")
    options = parser.parse_args(arguments)
    if options.n < 1 or not 0 <= options.seed <= 9999:
        parser.error("--n must be at least 1 and --seed from 0 to 9999")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parse(arguments)
    folder = options.model or MODELS / f"scenes-{options.which}"
    figures, failures = (flow if options.which == "flow" else vlm)(options, folder)
    line = {"model": folder.name, "weights": digest(folder), **figures}
    line |= {"n": options.n, "seed": options.seed, "held_out": options.held_out}
    if options.save:
        facts = {"command": command(options), "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
        options.save.write_text(json.dumps({**facts, **line, "failures": failures}, indent=1) + "\n", "utf-8")
    print(json.dumps(line))


if __name__ == "__main__":
    main()
