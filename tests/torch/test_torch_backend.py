"""The torch backend: whole answers equal numpy's, pictures side by side, memory that is kept to or runs out."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sensorium
from sensorium.engines import devices
from sensorium.engines.diffusion_vlm import torch_backend
from sensorium.engines.diffusion_vlm.answering import Delta, Finished
from sensorium.engines.diffusion_vlm.ask import Ask
from sensorium.engines.diffusion_vlm.config import read_config
from sensorium.engines.diffusion_vlm.engine import DiffusionVLM
from sensorium.engines.diffusion_vlm.room import position_bytes
from sensorium.engines.diffusion_vlm.rows import Features, Row
from sensorium.engines.diffusion_vlm.torch_backend import TorchBackend, guarded
from sensorium.engines.diffusion_vlm.torch_model import TorchModel
from sensorium.engines.orders import ModelOrder
from sensorium.errors import DeviceLost, SettingsError, Unavailable
from tests.engines.diffusion_vlm.checkpoints import VARIANTS, encode, random_weights, write_checkpoint, write_safetensors

CPU = torch.device("cpu")
SHIPPED = Path(sensorium.__file__).parent / "models" / "scenes-vlm"
GB = 10**9


def noise(width: int, height: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def ask(pictures: int, text: str = "what is this?", **more: Any) -> Ask:
    parts = [{"type": "image"} for _ in range(pictures)] + [{"type": "text", "text": text}]
    images = [noise(21 + 9 * number, 30 - 11 * number, number) for number in range(pictures)]
    return Ask([{"role": "user", "content": parts}], images, **{"max_tokens": 40, "block_length": 8} | more)


ASKS = {
    "diffusion": ask(1),
    "diffusion without a picture": ask(0, threshold=0.2, block_length=32),
    "two pictures, even quotas": ask(2, threshold=None, steps=20),
    "ar": ask(1, mode="ar"),
    "linear": ask(2, mode="linear"),
    "drawn": ask(1, mode="ar", temperature=1.3, seed=5, max_tokens=12),
    "drawn in blocks": ask(1, temperature=0.7, seed=2**62),
}


def order(folder: Path, device: str = "cpu", **more: Any) -> ModelOrder:
    return ModelOrder(path=str(folder), device=device, **more)


def load(folder: Path, *, together: bool | None = None, memory: int | None = None, **more: Any) -> TorchBackend:
    return torch_backend.load(folder, order(folder, **more), memory=memory, together=together)


def engine(folder: Path, backend: TorchBackend, *, shared: bool = False) -> DiffusionVLM:
    return DiffusionVLM.over(folder, read_config(folder), backend, shared=shared)


def said(model: DiffusionVLM, question: Ask) -> tuple[str, str, Any]:
    *deltas, finished = model.answer(model.prepare(question))
    assert isinstance(finished, Finished)
    return "".join(one.text for one in deltas if isinstance(one, Delta)), finished.reason, finished.usage


@pytest.fixture(scope="module", params=[*VARIANTS, "shipped"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SHIPPED if request.param == "shipped" else write_checkpoint(tmp_path_factory.mktemp("x") / request.param, request.param)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("x") / "tiny")


@pytest.mark.parametrize("together", [False, True])
def test_whole_answers_equal_numpys(folder: Path, together: bool) -> None:
    numpys, torchs = DiffusionVLM.load(folder), engine(folder, load(folder, together=together, slots=2, context=512))
    for name, question in ASKS.items():
        assert said(torchs, question) == said(numpys, question), name


@pytest.mark.parametrize("together", [False, True])
def test_answers_side_by_side_equal_numpys_one_by_one(folder: Path, together: bool) -> None:
    """More questions than slots; each begins when a slot is free, with what earlier ones left in it."""
    numpys, model = DiffusionVLM.load(folder), engine(folder, load(folder, together=together, slots=3, context=512), shared=True)
    waiting, texts, ends = [*ASKS.items()], dict.fromkeys(ASKS, ""), {}
    names: dict[int, str] = {}
    while waiting or model.batch.active:
        while waiting and model.batch.room:
            name, question = waiting.pop(0)
            names[id(model.batch.admit(model.prepare(question)))] = name
        for step in model.batch.tick():
            assert step.error is None
            for event in step.events:
                name = names[id(step.answering)]
                if isinstance(event, Delta):
                    texts[name] += event.text
                else:
                    ends[name] = event
    for name, question in ASKS.items():
        text, reason, usage = said(numpys, question)
        assert (texts[name], ends[name].reason) == (text, reason), name
        assert ends[name].usage.completion_tokens == usage.completion_tokens


def test_a_shipped_picture_is_described() -> None:
    """Not only noise: the trained model's words about a red square, said by torch."""
    picture = Image.new("RGB", (96, 96), "white")
    picture.paste((220, 20, 20), (24, 24, 72, 72))
    question = Ask([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe the picture."}]}], [picture])
    text, reason, _ = said(engine(SHIPPED, load(SHIPPED)), question)
    assert "red" in text and reason == "stop"
    assert text == said(DiffusionVLM.load(SHIPPED), question)[0]


def test_the_parts_of_a_prompt_get_their_own_pictures(tiny: Path) -> None:
    """Joined rows are cut along the prompt's pieces, also in the middle of a picture."""
    backend, numpys = load(tiny), DiffusionVLM.load(tiny)
    pixels = [numpys.see(noise(40, 24, 1)).pixels, numpys.see(noise(24, 48, 2)).pixels]
    looks = [backend.features(one) for one in pixels]
    joined = backend.join(looks)
    wanted = torch.cat([backend.tower.features(torch.from_numpy(one)) for one in pixels])
    assert len(joined) == len(wanted) and all(backend.ready(one) for one in (*looks, joined, joined[3:5], None))
    assert torch.equal(joined[5:].rows, wanted[5:]) and torch.equal(joined[:5][2:4].rows, wanted[2:4])
    assert backend.join(looks[:1]) is looks[0]


def test_slots_can_be_copied(tiny: Path) -> None:
    backend, rng = load(tiny, slots=3, context=256), np.random.default_rng(0)
    tokens = rng.integers(0, 100, 40).tolist()
    backend.forward([Row(0, 0, tokens, True)])
    backend.copy(0, 2, 30)
    tail = [Row(slot, 30, tokens[30:], True) for slot in range(3)]
    whole, empty, copied = backend.forward(tail)
    assert np.array_equal(whole[0], copied[0]) and np.array_equal(whole[1], copied[1])
    assert not np.allclose(empty[1], whole[1])
    backend.reserve(256)
    with pytest.raises(ValueError, match="positions up to 257 asked for, the cache holds 256"):
        backend.reserve(257)


def test_a_tower_of_its_own_precision(tiny: Path) -> None:
    both = load(tiny, dtype="bfloat16", vision_dtype="float32")
    assert (both.model.dtype, both.tower.dtype) == (torch.bfloat16, torch.float32)
    one = load(tiny, dtype="bfloat16")
    assert (one.model.dtype, one.tower.dtype) == (torch.bfloat16, torch.bfloat16)
    numpys = DiffusionVLM.load(tiny)
    pixels = numpys.see(noise(40, 24, 1)).pixels
    wanted = torch.from_numpy(numpys.batch.backend.features(pixels))
    fine, coarse = ((backend.features(pixels).rows - wanted).abs().max().item() for backend in (both, one))
    assert both.features(pixels).rows.dtype == torch.bfloat16 and fine < coarse / 2
    assert len(said(engine(tiny, one), ASKS["linear"])[0]) > 0


def test_pictures_take_time_to_get_to_the_device(tiny: Path) -> None:
    backend = load(tiny)
    assert backend.transfer_s == 0
    sums = []
    for seed in range(3):
        pixels = np.random.default_rng(seed).normal(size=(3, 24, 24)).astype(np.float32)
        pixels.flags.writeable = False
        backend.features(pixels)
        sums.append(backend.transfer_s)
    assert 0 < sums[0] < sums[1] < sums[2]


def test_a_closed_backend_lets_everything_go(tiny: Path) -> None:
    backend = load(tiny, together=True)
    said(engine(tiny, backend), ASKS["linear"])
    assert backend.numbers == "float32"
    assert load(tiny, dtype="bfloat16", vision_dtype="float32").numbers == "bfloat16 and, for pictures, float32"
    cache, patch = (weakref.ref(one) for one in (backend.model.cache, backend.tower.patch))
    backend.close()
    assert cache() is None and patch() is None


def test_progress_reaches_the_bytes_of_the_file(tiny: Path) -> None:
    told: list[tuple[int, int]] = []
    torch_backend.load(tiny, order(tiny), lambda done, total: told.append((done, total)))
    path = tiny / "model.safetensors"
    total = path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little")
    assert told[-1] == (total, total)


def test_slots_and_length_follow_the_memory(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_config(tiny)
    assert position_bytes(config, 4) == TorchModel.cache_bytes(config, torch.float32)
    monkeypatch.setattr(devices, "free_bytes", lambda device: 64 * GB)
    plenty = load(tiny)
    assert (plenty.slots, plenty.length) == (4, config.positions)
    asked = load(tiny, slots=7, context=300)
    assert (asked.slots, asked.length) == (7, 300)
    slot = position_bytes(config, 4) * TorchModel.slot_positions(config.positions)
    assert plenty.model.cache.nbytes == 4 * slot
    needs = torch_backend.demand(config, 4, 4)
    little = load(tiny, memory=needs.weights + needs.work + slot)
    assert (little.slots, little.length) == (1, config.positions)
    fit = torch_backend.fitting(tiny, order(tiny, slots=2))
    assert (fit.room.slots, fit.bytes) == (2, needs.weights + needs.work + 2 * slot)


def test_what_does_not_fit_is_refused_before_anything_is_read(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_backend.torch_weights, "load", lambda *_, **__: pytest.fail("was read"))
    for more, words in (
        ({"memory": 1000}, "tiny on cpu: the model does not fit: it takes"),
        ({"memory": GB, "slots": 100_000, "context": 1000}, "tiny on cpu: 100000 slots of 1000 positions take"),
        ({"context": 1025}, "nor context above this model's 1024"),
    ):
        with pytest.raises(SettingsError, match=words):
            load(tiny, **more)


def test_the_order_of_things_that_are_not_there(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        torch_backend.load(tmp_path, order(tmp_path))
    with pytest.raises(SettingsError, match="device is 'numpy', expected auto"):
        torch_backend.load(tiny, order(tiny, "numpy"))
    with pytest.raises(SettingsError, match="device is cuda:99"):
        torch_backend.load(tiny, order(tiny, "cuda:99"))


def test_a_draft_adapter_is_found(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "drafting")
    config = read_config(folder)
    (folder / "linear_spec_lora").mkdir()
    settings = {"r": 2, "lora_alpha": 8, "target_modules": ["o_proj"], "bias": "none"}
    (folder / "linear_spec_lora" / "adapter_config.json").write_text(json.dumps(settings))
    width, rng = config.heads * config.head_dim, np.random.default_rng(0)
    parts = {
        f"base_model.model.encoder.layers.{index}.self_attn.o_proj.lora_{part}.weight": rng.normal(size=shape).astype(np.float32)
        for index in range(config.layers)
        for part, shape in (("A", (2, width)), ("B", (config.hidden, 2)))
    }
    write_safetensors(folder / "linear_spec_lora" / "adapter_model.safetensors", encode(parts, "F32"))
    backend, row = load(folder), Row(0, 0, [1, 2, 3], False)
    draft = replace(row, draft=True)
    assert not np.allclose(backend.forward([row])[0][1], backend.forward([draft])[0][1])
    (folder / "linear_spec_lora" / "adapter_config.json").unlink()
    with pytest.raises(SettingsError, match="linear_spec_lora"):
        load(folder)


def test_a_damaged_folder_says_so(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "damaged")
    weights = random_weights(read_config(folder), 0)
    weights["encoder.norm.weight"][3] = np.nan
    weights["encoder.vision_tower.ln_pre.weight"][0] = np.inf
    write_safetensors(folder / "model.safetensors", encode(weights, "F32"))
    with pytest.raises(SettingsError) as caught:
        load(folder)
    assert caught.value.problems == [
        f"damaged: tensor {name} holds NaN or infinite values" for name in ("encoder.norm.weight", "encoder.vision_tower.ln_pre.weight")
    ]


class Held:
    """Something large that a failing function has in its hands."""


def out_of_memory(error: Callable[[], Exception], held: list[Any]) -> Callable[[], None]:
    def work() -> None:
        large = Held()
        held.append(weakref.ref(large))
        raise error()

    return work


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        lambda: RuntimeError("MPS backend out of memory (MPS allocated: 2 GB)"),
    ],
)
def test_out_of_memory_is_told_and_what_was_held_is_let_go(error: Callable[[], Exception]) -> None:
    held: list[Any] = []
    with pytest.raises(Unavailable, match="too little free memory for this test") as caught:
        guarded(CPU, "this test", out_of_memory(error, held))
    assert (caught.value.code, caught.value.retry_after, caught.value.__context__) == ("out_of_memory", 5.0, None)
    assert held[0]() is None


def test_a_real_allocation_that_is_too_large() -> None:
    with pytest.raises(Unavailable, match="too little free memory"):
        guarded(CPU, "this", lambda: torch.empty(1 << 58, dtype=torch.uint8))


def test_other_failures_pass() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        guarded(CPU, "this", lambda: torch.zeros(2, 3) @ torch.zeros(2, 3))


def test_a_fault_that_stays_is_told_apart_from_one_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells is whether the device does anything after it, not the words."""

    def fault() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    gpu, dead = torch.device("cuda", 0), False

    def wait(_: Any) -> None:
        if dead:
            raise RuntimeError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`")

    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.tensor(1))
    with pytest.raises(RuntimeError, match="assert"):
        guarded(gpu, "this", fault)
    dead = True
    with pytest.raises(DeviceLost, match=r"cuda:0 is lost .*\(CUDA error: device-side assert triggered\)"):
        guarded(gpu, "this", fault)


def test_a_picture_too_large_fails_alone(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load(tiny)
    model = engine(tiny, backend)
    whole = said(model, ASKS["diffusion"])
    real = backend.tower.features

    def features(pixels: Any) -> Any:
        if pixels.shape[2] > 40:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(pixels)

    monkeypatch.setattr(backend.tower, "features", features)
    with pytest.raises(Unavailable, match="a picture of this size") as caught:
        said(model, replace(ASKS["diffusion"], images=[noise(200, 20, 9)]))
    assert caught.value.code == "out_of_memory"
    assert said(model, ASKS["diffusion"]) == whole


class Cardboard:
    """Streams and events that note in which order things happen, on the stream that is current."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[tuple[str, str]] = []
        self.current = "main"
        self.done = False
        empty = torch.empty
        for name, fake in {
            "Stream": self.stream,
            "Event": self.event,
            "stream": self.on,
            "current_stream": lambda _: self.stream("main"),
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(torch, "empty", lambda *sizes, pin_memory=False, **more: empty(*sizes, **more))
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: self.log.append((stream.name, f"keeps {len(tensor)}")))

    def stream(self, name: str = "") -> Any:
        return SimpleNamespace(
            name=name,
            synchronize=lambda: self.log.append((name, "is over")),
            wait_event=lambda event: self.log.append((name, f"waits for {event.of}")),
        )

    def event(self) -> Any:
        event = SimpleNamespace(of="", query=lambda: self.done)
        event.record = lambda: setattr(event, "of", self.current)
        return event

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream.name
        yield
        self.current = before


def test_a_picture_goes_its_own_way_until_a_row_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With streams of cardboard: copied on one, looked at on another, and waited for by the decoder's only in the row that has it."""
    cuda, seen = Cardboard(monkeypatch), []

    def look(pixels: Any) -> Any:
        cuda.log.append((cuda.current, "looks"))
        return pixels.flatten(1).T

    model = SimpleNamespace(slots=2, length=64, device=CPU, dtype=torch.float32, forward=lambda rows: seen.extend(rows) or [])
    backend = TorchBackend(model, SimpleNamespace(features=look))
    backend._copying, backend._looking = cuda.stream("copying"), cuda.stream("looking")
    first, second = (backend.features(np.full((3, 2, height), height, np.float32)) for height in (2, 3))
    joined = backend.join([first, second])
    assert cuda.log == [("copying", "is over"), ("looking", "keeps 3"), ("looking", "looks")] * 2
    assert not backend.ready(joined[1:2]) and backend.ready(None)
    cuda.done = True
    assert backend.ready(joined[1:2])
    cuda.log.clear()
    plain = torch.zeros(1, 3)
    places = (None, Features([0, 1], joined[3:5]), Features([0], plain))
    backend.forward([Row(slot, 0, [7, 7], True, features=features) for slot, features in enumerate(places)])
    assert cuda.log == [("main", "waits for looking"), ("main", "keeps 2")]
    assert seen[0].features is None and seen[1].features.rows.tolist() == [[2] * 3, [3] * 3] and seen[2].features.rows is plain


def test_after_the_warm_up_answers_are_what_they_were(tiny: Path) -> None:
    """It leaves nothing that a later answer would read, and counts as no picture."""
    warm, plain = (torch_backend.load(tiny, order(tiny), together=True) for _ in range(2))
    torch_backend.warm_up(warm)
    assert warm.transfer_s == 0.0
    row = Row(0, 0, [5, 6, 7], False)
    (best, confidence), (right, sure) = warm.forward([row])[0], plain.forward([row])[0]
    assert np.array_equal(best, right) and np.array_equal(confidence, sure)
