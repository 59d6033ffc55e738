"""The host of files: what apps made, for everyone who knows the address, without a key (section 8)."""

from __future__ import annotations

import uuid
from typing import Final

from sensorium.simulators.fal.faults import Faults
from sensorium.simulators.fal.replies import said
from sensorium.simulators.replies import Reply

KEPT: Final = 200  # files
ENDINGS: Final = {"image/jpeg": "jpeg", "image/png": "png", "video/mp4": "mp4"}


class Files:
    """The newest files."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._files: dict[str, Reply] = {}

    def keep(self, data: bytes, media: str, base: str) -> str:
        """Keep a file; returns its address below `base`."""
        while len(self._files) >= KEPT:
            del self._files[next(iter(self._files))]
        path = f"/files/{uuid.uuid4().hex}.{ENDINGS[media]}"
        self._files[path] = Reply(200, data, {"content-type": media, "cache-control": "public, max-age=31536000"})
        return base + path

    def answer(self, method: str, path: str) -> Reply:
        """GET or HEAD of a file."""
        if method not in ("GET", "HEAD"):
            return said(405, "Method Not Allowed")
        gone = self._faults.pick("file", path)[0]
        return said(404, "Not Found") if gone else self._files.get(path, said(404, "Not Found"))
