"""The script that makes golden dumps, over the torch module that trains the shipped model: what it writes passes verify-checkpoint."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sensorium
from sensorium.engines import weights as checkpoint
from sensorium.engines.diffusion_vlm import image
from sensorium.engines.diffusion_vlm.config import read_config, read_side_config
from sensorium.engines.diffusion_vlm.prompt import PromptBuilder
from sensorium.engines.diffusion_vlm.verification import verify
from sensorium.engines.diffusion_vlm.weights import plan
from tests.engines.diffusion_vlm.golden_oracle import write_dumps
from tests.hub_process import ROOT
from training.vlm_model import VisionLanguageModel

torch = pytest.importorskip("torch", reason="needs torch: make oracles installs it")

SHIPPED = Path(sensorium.__file__).parent / "models" / "scenes-vlm"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dump_golden", ROOT / "tools" / "dump_golden.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dump_golden"] = module
    spec.loader.exec_module(module)
    return module


class Twin:
    """The training module with a `generate` such as a checkpoint's own code has: whole blocks, masks may stay and may be said."""

    def __init__(self) -> None:
        self.module = VisionLanguageModel(json.loads((SHIPPED / "config.json").read_text())).eval()
        tensors = checkpoint.load(SHIPPED, plan(read_config(SHIPPED)))
        self.module.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()})
        self.mask, self.ends = 100, {11}
        self.get_submodule, self.parameters = self.module.get_submodule, self.module.parameters

    def logits(self, ids: list[int], clean: int, pixels: Any, last: int) -> Any:
        visible = torch.ones(1, len(ids), len(ids), dtype=torch.bool).tril()
        visible[:, clean:, clean:] = True
        flags = torch.tensor([[id == 19 for id in ids]])
        features = torch.zeros(1, 0, 192) if pixels is None else self.module.look(pixels)[1]
        hidden = self.module.hidden(torch.tensor([ids]), torch.arange(len(ids))[None], visible, features, flags)
        return self.module.diffusion_head(hidden[:, -last:])[0]

    def generate(self, input_ids: Any, max_new_tokens: int, steps: int, block_length: int, threshold: float, pixels: Any = None) -> Any:
        prompt = clean = input_ids[0].tolist()
        seed, nfe = int(self.logits(clean, len(clean), pixels, 1)[-1].argmax()), 0
        for _ in range(max_new_tokens // block_length):
            block = [seed] + [self.mask] * (block_length - 1)
            for _ in range(steps // (max_new_tokens // block_length)):
                open_places = [place for place in range(block_length) if block[place] == self.mask]
                ends = [place for place in range(block_length) if block[place] in self.ends]
                if not open_places or (ends and self.mask not in block[: ends[0]]):
                    break
                share = self.logits(clean + block, len(clean), pixels, block_length).softmax(-1)
                nfe += 1
                sure, best = (part.tolist() for part in share.max(-1))
                for place in [place for place in open_places if sure[place] >= threshold] or [max(open_places, key=sure.__getitem__)]:
                    block[place] = best[place]
            clean = clean + block
            seed, nfe = int(self.logits(clean, len(clean), pixels, 1)[-1].argmax()), nfe + 1
            if self.ends & set(block):
                break
        return torch.tensor([clean]), nfe, len(prompt)


def script_of(model: Any, builder: Any, script: ModuleType) -> type:
    config, side = read_config(SHIPPED), read_side_config(SHIPPED)

    class Ours(script.Interface):  # type: ignore[misc, name-defined]
        def load(self, folder: str, device: str, dtype: Any) -> tuple[Any, Any]:
            return model, builder

        def inputs(self, processor: Any, picture: Path | None, question: str) -> dict[str, Any]:
            parts, grids, more = [{"type": "text", "text": question}], [], {}
            if picture:
                with Image.open(picture) as opened:
                    pixels = image.see(opened, config, side)
                parts, grids = [{"type": "image"}, *parts], [(pixels.shape[1] // config.cell, pixels.shape[2] // config.cell)]
                more = {"pixels": torch.from_numpy(pixels)[None]}
            return {"input_ids": torch.tensor([processor.build([{"role": "user", "content": parts}], grids).ids]), **more}

        def generate(self, model: Any, inputs: Mapping[str, Any], settings: Any) -> Any:
            made = model.generate(
                inputs["input_ids"], settings.max_tokens, settings.steps, settings.block_length, settings.threshold, inputs.get("pixels")
            )
            return made[0][0, made[2] :], made[1]

    return Ours


def test_what_the_script_writes_passes(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = script_of(Twin(), PromptBuilder(SHIPPED, read_config(SHIPPED)), script)
    monkeypatch.setattr(script, "Interface", ours)
    scene = write_dumps(SHIPPED, tmp_path / "oracle") / "scene.png"
    out = tmp_path / "dumps"
    arguments = [str(SHIPPED), str(out), "--case", str(scene), "What is in this picture?", "--case", "-", "What is red?"]
    script.main([*arguments, "--dtype", "float32", "--device", "cpu", "--max-tokens", "32", "--block-length", "16"])
    index = json.loads((out / "index.json").read_text())
    assert [sorted(case["arrays"]) for case in index["cases"]] == [
        ["block_logits", "features", "pixels", "prefill_logits", "tower"],
        ["block_logits", "prefill_logits"],
    ]
    for device in ("numpy", "cpu"):
        checks = verify.verify(SHIPPED, dumps=out, device=device)
        assert [(check.name, check.figure) for check in checks if check.state == "FAIL"] == []
        assert sum(check.name.startswith("case-") and check.state == "ok" for check in checks) == 13
    mine, theirs = (np.load(place) for place in (out / "case-0.block_logits.npy", tmp_path / "oracle" / "picture.block_logits.npy"))
    assert np.abs(mine - theirs).max() < 1e-3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--max-tokens", "33"], "no multiple"),
        ([], "exists"),
    ],
)
def test_its_arguments(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    out = tmp_path if not arguments else tmp_path / "new"
    with pytest.raises(SystemExit):
        script.chosen(["model", str(out), "--case", "-", "Hello.", *arguments])
    assert said in capsys.readouterr().err


def test_another_interface_comes_from_a_file(script: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "ours.py"
    file.write_text("import dump_golden\nclass Interface(dump_golden.Interface):\n    STEPS = ('denoise_steps',)\n")
    assert script.interface_in(file).STEPS == ("denoise_steps",)
    file.write_text("class Interface: pass\n")
    with pytest.raises(SystemExit, match="derives from"):
        script.interface_in(file)


def test_the_step_budget_is_given_by_the_name_that_the_code_has(script: ModuleType) -> None:
    class Model:
        def generate(self, ids: Any, num_steps: int) -> None: ...

    class Plain:
        def generate(self, ids: Any) -> None: ...

    assert script.Interface().steps_names(Model()) == ["num_steps"]
    assert script.Interface().steps_names(Plain()) == []


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_guessed_of_generate(script: ModuleType, whole: bool) -> None:
    asked: dict[str, Any] = {}

    class Model:
        config = type("Config", (), {"eos_token_id": 11})

        def generate(self, ids: Any, steps: int, **more: Any) -> Any:
            asked.update(more, steps=steps)
            return torch.tensor([[1, 2, 3, 7, 8]] if whole else [[7, 8]]), 4

    inputs = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.ones(1, 3), "pixel_values": "pixels"}
    tokens, nfe = script.Interface().generate(Model(), inputs, script.Settings(64, 48, 32, 0.9))
    assert (tokens.tolist(), nfe) == ([7, 8], 4)
    assert asked == {
        "max_new_tokens": 64, "block_length": 32, "threshold": 0.9, "eos_token_id": 11, "pixel_values": "pixels", "steps": 48
    }  # fmt: skip
