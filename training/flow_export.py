"""Writes the scenes-flow folder from a training checkpoint: int8 rows (what ships) or plain float32 for diffusers (`--float`).

    python -m training.flow_export runs/flow/checkpoint.pt src/sensorium/models/scenes-flow

Once `training.evaluate --save FILE` has measured the folder, the same with `--measured FILE` puts the figures into its card.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, Final

from sensorium.engines.flow_image import world
from training import export, model_card
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
  `red cube on a white table`, and a twentieth of the relations were held out. `training/REPORT.md` has the
  measured accuracy; `python -m training.flow_train` makes the weights again.
- **Format.** int8 per row (`<name>_scale`), undone at load; `python -m training.flow_export --float` writes plain float32, which diffusers
  loads.
- **Measured.** {measured}
"""
MEASURED: Final = """`{command}`, {date}, {steps} steps: of the pictures {right} are right by the judge and by measurement (judge alone
{judged:.1f} %, measurement alone {measured:.1f} %; on real renders they are right on {judge_on_real:.1f} and {measure_on_real:.1f} %).
By kind: {kinds}. By aspect: {aspects}. "a red cube on a white table" is right for {seeds} seeds."""
EMBEDDED: Final = "An input of the network (distilled from classifier-free guidance): one forward per step at any strength from 1 to 5."
MIXED: Final = "Not an input of the network; strengths other than 1 blend two predictions, with and without the caption, at twice the cost."
DISTILLED: Final = ", the last {minutes} of them on guidance distillation"


def took(saved: dict[str, Any]) -> dict[str, int]:
    """What training took in all, with what came before this run."""
    before = saved.get("before", {"elapsed": 0.0, "step": 0, "pictures": 0})
    minutes = round(saved["elapsed"] / 60) + round(before["elapsed"] / 60)
    return {"pictures": saved["pictures"] + before["pictures"], "steps": saved["step"] + before["step"], "minutes": minutes}


def side_config(config: FlowConfig, saved: dict[str, Any], *, steps: int, guidance: float | None, plain: bool) -> dict[str, Any]:
    """`sensorium.json`: what the official config cannot say."""
    strength = guidance or (2.0 if config.guidance_embeds else 1.0)
    text = {
        "weights": "text_encoder.safetensors", "slots": config.slots, "width": config.joint_attention_dim, "layers": config.text_layers,
        "heads": config.text_heads, "ffn": config.text_ffn, "act": "gelu_tanh", "norm": "layer norm without gain, eps 1e-6",
        "positions": "learned", "mask": "none: padding is a learned token", "pooled": "mean of all slots",
        "pad_token_id": words().index(PAD),
    }  # fmt: skip
    return {
        "format": 1, "kind": "flow_image", "scope": "synthetic-scenes",
        "image": {"size": config.image_size, "patch": config.patch, "range": [-1, 1]},
        "prediction": "x0", "shift": saved["shift"], "steps": {"default": steps, "max": MAX_STEPS},
        "guidance": {"kind": "embedded" if config.guidance_embeds else "mixed", "default": strength, "range": [1.0, 9.0]},
        "text_encoder": text, "weights": "float32" if plain else "int8-rows", "trained": took(saved),
    }  # fmt: skip


def card(config: FlowConfig, saved: dict[str, Any], side: dict[str, Any], *, parameters: int, size: int, measured: str) -> str:
    """README.md of the folder."""
    total = side["trained"]
    return CARD.format(
        parameters=parameters / 1e6, size=size / 1e6, world=world.describe_world().capitalize(), side=config.image_size,
        patch=config.patch, example="a small red cube on a white table, in the middle", tokens=config.grid**2,
        shift=side["shift"], steps=side["steps"]["default"],
        most=MAX_STEPS, guidance=EMBEDDED if config.guidance_embeds else MIXED, pictures=total["pictures"],
        updates=total["steps"], minutes=total["minutes"],
        stages=DISTILLED.format(minutes=round(saved["elapsed"] / 60)) if config.guidance_embeds else "", measured=measured,
    )  # fmt: skip


def measured_lines(saved: dict[str, Any] | None) -> str:
    """The card's figures, or how to get them."""
    if saved is None:
        return model_card.UNMEASURED.format(which="flow", count=500)
    counts, alone = saved["counts"], ("judged", "measured", "judge_on_real", "measure_on_real")
    text = MEASURED.format(
        command=saved["command"], date=saved["date"], steps=saved["steps"], right=model_card.percent(counts["right"]),
        kinds=model_card.listed(counts["by_kind"]), aspects=model_card.listed(counts["by_aspect"]),
        seeds="{} of {}".format(*counts["seed_prompt_right"]), **{name: 100 * saved[name] for name in alone},
    )  # fmt: skip
    return model_card.paragraph(text)


def export_flow(
    checkpoint: Path, folder: Path, *, plain: bool = False, steps: int = 4, guidance: float | None = None, measured: Path | None = None
) -> int:
    """Write the folder from the averaged weights; the size of its weights in bytes. Raises ValueError when `measured` is about other
    weights; the card then carries no figures."""
    saved = read_checkpoint(checkpoint)
    config, tensors = configured(saved), averaged(saved)
    folder.mkdir(parents=True, exist_ok=True)
    files = {"transformer.": "diffusion_pytorch_model.safetensors", "text_encoder.": "text_encoder.safetensors"}
    size = 0
    for prefix, file in files.items():
        part = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        size += export.write_tensors(part, folder / file, plain=plain)
    side = side_config(config, saved, steps=steps, guidance=guidance, plain=plain)
    export.write_json(config.official(), folder / "config.json")
    export.write_json(side, folder / "sensorium.json")
    tokenizer().save(str(folder / "tokenizer.json"))
    parameters = sum(value.numel() for value in tensors.values())
    written = partial(card, config, saved, side, parameters=parameters, size=size)
    (folder / "README.md").write_text(written(measured=measured_lines(None)), encoding="utf-8")
    if measured is not None:
        figures = measured_lines(model_card.read_measured(measured, folder))
        (folder / "README.md").write_text(written(measured=figures), encoding="utf-8")
    return size


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path, help="model folder to write")
    parser.add_argument("--float", action="store_true", dest="plain", help="plain float32 instead of int8 rows")
    parser.add_argument("--steps", type=int, default=4, help="default number of sampling steps")
    parser.add_argument("--guidance", type=float, help="default strength; 2 for a distilled model, else 1")
    parser.add_argument("--measured", type=Path, metavar="FILE", help="what `training.evaluate flow --save FILE` wrote about these weights")
    options = vars(parser.parse_args())
    try:
        size = export_flow(**options)
    except ValueError as error:
        parser.error(str(error))
    print(f"{options['folder']}: {size / 1e6:.2f} MB of weights")


if __name__ == "__main__":
    main()
