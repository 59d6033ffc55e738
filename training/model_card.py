"""The model card of scenes-vlm, filled from the config and the facts of the run, and what any card says of measurements.

Figures come from a file that `training.evaluate --save` wrote about the very weights that the card describes; there is no other way in.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any, Final

from sensorium.engines.flow_image import world
from training.evaluate import digest, wilson

CARD: Final = """# scenes-vlm

A vision-language model of {parameters:.2f} million parameters ({size:.1f} MB) that answers questions about pictures of one small
synthetic world, in the file format and with the tensor names of the large block-diffusion checkpoints. It is a **stand-in**: it
lets the engine, the dialects and the tests run without a GPU and without a download, and it knows nothing else. `scope:
synthetic-scenes`.

- **World.** {world}; signs with one to five capitals or digits.
- **Questions.** Describe; one short sentence; how many; colour, shape, size, position and relation; surface; what the sign says;
  is there a ..., is the ... (colour), is the ... (relation). A question of mostly unknown words is answered with a description.
- **Picture.** {image} x {image} pixels after fitting, patches of {patch}, {tokens} image tokens. Other pictures than such scenes
  get an answer too, and it will be wrong.
- **Decoding.** One set of weights for autoregressive decoding, block diffusion (trained with blocks of 4 to 64) and linear self-
  speculation.
- **Training.** From nothing, on pictures drawn on the fly by `training/scenes.py`: {pictures:,} pictures in {steps:,} steps,
  {minutes} minutes on two CPU cores. No third-party data, fonts or pictures. About a tenth of all (colour, shape, surface)
  triples, a twentieth of the relations and a fifth of the sign texts were held out. `training/REPORT.md` has the measured
  accuracy; `python -m training.vlm_train` makes the weights again.
- **Format.** int8 per row (`<name>_scale`), undone at load; `python -m training.export --float` writes plain float32.
- **Measured.** {measured}
"""
UNMEASURED: Final = "Not yet: `python -m training.evaluate {which} --n {count} --held-out --save FILE` measures it."
MEASURED_VLM: Final = """`{command}`, {date}, exact answers, letter for letter: descriptions {exact}; unseen sign texts {unseen};
yes/no questions {yes} where yes is right, {no} where no is right. By type: {types}. On a grey picture the best type reaches {blind:.0f} %.
{tokens:.1f} tokens per forward at threshold {threshold}; autoregressive decoding equals self-speculation on {same} of {count} answers."""


def vlm_card(config: dict[str, Any], facts: dict[str, Any], parameters: int, size: int, measured: str) -> str:
    """README.md of the folder."""
    vision = config["vision_config"]
    side = vision["image_size"] // vision["patch_size"] // config["spatial_merge_size"]
    return CARD.format(
        parameters=parameters / 1e6, size=size / 1e6, world=world.describe_world().capitalize(), image=vision["image_size"],
        patch=vision["patch_size"], tokens=side * side, measured=measured, **facts,
    )  # fmt: skip


def read_measured(file: Path, folder: Path) -> dict[str, Any]:
    """What `training.evaluate --save` wrote. Raises ValueError when it is about other weights than those in `folder`."""
    saved: dict[str, Any] = json.loads(file.read_text("utf-8"))
    if saved["weights"] != digest(folder):
        raise ValueError(
            f"{file.name} was measured on other weights than those in {folder.name}: run `{saved['command']} --save {file.name}`"
        )
    return saved


def percent(value: list[int]) -> str:
    """[hits, count] as `97.5 % (95 % interval 96.1 to 98.4)`."""
    low, high = wilson(*value)
    return f"{100 * value[0] / max(1, value[1]):.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f}, n = {value[1]})"


def listed(group: dict[str, list[int]]) -> str:
    """`count 100, colour 97`: percentages by name."""
    return ", ".join(f"{name.replace('_', ' ')} {100 * hits / max(1, count):.1f}" for name, (hits, count) in group.items())


def vlm_measured(saved: dict[str, Any] | None) -> str:
    """The card's line of figures, or how to get them."""
    if saved is None:
        return UNMEASURED.format(which="vlm", count=2000)
    counts = saved["counts"]
    same, count = counts["ar_equals_self_speculation"]
    text = MEASURED_VLM.format(
        command=saved["command"], date=saved["date"], exact=percent(counts["exact"]), unseen=percent(counts["unseen_signs"]),
        yes=percent(counts["yes_no"]["yes"]), no=percent(counts["yes_no"]["no"]), types=listed(counts["by_question"]),
        blind=100 * max(saved["blind"].values()), tokens=saved["tokens_per_forward"], threshold=saved["threshold"],
        same=same, count=count,
    )  # fmt: skip
    return paragraph(text)


def paragraph(text: str) -> str:
    """Text as the lines of a list item in a card."""
    return textwrap.fill(text, 136, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
