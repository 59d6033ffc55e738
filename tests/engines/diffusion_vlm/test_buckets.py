"""Rows of a tick as batches: everybody once, everything fits, padding only where it costs no time."""

from __future__ import annotations

import random

import pytest

from sensorium.engines.diffusion_vlm.buckets import RIDGE, Bucket, Limits, bucket_of, common_buckets, goes_alone, grouped
from sensorium.engines.diffusion_vlm.rows import Features, Row

MANY = Limits(slots=32, length=8192, adapter=True)


def row(slot: int, count: int, start: int = 0, **more: object) -> Row:
    return Row(slot, start, [1] * count, True, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([row(0, 1)], Bucket(1, 1, 1024)),
        ([row(0, 1, 1023)], Bucket(1, 1, 1024)),
        ([row(0, 1, 1024)], Bucket(1, 1, 2048)),
        ([row(1, 33, 2000)], Bucket(2, 64, 2048)),
        ([row(2, 2), row(0, 128, 5000)], Bucket(4, 128, 8192)),
        ([row(31, 9, temperature=0.1)], Bucket(32, 16, 1024, noisy=True)),
        ([row(0, 8, draft=True), row(1, 8)], Bucket(2, 8, 1024, drafting=True)),
        ([row(0, 8, allowed=[]), row(1, 8)], Bucket(2, 8, 1024, constrained=True)),
    ],
)
def test_the_smallest_bucket_that_holds_all_rows(rows: list[Row], wanted: Bucket) -> None:
    assert bucket_of(rows, MANY) == wanted


def test_buckets_end_at_what_the_model_has() -> None:
    few = Limits(slots=6, length=1500)
    assert bucket_of([row(5, 8, 1400, draft=True)], few) == Bucket(6, 8, 1500)
    assert bucket_of([row(0, 8)], Limits(1, 300)) == Bucket(1, 8, 300)


def test_pieces_of_prompts_go_alone() -> None:
    assert goes_alone(row(0, 129)) and goes_alone(row(0, 3, features=Features([1], [[0.0]])))
    assert not goes_alone(row(0, 128, draft=True, temperature=1.0))


def lengths(groups: list[list[Row]]) -> list[list[int]]:
    return [sorted(len(one.tokens) for one in group) for group in groups]


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([], []),
        ([row(slot, count) for slot, count in enumerate([32, 1, 20, 1])], [[1, 1, 20, 32]]),
        ([row(slot, 32) for slot in range(32)], [[32] * 32]),
        ([row(slot, 128 if slot < 2 else 1) for slot in range(32)], [[128, 128], [1] * 30]),
        ([row(slot, 128 if slot == 31 else 1) for slot in range(32)], [[1] * 31 + [128]]),
    ],
    ids=["nothing", "below the ridge", "one length", "far above", "idle slots would be computed anyway"],
)
def test_when_rows_of_several_lengths_share_a_batch(rows: list[Row], wanted: list[list[int]]) -> None:
    assert lengths(grouped(rows, MANY)) == wanted


def test_groups_hold_every_row_once_and_are_not_dearer_than_the_plain_ways() -> None:
    rng = random.Random(0)
    for _ in range(300):
        slots = rng.sample(range(32), rng.randint(1, 32))
        rows = [row(slot, rng.choice([1, 1, 4, 8, 16, 30, 32, 64, 128]), rng.randint(0, 8000)) for slot in slots]
        groups = grouped(rows, MANY)
        assert sorted(one.slot for group in groups for one in group) == sorted(slots)
        buckets = [bucket_of(group, MANY) for group in groups]
        assert len({bucket.tokens for bucket in buckets}) == len(buckets)
        for group, bucket in zip(groups, buckets, strict=True):
            assert all(len(one.tokens) <= bucket.tokens and one.start + len(one.tokens) <= bucket.reach for one in group)
            assert all(one.slot < bucket.rows for one in group)
        cost = sum(max(RIDGE, bucket.rows * bucket.tokens) for bucket in buckets)
        whole = bucket_of(rows, MANY)
        by_length: dict[int, list[Row]] = {}
        for one in rows:
            by_length.setdefault(next(length for length in (1, 8, 16, 32, 64, 128) if length >= len(one.tokens)), []).append(one)
        assert cost <= max(RIDGE, whole.rows * whole.tokens)
        assert cost <= sum(bucket_of(group, MANY).cost for group in by_length.values())


def test_the_common_buckets() -> None:
    buckets = common_buckets(Limits(6, 3000))
    assert {bucket.rows for bucket in buckets} == {1, 2, 4, 6} and {bucket.reach for bucket in buckets} == {1024, 2048, 3000}
    assert {bucket.tokens for bucket in buckets} == {1, 32} and len(set(buckets)) == len(buckets) == 24
    assert not any(bucket.noisy or bucket.constrained or bucket.drafting for bucket in buckets)
    assert bucket_of([row(5, 32, 2900)], Limits(6, 3000)) in buckets
