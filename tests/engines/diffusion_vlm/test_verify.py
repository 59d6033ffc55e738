"""`sensorium verify-checkpoint` in numpy: what is right passes, and each check fails on what is wrong in its field."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

import sensorium
from sensorium.engines.diffusion_vlm import image, prompt
from sensorium.engines.diffusion_vlm.numpy_layers import Floats
from sensorium.engines.diffusion_vlm.rows import Answer, Row
from sensorium.engines.diffusion_vlm.verification import files, subjects, verify
from sensorium.engines.diffusion_vlm.verification.checks import Check
from sensorium.errors import SettingsError
from tests.engines.diffusion_vlm import spoiling
from tests.engines.diffusion_vlm.checkpoints import OFFICIAL_IDS, TEMPLATE, VARIANTS, Variant, write_checkpoint
from tests.engines.diffusion_vlm.golden_oracle import write_dumps
from tests.hub_process import hub_environment

SHIPPED = Path(sensorium.__file__).parent / "models" / "scenes-vlm"
MODEL_CHECKS = ["cached forward", "block of one", "self-speculation", "mask never said", "pictures", "plausibility"]
LAYER = "encoder.layers.1."
SEEING = "encoder.vision_tower.transformer.layers.0."


def states(checks: Sequence[Check]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def failures(checks: Sequence[Check]) -> dict[str, str]:
    return {check.name: check.figure for check in checks if check.state == "FAIL"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sound_checkpoint_passes(tmp_path: Path, variant: str) -> None:
    checks = verify.verify(write_checkpoint(tmp_path / "c", variant), device="numpy")
    assert failures(checks) == {}
    assert [check.name for check in checks][-6:] == MODEL_CHECKS
    assert {check.name: check.state for check in checks if check.state != "ok"} == {"draft adapter": "skipped", "plausibility": "told"}


def test_the_shipped_checkpoint_is_sure_of_what_it_says_and_a_random_one_is_not(tmp_path: Path) -> None:
    def best(folder: Path) -> float:
        figure = next(check.figure for check in verify.verify(folder) if check.name == "plausibility")
        return float(figure.split("best token ")[1].split(",")[0])

    assert best(SHIPPED) > 0.5
    flat = spoiling.weights(
        write_checkpoint(tmp_path / "c"), lambda all: all.update({"diffusion_head.weight": all["diffusion_head.weight"] / 1e3})
    )
    assert best(flat) < 0.02


def test_official_sizes_are_held_against_the_specification(tmp_path: Path) -> None:
    large = Variant({"max_position_embeddings": 4096}, {"patch_size": 14}, OFFICIAL_IDS)
    told = {check.name: check for check in verify.verify(write_checkpoint(tmp_path / "c", large), device="none")}
    assert told["preprocessing"].figure == "300 x 200: 11 x 8 cells, 2800 x 1400: 50 x 25 cells, 1400 x 1400: 50 x 50 cells"
    assert told["expansion"].figure == "300 x 200: 97, 2800 x 1400: 1276, 1400 x 1400: 2551"
    assert [told[name].state for name in MODEL_CHECKS] == ["skipped"] * 6


def test_a_config_that_cannot_be_used_ends_the_examination(tmp_path: Path) -> None:
    folder = spoiling.config(write_checkpoint(tmp_path / "c"), lambda values: values.update(head_dim=13, mask_token_id=4000))
    checks = verify.verify(folder, dumps=tmp_path)
    assert "head_dim 13 is odd" in checks[0].figure and "below vocab_size" in checks[0].figure
    assert {check.state for check in checks[1:]} == {"skipped"}


def drop_many(tensors: spoiling.Weights) -> None:
    for name in [name for name in tensors if "vision_tower" in name or "self_attn" in name]:
        del tensors[name]


def reshape(tensors: spoiling.Weights) -> None:
    tensors[LAYER + "mlp.up_proj.weight"] = tensors[LAYER + "mlp.up_proj.weight"].T.copy()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda all: all.pop("encoder.norm.weight"), ["missing encoder.norm.weight [48]"]),
        (lambda all: all.update(x=all["encoder.norm.weight"]), ["unexpected x [48]"]),
        (reshape, [f"{LAYER}mlp.up_proj.weight has shape [48, 80], expected [80, 48]"]),
        (lambda all: all.update({"model.norm": all.pop("encoder.norm.weight")}), ["model.*: a conversion for another library"]),
        (drop_many, [f"missing encoder.layers.{i}.self_attn.{p}_proj.weight" for i in (0, 1) for p in "qkvo"] + [f"missing {SEEING}"]),
    ],
)
def test_every_difference_of_the_header_is_named(tmp_path: Path, change: Callable[[Any], object], named: list[str]) -> None:
    checks = verify.verify(spoiling.weights(write_checkpoint(tmp_path / "c"), change))
    assert failures(checks).keys() == {"header"}
    assert all(name in failures(checks)["header"] for name in named)
    assert "more" not in failures(checks)["header"]
    assert states(checks)["cached forward"] == "skipped"


@pytest.mark.parametrize(("storage", "value"), [("F32", np.nan), ("F32", -np.inf), ("BF16", np.nan), ("F16", np.inf)])
def test_values_that_are_no_numbers_are_found_by_tensor(tmp_path: Path, storage: str, value: float) -> None:
    folder = write_checkpoint(tmp_path / "c", replace(VARIANTS["plain"], storage=storage))
    tensors = dict(verify.checkpoint.open_tensors(folder))
    tensors[LAYER + "mlp.down_proj.weight"][3, 4:6] = value
    spoiling.write_weights(folder, tensors, storage)
    checks = verify.verify(folder)
    assert failures(checks) == {"stored values": f"{LAYER}mlp.down_proj.weight: 2 values are NaN or infinite"}


def test_a_scale_that_is_no_number_is_found(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", "int8")
    data = bytearray((folder / "model.safetensors").read_bytes())
    header = int.from_bytes(data[:8], "little")
    entry = json.loads(data[8 : 8 + header])["diffusion_head.weight_scale"]["data_offsets"][0]
    data[8 + header + entry : 8 + header + entry + 4] = np.float32(np.nan).tobytes()
    (folder / "model.safetensors").write_bytes(data)
    assert "diffusion_head.weight: 1 value" in failures(verify.verify(folder))["stored values"]


def retokenised(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    return spoiling.json_file(folder, "tokenizer.json", change)


def ordinary_break(values: dict[str, Any]) -> None:
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != "<|image_break|>"]


@pytest.mark.parametrize(
    ("spoil", "failing", "said"),
    [
        (lambda f: retokenised(f, ordinary_break), "marks", "<|image_break|> is not read as its own id 20"),
        (lambda f: spoiling.config(f, lambda c: c.update(eos_token_id=[12])), "marks", "has no <|im_end|> (11)"),
        (lambda f: spoiling.config(f, lambda c: c.update(eos_token_id=[11, 170])), "marks", "170 is an ordinary word"),
        (lambda f: spoiling.config(f, lambda c: c.update(mask_token_id=170)), "mask", "170 is an ordinary word"),
        (lambda f: spoiling.config(f, lambda c: c.update(mask_token_id=19)), "mask", "19 is also <|image_pad|>"),
    ],
)
def test_marks_and_the_mask(tmp_path: Path, spoil: Callable[[Path], Path], failing: str, said: str) -> None:
    found = failures(verify.verify(spoil(write_checkpoint(tmp_path / "c")), device="none"))
    assert said in found[failing]


def test_a_mark_that_is_missing(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = tokenizer.to_str().replace("<|image_end|>", "<|another_end|>")
    (folder / "tokenizer.json").write_text(text)
    found = failures(verify.verify(folder))
    assert "<|image_end|> is no token" in found["marks"]
    assert "has no token <|image_end|>" in found["template"]
    (folder / "tokenizer.json").write_text("{}")
    assert failures(verify.verify(folder)).keys() >= {"marks", "template"}


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (TEMPLATE.replace("<|image_start|>", ""), "placed 0 of 1 pictures"),
        (TEMPLATE.replace("{{- '<|im_start|>assistant\\n' }}", ""), "1 turns begin"),
        (TEMPLATE.replace("{{- '<|im_start|>assistant\\n' }}", "{{- '<|im_start|>user\\n' }}"), "does not end with the assistant's turn"),
        (TEMPLATE + "{{- '<|im_end|>' }}", "ended before it begins"),
        ("{{- '<|image_start|>' }}" + TEMPLATE.replace("else '<|image_start|>'", "else ''"), "not in the user's turn"),
        (TEMPLATE.replace("{%- for", "{%- fur", 1), "line 1"),
    ],
)
def test_templates(tmp_path: Path, template: str, said: str) -> None:
    folder = write_checkpoint(tmp_path / "c")
    (folder / "chat_template.jinja").write_text(template)
    found = failures(verify.verify(folder, device="none"))
    assert (found.keys(), said in found["template"]) == ({"template"}, True)


def test_what_the_specification_leaves_open_is_told(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c")
    (folder / "chat_template.jinja").write_text("{{- '<|im_start|>system\\n<|im_end|>\\n' }}" + TEMPLATE + "{{- '<think></think>' }}")
    told = next(check for check in verify.verify(folder, device="none") if check.name == "template")
    assert told.state == "ok"
    assert "an additional turn before the user's" in told.figure
    assert "the answer begins after <think></think>" in told.figure
    plain = next(check for check in verify.verify(SHIPPED, device="none") if check.name == "template")
    assert "no system turn, the answer begins after no thinking mark" in plain.figure


def test_sizes_of_pictures_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "c")
    real = image.grid
    monkeypatch.setattr(image, "grid", lambda height, width, cell, longest: real(height - cell, width - cell, cell, longest))
    found = failures(verify.verify(folder, device="none"))
    assert found.keys() == {"preprocessing"} and "300 x 200 comes out as" in found["preprocessing"]
    monkeypatch.setattr(image, "MEAN", np.array([50.0, 0, 0]))
    monkeypatch.setattr(image, "grid", real)
    assert "values out of range" in failures(verify.verify(folder, device="none"))["preprocessing"]


def test_the_number_of_picture_tokens_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "c")
    real = prompt.PromptBuilder.build
    monkeypatch.setattr(
        prompt.PromptBuilder, "build", lambda self, messages, grids: real(self, messages, [(rows, columns + 1) for rows, columns in grids])
    )
    assert "300 x 200 takes" in failures(verify.verify(folder, device="none"))["expansion"]


class Faulty(subjects.NumpySubject):
    """A subject with one fault, by name."""

    fault = ""

    def forward(self, rows: Sequence[Row]) -> Sequence[Answer]:
        return [(self.said(row, best), confidence) for row, (best, confidence) in zip(rows, super().forward(rows), strict=True)]

    def said(self, row: Row, best: Any) -> Any:
        if self.fault == "mask" and not row.causal:
            best[-1] = self.config.mask
        if self.fault == "verification" and row.causal and not row.last:
            best[:-1] = row.tokens[1:]
        if self.fault == "short rows" and len(row.tokens) == 1:
            best[-1] = (best[-1] + 1) % self.config.vocab
        return best

    def logits(self, row: Row) -> Floats:
        if self.fault == "positions" and row.start > 0:
            row = replace(row, start=row.start - 1)
        found = super().logits(row)
        if self.fault == "direction" and not row.causal:
            found = np.roll(found, 1, axis=1)
        if self.fault == "no numbers":
            found[0, 0] = np.nan
        return found

    def features(self, pixels: Floats) -> Any:
        seen = super().features(pixels)
        spoiled = {"blind": np.ones_like(seen), "no features": np.full_like(seen, np.nan), "too few": seen[:-1]}
        return spoiled.get(self.fault, seen)


@pytest.mark.parametrize(
    ("fault", "failing", "said"),
    [
        ("positions", "cached forward", "rms"),
        ("no numbers", "cached forward", "NaN"),
        ("no numbers", "plausibility", "NaN"),
        ("direction", "block of one", "one token in both ways of looking|rms"),
        ("short rows", "block of one", "instead of"),
        ("verification", "self-speculation", "instead of"),
        ("mask", "mask never said", "the mask 100 is among"),
        ("blind", "pictures", "look the same"),
        ("no features", "pictures", "NaN"),
        ("too few", "pictures", "expected"),
    ],
)
def test_each_check_of_a_model_can_fail(fault: str, failing: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faulty, "fault", fault)
    monkeypatch.setattr(verify, "NumpySubject", Faulty)
    found = failures(verify.verify(SHIPPED))
    assert any(part in found[failing] for part in said.split("|")), found


def test_a_check_that_breaks_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(files, "marks", broken)
    checks = verify.verify(SHIPPED)
    assert failures(checks) == {"marks": "broke: ZeroDivisionError: by nothing"}
    assert states(checks)["expansion"] == "ok"


def test_a_large_checkpoint_without_torch_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "SMALL", 1000)
    monkeypatch.setattr(verify.importlib.util, "find_spec", lambda name: None)
    checks = verify.verify(SHIPPED)
    assert failures(checks) == {}
    assert 'pip install "sensorium[torch]"' in next(check.figure for check in checks if check.name == "cached forward")


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dumps(SHIPPED, tmp_path_factory.mktemp("golden") / "dumps")


def test_dumps_of_the_slow_oracle_agree(dumps: Path) -> None:
    checks = verify.verify(SHIPPED, dumps=dumps)
    assert failures(checks) == {}
    golden = [check for check in checks if ": " in check.name]
    assert len(golden) == 24
    assert [check.name for check in golden if check.state == "skipped"] == ["text: pixels", "text: tower", "text: projector"]
    left_open = json.loads((dumps / "index.json").read_text())["cases"][2]["tokens"]
    assert 100 in left_open[: left_open.index(11)]  # so the deviations are really switched off


def golden_failures(folder: Path, dumps: Path) -> set[str]:
    """Which comparisons fail, and that nothing else does."""
    found = failures(verify.verify(folder, dumps=dumps))
    assert all(": " in name for name in found), found
    return set(found)


def perturb(tensors: spoiling.Weights, name: str, amount: float = 0.02) -> None:
    tensors[name] = tensors[name].copy()
    tensors[name].flat[7] += amount * np.abs(tensors[name]).max() * 50


def deaf_mask(tensors: spoiling.Weights) -> None:
    tensors["encoder.embed_tokens.weight"][100] *= 0.5


PREFILL, TOWER = {"picture: prefill logits", "text: prefill logits"}, {"picture: tower", "picture: projector"}


@pytest.mark.parametrize(
    ("spoil", "failing", "passing"),
    [
        (lambda f: spoiling.weights(f, lambda all: perturb(all, LAYER + "self_attn.o_proj.weight")), PREFILL, TOWER),
        (lambda f: spoiling.weights(f, lambda all: perturb(all, "diffusion_head.weight")), PREFILL, TOWER),
        (lambda f: spoiling.weights(f, lambda all: perturb(all, SEEING + "feed_forward.up_proj.weight")), TOWER, {"text: prefill logits"}),
        (
            lambda f: spoiling.weights(f, lambda all: spoiling.swap(all, *(f"{LAYER}mlp.{name}_proj.weight" for name in ("gate", "up")))),
            PREFILL,
            TOWER,
        ),
        (
            lambda f: spoiling.weights(f, lambda all: spoiling.swap(all, *(f"{SEEING}attention.{name}_proj.weight" for name in "qk"))),
            TOWER,
            {"text: prefill logits", "picture: pixels"},
        ),
        (
            lambda f: spoiling.weights(f, lambda all: perturb(all, "encoder.multi_modal_projector.linear_2.weight")),
            {"picture: projector"},
            {"picture: tower", "text: tokens"},
        ),
        (lambda f: spoiling.weights(f, deaf_mask), {"picture: first-block logits", "text: first-block logits"}, PREFILL | TOWER),
        (lambda f: spoiling.config(f, lambda c: c["rope_parameters"].update(factor=8.0)), {"picture: first-block logits"}, TOWER),
        (lambda f: spoiling.config(f, lambda c: c["rope_parameters"].update(rope_theta=2e4)), PREFILL, TOWER),
        (lambda f: spoiling.config(f, lambda c: c["rope_parameters"].update(original_max_position_embeddings=32)), PREFILL, TOWER),
        (lambda f: spoiling.config(f, lambda c: c["vision_config"].update(hidden_act="gelu")), TOWER, {"text: tokens"}),
        (lambda f: spoiling.json_file(f, "sensorium.json", lambda s: s.update(max_image_size=72)), {"picture: pixels"}, TOWER),
    ],
)
def test_each_fault_fails_the_right_comparison(
    tmp_path: Path, dumps: Path, spoil: Callable[[Path], Path], failing: set[str], passing: set[str]
) -> None:
    found = golden_failures(spoil(spoiling.copied(SHIPPED, tmp_path / "c")), dumps)
    assert found >= failing, found
    assert not found & passing, found


def test_another_template_fails_the_prompt(tmp_path: Path, dumps: Path) -> None:
    folder = spoiling.copied(SHIPPED, tmp_path / "c")
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("message['role'] + '\\n'", "message['role'] + ' '"))
    assert golden_failures(folder, dumps) == {"picture: prompt", "few steps: prompt", "text: prompt"}


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        (lambda case: case["tokens"].__setitem__(4, 12), {"picture: tokens"}),
        (lambda case: case.update(tokens=case["tokens"][:9]), {"picture: tokens"}),
        (lambda case: case.update(nfe=case["nfe"] + 1), {"picture: forwards"}),
        (lambda case: case["block"].__setitem__(0, 12), {"picture: first-block logits"}),
        (lambda case: case["prompt"].__setitem__(-1, 12), {"picture: prompt", "picture: prefill logits", "picture: first-block logits"}),
    ],
)
def test_a_dump_that_says_otherwise_fails(tmp_path: Path, dumps: Path, change: Callable[[Any], object], failing: set[str]) -> None:
    folder = spoiling.json_file(spoiling.copied(dumps, tmp_path / "d"), "index.json", lambda index: change(index["cases"][0]))
    assert golden_failures(SHIPPED, folder) >= failing


def test_a_pixel_that_is_off(tmp_path: Path, dumps: Path) -> None:
    folder = spoiling.copied(dumps, tmp_path / "d")
    pixels = np.load(folder / "picture.pixels.npy")
    pixels[1, 2, 3] += 2e-4
    np.save(folder / "picture.pixels.npy", pixels)
    assert golden_failures(SHIPPED, folder) == {"picture: pixels"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda index: index.update(dtype="int8"), "not an index of golden dumps"),
        (lambda index: index.update(cases=[]), "has no cases"),
        (lambda index: index["cases"][0].update(picture="../scene.png"), "not a file beside the index"),
        (lambda index: index["cases"][0].update(picture="none.png"), "none.png is missing"),
        (lambda index: index["cases"][0].update(steps=31), "not shared"),
        (lambda index: index["cases"][0].update(block_length=0), "not an index of golden dumps"),
        (lambda index: index["cases"][0].update(steps=0), "not an index of golden dumps"),
        (lambda index: index["cases"][0].update(prompt=[]), "the prompt is empty"),
        (lambda index: index["cases"][0].update(max_tokens=3200, steps=3200), "this model holds 1024"),
    ],
)
def test_dumps_that_cannot_be_used(tmp_path: Path, dumps: Path, change: Callable[[Any], object], said: str) -> None:
    folder = spoiling.json_file(spoiling.copied(dumps, tmp_path / "d"), "index.json", change)
    assert said in failures(verify.verify(SHIPPED, dumps=folder))["golden dumps"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "sensorium.cli", "verify-checkpoint", *arguments]
    return subprocess.run(line, env=hub_environment(), capture_output=True, text=True, timeout=120, check=False)


def test_the_command_prints_a_table_and_ends_as_the_checks_did(tmp_path: Path, dumps: Path) -> None:
    good = command(str(SHIPPED), "--golden", str(dumps))
    assert (good.returncode, good.stderr) == (0, "")
    assert "picture: prefill logits" in good.stdout and "\ncached forward" in good.stdout
    folder = spoiling.weights(spoiling.copied(SHIPPED, tmp_path / "c"), lambda all: all.pop("encoder.norm.weight"))
    bad = command(str(folder), "--json")
    told = json.loads(bad.stdout)
    assert (bad.returncode, told["ok"]) == (1, False)
    assert [check["name"] for check in told["checks"] if check["state"] == "FAIL"] == ["header"]
    assert "checks failed: header" in bad.stderr
    assert command(str(tmp_path / "nothing")).returncode == 2


def test_a_path_that_is_no_folder_or_another_kind(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not a folder"):
        verify.verify(Path("nowhere"))
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(SettingsError, match="of diffusers"):
        verify.verify(tmp_path)


def test_names_in_a_checkpoint_cannot_steer_the_terminal(tmp_path: Path) -> None:
    folder = spoiling.weights(write_checkpoint(tmp_path / "c"), lambda all: all.update({"a\x1b[2J\ud800": np.zeros(2, np.float32)}))
    line = [sys.executable, "-m", "sensorium.cli", "verify-checkpoint", str(folder), "--device", "none"]
    done = subprocess.run(line, env=hub_environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr, "unexpected a\\x1b[2J\\ud800" in done.stdout) == (1, False, True), done
