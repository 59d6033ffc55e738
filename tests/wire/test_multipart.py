"""Forms: what real clients write is read, what we write is read by others, and no bytes break the reader."""

from __future__ import annotations

import asyncio
from email import message_from_bytes
from email.message import Message

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.errors import BadRequest
from sensorium.wire.multipart import Part, build, field, is_form, parse, without

CURL = (
    b'--------------------------d74496d66958873e\r\nContent-Disposition: form-data; name="file"; filename="clip \\"1\\".wav"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\nRIFF\r\n--\x00\xff\r\n"
    b'--------------------------d74496d66958873e\r\nContent-Disposition: form-data; name="model"\r\n\r\nparakeet\r\n'
    b"--------------------------d74496d66958873e--\r\n"
)
CURL_TYPE = "multipart/form-data; boundary=------------------------d74496d66958873e"
NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\\"), min_size=1, max_size=20)
# every name but those that hold what the escapes of other clients look like
PARTS = st.lists(
    st.builds(
        Part, NAMES.filter(lambda name: "%" not in name), st.binary(max_size=200), st.none() | NAMES.filter(lambda name: "%" not in name),
        st.none() | st.sampled_from(["audio/wav", "application/json; charset=utf-8"]),
    ), max_size=8,
)  # fmt: skip


def test_what_curl_writes() -> None:
    file, model = parse(CURL, CURL_TYPE)
    assert (file.name, file.filename, file.media, bytes(file.data)) == (
        "file",
        'clip "1".wav',
        "application/octet-stream",
        b"RIFF\r\n--\x00\xff",
    )
    assert (model.name, model.filename, model.text()) == ("model", None, "parakeet")


def test_what_aiohttp_writes() -> None:
    async def written() -> tuple[str, bytes]:
        form = aiohttp.FormData()
        form.add_field("file", b"\x01\x02\r\n", filename="ä.wav", content_type="audio/wav")
        form.add_field("language", "en-US")
        payload = form()
        return payload.headers["content-type"], await payload.as_bytes()

    media, body = asyncio.run(written())
    file, language = parse(body, media)
    assert (file.name, file.media, bytes(file.data)) == ("file", "audio/wav", b"\x01\x02\r\n")
    assert language.text() == "en-US"


@given(PARTS)
def test_what_we_write_we_read(parts: list[Part]) -> None:
    media, body = build(parts, "b" * 32)
    if any(b"--" + b"b" * 32 in bytes(part.data) for part in parts):
        return
    assert [(p.name, p.filename, p.media, bytes(p.data)) for p in parse(body, media)] == [
        (p.name, p.filename, p.media, p.data) for p in parts
    ]  # fmt: skip


def test_what_we_write_the_standard_library_reads() -> None:
    media, body = build([Part("text", b"hello"), Part("prompt", b"\x00\r\n\xff", "p.wav", "audio/wav")])
    message = message_from_bytes(b"Content-Type: " + media.encode() + b"\r\n\r\n" + body)
    pieces = message.get_payload()
    assert isinstance(pieces, list)
    text, prompt = (piece for piece in pieces if isinstance(piece, Message))
    assert text.get_param("name", header="content-disposition") == "text"
    assert prompt.get_filename() == "p.wav"
    assert prompt.get_payload(decode=True) == b"\x00\r\n\xff"


@pytest.mark.parametrize(
    ("body", "media", "reason"),
    [
        (CURL, "multipart/form-data", "names no boundary"),
        (CURL, "multipart/form-data; boundary=other", "does not hold the boundary"),
        (CURL[:-30], CURL_TYPE, "middle of a part"),
        (CURL[:120], CURL_TYPE, "middle of a part"),
        (b"", CURL_TYPE, "does not hold the boundary"),
        (CURL.replace(b'name="model"', b""), CURL_TYPE, "part 2 of the form has no name"),
        (CURL.replace(b"application/octet-stream", b"x" * 5000), CURL_TYPE, "middle of a part"),
        (b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n" * 101 + b"--b--", "multipart/form-data; boundary=b", "more than 100"),
    ],
)  # fmt: skip
def test_a_bad_form_is_refused_with_its_reason(body: bytes, media: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        parse(body, media)


@given(st.binary(max_size=300))
def test_no_bytes_break_the_reader(body: bytes) -> None:
    for whole in (body, b"--b\r\n" + body, b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n" + body + b"\r\n--b"):
        try:
            parse(whole, 'multipart/form-data; boundary="b"')
        except BadRequest as error:
            assert error.message


def test_fields_are_found_and_left_out() -> None:
    parts = [Part("model", b"x"), Part("file", b"y", "f"), Part("model", b"z")]
    assert (field(parts, "model"), field(parts, "file"), field(parts, "none")) == ("x", None, None)
    assert [part.name for part in without(parts, "model")] == ["file"]
    assert is_form("Multipart/Form-Data; boundary=x") and not is_form("application/json")
    with pytest.raises(BadRequest, match="not UTF-8"):
        field([Part("a", b"\xff")], "a")
