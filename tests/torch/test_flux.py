"""FLUX against diffusers' own pipeline, on tiny random checkpoints: the same pictures, and every way in which a drawing can end."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from sensorium.engines.drawing import Draw, Drawing, Step, finished
from sensorium.engines.flux import loading
from sensorium.engines.flux.engine import Flux
from sensorium.engines.orders import ModelOrder
from sensorium.errors import Cancelled, SettingsError, Unavailable, Unprocessable, UpstreamFailed
from tests.torch import flux_folders

CUBE = "a red cube on a white table"
SMALL = {"width": 256, "height": 256}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("flux")
    return {family: flux_folders.write(root / f"tiny-{family}", family) for family in ("schnell", "dev")}


@pytest.fixture(scope="module")
def schnell(folders: dict[str, Path]) -> Flux:
    return load(folders["schnell"])


def load(folder: Path, **options: Any) -> Flux:
    return Flux.load(folder, ModelOrder(path=str(folder), device="cpu", **options))


class Counted:
    """Counts a module's forwards; `then` runs before each, with its number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, then: Callable[[int], None] = lambda number: None) -> None:
        self.calls = 0
        forward = module.forward

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            then(self.calls)
            return forward(*args, **kwargs)

        monkeypatch.setattr(module, "forward", counted)


def transformer(model: Flux) -> Any:
    return model._pipeline.transformer


@pytest.mark.parametrize(("family", "guidance", "steps", "tokens"), [("schnell", 0.0, 3, 256), ("dev", 7.5, 6, 512)])
def test_the_picture_is_diffusers_own(folders: dict[str, Path], family: str, guidance: float, steps: int, tokens: int) -> None:
    model = load(folders[family])
    *told, drawing = model.steps(Draw(CUBE, 7, steps, guidance=guidance, width=320, height=256))
    assert told == [Step(number, steps) for number in range(1, steps + 1)]
    assert isinstance(drawing, Drawing)
    assert (drawing.seed, drawing.ignored, drawing.image.mode) == (7, (), "RGB")
    given = {"num_inference_steps": steps, "guidance_scale": guidance, "max_sequence_length": tokens}
    shared = FluxPipeline(**model._pipeline.components)
    loaded = FluxPipeline.from_pretrained(folders[family], dtype=torch.float32, local_files_only=True)
    same, near = (
        oracle(CUBE, width=320, height=256, generator=torch.Generator().manual_seed(7), **given).images[0] for oracle in (shared, loaded)
    )
    assert drawing.image.tobytes() == same.tobytes()
    # Where weights come to lie in memory may move a sum by its last bit, and a pixel by one level.
    assert np.abs(np.asarray(drawing.image, np.int16) - np.asarray(near, np.int16)).max() <= 1


def test_seed_prompt_and_guidance_each_change_the_picture(folders: dict[str, Path]) -> None:
    model = load(folders["dev"])
    wishes = [Draw(CUBE, 1, 5, **SMALL), Draw(CUBE, 2, 5, **SMALL), Draw("a blue ball", 1, 5, **SMALL), Draw(CUBE, 1, 5, 9.0, **SMALL)]
    assert len({model.draw(wish).image.tobytes() for wish in wishes}) == 4
    assert model.draw(Draw(CUBE, 1, 5, 0, **SMALL)).image == model.draw(Draw(CUBE, 1, 5, 3.5, **SMALL)).image  # 0 is the default


