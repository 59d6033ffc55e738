"""Packed sequences: what each token may see, which targets it gets, and that questions of one picture do not leak into each other."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from training import tokenizer
from training.augment import augment, letterbox, shift
from training.vlm_data import END, MASK, NO_TARGET, PAD, Batch, Packer
from training.vlm_model import VisionLanguageModel
from training.vlm_train import smoke_config

WORDS = tokenizer.build()


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Packer(WORDS, random.Random(4), 256, 8, 2, noise=0.7).batch(6)


def test_every_picture_has_its_image_tokens(batch: Batch) -> None:
    assert (batch.pads.sum(1) == 16).all()
    assert ((batch.ids == PAD) == batch.pads).all()


def test_clean_tokens_see_only_the_past_of_the_start_and_of_their_own_question(batch: Batch) -> None:
    for row in range(len(batch.ids)):
        for query in torch.nonzero((batch.group[row] >= 0) & ~batch.noisy[row]).flatten().tolist():
            seen = torch.nonzero(batch.visible[row, query]).flatten()
            assert query in seen
            assert (batch.positions[row, seen] <= batch.positions[row, query]).all()
            assert set(batch.group[row, seen].tolist()) <= {0, int(batch.group[row, query])}
            assert not batch.noisy[row, seen].any()
            assert len(seen) == int(batch.positions[row, query]) + 1


def test_noisy_tokens_see_their_whole_block_and_the_clean_text_before_it(batch: Batch) -> None:
    for row in range(len(batch.ids)):
        for query in torch.nonzero(batch.noisy[row]).flatten().tolist():
            seen = torch.nonzero(batch.visible[row, query]).flatten()
            block = seen[batch.noisy[row, seen]]
            before = seen[~batch.noisy[row, seen]]
            start = int(batch.positions[row, block].min())
            assert query in block
            assert sorted(batch.positions[row, block].tolist()) == list(range(start, start + len(block)))
            assert sorted(batch.positions[row, before].tolist()) == list(range(start))


def test_masked_positions_are_learned_and_open_ones_are_not(batch: Batch) -> None:
    masked = batch.noisy & (batch.ids == MASK)
    assert (batch.targets[masked] != NO_TARGET).all()
    assert (batch.targets[batch.noisy & ~masked] == NO_TARGET).all()
    assert (batch.weights[batch.targets == NO_TARGET] == 0).all()


def test_causal_targets_spell_the_answers(batch: Batch) -> None:
    for row, asked in enumerate(batch.asked):
        for number, one in enumerate(asked, 1):
            mine = (batch.group[row] == number) & ~batch.noisy[row] & ~batch.question[row] & (batch.targets[row] != NO_TARGET)
            ids = batch.targets[row][mine].tolist()
            assert ids[-1] == END
            assert WORDS.decode(ids[:-1]) == one.answer


def test_changing_one_question_changes_no_other(batch: Batch) -> None:
    torch.manual_seed(0)
    model = VisionLanguageModel(smoke_config()).eval()
    with torch.no_grad():
        _, image = model.look(batch.pixels)
        before = model.hidden(batch.ids, batch.positions, batch.visible, image, batch.pads)
        ids = batch.ids.clone()
        ids[batch.group == 1] = 200
        after = model.hidden(ids, batch.positions, batch.visible, image, batch.pads)
    others = (batch.group == 0) | (batch.group > 1)
    assert torch.allclose(before[others], after[others], atol=1e-5)
    assert not torch.allclose(before[batch.group == 1], after[batch.group == 1], atol=1e-2)


def test_augmented_pictures_keep_their_size_and_stay_close() -> None:
    rng = random.Random(1)
    picture = np.full((96, 96, 3), 120, np.uint8)
    picture[40:60, 40:60] = (214, 36, 40)
    for _ in range(40):
        changed, _ = augment(picture, rng)
        assert changed.shape == picture.shape and changed.dtype == np.uint8
        assert np.abs(changed.astype(int) - picture).mean() < 25


def test_shift_and_letterbox_move_rows_as_said() -> None:
    picture = np.arange(96, dtype=np.uint8)[:, None, None].repeat(96, 1).repeat(3, 2)
    assert (shift(picture, 0, 2)[10] == picture[8]).all()
    boxed = letterbox(picture, 10, 4)
    assert (boxed[7] == picture[10]).all()
    assert (boxed[0] == boxed[95]).all()
