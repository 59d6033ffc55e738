"""Cards and the report take their figures from evaluations of the very weights they speak of, and curves from logs."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from training import evaluate, model_card, report, scenes
from training.flow_export import measured_lines

TRAINED = {"pictures": 1000, "steps": 20, "minutes": 3}


def vlm_log() -> list[dict[str, Any]]:
    """A false start, a run that is resumed, and a quick look."""
    lines: list[dict[str, Any]] = [{"step": 20, "s": 9, "pictures": 300, "fraction": 0.5, "ar": 9.0}, {"resumed": 0, "elapsed": 0}]
    for step in range(1, 11):
        lines.append({"step": 20 * step, "s": 60 * step, "pictures": 320 * step, "fraction": step / 10, "ar": 1 / step, "shape": 0.5})
        if step == 7:
            lines.append({"resumed": 120, "elapsed": 360})
            lines.append({"step": 130, "s": 390, "pictures": 2000, "fraction": 0.65, "ar": 0.2})
    return [*lines, {"step": 200, "held": False, "exact": {"all": 0.9}}, {"step": 200, "held": True, "exact": {"all": 0.75}}]


def flow_log() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [
        {"step": step, "seconds": 30 * step, "progress": step / 4, "loss": 0.5 / step, "below_0.4": 0.1, "per_second": 43.0}
        for step in range(1, 5)
    ]
    return [*lines, {"step": 4, "seconds": 120, "sheet_measured_right": 0.5}]


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the shipped models with short evaluations of them, and logs."""
    base = tmp_path_factory.mktemp("report")
    patch = pytest.MonkeyPatch()
    patch.setattr("training.evaluate_flow.SEED_COUNT", 2)
    for which in ("vlm", "flow"):
        model = base / f"scenes-{which}"
        shutil.copytree(evaluate.MODELS / model.name, model)
        side = json.loads((model / "sensorium.json").read_text("utf-8"))
        (model / "sensorium.json").write_text(json.dumps(side | {"trained": TRAINED}), "utf-8")
        evaluate.main([which, "--n", "9", "--seed", "4", "--held-out", "--model", str(model), "--save", str(base / f"{which}.json")])
    patch.undo()
    written(base / "vlm.jsonl", vlm_log())
    written(base / "flow.jsonl", flow_log())
    return base


def arguments(folder: Path, out: Path) -> list[str]:
    files = [("--vlm-log", "vlm.jsonl"), ("--flow-log", "flow.jsonl"), ("--vlm", "vlm.json"), ("--flow", "flow.json")]
    return [*(part for name, file in files for part in (name, str(folder / file))), "--models", str(folder), "--out", str(out)]


def test_the_report_is_written_from_logs_and_evaluations(folder: Path, tmp_path: Path) -> None:
    report.main(arguments(folder, tmp_path))
    text = (tmp_path / "REPORT.md").read_text("utf-8")
    saved = json.loads((folder / "vlm.json").read_text("utf-8"))
    assert saved["command"] in text and saved["weights"] in text and f"{saved['tokens_per_forward']:.2f} tokens" in text
    assert "| 1 | 200 | 10 | 100 % |" in text  # the false start is left out, the resumed run is one
    assert "| 1 | 3,200 | 0.1 |" in text and "| right, quick look | 75 % |" in text
    assert "{" not in text and str(folder) not in text and len(text.splitlines()) < 250
    with Image.open(tmp_path / "report" / "drawn.jpg") as sheet:
        assert sheet.size == (800, 200)
    for name in (name for name in ("wrong_drawn.jpg", "wrong_answers.jpg", "drawn.jpg") if f"report/{name}" in text):
        assert (tmp_path / "report" / name).stat().st_size < 400_000


def test_figures_of_other_weights_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = json.loads((folder / "flow.json").read_text("utf-8")) | {"weights": "0" * 16}
    file = tmp_path / "other.json"
    file.write_text(json.dumps(other), "utf-8")
    with pytest.raises(ValueError, match=r"other\.json was measured on other weights"):
        model_card.read_measured(file, folder / "scenes-flow")
    with pytest.raises(SystemExit):
        report.main([*arguments(folder, tmp_path), "--flow", str(file)])
    assert "other weights than those in scenes-flow" in capsys.readouterr().err


def test_a_log_without_a_run_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = written(tmp_path / "empty.jsonl", [{"resumed": 0, "elapsed": 0}])
    with pytest.raises(SystemExit):
        report.main([*arguments(folder, tmp_path), "--vlm-log", str(empty)])
    assert "no run of at least" in capsys.readouterr().err


def test_cards_say_what_was_measured_and_how_else_to_measure_it(folder: Path) -> None:
    saved = {which: model_card.read_measured(folder / f"{which}.json", folder / f"scenes-{which}") for which in ("vlm", "flow")}
    lines = model_card.vlm_measured(saved["vlm"]), measured_lines(saved["flow"])
    assert max(len(line) for text in lines for line in text.splitlines()) <= 140
    vlm, flow = (" ".join(text.split()) for text in lines)
    assert saved["vlm"]["command"] in vlm and model_card.percent(saved["vlm"]["counts"]["exact"]) in vlm
    assert saved["flow"]["command"] in flow and model_card.percent(saved["flow"]["counts"]["right"]) in flow and "of 2 seeds" in flow
    for empty in (model_card.vlm_measured(None), measured_lines(None)):
        assert empty.startswith("Not yet") and "--save FILE" in empty and "%" not in empty


def test_a_large_grid_stays_moderate(tmp_path: Path) -> None:
    rng = random.Random(1)
    layouts = [scenes.sample(rng) for _ in range(64)]
    pictures = [scenes.render(layout, rng) for layout in layouts]
    report.grid(pictures, [number % 3 == 0 for number in range(64)], tmp_path / "grid.jpg")
    assert (tmp_path / "grid.jpg").stat().st_size < 400_000
    with Image.open(tmp_path / "grid.jpg") as sheet:
        red, green, _ = sheet.getpixel((0, 50))  # type: ignore[misc]
    assert red > 150 and green < 100
