"""Model folders in the official file formats: int8 rows (what ships) or plain float32 (`--float`, for other libraries).

`python -m training.export CHECKPOINT FOLDER` writes scenes-vlm; once `training.evaluate --save FILE` has measured it, the same with
`--measured FILE` puts the figures into its card. The int8 writer serves every model; it knows no architecture.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from training import tokenizer
from training.model_card import read_measured, vlm_card, vlm_measured

MIN_INT8: Final = 4096
FORMAT: Final = {"sensorium": "int8-rows 1"}


def int8_rows(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every matrix or kernel above 4,096 elements as I8 plus `<name>_scale` [rows], scale = max |row| / 127; the rest as float32."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().float().contiguous()
        if value.ndim < 2 or value.numel() <= MIN_INT8:
            out[name] = value.clone()
            continue
        rows = value.flatten(1)
        scale = rows.abs().amax(1).clamp_min(1e-12) / 127
        out[name] = (rows / scale[:, None]).round().clamp(-127, 127).to(torch.int8).view(value.shape)
        out[name + "_scale"] = scale
    return out


def write_tensors(tensors: Mapping[str, Tensor], path: Path, *, plain: bool) -> int:
    """Write one safetensors file, int8 rows or (plain) float32; its size in bytes."""
    if plain:
        save_file(
            {name: value.detach().float().contiguous().clone() for name, value in tensors.items()}, str(path), metadata={"format": "pt"}
        )
    else:
        save_file(int8_rows(tensors), str(path), metadata=FORMAT)
    path.chmod(0o644)
    return path.stat().st_size


def write_json(value: Mapping[str, Any], path: Path) -> None:
    """Write one JSON file, indented."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def averaged(checkpoint: Path, earlier: Path | None = None, share: float = 0.0) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """(the averaged weights by official name, the config, what training took in all) of a scenes-vlm training checkpoint.

    `share` of the weights is that of an `earlier` checkpoint, with which this run began: between the two lies a better model than either
    (weight averaging, Wortsman and others, 2022, arXiv 2203.05482).
    """
    state = torch.load(checkpoint, weights_only=True)
    flat = state["optimiser"]["ema"]
    if earlier is not None:
        flat = torch.lerp(flat, torch.load(earlier, weights_only=True)["optimiser"]["ema"], share)
    prefix = "model."
    weights = {
        name.removeprefix(prefix): flat[start:end].view(shape)
        for name, (start, end, shape) in state["spans"].items()
        if name.startswith(prefix)
    }
    before = state.get("before", {"steps": 0, "pictures": 0, "minutes": 0})
    run = {"steps": state["optimiser"]["count"], "pictures": state["pictures"], "minutes": round(state["elapsed"] / 60)}
    return weights, state["config"], {name: value + before[name] for name, value in run.items()}


def export_vlm(
    checkpoint: Path, folder: Path, *, plain: bool = False, measured: Path | None = None, earlier: Path | None = None, share: float = 0.0
) -> int:
    """Write the scenes-vlm folder; the size of its weights in bytes. Raises ValueError when `measured` is about other weights; the card
    then carries no figures. `earlier` and `share` are as in `averaged`."""
    weights, config, facts = averaged(checkpoint, earlier, share)
    folder.mkdir(parents=True, exist_ok=True)
    size = write_tensors(weights, folder / "model.safetensors", plain=plain)
    write_json(config, folder / "config.json")
    tokenizer.write(folder)
    side = {
        "format": 1, "kind": "diffusion_vlm", "scope": "synthetic-scenes", "max_image_size": config["vision_config"]["image_size"],
        "fit": "square",
        "weights": "float32" if plain else "int8-rows", "trained": facts,
    }  # fmt: skip
    write_json(side, folder / "sensorium.json")
    parameters, card = sum(value.numel() for value in weights.values()), folder / "README.md"
    card.write_text(vlm_card(config, facts, parameters, size, vlm_measured(None)), encoding="utf-8")
    if measured is not None:
        card.write_text(vlm_card(config, facts, parameters, size, vlm_measured(read_measured(measured, folder))), encoding="utf-8")
    return size


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="vlm.pt of a training run")
    parser.add_argument("folder", type=Path, help="model folder to write")
    parser.add_argument("--float", action="store_true", dest="plain", help="plain float32 instead of int8 rows")
    parser.add_argument("--measured", type=Path, metavar="FILE", help="what `training.evaluate vlm --save FILE` wrote about these weights")
    parser.add_argument("--earlier", type=Path, metavar="CHECKPOINT", help="vlm.pt of the run before, to be averaged with")
    parser.add_argument("--share", type=float, default=0.3, help="its share of the weights")
    options = parser.parse_args()
    more = {"earlier": options.earlier, "share": options.share}
    try:
        size = export_vlm(options.checkpoint, options.folder, plain=options.plain, measured=options.measured, **more)
    except ValueError as error:
        parser.error(str(error))
    print(f"{options.folder}: {size / 1e6:.2f} MB of weights")


if __name__ == "__main__":
    main()
