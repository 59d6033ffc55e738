"""The sizes and rules of one drawing model, read from its `config.json` and `sensorium.json`.

The first file is diffusers' own for a FluxTransformer2DModel; the second says what the official one cannot: picture size,
sampler, text encoder. It does not know weights or prompts.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensorium.errors import SettingsError

GUIDANCE_KINDS = ("embedded", "mixed", "none")


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """The official fields of the flow transformer; `axes_dims_rope` are channels per head for the axes (always 0, row, column)."""

    in_channels: int
    num_layers: int
    num_single_layers: int
    attention_head_dim: int
    num_attention_heads: int
    joint_attention_dim: int
    pooled_projection_dim: int
    guidance_embeds: bool
    axes_dims_rope: tuple[int, ...]

    @property
    def width(self) -> int:
        """Channels of one token inside the blocks."""
        return self.num_attention_heads * self.attention_head_dim


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The text encoder: `slots` tokens of `width` channels, padded with `pad_token_id`."""

    weights: str
    slots: int
    width: int
    layers: int
    heads: int
    ffn: int
    pad_token_id: int


@dataclass(frozen=True, slots=True)
class Guidance:
    """How strongly the prompt is followed.

    `embedded` is an input of the network, `mixed` blends two predictions (with and without the caption), `none` cannot be set.
    """

    kind: str
    default: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class FlowConfig:
    """Everything about one drawing model except its weights. Sizes in pixels, `shift` as in flow-matching schedulers."""

    name: str
    scope: str
    transformer: TransformerConfig
    text: TextConfig
    guidance: Guidance
    size: int
    patch: int
    shift: float
    default_steps: int
    max_steps: int

    @property
    def grid(self) -> int:
        """Tokens along one side of the picture."""
        return self.size // self.patch


def load(folder: Path) -> FlowConfig:
    """Read both files of a model folder. Raises SettingsError that lists everything wrong with them."""
    reader = _Reader(folder.name)
    official, side = reader.file(folder / "config.json"), reader.file(folder / "sensorium.json")
    reader.stop()
    transformer = _transformer(reader.section("config.json", official))
    fields = reader.section("sensorium.json", side)
    image, steps = fields.section("image"), fields.section("steps")
    config = FlowConfig(
        name=folder.name,
        scope=str(side.get("scope", "")),
        transformer=transformer,
        text=_text(fields.section("text_encoder")),
        guidance=_guidance(side.get("guidance"), transformer, fields.section("guidance")),
        size=image.integer("size"),
        patch=image.integer("patch"),
        shift=fields.number("shift", 1.0),
        default_steps=steps.integer("default"),
        max_steps=steps.integer("max"),
    )
    reader.problems += _disagreements(folder.name, config, side)
    reader.stop()
    return config


