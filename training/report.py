"""Writes training/REPORT.md: tables and curves from the logs of training runs and from evaluations, grids of pictures beside it.

    python -m training.report --vlm-log runs/vlm/log.jsonl --flow-log runs/flow/log.jsonl --vlm vlm.json --flow flow.json

Several logs of one model may follow each other; what is shown of a run is kept in report/, so that earlier logs may be gone. The
evaluations are what `training.evaluate --save` wrote about the shipped weights; pictures are drawn again from them. Prose is in
report_template.md. It does not judge and does not train.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sensorium.engines import weights
from sensorium.engines.flow_image.engine import FlowImage
from training import evaluate_flow, evaluate_vlm
from training.evaluate import MODELS, wilson
from training.model_card import read_measured

Line = dict[str, Any]
Pixels = NDArray[np.uint8]

HERE: Final = Path(__file__).parent
COLUMNS, SIDE, FRAME = 8, 96, 2
RED: Final = (220, 0, 0)
FIRST: Final = 64  # drawn prompts that are shown whatever came of them
LISTED: Final = 24  # failures that are told in words
CURVE: Final = (0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.55, 0.7, 0.85, 1.0)  # fractions of a run
LOOKS: Final = 8
VLM_KEYS: Final = ("pictures", "ar", "diffusion", "question", "dense", "probe", "shape", "letter")
FLOW_KEYS: Final = ("step", "loss", "below_0.4", "below_0.7", "below_0.9", "below_1.01", "per_second")
FEW: Final = 3  # a run with fewer lines is a false start


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def shown(value: object) -> str:
    """A figure of a log: whole numbers as they are, others in three digits."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else ""


def progress(line: Line) -> float | None:
    """The share of its schedule that a run has done; None for lines of another kind."""
    value: float | None = line.get("fraction", line.get("progress"))
    return value


