"""`sensorium verify-checkpoint`: every check there is of a diffusion VLM checkpoint, in order, each one told.

What a check needs and cannot have (a config, weights, torch, dumps) makes it skipped, with the reason. It does not know commands.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from sensorium.engines import weights as checkpoint
from sensorium.engines.diffusion_vlm import image
from sensorium.engines.diffusion_vlm.config import SideConfig, VLMConfig, read_config, read_side_config
from sensorium.engines.diffusion_vlm.prompt import PromptBuilder
from sensorium.engines.diffusion_vlm.verification import comparison, files, golden, model
from sensorium.engines.diffusion_vlm.verification.checks import Check, Report, hold
from sensorium.engines.diffusion_vlm.verification.files import QUESTION
from sensorium.engines.diffusion_vlm.verification.model import Question
from sensorium.engines.diffusion_vlm.verification.subjects import NumpySubject, Subject
from sensorium.engines.diffusion_vlm.weights import plan
from sensorium.errors import SettingsError

FILES = ("config", "header", "stored values", "draft adapter", "marks", "mask", "preprocessing", "template", "expansion")
GOLDEN = "golden dumps"
ADAPTER = "linear_spec_lora"
SMALL = 200e6  # parameters that numpy computes in seconds
ROOM = 128  # positions beyond the prompt that checks without dumps use


def verify(folder: Path, *, dumps: Path | None = None, device: str = "auto", dtype: str = "auto") -> list[Check]:
    """All checks of a checkpoint folder, with `dumps` those against golden dumps too.

    `device` "none" loads no weights, "numpy" is the engine of a default install, "auto" takes it for small checkpoints and torch for
    others. Raises SettingsError when the folder is none, or of another kind.
    """
    if not folder.is_dir():
        raise SettingsError([f"{folder} is not a folder"])
    if (folder / "model_index.json").is_file():
        raise SettingsError([f"{folder} is a checkpoint of diffusers; examined are diffusion VLMs"])
    report, folder = Report(), folder.resolve()
    parts = _files(report, folder)
    loaded = model.NAMES if dumps is None else (*model.NAMES, GOLDEN)
    if parts is None or report.failed:
        report.skip(loaded, "the checks before these must pass")
    elif device == "none":
        report.skip(loaded, "no weights were to be loaded")
    else:
        _loaded(report, folder, parts, dumps, device, dtype)
    return report.checks


@dataclass(frozen=True, slots=True)
class Parts:
    """What a folder holds beside its weights."""

    config: VLMConfig
    side: SideConfig
    builder: PromptBuilder


def _files(report: Report, folder: Path) -> Parts | None:
    """The checks that load no weights; the parts that later ones need, if all are usable."""
    config = report.open(FILES[0], partial(read_config, folder))
    side = report.open(FILES[0], partial(read_side_config, folder))
    if config is None or side is None:
        report.skip(FILES[1:], "needs a usable config")
        return None
    report.run(FILES[0], lambda: files.sizes(config, json.loads((folder / "config.json").read_text("utf-8"))))
    tensors = report.open("header", partial(checkpoint.open_tensors, folder))
    if tensors is None:
        report.skip(("stored values",), "needs a readable header")
    else:
        report.run("header", partial(files.header, tensors, plan(config)))
        report.run("stored values", partial(files.finite, tensors))
    _adapter(report, folder, config)
    tokenizer = report.open("marks", partial(files.tokenizer, folder))
    if tokenizer is not None:
        report.run("marks", partial(files.marks, tokenizer, config))
        report.run("mask", partial(files.mask, tokenizer, config))
    report.run("preprocessing", partial(files.preprocessing, config, side))
    builder = report.open("template", partial(PromptBuilder, folder, config))
    if builder is None:
        report.skip(("expansion",), "needs a usable template")
        return None
    report.run("template", partial(files.template, builder))
    report.run("expansion", partial(files.expansion, builder, config, side))
    return Parts(config, side, builder)


def _adapter(report: Report, folder: Path, config: VLMConfig) -> None:
    """The adapter that speculative passes use, if the checkpoint has one."""
    lack = _lack_of_torch() if (folder / ADAPTER).is_dir() else f"there is no {ADAPTER} beside the weights"
    if lack:
        report.skip(("draft adapter",), lack)
        return
    # Start-up cost: torch is an extra, and takes seconds to import.
    from sensorium.engines.diffusion_vlm.torch_adapter import load_adapter

    def opened() -> str:
        adapter = load_adapter(folder / ADAPTER, config)
        return f"rank {len(adapter.inward[0])} in {len(adapter.inward)} layers, scale {adapter.scale:g}"

    report.run("draft adapter", opened)


def _loaded(report: Report, folder: Path, parts: Parts, dumps: Path | None, device: str, dtype: str) -> None:
    """The checks that compute."""
    text = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    prompt = parts.builder.build(text, []).ids
    index = None if dumps is None else report.open(GOLDEN, partial(golden.read, dumps))
    length = min(len(prompt) + ROOM, parts.config.positions)
    if index is not None:
        wanted = comparison.positions(index)
        fits = report.run(GOLDEN, partial(_fitting, wanted, parts.config.positions))
        index, length = (index, max(length, wanted)) if fits else (None, length)
    if device in ("auto", "numpy") and _small_or_asked(parts.config, device):
        subject = report.open("weights", partial(_on_numpy, folder, parts.config, length))
    else:
        lack = _lack_of_torch()
        if lack:
            report.skip((*model.NAMES, *((GOLDEN,) if dumps else ())), lack)
            return
        subject = report.open("weights", partial(_on_torch, folder, parts.config, length, device, dtype))
    if subject is None:
        report.skip(model.NAMES, "needs loaded weights")
        return
    pictures = (image.see(picture, parts.config, parts.side) for picture in _pictures())
    model.examine(report, subject, Question(prompt, (next(pictures), next(pictures))))
    if index is not None and dumps is not None:
        comparison.compare(report, subject, parts.builder, parts.side, dumps, index)


def _fitting(wanted: int, positions: int) -> str:
    hold(wanted <= positions, f"the dumps need {wanted} positions, this model holds {positions}")
    return f"need {wanted} of {positions} positions"


def _small_or_asked(config: VLMConfig, device: str) -> bool:
    return device == "numpy" or files.parameters(plan(config)) <= SMALL


def _lack_of_torch() -> str | None:
    if importlib.util.find_spec("torch") is None:
        return 'needs torch: pip install "sensorium[torch]"'
    return None


def _on_numpy(folder: Path, config: VLMConfig, length: int) -> Subject:
    return NumpySubject(folder, config, length)


def _on_torch(folder: Path, config: VLMConfig, length: int, device: str, dtype: str) -> Subject:
    # Start-up cost: torch is an extra, and takes seconds to import.
    from sensorium.engines import devices
    from sensorium.engines.diffusion_vlm.verification.torch_subject import TorchSubject

    place = devices.choose(device)
    return TorchSubject(folder, config, length, place, devices.dtype(dtype, place))


def _pictures() -> tuple[Image.Image, Image.Image]:
    """A ramp of colours, and squares."""
    across, down = np.meshgrid(np.arange(300), np.arange(200))
    ramp = np.stack([across * 255 // 299, down * 255 // 199, (across + down) % 256], axis=2)
    squares = np.where(((across // 25 + down // 25) % 2 == 0)[..., None], (240, 60, 20), (20, 90, 200))
    return Image.fromarray(ramp.astype(np.uint8)), Image.fromarray(squares.astype(np.uint8))
