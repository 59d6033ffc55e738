"""The drawing model in torch, in the tensor names and the arithmetic of diffusers' FluxTransformer2DModel, plus its text encoder.

One token is one square pixel patch; there is no autoencoder. The module knows nothing of scenes, captions or files: it maps a noisy
picture, a time and token ids to the clean picture it expects.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SINUSOID = 256  # width of the time and guidance sinusoids, fixed by the official module


@dataclass(frozen=True, slots=True)
class FlowConfig:
    """Sizes of one drawing model; the first block are the official config's fields, the second the side config's."""

    in_channels: int = 432
    num_layers: int = 2
    num_single_layers: int = 4
    attention_head_dim: int = 64
    num_attention_heads: int = 3
    joint_attention_dim: int = 192
    pooled_projection_dim: int = 192
    guidance_embeds: bool = False
    axes_dims_rope: tuple[int, int, int] = (8, 28, 28)

    image_size: int = 96
    patch: int = 12
    slots: int = 20
    vocab_size: int = 64
    text_layers: int = 2
    text_heads: int = 3
    text_ffn: int = 576

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def grid(self) -> int:
        return self.image_size // self.patch

    def official(self) -> dict[str, Any]:
        """The `config.json` that diffusers reads."""
        names = list(FlowConfig.__dataclass_fields__)[:9]
        fields = {name: value for name, value in asdict(self).items() if name in names}
        fields["axes_dims_rope"] = list(self.axes_dims_rope)
        return {"_class_name": "FluxTransformer2DModel", "patch_size": 1, "out_channels": None, **fields}


def pack(images: Tensor, patch: int) -> Tensor:
    """[B, S, S, 3] -> [B, (S / patch)^2, patch * patch * 3]; inside a token: row, column, channel."""
    batch, side = images.shape[0], images.shape[1]
    grid = side // patch
    return images.view(batch, grid, patch, grid, patch, 3).permute(0, 1, 3, 2, 4, 5).reshape(batch, grid * grid, patch * patch * 3)


def unpack(tokens: Tensor, patch: int) -> Tensor:
    """The inverse of `pack`."""
    batch, grid = tokens.shape[0], math.isqrt(tokens.shape[1])
    return tokens.view(batch, grid, grid, patch, patch, 3).permute(0, 1, 3, 2, 4, 5).reshape(batch, grid * patch, grid * patch, 3)


def sinusoid(value: Tensor) -> Tensor:
    """[B] in 0..1 (time) or a guidance strength -> [B, 256], cosines first; the official factor of 1000 is applied here."""
    half = SINUSOID // 2
    angle = 1000 * value[:, None] * torch.exp(-math.log(10000) * torch.arange(half, dtype=value.dtype) / half)
    return torch.cat([angle.cos(), angle.sin()], -1)


def rotation(config: FlowConfig) -> tuple[Tensor, Tensor]:
    """cos and sin, each [slots + grid^2, head_dim / 2], for text tokens at the origin followed by the picture's rows and columns."""
    row, column = torch.meshgrid(torch.arange(config.grid), torch.arange(config.grid), indexing="ij")
    image = torch.stack([torch.zeros_like(row), row, column], -1).reshape(-1, 3)
    ids = torch.cat([torch.zeros(config.slots, 3, dtype=image.dtype), image]).double()
    angles = [ids[:, i : i + 1] / 10000.0 ** (torch.arange(0, d, 2).double() / d) for i, d in enumerate(config.axes_dims_rope)]
    angle = torch.cat(angles, -1)
    return angle.cos().float(), angle.sin().float()


