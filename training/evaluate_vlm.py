"""Does the seeing model answer right? Exact answers only, by question type, beside what a blind answerer would get.

It does not know how to print. Scenes come from `training.scenes`, questions from `training.questions`, the same that training draws from,
with other seeds. Types are asked in fixed shares, whatever their share in training is. An answer that spells a lettering held out of
training counts under `unseen_signs` and not under its type: that is another task, with a goal of its own.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from sensorium.engines.diffusion_vlm.answering import Delta, Finished
from sensorium.engines.diffusion_vlm.ask import Ask
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.flow_image.world import Scene
from training import questions, scenes
from training.evaluate_flow import share, shares

GREY: Final = Image.new("RGB", (96, 96), (128, 128, 128))
MAX_TOKENS: Final = 64
THRESHOLD: Final = 0.9  # the confidence that commits a token in diffusion mode
UNSEEN: Final = "unseen_signs"
TURNS: Final = ("describe", UNSEEN, *questions.KINDS, "describe", UNSEEN)  # what is asked about, over and over
Watch = Callable[[Iterable[int], str], Iterable[int]]


@dataclass(frozen=True, slots=True)
class Case:
    """One question of an evaluation; `group` is its type or UNSEEN."""

    group: str
    asked: questions.Asked
    picture: Image.Image


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with its right answer and what the model said: in diffusion, AR and linear mode, and without seeing.

    `tokens` and `forwards` are those of diffusion mode: the end token counts, and so do the forwards that write a finished block, but not
    the one that reads the prompt.
    """

    group: str
    kind: str
    question: str
    answer: str
    said: str
    ar: str
    linear: str
    blind: str
    tokens: int
    forwards: int

    @property
    def exact(self) -> bool:
        """Letter for letter."""
        return self.said == self.answer


@dataclass(slots=True)
class Score:
    """All answers of an evaluation, in the order of its questions."""

    model: str
    answers: list[Answered] = field(default_factory=list)

    @property
    def exact(self) -> tuple[int, int]:
        """(hits, count) of descriptions; those of unseen letterings are not among them."""
        return hits(self.groups().get("describe", []))

    def groups(self) -> dict[str, list[Answered]]:
        """Answers by type, unseen letterings last and apart."""
        found = defaultdict(list)
        for one in self.answers:
            found[one.group].append(one)
        return {name: found[name] for name in (*questions.KINDS, UNSEEN) if name in found}

    def yes_no(self, word: str) -> list[Answered]:
        """Yes/no questions whose right answer is `word`."""
        return [one for one in self.answers if one.kind in questions.YES_NO and one.answer == word]

    def figures(self) -> dict[str, Any]:
        """(hits, count) of everything by its name in the line of JSON."""
        groups, count = self.groups(), len(self.answers)
        types = {kind: group for kind, group in groups.items() if kind != UNSEEN}
        return {
            "exact": self.exact,
            "exact_all": hits(self.answers),
            "by_question": {kind: hits(group) for kind, group in types.items()},
            "yes_no": {"yes": hits(self.yes_no("Yes.")), "no": hits(self.yes_no("No."))},
            UNSEEN: hits(groups.get(UNSEEN, [])),
            "blind": {kind: blind(group) for kind, group in groups.items()},
            "constant": {kind: constant(group) for kind, group in groups.items()},
            "ar_exact": (sum(one.ar == one.answer for one in self.answers), count),
            "ar_equals_self_speculation": (sum(one.ar == one.linear for one in self.answers), count),
        }

    def rows(self) -> list[tuple[str, int, int, str]]:
        """For the table."""
        groups = self.groups()
        result = []
        for kind, group in groups.items():
            beside = f"blind {100 * share(blind(group)):.0f}, constant {100 * share(constant(group)):.0f}"
            result.append((kind.replace("_", " "), *hits(group), beside))
        result += [(f"answers that are {word.lower()[:-1]}", *hits(self.yes_no(word)), "") for word in ("Yes.", "No.")]
        figures = self.figures()
        result += [("all, diffusion mode", *figures["exact_all"], ""), ("all, AR mode", *figures["ar_exact"], "")]
        return [*result, ("AR equals linear", *figures["ar_equals_self_speculation"], "")]

    def summary(self) -> dict[str, Any]:
        """For the line of JSON: shares of one, and the counts behind them. `ahead`: a type's lead over the better of the two baselines."""
        figures = self.figures()
        result = shares(figures)
        result["ahead"] = {
            kind: round(value - max(result["blind"][kind], result["constant"][kind]), 4) for kind, value in result["by_question"].items()
        }
        same, count = figures["ar_equals_self_speculation"]
        result["ar_equals_self_speculation"] = same == count
        spent = sum(one.tokens for one in self.answers), max(1, sum(one.forwards for one in self.answers))
        return result | {"tokens_per_forward": round(spent[0] / spent[1], 3), "threshold": THRESHOLD, "counts": figures}

    def failures(self) -> list[dict[str, Any]]:
        """What the report needs to show every wrong answer with its picture."""
        names = ("group", "question", "answer", "said")
        return [{"number": n, **{name: getattr(one, name) for name in names}} for n, one in enumerate(self.answers) if not one.exact]


