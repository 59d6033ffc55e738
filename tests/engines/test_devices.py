"""The choice of device and number format, with a torch of cardboard: its GPUs are a list."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from sensorium.engines import devices
from sensorium.errors import SettingsError


@dataclass(frozen=True)
class Device:
    type: str
    index: int | None = None


@dataclass(frozen=True)
class Card:
    """A GPU: bytes in all and free, bytes that torch reserved and gave out, and whether it computes bfloat16."""

    total: int = 80
    free: int = 50
    reserved: int = 20
    allocated: int = 15
    bfloat16: bool = True


def cardboard(monkeypatch: pytest.MonkeyPatch, *cards: Card, apple: bool = False, cuda: str | None = "12.8") -> None:
    """Put a torch in place that sees these GPUs."""

    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or all(card.bfloat16 for card in cards)

    fake: dict[str, Any] = {
        "__version__": "2.9.0",
        "version": SimpleNamespace(cuda=cuda),
        "float32": "f32",
        "float16": "f16",
        "bfloat16": "bf16",
        "device": Device,
        "backends": SimpleNamespace(mps=SimpleNamespace(is_available=lambda: apple)),
        "mps": SimpleNamespace(recommended_max_memory=lambda: 70, driver_allocated_memory=lambda: 30),
        "cuda": SimpleNamespace(
            is_available=lambda: bool(cards),
            device_count=lambda: len(cards),
            device=lambda device: nullcontext(),
            is_bf16_supported=supported,
            memory_reserved=lambda device: cards[device.index].reserved,
            memory_allocated=lambda device: cards[device.index].allocated,
            mem_get_info=lambda device: (cards[device.index].free, cards[device.index].total),
            get_device_properties=lambda device: SimpleNamespace(total_memory=cards[device.index].total),
            get_device_name=lambda device: f"Card {device.index}",
        ),
    }
    fake["zeros"] = lambda size, dtype, device: None
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(**fake))


def refusal(name: str) -> str:
    with pytest.raises(SettingsError) as caught:
        devices.choose(name)
    (said,) = caught.value.problems
    return said


def test_without_torch_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert refusal("auto") == "this needs torch, which is not installed: pip install 'sensorium[torch]'"


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:0 ", "CUDA", "numpy", "cuda:1000"])
def test_names_that_no_device_has(name: str) -> None:
    assert refusal(name) == f"device is {name!r}, expected auto, cpu, cuda, cuda:N or mps"


def test_the_best_device_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    cardboard(monkeypatch)
    assert devices.choose("auto") == Device("cpu")
    cardboard(monkeypatch, apple=True)
    assert devices.choose("auto") == Device("mps")
    cardboard(monkeypatch, Card(), Card(), apple=True)
    assert devices.choose("auto") == devices.choose("cuda") == Device("cuda", 0)
    assert (devices.choose("cuda:1"), devices.choose("cpu"), devices.choose("mps")) == (Device("cuda", 1), Device("cpu"), Device("mps"))


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cardboard(monkeypatch, Card(), Card())
    assert refusal("cuda:2") == "device is cuda:2, but torch sees only 2 GPUs, cuda:0 to cuda:1"
    assert "no Apple GPU" in refusal("mps")
    cardboard(monkeypatch)
    assert "check the driver and CUDA_VISIBLE_DEVICES" in refusal("cuda")
    cardboard(monkeypatch, cuda=None)
    assert "torch 2.9.0 was built without CUDA" in refusal("cuda")


def test_the_number_format_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cardboard(monkeypatch, Card(), apple=True)
    gpu, cpu, apple = Device("cuda", 0), Device("cpu"), Device("mps")
    assert [devices.dtype("auto", one) for one in (gpu, cpu, apple)] == ["bf16", "f32", "f16"]
    assert [devices.dtype(name, gpu) for name in ("float32", "float16", "bfloat16")] == ["f32", "f16", "bf16"]
    with pytest.raises(SettingsError, match="dtype is 'int8', expected auto, float32, bfloat16 or float16"):
        devices.dtype("int8", gpu)


def test_an_older_gpu_has_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    cardboard(monkeypatch, Card(bfloat16=False))
    gpu = Device("cuda", 0)
    assert devices.dtype("auto", gpu) == "f16"
    with pytest.raises(SettingsError, match="bfloat16, which Card 0 cannot compute; use float16 or float32"):
        devices.dtype("bfloat16", gpu)


def test_memory_is_told_per_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cardboard(monkeypatch, Card(), Card(total=100, free=60, reserved=8, allocated=8), apple=True)
    first, second, apple = Device("cuda", 0), Device("cuda", 1), Device("mps")
    assert [devices.free_bytes(one) for one in (first, second, apple)] == [55, 60, 40]
    assert [devices.used_bytes(one) for one in (first, second, apple)] == [20, 8, 30]
    assert devices.describe(second) == devices.Description(str(second), "Card 1", 100, "2.9.0")


def test_the_memory_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cardboard(monkeypatch)
    cpu = Device("cpu")
    assert 0 < devices.free_bytes(cpu) <= devices.total_bytes(cpu)
    assert 0 <= devices.used_bytes(cpu) <= devices.total_bytes(cpu)
