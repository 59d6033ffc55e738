"""What `sensorium simulate nvidia` prints: where every host is, and the lines that make a hub use them."""

from __future__ import annotations

from sensorium.simulators.nvidia.auth import DEFAULT_KEY
from sensorium.simulators.nvidia.catalog import AI, INTEGRATE, NVCF, Catalog
from sensorium.simulators.nvidia.hosts import CONTROL, FUNCTIONS, NIM

KEY_VARIABLE = "NVIDIA_API_KEY"
CHAT = "meta/llama-3.2-90b-vision-instruct"
EMBED = "nvidia/nv-embedqa-e5-v5"
DRAWN = ("black-forest-labs/flux.1-schnell", "black-forest-labs/flux.1-dev")


def overview(address: str, catalog: Catalog, own_key: bool) -> str:
    """The text. `address` is the simulator's base URL; everything from the first comment line on is a settings file.

    `own_key` says that the accepted key was given, so that it is not printed.
    """
    hosts = [
        ("chat, embeddings", f"{address}/{INTEGRATE}/v1"),
        ("images", f"{address}/{AI}/v1/genai"),
        ("rerank", f"{address}/{AI}/v1/retrieval/nvidia"),
        ("video", f"{address}/{AI}/v1/cosmos"),
        ("jobs, assets", f"{address}/{NVCF}/v2/nvcf"),
        ("local containers", f"{address}/{NIM}/<org>/<model>/v1"),
        ("faults, calls", f"{address}/{CONTROL}"),
    ]
    speech = [(model.name, f"{address}/{model.function}{FUNCTIONS}/v1/audio") for model in catalog.models if model.kind in ("asr", "tts")]
    width = max(len(name) for name, _ in hosts + speech)
    lines = [f"Simulated NVIDIA API on {address}", ""]
    lines += [f"  {name.ljust(width)}  {url}" for name, url in hosts]
    lines += ["", *(f"  {name.ljust(width)}  {url}" for name, url in speech)]
    key = '"..."   # the key given with --key' if own_key else DEFAULT_KEY
    return "\n".join([*lines, "", f"  export {KEY_VARIABLE}={key}", "", settings(address, catalog)])


def settings(address: str, catalog: Catalog) -> str:
    """Every modality, for a hub's settings file."""
    drawn = ", ".join(f'"{name}"' for name in DRAWN)
    speaks, listens = (
        next(model.function for model in catalog.models if model.kind == kind and model.over_http) for kind in ("tts", "asr")
    )
    return f"""\
# settings for a hub in front of it
[router.chat]
url = "{address}/{INTEGRATE}/v1"
key_env = "{KEY_VARIABLE}"
models = [{{ id = "{CHAT}", vision = true }}]

[router.embeddings]
url = "{address}/{INTEGRATE}/v1"
key_env = "{KEY_VARIABLE}"
models = ["{EMBED}"]

[router.image]
url = "{address}/{AI}/v1/genai"
key_env = "{KEY_VARIABLE}"
models = [{drawn}]

[router.audio]
url = "{address}/{speaks}{FUNCTIONS}/v1/audio"
asr_url = "{address}/{listens}{FUNCTIONS}/v1/audio"
key_env = "{KEY_VARIABLE}"

[router.video]
url = "{address}/{AI}/v1/cosmos"
status_url = "{address}/{NVCF}/v2/nvcf/pexec/status"
key_env = "{KEY_VARIABLE}\""""