def test_a_prompt_is_encoded_once(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(folders["schnell"])
    clip, t5 = Counted(monkeypatch, model._pipeline.text_encoder), Counted(monkeypatch, model._pipeline.text_encoder_2)
    first = model.draw(Draw(CUBE, 3, 2, **SMALL))
    again = model.draw(Draw(CUBE, 3, 2, **SMALL))
    assert first.image.tobytes() == again.image.tobytes()
    model.draw(Draw(CUBE, 4, 1, **SMALL))
    assert (clip.calls, t5.calls) == (1, 1)
    model.draw(Draw("a blue ball", 4, 1, **SMALL))
    assert (clip.calls, t5.calls) == (2, 2)
    assert (model.embeddings.hits, model.embeddings.misses) == (2, 2)
    assert model.embeddings.bytes == 2 * 4 * (256 * 24 + 16)


def test_cancelling_ends_the_work_after_the_step_under_way(schnell: Flux, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Counted(monkeypatch, transformer(schnell))
    decoded = Counted(monkeypatch, schnell._pipeline.vae.decoder)
    with pytest.raises(Cancelled):
        schnell.draw(Draw(CUBE, 1, 4, **SMALL), lambda: seen.calls == 2)
    assert (seen.calls, decoded.calls) == (2, 0)
    with pytest.raises(Cancelled):
        schnell.draw(Draw(CUBE, 1, 4, **SMALL), lambda: True)
    assert seen.calls == 2
    schnell.draw(Draw(CUBE, 1, 1, **SMALL))
    assert (seen.calls, decoded.calls) == (3, 1)


def test_leaving_the_steps_ends_the_work(schnell: Flux, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Counted(monkeypatch, transformer(schnell))
    events = schnell.steps(Draw(CUBE, 1, 4, **SMALL))
    assert next(events) == Step(1, 4)
    events.close()  # type: ignore[attr-defined]
    assert seen.calls < 4
    assert finished(schnell.steps(Draw(CUBE, 1, 1, **SMALL))).image.size == (256, 256)


def test_a_full_device_is_told_and_the_model_goes_on(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(folders["schnell"])
    whole = model.draw(Draw(CUBE, 1, 2, **SMALL)).image.tobytes()
    alive: list[Any] = []

    def full(number: int) -> None:
        if number == 2:
            tensor = torch.zeros(10)
            alive.append(weakref.ref(tensor))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot")

    Counted(monkeypatch, transformer(model), full)
    with pytest.raises(Unavailable) as caught:
        model.draw(Draw(CUBE, 1, 2, **SMALL))
    assert caught.value.code == "out_of_memory"
    assert caught.value.retry_after is not None
    assert "256 x 256" in caught.value.message
    gc.collect()
    assert alive[0]() is None  # no traceback holds on to what was computed, even while the error is alive
    assert model.draw(Draw(CUBE, 1, 2, **SMALL)).image.tobytes() == whole


def test_an_overflow_is_an_error_and_no_black_picture(folders: dict[str, Path]) -> None:
    model = load(folders["schnell"])
    with torch.no_grad():
        transformer(model).proj_out.bias.fill_(float("nan"))
    with pytest.raises(UpstreamFailed, match="range"):
        model.draw(Draw(CUBE, 1, 1, **SMALL))


def test_compiled_blocks_that_fail_are_left_aside(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(folders["schnell"])
    whole = model.draw(Draw(CUBE, 1, 2, **SMALL)).image.tobytes()
    block = transformer(model).transformer_blocks[0]

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no kernel for this machine")

    block._compiled_call_impl = broken
    assert model.draw(Draw(CUBE, 1, 2, **SMALL)).image.tobytes() == whole
    assert "no kernel for this machine" in caplog.text
    with pytest.raises(RuntimeError, match="a fault of ours"):
        Counted(monkeypatch, transformer(model), _raise)
        model.draw(Draw(CUBE, 1, 1, **SMALL))


def _raise(number: int) -> None:
    raise RuntimeError("a fault of ours")


def test_compiled_blocks_draw_the_same_picture_and_are_compiled_for_all_sizes_by_the_second(folders: dict[str, Path]) -> None:
    model = load(folders["schnell"])
    compiled = list[int]()

    def counting(graph: Any, inputs: Any) -> Any:
        compiled.append(len(inputs))
        return graph.forward

    plain = {side: np.asarray(model.draw(Draw(CUBE, 1, 2, width=side)).image, np.int16) for side in (256, 320, 384, 448)}
    loading.compile_blocks(model._pipeline, backend=counting)
    after = list[int]()
    for side, expected in plain.items():
        drawn = np.asarray(model.draw(Draw(CUBE, 1, 2, width=side)).image, np.int16)
        assert np.abs(expected - drawn).max() <= 2
        after.append(len(compiled))
    assert after[0] > 0
    assert after[1] == after[2] == after[3]
    assert loading.eager(model._pipeline)  # they were compiled, and have not been left aside
    assert not loading.eager(model._pipeline)


def test_fp8_weights_are_stored_small_and_drawn_nearly_the_same(folders: dict[str, Path], schnell: Flux) -> None:
    model = load(folders["schnell"], quant="fp8")
    weight = transformer(model).transformer_blocks[0].attn.to_q.weight
    assert weight.dtype == torch.float8_e4m3fn
    assert model.bytes < schnell.bytes
    wish = Draw(CUBE, 1, 2, **SMALL)
    pairs = np.asarray(schnell.draw(wish).image, np.int16), np.asarray(model.draw(wish).image, np.int16)
    assert 0 < np.abs(pairs[0] - pairs[1]).mean() < 5
    assert transformer(model).transformer_blocks[0].attn.to_q.weight.dtype == torch.float8_e4m3fn  # widened for one forward only


def test_half_precision(folders: dict[str, Path], schnell: Flux) -> None:
    model = load(folders["schnell"], dtype="bfloat16")
    assert {parameter.dtype for parameter in transformer(model).parameters()} == {torch.bfloat16}
    assert model.bytes < 0.6 * schnell.bytes
    model.draw(Draw(CUBE, 1, 1, **SMALL))


def test_words_beyond_the_encoders_limit_are_named(folders: dict[str, Path]) -> None:
    model = load(folders["schnell"])
    words = ["a"] * 255  # a token each, and the end mark
    assert model.check(Draw(" ".join(words), 1)).ignored == ()
    long = [*words, "blue", "red cube,", "ball"]
    wish = Draw(" ".join(long), 1, 1, **SMALL)
    drawing = model.draw(wish)
    assert drawing.ignored == ("blue", "red", "cube,", "ball")
    cut = model.draw(Draw(" ".join(words), 1, 1, **SMALL))
    # T5 read no more than was said; CLIP's 77 tokens were full long before.
    assert drawing.image.tobytes() == cut.image.tobytes()


def test_dev_reads_twice_as_much(folders: dict[str, Path]) -> None:
    model = load(folders["dev"])
    assert model.check(Draw(" ".join(["a"] * 511), 1)).ignored == ()
    assert model.check(Draw(" ".join(["a"] * 511 + ["ball"]), 1)).ignored == ("ball",)


def test_a_refusal_comes_before_any_work(schnell: Flux, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Counted(monkeypatch, transformer(schnell))
    with pytest.raises(Unprocessable) as caught:
        next(schnell.steps(Draw(CUBE, 1, 9)))
    assert (caught.value.param, seen.calls) == ("steps", 0)


def test_a_prompt_that_is_too_long_is_refused_unread(schnell: Flux, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schnell, "_words", None)
    with pytest.raises(Unprocessable, match="a string of 10001 characters"):
        schnell.check(Draw("x" * 10_001, 1))


def test_warming_up_takes_one_step_at_each_size(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(folders["dev"])
    seen = Counted(monkeypatch, transformer(model))
    model._warm_up([(256, 256), (320, 256)])
    assert seen.calls == 2


def test_progress_while_loading(folders: dict[str, Path]) -> None:
    told: list[tuple[int, int]] = []
    order = ModelOrder(path=str(folders["dev"]), name="org/flux", device="cpu")
    model = Flux.load(folders["dev"], order, lambda done, of: told.append((done, of)))
    size = sum(file.stat().st_size for file in folders["dev"].rglob("*.safetensors"))
    assert (model.name, model.scope) == ("org/flux", None)
    assert [of for _, of in told] == [size] * 4
    assert sorted(told) == told
    assert told[-1] == (size, size)
    weights = sum(parameter.numel() for part in ("transformer", "vae", "text_encoder", "text_encoder_2")
                  for parameter in getattr(model._pipeline, part).parameters())  # fmt: skip
    assert 4 * weights <= model.bytes < 4.1 * weights


def test_unloading_lets_go_of_every_weight(folders: dict[str, Path]) -> None:
    model = load(folders["schnell"])
    model.draw(Draw(CUBE, 1, 1, **SMALL))
    weight = weakref.ref(transformer(model).proj_out.weight)
    model.unload()
    gc.collect()
    assert weight() is None
    assert model.embeddings.bytes == 0


@pytest.mark.parametrize(("options", "says"), [({"quant": "nf4"}, "nf4"), ({"offload": "model"}, "offload is model")])
def test_what_cannot_work_here_is_refused_before_loading(folders: dict[str, Path], options: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        load(folders["schnell"], **options)
