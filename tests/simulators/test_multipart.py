"""The strict reader of forms, against what clients really write and against what they must not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.simulators.multipart import BadForm, Field, parse

TYPE = "multipart/form-data; boundary=sim"


def written(*parts: bytes) -> bytes:
    return b"".join(b"--sim\r\n" + part + b"\r\n" for part in parts) + b"--sim--\r\n"


def test_values_and_files() -> None:
    body = written(
        b'Content-Disposition: form-data; name="language"\r\n\r\nen-US',
        b'Content-Disposition: form-data; name="file"; filename="clip.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n\r\n\x00',
    )
    assert parse(TYPE, body) == [Field("language", b"en-US"), Field("file", b"RIFF\r\n\r\n\x00", "clip.wav", "audio/wav")]
    assert parse('multipart/form-data; boundary="sim"', b"preamble\r\n" + body)[0].text == "en-US"


@given(st.lists(st.binary(max_size=200).filter(lambda data: b"--sim" not in data), max_size=4))
def test_any_bytes_come_through(values: list[bytes]) -> None:
    parts = [b'Content-Disposition: form-data; name="a"; filename="f"\r\n\r\n' + value for value in values]
    assert [field.data for field in parse(TYPE, written(*parts))] == values


@pytest.mark.parametrize(
    ("content_type", "body", "said"),
    [
        ("application/json", b"{}", "not multipart"),
        ("multipart/form-data", b"", "with a boundary"),
        (TYPE, b"", "does not occur"),
        (TYPE, b"--other\r\n", "does not occur"),
        (TYPE, b'--sim\r\nContent-Disposition: form-data; name="a"\r\n\r\nb', "closing boundary"),
        (TYPE, written(b"no headers"), "without headers"),
        (TYPE, written(b"Content-Type: text/plain\r\n\r\na"), "Content-Disposition"),
        (TYPE, written(b"Content-Disposition: form-data\r\n\r\na"), "a name"),
    ],
)
def test_what_is_no_form(content_type: str, body: bytes, said: str) -> None:
    with pytest.raises(BadForm, match=said):
        parse(content_type, body)
