"""What may end a path that goes on to a provider."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import BadRequest
from sensorium.wire.paths import checked


@pytest.mark.parametrize("path", ["transcriptions", "nvidia/cosmos-predict1-7b", "a/b_c/d.e:f@g+h", "x" * 200, ".a", "a."])
def test_plain_paths(path: str) -> None:
    assert checked(path, path.encode()) == path


@pytest.mark.parametrize(
    "path", ["", ".", "..", "a/..", "a/./b", "/a", "a/", "a//b", "a b", "a?b", "a#b", "a%b", "a;b", "ä", "a\n", "a\\b"]
)
def test_others(path: str) -> None:
    with pytest.raises(BadRequest) as refused:
        checked(path, path.encode())
    assert refused.value.code == "invalid_path"


@given(st.text(st.sampled_from("ab./\\%2eEfF:@+-_?# \r\n\0ä"), max_size=12))
def test_what_passes_means_the_same_to_every_reader(raw: str) -> None:
    try:
        path = checked(unquote(raw), raw.encode())
    except BadRequest:
        return
    assert re.fullmatch(r"[\w.:@+/-]+", path, re.ASCII)
    assert ".." not in path
    assert quote(path, safe="/:@+") == path
    assert not any(hidden in raw.lower() for hidden in ("%2e", "%2f", "%5c", "%25", "%00"))
