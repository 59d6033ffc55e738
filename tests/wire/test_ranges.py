"""Ranges of files: what is asked for lies inside the file, or is refused, or is not heard."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.wire import ranges
from sensorium.wire.ranges import RangeNotSatisfiable


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=2-4", (2, 5)),
        ("bytes=4-", (4, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=0-99", (0, 10)),
        ("BYTES = 1 - 2 ", (1, 3)),
        ("", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=4-2", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
        ("bytes=٣-٤", None),
        ("bytes=0-1\n", (0, 2)),
    ],
)
def test_single_ranges(header: str, expected: tuple[int, int] | None) -> None:
    assert ranges.single(header, 10) == expected


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=10-12", 10), ("bytes=-0", 10), ("bytes=0-", 0), ("bytes=-1", 0)])
def test_nothing_is_there(header: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable, match=f"has {size} bytes"):
        ranges.single(header, size)


@given(st.integers(0, 50), st.integers(0, 60) | st.none(), st.integers(0, 60) | st.none())
def test_a_range_is_what_slicing_gives(size: int, first: int | None, last: int | None) -> None:
    data = bytes(range(size))
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    try:
        found = ranges.single(header, size)
    except RangeNotSatisfiable:
        found = (0, 0)
    if first is None:
        expected = data if last is None else data[max(0, size - last) :]
    else:
        expected = data[first:] if last is None else data[first : last + 1] if first <= last else data
    start, end = found or (0, size)
    assert data[start:end] == expected


@given(st.text(alphabet="bytes=-, 0123456789x", max_size=30), st.integers(0, 1000))
def test_any_text_gives_a_range_inside_the_file_or_none(header: str, size: int) -> None:
    for text in (header, f"bytes={header}"):
        try:
            found = ranges.single(text, size)
        except RangeNotSatisfiable:
            continue
        assert found is None or 0 <= found[0] < found[1] <= size


def test_entity_tags() -> None:
    assert ranges.matches('"a"', '"a"')
    assert ranges.matches('"b", W/"a"', '"a"')
    assert ranges.matches("*", '"a"')
    assert not ranges.matches("", '"a"')
    assert not ranges.matches('"b"', '"a"')
