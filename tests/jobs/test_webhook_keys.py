"""Signing keys: published a day before their first use, kept three days after their last."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sensorium.jobs.outbox import Outbox
from sensorium.jobs.webhook_keys import AHEAD_S, KEPT_S, Keys
from sensorium.store.database import Database
from sensorium.store.masterkey import KeyFile
from sensorium.store.signing import Signing
from sensorium.store.vault import Vault
from sensorium.wire import webhook
from tests.store.vaults import KEY, Clock


class Held:
    """Keys and the clock by which they change."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.clock = Clock()
        self.signing = Signing(Vault(database, KeyFile(folder / KEY), self.clock))
        self.keys = Keys(Outbox(database, self.clock), self.signing, self.clock)

    def kids(self) -> list[str]:
        return [key["kid"] for key in json.loads(self.keys.published())["keys"]]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    with closing(Database(tmp_path)) as database:
        yield Held(database, tmp_path)


def test_the_first_key_is_there_when_it_is_asked_for(held: Held) -> None:
    (kid, again) = held.kids()
    assert kid == again
    assert held.keys.seed() == held.signing.key(f"webhook/{kid}")
    published = json.loads(held.keys.published())["keys"]
    assert published == json.loads(webhook.jwks([(kid, held.keys.seed())]))["keys"]


def test_a_new_key_is_published_a_day_before_its_first_use_and_the_old_kept_three_days_after_its_last(held: Held) -> None:
    old, old_kid = held.keys.seed(), held.kids()[0]
    held.clock.now += 1000
    new = held.keys.rotate()
    assert new.first_use_at == held.clock() + AHEAD_S
    assert held.kids() == [old_kid] * 2 + [new.kid] * 2
    held.clock.now = new.first_use_at - 1
    assert held.keys.seed() == old
    held.clock.now = new.first_use_at
    assert held.keys.seed() == held.signing.key(f"webhook/{new.kid}") != old
    held.clock.now = new.first_use_at + KEPT_S - 1
    assert set(held.kids()) == {old_kid, new.kid}
    held.clock.now += 1
    assert held.kids() == [new.kid] * 2


def test_a_key_on_its_way_is_not_overtaken(held: Held) -> None:
    held.keys.seed()
    first = held.keys.rotate()
    assert held.keys.rotate() == first
    held.clock.now = first.first_use_at
    second = held.keys.rotate()
    assert second.kid != first.kid
    assert len(set(held.kids())) == 3
    held.clock.now = second.first_use_at + KEPT_S
    third = held.keys.rotate()
    assert set(held.kids()) == {second.kid, third.kid}


def test_to_rotate_is_safe_before_anything_was_signed(held: Held) -> None:
    new = held.keys.rotate()
    assert len(set(held.kids())) == 2
    assert new.first_use_at == held.clock() + AHEAD_S


def test_keys_outlive_the_process(tmp_path: Path) -> None:
    with closing(Database(tmp_path)) as database:
        before = Held(database, tmp_path)
        seed, published = before.keys.seed(), before.keys.published()
    with closing(Database(tmp_path)) as database:
        after = Held(database, tmp_path)
        assert (after.keys.seed(), after.keys.published()) == (seed, published)
