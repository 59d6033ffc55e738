"""Which tensors a diffusion VLM checkpoint has: names and shapes, derived from its config. It does not read files."""

from __future__ import annotations

from sensorium.engines.diffusion_vlm.config import VLMConfig

CONVERSIONS = {
    "language_model.": "a conversion for another library wrote this checkpoint; use the original one (encoder.*, diffusion_head.*)",
    "vision_tower.": "a conversion for another library wrote this checkpoint; use the original one (encoder.vision_tower.*)",
    "multi_modal_projector.": "a conversion for another library wrote this checkpoint; use the original one (encoder.*)",
    "model.": "a conversion for another library wrote this checkpoint; use the original one (encoder.*, diffusion_head.*)",
    "base_model.": "this is a draft adapter, not a whole checkpoint",
}


def plan(config: VLMConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor's name and shape, in the checkpoint's official names."""
    return _decoder(config) | _tower(config) | _projector(config)


def _decoder(config: VLMConfig) -> dict[str, tuple[int, ...]]:
    hidden, queries, keys = config.hidden, config.heads * config.head_dim, config.kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.embed_tokens.weight": (config.vocab, hidden),
        "encoder.norm.weight": (hidden,),
        "diffusion_head.weight": (config.vocab, hidden),
    }
    for index in range(config.layers):
        layer = f"encoder.layers.{index}."
        shapes |= {
            layer + "input_layernorm.weight": (hidden,),
            layer + "self_attn.q_proj.weight": (queries, hidden),
            layer + "self_attn.k_proj.weight": (keys, hidden),
            layer + "self_attn.v_proj.weight": (keys, hidden),
            layer + "self_attn.o_proj.weight": (hidden, queries),
            layer + "post_attention_layernorm.weight": (hidden,),
            layer + "mlp.gate_proj.weight": (config.ffn, hidden),
            layer + "mlp.up_proj.weight": (config.ffn, hidden),
            layer + "mlp.down_proj.weight": (hidden, config.ffn),
        }
    return shapes


def _tower(config: VLMConfig) -> dict[str, tuple[int, ...]]:
    vision = config.vision
    width, inner = vision.hidden, vision.heads * vision.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.vision_tower.patch_conv.weight": (width, vision.channels, vision.patch, vision.patch),
        "encoder.vision_tower.ln_pre.weight": (width,),
    }
    for index in range(vision.layers):
        layer = f"encoder.vision_tower.transformer.layers.{index}."
        shapes |= {
            layer + "attention_norm.weight": (width,),
            layer + "attention.q_proj.weight": (inner, width),
            layer + "attention.k_proj.weight": (inner, width),
            layer + "attention.v_proj.weight": (inner, width),
            layer + "attention.o_proj.weight": (width, inner),
            layer + "ffn_norm.weight": (width,),
            layer + "feed_forward.gate_proj.weight": (vision.ffn, width),
            layer + "feed_forward.up_proj.weight": (vision.ffn, width),
            layer + "feed_forward.down_proj.weight": (width, vision.ffn),
        }
    return shapes


def _projector(config: VLMConfig) -> dict[str, tuple[int, ...]]:
    width, projector = config.vision.hidden, "encoder.multi_modal_projector."
    return {
        projector + "norm.weight": (width,),
        projector + "patch_merger.merging_layer.weight": (width, width * config.merge**2),
        projector + "linear_1.weight": (config.hidden, width),
        projector + "linear_2.weight": (config.hidden, config.hidden),
    }
