"""Does the seeing model answer right? Exact answers only, by question type, beside what a blind answerer would get.

It does not know how to print. Questions come from `training.questions`, the same that training draws from, on scenes with other seeds.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from sensorium.engines.diffusion_vlm.engine import Ask, Delta, DiffusionVLM, Finished
from training import questions, scenes

GREY: Final = Image.new("RGB", (96, 96), (128, 128, 128))
MAX_TOKENS: Final = 64
Watch = Callable[[Iterable[int], str], Iterable[int]]


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with its right answer and what the model said: in diffusion, AR and linear mode, and without seeing."""

    kind: str
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
    """All answers of an evaluation."""

    model: str
    answers: list[Answered] = field(default_factory=list)

    @property
    def exact(self) -> tuple[int, int]:
        """(hits, count)."""
        return hits(self.answers)

    def by_question(self) -> dict[str, list[Answered]]:
        """Answers by type."""
        groups = defaultdict(list)
        for one in self.answers:
            groups[one.kind].append(one)
        return {kind: groups[kind] for kind in questions.KINDS if kind in groups}

    def yes_no(self, word: str) -> list[Answered]:
        """Yes/no questions whose right answer is `word`."""
        return [one for one in self.answers if one.kind in questions.YES_NO and one.answer == word]

    def rows(self) -> list[tuple[str, int, int]]:
        """For the table."""
        result = []
        for kind, group in self.by_question().items():
            result += [(kind, *hits(group)), ("  blind", *blind(group)), ("  constant", *constant(group))]
        result += [("answers that are yes", *hits(self.yes_no("Yes."))), ("answers that are no", *hits(self.yes_no("No.")))]
        result += [("AR mode", sum(one.ar == one.answer for one in self.answers), len(self.answers))]
        return [*result, ("AR equals linear", sum(one.ar == one.linear for one in self.answers), len(self.answers))]

    def summary(self) -> dict[str, Any]:
        """For the line of JSON: shares of one."""
        groups = self.by_question()
        return {
            "exact": share(self.exact),
            "by_question": {kind: share(hits(group)) for kind, group in groups.items()},
            "yes_no": {"yes": share(hits(self.yes_no("Yes."))), "no": share(hits(self.yes_no("No.")))},
            "blind": {kind: share(blind(group)) for kind, group in groups.items()},
            "constant": {kind: share(constant(group)) for kind, group in groups.items()},
            "ar_exact": share((sum(one.ar == one.answer for one in self.answers), len(self.answers))),
            "ar_equals_self_speculation": all(one.ar == one.linear for one in self.answers),
            "tokens_per_forward": round(sum(one.tokens for one in self.answers) / max(1, sum(one.forwards for one in self.answers)), 3),
        }


def hits(group: list[Answered]) -> tuple[int, int]:
    """(exact answers, questions)."""
    return sum(one.exact for one in group), len(group)


def blind(group: list[Answered]) -> tuple[int, int]:
    """(questions answered right on a grey picture, questions)."""
    return sum(one.blind == one.answer for one in group), len(group)


def constant(group: list[Answered]) -> tuple[int, int]:
    """(questions that the best single answer would get right, questions)."""
    return max(Counter(one.answer for one in group).values()), len(group)


def share(value: tuple[int, int]) -> float:
    """hits / count."""
    return round(value[0] / max(value[1], 1), 4)


def told(engine: DiffusionVLM, question: str, picture: Image.Image, mode: str, steps: int | None = None) -> tuple[str, Finished]:
    """The whole answer in one mode."""
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    text, end = "", None
    for event in engine.answer(Ask(messages, (picture,), max_tokens=MAX_TOKENS, mode=mode, steps=steps)):
        if isinstance(event, Delta):
            text += event.text
        else:
            end = event
    if end is None:
        raise RuntimeError("the engine ended an answer without saying so")
    return text.strip(), end


def evaluate(folder: Path, count: int, seed: int, *, held: bool | None, steps: int | None, watch: Watch) -> Score:
    """Ask `count` questions, one per scene, in all three modes and blind."""
    engine, rng = DiffusionVLM.load(folder), random.Random(seed)
    score = Score(engine.name)
    for _ in watch(range(count), "questions"):
        layout = scenes.sample(rng, held)
        asked = questions.ask(rng, layout)
        picture = Image.fromarray(np.asarray(scenes.render(layout, rng)))
        said, end = told(engine, asked.question, picture, "diffusion", steps)
        others = {mode: told(engine, asked.question, picture, mode)[0] for mode in ("ar", "linear")}
        grey = told(engine, asked.question, GREY, "diffusion", steps)[0]
        work = end.usage.completion_tokens, end.usage.num_function_evals
        score.answers.append(Answered(asked.kind, asked.answer, said, others["ar"], others["linear"], grey, *work))
    return score
