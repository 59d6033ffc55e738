"""Does the drawing model draw what the prompt says? Judged by the separately trained judge and by measurement; both must agree.

It does not know how to print. Both instruments also look at real renders of the same scenes, which shows their own ceiling.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sensorium.engines.drawing import Draw
from sensorium.engines.flow_image import world
from sensorium.engines.flow_image.engine import FlowImage
from training import judge, measure, scenes

KINDS: Final = ("single", "count", "pair")
SEED_PROMPT: Final = "a red cube on a white table"
SEED_COUNT: Final = 200
SEED_ASPECTS: Final = ("kind", "count", "colour", "shape", "surface")  # what the prompt names
Watch = Callable[[Iterable[int], str], Iterable[int]]
Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What judge and measurement say of one picture, by aspect."""

    judged: dict[str, bool]
    measured: dict[str, bool]

    @property
    def right(self) -> bool:
        """Everything, by both."""
        return all(self.judged.values()) and all(self.measured.values())

    def holds(self, aspect: str) -> bool:
        """One aspect, by whoever looks at it."""
        return self.judged.get(aspect, True) and self.measured.get(aspect, True)


@dataclass(slots=True)
class Score:
    """Sums over an evaluation: (hits, count) each."""

    model: str
    steps: int
    right: tuple[int, int] = (0, 0)
    judged: tuple[int, int] = (0, 0)
    measured: tuple[int, int] = (0, 0)
    judge_on_real: tuple[int, int] = (0, 0)
    measure_on_real: tuple[int, int] = (0, 0)
    seed_prompt: tuple[int, int] = (0, 0)
    aspects: dict[str, tuple[int, int]] = field(default_factory=dict)
    kinds: dict[str, tuple[int, int]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """All sums by their names in the line of JSON."""
        names = ("right", "judged", "measured", "judge_on_real", "measure_on_real")
        parts = {"by_aspect": self.aspects, "by_kind": self.kinds, "seed_prompt_right": self.seed_prompt}
        return {name: getattr(self, name) for name in names} | parts

    def rows(self) -> list[tuple[str, int, int, str]]:
        """For the table."""
        parts = {"right (judge and measure)": self.right, "right by the judge": self.judged, "right by measurement": self.measured}
        parts |= {f"kind: {name}": value for name, value in self.kinds.items()}
        parts |= {f"aspect: {name}": value for name, value in self.aspects.items()}
        parts |= {
            SEED_PROMPT: self.seed_prompt,
            "judge on real renders": self.judge_on_real,
            "measure on real renders": self.measure_on_real,
        }
        return [(name, *value, "") for name, value in parts.items()]

    def summary(self) -> dict[str, Any]:
        """For the line of JSON: shares of one, and the counts behind them."""
        return shares(self.figures()) | {"steps": self.steps, "counts": self.figures()}


def shares(figures: dict[str, Any]) -> dict[str, Any]:
    """The same figures, groups of them included, as shares."""
    return {name: shares(value) if isinstance(value, dict) else share(value) for name, value in figures.items()}


def share(value: tuple[int, int]) -> float:
    """hits / count."""
    return round(value[0] / max(value[1], 1), 4)


def verdict(judging: judge.Judge, image: Image, scene: world.Scene) -> Verdict:
    """Both instruments on one picture."""
    return Verdict(judge.check(judging.look(image), scene), measure.check(image, scene))


def sample(rng: random.Random, count: int, held: bool | None) -> list[scenes.Layout]:
    """The scenes of an evaluation, the first thing that its random source is used for."""
    return [scenes.sample(rng, held, KINDS) for _ in range(count)]


def picture(engine: FlowImage, scene: world.Scene, number: int, steps: int | None) -> Image:
    """Scene `number` of an evaluation as the model draws it: its full caption, its number as seed."""
    return np.asarray(engine.draw(Draw(world.canonical(scene), seed=number, steps=steps)).image)


def evaluate(folder: Path, count: int, seed: int, *, held: bool | None, steps: int | None, watch: Watch) -> Score:
    """Draw `count` scenes from their full captions, and the seed prompt with 200 seeds; look at all of them, and at real renders."""
    engine, judging = FlowImage.load(folder), judge.Judge.load()
    score = Score(engine.name, steps or engine.config.default_steps)
    rng = random.Random(seed)
    layouts = sample(rng, count, held)
    drawn, real = [], []
    for number in watch(range(count), "scenes"):
        scene = layouts[number].scene
        drawn.append(verdict(judging, picture(engine, scene, number, steps), scene))
        real.append(verdict(judging, scenes.render(layouts[number], rng), scene))
    tally(score, [layout.scene for layout in layouts], drawn, real)
    score.seed_prompt = (sum(named(engine, judging, number, steps) for number in watch(range(SEED_COUNT), "seed prompt")), SEED_COUNT)
    return score


def tally(score: Score, wanted: list[world.Scene], drawn: list[Verdict], real: list[Verdict]) -> None:
    """Fill the sums of `score`."""
    count = len(drawn)
    score.right = sum(one.right for one in drawn), count
    score.judged = sum(all(one.judged.values()) for one in drawn), count
    score.measured = sum(all(one.measured.values()) for one in drawn), count
    score.judge_on_real = sum(all(one.judged.values()) for one in real), count
    score.measure_on_real = sum(all(one.measured.values()) for one in real), count
    for aspect in sorted({aspect for one in drawn for aspect in (*one.judged, *one.measured)}):
        asked = [one for one in drawn if aspect in one.judged or aspect in one.measured]
        score.aspects[aspect] = sum(one.holds(aspect) for one in asked), len(asked)
    for kind, total in sorted(Counter(scene.kind for scene in wanted).items()):
        score.kinds[kind] = sum(one.right for one, scene in zip(drawn, wanted, strict=True) if scene.kind == kind), total
    score.failures = [failure(number, *pair) for number, pair in enumerate(zip(wanted, drawn, strict=True)) if not pair[1].right]


def failure(number: int, scene: world.Scene, one: Verdict) -> dict[str, Any]:
    """What the report needs to draw a wrong picture again and to say what is wrong with it."""
    judged, measured = ([aspect for aspect, holds in said.items() if not holds] for said in (one.judged, one.measured))
    return {"number": number, "caption": world.canonical(scene), "judge": judged, "measure": measured}


def named(engine: FlowImage, judging: judge.Judge, seed: int, steps: int | None) -> bool:
    """Whether the seed prompt, which names neither size nor place, became exactly one red cube on a white table."""
    drawing = engine.draw(Draw(SEED_PROMPT, seed=seed, steps=steps or 4))
    seen = verdict(judging, np.asarray(drawing.image), world.complete(world.parse(SEED_PROMPT), seed))
    return all(seen.holds(aspect) for aspect in SEED_ASPECTS)
