"""The vision-language model as a torch module for training. Its state dict has exactly the official tensor names.

Attention is written out, because the fused backward is slow for small heads. It knows no tokenizer, no data and no decoding.
"""

from __future__ import annotations

import math
from typing import Any, Final

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

Turn = tuple[Tensor, Tensor]

PIXEL_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD: Final = (0.26862954, 0.26130258, 0.27577711)
CONFIG: Final[dict[str, Any]] = {
    "model_type": "nemotron_labs_diffusion_vlm", "architectures": ["NemotronLabsDiffusionVLMModel"],
    "hidden_size": 192, "num_hidden_layers": 5, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 64, "vocab_size": 448, "mask_token_id": 100, "eos_token_id": 11, "bos_token_id": 1, "block_size": 32, "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False, "max_position_embeddings": 1024, "sliding_window": None, "torch_dtype": "float32",
    "rope_parameters": {"rope_type": "yarn", "type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "original_max_position_embeddings": 64,
                        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
    "spatial_merge_size": 2, "projector_hidden_act": "gelu", "multimodal_projector_bias": False, "vision_feature_layer": -1,
    "dlm_type": "llada", "dlm_arch": "encoder", "dlm_paradigm": "bidirectional",
    "vision_config": {"model_type": "pixtral", "hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3, "head_dim": 64,
                      "intermediate_size": 512, "patch_size": 12, "image_size": 96, "num_channels": 3, "hidden_act": "silu",
                      "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
}  # fmt: skip


class RMSNorm(nn.Module):
    """Root-mean-square norm with a learned gain."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight
        return out


def turn(x: Tensor, angles: Turn) -> Tensor:
    """Rotary positions in the half-split layout. x [..., heads, T, head_dim]; cos and sin broadcast to [..., 1, T, head_dim / 2]."""
    cos, sin = angles
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def yarn_frequencies(rope: dict[str, Any], head_dim: int) -> Tensor:
    """Inverse frequencies [head_dim / 2] of YaRN: a linear ramp between the unscaled and the divided ones."""
    theta, window = rope["rope_theta"], rope["original_max_position_embeddings"]

    def pair(rotations: float) -> float:
        return head_dim * math.log(window / (2 * math.pi * rotations)) / (2 * math.log(theta))

    low = max(math.floor(pair(rope["beta_fast"])), 0)
    high = min(math.ceil(pair(rope["beta_slow"])), head_dim - 1)
    plain = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float64) - low) / max(high - low, 1e-3)).clamp(0, 1)
    frequencies: Tensor = plain * (1 - ramp) + plain / rope["factor"] * ramp
    return frequencies.float()


class Attention(nn.Module):
    """Grouped-query attention without biases; also the tower's, where every head has its own keys."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.q_proj = nn.Linear(width, heads * head_dim, False)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, False)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, False)
        self.o_proj = nn.Linear(heads * head_dim, width, False)

    def forward(self, x: Tensor, angles: Turn, bias: Tensor | None, scale: Tensor | None) -> Tensor:
        """x [B, T, width]; bias [B, T, T] is added to the scores; scale [B, 1, T, 1] multiplies the turned queries."""
        batch, length, _ = x.shape
        weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        both = F.linear(x, weight).view(batch, length, -1, self.head_dim).transpose(1, 2)
        turned = turn(both[:, : self.heads + self.kv_heads], angles)
        q, k, v = turned[:, : self.heads], turned[:, self.heads :], both[:, self.heads + self.kv_heads :]
        factor = self.head_dim**-0.5
        q = q * factor if scale is None else q * (scale * factor)
        groups = self.heads // self.kv_heads
        q = q.reshape(batch * self.kv_heads, groups * length, self.head_dim)
        k = k.reshape(batch * self.kv_heads, length, self.head_dim)
        v = v.reshape(batch * self.kv_heads, length, self.head_dim)
        scores = q @ k.transpose(1, 2)
        if bias is not None:
            scores = (scores.view(batch, self.heads, length, length) + bias[:, None]).view_as(scores)
        out = (scores.softmax(-1) @ v).view(batch, self.heads, length, self.head_dim)
        mixed: Tensor = self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))
        return mixed


class FeedForward(nn.Module):
    """SwiGLU without biases."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, False)
        self.up_proj = nn.Linear(width, inner, False)
        self.down_proj = nn.Linear(inner, width, False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = F.linear(x, torch.cat([self.gate_proj.weight, self.up_proj.weight])).chunk(2, -1)
        out: Tensor = self.down_proj(F.silu(gate) * up)
        return out


class DecoderLayer(nn.Module):
    """Pre-norm decoder block."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["rms_norm_eps"]
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = Attention(width, config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"])
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.mlp = FeedForward(width, config["intermediate_size"])

    def forward(self, x: Tensor, angles: Turn, bias: Tensor, scale: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), angles, bias, scale)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class TowerLayer(nn.Module):
    """Pre-norm block of the vision tower: full attention inside one image."""

    def __init__(self, config: dict[str, Any], eps: float) -> None:
        super().__init__()
        width, heads = config["hidden_size"], config["num_attention_heads"]
        self.attention_norm, self.ffn_norm = RMSNorm(width, eps), RMSNorm(width, eps)
        self.attention = Attention(width, heads, heads, config["head_dim"])
        self.feed_forward = FeedForward(width, config["intermediate_size"])

    def forward(self, x: Tensor, angles: Turn) -> Tensor:
        x = x + self.attention(self.attention_norm(x), angles, None, None)
        out: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return out


