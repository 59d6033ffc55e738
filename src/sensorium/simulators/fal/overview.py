"""What `sensorium simulate fal` prints: where every host is, and the lines that make a hub and fal's own client use them."""

from __future__ import annotations

from sensorium.simulators.fal.apps import APPS
from sensorium.simulators.fal.auth import DEFAULT_KEY
from sensorium.simulators.fal.server import CONTROL, FILES, QUEUE, RUN

KEY_VARIABLE = "FAL_KEY"


def overview(address: str, own_key: bool) -> str:
    """The text. `address` is the simulator's base URL; everything from the first comment line on is a settings file.

    `own_key` says that the accepted key was given, so that it is not printed.
    """
    hosts = [("queue", QUEUE), ("direct calls", RUN), ("files", FILES), ("faults, calls", CONTROL)]
    lines = [f"Simulated fal API on {address}", "", *(f"  {name.ljust(13)}  {address}/{host}" for name, host in hosts)]
    lines += ["", *(f"  {'app'.ljust(13)}  {app}" for app in APPS)]
    key = '"..."   # the key given with --key' if own_key else DEFAULT_KEY
    return "\n".join([*lines, "", f"  export {KEY_VARIABLE}={key}", "", settings(address)])


def settings(address: str) -> str:
    """A provider with every app, for a hub's settings file."""
    return f"""\
# settings for a hub in front of it
[providers.fal]
kind = "fal"
base_url = "{address}/{QUEUE}"
key_env = "{KEY_VARIABLE}"
models = [
    {{ id = "fal-ai/nemotron-diffusion-vlm", vision = true }},
    {{ id = "black-forest-labs/flux.1-schnell", modality = "image", upstream = "fal-ai/flux/schnell" }},
    {{ id = "black-forest-labs/flux.1-dev", modality = "image", upstream = "fal-ai/flux/dev" }},
    {{ id = "fal-ai/ltx-video", modality = "video" }},
]"""
