"""The evaluation's arithmetic, its command line on the shipped models, and that it needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sensorium.engines.flow_image.world import Scene, Thing
from training import evaluate
from training.evaluate_flow import Score, Verdict, tally
from training.evaluate_vlm import Answered
from training.evaluate_vlm import Score as Answers

SCENE = Scene("single", (Thing("red", "cube", "small", "left"),), "grey floor")


def test_the_interval_is_wilsons() -> None:
    assert evaluate.wilson(475, 500) == pytest.approx([0.9272, 0.9659], abs=2e-4)
    assert evaluate.wilson(0, 0) == [0.0, 1.0]
    low, high = evaluate.wilson(100, 100)
    assert 0.96 < low < 1 and high == 1


def test_right_takes_both_instruments() -> None:
    fine, off = {"kind": True, "size": True}, {"size": False, "colour": True}
    score = Score("m", 4)
    tally(score, [SCENE] * 3, [Verdict(fine, fine), Verdict(fine, off), Verdict({"kind": False}, fine)], [Verdict(fine, fine)] * 3)
    assert (score.right, score.judged, score.measured) == ((1, 3), (2, 3), (2, 3))
    assert score.aspects == {"colour": (1, 1), "kind": (2, 3), "size": (2, 3)}
    assert score.kinds == {"single": (1, 3)} and [number for _, number in score.wrong] == [1, 2]
    assert score.summary()["right"] == 0.3333 and score.summary()["judge_on_real"] == 1.0


def answered(kind: str, answer: str, said: str, *, ar: str = "", blind: str = "") -> Answered:
    return Answered(kind, answer, said, ar or said, said, blind, 4, 2)


def test_answers_are_counted_by_type_and_by_yes_and_no() -> None:
    score = Answers("m", [
        answered("exists", "Yes.", "Yes.", blind="Yes."), answered("exists", "No.", "Yes."), answered("count", "Two.", "Two."),
        answered("count", "Two.", "Three.", ar="Two."),
    ])  # fmt: skip
    summary = score.summary()
    assert summary["exact"] == 0.5 and summary["by_question"] == {"count": 0.5, "exists": 0.5}
    assert summary["yes_no"] == {"yes": 1.0, "no": 0.0} and summary["blind"] == {"count": 0.0, "exists": 0.5}
    assert summary["constant"] == {"count": 1.0, "exists": 0.5} and summary["tokens_per_forward"] == 2.0
    assert summary["ar_equals_self_speculation"] is False and summary["ar_exact"] == 0.75


@pytest.mark.parametrize(
    ("which", "keys"),
    [
        ("flow", {"right", "by_aspect", "by_kind", "seed_prompt_right", "judge_on_real", "measure_on_real", "steps"}),
        ("vlm", {"exact", "by_question", "tokens_per_forward", "ar_equals_self_speculation", "yes_no", "blind", "constant"}),
    ],
)
def test_the_command_line_ends_in_one_line_of_json(
    which: str, keys: set[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.evaluate_flow.SEED_COUNT", 2)
    evaluate.main([which, "--n", "3", "--seed", "4", "--held-out"])
    lines = capsys.readouterr().out.strip().splitlines()
    result = json.loads(lines[-1])
    assert keys | {"n", "seed", "held_out", "ci", "model"} <= set(result) and (result["n"], result["held_out"]) == (3, True)
    assert len(lines) > 5 and "%" in lines[1]


def test_seeds_of_training_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate.main(["flow", "--seed", "10000"])
    assert "0 to 9999" in capsys.readouterr().err


def test_evaluation_needs_no_torch() -> None:
    code = "import sys, training.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
