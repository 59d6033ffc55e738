"""Writes tiny diffusion VLM checkpoints with random weights, in official names and files, for tests."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from sensorium.engines.diffusion_vlm.config import VLMConfig, read_config
from sensorium.engines.diffusion_vlm.weights import plan

Floats = NDArray[np.float32]

OFFICIAL_IDS = {
    "<unk>": 0, "<|im_start|>": 10, "<|im_end|>": 11, "<think>": 12, "</think>": 13,
    "<|image_start|>": 18, "<|image_pad|>": 19, "<|image_break|>": 20, "<|image_end|>": 21, "<|mask|>": 100,
}  # fmt: skip
OTHER_IDS = {
    "<unk>": 3, "<|im_start|>": 40, "<|im_end|>": 5, "<think>": 8, "</think>": 9,
    "<|image_start|>": 33, "<|image_pad|>": 2, "<|image_break|>": 30, "<|image_end|>": 1, "<|mask|>": 17,
}  # fmt: skip
WORDS = [
    *("▁a", "▁red", "▁cube", "▁ball", "▁on", "▁the", "▁table", "▁what", "▁is", "▁this", "▁The", "▁sign", "▁says"),
    *("▁user", "▁assistant", "▁system", "▁", "user", "assistant", "system", "a"),
]
CHARACTERS = list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ.,?!\"'\n")
TEMPLATE = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- for part in message['content'] %}
{{- part['text'] if part['type'] == 'text' else '<|image_start|>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' }}"""


@dataclass(frozen=True)
class Variant:
    """How one tiny checkpoint differs from the plain one."""

    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    ids: Mapping[str, int]
    shards: int = 1
    storage: str = "F32"
    bytes_level: bool = False


VARIANTS = {
    "plain": Variant({}, {}, OFFICIAL_IDS),
    "wide_heads": Variant(
        {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 12}, {"head_dim": 8, "hidden_act": "gelu"}, OFFICIAL_IDS
    ),
    "sharded": Variant({}, {}, OFFICIAL_IDS, shards=3, storage="BF16"),
    "other_ids": Variant({"eos_token_id": [5, 40]}, {}, OTHER_IDS, bytes_level=True),
    "int8": Variant({}, {}, OFFICIAL_IDS, storage="I8"),
}


