"""The torch engine on a GPU, in the full shapes of the 8B model with random weights: speed, memory, and whether it stays right.

    python bench/engine_gpu.py [--quick] [--only block,table] [--device cuda:0] [--out FILE]
    python bench/engine_gpu.py --tiny          every stage on a CPU in tiny sizes: shows that it runs, measures nothing

Each stage prints its figures as it ends, held against their goals, and the record under bench/results/ is written after each one, so that a
run may be cut short and stages may be run one at a time. `docs/gpu.md` says what the figures mean. The last line is JSON; the exit code
is 1 when a stage broke off, not when a goal was missed.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # not this folder: its queue.py would hide the standard library's

import argparse
import json
import logging
import time
import traceback
from collections.abc import Callable

import torch
import torch._dynamo

from bench import engine_answers, engine_forwards, engine_http, engine_room
from bench.engine_clock import ROOT, setting
from bench.engine_report import Report
from bench.engine_rig import Rig, rig
from bench.engine_shapes import FULL, QUICK, TINY

STAGES: dict[str, Callable[[Rig], None]] = {
    "block": engine_forwards.block,
    "same": engine_forwards.same,
    "schedule": engine_answers.schedule,
    "first_block": engine_room.first_block,
    "small": engine_answers.small,
    "room": engine_room.room,
    "table": engine_forwards.table,
    "growth": engine_room.growth,
    "http": engine_http.http,
    "kernels": engine_forwards.kernels,  # last: a profiler that has run may slow down what comes after it
}


def main() -> int:
    """Run the stages that are asked for; the exit code."""
    given = options()
    if not given.tiny and not torch.cuda.is_available():
        raise SystemExit(
            f"torch {torch.__version__} finds no CUDA device here. `docs/gpu.md` says how to install a build with CUDA; "
            "--tiny shows on a CPU that the stages run."
        )
    device = torch.device("cpu" if given.tiny else given.device)
    scale = TINY if given.tiny else QUICK if given.quick else FULL
    if device.type == "cuda":
        torch.cuda.set_device(device)
    report = Report(
        {**setting(device), "scale": scale.name, "quick": given.quick, "warm_up": scale.warm_up}, where(given, device), not given.tiny
    )
    logging.getLogger("sensorium").addHandler(Kept(report))
    print(", ".join(f"{name} {value}" for name, value in report.setting.items() if value not in ("", False)), flush=True)
    with rig(device, torch.float32 if given.tiny else torch.bfloat16, scale, report) as made:
        for name in given.only:
            run(made, name)
    print(json.dumps(report.whole()))
    return 1 if report.whole()["failed"] else 0


class Kept(logging.Handler):
    """Puts the engine's warnings into the record: a figure that was made without graphs should say so."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._report.warned(record.getMessage() + (f" ({type(error).__name__}: {error})"[:500] if error is not None else ""))


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows, repeats and requests: a few minutes")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on a CPU; nothing is written")
    parser.add_argument("--only", metavar="STAGES", default=",".join(STAGES), help=f"of {', '.join(STAGES)}; with commas between them")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the record  [default: a new file under bench/results/]")
    given = parser.parse_args()
    given.only = given.only.split(",")
    unknown = [name for name in given.only if name not in STAGES]
    if unknown:
        parser.error(f"no stage {', '.join(unknown)}; there are {', '.join(STAGES)}")
    return given


def where(given: argparse.Namespace, device: torch.device) -> Path | None:
    """The file of the record. Tiny sizes have none: their figures say nothing."""
    if given.tiny:
        return None
    name = torch.cuda.get_device_name(device).lower().replace(" ", "-")
    return given.out or ROOT / "bench" / "results" / f"engine-{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"


def run(made: Rig, name: str) -> None:
    """One stage; what breaks it off is told, and the next one goes on."""
    made.report.begin(name)
    began = time.perf_counter()
    if made.clock.cuda:
        torch._dynamo.reset()  # the compiler keeps a limited number of shapes, whichever stage they are of
    try:
        STAGES[name](made)
    except Exception as error:  # outermost: the figures of other stages are worth having
        traceback.print_exc()
        made.report.failed(f"{type(error).__name__}: {error}"[:500])
    made.clock.forget_peak()
    made.report.end(time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main())
