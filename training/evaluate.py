"""Evaluates the shipped models through the shipped engines, on held-out scenes. numpy only.

    python -m training.evaluate flow --n 500 --seed 1 --held-out
    python -m training.evaluate vlm  --n 500 --seed 1 --held-out

A table for people, then one line of JSON. Seeds 0 to 9999 belong to evaluation and are never trained on.
"""

from __future__ import annotations

import argparse
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


def table(rows: list[tuple[str, int, int]], title: str) -> str:
    """Lines of name, share, count and interval."""
    lines = [title]
    for name, hits, count in rows:
        low, high = wilson(hits, count)
        lines.append(f"  {name:<28} {100 * hits / max(count, 1):6.1f} %   of {count:>5}   ({100 * low:.1f} to {100 * high:.1f})")
    return "\n".join(lines)


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the figures rest on."""
    return {"n": options.n, "seed": options.seed, "held_out": options.held_out}


def flow(options: argparse.Namespace) -> dict[str, Any]:
    """Draw, judge and measure."""
    folder = options.model or MODELS / "scenes-flow"
    score = evaluate_flow.evaluate(folder, options.n, options.seed, held=options.held_out or None, steps=options.steps, watch=progress)
    title = f"{folder.name}, {score.steps} steps, {options.n} scenes"
    print(table([("right (judge and measure)", *score.right), *score.rows()], title))
    return {"model": score.model, **score.summary(), **settings(options), "ci": wilson(*score.right)}


def vlm(options: argparse.Namespace) -> dict[str, Any]:
    """Ask and compare."""
    folder = options.model or MODELS / "scenes-vlm"
    score = evaluate_vlm.evaluate(folder, options.n, options.seed, held=options.held_out or None, steps=options.steps, watch=progress)
    title = f"{folder.name}, {options.n} questions; blind: on a grey picture; constant: best fixed answer"
    print(table([("exact", *score.exact), *score.rows()], title))
    return {"model": score.model, **score.summary(), **settings(options), "ci": wilson(*score.exact)}


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=("flow", "vlm"))
    parser.add_argument("--n", type=int, default=500, help="scenes or questions")
    parser.add_argument("--seed", type=int, default=1, help="0 to 9999")
    parser.add_argument("--held-out", action="store_true", help="only scenes that training never saw the like of")
    parser.add_argument("--steps", type=int, help="sampling steps (flow) or denoising budget (vlm); default: the model's own")
    parser.add_argument("--model", type=Path, help="a model folder; default: the one in the package")
    options = parser.parse_args(arguments)
    if options.n < 1 or not 0 <= options.seed <= 9999:
        parser.error("--n must be at least 1 and --seed from 0 to 9999")
    print(json.dumps(flow(options) if options.which == "flow" else vlm(options)))


if __name__ == "__main__":
    main()
