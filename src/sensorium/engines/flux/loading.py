"""A checked FLUX.1 folder into a diffusers pipeline on its device: number format, quantisation, offloading, compiled blocks.

Components are loaded one after the other straight by their classes, so that only one of them is ever in the machine's memory on its
way, and nothing is imported that a checkpoint names. It does not draw.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, Final

import diffusers
import torch
import transformers

from sensorium.engines.flux.fitting import QUANTISED, QUANTISERS
from sensorium.engines.flux.folder import Checkpoint
from sensorium.engines.orders import ModelOrder
from sensorium.errors import SettingsError, Unavailable

OUT_OF_MEMORY_S: Final = 30.0
FULL: Final = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
Progress = Callable[[int, int], None]


def load(checkpoint: Checkpoint, order: ModelOrder, device: Any, dtype: Any, progress: Progress | None = None) -> Any:
    """The pipeline, ready on `device`. `progress` gets the bytes read so far and those in all.

    Raises SettingsError for weights that do not fit their config or cannot be read, Unavailable when the device is too small.
    """
    _quiet()
    try:
        with on(device):
            parts = _parts(checkpoint, order, device, dtype, progress)
            pipeline = diffusers.FluxPipeline(**parts)
            pipeline.set_progress_bar_config(disable=True)
            _place(pipeline, order, device)
        return pipeline
    except RuntimeError as error:
        if not is_full(error):
            raise
    # Outside of the handler: an error's traceback holds on to every tensor of its frames.
    free(device)
    raise out_of_memory(f"{checkpoint.path.name} does not fit into the memory of {device}")


def on(device: Any) -> AbstractContextManager[Any]:
    """Inside it this thread's GPU is `device`: some libraries ask for the current one, whatever tensors they get."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def out_of_memory(what: str) -> Unavailable:
    """The error for a full device."""
    return Unavailable(
        what,
        code="out_of_memory",
        hint="set quant or offload for this model, or draw a smaller picture",
        retry_after=OUT_OF_MEMORY_S,
    )


def free(device: Any) -> None:
    """Give back what nobody refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def compile_blocks(pipeline: Any, **options: Any) -> None:
    """Have the transformer's repeated blocks compiled when they are first run: one compilation for all blocks of a kind."""
    pipeline.transformer.compile_repeated_blocks(fullgraph=True, **options)


def eager(pipeline: Any) -> bool:
    """Undo `compile_blocks`; whether there was anything to undo."""
    compiled = [module for module in pipeline.transformer.modules() if module._compiled_call_impl is not None]
    for module in compiled:
        module._compiled_call_impl = None
    return bool(compiled)


def weight_bytes(pipeline: Any, offload: str = "none") -> int:
    """What the weights take on the device while a picture is drawn: all of them, or the largest part that is there at once."""
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    held = [_bytes(part) for part in parts]
    if offload == "none":
        return sum(held)
    if offload == "model":
        return max(held)
    # Leaves come one by one, with `group` the next one while this one is used.
    leaves = [_bytes(module) for part in parts for module in part.modules() if not list(module.children())]
    return max(leaves) * (2 if offload == "group" else 1)


def is_full(error: RuntimeError) -> bool:
    """Whether the device has no memory left, in whichever library's words."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in FULL)


def _bytes(module: Any) -> int:
    return sum(_tensor_bytes(tensor) for tensor in (*module.parameters(), *module.buffers()))


def _tensor_bytes(tensor: Any) -> int:
    """What is stored: a quantised tensor calls itself as large as it was before."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return int(tensor.nbytes)
    names, _ = tensor.__tensor_flatten__()
    return sum(_tensor_bytes(getattr(tensor, name)) for name in names)


def _parts(checkpoint: Checkpoint, order: ModelOrder, device: Any, dtype: Any, progress: Progress | None) -> dict[str, Any]:
    path, done, of = checkpoint.path, 0, sum(one.size for one in checkpoint.weights.values())
    parts: dict[str, Any] = {
        "scheduler": _read(diffusers.FlowMatchEulerDiscreteScheduler, checkpoint, "scheduler"),
        "tokenizer": _read(transformers.CLIPTokenizer, checkpoint, "tokenizer"),
        "tokenizer_2": _read(transformers.T5TokenizerFast, checkpoint, "tokenizer_2"),
    }
    classes = {
        "text_encoder": transformers.CLIPTextModel,
        "text_encoder_2": transformers.T5EncoderModel,
        "transformer": diffusers.FluxTransformer2DModel,
        "vae": diffusers.AutoencoderKL,
    }
    for name, kind in classes.items():
        quantisation = _quantisation(order, name, dtype)
        model, told = _read(kind, checkpoint, name, dtype=dtype, use_safetensors=True, output_loading_info=True, **quantisation)
        _refuse_gaps(f"{path.name}/{name}", told)
        if name == "transformer" and order.quant == "fp8":
            model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
        parts[name] = model.eval() if order.offload != "none" else model.eval().to(device)
        done += checkpoint.weights[name].size
        if progress is not None:
            progress(done, of)
    return parts


def _read(kind: Any, checkpoint: Checkpoint, name: str, **options: Any) -> Any:
    """One component. Raises SettingsError with the library's own reason."""
    try:
        return kind.from_pretrained(checkpoint.path / name, local_files_only=True, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and is_full(error):
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SettingsError([f"{checkpoint.path.name}/{name} cannot be loaded: {reason[0][:300]}"]) from error


def _refuse_gaps(where: str, told: Any) -> None:
    """Weights that are missing would be random ones, of which the libraries merely warn. Raises SettingsError."""
    missing, shaped = list(told["missing_keys"]), list(told["mismatched_keys"])
    if missing or shaped:
        names = [*missing, *(str(one[0]) if isinstance(one, tuple) else str(one) for one in shaped)]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise SettingsError([f"{where}: weights are missing or of another shape than the config says: {', '.join(names[:8])}{more}"])


def _quantisation(order: ModelOrder, name: str, dtype: Any) -> dict[str, Any]:
    """What the library is told of one component, by transformers' class for its own model; fp8 needs nothing while loading."""
    if order.quant not in QUANTISERS or name not in QUANTISED[order.quant]:
        return {}
    library = diffusers if name == "transformer" else transformers
    if order.quant == "nf4":
        return {
            "quantization_config": library.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
        }
    torchao: Any = import_module(f"{QUANTISERS[order.quant]}.quantization")
    return {"quantization_config": library.TorchAoConfig(torchao.Int8WeightOnlyConfig())}


def _place(pipeline: Any, order: ModelOrder, device: Any) -> None:
    if order.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif order.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    elif order.offload == "group":
        pipeline.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=True)
    if order.compile and device.type == "cuda":
        compile_blocks(pipeline)


def _quiet() -> None:
    """No bars in the log; the engine tells its own progress."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
