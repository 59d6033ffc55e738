"""Uploads and downloads: NVCF assets (4.6) and the presigned store behind them and behind large results (6.4).

Guesses: the words of the 400s for bad bodies and bad ids, S3's error documents, that a download may be fetched more than once within
its hour. Sizes are bounded by the cap on request bodies.
"""

from __future__ import annotations

import io
import secrets
import uuid
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import msgspec

from sensorium.simulators.nvidia.call import Call
from sensorium.simulators.nvidia.catalog import ACCOUNT
from sensorium.simulators.nvidia.replies import problem
from sensorium.simulators.replies import Refused, Reply, json_reply

URL_LIFE_S, ASSET_LIFE_S = 3600.0, 24 * 3600.0
DESCRIPTION = "x-amz-meta-nvcf-asset-description"
NO_DESCRIPTION = "Description not available"


@dataclass(slots=True)
class Asset:
    """One asset; `data` is None until it was uploaded."""

    id: str
    content_type: str
    description: str
    created: float
    data: bytes | None = None


class Storage:
    """Holds assets and results. Presigned URLs are single random tokens."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._assets: dict[str, Asset] = {}
        self._uploads: dict[str, tuple[Asset, float]] = {}
        self._downloads: dict[str, tuple[bytes, float]] = {}

    def offer(self, origin: str, data: bytes) -> str:
        """A presigned URL below `origin` from which `data` can be fetched for an hour."""
        self._expire()
        token = secrets.token_urlsafe(18)
        self._downloads[token] = (data, self._now())
        return f"{origin}/s3/results/{token}?X-Amz-Signature=simulated&X-Amz-Expires={URL_LIFE_S:.0f}"

    def referenced(self, header: str) -> dict[str, bytes]:
        """The uploads that NVCF-INPUT-ASSET-REFERENCES names. Raises Refused for a bad id (400) and an unknown asset (404)."""
        self._expire()
        return {id: self._uploaded(id) for id in (_checked(part) for part in header.split(",") if part.strip())}

    def assets(self, call: Call, body: bytes, id: str) -> Reply:
        """`/v2/nvcf/assets` and `/v2/nvcf/assets/{id}`. Raises Refused."""
        self._expire()
        if not id:
            return self._list() if call.method == "GET" else self._create(call, body) if call.method == "POST" else Reply(405)
        asset = self._assets.get(_checked(id))
        if asset is None:
            raise Refused(problem(404, f"Asset '{id}' does not exist for account '{ACCOUNT}'"))
        if call.method == "DELETE":
            del self._assets[asset.id]
            return Reply(204)
        return _shown(asset) if call.method == "GET" else Reply(405)

    async def presigned(self, call: Call, body: bytes) -> Reply:
        """The store itself: PUT an upload, GET a result. Credentials are refused, as S3 does beside a signed query."""
        if call.has("authorization"):
            return _s3(400, "InvalidArgument", "Only one auth mechanism allowed")
        if "X-Amz-Signature" not in parse_qs(call.query):
            return _s3(403, "AccessDenied", "Access Denied")
        folder, _, token = call.place.path.removeprefix("/").partition("/")
        if call.method == "PUT" and folder == "assets" and token in self._uploads:
            return self._put(call, body, token)
        if call.method == "GET" and folder == "results" and token in self._downloads:
            data, at = self._downloads[token]
            return _expired() if self._now() - at > URL_LIFE_S else Reply(200, data, {"content-type": "application/zip"})
        return _s3(404, "NoSuchKey", "The specified key does not exist.")

    def _create(self, call: Call, body: bytes) -> Reply:
        try:
            wanted = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError:
            raise Refused(problem(400, "failed to parse request body")) from None
        kind, said = wanted.get("contentType"), wanted.get("description")
        if not isinstance(kind, str) or not isinstance(said, str):
            raise Refused(problem(400, "contentType and description are required"))
        asset = Asset(str(uuid.uuid4()), kind, said, self._now())
        self._assets[asset.id] = asset
        token = secrets.token_urlsafe(18)
        self._uploads[token] = (asset, self._now())
        url = f"{call.origin}/s3/assets/{token}?X-Amz-Signature=simulated&X-Amz-Expires={URL_LIFE_S:.0f}"
        return json_reply({"assetId": asset.id, "uploadUrl": url, "contentType": kind, "description": said})

    def _list(self) -> Reply:
        return json_reply({"assets": [{"assetId": id} for id in self._assets]})

    def _put(self, call: Call, body: bytes, token: str) -> Reply:
        asset, at = self._uploads[token]
        if self._now() - at > URL_LIFE_S:
            return _expired()
        if (call.header("content-type"), call.header(DESCRIPTION)) != (asset.content_type, asset.description):
            return _s3(403, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")
        asset.data = body
        return Reply(200)

    def _uploaded(self, id: str) -> bytes:
        asset = self._assets.get(id)
        if asset is None or asset.data is None:
            raise Refused(problem(404, f"NotFound error: failed to find asset {id}"))
        return asset.data

    def _expire(self) -> None:
        now = self._now()
        self._assets = {id: asset for id, asset in self._assets.items() if now - asset.created <= ASSET_LIFE_S}
        self._uploads = {token: kept for token, kept in self._uploads.items() if now - kept[1] <= ASSET_LIFE_S}
        self._downloads = {token: kept for token, kept in self._downloads.items() if now - kept[1] <= 2 * URL_LIFE_S}


def packed(files: Mapping[str, bytes]) -> bytes:
    """A zip of `files` by path."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path), data)
    return out.getvalue()


def _checked(id: str) -> str:
    try:
        return str(uuid.UUID(id.strip()))
    except ValueError:
        raise Refused(problem(400, f"failed to parse asset id: {id.strip()[:60]}")) from None


def _shown(asset: Asset) -> Reply:
    created = datetime.fromtimestamp(asset.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    said = asset.description or NO_DESCRIPTION
    return json_reply({"asset": {"assetId": asset.id, "description": said, "contentType": asset.content_type, "createdAt": created}})


def _expired() -> Reply:
    return _s3(403, "AccessDenied", "Request has expired")


def _s3(status: int, code: str, said: str) -> Reply:
    document = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{said}</Message></Error>'
    return Reply(status, document.encode(), {"content-type": "application/xml"})
