"""Tiny FLUX checkpoints with random weights, as diffusers writes them: nothing is downloaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

Family = Literal["schnell", "dev"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ("▁a", "▁red", "▁cube", "▁on", "▁white", "▁table", "▁blue", "▁ball")


def pipeline(family: Family) -> Any:
    """A pipeline of a few thousand weights. CLIP spells words letter by letter, T5 knows WORDS and letters."""
    torch.manual_seed(0)
    guided = family == "dev"
    clip = CLIPTextConfig(vocab_size=2 * len(LETTERS) + 2, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                          num_attention_heads=2, max_position_embeddings=77, bos_token_id=52, eos_token_id=53, pad_token_id=53)  # fmt: skip
    words = t5_tokenizer()
    t5 = T5Config(vocab_size=len(words), d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, block_out_channels=(4, 4, 4, 8),
        layers_per_block=1, latent_channels=4, norm_num_groups=2, sample_size=32, shift_factor=0.1, scaling_factor=0.36,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=16, guidance_embeds=guided, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0 if guided else 1.0, use_dynamic_shifting=guided),
        vae=vae,
        text_encoder=CLIPTextModel(clip),
        tokenizer=clip_tokenizer(),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=words,
        transformer=transformer,
    )


def clip_tokenizer() -> Any:
    """CLIP's tokenizer over single letters: 77 positions are soon full."""
    pieces = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[], model_max_length=77)


def t5_tokenizer() -> Any:
    """T5's tokenizer over WORDS and letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", math.log(0.01))]
    pieces += [(word, -1.0) for word in WORDS] + [(letter, -6.0) for letter in LETTERS]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)


def write(folder: Path, family: Family) -> Path:
    """The folder that a download would be."""
    pipeline(family).save_pretrained(folder, safe_serialization=True)
    return folder
