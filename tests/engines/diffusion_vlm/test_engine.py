"""The engine from folder to answer: parameters, streaming, stop strings, usage, timings, cancelling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sensorium.engines.diffusion_vlm.answering import Delta, Finished
from sensorium.engines.diffusion_vlm.ask import MODES, Ask, positions_needed
from sensorium.engines.diffusion_vlm.config import read_config, read_side_config
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.diffusion_vlm.prompt import PromptBuilder
from sensorium.engines.diffusion_vlm.rows import Answer, Row
from sensorium.engines.diffusion_vlm.schedule import Schedule
from sensorium.errors import Cancelled, InvalidImage, SettingsError, Unprocessable
from tests.engines.diffusion_vlm.checkpoints import VARIANTS, write_checkpoint
from tests.engines.diffusion_vlm.toys import ScriptModel

QUESTION = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is this?"}]}]
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (21, 30, 3)).astype(np.uint8))
ASK = Ask(QUESTION, [NOISE], max_tokens=64, block_length=8)


@pytest.fixture(scope="module", params=list(VARIANTS))
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> DiffusionVLM:
    return DiffusionVLM.load(write_checkpoint(tmp_path_factory.mktemp("x") / request.param, request.param))


@dataclass
class Scripted:
    """A backend that sees nothing and says one sentence, whatever it is asked; it records the rows and counts its looks."""

    script: list[int]
    model: ScriptModel | None = None
    rows: list[Row] = field(default_factory=list)
    room: int = 0
    looks: int = 0
    slots: int = 1
    length: int = 1024
    transfer_s: float = 0.0

    def reserve(self, length: int) -> None:
        self.room = length

    def features(self, pixels: Any) -> np.ndarray:
        self.looks += 1
        return np.zeros((pixels.shape[1] * pixels.shape[2] // 64, 48), np.float32)

    def ready(self, features: Any) -> bool:
        return True

    def join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)

    def copy(self, source: int, target: int, length: int) -> None:
        raise AssertionError("one slot")

    def forward(self, rows: Sequence[Row]) -> list[Answer]:
        if rows[0].features is not None or self.model is None:
            self.model = ScriptModel(len(rows[0].tokens), self.script, vocab=256, mask=100, ends=frozenset({11}), sharp=60.0)
        self.rows += rows
        return self.model.forward(rows)


@pytest.fixture
def speaker(tmp_path: Path) -> Callable[[str], tuple[DiffusionVLM, Scripted]]:
    folder = write_checkpoint(tmp_path / "speaker", side={"scope": "synthetic-scenes", "max_image_size": 16, "fit": "square"})
    config = read_config(folder)
    prompts = PromptBuilder(folder, config)

    def build(sentence: str) -> tuple[DiffusionVLM, Scripted]:
        model = Scripted([*prompts.tokenizer.encode(sentence, add_special_tokens=False).ids, 11])
        return DiffusionVLM("speaker", config, read_side_config(folder), prompts, model), model

    return build


def run(engine: DiffusionVLM, ask: Ask, cancelled: Callable[[], bool] = lambda: False) -> tuple[str, list[str], Finished]:
    *deltas, finished = engine.answer(engine.prepare(ask), cancelled)
    assert all(isinstance(delta, Delta) and delta.text for delta in deltas) and isinstance(finished, Finished)
    pieces = [delta.text for delta in deltas if isinstance(delta, Delta)]
    return "".join(pieces), pieces, finished


@pytest.mark.parametrize("mode", MODES)
def test_usage_and_timings_add_up(engine: DiffusionVLM, mode: str) -> None:
    _, _, finished = run(engine, replace(ASK, mode=mode))
    use, parts = finished.usage, asdict(finished.timings)
    assert use.prompt_tokens > 1 + 3 * (4 + 1) and 1 <= use.completion_tokens <= 64 and use.prefill == 1
    forwards = {"diffusion": use.denoise + use.write, "ar": use.write, "linear": 1 + use.draft + use.verify}[use.mode]
    assert use.num_function_evals == forwards
    assert (finished.reason == "length") == (use.completion_tokens == 64 and finished.reason != "stop")
    total = parts.pop("total_time")
    assert 0 < sum(parts.values()) <= total and all(value >= 0 for value in parts.values()) and len(parts) == 5


def test_linear_equals_autoregression(engine: DiffusionVLM) -> None:
    one, two = run(engine, replace(ASK, mode="linear")), run(engine, replace(ASK, mode="ar"))
    assert one[0] == two[0] and one[2].reason == two[2].reason and one[2].usage.completion_tokens == two[2].usage.completion_tokens


@pytest.mark.parametrize("mode", MODES)
def test_the_same_question_gets_the_same_answer(engine: DiffusionVLM, mode: str) -> None:
    first, again = run(engine, replace(ASK, mode=mode)), run(engine, replace(ASK, mode=mode))
    assert first[:2] == again[:2] and first[2].usage == again[2].usage


def test_a_seed_repeats_an_answer_drawn_at_a_temperature(engine: DiffusionVLM) -> None:
    hot = replace(ASK, temperature=1.5, mode="ar")
    texts = {seed: run(engine, replace(hot, seed=seed))[0] for seed in range(5)}
    assert len(set(texts.values())) > 1
    assert run(engine, replace(hot, seed=3))[0] == texts[3]
    assert len({run(engine, hot)[0] for _ in range(5)}) > 1


def test_the_picture_matters_and_text_alone_is_fine(engine: DiffusionVLM) -> None:
    other = Image.new("RGB", (30, 21), "red")
    asked = replace(ASK, max_tokens=32, mode="ar")
    assert run(engine, asked)[0] != run(engine, replace(asked, images=[other]))[0]
    words = [{"role": "user", "content": [{"type": "text", "text": "what?"}]}]
    assert run(engine, replace(asked, messages=words, images=[]))[2].usage.completion_tokens > 0


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2.0}, "max_tokens"),
        ({"mode": "ar", "max_tokens": 8193}, "max_tokens"),
        ({"block_length": 4}, "block_length"),
        ({"mode": "linear", "block_length": 300}, "block_length"),
        ({"steps": 0}, "num_inference_steps"),
        ({"steps": 9}, "num_inference_steps"),
        ({"mode": "ar", "steps": True}, "num_inference_steps"),
        ({"threshold": 1.01}, "threshold"),
        ({"threshold": True}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"mode": "quadratic"}, "mode"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"mode": "linear", "temperature": 0.5}, "temperature"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.0}, "seed"),
        ({"stop": ("",)}, "stop"),
        ({"stop": (3,)}, "stop"),
        ({"max_tokens": 1020}, "max_tokens"),
        ({"images": []}, "messages"),
    ],
)
def test_parameters_are_refused_before_anything_is_generated(engine: DiffusionVLM, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        engine.prepare(replace(ASK, **changes))
    assert caught.value.param == param and caught.value.status == 422


def test_unusable_pictures_are_refused(engine: DiffusionVLM) -> None:
    with pytest.raises(InvalidImage):
        engine.prepare(replace(ASK, images=[Image.new("RGB", (0, 3))]))


@pytest.mark.parametrize("mode", MODES)
def test_prompt_and_answer_may_fill_the_model_exactly(engine: DiffusionVLM, mode: str) -> None:
    ask = replace(ASK, mode=mode, max_tokens=8)
    room = engine.config.positions - positions_needed(ask, Schedule(1, 8, 1) if mode == "diffusion" else Schedule(8, 1, 1))
    words = [{"role": "user", "content": [{"type": "text", "text": "7"}]}]
    base = run(engine, replace(ask, messages=words, images=[]))[2].usage.prompt_tokens

    def padded(count: int) -> Ask:
        return replace(ask, messages=[{"role": "user", "content": [{"type": "text", "text": "7" * (1 + count)}]}], images=[])

    assert run(engine, padded(room - base))[2].usage.prompt_tokens == room
    with pytest.raises(Unprocessable, match=str(room + 1)):
        engine.prepare(padded(room - base + 1))


@pytest.mark.parametrize("mode", MODES)
def test_text_comes_in_pieces_that_make_the_whole(speaker: Callable[[str], tuple[DiffusionVLM, Scripted]], mode: str) -> None:
    engine, _ = speaker("The sign says STOP42. a red cube on the table")
    text, pieces, finished = run(engine, replace(ASK, mode=mode))
    assert text == "The sign says STOP42. a red cube on the table"
    assert (finished.reason, finished.usage.completion_tokens, engine.scope, engine.name) == ("stop", 18, "synthetic-scenes", "speaker")
    assert len(pieces) == {"diffusion": 3, "ar": 17, "linear": 3}[finished.usage.mode]
    assert finished.usage.mode == ("linear" if mode == "auto" else mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_stop_string_cuts_and_ends_the_work(speaker: Callable[[str], tuple[DiffusionVLM, Scripted]], mode: str) -> None:
    engine, model = speaker("The sign says STOP42. a red cube on the table a red cube on the table")
    text, pieces, finished = run(engine, replace(ASK, mode=mode, stop=("never", "P4")))
    assert (text, finished.reason) == ("The sign says STO", "stop")
    assert finished.usage.completion_tokens < 17 and len(model.rows) <= 10
    assert not any("P" in piece for piece in pieces)


def test_held_back_text_comes_out_at_the_end(speaker: Callable[[str], tuple[DiffusionVLM, Scripted]]) -> None:
    engine, _ = speaker("a red cube")
    assert run(engine, replace(ASK, stop=("cube on",)))[0] == "a red cube"


def test_max_tokens_cuts_and_says_length(speaker: Callable[[str], tuple[DiffusionVLM, Scripted]]) -> None:
    engine, _ = speaker("a red cube on the table")
    text, _, finished = run(engine, replace(ASK, max_tokens=3))
    assert (text, finished.reason, finished.usage.completion_tokens) == ("a red cube", "length", 3)


def test_cancelling_stops_between_forwards(speaker: Callable[[str], tuple[DiffusionVLM, Scripted]]) -> None:
    engine, model = speaker("a red cube on the table")
    with pytest.raises(Cancelled):
        list(engine.answer(engine.prepare(replace(ASK, mode="ar")), lambda: len(model.rows) >= 3))
    assert len(model.rows) == 3
    assert run(engine, ASK)[0] == "a red cube on the table"


def test_a_caller_who_has_left_costs_no_look_at_a_picture(engine: DiffusionVLM) -> None:
    class Untouchable(Image.Image):
        def load(self) -> Any:
            raise AssertionError("was looked at")

    with pytest.raises(Cancelled):
        engine.prepare(replace(ASK, images=[Untouchable()]), lambda: True)


def test_a_picture_seen_beforehand_gives_the_same_answer(engine: DiffusionVLM) -> None:
    assert run(engine, replace(ASK, images=[engine.see(NOISE)]))[:2] == run(engine, ASK)[:2]


def test_a_picture_has_one_name_here_and_another_elsewhere(tmp_path: Path) -> None:
    """So that nobody can prepare two pictures of one name, and have a question about one answered about the other."""
    engine, other = (DiffusionVLM.load(write_checkpoint(tmp_path / name)) for name in "ab")
    turned = NOISE.transpose(Image.Transpose.ROTATE_90)
    assert engine.see(NOISE).digest == engine.see(NOISE.copy()).digest
    assert len({engine.see(NOISE).digest, other.see(NOISE).digest, engine.see(turned).digest}) == 3


@pytest.mark.parametrize("changes", [{"max_tokens": "x" * 300_000}, {"mode": "x" * 300_000}, {"messages": [{"role": "x" * 300_000}]}])
def test_what_is_refused_is_not_repeated_at_length(engine: DiffusionVLM, changes: dict[str, Any]) -> None:
    with pytest.raises(Unprocessable) as caught:
        engine.prepare(replace(ASK, **changes))
    assert len(caught.value.message) < 300


def test_a_second_answer_ends_the_first(speaker: Callable[[str], tuple[DiffusionVLM, Scripted]]) -> None:
    engine, _ = speaker("a red cube on the table")
    first = engine.answer(engine.prepare(replace(ASK, mode="ar")))
    next(first)
    assert run(engine, ASK)[0] == "a red cube on the table"
    with pytest.raises(RuntimeError, match="another answer"):
        next(first)


def test_a_picture_seen_again_is_not_computed_again(speaker: Callable[[str], tuple[DiffusionVLM, Scripted]]) -> None:
    engine, model = speaker("a")
    for red in (0, 0, 1, 0):
        run(engine, replace(ASK, images=[Image.new("RGB", (16, 16), (red, 0, 9))]))
    assert model.looks == 2


def test_the_cache_is_sized_for_prompt_and_answer(speaker: Callable[[str], tuple[DiffusionVLM, Scripted]]) -> None:
    engine, model = speaker("a")
    used = run(engine, replace(ASK, max_tokens=100, block_length=32))[2].usage
    assert model.room == used.prompt_tokens + 128


def test_a_broken_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"config\.json"):
        DiffusionVLM.load(tmp_path)
    folder = write_checkpoint(tmp_path / "tiny")
    (folder / "model.safetensors").unlink()
    with pytest.raises(SettingsError, match=r"neither model\.safetensors"):
        DiffusionVLM.load(folder)
