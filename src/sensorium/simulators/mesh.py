"""A tetrahedron as a file: binary glTF 2.0 (GLB), or binary STL."""

from __future__ import annotations

import json
import struct

CORNERS = ((1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))
FACES = ((0, 1, 2), (0, 3, 1), (0, 2, 3), (1, 3, 2))
FLOAT, VEC3_TARGET = 5126, 34962


def glb(size: float) -> bytes:
    """A GLB file of a tetrahedron whose corners lie at ±`size`."""
    points = _triangles(size)
    data = b"".join(struct.pack("<3f", *point) for point in points)
    scene = {
        "asset": {"version": "2.0", "generator": "sensorium simulate"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "accessors": [
            {"bufferView": 0, "componentType": FLOAT, "count": len(points), "type": "VEC3", "min": [-size] * 3, "max": [size] * 3}
        ],
        "bufferViews": [{"buffer": 0, "byteLength": len(data), "target": VEC3_TARGET}],
        "buffers": [{"byteLength": len(data)}],
    }
    text = json.dumps(scene, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def stl(size: float) -> bytes:
    """A binary STL file of the same tetrahedron; normals are left to the reader."""
    points = _triangles(size)
    triangles = [points[start : start + 3] for start in range(0, len(points), 3)]
    body = b"".join(struct.pack("<12fH", 0, 0, 0, *(axis for point in corners for axis in point), 0) for corners in triangles)
    return bytes(80) + struct.pack("<I", len(triangles)) + body


def _triangles(size: float) -> list[tuple[float, float, float]]:
    return [(x * size, y * size, z * size) for face in FACES for x, y, z in (CORNERS[corner] for corner in face)]
