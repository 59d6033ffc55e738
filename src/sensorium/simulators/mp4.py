"""A small MP4 file (ISO/IEC 14496-12, -14) of JPEG frames: one video track, no sound. Frames may repeat without being stored twice."""

from __future__ import annotations

import struct
from collections.abc import Sequence

TIMESCALE = 90_000
MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
JPEG_OBJECT, VISUAL_STREAM = 0x6C, 0x11  # object type and stream type of ISO/IEC 14496-1


def mp4(frames: Sequence[bytes], order: Sequence[int], width: int, height: int, fps: float) -> bytes:
    """The file that shows `frames[i]` for each i of `order`, at `fps` frames per second."""
    head = _box(b"ftyp", b"isom", struct.pack(">I", 0x200), b"isomiso2mp41")
    step = round(TIMESCALE / fps)
    # The size of moov does not depend on the offsets inside it, so it is made twice.
    blank = _moov([0] * len(order), [len(frames[i]) for i in order], width, height, step)
    start = len(head) + len(blank) + 8
    starts, at = [], start
    for frame in frames:
        starts.append(at)
        at += len(frame)
    moov = _moov([starts[i] for i in order], [len(frames[i]) for i in order], width, height, step)
    return head + moov + _box(b"mdat", *frames)


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body


def _full(kind: bytes, *parts: bytes, flags: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", flags), *parts)


def _moov(offsets: Sequence[int], sizes: Sequence[int], width: int, height: int, step: int) -> bytes:
    length = step * len(sizes)
    times = struct.pack(">IIII", 0, 0, TIMESCALE, length)
    mvhd = _full(b"mvhd", times, struct.pack(">IHHII", 0x10000, 0x100, 0, 0, 0), MATRIX, bytes(24), struct.pack(">I", 2))
    tkhd_body = struct.pack(">IIIIIIIHHHH", 0, 0, 1, 0, length, 0, 0, 0, 0, 0, 0) + MATRIX + struct.pack(">II", width << 16, height << 16)
    mdhd = _full(b"mdhd", times, struct.pack(">HH", 0x55C4, 0))
    hdlr = _full(b"hdlr", struct.pack(">I", 0), b"vide", bytes(12), b"video\0")
    dinf = _box(b"dinf", _full(b"dref", struct.pack(">I", 1), _full(b"url ", flags=1)))
    table = _samples(offsets, sizes, width, height, step)
    minf = _box(b"minf", _full(b"vmhd", bytes(8), flags=1), dinf, table)
    trak = _box(b"trak", _full(b"tkhd", tkhd_body, flags=3), _box(b"mdia", mdhd, hdlr, minf))
    return _box(b"moov", mvhd, trak)


def _samples(offsets: Sequence[int], sizes: Sequence[int], width: int, height: int, step: int) -> bytes:
    """stbl: one sample per chunk, so that several chunks may point at the same bytes."""
    count = len(sizes)
    entry = struct.pack(">6xH16xHHIIIH32sHh", 1, width, height, 0x480000, 0x480000, 0, 1, bytes(32), 24, -1)
    stsd = _full(b"stsd", struct.pack(">I", 1), _box(b"mp4v", entry, _esds()))
    stts = _full(b"stts", struct.pack(">III", 1, count, step))
    stsc = _full(b"stsc", struct.pack(">IIII", 1, 1, 1, 1))
    stsz = _full(b"stsz", struct.pack(f">II{count}I", 0, count, *sizes))
    stco = _full(b"stco", struct.pack(f">I{count}I", count, *offsets))
    return _box(b"stbl", stsd, stts, stsc, stsz, stco)


def _esds() -> bytes:
    decoder = struct.pack(">BBBBBxxxII", 0x04, 13, JPEG_OBJECT, VISUAL_STREAM, 0, 0, 0)
    sync = struct.pack(">BBB", 0x06, 1, 2)
    return _full(b"esds", struct.pack(">BBHB", 0x03, 3 + len(decoder) + len(sync), 1, 0), decoder, sync)
