"""A FLUX.1 checkpoint's folder before anything of it is loaded: every component there, of the right class, as safetensors.

The classes are held against a list because diffusers imports whatever module `model_index.json` names. It knows no torch.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sensorium.engines.flux.rules import Rules, family_of, of_family
from sensorium.errors import SettingsError

MODELS: Final[dict[str, tuple[str, tuple[str, ...], str]]] = {
    "transformer": ("diffusers", ("FluxTransformer2DModel",), "diffusion_pytorch_model"),
    "vae": ("diffusers", ("AutoencoderKL",), "diffusion_pytorch_model"),
    "text_encoder": ("transformers", ("CLIPTextModel",), "model"),
    "text_encoder_2": ("transformers", ("T5EncoderModel",), "model"),
}
TOKENIZERS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "tokenizer": (("CLIPTokenizer", "CLIPTokenizerFast"), ("tokenizer.json", "vocab.json")),
    "tokenizer_2": (("T5TokenizerFast", "T5Tokenizer"), ("tokenizer.json", "spiece.model")),
}
JOINTS: Final = (
    ("joint_attention_dim", ("text_encoder_2", "d_model"), 1),
    ("pooled_projection_dim", ("text_encoder", "hidden_size"), 1),
    ("in_channels", ("vae", "latent_channels"), 4),  # two by two latents to a token
)
HEADER_MOST: Final = 100 * 1024 * 1024  # bytes, as safetensors itself has it
SCHEDULER: Final = "FlowMatchEulerDiscreteScheduler"
ABSENT: Final = ("image_encoder", "feature_extractor")
INDEX_CLASS: Final = "FluxPipeline"


@dataclass(frozen=True, slots=True)
class Weights:
    """A component's weights as their headers tell: bytes on disk, how many numbers, and how many of them in the largest tensor."""

    size: int = 0
    numbers: int = 0
    largest: int = 0

    def __add__(self, other: Weights) -> Weights:
        return Weights(self.size + other.size, self.numbers + other.numbers, max(self.largest, other.largest))


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a folder holds; `weights` by component."""

    path: Path
    rules: Rules
    weights: Mapping[str, Weights]


def read(path: Path) -> Checkpoint:
    """Look at everything. Raises SettingsError that lists all that is missing or of another kind."""
    found = _Look(path)
    index = found.json("model_index.json")
    if index is not None:
        found.index(index)
    configs = {name: found.json(f"{name}/config.json") for name in MODELS}
    schedule = found.json("scheduler/scheduler_config.json")
    weights = {name: found.weights(name, stem) for name, (_, _, stem) in MODELS.items()}
    for name, (_, files) in TOKENIZERS.items():
        found.any_of(name, files)
    found.widths(configs)
    rules = None if schedule is None else found.rules(configs["transformer"], configs["vae"], schedule)
    if found.problems or rules is None:
        raise SettingsError(found.problems)
    return Checkpoint(path, rules, weights)


class _Look:
    """Reads parts of a folder and gathers what is wrong."""

    def __init__(self, path: Path) -> None:
        self._path, self.problems = path, list[str]()

    def blame(self, what: str) -> None:
        self.problems.append(f"{self._path.name}/{what}")

    def json(self, name: str) -> dict[str, Any] | None:
        try:
            found = json.loads((self._path / name).read_text("utf-8"))
        except FileNotFoundError:
            self.blame(f"{name} is missing")
            return None
        except (OSError, ValueError, RecursionError):
            self.blame(f"{name} cannot be read")
            return None
        if not isinstance(found, dict):
            self.blame(f"{name} is no JSON object")
            return None
        return found

    def index(self, index: Mapping[str, Any]) -> None:
        """Every component is of a class that is known here, and there is no other."""
        named = index.get("_class_name")
        if named != INDEX_CLASS:
            self.blame(f"model_index.json: _class_name must be {INDEX_CLASS}, not {named!r}")
        allowed = {name: (library, classes) for name, (library, classes, _) in MODELS.items()}
        allowed |= {name: ("transformers", classes) for name, (classes, _) in TOKENIZERS.items()}
        allowed |= {"scheduler": ("diffusers", (SCHEDULER,))}
        for name, (library, classes) in allowed.items():
            if index.get(name) not in [[library, one] for one in classes]:
                self.blame(f"model_index.json: {name} must be {library} {' or '.join(classes)}, not {index.get(name)!r}")
        for name, given in index.items():
            if name not in allowed and not name.startswith("_") and not (name in ABSENT and given in (None, [None, None])):
                self.blame(f"model_index.json: {name} is not part of text to picture")

    def widths(self, configs: Mapping[str, Mapping[str, Any] | None]) -> None:
        """The transformer takes what the encoders and the autoencoder give."""
        for wide, (name, gives), times in JOINTS:
            transformer, part = configs["transformer"], configs[name]
            if transformer is None or part is None:
                continue
            given = part.get(gives)
            if not isinstance(given, int) or transformer.get(wide) != given * times:
                self.blame(f"transformer: {wide} is {transformer.get(wide)!r}, which does not go with {gives} {given!r} of {name}")

    def weights(self, name: str, stem: str) -> Weights:
        """A model's safetensors file, or the shards that its index names."""
        index = f"{name}/{stem}.safetensors.index.json"
        if (self._path / name / f"{stem}.safetensors").is_file():
            return self._file(f"{name}/{stem}.safetensors")
        if not (self._path / index).is_file():
            self.blame(f"{name}/{stem}.safetensors is missing (weights in another format are not loaded)")
            return Weights()
        shards = (self.json(index) or {}).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) and Path(shard).name == shard for shard in shards.values()):
            self.blame(f"{index}: weight_map must map tensors to files beside it")
            return Weights()
        return sum((self._file(f"{name}/{shard}") for shard in sorted(set(shards.values()))), Weights())

    def _file(self, name: str) -> Weights:
        """One file by its header, which also tells where the file must end."""
        try:
            with (self._path / name).open("rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                header = json.loads(opened.read(min(length, HEADER_MOST)))
                size = opened.seek(0, os.SEEK_END)
            entries = [entry for tensor, entry in header.items() if tensor != "__metadata__"]
            counts = [math.prod(entry["shape"]) for entry in entries]
            end = 8 + length + max(entry["data_offsets"][1] for entry in entries)
        except FileNotFoundError:
            self.blame(f"{name} is missing, which the index beside it names")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.blame(f"{name} is no readable safetensors file")
        else:
            if end == size:
                return Weights(size, sum(counts), max(counts))
            self.blame(f"{name} has {size} bytes, but its header tells of {end}: it was cut short or not downloaded to its end")
        return Weights()

    def any_of(self, name: str, files: tuple[str, ...]) -> None:
        if not any((self._path / name / file).is_file() for file in files):
            self.blame(f"{name}: neither {' nor '.join(files)} is there")

    def rules(self, transformer: dict[str, Any] | None, vae: dict[str, Any] | None, schedule: Mapping[str, Any]) -> Rules | None:
        """The family, by transformer and scheduler, and the multiple of the sides, by how often the autoencoder halves them."""
        if transformer is None or vae is None:
            return None
        guided, shifting = transformer.get("guidance_embeds", False), schedule.get("use_dynamic_shifting", False)
        family = family_of(guided is True, shifting is True)
        if family is None:
            self.blame(
                f"transformer has guidance_embeds {guided!r} and scheduler use_dynamic_shifting {shifting!r}: neither FLUX.1 [schnell] "
                "(false, false) nor [dev] (true, true)"
            )
            return None
        levels = vae.get("block_out_channels")
        if not isinstance(levels, list) or not 1 <= len(levels) <= 6:
            self.blame("vae/config.json: block_out_channels must be a list of 1 to 6 numbers")
            return None
        return of_family(family, 2 ** len(levels))