def halves(weight: Tensor, bias: Tensor, gain: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Reorders a query or key projection from interleaved pairs to two halves; scores are unchanged and rotation reads memory in order."""
    dim = gain.shape[0]
    split = weight.view(heads, dim // 2, 2, -1).transpose(1, 2).reshape(weight.shape)
    return split, bias.view(heads, dim // 2, 2).transpose(1, 2).reshape(-1), gain.view(-1, 2).t().reshape(-1)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates channel i with channel i + D/2; x [B, H, T, D]."""
    cos, sin = turn
    a, b = torch.chunk(x, 2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[B, H, T, D] each -> [B, T, H * D]. Written out, because the fused backward is slow on a CPU for small heads."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    out: Tensor = scores.softmax(-1) @ value
    return out.transpose(1, 2).flatten(2)


def normed(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Layer norm without gain (eps 1e-6), then the modulation."""
    return torch.addcmul(shift, functional.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class Linears(nn.Module):
    """A bag of named linear layers: gives nested official names such as `norm1.linear` without a class for each."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


class Gain(nn.Module):
    """Learned gain of a root-mean-square norm over the head dimension (eps 1e-6)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))


class Attention(nn.Module):
    """The projections of one block's attention; `context` adds the text stream's own."""

    def __init__(self, width: int, dim: int, *, context: bool, output: bool) -> None:
        super().__init__()
        self.heads = width // dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.norm_q, self.norm_k = Gain(dim), Gain(dim)
        if context:
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (nn.Linear(width, width) for _ in range(3))
            self.norm_added_q, self.norm_added_k = Gain(dim), Gain(dim)
            self.to_add_out = nn.Linear(width, width)
        if output:
            self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def project(self, x: Tensor, *, text: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, width] -> normed query, normed key, value as [B, H, T, D]; queries and keys come in halves."""
        if text:
            q, k, v, gains = self.add_q_proj, self.add_k_proj, self.add_v_proj, (self.norm_added_q, self.norm_added_k)
        else:
            q, k, v, gains = self.to_q, self.to_k, self.to_v, (self.norm_q, self.norm_k)
        wq, bq, gq = halves(q.weight, q.bias, gains[0].weight, self.heads)
        wk, bk, gk = halves(k.weight, k.bias, gains[1].weight, self.heads)
        joint = functional.linear(x, torch.cat([wq, wk, v.weight]), torch.cat([bq, bk, v.bias]))
        query, key, value = joint.view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query = functional.rms_norm(query, gq.shape, gq.to(query.dtype), 1e-6)
        return query, functional.rms_norm(key, gk.shape, gk.to(key.dtype), 1e-6), value


class FeedForward(nn.Module):
    """Two linear layers with the tanh GELU between; names `net.0.proj` and `net.2`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([Linears(proj=nn.Linear(width, 4 * width)), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        inner, outer = self.net[0].get_submodule("proj"), self.net[2]
        return outer(functional.gelu(inner(x), approximate="tanh"))  # type: ignore[no-any-return]


class DoubleBlock(nn.Module):
    """Text and picture with their own weights and one joint attention, text first."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.norm1 = Linears(linear=nn.Linear(width, 6 * width))
        self.norm1_context = Linears(linear=nn.Linear(width, 6 * width))
        self.attn = Attention(width, dim, context=True, output=True)
        self.ff, self.ff_context = FeedForward(width), FeedForward(width)

    def forward(self, x: Tensor, c: Tensor, vec: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        mx = self.norm1.get_submodule("linear")(vec)[:, None].chunk(6, -1)
        mc = self.norm1_context.get_submodule("linear")(vec)[:, None].chunk(6, -1)
        image, text = self.attn.project(normed(x, mx[1], mx[0])), self.attn.project(normed(c, mc[1], mc[0]), text=True)
        query, key, value = (torch.cat(pair, 2) for pair in zip(text, image, strict=True))
        out = attend(rotate(query, turn), rotate(key, turn), value)
        split = c.shape[1]
        x = torch.addcmul(x, mx[2], self.attn.to_out[0](out[:, split:]))
        c = torch.addcmul(c, mc[2], self.attn.to_add_out(out[:, :split]))
        x = torch.addcmul(x, mx[5], self.ff(normed(x, mx[4], mx[3])))
        return x, torch.addcmul(c, mc[5], self.ff_context(normed(c, mc[4], mc[3])))


class SingleBlock(nn.Module):
    """One stream of text and picture; attention and feed-forward in parallel."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.norm = Linears(linear=nn.Linear(width, 3 * width))
        self.attn = Attention(width, dim, context=False, output=False)
        self.proj_mlp, self.proj_out = nn.Linear(width, 4 * width), nn.Linear(5 * width, width)

    def forward(self, z: Tensor, vec: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        shift, scale, gate = self.norm.get_submodule("linear")(vec)[:, None].chunk(3, -1)
        y = normed(z, scale, shift)
        query, key, value = self.attn.project(y)
        out = attend(rotate(query, turn), rotate(key, turn), value)
        inner = functional.gelu(self.proj_mlp(y), approximate="tanh")
        return torch.addcmul(z, gate, self.proj_out(torch.cat([out, inner], -1)))


class FluxTransformer(nn.Module):
    """The official transformer: noisy picture tokens, text states and a pooled text vector -> expected clean picture tokens."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        width, dim = config.width, config.attention_head_dim
        self.config = config

        def embedder(inputs: int) -> nn.Module:
            return Linears(linear_1=nn.Linear(inputs, width), linear_2=nn.Linear(width, width))

        self.x_embedder = nn.Linear(config.in_channels, width)
        self.context_embedder = nn.Linear(config.joint_attention_dim, width)
        inputs = {"timestep_embedder": embedder(SINUSOID), "text_embedder": embedder(config.pooled_projection_dim)}
        if config.guidance_embeds:
            inputs["guidance_embedder"] = embedder(SINUSOID)
        self.time_text_embed = Linears(**inputs)
        self.transformer_blocks = nn.ModuleList([DoubleBlock(width, dim) for _ in range(config.num_layers)])
        self.single_transformer_blocks = nn.ModuleList([SingleBlock(width, dim) for _ in range(config.num_single_layers)])
        self.norm_out = Linears(linear=nn.Linear(width, 2 * width))
        self.proj_out = nn.Linear(width, config.in_channels)
        self.register_buffer("turn_cos", rotation(config)[0], persistent=False)
        self.register_buffer("turn_sin", rotation(config)[1], persistent=False)

    def condition(self, t: Tensor, pooled: Tensor, guidance: Tensor | None) -> Tensor:
        """The vector that modulates every block, after its SiLU; [B, width]."""
        parts = {"timestep_embedder": sinusoid(t), "text_embedder": pooled}
        if self.config.guidance_embeds:
            if guidance is None:
                raise ValueError("this model has a guidance input: give `guidance`, one number per picture")
            parts["guidance_embedder"] = sinusoid(guidance)
        total = torch.zeros(())
        for name, value in parts.items():
            two = self.time_text_embed.get_submodule(name)
            total = total + two.get_submodule("linear_2")(functional.silu(two.get_submodule("linear_1")(value)))
        return functional.silu(total)

    def forward(self, x: Tensor, t: Tensor, text: Tensor, pooled: Tensor, guidance: Tensor | None = None) -> Tensor:
        """x [B, T, in_channels], t [B] in 0..1, text [B, slots, joint], pooled [B, pooled] -> like x."""
        turn = (self.get_buffer("turn_cos"), self.get_buffer("turn_sin"))
        vec = self.condition(t, pooled, guidance)
        x, c = self.x_embedder(x), self.context_embedder(text)
        for block in self.transformer_blocks:
            x, c = block(x, c, vec, turn)
        z = torch.cat([c, x], 1)
        for block in self.single_transformer_blocks:
            z = block(z, vec, turn)
        scale, shift = self.norm_out.get_submodule("linear")(vec)[:, None].chunk(2, -1)
        return self.proj_out(normed(z[:, c.shape[1] :], scale, shift))  # type: ignore[no-any-return]


class TextLayer(nn.Module):
    """One bidirectional layer, norm first; padding is a learned token, so nothing is masked."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, ffn), nn.Linear(ffn, width)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.layer_norm(x, x.shape[-1:], eps=1e-6)
        query, key, value = (
            layer(y).view(*y.shape[:2], self.heads, -1).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = x + self.o_proj(attend(query, key, value))
        y = functional.layer_norm(x, x.shape[-1:], eps=1e-6)
        return x + self.fc2(functional.gelu(self.fc1(y), approximate="tanh"))  # type: ignore[no-any-return]


class TextEncoder(nn.Module):
    """Token ids [B, slots] -> text states [B, slots, width] and their mean."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        width = config.joint_attention_dim
        self.embed_tokens, self.embed_positions = nn.Embedding(config.vocab_size, width), nn.Embedding(config.slots, width)
        self.layers = nn.ModuleList([TextLayer(width, config.text_heads, config.text_ffn) for _ in range(config.text_layers)])

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.embed_tokens(ids) + self.embed_positions.weight
        for layer in self.layers:
            x = layer(x)
        return x, x.mean(1)


class FlowModel(nn.Module):
    """Transformer and text encoder, trained together: token ids in, clean picture out."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer, self.text_encoder = FluxTransformer(config), TextEncoder(config)
        self.start()

    def start(self) -> None:
        """Initial values: every block starts as the identity, the output as zero, words wide apart."""
        nn.init.normal_(self.text_encoder.embed_tokens.weight, std=0.5)
        nn.init.normal_(self.text_encoder.embed_positions.weight, std=0.02)
        for name, parameter in self.named_parameters():
            if is_modulation(name) or name.startswith("transformer.proj_out") or "guidance_embedder.linear_2" in name:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, guidance: Tensor | None = None) -> Tensor:
        return self.transformer(x, t, *self.text_encoder(ids), guidance)  # type: ignore[no-any-return]


def is_modulation(name: str) -> bool:
    """Whether a parameter belongs to a modulation layer (`norm*.linear`)."""
    return ".linear." in name and ".norm" in name


def times(steps: int, shift: float) -> Tensor:
    """The sampler's times, 1 down to 0, [steps + 1]."""
    t = torch.linspace(1, 0, steps + 1)
    return shift * t / (1 + (shift - 1) * t)


@torch.no_grad()
def sample(model: FlowModel, ids: Tensor, noise: Tensor, *, steps: int = 4, shift: float = 1.5, guidance: float | None = None) -> Tensor:
    """Euler steps from noise [B, T, C] with the network's clean-picture prediction; images [B, S, S, 3] in -1..1.

    `guidance` goes to the guidance input; a model without one mixes two predictions, with the empty caption as the negative.
    """
    text, pooled = model.text_encoder(ids)
    mixed = guidance is not None and not model.config.guidance_embeds
    empty = model.text_encoder(torch.zeros_like(ids)) if mixed else None
    strength = torch.full((len(ids),), guidance) if guidance is not None and not mixed else None
    x, schedule = noise, times(steps, shift)
    for now, after in pairwise(schedule):
        t = now.expand(len(ids))
        clean = model.transformer(x, t, text, pooled, strength)
        if empty is not None and guidance is not None:
            blind = model.transformer(x, t, *empty)
            clean = blind + guidance * (clean - blind)
        x = x + (after - now) * (x - clean) / now
    return unpack(x, model.config.patch).clamp(-1, 1)
