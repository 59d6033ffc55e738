"""Selection in torch: noise as numpy draws it, ties, masks, and that pieces do not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sensorium.engines.diffusion_vlm import noise
from sensorium.engines.diffusion_vlm.numpy_model import to_bfloat16, unpacked
from sensorium.engines.diffusion_vlm.torch_select import POSITIONS, Draws, Selection, even_head, logits_of, uniform
from sensorium.engines.diffusion_vlm.torch_select import noise as torch_noise
from sensorium.engines.diffusion_vlm.torch_select import unpacked as torch_unpacked

SEEDS = [0, 1, -1, 42, 2**62, -(2**63), 2**63 - 1]


def draws(seeds: list[int], positions: list[int], temperature: float = 1.0) -> Draws:
    return Draws(torch.full((len(seeds),), temperature), torch.tensor(seeds), torch.tensor(positions))


def test_noise_is_the_same_number_for_number() -> None:
    positions = [0, 5, 262143, 17, 1, 99, 3]
    drawn = uniform(draws(SEEDS, positions), 3000)
    for line, seed, position in zip(drawn, SEEDS, positions, strict=True):
        assert np.array_equal(line.numpy(), noise.uniform(seed, position, 3000))
    loud = torch_noise(draws(SEEDS, positions), 3000)
    assert loud.dtype == torch.float32
    for line, seed, position in zip(loud, SEEDS, positions, strict=True):
        assert np.allclose(line.numpy(), noise.gumbel(seed, position, 3000), rtol=1e-6, atol=1e-6)


def test_rows_without_a_temperature_have_no_noise() -> None:
    logits = torch.randn(6, 500, generator=torch.Generator().manual_seed(0))
    some = Draws(torch.tensor([0.0, 5.0] * 3), torch.arange(6), torch.arange(6))
    selection = Selection(torch.zeros(500, 1), 500, None, False)
    best, confidence = selection.best(logits.clone(), None, some)
    plain, sure = selection.best(logits.clone(), None, None)
    assert best[0::2].tolist() == plain[0::2].tolist() and best[1::2].tolist() != plain[1::2].tolist()
    assert torch.equal(confidence[0::2], sure[0::2]) and (confidence[1::2] <= sure[1::2]).all()
    assert torch.allclose(confidence, logits.double().softmax(1).gather(1, best[:, None])[:, 0].float(), atol=1e-6)


@pytest.mark.parametrize("size", [32, 224, 131073])
def test_bits_of_allowed_ids(size: int) -> None:
    words = np.random.default_rng(size).integers(0, 2**32, (3, -(-size // 32)), dtype=np.uint32)
    flags = torch_unpacked(torch.from_numpy(words.astype("<u4").view(np.uint8)), size)
    assert flags.dtype == torch.bool and np.array_equal(flags.numpy(), unpacked(words, size))


def test_ties_go_to_the_lowest_id_that_is_not_banned() -> None:
    selection = Selection(torch.zeros(131073, 1), 131073, 0, False)
    best, confidence = selection.best(torch.zeros(3, 131073), None, None)
    assert best.tolist() == [1, 1, 1] and torch.allclose(confidence, torch.tensor(1 / 131072))


def test_more_positions_than_one_piece_holds() -> None:
    """As many as a prompt has, in pieces of nearly one size; each position's answer is its own."""
    rng = torch.Generator().manual_seed(1)
    head, x = torch.randn(90, 8, generator=rng), torch.randn(2 * POSITIONS + 7, 8, generator=rng)
    allowed = torch.randint(0, 256, (len(x), 12), generator=rng, dtype=torch.uint8)
    some = Draws(torch.rand(len(x), generator=rng).round() * 2, torch.arange(len(x)), torch.arange(len(x)) + 3)
    selection = Selection(head, 90, 11, False)
    best, confidence = selection.answer(x, allowed, some)
    assert best.shape == confidence.shape == (len(x),)
    for place in range(0, len(x), 41):
        one = slice(place, place + 1)
        alone, sure = selection.best(logits_of(x[one], head), allowed[one], some.piece(one))
        assert alone.item() == best[place].item() and abs(sure.item() - confidence[place].item()) < 1e-5


def test_lines_that_fill_the_head_up_are_no_ids() -> None:
    """All real logits are below the zeros of the filling."""
    rng = torch.Generator().manual_seed(2)
    head, x = -torch.rand(90, 8, generator=rng), torch.rand(5, 8, generator=rng)
    wide = even_head(head)
    assert wide.shape == (96, 8) and even_head(wide).shape == (96, 8)
    best, confidence = Selection(wide, 90, None, False).answer(x, None, None)
    sure, right = (x @ head.T).double().softmax(1).max(1)
    assert best.tolist() == right.tolist() and torch.allclose(confidence.double(), sure, atol=1e-6)
    everything = torch.full((5, 12), 255, dtype=torch.uint8)
    loud = Draws(torch.full((5,), 9.0), torch.arange(5), torch.arange(5))
    assert Selection(wide, 90, None, False).answer(x, everything, loud)[0].max() < 90


def test_confidences_in_bfloat16_are_those_of_numpy() -> None:
    """From the same float32 logits; the best id is still that of the float32 ones."""
    logits = 4 * torch.randn(40, 64, generator=torch.Generator().manual_seed(3))
    logits[0] = 0
    logits[0, 7], logits[0, 9] = 8.01, 8.0101
    best, confidence = Selection(torch.zeros(64, 1), 64, None, True).best(logits.clone(), None, None)
    rough = to_bfloat16(logits.numpy().copy()).astype(np.float64)
    share = np.exp(rough - rough.max(1, keepdims=True))
    wanted = share[np.arange(40), best] / share.sum(1)
    assert best.tolist() == logits.argmax(1).tolist() and best[0] == 9
    assert np.abs(confidence.numpy() / to_bfloat16(wanted.astype(np.float32)) - 1).max() <= 2**-7
    assert np.array_equal(confidence.numpy(), to_bfloat16(confidence.numpy()))
    assert (confidence.numpy() == to_bfloat16(wanted.astype(np.float32))).mean() > 0.9
