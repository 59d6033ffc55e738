"""Which of FLUX's settings go together, on which devices, and what they need installed. It knows no torch."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

from sensorium.engines.orders import ModelOrder

INSTALL: Final = "pip install 'sensorium[diffusers]'"
NEEDED: Final = ("diffusers", "transformers", "safetensors", "tokenizers")
QUANTISERS: Final = {"int8": "torchao", "nf4": "bitsandbytes"}


def installed(library: str) -> bool:
    """Whether a library is there, without importing it."""
    return find_spec(library) is not None


def missing(order: ModelOrder, there: Callable[[str], bool] = installed) -> list[str]:
    """The libraries that are needed and not installed, each with the line that installs it."""
    lacking = [name for name in NEEDED if not there(name)]
    found = [f"FLUX needs {', '.join(lacking)}: {INSTALL}"] if lacking else []
    quantiser = QUANTISERS.get(order.quant)
    if quantiser and not there(quantiser):
        found.append(f"quant is {order.quant}, which needs {quantiser}: pip install {quantiser}")
    if order.offload != "none" and not there("accelerate"):
        found.append(f"offload is {order.offload}, which needs accelerate: pip install accelerate")
    return found


def conflicts(order: ModelOrder, device: str) -> list[str]:
    """What cannot work with this kind of device ("cuda", "mps", "cpu"), one sentence each. Empty: all is well."""
    found = list[str]()
    if order.offload != "none" and device != "cuda":
        found.append(f"offload is {order.offload}, but the model runs on {device}: only a GPU of its own memory can be offloaded; set none")
    if order.quant == "nf4" and device != "cuda":
        found.append(f"quant is nf4, which only a CUDA GPU computes, not {device}; use int8 or none")
    if order.quant == "fp8" and device == "mps":
        found.append("quant is fp8, which Apple GPUs cannot store; use int8 or none")
    if order.offload == "sequential" and order.quant != "none":
        found.append(f"offload is sequential, which cannot move {order.quant} weights; use quant none, or offload model")
    if order.offload == "group" and order.quant == "nf4":
        found.append("offload is group, which cannot move nf4 weights; use offload model, or quant fp8")
    if order.compile and device == "cuda" and order.offload in ("group", "sequential"):
        found.append(f"compile is on, but offload {order.offload} moves weights in the middle of what is compiled; set compile to false")
    if order.compile and device == "cuda" and order.quant == "fp8":
        found.append("compile is on, but quant fp8 widens weights in the middle of what is compiled; set compile to false, or use int8")
    return found