def config_of(ids: Mapping[str, int], vocab: int, text: Mapping[str, Any], vision: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json of tiny sizes; `text` and `vision` replace or add keys."""
    rope = {
        "rope_type": "yarn", "type": "yarn", "rope_theta": 10000.0, "factor": 16.0, "original_max_position_embeddings": 16,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
    }  # fmt: skip
    tower = {
        "model_type": "pixtral", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16,
        "intermediate_size": 40, "patch_size": 4, "image_size": 64, "num_channels": 3, "hidden_act": "silu",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }  # fmt: skip
    return {
        "model_type": "nemotron_labs_diffusion_vlm", "architectures": ["NemotronLabsDiffusionVLMModel"],
        "hidden_size": 48, "num_hidden_layers": 2, "intermediate_size": 80, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 12, "vocab_size": vocab, "mask_token_id": ids["<|mask|>"], "eos_token_id": ids["<|im_end|>"], "bos_token_id": 1,
        "block_size": 32, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False, "max_position_embeddings": 1024,
        "sliding_window": None, "rope_parameters": rope, "spatial_merge_size": 2, "projector_hidden_act": "gelu",
        "multimodal_projector_bias": False, "vision_feature_layer": -1, "some_training_key": 0.3, "vision_config": tower | dict(vision),
    } | dict(text)  # fmt: skip


def write_checkpoint(folder: Path, variant: str | Variant = "plain", *, seed: int = 0, side: Mapping[str, Any] | None = None) -> Path:
    """Write config, tokenizer, template and weights into `folder`; a sensorium.json too when `side` is given. Returns the folder."""
    chosen = VARIANTS[variant] if isinstance(variant, str) else variant
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_tokenizer(chosen.ids) if chosen.bytes_level else word_tokenizer(chosen.ids)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}, "model_max_length": 1024}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    vocab = -(-tokenizer.get_vocab_size() // 32) * 32
    (folder / "config.json").write_text(json.dumps(config_of(chosen.ids, vocab, chosen.text, chosen.vision)))
    if side is not None:
        (folder / "sensorium.json").write_text(json.dumps({"format": 1, "kind": "diffusion_vlm"} | dict(side)))
    write_weights(folder, random_weights(read_config(folder), seed), chosen.storage, chosen.shards)
    return folder


def random_weights(config: VLMConfig, seed: int) -> dict[str, Floats]:
    """Values whose outputs keep their size through the layers; the head is sharp enough for thresholds to matter."""
    rng = np.random.default_rng(seed)
    weights: dict[str, Floats] = {}
    for name, shape in plan(config).items():
        if len(shape) == 1:
            weights[name] = rng.uniform(0.7, 1.3, shape).astype(np.float32)
        else:
            size = {"encoder.embed_tokens.weight": 1.0, "diffusion_head.weight": 3.0}.get(name, 1.0) / (
                1 if name.startswith("encoder.embed") else np.sqrt(np.prod(shape[1:]))
            )
            weights[name] = rng.normal(0, size, shape).astype(np.float32)
    return weights


def write_weights(folder: Path, weights: Mapping[str, Floats], storage: str = "F32", shards: int = 1) -> None:
    """One file, or `shards` files and their index."""
    encoded = encode(weights, storage)
    if shards == 1:
        write_safetensors(folder / "model.safetensors", encoded)
        return
    names = list(encoded)
    where = {name: f"model-{1 + place * shards // len(names):05}-of-{shards:05}.safetensors" for place, name in enumerate(names)}
    for file in dict.fromkeys(where.values()):
        write_safetensors(folder / file, {name: encoded[name] for name in names if where[name] == file})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


Encoded = tuple[str, tuple[int, ...], bytes]


def encode(weights: Mapping[str, Floats], storage: str) -> dict[str, Encoded]:
    """Tensors in a number format: F32, F16, BF16 (cut off), or I8 for matrices and F32 for the rest."""
    encoded: dict[str, Encoded] = {}
    for name, values in weights.items():
        if storage == "I8" and values.ndim > 1:
            scale = np.abs(values).reshape(len(values), -1).max(1).astype(np.float32) / np.float32(127)
            small = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
            encoded[name] = ("I8", values.shape, small.tobytes())
            encoded[name + "_scale"] = ("F32", scale.shape, scale.tobytes())
        elif storage == "BF16":
            encoded[name] = ("BF16", values.shape, (values.view(np.uint32) >> 16).astype("<u2").tobytes())
        elif storage == "F16":
            encoded[name] = ("F16", values.shape, values.astype("<f2").tobytes())
        else:
            encoded[name] = ("F32", values.shape, values.astype("<f4").tobytes())
    return encoded


def write_safetensors(path: Path, tensors: Mapping[str, Encoded]) -> None:
    """The safetensors container: length of the header, header, bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (kind, shape, data) in tensors.items():
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + b"".join(data for _, _, data in tensors.values()))


def word_tokenizer(ids: Mapping[str, int]) -> Tokenizer:
    """Words and single characters, with the first 128 ids reserved for special tokens."""
    tokens = [f"<SPECIAL_{number}>" for number in range(128)]
    for token, number in ids.items():
        tokens[number] = token
    vocabulary = {token: number for number, token in enumerate([*tokens, *CHARACTERS, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True),
            pre_tokenizers.Split(Regex(r"""[0-9]|[A-Z](?![a-z])|[.,?!"'\n]"""), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always", split=True)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ids])
    return tokenizer


def byte_tokenizer(ids: Mapping[str, int]) -> Tokenizer:
    """Byte-level pairs: 256 bytes, a few merges, special tokens scattered among the first 64 ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("Ġ", "t"), ("Ġt", "he"), ("Ã", "¼"), ("Ġ", "c")]
    tokens = [f"<SPECIAL_{number}>" for number in range(64)]
    for token, number in ids.items():
        tokens[number] = token
    vocabulary = {token: number for number, token in enumerate([*tokens, *alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ids])
    return tokenizer
