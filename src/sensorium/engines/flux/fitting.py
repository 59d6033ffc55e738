"""Which of FLUX's settings go together, on which devices, what they need installed, and what memory. It knows no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Final

from sensorium.engines.flux.folder import Weights
from sensorium.engines.orders import ModelOrder

INSTALL: Final = "pip install 'sensorium[diffusers]'"
NEEDED: Final = ("diffusers", "transformers", "safetensors", "tokenizers")
WORKING_BYTES: Final = 4 << 30
"""What drawing itself takes on a GPU beside the weights, at the largest size: an estimate, nearly all of it the autoencoder's."""
_BOTH: Final = ("transformer", "text_encoder_2")
QUANTISED: Final = {"none": (), "fp8": ("transformer",), "int8": _BOTH, "nf4": _BOTH}
STORED: Final = {"fp8": 1.0, "int8": 1.0, "nf4": 0.5625}  # bytes of a number; nf4 has a scale of four bytes for every 64
UNTOUCHED: Final = {"fp8": 0.273, "int8": 0.0, "nf4": 0.0}  # the share of modulation layers, which fp8 leaves as they are
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


def expected_bytes(weights: Mapping[str, Weights], order: ModelOrder, device: str, item: int) -> int:
    """An estimate, before loading, of what a model takes on this kind of device where a plain number takes `item` bytes."""
    each = dict.fromkeys(weights, float(item))
    for name in QUANTISED[order.quant]:
        each[name] = UNTOUCHED[order.quant] * item + (1 - UNTOUCHED[order.quant]) * STORED[order.quant]
    working = WORKING_BYTES if device == "cuda" else 0
    if order.offload == "none":
        return working + round(sum(part.numbers * each[name] for name, part in weights.items()))
    if order.offload == "model":
        return working + round(max(part.numbers * each[name] for name, part in weights.items()))
    # One layer at a time; with `group` the next one comes while this one is used.
    return working + round(max(part.largest * each[name] for name, part in weights.items()) * (2 if order.offload == "group" else 1))
