"""What is sealed opens with its key and in its place, and with nothing else."""

from __future__ import annotations

import base64
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.store.sealing import Belonging, Broken, MasterKey, seal, unseal

KEY = bytes(range(32))
PLACE: Belonging = ("value", "nvidia-image", 3)


@given(st.binary(max_size=64))
def test_what_is_sealed_opens_and_shows_nothing(plain: bytes) -> None:
    sealed = seal(KEY, plain, PLACE)
    assert unseal(KEY, sealed, PLACE) == plain
    assert len(sealed) == 12 + len(plain) + 16
    assert sealed != seal(KEY, plain, PLACE)


def test_every_flipped_bit_is_noticed() -> None:
    sealed = seal(KEY, b"nvapi-1", PLACE)
    for byte, bit in product(range(len(sealed)), range(8)):
        altered = bytearray(sealed)
        altered[byte] ^= 1 << bit
        with pytest.raises(Broken):
            unseal(KEY, bytes(altered), PLACE)


@pytest.mark.parametrize(
    "place", [("value", "nvidia-image", 4), ("value", "nvidia-imag", "e3"), ("value", "nvidia-image", "3"), ("value", "nvidia-image3"), ()]
)
def test_it_opens_in_its_own_place_only(place: Belonging) -> None:
    with pytest.raises(Broken):
        unseal(KEY, seal(KEY, b"nvapi-1", PLACE), place)


@pytest.mark.parametrize("sealed", [b"", b"short", b"x" * 28, seal(KEY, b"", PLACE)[:-1]])
def test_what_is_too_short_is_broken(sealed: bytes) -> None:
    with pytest.raises(Broken):
        unseal(KEY, sealed, PLACE)


def test_another_key_opens_nothing() -> None:
    with pytest.raises(Broken):
        unseal(bytes(32), seal(KEY, b"nvapi-1", PLACE), PLACE)


def test_a_master_key_reads_back_and_has_an_id_that_is_its_own() -> None:
    key, other = MasterKey.random(), MasterKey.random()
    assert MasterKey.parse(f" {key.text()}\n") == key
    assert MasterKey.parse(key.text()).id == key.id != other.id
    assert len(key.id) == 16 and int(key.id, 16) >= 0
    assert key.text() not in repr(key) and repr(key.material) not in repr(key)


@pytest.mark.parametrize("text", ["", "hello", base64.b64encode(bytes(31)).decode(), base64.b64encode(bytes(33)).decode(), "ü" * 44])
def test_what_is_no_master_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="32 random bytes in base64") as caught:
        MasterKey.parse(text)
    assert not text or text not in str(caught.value)
