"""How many answers fit beside a model: the specification's figures for the 8B, and the rules on small numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from sensorium.engines.diffusion_vlm.config import Rope, VisionConfig, VLMConfig, read_config
from sensorium.engines.diffusion_vlm.room import CPU, GPU, STEP, Custom, Demand, Room, choose_room, demand, position_bytes
from sensorium.engines.diffusion_vlm.weights import plan
from sensorium.errors import SettingsError
from tests.engines.diffusion_vlm.checkpoints import write_checkpoint

OFFICIAL = VLMConfig(
    hidden=4096, layers=34, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocab=131073, eps=1e-5, positions=262144, block_size=32,
    mask=100, ends=frozenset({11}), merge=2, rope=Rope(theta=1e6, factor=16, window=16384, beta_fast=32, beta_slow=1, query_scale=0.1),
    vision=VisionConfig(hidden=1024, layers=24, heads=16, head_dim=64, ffn=4096, patch=14, channels=3, activation="silu", theta=1e4),
)  # fmt: skip
GB = 10**9
SMALL = Demand(weights=1000, work=500, position=10, scratch=0)
PLAIN = Custom(slots=4, length=2048)


def refusal(needs: Demand, free: int, positions: int, custom: Custom, **asked: int) -> str:
    with pytest.raises(SettingsError) as caught:
        choose_room(needs, free, positions, custom, **asked)
    (said,) = caught.value.problems
    return said


def test_the_figures_of_the_8b() -> None:
    """Section 12: 8.92 B parameters, 17.8 GB, 139,264 bytes per token, and 32 slots of 8k beside them in 80 GB."""
    needs = demand(OFFICIAL, 2, 2, graphs=True)
    assert needs.position == position_bytes(OFFICIAL, 2) == 139_264
    assert 17.8 * GB < needs.weights < 17.9 * GB
    assert needs.cache(Room(32, 8192)) == 32 * 8192 * 139_264 < 36.6 * GB
    assert choose_room(replace(needs, scratch=128), 80 * GB, OFFICIAL.positions, GPU) == Room(32, 8192)


def test_a_float32_tower_costs_what_it_has() -> None:
    tower = sum(math.prod(shape) for name, shape in plan(OFFICIAL).items() if ".vision_tower." in name or ".multi_modal" in name)
    assert demand(OFFICIAL, 2, 4).weights - demand(OFFICIAL, 2, 2).weights == 2 * tower
    assert 0.4 * GB < tower < 0.45 * GB


@pytest.mark.parametrize("free", [26, 30, 40, 48, 56])
def test_smaller_cards_take_fewer_slots_and_all_bytes_fit(free: int) -> None:
    needs = demand(OFFICIAL, 2, 2, scratch=128, graphs=True)
    room = choose_room(needs, free * GB, OFFICIAL.positions, GPU)
    assert room.length == 8192 and 1 <= room.slots < 32
    rest = free * GB - needs.weights - needs.work
    assert needs.cache(room) <= rest < needs.cache(Room(room.slots + 1, 8192))


def test_where_not_one_full_slot_fits_it_gets_shorter() -> None:
    assert choose_room(SMALL, 1500 + 10 * 1700, 9999, PLAIN) == Room(1, 1700 // STEP * STEP)
    assert "1 slots of 1024 positions take 10,240 bytes, but only 10,239 of 11,739 free" in refusal(SMALL, 11_739, 9999, PLAIN)


def test_a_short_model_needs_no_more_than_it_has() -> None:
    assert choose_room(SMALL, 1500 + 10 * 400, 100, PLAIN) == Room(4, 100)
    assert choose_room(SMALL, 1500 + 10 * 399, 100, PLAIN) == Room(3, 100)


def test_scratch_positions_are_counted() -> None:
    padded = replace(SMALL, scratch=100)
    assert choose_room(padded, 1500 + 4 * 10 * 300, 200, PLAIN) == Room(4, 200)
    assert choose_room(padded, 1500 + 4 * 10 * 300 - 1, 200, PLAIN) == Room(3, 200)


def test_a_slot_has_whole_units() -> None:
    units = replace(SMALL, unit=128)
    assert choose_room(units, 1500 + 4 * 10 * 256, 200, PLAIN) == Room(4, 200)
    assert choose_room(units, 1500 + 4 * 10 * 256 - 1, 200, PLAIN) == Room(3, 200)


def test_what_is_asked_for_is_kept_or_refused_with_the_bytes() -> None:
    free = 1500 + 10 * 6000
    assert choose_room(SMALL, free, 9999, PLAIN, slots=6, context=1000) == Room(6, 1000)
    assert choose_room(SMALL, free, 9999, PLAIN, context=6000) == Room(1, 6000)
    assert choose_room(SMALL, free, 9999, PLAIN, slots=5) == Room(5, 1024)
    said = refusal(SMALL, free, 9999, PLAIN, slots=6, context=1001)
    assert said == (
        "6 slots of 1001 positions take 60,060 bytes, but only 60,000 of 61,500 free ones are left after 1,000 bytes of weights and 500 to "
        "work with; lower slots or context"
    )
    assert "6 slots of 1024 positions take 61,440" in refusal(SMALL, free, 9999, PLAIN, slots=6)


def test_a_share_binds_what_nobody_asked_for() -> None:
    """A machine's main memory is not the model's alone; who names numbers may take more."""
    quarter = replace(PLAIN, share=0.25)
    free = 40 * 2048
    assert choose_room(SMALL, free, 9999, quarter) == Room(1, 2048)
    assert choose_room(SMALL, free, 9999, quarter, slots=3, context=2048) == Room(3, 2048)
    assert choose_room(demand(OFFICIAL, 4, 4), 64 * GB, OFFICIAL.positions, CPU) == Room(4, 4096)


def test_a_model_that_does_not_fit_says_what_it_takes() -> None:
    assert refusal(SMALL, 1500, 9999, PLAIN) == (
        "the model does not fit: it takes 1,000 bytes of weights and 500 to work with, 1,500 bytes are free"
    )


@pytest.mark.parametrize("asked", [{"slots": -1}, {"context": -1}, {"context": 10_000}])
def test_numbers_that_no_model_can_have(asked: dict[str, int]) -> None:
    assert "nor context above this model's 9999" in refusal(SMALL, GB, 9999, PLAIN, **asked)


def test_the_weights_are_those_of_the_files(tmp_path: Path) -> None:
    config = read_config(write_checkpoint(tmp_path))
    size = (tmp_path / "model.safetensors").stat().st_size
    header = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    assert demand(config, 4, 4).weights == size - 8 - header
