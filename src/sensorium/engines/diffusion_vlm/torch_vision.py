"""The Pixtral vision tower and the Mistral-3 projector in torch: pixels of one picture to rows for the decoder.

It does not know resizing, prompts, streams or the decoder. Tensor names are the checkpoint's. Norms, rotary turns and softmax are computed
in float32 whatever the number format of the matrices; nothing is folded into the weights, so that low precision rounds where the
reference does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from sensorium.engines.diffusion_vlm.config import VLMConfig

TOWER = "encoder.vision_tower."
PROJECTOR = "encoder.multi_modal_projector."
TOWER_EPS = 1e-5  # fixed in the architecture, no config key
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"silu": functional.silu, "gelu": functional.gelu}
SIDE = 128  # patches per side that the rotary tables begin with; the official limit is 100
QUERY_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: gains of its norms, qkv [3 * heads * head_dim, D], out [D, heads * head_dim], gate_up [2 F, D], down [D, F]."""

    before: Any
    qkv: Any
    out: Any
    after: Any
    gate_up: Any
    down: Any


class TorchTower:
    """Patches -> layers of full attention within one picture -> merged cells -> rows of the decoder's width."""

    def __init__(self, config: VLMConfig, weights: Mapping[str, Any], *, device: Any, dtype: Any) -> None:
        self.config, self.vision = config, config.vision
        self.device, self.dtype = device, dtype
        self.activation = ACTIVATIONS[self.vision.activation]

        def take(name: str) -> Any:
            return weights[name + ".weight"].to(device, dtype)

        self.patch = take(TOWER + "patch_conv").flatten(1)
        self.first_gain = take(TOWER + "ln_pre")
        self.layers = [_layer(take, f"{TOWER}transformer.layers.{index}.") for index in range(self.vision.layers)]
        self.last_gain = take(PROJECTOR + "norm")
        self.merge = take(PROJECTOR + "patch_merger.merging_layer")
        self.linear_1, self.linear_2 = (take(f"{PROJECTOR}linear_{number}") for number in (1, 2))
        self._tables = self._turns(SIDE)

    def features(self, pixels: Any) -> Any:
        """Normalised pixels [3, height, width] on the device, whole cells on both sides -> [cells, decoder width], row by row."""
        rows, columns = (side // self.vision.patch for side in pixels.shape[1:])
        return self.project(self.encode(pixels), rows, columns)

    def encode(self, pixels: Any) -> Any:
        """Pixels -> one row per patch, without a final norm."""
        size = self.vision.patch
        channels, rows, columns = pixels.shape[0], pixels.shape[1] // size, pixels.shape[2] // size
        cut = pixels.to(self.dtype).view(channels, rows, size, columns, size).permute(1, 3, 0, 2, 4).reshape(rows * columns, -1)
        x = normalise(functional.linear(cut, self.patch), self.first_gain, TOWER_EPS)
        turn = self.grid_turns(rows, columns)
        for layer in self.layers:
            x = x + self._attention(normalise(x, layer.before, TOWER_EPS), layer, turn)
            x = x + self._feed_forward(normalise(x, layer.after, TOWER_EPS), layer)
        return x

    def project(self, x: Any, rows: int, columns: int) -> Any:
        """Rows of patches -> merged cells in the decoder's width (exact GELU between the two linear maps)."""
        merge = self.config.merge
        grid = normalise(x, self.last_gain, self.config.eps).view(rows // merge, merge, columns // merge, merge, -1)
        cells = grid.permute(0, 2, 4, 1, 3).reshape(rows * columns // merge**2, -1)
        return functional.linear(functional.gelu(functional.linear(functional.linear(cells, self.merge), self.linear_1)), self.linear_2)

    def _attention(self, x: Any, layer: Layer, turn: tuple[Any, Any]) -> Any:
        vision = self.vision
        qkv = functional.linear(x, layer.qkv).view(len(x), 3, vision.heads, vision.head_dim)
        query, key = rotate(qkv[:, :2], *turn).transpose(0, 1).transpose(1, 2)
        mixed = attend(query, key, qkv[:, 2].transpose(0, 1))
        return functional.linear(mixed.transpose(0, 1).reshape(len(x), -1), layer.out)

    def _feed_forward(self, x: Any, layer: Layer) -> Any:
        gate, up = functional.linear(x, layer.gate_up).chunk(2, dim=1)
        return functional.linear(self.activation(gate) * up, layer.down)

    def grid_turns(self, rows: int, columns: int) -> tuple[Any, Any]:
        """Cosine and sine [patches, 1, 1, head_dim / 2] of 2-D rotary positions: even frequencies by row, odd ones by column."""
        if max(rows, columns) > self._tables.shape[1]:
            self._tables = self._turns(max(rows, columns))
        by_row = self._tables[:, :rows, None, 0::2].expand(-1, -1, columns, -1)
        by_column = self._tables[:, None, :columns, 1::2].expand(-1, rows, -1, -1)
        cosine, sine = torch.cat([by_row, by_column], dim=3).view(2, rows * columns, 1, 1, -1)
        return cosine, sine

    def _turns(self, side: int) -> Any:
        """Cosine and sine [2, side, head_dim / 2] of every position with every frequency, computed in double precision."""
        head_dim = self.vision.head_dim
        angles = np.arange(side)[:, None] * self.vision.theta ** (-2.0 * np.arange(head_dim // 2) / head_dim)
        return torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)).to(self.device)


def _layer(take: Callable[[str], Any], at: str) -> Layer:
    return Layer(
        before=take(at + "attention_norm"),
        qkv=torch.cat([take(f"{at}attention.{name}_proj") for name in "qkv"]),
        out=take(at + "attention.o_proj"),
        after=take(at + "ffn_norm"),
        gate_up=torch.cat([take(f"{at}feed_forward.{name}_proj") for name in ("gate", "up")]),
        down=take(at + "feed_forward.down_proj"),
    )


def normalise(x: Any, gain: Any, eps: float) -> Any:
    """RMSNorm of the rows, in float32 up to the gain."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)).to(x.dtype) * gain


def rotate(x: Any, cosine: Any, sine: Any) -> Any:
    """Turn channel i of the last axis with channel i + half, in float32."""
    low, high = x.float().chunk(2, dim=-1)
    return torch.cat([low * cosine - high * sine, high * cosine + low * sine], dim=-1).to(x.dtype)


def attend(query: Any, key: Any, value: Any) -> Any:
    """Full softmax attention of [heads, rows, d] with scale d^-0.5.

    CPUs and GPUs of CUDA have kernels that never hold all scores; elsewhere the queries are cut into pieces that keep them small.
    """
    step = query.shape[1] if query.device.type in ("cpu", "cuda") else QUERY_CHUNK
    pieces = [functional.scaled_dot_product_attention(some[None], key[None], value[None])[0] for some in query.split(step, dim=1)]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
