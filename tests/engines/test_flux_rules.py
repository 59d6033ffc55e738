"""What FLUX takes, which of its settings go together, and its cache of prompts: without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.engines.drawing import Draw
from sensorium.engines.flux.embeddings import Embeddings, Encoded
from sensorium.engines.flux.fitting import WORKING_BYTES, conflicts, expected_bytes, missing
from sensorium.engines.flux.folder import Weights
from sensorium.engines.flux.rules import PIXELS_MAX, Resolved, family_of, of_family
from sensorium.engines.orders import ModelOrder
from sensorium.errors import Unprocessable
from sensorium.wire.nvidia_models import MODELS

SCHNELL, DEV = of_family("schnell"), of_family("dev")
CUBE = {"prompt": "a cube", "seed": 5}


def resolve(rules: Any, **wish: Any) -> Resolved:
    found = rules.resolve(Draw(**{**CUBE, **wish}), (), "flux")
    assert isinstance(found, Resolved)
    return found


def test_defaults() -> None:
    few, many = resolve(SCHNELL), resolve(DEV)
    assert (few.steps, few.guidance, few.width, few.height, few.seed) == (4, 0.0, 1024, 1024, 5)
    assert (many.steps, many.guidance) == (50, 3.5)
    assert (SCHNELL.tokens, DEV.tokens) == (256, 512)


@pytest.mark.parametrize(
    ("rules", "wish", "expected"),
    [
        (SCHNELL, {"steps": 1, "guidance": 0}, {"steps": 1, "guidance": 0.0}),
        (SCHNELL, {"steps": 3.0}, {"steps": 3}),
        (DEV, {"steps": 5, "guidance": 1}, {"steps": 5, "guidance": 1.0}),
        (DEV, {"steps": 100, "guidance": 20}, {"steps": 100, "guidance": 20.0}),
        (DEV, {"guidance": 0}, {"guidance": 3.5}),
        (DEV, {"width": 256}, {"width": 256, "height": 256}),
        (DEV, {"height": 1360}, {"width": 1360, "height": 1360}),
        (DEV, {"width": 2048, "height": 1024}, {"width": 2048, "height": 1024}),
        (SCHNELL, {"width": 272.0, "height": 1008}, {"width": 272, "height": 1008}),
    ],
)
def test_what_is_taken(rules: Any, wish: dict[str, Any], expected: dict[str, Any]) -> None:
    found = resolve(rules, **wish)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("rules", "wish", "param", "says"),
    [
        (SCHNELL, {"steps": 0}, "steps", "1..4"),
        (SCHNELL, {"steps": 5}, "steps", "1..4"),
        (SCHNELL, {"guidance": 3.5}, "cfg_scale", "only 0"),
        (DEV, {"steps": 4}, "steps", "5..100"),
        (DEV, {"steps": 101}, "steps", "5..100"),
        (DEV, {"steps": True}, "steps", "true"),
        (DEV, {"guidance": 0.5}, "cfg_scale", "1..20"),
        (DEV, {"guidance": 21}, "cfg_scale", "1..20"),
        (DEV, {"width": 1000}, "width", "992 and 1008"),
        (DEV, {"height": 1023}, "height", "1008 and 1024"),
        (DEV, {"height": 100}, "height", "the nearest is 256"),
        (DEV, {"width": 10**30}, "width", "256..2048"),
        (DEV, {"width": 2049, "height": 256}, "width", "the nearest is 2048"),
        (DEV, {"width": 1000.5}, "width", "992 and 1008"),
        (DEV, {"width": "1024"}, "width", "256..2048"),
        (DEV, {"width": 2048, "height": 1040}, "height", "the nearest height is 1024"),
        (DEV, {"width": 1520}, "height", "the nearest height is 1376"),
        (DEV, {"seed": -1}, "seed", "4294967295"),
        (DEV, {"prompt": ""}, "prompt", "1 to 10000"),
        (DEV, {"prompt": 7}, "prompt", "1 to 10000"),
        (DEV, {"prompt": None}, "prompt", "missing"),
    ],
)
def test_what_is_refused_is_named_with_what_is_taken(rules: Any, wish: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(Unprocessable) as caught:
        resolve(rules, **wish)
    assert caught.value.param == param
    assert says in caught.value.message


@given(st.integers(-100, 5000), st.integers(-100, 5000))
def test_a_size_is_taken_as_it_is_or_refused(width: int, height: int) -> None:
    fits = all(side in range(256, 2049, 16) for side in (width, height)) and width * height <= PIXELS_MAX
    try:
        found = resolve(DEV, width=width, height=height)
    except Unprocessable:
        assert not fits
    else:
        assert fits
        assert (found.width, found.height) == (width, height)


@pytest.mark.parametrize(("rules", "model"), [(SCHNELL, "black-forest-labs/flux.1-schnell"), (DEV, "black-forest-labs/flux.1-dev")])
def test_whatever_the_hosted_model_takes_is_taken_here(rules: Any, model: str) -> None:
    hosted = MODELS[model]
    for steps in hosted.choices("steps"):
        resolve(rules, steps=steps)
    for side in hosted.choices("width"):
        resolve(rules, width=side, height=side)
        resolve(rules, width=side, height=hosted.choices("height")[0])
    guidance = [0] if model.endswith("schnell") else [1.0001, 3.5, 9]
    assert all(hosted.fields["cfg_scale"].admits(one) for one in guidance)
    for one in guidance:
        resolve(rules, guidance=one)


def test_the_family_is_read_off_the_checkpoint() -> None:
    assert [family_of(*told) for told in [(False, False), (True, True), (True, False), (False, True)]] == ["schnell", "dev", None, None]


def order(**options: Any) -> ModelOrder:
    return ModelOrder(path="flux", **{"compile": False, **options})


@pytest.mark.parametrize(
    ("options", "device", "says"),
    [
        ({"offload": "sequential", "compile": True}, "cuda", "compile is on"),
        ({"offload": "group", "compile": True}, "cuda", "compile is on"),
        ({"quant": "fp8", "compile": True}, "cuda", "compile is on"),
        ({"offload": "model"}, "cpu", "runs on cpu"),
        ({"offload": "group"}, "mps", "runs on mps"),
        ({"quant": "nf4"}, "cpu", "only a CUDA GPU"),
        ({"quant": "nf4"}, "mps", "only a CUDA GPU"),
        ({"quant": "fp8"}, "mps", "Apple"),
        ({"quant": "int8", "offload": "sequential"}, "cuda", "cannot move int8"),
        ({"quant": "nf4", "offload": "group"}, "cuda", "cannot move nf4"),
    ],
)
def test_what_cannot_work_together(options: dict[str, Any], device: str, says: str) -> None:
    (found,) = conflicts(order(**options), device)
    assert says in found


@pytest.mark.parametrize(
    ("options", "device"),
    [
        ({"compile": True}, "cpu"),
        ({"compile": True}, "cuda"),
        ({"compile": True, "quant": "int8"}, "cuda"),
        ({"compile": True, "offload": "model"}, "cuda"),
        ({"quant": "nf4", "offload": "model"}, "cuda"),
        ({"quant": "fp8", "offload": "group"}, "cuda"),
        ({"quant": "fp8"}, "cpu"),
        ({"offload": "sequential"}, "cuda"),
    ],
)
def test_what_works_together(options: dict[str, Any], device: str) -> None:
    assert conflicts(order(**options), device) == []


@pytest.mark.parametrize(
    ("options", "lacking", "says"),
    [
        ({}, {"diffusers", "transformers"}, ["FLUX needs diffusers, transformers: pip install 'sensorium[diffusers]'"]),
        ({"quant": "nf4"}, {"bitsandbytes"}, ["quant is nf4, which needs bitsandbytes: pip install bitsandbytes"]),
        ({"quant": "int8"}, {"torchao"}, ["quant is int8, which needs torchao: pip install torchao"]),
        ({"offload": "model"}, {"accelerate"}, ["offload is model, which needs accelerate: pip install accelerate"]),
        ({"quant": "fp8"}, {"bitsandbytes", "torchao", "accelerate"}, []),
    ],
)
def test_what_is_not_installed_is_told_with_its_line(options: dict[str, Any], lacking: set[str], says: list[str]) -> None:
    assert missing(order(**options), lambda name: name not in lacking) == says


OFFICIAL = {  # the numbers of FLUX.1 [dev], in millions; largest tensors: the embeddings, and a layer of the blocks
    "transformer": Weights(numbers=11_902, largest=56),
    "text_encoder_2": Weights(numbers=4_762, largest=132),
    "text_encoder": Weights(numbers=123, largest=38),
    "vae": Weights(numbers=84, largest=3),
}


@pytest.mark.parametrize(
    ("options", "device", "millions"),
    [
        ({}, "cuda", 33_742),
        ({"quant": "fp8"}, "cuda", 25_089),
        ({"quant": "int8"}, "cuda", 17_078),
        ({"quant": "nf4"}, "cuda", 9_788),
        ({"offload": "model"}, "cuda", 23_804),
        ({"offload": "group"}, "cuda", 528),
        ({"offload": "sequential"}, "cuda", 264),
        ({}, "cpu", 33_742),
    ],
)
def test_what_a_model_takes_is_estimated_before_it_is_loaded(options: dict[str, Any], device: str, millions: int) -> None:
    working = WORKING_BYTES if device == "cuda" else 0
    assert expected_bytes(OFFICIAL, order(**options), device, 2) - working == pytest.approx(millions, abs=1)


@dataclass
class Tensor:
    """As much of a tensor as the cache knows."""

    nbytes: int
    place: str = "device"

    def cpu(self) -> Tensor:
        return Tensor(self.nbytes, "memory")

    def pin_memory(self) -> Tensor:
        return Tensor(self.nbytes, self.place + ", pinned")

    def to(self, device: str, non_blocking: bool) -> Tensor:
        return Tensor(self.nbytes, device)


def encoded(size: int) -> Encoded:
    return Encoded(Tensor(size - 1), Tensor(1))


def test_the_least_recently_used_prompt_goes_when_the_cache_is_full() -> None:
    cache = Embeddings(limit=100)
    for name in "abc":
        cache.put((name, 256), encoded(40))
    assert [cache.get((name, 256)) is not None for name in "abc"] == [False, True, True]
    cache.get(("b", 256))
    cache.put(("d", 256), encoded(40))
    assert [cache.get((name, 256)) is not None for name in "bcd"] == [True, False, True]
    assert cache.get(("b", 512)) is None
    assert (cache.bytes, cache.hits, cache.misses) == (80, 5, 3)


def test_what_alone_is_too_large_is_not_kept_and_pushes_nothing_out() -> None:
    cache = Embeddings(limit=100)
    cache.put(("a", 256), encoded(40))
    cache.put(("huge", 256), encoded(101))
    assert cache.get(("a", 256)) is not None
    cache.put(("a", 256), encoded(60))
    assert cache.bytes == 60
    cache.clear()
    assert (cache.get(("a", 256)), cache.bytes) == (None, 0)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(2, 120)), max_size=40))
def test_the_bytes_are_those_of_what_is_kept_and_never_beyond_the_limit(puts: list[tuple[int, int]]) -> None:
    cache = Embeddings(limit=150)
    for name, size in puts:
        cache.put((str(name), 256), encoded(size))
        kept = [one for name in range(7) if (one := cache.get((str(name), 256)))]
        assert cache.bytes == sum(one.bytes for one in kept) <= 150


def test_prompts_rest_in_the_machines_memory() -> None:
    assert encoded(5).resting(pinned=True).pooled.place == "memory, pinned"
    assert encoded(5).resting(pinned=False).sequence.place == "memory"
    assert encoded(5).resting(pinned=False).to("cuda").sequence.place == "cuda"