class Layers(nn.Module):
    """Holds `layers`, for the name `transformer.layers`."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class Tower(nn.Module):
    """Pixtral: patches -> RMSNorm -> blocks with 2-D rotary positions; no norm at the end."""

    def __init__(self, config: dict[str, Any], eps: float) -> None:
        super().__init__()
        width, self.patch, side = config["hidden_size"], config["patch_size"], config["image_size"] // config["patch_size"]
        self.patch_conv = nn.Conv2d(config["num_channels"], width, self.patch, self.patch, bias=False)
        self.ln_pre = RMSNorm(width, eps)
        self.transformer = Layers([TowerLayer(config, eps) for _ in range(config["num_hidden_layers"])])
        theta, dim = config["rope_parameters"]["rope_theta"], config["head_dim"]
        frequencies = theta ** (-torch.arange(0, dim, 2).float() / dim)
        row = torch.arange(side).repeat_interleave(side)[:, None] * frequencies[0::2]
        column = torch.arange(side).repeat(side)[:, None] * frequencies[1::2]
        angle = torch.cat([row, column], -1)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, S, S], normalised -> [B, patches, width]."""
        x: Tensor
        batch, channels, size, _ = pixels.shape
        side = size // self.patch
        cells = pixels.view(batch, channels, side, self.patch, side, self.patch).permute(0, 2, 4, 1, 3, 5).reshape(batch, side * side, -1)
        x = self.ln_pre(F.linear(cells, self.patch_conv.weight.flatten(1)))
        assert isinstance(self.cos, Tensor) and isinstance(self.sin, Tensor)
        for layer in self.transformer.layers:
            x = layer(x, (self.cos, self.sin))
        return x


class PatchMerger(nn.Module):
    """Merges 2 x 2 cells, flattened channel slowest, then cell row, then cell column."""

    def __init__(self, width: int, merge: int) -> None:
        super().__init__()
        self.merge = merge
        self.merging_layer = nn.Linear(width * merge * merge, width, False)

    def forward(self, x: Tensor) -> Tensor:
        batch, cells, width = x.shape
        side, m = math.isqrt(cells), self.merge
        x = x.view(batch, side // m, m, side // m, m, width).permute(0, 1, 3, 5, 2, 4).reshape(batch, cells // (m * m), -1)
        out: Tensor = self.merging_layer(x)
        return out


class Projector(nn.Module):
    """RMSNorm -> merge -> linear -> exact GELU -> linear."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        vision, width = config["vision_config"]["hidden_size"], config["hidden_size"]
        self.norm = RMSNorm(vision, config["rms_norm_eps"])
        self.patch_merger = PatchMerger(vision, config["spatial_merge_size"])
        self.linear_1 = nn.Linear(vision, width, False)
        self.linear_2 = nn.Linear(width, width, False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear_2(F.gelu(self.linear_1(self.patch_merger(self.norm(x)))))
        return out


class Encoder(nn.Module):
    """Embeddings, tower, projector and decoder blocks, under the official prefix `encoder.`."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config["num_hidden_layers"])])
        self.norm = RMSNorm(config["hidden_size"], config["rms_norm_eps"])
        self.vision_tower = Tower(config["vision_config"], config["rms_norm_eps"])
        self.multi_modal_projector = Projector(config)


class VisionLanguageModel(nn.Module):
    """One set of weights for causal and block-diffusion decoding."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.diffusion_head = nn.Linear(config["hidden_size"], config["vocab_size"], False)
        rope = config["rope_parameters"]
        positions = torch.arange(config["max_position_embeddings"]).float()
        angle = positions[:, None] * yarn_frequencies(rope, config["head_dim"])
        scale = 1 + rope["llama_4_scaling_beta"] * torch.log1p(torch.floor(positions / rope["original_max_position_embeddings"]))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        nn.init.normal_(self.encoder.embed_tokens.weight, std=0.02)
        nn.init.normal_(self.diffusion_head.weight, std=0.02)

    def hidden(self, ids: Tensor, positions: Tensor, visible: Tensor, image: Tensor, pads: Tensor) -> Tensor:
        """Normed hidden states [B, T, width].

        ids, positions [B, T]; visible [B, T, T] bool (query, key); image [B, n, width] from `look`; pads [B, T] marks where its rows go.
        """
        x = self.encoder.embed_tokens(ids).masked_scatter(pads[..., None], image.float())
        bias = torch.zeros(visible.shape).masked_fill_(~visible, -1e4)
        assert isinstance(self.cos, Tensor) and isinstance(self.sin, Tensor) and isinstance(self.scale, Tensor)
        angles = self.cos[positions][:, None], self.sin[positions][:, None]
        scale = self.scale[positions][:, None, :, None]
        for layer in self.encoder.layers:
            x = layer(x, angles, bias, scale)
        out: Tensor = self.encoder.norm(x)
        return out

    def look(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Tower output [B, patches, vision width] and its projection [B, tokens, width]."""
        seen = self.encoder.vision_tower(pixels)
        return seen, self.encoder.multi_modal_projector(seen)
