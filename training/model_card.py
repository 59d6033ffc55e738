"""The model card of scenes-vlm, filled from the config and the facts of the run."""

from __future__ import annotations

from typing import Any

from sensorium.engines.flow_image import world

CARD = """# scenes-vlm

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
"""


def vlm_card(config: dict[str, Any], facts: dict[str, Any], parameters: int, size: int) -> str:
    """README.md of the folder."""
    vision = config["vision_config"]
    side = vision["image_size"] // vision["patch_size"] // config["spatial_merge_size"]
    return CARD.format(
        parameters=parameters / 1e6, size=size / 1e6, world=world.describe_world().capitalize(), image=vision["image_size"],
        patch=vision["patch_size"], tokens=side * side, **facts,
    )  # fmt: skip
