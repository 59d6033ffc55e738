"""Captions to ids, ids to states."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sensorium.engines.flow_image import text
from sensorium.engines.flow_image.text import CaptionTokenizer, TextEncoder
from sensorium.errors import SettingsError, Unprocessable

from . import plain, tiny


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tiny.tokenizer()), "utf-8")
    return path


def test_a_caption_fills_all_slots(tokenizer_file: Path) -> None:
    tokenizer = CaptionTokenizer(tokenizer_file, tiny.TEXT)
    known = tiny.tokenizer()["model"]["vocab"]
    words = ["▁a", "▁small", "▁red", "▁cube", "▁on", "▁a", "▁white", "▁table", ",", "▁in", "▁the", "▁middle"]
    expected = [known[word] for word in words]
    ids = tokenizer.ids("a small red cube on a white table, in the middle").tolist()
    assert ids == expected + [0] * (20 - len(expected))
    assert 1 not in ids
    assert tokenizer.size == len(known)


def test_a_caption_that_does_not_fit_is_refused(tokenizer_file: Path) -> None:
    tokenizer = CaptionTokenizer(tokenizer_file, replace(tiny.TEXT, slots=3))
    with pytest.raises(Unprocessable, match="4 tokens, but the model takes at most 3"):
        tokenizer.ids("a small red cube")


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"tokenizer\.json is missing"):
        CaptionTokenizer(tmp_path / "tokenizer.json", tiny.TEXT)


def test_the_encoder_equals_its_slow_twin() -> None:
    tensors = tiny.random_tensors(text.plan(tiny.TEXT, 40), 5)
    ids = np.random.default_rng(0).integers(0, 40, tiny.TEXT.slots)
    states, pooled = TextEncoder(tiny.TEXT, tensors).encode(ids)
    expected = plain.encode(tensors, tiny.TEXT, ids)
    assert np.abs(states - expected).max() < 2e-5
    assert np.abs(pooled - expected.mean(0)).max() < 2e-5
