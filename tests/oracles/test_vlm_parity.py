"""The numpy engine against the torch module that trains scenes-vlm: the same export, float or int8, must say the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import sensorium
from sensorium.engines import weights as checkpoint
from sensorium.engines.diffusion_vlm.config import VLMConfig, read_config
from sensorium.engines.diffusion_vlm.decode import Decoding, Request, diffuse, speculate, stream
from sensorium.engines.diffusion_vlm.numpy_model import NumpyModel
from sensorium.engines.diffusion_vlm.numpy_vision import Tower
from sensorium.engines.diffusion_vlm.rows import Features, Row
from sensorium.engines.diffusion_vlm.schedule import Schedule
from sensorium.engines.diffusion_vlm.weights import plan
from tests.engines.diffusion_vlm.reference import SlowDecoder
from training.export import write_json, write_tensors
from training.vlm_model import CONFIG, VisionLanguageModel

SHIPPED = Path(sensorium.__file__).parent / "models" / "scenes-vlm"


@dataclass
class Pair:
    """One export and both readings of it; `pads` are the prompt positions of the picture's rows."""

    config: VLMConfig
    twin: VisionLanguageModel
    model: NumpyModel
    tower: Tower
    pixels: np.ndarray
    prompt: list[int]
    pads: list[int]
    image: torch.Tensor

    def twin_logits(self, tokens: list[int], visible: np.ndarray) -> np.ndarray:
        flags = torch.zeros(1, len(tokens), dtype=torch.bool)
        flags[0, self.pads] = True
        with torch.no_grad():
            _, image = self.twin.look(torch.from_numpy(self.pixels)[None])
            hidden = self.twin.hidden(
                torch.tensor([tokens]), torch.arange(len(tokens))[None], torch.from_numpy(visible)[None], image, flags
            )
            return self.twin.diffusion_head(hidden)[0].numpy()

    def features(self) -> np.ndarray:
        return self.tower.features(self.pixels)


def random_export(folder: Path, plain: bool) -> Path:
    torch.manual_seed(0)
    twin = VisionLanguageModel(CONFIG)
    for parameter in twin.parameters():
        if parameter.ndim == 1:
            parameter.data.uniform_(0.7, 1.3)
    twin.diffusion_head.weight.data *= 10
    twin.encoder.embed_tokens.weight.data *= 20
    write_tensors(twin.state_dict(), folder / "model.safetensors", plain=plain)
    write_json(CONFIG, folder / "config.json")
    return folder


@pytest.fixture(scope="module", params=["float", "int8", "shipped"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    if request.param == "shipped":
        folder = SHIPPED
    else:
        folder = random_export(tmp_path_factory.mktemp(request.param), plain=request.param == "float")
    raw, config = json.loads((folder / "config.json").read_text()), read_config(folder)
    tensors = dict(checkpoint.load(folder, plan(config)))
    twin = VisionLanguageModel(raw).eval()
    twin.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()})
    side = raw["vision_config"]["image_size"]
    rng = np.random.default_rng(4)
    pads = list(range(5, 5 + (side // config.cell) ** 2))
    prompt = rng.integers(128, config.vocab, 70).tolist()
    pixels = rng.normal(size=(3, side, side)).astype(np.float32)
    with torch.no_grad():
        image = twin.look(torch.from_numpy(pixels)[None])[1]
    return Pair(config, twin, NumpyModel(config, tensors), Tower(config, tensors), pixels, prompt, pads, image)


def close(got: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(np.abs(got - wanted).max() < 1e-3 * np.abs(wanted).max())


def test_pictures_look_the_same(pair: Pair) -> None:
    with torch.no_grad():
        seen = pair.twin.encoder.vision_tower(torch.from_numpy(pair.pixels)[None])
    assert close(pair.tower.encode(pair.pixels), seen[0].numpy())
    assert close(pair.features(), pair.image[0].numpy())


def test_logits_are_the_same(pair: Pair) -> None:
    block = [*pair.prompt[:4], *[pair.config.mask] * 28]
    visible = np.tril(np.ones((102, 102), bool))
    causal = pair.twin_logits(pair.prompt + block, visible)
    visible[70:, 70:] = True
    both = pair.twin_logits(pair.prompt + block, visible)
    assert close(pair.model.logits(Row(0, 0, pair.prompt, True, features=Features(pair.pads, pair.features()))), causal[:70])
    assert close(pair.model.logits(Row(0, 70, block, False)), both[70:])
    assert close(pair.model.logits(Row(0, 70, block, True)), causal[70:])


def test_whole_answers_are_the_same(pair: Pair) -> None:
    slow = SlowDecoder(pair.twin_logits, pair.config.mask, pair.config.ends)
    for cut, length, tau in ((70, 8, 0.9), (50, 16, None)):
        prompt = pair.prompt[:cut]
        diffusion = slow.diffusion(prompt, 16, 4, length, tau)
        linear = slow.linear(prompt, 16, length)
        for program, wanted in (
            (partial(diffuse, schedule=Schedule(16 // length, length, 4), threshold=tau), diffusion),
            (partial(speculate, length=length), linear),
        ):
            request = Request(prompt, 16, pair.config.mask, pair.config.ends, pads=pair.pads, features=pair.features())
            decoding = Decoding(request, program)
            list(stream(decoding, pair.model.forward, lambda: False))
            assert (decoding.tokens, decoding.counts.evaluations, decoding.finish) == (wanted.tokens, wanted.nfe, wanted.finish)
