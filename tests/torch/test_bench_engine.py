"""The bench of the engine on a GPU, run on a CPU in tiny sizes: every stage works and reports; figures of such a run are kept nowhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.engine_answers import MODES
from bench.engine_report import Goal, Report
from bench.engine_script import Scripted
from sensorium.engines.diffusion_vlm.decode import Decoding, Request, diffuse, speculate, tick
from sensorium.engines.diffusion_vlm.schedule import Schedule
from tests.engines.diffusion_vlm.toys import HashModel

ROOT = Path(__file__).parent.parent.parent
STAGES = {
    "block": "share of the memory bound",
    "same": "transformers: largest difference of logits",
    "schedule": None,
    "first_block": "first block about a picture",
    "small": "float32, linear: answers as numpy's",
    "room": "peak memory",
    "table": "tokens/s of 8 blocks over those of one",
    "growth": "memory grown over the last half",
    "http": "tiny: from start to ready",
    "kernels": "kernels per forward, as served",
}
TABLES = {"schedule": "answers", "table": "milliseconds of a forward", "http": "through HTTP", "kernels": "longest, as served"}


def test_every_stage_reports_and_nothing_is_written() -> None:
    results = ROOT / "bench" / "results"
    before = sorted(results.glob("*"))
    command = [sys.executable, str(ROOT / "bench" / "engine_gpu.py"), "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert list(told["stages"]) == list(STAGES)
    assert told["failed"] == []
    assert told["met"] == told["missed"] == 0
    for name, figure in STAGES.items():
        stage = told["stages"][name]
        assert figure is None or figure in stage["figures"], (name, stage)
        assert name not in TABLES or stage["tables"][TABLES[name]], (name, stage)
    # What does not hang on speed is right on a CPU too.
    assert told["stages"]["same"]["figures"]["transformers: largest difference of logits"]["value"] < 1e-4
    assert all(figure["value"] == 1.0 for name, figure in told["stages"]["small"]["figures"].items() if "as numpy's" in name)
    assert told["stages"]["growth"]["figures"]["requests that failed"]["value"] == 0
    assert {(row["model"], row["mode"]) for row in told["stages"]["http"]["tables"]["through HTTP"]} == {
        (model, mode) for model, modes in {"small": MODES, "tiny": ("diffusion", "ar")}.items() for mode in modes
    }
    assert sorted(results.glob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_device_it_says_what_to_do() -> None:
    command = [sys.executable, str(ROOT / "bench" / "engine_gpu.py"), "--only", "block"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "finds no CUDA device" in done.stderr
    assert "docs/gpu.md" in done.stderr


def paced(pace: float, mode: str, tokens: int = 320) -> Decoding:
    """An answer made at a pace, over a model that alone would say anything."""
    backend = Scripted(HashModel(vocab=40), pace, mask=1, word=7, other=8)  # type: ignore[arg-type]
    request = Request([3, 4, 5], tokens, 1, frozenset({2}))
    program = (lambda one: diffuse(one, Schedule(tokens // 32, 32, 32), 0.9)) if mode == "diffusion" else (lambda one: speculate(one, 32))
    one = Decoding(request, program)
    while one.row is not None:
        tick([one], backend.forward)
    return one


@pytest.mark.parametrize(("pace", "steps"), [(1.0, 31), (2.5, 12.4), (4.0, 7.75), (31.0, 1)])
def test_a_scripted_step_commits_its_pace_on_average(pace: float, steps: float) -> None:
    one = paced(pace, "diffusion")
    assert len(one.tokens) == 320
    assert one.finish == "length"
    assert abs(one.counts.denoise / 10 - steps) <= 1


@pytest.mark.parametrize("pace", [1.0, 2.5, 7.5, 32.0])
def test_a_scripted_draft_yields_its_pace_on_average(pace: float) -> None:
    one = paced(pace, "linear")
    assert len(one.tokens) == 320
    assert one.counts.draft == one.counts.verify
    assert (320 - 1) / one.counts.verify == pytest.approx(pace, rel=0.1)


def test_a_goal_is_met_or_missed_and_the_record_grows_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "results" / "record.json"
    report = Report({"device": "x"}, path, judged=True)
    report.begin("one")
    report.figure("fast", 5.0, "ms", Goal("<=", 6.0))
    report.figure("slow", 7.0, "ms", Goal("<=", 6.0))
    report.figure("known", 3, "")
    report.end(1.0)
    report.begin("two")
    report.failed("out of memory")
    report.end(2.0)
    kept = json.loads(path.read_text("utf-8"))
    assert (kept["met"], kept["missed"], kept["failed"]) == (1, 1, ["two"])
    assert kept["stages"]["one"]["figures"]["slow"] == {"value": 7.0, "unit": "ms", "goal": "<= 6", "met": False}
    assert kept["stages"]["one"]["figures"]["known"] == {"value": 3, "unit": ""}
