"""The evaluation's arithmetic, what it asks about, its command line on the shipped models, and that it needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sensorium.engines.flow_image.world import Scene, Thing
from training import evaluate, evaluate_vlm, questions, scenes
from training.evaluate_flow import Score, Verdict, tally
from training.evaluate_vlm import UNSEEN, Answered, cases
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
    assert score.kinds == {"single": (1, 3)}
    assert [(one["number"], one["judge"], one["measure"]) for one in score.failures] == [(1, [], ["size"]), (2, ["kind"], [])]
    summary = score.summary()
    assert summary["right"] == 0.3333 and summary["judge_on_real"] == 1.0
    assert summary["counts"]["right"] == (1, 3) and summary["counts"]["by_aspect"]["size"] == (2, 3)


def answered(kind: str, answer: str, said: str, *, ar: str = "", blind: str = "", group: str = "") -> Answered:
    return Answered(group or kind, kind, "?", answer, said, ar or said, said, blind, 4, 2)


def test_answers_are_counted_by_type_and_by_yes_and_no() -> None:
    score = Answers("m", [
        answered("exists", "Yes.", "Yes.", blind="Yes."), answered("exists", "No.", "Yes."), answered("count", "Two.", "Two."),
        answered("count", "Two.", "Three.", ar="Two."),
    ])  # fmt: skip
    summary = score.summary()
    assert summary["exact_all"] == 0.5 and summary["by_question"] == {"count": 0.5, "exists": 0.5}
    assert summary["yes_no"] == {"yes": 1.0, "no": 0.0} and summary["blind"] == {"count": 0.0, "exists": 0.5}
    assert summary["constant"] == {"count": 1.0, "exists": 0.5} and summary["tokens_per_forward"] == 2.0
    assert summary["ahead"] == {"count": -0.5, "exists": 0.0}
    assert summary["ar_equals_self_speculation"] is False and summary["ar_exact"] == 0.75
    assert summary["counts"]["yes_no"] == {"yes": (1, 1), "no": (0, 1)}
    assert [one["number"] for one in score.failures()] == [1, 3]


def test_exact_is_that_of_descriptions_and_unseen_letterings_are_apart() -> None:
    score = Answers("m", [
        answered("describe", "A.", "A."), answered("describe", "B.", "A."), answered("describe", "The sign says X.", "A.", group=UNSEEN),
        answered("count", "Two.", "Two."),
    ])  # fmt: skip
    summary = score.summary()
    assert summary["exact"] == 0.5 and summary["unseen_signs"] == 0.0 and "unseen_signs" not in summary["by_question"]
    assert summary["counts"]["exact"] == (1, 2) and summary["blind"]["unseen_signs"] == 0.0


def test_every_type_is_asked_and_held_out_means_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Scene] = []
    ask = questions.ask

    def noted(rng: object, layout: scenes.Layout) -> questions.Asked:
        seen[:] = [layout.scene]
        return ask(rng, layout)  # type: ignore[arg-type]

    monkeypatch.setattr("training.evaluate_vlm.questions.ask", noted)
    groups = Counter[str]()
    for case in cases(160, 5, True):
        groups[case.group] += 1
        if case.group == "sign":
            assert seen[0].kind != "sign" or not scenes.held_out_sign(seen[0].text or "")
        else:
            assert scenes.held_out(seen[0])[0]
        spelled = seen[0].kind == "sign" and (seen[0].text or "") in case.asked.answer
        assert case.group != UNSEEN or spelled
        assert case.group in (UNSEEN, "sign") or not spelled
    assert groups == {**dict.fromkeys(questions.KINDS, 10), "describe": 30, UNSEEN: 20}


def test_an_evaluation_asks_the_same_again() -> None:
    one, two, three = ([(case.asked, case.picture.tobytes()) for case in cases(8, seed, None)] for seed in (4, 4, 5))
    assert one == two and one != three


@pytest.mark.parametrize(
    ("which", "keys"),
    [
        ("flow", {"right", "by_aspect", "by_kind", "seed_prompt_right", "judge_on_real", "measure_on_real", "steps"}),
        ("vlm", {"exact", "exact_all", "by_question", "tokens_per_forward", "ar_equals_self_speculation", "yes_no", "unseen_signs", "blind",
                 "constant", "ahead"}),
    ],
)  # fmt: skip
def test_the_command_line_ends_in_one_line_of_json_and_saves_it(
    which: str, keys: set[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("training.evaluate_flow.SEED_COUNT", 2)
    file = tmp_path / "figures.json"
    evaluate.main([which, "--n", "3", "--seed", "4", "--held-out", "--save", str(file)])
    lines = capsys.readouterr().out.strip().splitlines()
    result, saved = json.loads(lines[-1]), json.loads(file.read_text("utf-8"))
    assert keys | {"n", "seed", "held_out", "ci", "model", "weights", "counts"} <= set(result)
    assert (result["n"], result["held_out"]) == (3, True) and len(lines) > 5 and "%" in lines[1]
    assert saved.items() >= result.items() and saved.keys() - result.keys() == {"command", "date", "failures"}
    assert saved["command"] == f"python -m training.evaluate {which} --n 3 --seed 4 --held-out" and len(saved["date"]) == 10
    assert str(tmp_path) not in file.read_text("utf-8")


def test_the_digest_is_of_the_weights_alone(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"one")
    first = evaluate.digest(tmp_path)
    (tmp_path / "README.md").write_text("a card")
    assert evaluate.digest(tmp_path) == first
    (tmp_path / "a.safetensors").write_bytes(b"two")
    assert evaluate.digest(tmp_path) != first


def test_seeds_of_training_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate.main(["flow", "--seed", "10000"])
    assert "0 to 9999" in capsys.readouterr().err


def test_types_are_asked_in_whole_rounds() -> None:
    assert set(evaluate_vlm.TURNS) == {*questions.KINDS, UNSEEN}


def test_evaluation_needs_no_torch() -> None:
    code = "import sys, training.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
