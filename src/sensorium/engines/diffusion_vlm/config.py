"""Sizes and ids of a diffusion VLM checkpoint, read from its config.json and the optional sensorium.json.

Every number comes from the files; keys that are not used here are ignored. It does not know the tokenizer or the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.errors import SettingsError

OFFICIAL_LONGEST_SIDE = 1400


@dataclass(frozen=True, slots=True)
class Rope:
    """YaRN rotary positions of the decoder: `window` is the original context, `query_scale` the growth of queries beyond it."""

    theta: float
    factor: float
    window: int
    beta_fast: float
    beta_slow: float
    query_scale: float


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The Pixtral tower; `activation` is silu or gelu (exact), `theta` the base of its 2-D rotary positions."""

    hidden: int
    layers: int
    heads: int
    head_dim: int
    ffn: int
    patch: int
    channels: int
    activation: str
    theta: float


@dataclass(frozen=True, slots=True)
class VLMConfig:
    """The decoder, the projector's merge factor and the ids that decoding needs. `ends` are the ids that end an answer."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    eps: float
    positions: int
    block_size: int
    mask: int
    ends: frozenset[int]
    merge: int
    rope: Rope
    vision: VisionConfig

    @property
    def cell(self) -> int:
        """Side, in pixels, of the square that becomes one image token."""
        return self.vision.patch * self.merge


@dataclass(frozen=True, slots=True)
class SideConfig:
    """What the official config cannot say. Without a sensorium.json: the official image rule and no stated scope.

    `fit` is "square" (pad to a square of `longest_side`) or None; `scope` names the world a small model knows.
    """

    longest_side: int = OFFICIAL_LONGEST_SIDE
    fit: str | None = None
    scope: str | None = None


FIXED: tuple[tuple[str, Any], ...] = (
    ("hidden_act", "silu"),
    ("tie_word_embeddings", False),
    ("sliding_window", None),
    ("projector_hidden_act", "gelu"),
    ("multimodal_projector_bias", False),
    ("vision_feature_layer", -1),
    ("rope_parameters.rope_type", "yarn"),
    ("rope_parameters.type", "yarn"),
    ("rope_parameters.truncate", True),
)


MOST, MOST_LAYERS = 2**31 - 1, 1000  # every layer's tensors are planned before a file is opened: a number that is none costs all memory


class _Reader:
    """Takes typed values out of nested JSON by dotted path and collects one sentence for each that is unusable."""

    def __init__(self, values: Mapping[str, Any], file: str) -> None:
        self.values = values
        self.file = file
        self.problems: list[str] = []

    def find(self, path: str) -> Any:
        """The value at a dotted path, or None."""
        here: Any = self.values
        for key in path.split("."):
            here = here.get(key) if isinstance(here, Mapping) else None
        return here

    def complain(self, path: str, wanted: str) -> None:
        found = self.find(path)
        self.problems.append(f"{self.file}: {path} is {'missing' if found is None else repr(found)}, expected {wanted}")

    def count(self, path: str, *, least: int = 1, most: int = MOST) -> int:
        """A whole number of at least `least`."""
        value = self.find(path)
        if type(value) is int and least <= value <= most:
            return value
        self.complain(path, f"a whole number of at least {least}" + (f" and at most {most}" if type(value) is int and value > most else ""))
        return least

    def number(self, path: str, *, zero: bool = False) -> float:
        """A positive number; 0 too where `zero` allows it."""
        value = self.find(path)
        if type(value) in (int, float) and (0 < value < float("inf") or (zero and value == 0)):
            return float(value)
        self.complain(path, "a number of 0 or more" if zero else "a number above 0")
        return 1.0

    def fixed(self, path: str, wanted: Any) -> None:
        """A key that, where it stands, must have the one value this engine computes."""
        parent, _, key = path.rpartition(".")
        holder = self.find(parent) if parent else self.values
        if isinstance(holder, Mapping) and key in holder and holder[key] != wanted:
            self.problems.append(f"{self.file}: {path} is {holder[key]!r}, only {wanted!r} is supported")


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{path.parent.name}/{path.name} cannot be read: {error.strerror}"]) from error
    except (ValueError, RecursionError) as error:
        raise SettingsError([f"{path.parent.name}/{path.name} is not JSON"]) from error
    if not isinstance(values, Mapping):
        raise SettingsError([f"{path.parent.name}/{path.name} is not a mapping"])
    return values


def read_config(folder: Path) -> VLMConfig:
    """Read `config.json`. Raises SettingsError, once, with a sentence for every missing, wrong or unsupported value."""
    reader = _Reader(_read_json(folder / "config.json"), f"{folder.name}/config.json")
    config = _decoder(reader, _rope(reader), _vision(reader))
    for path, wanted in FIXED:
        reader.fixed(path, wanted)
    reader.problems += [f"{reader.file}: {sentence}" for holds, sentence in _relations(reader, config) if not holds]
    if reader.problems:
        raise SettingsError(reader.problems)
    return config


def _rope(reader: _Reader) -> Rope:
    at: Callable[[str], str] = "rope_parameters.{}".format
    return Rope(
        theta=reader.number(at("rope_theta")),
        factor=reader.number(at("factor")),
        window=reader.count(at("original_max_position_embeddings")),
        beta_fast=reader.number(at("beta_fast")),
        beta_slow=reader.number(at("beta_slow")),
        query_scale=reader.number(at("llama_4_scaling_beta"), zero=True),
    )


def _vision(reader: _Reader) -> VisionConfig:
    at: Callable[[str], str] = "vision_config.{}".format
    hidden, heads = reader.count(at("hidden_size")), reader.count(at("num_attention_heads"))
    derived = hidden // heads  # the library leaves head_dim and the theta's place to its version
    theta = at("rope_theta") if reader.find(at("rope_parameters")) is None else at("rope_parameters.rope_theta")
    activation = reader.find(at("hidden_act"))
    if activation not in ("silu", "gelu"):
        reader.complain(at("hidden_act"), "silu or gelu")
    return VisionConfig(
        hidden=hidden,
        layers=reader.count(at("num_hidden_layers"), most=MOST_LAYERS),
        heads=heads,
        head_dim=derived if reader.find(at("head_dim")) is None else reader.count(at("head_dim")),
        ffn=reader.count(at("intermediate_size")),
        patch=reader.count(at("patch_size")),
        channels=reader.count(at("num_channels")),
        activation=str(activation),
        theta=reader.number(theta),
    )


def _decoder(reader: _Reader, rope: Rope, vision: VisionConfig) -> VLMConfig:
    return VLMConfig(
        hidden=reader.count("hidden_size"),
        layers=reader.count("num_hidden_layers", most=MOST_LAYERS),
        heads=reader.count("num_attention_heads"),
        kv_heads=reader.count("num_key_value_heads"),
        head_dim=reader.count("head_dim"),
        ffn=reader.count("intermediate_size"),
        vocab=reader.count("vocab_size"),
        eps=reader.number("rms_norm_eps"),
        positions=reader.count("max_position_embeddings"),
        block_size=reader.count("block_size"),
        mask=reader.count("mask_token_id", least=0),
        ends=_ends(reader),
        merge=reader.count("spatial_merge_size"),
        rope=rope,
        vision=vision,
    )


def _ends(reader: _Reader) -> frozenset[int]:
    value = reader.find("eos_token_id")
    ids = value if isinstance(value, list) else [value]
    if not ids or not all(type(one) is int and one >= 0 for one in ids):
        reader.complain("eos_token_id", "a token id or a list of token ids")
        return frozenset()
    return frozenset(ids)


def _relations(reader: _Reader, config: VLMConfig) -> list[tuple[bool, str]]:
    """Rules between values, each with the sentence to print when it does not hold."""
    rope, vision = config.rope, config.vision
    mscale, mscale_all = (reader.find(f"rope_parameters.{key}") for key in ("mscale", "mscale_all_dim"))
    turning = reader.find("vision_config.rope_parameters.rope_type")
    ids = {config.mask, *config.ends}
    return [
        (
            turning in (None, "default", "axial"),
            f"vision_config.rope_parameters.rope_type is {turning!r}, only 'default' and 'axial' are supported",
        ),
        (
            config.heads % config.kv_heads == 0,
            f"num_attention_heads {config.heads} is no multiple of num_key_value_heads {config.kv_heads}",
        ),
        (config.head_dim % 2 == 0, f"head_dim {config.head_dim} is odd, rotary positions turn pairs of channels"),
        (vision.head_dim % 4 == 0, f"vision_config.head_dim {vision.head_dim} is no multiple of 4, which 2-D rotary positions need"),
        (rope.theta > 1, f"rope_parameters.rope_theta is {rope.theta:g}, expected a number above 1"),
        (
            mscale == mscale_all,
            "rope_parameters.mscale and mscale_all_dim differ, which would scale the attention; only equal ones are supported",
        ),
        (max(ids) < config.vocab, f"mask_token_id and eos_token_id must be below vocab_size {config.vocab}"),
        (config.mask not in config.ends, f"mask_token_id {config.mask} is also an eos_token_id"),
        (vision.channels == 3, f"vision_config.num_channels is {vision.channels}, only 3 (RGB) is supported"),
    ]


def read_side_config(folder: Path) -> SideConfig:
    """Read `sensorium.json`; the official rules when there is none. Raises SettingsError with every problem."""
    path = folder / "sensorium.json"
    if not path.is_file():
        return SideConfig()
    reader = _Reader(_read_json(path), f"{folder.name}/sensorium.json")
    reader.fixed("format", 1)
    reader.fixed("kind", "diffusion_vlm")
    longest = OFFICIAL_LONGEST_SIDE if reader.find("max_image_size") is None else reader.count("max_image_size")
    fit, scope = reader.find("fit"), reader.find("scope")
    if fit not in (None, "square"):
        reader.complain("fit", '"square" or nothing')
    if scope is not None and not isinstance(scope, str):
        reader.complain("scope", "a name")
    if reader.problems:
        raise SettingsError(reader.problems)
    return SideConfig(longest, fit, scope)
