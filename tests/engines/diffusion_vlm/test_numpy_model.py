"""The fast forward against plain arithmetic: cache, masks, positions, pictures, selection."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sensorium.engines import weights as checkpoint
from sensorium.engines.diffusion_vlm.config import Rope, VLMConfig, read_config
from sensorium.engines.diffusion_vlm.decode import Decoding, Request, autoregress, diffuse, speculate, stream, tick
from sensorium.engines.diffusion_vlm.numpy_layers import gelu, silu
from sensorium.engines.diffusion_vlm.numpy_model import NumpyModel, to_bfloat16, yarn_frequencies
from sensorium.engines.diffusion_vlm.numpy_vision import Tower
from sensorium.engines.diffusion_vlm.rows import Features, Row
from sensorium.engines.diffusion_vlm.schedule import Schedule
from sensorium.engines.diffusion_vlm.weights import CONVERSIONS, plan
from sensorium.errors import SettingsError
from tests.engines.diffusion_vlm import plain
from tests.engines.diffusion_vlm.checkpoints import VARIANTS, random_weights, write_checkpoint, write_weights
from tests.engines.diffusion_vlm.reference import SlowDecoder


@dataclass
class Tiny:
    """One tiny checkpoint, its weights as they come out of the loader, and a model on them."""

    config: VLMConfig
    weights: Mapping[str, plain.Array]
    model: NumpyModel

    def sees(self, tokens: list[int], visible: np.ndarray) -> plain.Array:
        return plain.decoder(self.weights, self.config, self.weights["encoder.embed_tokens.weight"][tokens], visible)


@pytest.fixture(scope="module", params=list(VARIANTS))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    folder = write_checkpoint(tmp_path_factory.mktemp(request.param), request.param)
    config = read_config(folder)
    tensors = dict(checkpoint.load(folder, plan(config)))
    yield Tiny(config, tensors, NumpyModel(config, tensors))


def tokens_of(tiny: Tiny, count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, tiny.config.vocab, count).tolist()


def causal(count: int) -> np.ndarray:
    return np.tril(np.ones((count, count), bool))


def test_causal_and_bidirectional_rows_after_a_cached_prompt(tiny: Tiny) -> None:
    """60 positions with a window of 16: the frequency ramp and the growth of queries both act."""
    prompt, block = tokens_of(tiny, 40), tokens_of(tiny, 20, 1)
    whole = tiny.sees(prompt + block, causal(60))
    both = causal(60)
    both[40:, 40:] = True
    first = tiny.model.logits(Row(0, 0, prompt, True))
    assert np.allclose(first, whole[:40], atol=2e-4)
    assert np.allclose(tiny.model.logits(Row(0, 40, block, False)), tiny.sees(prompt + block, both)[40:], atol=2e-4)
    assert np.allclose(tiny.model.logits(Row(0, 40, block, True)), whole[40:], atol=2e-4)
    assert np.allclose(tiny.model.logits(Row(0, 40, block, True, last=True)), whole[-1:], atol=2e-4)
    assert np.allclose(tiny.model.logits(Row(0, 59, block[-1:], True)), whole[-1:], atol=2e-4)


def test_a_prompt_in_pieces_equals_the_whole(tiny: Tiny) -> None:
    prompt = tokens_of(tiny, 50)
    for start, stop in ((0, 1), (1, 30), (30, 50)):
        out = tiny.model.logits(Row(0, start, prompt[start:stop], True))
    assert np.allclose(out, tiny.sees(prompt, causal(50))[30:], atol=2e-4)


def test_nothing_above_the_start_of_a_row_is_read(tiny: Tiny) -> None:
    prompt = tokens_of(tiny, 10)
    tiny.model.logits(Row(0, 0, prompt, True))
    clean = tiny.model.logits(Row(0, 10, prompt[:4], False))
    tiny.model.cache[:, :, :, :, 10:] = np.nan
    assert np.array_equal(tiny.model.logits(Row(0, 10, prompt[:4], False)), clean)
    tiny.model.cache[:] = 0


def test_slots_do_not_touch_each_other(tiny: Tiny) -> None:
    one, two = tokens_of(tiny, 12), tokens_of(tiny, 12, 5)
    model = NumpyModel(tiny.config, tiny.weights)
    model.reserve(3, 40)
    alone = model.forward([Row(1, 0, one, True)])[0]
    together = model.forward([Row(2, 0, two, True), Row(1, 0, one, True), Row(0, 0, two, False)])[1]
    assert np.array_equal(alone[0], together[0]) and np.array_equal(alone[1], together[1])


def test_a_full_cache_is_an_error_and_not_garbage(tiny: Tiny) -> None:
    capacity = tiny.model.cache.shape[4]
    with pytest.raises(ValueError, match=str(capacity)):
        tiny.model.logits(Row(0, capacity - 3, tokens_of(tiny, 4), True))


def test_the_tower_and_the_projector(tiny: Tiny) -> None:
    pixels = np.random.default_rng(3).normal(size=(3, 16, 24)).astype(np.float32)
    tower = Tower(tiny.config, tiny.weights)
    patches = plain.tower(tiny.weights, tiny.config, pixels)
    assert np.allclose(tower.encode(pixels), patches, atol=1e-4)
    wanted = plain.projector(tiny.weights, tiny.config, patches, 4, 6)
    assert np.allclose(tower.features(pixels), wanted, atol=1e-4) and wanted.shape == (6, tiny.config.hidden)


def test_features_replace_the_embeddings_at_their_places(tiny: Tiny) -> None:
    prompt, rows = tokens_of(tiny, 9), np.random.default_rng(1).normal(size=(3, tiny.config.hidden)).astype(np.float32)
    x = tiny.weights["encoder.embed_tokens.weight"][prompt].copy()
    x[[2, 3, 7]] = rows
    wanted = plain.decoder(tiny.weights, tiny.config, x, causal(9))
    before = tiny.model.embeddings.copy()
    assert np.allclose(tiny.model.logits(Row(0, 0, prompt, True, features=Features([2, 3, 7], rows))), wanted, atol=2e-4)
    assert np.array_equal(before, tiny.model.embeddings)


def test_decoding_with_the_cache_equals_the_slow_reference(tiny: Tiny) -> None:
    rng = random.Random(1)
    slow = SlowDecoder(tiny.sees, tiny.config.mask, tiny.config.ends)
    for seed in range(6):
        prompt, length, tau, steps = (
            tokens_of(tiny, 9, seed),
            rng.choice([1, 2, 8]),
            rng.choice([None, 0.0, 0.5, 0.9]),
            rng.choice([1, 3, 8]),
        )
        schedule = Schedule(-(-20 // length), length, steps)
        for program, wanted in (
            (partial(diffuse, schedule=schedule, threshold=tau), slow.diffusion(prompt, 20, steps, length, tau)),
            (partial(speculate, length=length), slow.linear(prompt, 20, length)),
            (autoregress, slow.ar(prompt, 20)),
        ):
            decoding = Decoding(Request(prompt, 20, tiny.config.mask, tiny.config.ends), program)
            list(stream(decoding, tiny.model.forward, lambda: False))
            assert (decoding.tokens, decoding.counts.evaluations, decoding.finish) == (wanted.tokens, wanted.nfe, wanted.finish)


def test_a_batch_equals_its_singles_to_the_last_bit(tiny: Tiny) -> None:
    def answers(model: NumpyModel, together: bool) -> list[tuple[list[int], int]]:
        programs: list[Any] = [partial(diffuse, schedule=Schedule(3, 8, 4), threshold=0.5), autoregress, partial(speculate, length=8)]
        active = [
            Decoding(Request(tokens_of(tiny, 6 + slot, slot), 20, tiny.config.mask, tiny.config.ends, slot), program)
            for slot, program in enumerate(programs)
        ]
        for some in [active] if together else [[one] for one in active]:
            while any(decoding.row for decoding in some):
                tick(some, model.forward)
        return [(decoding.tokens, decoding.counts.evaluations) for decoding in active]

    model = NumpyModel(tiny.config, tiny.weights)
    model.reserve(3, 64)
    assert answers(model, together=True) == answers(model, together=False)


def test_temperature_draws_the_same_tokens_in_every_way_of_decoding(tiny: Tiny) -> None:
    def tokens(program: Any, seed: int) -> list[int]:
        request = Request([1, 2, 3], 12, tiny.config.mask, tiny.config.ends, temperature=1.3, seed=seed)
        return [token for block in stream(Decoding(request, program), tiny.model.forward, lambda: False) for token in block]

    single = [tokens(autoregress, seed) for seed in range(4)]
    assert single == [tokens(partial(diffuse, schedule=Schedule(12, 1, 1), threshold=None), seed) for seed in range(4)]
    assert len({tuple(one) for one in single}) > 1
    assert tiny.config.mask not in {token for one in single for token in one}


def test_noise_belongs_to_the_predicted_position(tiny: Tiny) -> None:
    """A causal row at 4 and a bidirectional one at 5 both predict position 5, so equal logits draw equal ids."""
    flat = np.zeros((3, tiny.config.vocab), np.float32)
    causal_row = Row(0, 4, [1, 1, 1], True, temperature=1.0, seed=8)
    ahead, _ = tiny.model._select(causal_row, flat.copy())
    at, _ = tiny.model._select(replace(causal_row, start=5, causal=False), flat.copy())
    final, _ = tiny.model._select(replace(causal_row, last=True), flat[:1].copy())
    assert ahead.tolist() == at.tolist() and final.tolist() == ahead.tolist()[-1:] and len(set(at.tolist())) > 1


def test_confidence_is_noise_free_and_leaves_the_mask_out(tiny: Tiny) -> None:
    row = Row(0, 0, tokens_of(tiny, 5), False)
    logits = tiny.model.logits(row).astype(np.float64)
    logits[:, tiny.config.mask] = -np.inf
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    best, confidence = tiny.model.forward([row])[0]
    assert best.tolist() == probability.argmax(1).tolist() and np.allclose(confidence, probability.max(1), atol=1e-5)
    drawn, sure = tiny.model.forward([replace(row, temperature=2.0, seed=9)])[0]
    assert drawn.tolist() != best.tolist() and np.allclose(sure, probability[np.arange(5), drawn], atol=1e-5)


def select(tiny: Tiny, logits: Any, model: NumpyModel | None = None) -> tuple[list[int], list[float]]:
    best, confidence = (model or tiny.model)._select(Row(0, 0, [1], False), np.array([logits], np.float32))
    return best.tolist(), confidence.tolist()


def test_ties_go_to_the_lowest_id_and_the_mask_is_banned(tiny: Tiny) -> None:
    logits = np.zeros(tiny.config.vocab)
    assert select(tiny, logits)[0] == [0]
    logits[tiny.config.mask], logits[60] = 50, 10
    assert select(tiny, logits)[0] == [60]
    assert select(tiny, logits, NumpyModel(tiny.config, tiny.weights, ban_mask=False))[0] == [tiny.config.mask]


def test_confidences_may_be_taken_in_bfloat16_for_golden_comparisons(tiny: Tiny) -> None:
    logits = np.zeros(tiny.config.vocab)
    logits[50] = 8.01
    rough = select(tiny, logits, NumpyModel(tiny.config, tiny.weights, float32_confidence=False))[1][0]
    fine = select(tiny, logits)[1][0]
    assert rough == float(to_bfloat16(np.array([rough], np.float32))[0]) and 0 < abs(rough - fine) < 1 / 128


def test_the_official_frequencies() -> None:
    """The large checkpoint: pairs up to 20 unscaled, from 37 on divided by 16."""
    ratio = yarn_frequencies(128, Rope(1e6, 16.0, 16384, 32.0, 1.0, 0.1)) * 1e6 ** (2.0 * np.arange(64) / 128)
    assert np.flatnonzero(np.isclose(ratio, 1))[-1] == 20 and np.flatnonzero(np.isclose(ratio, 1 / 16))[0] == 37


def test_activations_over_their_whole_range() -> None:
    x = np.concatenate([np.linspace(-12, 12, 4001), [-2000, -100, -89, 0, 89, 2000]]).astype(np.float32)
    assert np.allclose(gelu(x), plain.gelu(x.astype(np.float64)), atol=2e-6)
    assert np.allclose(silu(x), x / (1 + np.exp(-np.clip(x, -700, None).astype(np.float64))), atol=1e-5)


@pytest.mark.parametrize("change", ["drop", "rename", "reshape"])
def test_a_changed_tensor_is_named(tmp_path: Path, change: str) -> None:
    folder = write_checkpoint(tmp_path)
    config = read_config(folder)
    content = random_weights(config, 0)
    name = "encoder.layers.1.mlp.up_proj.weight"
    values = content.pop(name)
    if change == "rename":
        content["language_model." + name] = values
    if change == "reshape":
        content[name] = values[:-1]
    write_weights(folder, content)
    with pytest.raises(SettingsError) as caught:
        checkpoint.load(folder, plan(config), foreign=CONVERSIONS)
    assert any(name in problem for problem in caught.value.problems)
    assert any("conversion" in problem for problem in caught.value.problems) == (change == "rename")
    assert len(caught.value.problems) == {"drop": 1, "rename": 3, "reshape": 1}[change]
