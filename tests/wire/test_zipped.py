"""Results in zips: the body is found, paths that climb are left alone, sizes are bounded."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import UpstreamFailed
from sensorium.wire.zipped import Result, result

CAP = 10_000
HOSTILE = ["../a.response", "/etc/a.response", "a/../../b.response", "C:\\a.response", "c:a.response", "..\\a.response"]


def packed(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path), data, method)
    return out.getvalue()


def test_the_body_and_the_film_beside_it() -> None:
    assert result(packed({"a.txt": b"x", "id.response": b"{}", "out/b.mp4": b"m"}), "p", CAP) == Result(b"{}", b"m")
    assert result(packed({"b.MP4": b"m"}), "p", CAP) == Result(None, b"m")


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_paths_are_left_alone(path: str) -> None:
    assert result(packed({path: b"bad", "id.response": b"{}"}), "p", CAP).response == b"{}"
    with pytest.raises(UpstreamFailed, match="holds no result"):
        result(packed({path: b"bad"}), "p", CAP)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (packed({"id.response": bytes(CAP + 1)}), "more than 10000 bytes"),
        (packed({"id.response": bytes(CAP), "b.mp4": b"x"}), "more than 10000 bytes"),
        (packed({f"{number}.txt": b"" for number in range(1001)} | {"id.response": b""}), "1000 members"),
        (packed({"a.txt": b""}), "holds no result"),
        (b"no zip", "cannot be read"),
        (b"", "cannot be read"),
        (packed({"id.response": b"x" * 100})[:60], "cannot be read"),
    ],
    ids=["large", "together", "many", "nothing", "other", "empty", "cut"],
)
def test_what_is_not_unpacked(data: bytes, said: str) -> None:
    with pytest.raises(UpstreamFailed, match=said):
        result(data, "p", CAP)


def test_a_member_that_lies_about_its_size_is_not_unpacked_beyond_it() -> None:
    """The directory says 10 bytes; what is packed there are a million."""
    data = packed({"id.response": bytes(1_000_000)})
    size = struct.pack("<I", 1_000_000)
    lying = data.replace(size, struct.pack("<I", 10))
    assert lying != data
    with pytest.raises(UpstreamFailed, match="cannot be read"):
        result(lying, "p", CAP)
    assert len(zlib.compress(bytes(1_000_000))) < CAP


@given(st.binary(max_size=200), st.integers(0, 150))
def test_no_bytes_break_the_reader(noise: bytes, at: int) -> None:
    whole = packed({"id.response": b"hello" * 10})
    try:
        result(whole[:at] + noise + whole[at + len(noise) :], "p", CAP)
    except UpstreamFailed as error:
        assert error.message
