"""The decoder in torch against numpy, plain arithmetic and the slow decoder: alone and in batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sensorium.engines import weights as checkpoint
from sensorium.engines.diffusion_vlm.config import read_config
from sensorium.engines.diffusion_vlm.decode import Decoding, Request, autoregress, diffuse, speculate, stream, tick
from sensorium.engines.diffusion_vlm.rows import Answer, Features, Row
from sensorium.engines.diffusion_vlm.schedule import Schedule
from sensorium.engines.diffusion_vlm.torch_model import TorchModel
from sensorium.engines.diffusion_vlm.weights import plan
from sensorium.errors import Unavailable
from tests.engines.diffusion_vlm.checkpoints import OFFICIAL_IDS, VARIANTS, Variant, write_checkpoint
from tests.engines.diffusion_vlm.reference import SlowDecoder
from tests.torch.decoders import CPU, Tiny, held

SHAPES = {name: VARIANTS[name] for name in ("plain", "wide_heads", "other_ids")} | {
    "one_key_head": Variant({"num_key_value_heads": 1, "num_attention_heads": 3, "head_dim": 10}, {}, OFFICIAL_IDS),
    "odd_vocabulary": Variant({"vocab_size": 201}, {}, OFFICIAL_IDS),
    "no_groups": Variant({"num_key_value_heads": 2, "num_attention_heads": 2, "head_dim": 16}, {}, OFFICIAL_IDS),
}
TOGETHER: dict[str, dict[str, Any]] = {
    "each": {"together": False},
    "together": {"together": True},
    "split": {"together": True, "attention": "split"},
}


@pytest.fixture(scope="module", params=list(SHAPES))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = write_checkpoint(tmp_path_factory.mktemp(request.param), SHAPES[request.param])
    config = read_config(folder)
    return Tiny(config, dict(checkpoint.load(folder, plan(config))))


def assert_equal(got: Sequence[Answer], wanted: Sequence[Answer], tolerance: float = 1e-5) -> None:
    assert len(got) == len(wanted)
    for (best, confidence), (right, sure) in zip(got, wanted, strict=True):
        assert best.dtype == np.int64 and confidence.dtype == np.float32
        assert best.tolist() == right.tolist()
        assert np.allclose(confidence, sure, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("causal", [True, False])
def test_logits_equal_those_of_numpy(tiny: Tiny, causal: bool) -> None:
    """60 positions with a window of 16: the frequency ramp and the growth of queries both act."""
    model, other = tiny.torch(), tiny.numpy()
    for start, stop in ((0, 1), (1, 30), (30, 50)):
        row = Row(2, start, tiny.tokens(50)[start:stop], True)
        assert np.allclose(model.logits(row), other.logits(row), rtol=2e-4, atol=2e-4)
    for block in (1, 7, 20):
        row = Row(2, 50, tiny.tokens(block, 1), causal)
        assert np.allclose(model.logits(row), other.logits(row), rtol=2e-4, atol=2e-4)
        last = Row(2, 50, tiny.tokens(block, 1), causal, last=True)
        assert np.allclose(model.logits(last), other.logits(row)[-1:], rtol=2e-4, atol=2e-4)


def mixed_rows(tiny: Tiny, seed: int) -> tuple[list[Row], list[Row]]:
    """Prompts of several lengths in some slots of 8, and after them rows of all phases and lengths, with holes between."""
    rng = np.random.default_rng(seed)
    slots = rng.permutation(8)[: rng.integers(2, 7)].tolist()
    long = [int(rng.integers(1, 200)) for _ in slots]
    prompts = [Row(slot, 0, tiny.tokens(count, slot), True, last=True) for slot, count in zip(slots, long, strict=True)]
    rows = []
    for slot, start in list(zip(slots, long, strict=True))[: rng.integers(1, 7)]:
        tokens = tiny.tokens(int(rng.choice([1, 1, 5, 8, 8, 20, 33])), int(rng.integers(99)))
        noise = {"temperature": 0.8, "seed": int(rng.integers(-(2**63), 2**63))} if rng.random() < 0.3 else {}
        rows.append(Row(slot, int(rng.integers(0, start + 1)), tokens, bool(rng.integers(2)), bool(rng.integers(2)), **noise))
    return prompts, rows


@pytest.mark.parametrize("together", list(TOGETHER))
def test_answers_equal_those_of_numpy(tiny: Tiny, together: str) -> None:
    model, other = tiny.torch(slots=8, **TOGETHER[together]), tiny.numpy(slots=8)
    for seed in range(8):
        prompts, rows = mixed_rows(tiny, seed)
        assert_equal(model.forward(prompts), other.forward(prompts))
        assert_equal(model.forward(rows), other.forward(rows))
    assert model.forward([]) == []


def test_a_batch_equals_its_singles_to_the_last_bit(tiny: Tiny) -> None:
    model, other = tiny.torch(slots=8), tiny.torch(slots=8)
    for seed in range(4):
        for rows in mixed_rows(tiny, seed):
            singles = [model.forward([row])[0] for row in rows]
            for (best, confidence), (right, sure) in zip(other.forward(rows), singles, strict=True):
                assert np.array_equal(best, right) and np.array_equal(confidence, sure)
    assert torch.equal(model.cache, other.cache)


def test_a_batch_writes_nothing_but_its_rows_places(tiny: Tiny) -> None:
    """Padding and idle slots leave every position of every slot as it was, whatever it holds."""
    model = tiny.torch(slots=8, together=True)
    for seed in range(4):
        _, rows = mixed_rows(tiny, seed)
        model.cache.normal_()
        before = held(model).clone()
        model.forward(rows)
        changed = (held(model) != before).any(dim=5).all(dim=3).all(dim=1).all(dim=0)
        wanted = torch.zeros_like(changed)
        for row in rows:
            wanted[row.slot, row.start : row.start + len(row.tokens)] = True
        assert torch.equal(changed, wanted)
        assert torch.equal((held(model) != before).flatten(3).any(), torch.tensor(True))
        assert torch.equal(held(model)[:, :, ~wanted.any(1)], before[:, :, ~wanted.any(1)])


@pytest.mark.parametrize("together", list(TOGETHER))
def test_nothing_above_a_row_is_read(tiny: Tiny, together: str) -> None:
    model = tiny.torch(slots=8, **TOGETHER[together])
    prompts, rows = mixed_rows(tiny, 3)
    model.forward(prompts)
    clean = model.forward(rows)
    for row in rows:
        held(model)[:, :, row.slot, :, row.start :] = 1e6
    for slot in {*range(8)} - {row.slot for row in rows}:
        held(model)[:, :, slot] = torch.nan
    for (best, confidence), (right, sure) in zip(model.forward(rows), clean, strict=True):
        assert np.array_equal(best, right) and np.array_equal(confidence, sure)


def test_no_answer_leaves_a_nan_for_the_next_in_its_slot(tiny: Tiny) -> None:
    model = tiny.torch(together=True)
    clean = model.forward([Row(0, 0, tiny.tokens(5), True)])
    broken = np.full((1, tiny.config.hidden), np.nan, np.float32)
    model.forward([Row(0, 0, tiny.tokens(30), True, features=Features([3], broken))])
    assert_equal(model.forward([Row(0, 0, tiny.tokens(5), True)]), clean)
    assert torch.isfinite(model.cache).all()


def test_what_is_no_number_in_a_prompt_is_told_by_its_last_position(tiny: Tiny) -> None:
    broken = np.full((1, tiny.config.hidden), np.nan, np.float32)
    ((_, confidence),) = tiny.torch().forward([Row(0, 0, tiny.tokens(30), True, True, features=Features([3], broken))])
    assert np.isnan(confidence).all()
    ((_, confidence),) = tiny.torch().forward([Row(0, 0, tiny.tokens(30), True, True)])
    assert np.isfinite(confidence).all()


@pytest.mark.parametrize("together", [False, True])
def test_features_replace_the_embeddings_at_their_places(tiny: Tiny, together: bool) -> None:
    rows = np.random.default_rng(1).normal(size=(3, tiny.config.hidden)).astype(np.float32)
    prompts = [
        Row(1, 0, tiny.tokens(9), True, features=Features([2, 3, 7], rows)),
        Row(0, 0, tiny.tokens(150), True, True, features=Features(range(140, 143), rows)),
        Row(2, 0, tiny.tokens(9), True),
    ]
    wanted = tiny.numpy().forward(prompts)
    assert_equal(tiny.torch(together=together).forward(prompts), wanted)
    as_tensors = [
        Row(row.slot, row.start, row.tokens, row.causal, row.last, features=row.features and Features(row.features.at, torch.tensor(rows)))
        for row in prompts
    ]
    assert_equal(tiny.torch(together=together).forward(as_tensors), wanted)


@pytest.mark.parametrize("together", list(TOGETHER))
def test_decoding_equals_the_slow_reference(tiny: Tiny, together: str) -> None:
    """All ways of decoding side by side, in slots that are taken anew; tokens and function evaluations."""
    rng = random.Random(1)
    slow = SlowDecoder(tiny.sees, tiny.config.mask, tiny.config.ends)
    model = tiny.torch(**TOGETHER[together])
    for seed in range(4):
        length, tau, steps = rng.choice([1, 2, 8]), rng.choice([None, 0.0, 0.5, 0.9]), rng.choice([1, 3, 8])
        prompts = [tiny.tokens(9 + 3 * slot, seed + slot) for slot in range(3)]
        programs: list[Any] = [
            partial(diffuse, schedule=Schedule(-(-20 // length), length, steps), threshold=tau),
            partial(speculate, length=length),
            autoregress,
        ]
        wanted = [
            slow.diffusion(prompts[0], 20, steps, length, tau),
            slow.linear(prompts[1], 20, length),
            slow.ar(prompts[2], 20),
        ]
        active = [
            Decoding(Request(prompt, 20, tiny.config.mask, tiny.config.ends, slot), program)
            for slot, (prompt, program) in enumerate(zip(prompts, programs, strict=True))
        ]
        while any(decoding.row for decoding in active):
            tick(active, model.forward)
        for decoding, right in zip(active, wanted, strict=True):
            assert (decoding.tokens, decoding.counts.evaluations, decoding.finish) == (right.tokens, right.nfe, right.finish)


@pytest.mark.parametrize("together", list(TOGETHER))
def test_temperature_draws_the_tokens_that_numpy_draws(tiny: Tiny, together: str) -> None:
    def tokens(forward: Any, seed: int) -> list[int]:
        request = Request([1, 2, 3], 12, tiny.config.mask, tiny.config.ends, slot=1, temperature=1.3, seed=seed)
        program = partial(diffuse, schedule=Schedule(3, 4, 2), threshold=0.5)
        return [token for block in stream(Decoding(request, program), forward, lambda: False) for token in block]

    model, other = tiny.torch(**TOGETHER[together]), tiny.numpy()
    drawn = [tokens(model.forward, seed) for seed in range(4)]
    assert drawn == [tokens(other.forward, seed) for seed in range(4)] and len({tuple(one) for one in drawn}) > 1


@pytest.mark.parametrize("together", [False, True])
def test_allowed_ids(tiny: Tiny, together: bool) -> None:
    """Masks for some rows of a tick, for all answers or the last; also beside a temperature."""
    rng = np.random.default_rng(5)
    words = -(-tiny.config.vocab // 32)
    some = rng.integers(0, 2**32, (5, words), dtype=np.uint32)
    rows = [
        Row(0, 0, tiny.tokens(5), False, allowed=some),
        Row(3, 0, tiny.tokens(7), True, last=True, allowed=some[:1], temperature=2.0, seed=3),
        Row(1, 0, tiny.tokens(1), True),
    ]
    assert_equal(tiny.torch(together=together).forward(rows), tiny.numpy().forward(rows))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("switches", [{"ban_mask": False}, {"float32_confidence": False}])
def test_switches_equal_those_of_numpy(tiny: Tiny, together: bool, switches: dict[str, bool]) -> None:
    """bfloat16 confidences may differ by one step where a float32 logit lies on the edge between two."""
    rows = [Row(slot, 0, tiny.tokens(30, slot), False) for slot in range(3)]
    tolerance = 1e-5 if "ban_mask" in switches else 1 / 64
    assert_equal(tiny.torch(together=together, **switches).forward(rows), tiny.numpy(**switches).forward(rows), tolerance)


def test_prefixes_are_copied(tiny: Tiny) -> None:
    model = tiny.torch(together=True)
    prompt, block = tiny.tokens(20), tiny.tokens(8, 1)
    model.forward([Row(1, 0, prompt, True)])
    held(model)[:, :, 3] = 7
    model.copy(1, 3, 12)
    assert torch.equal(held(model)[:, :, 3, :, :12], held(model)[:, :, 1, :, :12]) and (held(model)[:, :, 3, :, 12:] == 7).all()
    assert_equal(model.forward([Row(3, 12, block, False)]), model.forward([Row(1, 12, block, False)]))


def test_weights_are_taken_out_of_the_mapping(tiny: Tiny) -> None:
    tensors = tiny.tensors()
    TorchModel(tiny.config, tensors, device=CPU, dtype=torch.float32, slots=1, length=64)
    assert all("vision_tower" in name or "multi_modal_projector" in name for name in tensors)


def test_the_size_of_the_cache(tiny: Tiny) -> None:
    model = tiny.torch(slots=3, length=300)
    bytes_of_all = TorchModel.cache_bytes(tiny.config, torch.float32) * 3 * TorchModel.slot_positions(300)
    assert model.cache.numel() * 4 == bytes_of_all and TorchModel.slot_positions(300) >= 300


def test_positions_and_slots_that_are_not_there(tiny: Tiny) -> None:
    model = tiny.torch(together=True, length=50)
    model.forward([Row(3, 45, tiny.tokens(5), True)])
    with pytest.raises(ValueError, match="51"):
        model.forward([Row(3, 45, tiny.tokens(6), True)])
    with pytest.raises(ValueError, match=r"\[4\]"):
        model.forward([Row(4, 0, tiny.tokens(6), True)])
    with pytest.raises(ValueError, match=r"\[1, 1\]"):
        model.forward([Row(1, 0, tiny.tokens(6), True), Row(1, 0, tiny.tokens(6), True)])


@pytest.mark.parametrize("together", [False, True])
def test_bfloat16_runs_and_is_near(tiny: Tiny, together: bool) -> None:
    rows = [Row(slot, 0, tiny.tokens(12 + slot, slot), False) for slot in range(3)]
    wanted = tiny.numpy().forward(rows)
    got = tiny.torch(dtype=torch.bfloat16, together=together).forward(rows)
    for (best, confidence), (right, sure) in zip(got, wanted, strict=True):
        certain = sure > 0.5
        assert np.array_equal(best[certain], right[certain]) and np.abs(confidence - sure)[best == right].max() < 0.15


@pytest.mark.parametrize("together", [False, True])
def test_out_of_memory_is_told_and_the_model_goes_on(tiny: Tiny, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.torch(together=together)
    rows = [Row(0, 0, tiny.tokens(5), True)]
    clean = model.forward(rows)

    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("sensorium.engines.diffusion_vlm.torch_model.logits_of", full)
        patch.setattr("sensorium.engines.diffusion_vlm.torch_select.logits_of", full)
        with pytest.raises(Unavailable) as caught:
            model.forward(rows)
    assert caught.value.code == "out_of_memory" and caught.value.retry_after and caught.value.__context__ is None
    assert_equal(model.forward(rows), clean)


def test_a_checkpoint_folder_is_read_as_it_is(tmp_path: Path) -> None:
    """Shards and bfloat16, through the loader of numpy: the same answers as numpy's."""
    folder = write_checkpoint(tmp_path / "sharded", "sharded")
    config = read_config(folder)
    tiny = Tiny(config, dict(checkpoint.load(folder, plan(config))))
    rows = [Row(0, 0, tiny.tokens(12), False)]
    assert_equal(tiny.torch().forward(rows), tiny.numpy().forward(rows))
