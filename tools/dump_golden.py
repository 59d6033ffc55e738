"""Golden dumps of a diffusion VLM, made with the code that comes with its checkpoint, for `sensorium verify-checkpoint --golden`.

    python dump_golden.py MODEL_FOLDER OUT --case photo.png "What is this?" --case - "Say hello." [--dtype float32] [--device cuda]

Run it in an environment of its own: it loads the checkpoint with transformers and `trust_remote_code`, so the checkpoint's Python files
run, with all rights of whoever starts it. It imports nothing of Sensorium; needed are torch, transformers, numpy, pillow, and what the
model card asks for. A case is a picture, or - for none, and a question. The folder OUT must not exist. docs/checkpoints.md has the
format.

Arrays, prompts and blocks do not come from guesses about that code's own functions: hooks record them on the modules that the
checkpoint's tensor names imply. Only how the model is loaded, asked and made to generate is guessed, in `Interface`; whoever finds it
otherwise writes a file with a class `Interface` that derives from it, and names that file with --interface.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import platform
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

MODULES = {
    "embeddings": "encoder.embed_tokens",
    "head": "diffusion_head",
    "tower": "encoder.vision_tower",
    "projector": "encoder.multi_modal_projector",
}
DIMENSIONS = {"pixels": 3, "tower": 2, "features": 2, "prefill_logits": 1, "block_logits": 2}


class Interface:
    """Every guess about the checkpoint's own code.

    Written after the text models' cards, and not tried with the VLM, whose card prepares pictures with a module of its repository.
    """

    STEPS = ("steps", "num_inference_steps", "num_steps", "diffusion_steps")
    """Names that the step budget may have in `generate`; where it has none, every block takes as many steps as it needs."""

    def load(self, folder: str, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
        """The model and its processor."""
        # Start-up cost: transformers takes seconds to import, and a test that brings its own model needs none.
        from transformers import AutoModel, AutoProcessor

        model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=dtype).to(device).eval()
        return model, AutoProcessor.from_pretrained(folder, trust_remote_code=True)

    def inputs(self, processor: Any, picture: Path | None, question: str) -> dict[str, Any]:
        """`input_ids` [1, n] with the picture expanded, and whatever else the model wants to have with a picture."""
        parts = [{"type": "image", "image": str(picture)}] if picture else []
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]
        return dict(
            processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
        )

    def generate(self, model: Any, inputs: Mapping[str, Any], settings: Settings) -> tuple[torch.Tensor, int | None]:
        """Ids of the answer [n], and the number of function evaluations; None when the code does not tell it."""
        more = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
        budget = dict.fromkeys(self.steps_names(model), settings.steps)
        made = model.generate(
            inputs["input_ids"],
            max_new_tokens=settings.max_tokens,
            block_length=settings.block_length,
            threshold=settings.threshold,
            eos_token_id=model.config.eos_token_id,
            **budget,
            **more,
        )
        ids, nfe = made if isinstance(made, tuple) else (made, None)
        prompt = inputs["input_ids"][0].tolist()
        whole = ids[0].tolist()
        answer = whole[len(prompt) :] if whole[: len(prompt)] == prompt else whole
        return torch.tensor(answer), None if nfe is None else int(nfe)

    def steps_names(self, model: Any) -> list[str]:
        known = inspect.signature(model.generate).parameters
        return [name for name in self.STEPS if name in known][:1]


@dataclass(frozen=True)
class Settings:
    """Of all cases: `steps` are over all blocks, `threshold` None takes an even share of the masks in each step."""

    max_tokens: int
    steps: int
    block_length: int
    threshold: float | None


@dataclass
class Recorder:
    """What passes through the modules during one answer: ids of every forward, logits of the first two."""

    block_length: int
    ids: list[list[int]] = field(default_factory=list)
    forwards: int = 0
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)

    @contextmanager
    def on(self, model: Any) -> Iterator[None]:
        hooks: list[tuple[str, Callable[..., None]]] = [
            ("embeddings", self.embedded), ("head", self.headed), ("tower", self.seen), ("projector", self.seen)
        ]  # fmt: skip
        with ExitStack() as stack:
            for name, hook in hooks:
                module = model.get_submodule(MODULES[name])
                handle = module.register_forward_hook(lambda *call, name=name, hook=hook: hook(name, *call), with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def embedded(self, name: str, module: Any, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        ids = arguments[0] if arguments else named["input"]
        self.ids.append(ids.flatten().tolist())

    def headed(self, name: str, module: Any, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        logits = output.flatten(0, -2)
        if self.forwards == 0:
            self.arrays["prefill_logits"] = as_array(logits[-1])
        elif self.forwards == 1:
            self.arrays["block_logits"] = as_array(logits[-self.block_length :])
        self.forwards += 1

    def seen(self, name: str, module: Any, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        if name not in self.calls:
            self.calls[name] = (arguments, named)


def tensor_of(output: Any) -> torch.Tensor:
    """The tensor in what a module returned: itself, an attribute that libraries use, or the first of several."""
    if isinstance(output, torch.Tensor):
        return output
    found = getattr(output, "last_hidden_state", None)
    return tensor_of(output[0]) if found is None else found


def as_array(values: torch.Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()


def pictured(model: Any, recorder: Recorder) -> dict[str, np.ndarray]:
    """Pixels as the tower got them, and what copies of tower and projector in float32 make of them."""
    if "tower" not in recorder.calls:
        return {}
    tower, projector = (copy.deepcopy(model.get_submodule(MODULES[name])).float() for name in ("tower", "projector"))
    arguments, named = recorder.calls["tower"]
    pixels = first_floats(arguments, named)
    seen = tensor_of(tower(*floats(arguments), **floats(named)))
    arguments, named = recorder.calls["projector"]
    taken = first_floats(arguments, named)
    exact = seen.reshape(taken.shape)
    arguments = tuple(exact if one is taken else one for one in arguments)
    features = tensor_of(projector(*arguments, **{name: exact if one is taken else one for name, one in named.items()}))
    return {
        "pixels": as_array(pixels).reshape(pixels.shape[-3:]),
        "tower": as_array(seen).reshape(-1, seen.shape[-1]),
        "features": as_array(features).reshape(-1, features.shape[-1]),
    }


def first_floats(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> torch.Tensor:
    """The first tensor of floats among a call's arguments."""
    return next(value for value in (*arguments, *named.values()) if isinstance(value, torch.Tensor) and value.is_floating_point())