def runs(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines of each run. A run ends where the progress of its schedule falls back by half; a resumed one falls back by less."""
    found: list[list[Line]] = [[]]
    last = 0.0
    for line in lines:
        now = progress(line)
        if now is not None:
            if now < last / 2:
                found.append([])
            last = now
        found[-1].append(line)
    return [run for run in found if sum(progress(line) is not None for line in run) >= FEW]


def curve(run: Sequence[Line], keys: Sequence[str]) -> list[list[str]]:
    """What the log says at fixed fractions of a run."""
    told = [(place, line) for line in run if (place := progress(line)) is not None]
    rows: list[list[str]] = []
    for goal in CURVE:
        reached = [line for place, line in told if place <= goal]
        cells = [shown(reached[-1].get(key)) for key in keys] if reached else []
        if cells and (not rows or rows[-1][1:] != cells):
            rows.append([f"{goal:g}", *cells])
    return rows


def looks(lines: Sequence[Line]) -> list[list[str]]:
    """[step, share right] on held-out scenes while a run went on, by its own quick look."""
    seen = [(line["step"], line["exact"]["all"]) for line in lines if line.get("held")]
    seen += [(line["step"], line["sheet_measured_right"]) for line in lines if "sheet_measured_right" in line]
    places = sorted({round(i * (len(seen) - 1) / max(1, LOOKS - 1)) for i in range(LOOKS)}) if seen else []
    return [[f"{seen[place][0]:,}", f"{100 * seen[place][1]:.0f} %"] for place in places]


def condensed(run: Sequence[Line], keys: Sequence[str]) -> Line:
    """What is kept of a run: its end (steps, minutes, share of its schedule), its curve and its looks."""
    last = next(line for line in reversed(run) if progress(line) is not None)
    seconds = float(last["s"] if "s" in last else last["seconds"])
    end = [f"{last['step']:,}", f"{seconds / 60:.0f}", f"{100 * (progress(last) or 0):.0f} %"]
    return {"end": end, "curve": curve(run, keys), "looks": looks(run)}


def history(kept: Path, logs: Sequence[Path], keys: Sequence[str]) -> dict[str, str]:
    """Runs, curve and looks of one model: those in `kept`, to which the runs of `logs` are added. Raises ValueError when there is none."""
    lines = [json.loads(text) for log in logs for text in log.read_text("utf-8").splitlines()]
    known: list[Line] = json.loads(kept.read_text("utf-8")) if kept.exists() else []
    known += [run for run in (condensed(run, keys) for run in runs(lines)) if run not in known]
    if not known:
        raise ValueError(f"no run of at least {FEW} lines is known; give the log.jsonl of a training run")
    kept.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    last = known[-1]
    steps, shares = zip(*last["looks"], strict=True) if last["looks"] else ((), ())
    ends = [[number, *run["end"]] for number, run in enumerate(known, 1)]
    return {
        "runs": table(["run", "steps at its end", "minutes", "of its schedule"], ends),
        "curve": table(["fraction", *keys], last["curve"]),
        "looks": table(["step", *steps], [["right, quick look", *shares]]) if steps else "No quick looks were logged.",
    }


def percent(value: Sequence[int]) -> list[str]:
    """[hits, count] as share, interval and count."""
    low, high = wilson(value[0], value[1])
    return [f"{100 * value[0] / max(1, value[1]):.1f}", f"{100 * low:.1f} to {100 * high:.1f}", str(value[1])]


def goal_table(goals: Sequence[tuple[str, float, float]]) -> str:
    """(what, goal, found) as rows; found must reach the goal."""
    rows = [(what, f"{100 * goal:g}", f"{100 * found:.1f}", "yes" if found >= goal else "**no**") for what, goal, found in goals]
    return table(["goal", "at least", "found", "met"], rows)


def weakest(group: dict[str, float]) -> tuple[str, float]:
    """The lowest of several shares."""
    name = min(group, key=lambda one: group[one])
    return name.replace("_", " "), group[name]


def vlm_tables(saved: Line) -> dict[str, str]:
    """Accuracy by type, and the goals."""
    counts = saved["counts"]
    groups = {**counts["by_question"], "unseen_signs": counts["unseen_signs"]}
    rows = [
        [kind.replace("_", " "), *percent(value), *(f"{100 * saved[base].get(kind, 0):.0f}" for base in ("blind", "constant"))]
        for kind, value in groups.items()
    ]
    rows += [[f"right answer {word}", *percent(value), "", ""] for word, value in counts["yes_no"].items()]
    rows += [["all, diffusion", *percent(counts["exact_all"]), "", ""], ["all, autoregressive", *percent(counts["ar_exact"]), "", ""]]
    same, count = counts["ar_equals_self_speculation"]
    type_name, type_share = weakest(saved["by_question"])
    lead_name, lead = weakest(saved["ahead"])
    goals = [
        ("descriptions of held-out scenes", 0.98, saved["exact"]), (f"weakest type: {type_name}", 0.97, type_share),
        ("answers that are yes", 0.97, saved["yes_no"]["yes"]), ("answers that are no", 0.97, saved["yes_no"]["no"]),
        ("unseen signs", 0.9, saved["unseen_signs"]), (f"least lead over the baselines: {lead_name}", 0.3, lead),
        ("autoregressive equals self-speculation", 1.0, same / max(1, count)),
        ("diffusion against autoregressive, less than a point lost", -0.01, saved["exact_all"] - saved["ar_exact"]),
    ]  # fmt: skip
    head = ["type", "exact, %", "interval", "questions", "blind, %", "constant, %"]
    return {"types": table(head, rows), "goals": goal_table(goals)}


def flow_tables(saved: Line) -> dict[str, str]:
    """Accuracy by kind and aspect, and the goals."""
    counts = saved["counts"]
    names = {"right": "right by both", "judged": "by the judge alone", "measured": "by measurement alone"}
    rows = [[told, *percent(counts[name])] for name, told in names.items()]
    rows += [[f"{title}: {name}", *percent(value)] for title in ("kind", "aspect") for name, value in counts[f"by_{title}"].items()]
    rows += [[f'"{evaluate_flow.SEED_PROMPT}"', *percent(counts["seed_prompt_right"])]]
    rows += [[f"{name} on real renders", *percent(counts[f"{name}_on_real"])] for name in ("judge", "measure")]
    kind, share = weakest(saved["by_kind"])
    goals = [
        ("right by both", 0.95, saved["right"]), (f"weakest kind: {kind}", 0.9, share),
        (f'"{evaluate_flow.SEED_PROMPT}"', 0.95, saved["seed_prompt_right"]), ("the judge on real renders", 0.99, saved["judge_on_real"]),
        ("the measurement on real renders", 0.99, saved["measure_on_real"]),
    ]  # fmt: skip
    return {"aspects": table(["what", "right, %", "interval", "pictures"], rows), "goals": goal_table(goals)}


def model_facts(folder: Path, saved: Line) -> Line:
    """Size and training of a model, for the prose."""
    config, side = (json.loads((folder / name).read_text("utf-8")) for name in ("config.json", "sensorium.json"))
    files = sorted(folder.glob("*.safetensors"))
    stored = [weights.open_tensors(folder, file.stem) for file in files]
    facts = {"size": sum(file.stat().st_size for file in files) / 1e6, "weights": saved["weights"], **side["trained"]}
    facts["parameters"] = sum(math.prod(tensors.shape(name)) for tensors in stored for name in tensors) / 1e6
    if vision := config.get("vision_config"):
        cells = vision["image_size"] // vision["patch_size"] // config["spatial_merge_size"]
        return facts | {
            "tower": vision["num_hidden_layers"], "patch": vision["patch_size"], "tokens": cells**2,
            "layers": config["num_hidden_layers"], "width": config["hidden_size"], "words": config["vocab_size"],
        }  # fmt: skip
    patch, text = side["image"]["patch"], side["text_encoder"]
    return facts | {
        "patch": patch, "tokens": (side["image"]["size"] // patch) ** 2, "layers": config["num_layers"],
        "single": config["num_single_layers"], "heads": config["num_attention_heads"], "head": config["attention_head_dim"],
        "text_layers": text["layers"], "slots": text["slots"],
    }  # fmt: skip


def grid(pictures: Sequence[Pixels], wrong: Sequence[bool], path: Path) -> None:
    """Pictures in rows of eight as one JPEG; the wrong ones in red frames."""
    rows = -(-len(pictures) // COLUMNS)
    cell = SIDE + 2 * FRAME
    sheet = Image.new("RGB", (COLUMNS * cell, rows * cell), (255, 255, 255))
    for number, (pixels, bad) in enumerate(zip(pictures, wrong, strict=True)):
        corner = number % COLUMNS * cell, number // COLUMNS * cell
        sheet.paste(Image.new("RGB", (cell, cell), RED if bad else (255, 255, 255)), corner)
        sheet.paste(Image.fromarray(pixels), (corner[0] + FRAME, corner[1] + FRAME))
    sheet.save(path, "JPEG", quality=85)


def listing(head: Sequence[str], rows: Sequence[Sequence[object]], name: str) -> str:
    """Failures in a picture, and the first of them in words."""
    if not rows:
        return "None."
    more = f"\n\nThe first {LISTED} of {len(rows)}." if len(rows) > LISTED else ""
    return f"![wrong ones](report/{name}), in the order of the table.\n\n{table(head, rows[:LISTED])}{more}"


def flow_pictures(saved: Line, folder: Path, out: Path) -> str:
    """Draw the first prompts and all failures again; the failures in words."""
    engine = FlowImage.load(folder)
    layouts = evaluate_flow.sample(random.Random(saved["seed"]), saved["n"], saved["held_out"] or None)
    failures = saved["failures"]
    bad = {one["number"] for one in failures}

    def drawn(numbers: Sequence[int]) -> Iterator[Pixels]:
        return (evaluate_flow.picture(engine, layouts[number].scene, number, saved["steps"]) for number in numbers)

    first = range(min(FIRST, saved["n"]))
    grid(list(drawn(first)), [number in bad for number in first], out / "drawn.jpg")
    if failures:
        grid(list(drawn(sorted(bad))), [False] * len(bad), out / "wrong_drawn.jpg")
    rows = [(one["number"], one["caption"], ", ".join(one["judge"]) or "-", ", ".join(one["measure"]) or "-") for one in failures]
    return listing(["seed", "caption", "wrong by the judge", "wrong by measurement"], rows, "wrong_drawn.jpg")


def vlm_pictures(saved: Line, out: Path) -> str:
    """Render the pictures of wrong answers again; the failures in words."""
    failures = {one["number"]: one for one in saved["failures"]}
    cases = enumerate(evaluate_vlm.cases(saved["n"], saved["seed"], saved["held_out"] or None))
    pictures = [np.asarray(case.picture) for number, case in cases if number in failures]
    if pictures:
        grid(pictures, [False] * len(pictures), out / "wrong_answers.jpg")
    rows = [(one["question"], one["answer"], one["said"]) for one in failures.values()]
    return listing(["question", "right answer", "said"], rows, "wrong_answers.jpg")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("vlm", "flow"):
        parser.add_argument(f"--{name}-log", type=Path, nargs="*", default=(), help="log.jsonl of new runs, oldest first")
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"what `training.evaluate {name} --save` wrote")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of scenes-vlm and scenes-flow")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of REPORT.md and report/")
    options = parser.parse_args(arguments)
    try:
        write(options)
    except ValueError as error:
        parser.error(str(error))


def write(options: argparse.Namespace) -> None:
    """REPORT.md and the pictures beside it. Raises ValueError for logs without a run and for evaluations of other weights."""
    parts: dict[str, Any] = {}
    pictures = options.out / "report"
    pictures.mkdir(parents=True, exist_ok=True)
    for name, keys, tables in (("vlm", VLM_KEYS, vlm_tables), ("flow", FLOW_KEYS, flow_tables)):
        folder = options.models / f"scenes-{name}"
        saved = read_measured(getattr(options, name), folder)
        told = history(pictures / f"{name}_runs.json", getattr(options, f"{name}_log"), keys) | tables(saved)
        told["failures"] = vlm_pictures(saved, pictures) if name == "vlm" else flow_pictures(saved, folder, pictures)
        parts |= {name: model_facts(folder, saved), f"{name}_eval": saved} | {f"{name}_{part}": text for part, text in told.items()}
    parts["flow_first"] = min(FIRST, parts["flow_eval"]["n"])
    (options.out / "REPORT.md").write_text((HERE / "report_template.md").read_text("utf-8").format(**parts), "utf-8")


if __name__ == "__main__":
    main()