class _Reader:
    """Collects problems, so that one error can list them all."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def file(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            self.problems.append(f"{self.folder}/{path.name} cannot be read: {error.strerror}")
            return {}
        except (ValueError, RecursionError) as error:
            self.problems.append(f"{self.folder}/{path.name} is not valid JSON: {error}")
            return {}
        if not isinstance(content, dict):
            self.problems.append(f"{self.folder}/{path.name} must hold a JSON object")
            return {}
        return content

    def section(self, where: str, content: Any) -> _Section:
        return _Section(self, f"{self.folder}/{where}", content if isinstance(content, dict) else {})

    def stop(self) -> None:
        if self.problems:
            raise SettingsError(self.problems)


class _Section:
    """Typed reading of one JSON object; a wrong value becomes a problem and a harmless placeholder."""

    def __init__(self, reader: _Reader, where: str, content: dict[str, Any]) -> None:
        self.reader, self.where, self.content = reader, where, content

    def section(self, key: str) -> _Section:
        inner = self.content.get(key)
        return _Section(self.reader, f"{self.where}: {key}", inner if isinstance(inner, dict) else {})

    def integer(self, key: str, default: int | None = None, least: int = 1) -> int:
        value = self.content.get(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        self.reader.problems.append(f"{self.where}: {key} must be an integer of at least {least}, not {value!r}")
        return least or 1

    def number(self, key: str, default: float | None = None) -> float:
        value = self.content.get(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0:
            return float(value)
        self.reader.problems.append(f"{self.where}: {key} must be a positive number, not {value!r}")
        return 1.0

    def integers(self, key: str) -> tuple[int, ...]:
        value = self.content.get(key)
        if isinstance(value, list) and value and all(isinstance(item, int) and not isinstance(item, bool) for item in value):
            return tuple(value)
        self.reader.problems.append(f"{self.where}: {key} must be a list of integers, not {value!r}")
        return (0,)


def _transformer(fields: _Section) -> TransformerConfig:
    return TransformerConfig(
        in_channels=fields.integer("in_channels"),
        num_layers=fields.integer("num_layers", least=0),
        num_single_layers=fields.integer("num_single_layers", least=0),
        attention_head_dim=fields.integer("attention_head_dim"),
        num_attention_heads=fields.integer("num_attention_heads"),
        joint_attention_dim=fields.integer("joint_attention_dim"),
        pooled_projection_dim=fields.integer("pooled_projection_dim"),
        guidance_embeds=fields.content.get("guidance_embeds") is True,
        axes_dims_rope=fields.integers("axes_dims_rope"),
    )


def _text(fields: _Section) -> TextConfig:
    return TextConfig(
        weights=str(fields.content.get("weights", "text_encoder.safetensors")),
        slots=fields.integer("slots"),
        width=fields.integer("width"),
        layers=fields.integer("layers", least=0),
        heads=fields.integer("heads"),
        ffn=fields.integer("ffn"),
        pad_token_id=fields.integer("pad_token_id", 0, least=0),
    )


def _guidance(given: Any, transformer: TransformerConfig, fields: _Section) -> Guidance:
    if given is None and not transformer.guidance_embeds:
        return Guidance("none", 1.0, 1.0, 1.0)
    kind = str(fields.content.get("kind", "embedded" if transformer.guidance_embeds else "mixed"))
    if kind == "none":
        return Guidance("none", 1.0, 1.0, 1.0)
    span = fields.content.get("range", [1.0, 9.0])
    if not (isinstance(span, list) and len(span) == 2 and all(isinstance(end, int | float) for end in span) and span[0] <= span[1]):
        fields.reader.problems.append(f"{fields.where}: range must be two numbers, the lower first, not {span!r}")
        span = [1.0, 9.0]
    return Guidance(kind, fields.number("default"), float(span[0]), float(span[1]))


def _disagreements(folder: str, config: FlowConfig, side: dict[str, Any]) -> list[str]:
    """What each value alone does not show."""
    transformer, text, guidance = config.transformer, config.text, config.guidance
    axes, channels = transformer.axes_dims_rope, config.patch * config.patch * 3
    rules = [
        (side.get("kind") == "flow_image", "sensorium.json: kind must be flow_image"),
        (side.get("prediction") == "x0", f"sensorium.json: prediction must be x0, not {side.get('prediction')!r}"),
        (config.size % config.patch == 0, f"the picture side {config.size} is not a multiple of the patch {config.patch}"),
        (transformer.in_channels == channels, f"in_channels {transformer.in_channels} must be patch x patch x 3 = {channels}"),
        (
            len(axes) == 3 and sum(axes) == transformer.attention_head_dim and all(axis % 2 == 0 and axis >= 0 for axis in axes),
            f"axes_dims_rope {list(axes)} must be three even numbers that add up to attention_head_dim {transformer.attention_head_dim}",
        ),
        (text.width == transformer.joint_attention_dim, "text_encoder.width must equal joint_attention_dim"),
        (text.width == transformer.pooled_projection_dim, "text_encoder.width must equal pooled_projection_dim"),
        (text.width % text.heads == 0, "text_encoder.width must be a multiple of text_encoder.heads"),
        (guidance.kind in GUIDANCE_KINDS, f"guidance.kind must be one of {', '.join(GUIDANCE_KINDS)}, not {guidance.kind!r}"),
        ((guidance.kind == "embedded") == transformer.guidance_embeds, "guidance.kind embedded and guidance_embeds must agree"),
        (guidance.low <= guidance.default <= guidance.high, "guidance.default must lie in guidance.range"),
        (config.default_steps <= config.max_steps, "steps.default must not exceed steps.max"),
    ]
    return [f"{folder}: {problem}" for fine, problem in rules if not fine]