def floats(values: Any) -> Any:
    """Arguments with their tensors of floats in float32."""
    if isinstance(values, torch.Tensor):
        return values.float() if values.is_floating_point() else values
    if isinstance(values, Mapping):
        return {name: floats(value) for name, value in values.items()}
    return tuple(floats(value) for value in values) if isinstance(values, tuple) else values


@torch.no_grad()
def dump(interface: Interface, model: Any, processor: Any, picture: Path | None, question: str, settings: Settings) -> dict[str, Any]:
    """One case: what the index says of it, and its arrays under "arrays"."""
    recorder = Recorder(settings.block_length)
    device = next(model.parameters()).device
    inputs = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in interface.inputs(processor, picture, question).items()
    }
    with recorder.on(model):
        tokens, nfe = interface.generate(model, inputs, settings)
    arrays = recorder.arrays | (pictured(model, recorder) if picture else {})
    wrong = [f"{kind} has shape {values.shape}" for kind, values in arrays.items() if values.ndim != DIMENSIONS[kind]]
    if wrong or len(recorder.ids) < 2:
        raise SystemExit(
            f"the model is not computed as expected: {'; '.join(wrong) or 'fewer than two forwards'}; see Interface and MODULES"
        )
    return {
        "question": question,
        "max_tokens": settings.max_tokens,
        "steps": settings.steps,
        "block_length": settings.block_length,
        "threshold": settings.threshold,
        "prompt": recorder.ids[0],
        "block": recorder.ids[1][-settings.block_length :],
        "tokens": tokens.tolist(),
        "nfe": recorder.forwards - 1 if nfe is None else nfe,
        "tower_dtype": "float32",
        "arrays": arrays,
    }


def write(out: Path, cases: list[tuple[Path | None, dict[str, Any]]], dtype: str) -> None:
    """The folder that verify-checkpoint reads."""
    out.mkdir(parents=True)
    listed = []
    for number, (picture, case) in enumerate(cases):
        name = f"case-{number}"
        files = {kind: f"{name}.{kind}.npy" for kind in case["arrays"]}
        for kind, file in files.items():
            np.save(out / file, case["arrays"][kind].astype(np.float32))
        shown = f"{name}{picture.suffix}" if picture else ""
        if picture:
            shutil.copyfile(picture, out / shown)
        listed.append({"name": name, "picture": shown} | case | {"arrays": files})
    made_with = {"python": platform.python_version(), "torch": torch.__version__}
    if "transformers" in sys.modules:
        made_with["transformers"] = sys.modules["transformers"].__version__
    index = {"format": 1, "kind": "diffusion_vlm_golden", "dtype": dtype, "made_with": made_with, "cases": listed}
    (out / "index.json").write_text(json.dumps(index, indent=1), "utf-8")


def chosen(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Golden dumps of a diffusion VLM, made with the checkpoint's own code.")
    parser.add_argument("model", help="folder of the checkpoint, with its Python files")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--case", nargs=2, action="append", required=True, metavar=("PICTURE", "QUESTION"), help="repeatable; - for none")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--block-length", type=int, default=32)
    parser.add_argument("--steps", type=int, default=None, help="over all blocks; default: as many as there are tokens")
    parser.add_argument("--interface", type=Path, help="Python file with a class Interface, for code that is otherwise than guessed")
    parser.add_argument("--threshold", type=float, default=0.9, help="0 to 1; a negative one stands for none")
    found = parser.parse_args(arguments)
    if found.out.exists():
        parser.error(f"{found.out} exists")
    if found.max_tokens % found.block_length:
        parser.error(f"--max-tokens {found.max_tokens} is no multiple of --block-length {found.block_length}")
    return found


def interface_in(path: Path) -> Interface:
    """The class `Interface` of a file; it may import this script as `dump_golden`."""
    sys.modules.setdefault("dump_golden", sys.modules[__name__])
    found = runpy.run_path(str(path)).get("Interface")
    if not isinstance(found, type) or not issubclass(found, Interface):
        raise SystemExit(f"{path} has no class Interface that derives from dump_golden.Interface")
    made: Interface = found()
    return made


def main(arguments: list[str]) -> None:
    found = chosen(arguments)
    interface = interface_in(found.interface) if found.interface else Interface()
    settings = Settings(
        found.max_tokens, found.steps or found.max_tokens, found.block_length, None if found.threshold < 0 else found.threshold
    )
    model, processor = interface.load(found.model, found.device, getattr(torch, found.dtype))
    if found.steps and not interface.steps_names(model):
        raise SystemExit("this model's generate takes no step budget; leave out --steps")
    cases = []
    for place, question in found.case:
        picture = None if place == "-" else Path(place)
        cases.append((picture, dump(interface, model, processor, picture, question, settings)))
        print(f"{place} {question!r}: {len(cases[-1][1]['tokens'])} tokens, NFE {cases[-1][1]['nfe']}, {', '.join(cases[-1][1]['arrays'])}")
    write(found.out, cases, found.dtype)


if __name__ == "__main__":
    main(sys.argv[1:])
