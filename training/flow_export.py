"""Writes the scenes-flow folder from a training checkpoint: int8 rows (what ships) or plain float32 for diffusers (`--float`).

python -m training.flow_export runs/flow/checkpoint.pt src/sensorium/models/scenes-flow
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from sensorium.engines.flow_image import world
from training import export
from training.flow_data import PAD, tokenizer, words
from training.flow_model import FlowConfig
from training.flow_run import averaged, configured, read_checkpoint

MAX_STEPS: Final = 100  # what flux.1-dev, for which it stands in, allows
CARD: Final = """# scenes-flow

A text-to-image model of {parameters:.2f} million parameters ({size:.1f} MB) that draws pictures of one small synthetic world, in the file
format, with the tensor names and the arithmetic of diffusers' FluxTransformer2DModel. It is a **stand-in**: it lets the engine, the
dialects and the tests run without a GPU and without a download, and it knows nothing else. `scope: synthetic-scenes`.

- **World.** {world}. No signs, no lettering.
- **Prompts.** A prompt is read with the world's grammar; what it leaves open is filled from the seed; the model sees only the full caption,
  such as `{example}`. A prompt without a known shape is refused.
- **Pictures.** {side} x {side} pixels, {tokens} tokens of {patch} x {patch} pixels each, no autoencoder; larger sizes are enlargements.
- **Sampling.** Rectified flow with clean-picture prediction, Euler steps, shift {shift}; {steps} steps by default, up to {most}.
- **Guidance.** {guidance}
- **Training.** From nothing, on pictures drawn on the fly by `training/scenes.py`: {pictures:,} pictures in {updates:,} steps,
  {minutes} minutes on two CPU cores{stages}. No third-party data. About a tenth of all (colour, shape, surface) triples, always with
  `red cube on a white table`, and a twentieth of the relations were held out. `python -m training.evaluate flow` measures it;
  `python -m training.flow_train` makes the weights again.
- **Format.** int8 per row (`<name>_scale`), undone at load; `python -m training.flow_export --float` writes plain float32, which diffusers
  loads.
"""
EMBEDDED: Final = "An input of the network (distilled from classifier-free guidance): one forward per step at any strength from 1 to 5."
MIXED: Final = "Not an input of the network; strengths other than 1 blend two predictions, with and without the caption, at twice the cost."
DISTILLED: Final = ", the last {minutes} of them on guidance distillation"


def side_config(config: FlowConfig, *, shift: float, steps: int, guidance: float, plain: bool) -> dict[str, Any]:
    """`sensorium.json`: what the official config cannot say."""
    text = {
        "weights": "text_encoder.safetensors", "slots": config.slots, "width": config.joint_attention_dim, "layers": config.text_layers,
        "heads": config.text_heads, "ffn": config.text_ffn, "act": "gelu_tanh", "norm": "layer norm without gain, eps 1e-6",
        "positions": "learned", "mask": "none: padding is a learned token", "pooled": "mean of all slots",
        "pad_token_id": words().index(PAD),
    }  # fmt: skip
    return {
        "format": 1, "kind": "flow_image", "scope": "synthetic-scenes",
        "image": {"size": config.image_size, "patch": config.patch, "range": [-1, 1]},
        "prediction": "x0", "shift": shift, "steps": {"default": steps, "max": MAX_STEPS},
        "guidance": {"kind": "embedded" if config.guidance_embeds else "mixed", "default": guidance, "range": [1.0, 9.0]},
        "text_encoder": text, "weights": "float32" if plain else "int8-rows",
    }  # fmt: skip


def card(config: FlowConfig, saved: dict[str, Any], side: dict[str, Any], *, parameters: int, size: int) -> str:
    """README.md of the folder."""
    minutes, before = round(saved["elapsed"] / 60), saved.get("before", {"elapsed": 0, "step": 0, "pictures": 0})
    return CARD.format(
        parameters=parameters / 1e6, size=size / 1e6, world=world.describe_world().capitalize(), side=config.image_size,
        patch=config.patch, example="a small red cube on a white table, in the middle", tokens=config.grid**2,
        shift=side["shift"], steps=side["steps"]["default"],
        most=MAX_STEPS, guidance=EMBEDDED if config.guidance_embeds else MIXED, pictures=saved["pictures"] + before["pictures"],
        updates=saved["step"] + before["step"], minutes=minutes + round(before["elapsed"] / 60),
        stages=DISTILLED.format(minutes=minutes) if config.guidance_embeds else "",
    )  # fmt: skip


def export_flow(checkpoint: Path, folder: Path, *, plain: bool = False, steps: int = 4, guidance: float | None = None) -> int:
    """Write the folder from the averaged weights; the size of its weights in bytes."""
    saved = read_checkpoint(checkpoint)
    config, tensors = configured(saved), averaged(saved)
    folder.mkdir(parents=True, exist_ok=True)
    files = {"transformer.": "diffusion_pytorch_model.safetensors", "text_encoder.": "text_encoder.safetensors"}
    size = 0
    for prefix, file in files.items():
        part = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        size += export.write_tensors(part, folder / file, plain=plain)
    strength = guidance or (2.0 if config.guidance_embeds else 1.0)
    side = side_config(config, shift=saved["shift"], steps=steps, guidance=strength, plain=plain)
    export.write_json(config.official(), folder / "config.json")
    export.write_json(side, folder / "sensorium.json")
    tokenizer().save(str(folder / "tokenizer.json"))
    parameters = sum(value.numel() for value in tensors.values())
    (folder / "README.md").write_text(card(config, saved, side, parameters=parameters, size=size), encoding="utf-8")
    return size


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path, help="model folder to write")
    parser.add_argument("--float", action="store_true", dest="plain", help="plain float32 instead of int8 rows")
    parser.add_argument("--steps", type=int, default=4, help="default number of sampling steps")
    parser.add_argument("--guidance", type=float, help="default strength; 2 for a distilled model, else 1")
    options = parser.parse_args()
    size = export_flow(options.checkpoint, options.folder, plain=options.plain, steps=options.steps, guidance=options.guidance)
    print(f"{options.folder}: {size / 1e6:.2f} MB of weights")


if __name__ == "__main__":
    main()