def hits(group: list[Answered]) -> tuple[int, int]:
    """(exact answers, questions)."""
    return sum(one.exact for one in group), len(group)


def blind(group: list[Answered]) -> tuple[int, int]:
    """(questions answered right on a grey picture, questions)."""
    return sum(one.blind == one.answer for one in group), len(group)


def constant(group: list[Answered]) -> tuple[int, int]:
    """(questions that the best single answer would get right, questions)."""
    return max(Counter(one.answer for one in group).values()), len(group)


def cases(count: int, seed: int, held: bool | None) -> Iterator[Case]:
    """The questions of an evaluation, one to a scene, the same for the same arguments.

    held True: about scenes built on something that training never saw. Only for the type "sign" that would be an unseen lettering, so its
    scenes are any, and its letterings such as training may draw.
    """
    rng = random.Random(seed)
    for number in range(count):
        group = TURNS[number % len(TURNS)]
        kinds = ("sign",) if group == UNSEEN else tuple(scenes.KIND_WEIGHTS)
        while True:
            layout = scenes.sample(rng, True if group == UNSEEN else None if group == "sign" else held, kinds)
            asked = questions.ask(rng, layout)
            if group == (UNSEEN if spells_unseen(asked, layout.scene) else asked.kind):
                break
        yield Case(group, asked, Image.fromarray(np.asarray(scenes.render(layout, rng))))


def spells_unseen(asked: questions.Asked, scene: Scene) -> bool:
    """Whether the answer holds a lettering that is held out of training."""
    return scene.kind == "sign" and scenes.held_out_sign(scene.text or "") and asked.kind in ("describe", "short", "sign")


def told(engine: DiffusionVLM, question: str, picture: Image.Image, mode: str, steps: int | None = None) -> tuple[str, Finished]:
    """The whole answer in one mode."""
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text, end = "", None
    ask = Ask(messages, (picture,), max_tokens=MAX_TOKENS, mode=mode, steps=steps, threshold=THRESHOLD)
    for event in engine.answer(engine.prepare(ask)):
        if isinstance(event, Delta):
            text += event.text
        else:
            end = event
    if end is None:
        raise RuntimeError("the engine ended an answer without saying so")
    return text.strip(), end


def evaluate(folder: Path, count: int, seed: int, *, held: bool | None, steps: int | None, watch: Watch) -> Score:
    """Ask `count` questions, one per scene, in all three modes and blind."""
    engine = DiffusionVLM.load(folder)
    score, drawn = Score(engine.name), cases(count, seed, held)
    for _ in watch(range(count), "questions"):
        case = next(drawn)
        asked = case.asked
        said, end = told(engine, asked.question, case.picture, "diffusion", steps)
        ar, linear = (told(engine, asked.question, case.picture, mode)[0] for mode in ("ar", "linear"))
        grey = told(engine, asked.question, GREY, "diffusion", steps)[0]
        work = end.usage.completion_tokens, end.usage.num_function_evals
        score.answers.append(Answered(case.group, asked.kind, asked.question, asked.answer, said, ar, linear, grey, *work))
    return score
