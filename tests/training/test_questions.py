"""Questions have one right answer, and no constant answer passes."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest

from sensorium.engines.flow_image.world import Scene, Thing, parse
from training import questions, scenes

PAIR = Scene("pair", (Thing("red", "cube", "small"), Thing("blue", "ball", "large")), "grey floor", "to the right of")
SINGLE = Scene("single", (Thing("orange", "cone", "medium", "left"),), "sandy beach")
FOUR = Scene("count", (Thing("pink", "cross", "small"),), "green lawn", count=4)
SIGN = Scene("sign", (Thing("blue", "sign", "medium", "middle"),), "white table", text="STOP4")


@pytest.mark.parametrize(
    ("scene", "long", "short"),
    [
        (SINGLE, "The image shows an orange cone on a sandy beach. It is on the left.", "An orange cone on a sandy beach."),
        (FOUR, "The image shows four small pink crosses on a green lawn.", "Four small pink crosses on a green lawn."),
        (
            PAIR,
            "The image shows two objects on a grey floor. A large blue ball is to the left of a small red cube.",
            "A large blue ball and a small red cube on a grey floor.",
        ),
        (SIGN, "The image shows a blue sign on a white table. The sign says STOP4.", "A blue sign that says STOP4."),
    ],
)
def test_descriptions(scene: Scene, long: str, short: str) -> None:
    assert questions.describe(scene) == long
    assert questions.summary(scene) == short


def drawn(kind: str, number: int) -> list[tuple[Scene, questions.Asked]]:
    rng = random.Random(11)
    out: list[tuple[Scene, questions.Asked]] = []
    while len(out) < number:
        scene = scenes.sample(rng).scene
        if kind in questions.WEIGHTS[scene.kind]:
            out.append((scene, questions.ask(rng, scene, kind=kind)))
    return out


@pytest.mark.parametrize("kind", questions.YES_NO)
def test_yes_and_no_are_equally_frequent(kind: str) -> None:
    answers = Counter(asked.answer for _, asked in drawn(kind, 2000))
    assert set(answers) == {"Yes.", "No."}
    assert 0.46 < answers["Yes."] / 2000 < 0.54


@pytest.mark.parametrize("kind", ["exists", "is_colour"])
def test_yes_and_no_are_balanced_for_every_kind_of_scene_and_wording(kind: str) -> None:
    by: dict[str, Counter[str]] = defaultdict(Counter)
    for scene, asked in drawn(kind, 4000):
        by[scene.kind][asked.answer] += 1
    for answers in by.values():
        assert 0.4 < answers["Yes."] / answers.total() < 0.6


def test_no_constant_answer_is_frequent_among_colours_shapes_and_counts() -> None:
    rng = random.Random(12)
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for _ in range(30_000):
        asked = questions.ask(rng, scenes.sample(rng))
        answers[asked.kind][asked.answer] += 1
    for kind, most in (("colour", 0.14), ("shape", 0.17), ("count", 0.28), ("size", 0.45), ("surface", 0.26)):
        assert answers[kind].most_common(1)[0][1] / answers[kind].total() < most, kind
    assert set(answers) == set(questions.KINDS)


def holds(scene: Scene, question: str) -> bool:
    """Whether an "is there" question is true, decided by reading it back."""
    asked = parse(question).scene.things
    if not asked:
        return any(f"{thing.colour} object" in question for thing in scene.things)
    wanted = asked[0]
    return any(thing.shape == wanted.shape and wanted.colour in (None, thing.colour) for thing in scene.things)


def test_the_answer_to_is_there_is_true() -> None:
    for scene, asked in drawn("exists", 2000):
        assert asked.answer == ("Yes." if holds(scene, asked.question.lower()) else "No."), (scene, asked)


def test_mirrored_relations_are_told_apart() -> None:
    rng = random.Random(3)
    for _ in range(200):
        asked = questions.ask(rng, PAIR, kind="is_relation")
        text = asked.question.lower()
        right = "cube to the right of the ball" in text or "ball to the left of the cube" in text
        assert asked.answer == ("Yes." if right else "No."), asked


def test_relation_answers_name_the_other_object() -> None:
    rng = random.Random(3)
    answers = {questions.ask(rng, PAIR, kind="relation").answer for _ in range(50)}
    assert answers == {"To the right of the ball.", "To the left of the cube."}


def test_a_scene_without_such_a_question_is_refused() -> None:
    with pytest.raises(ValueError, match="no count question"):
        questions.ask(random.Random(1), SIGN, kind="count")


@pytest.mark.parametrize(
    ("scene", "true", "false"),
    [
        (SINGLE, {"orange", "cone", "orange cone", "medium", "left", "sandy beach"}, {"cube", "small", "right", "orange ball", "red cone"}),
        (FOUR, {"pink", "cross", "four", "pink cross"}, {"two", "five", "pink star", "blue"}),
        (PAIR, {"cube to the right of", "ball to the left of the cube", "red cube"}, {"red ball", "cube to the left of"}),
        (SIGN, {"S", "4", "blue"}, {"A", "9", "red"}),
    ],
)  # fmt: skip
def test_probes_are_true_and_false_equally_often(scene: Scene, true: set[str], false: set[str]) -> None:
    rng = random.Random(5)
    asked = [questions.probe(rng, scene) for _ in range(4000)]
    assert true <= {text for text, answer in asked if answer}
    assert false <= {text for text, answer in asked if not answer}
    assert not {text for text, answer in asked if answer} & {text for text, answer in asked if not answer}
    assert 0.45 < sum(answer for _, answer in asked) / len(asked) < 0.55
