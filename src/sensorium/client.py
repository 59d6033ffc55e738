"""The hub as a caller sees it: a small blocking client on the standard library, for the command line and for scripts.

Knows the doors' shapes that it uses. Does not know the hub's parts, its settings, or the environment.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sensorium.errors import SensoriumError
from sensorium.wire import dataurl, picture, sse

DEFAULT_URL = "http://127.0.0.1:8789"
_REQUESTS = "/v1/requests"
_PATIENCE = 300.0  # seconds without a byte; a drawing on a busy machine sends none until it is done


class CallFailed(SensoriumError):
    """The hub was reached and the call did not succeed; the message is the hub's own where it sent one."""

    code = "call_failed"


class HubUnreachable(SensoriumError):
    """Nothing answers at the hub's address."""

    code = "hub_unreachable"


class _Direct(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the token belongs to the hub's own address."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn picture as encoded bytes, and what the hub said about it ("" where it said nothing)."""

    data: bytes
    media_type: str
    model: str
    ignored: str = ""


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub at `url` (http or https, no trailing slash needed), called with `token` when it is not empty.

    Every method raises HubUnreachable when nobody answers there, and CallFailed for everything that goes wrong after that.
    """

    url: str = DEFAULT_URL
    token: str = ""

    def models(self) -> list[dict[str, Any]]:
        """The entries of GET /v1/models."""
        with self._call("/v1/models", {}) as reply:
            entries = _json(reply.read()).get("data")
        if not isinstance(entries, list):
            raise CallFailed(f"{self.url}/v1/models did not send a list of models; is this a Sensorium hub?")
        return [entry for entry in entries if isinstance(entry, dict)]

    def calls(self, limit: int, *, caller: str = "", outcome: str = "") -> dict[str, Any]:
        """The reply of GET /v1/calls: the last calls, newest first; only those of a caller, or of an outcome, where one is given."""
        wanted = {"limit": str(limit)} | {name: value for name, value in (("caller", caller), ("outcome", outcome)) if value}
        with self._call(f"/v1/calls?{urllib.parse.urlencode(wanted)}", {}) as reply:
            return _json(reply.read())

    def call(self, id: str) -> dict[str, Any]:
        """The reply of GET /v1/calls/ID: the newest call of this id."""
        with self._call(f"/v1/calls/{urllib.parse.quote(id, safe=':')}", {}) as reply:
            return _json(reply.read())

    def jobs(self, limit: int, *, after: str = "", app: str = "", state: str = "", caller: str = "") -> dict[str, Any]:
        """The reply of GET /v1/requests: the queue's requests, newest first, beyond `after`; those of an app, of states, of a caller."""
        filters = {"after": after, "app": app, "state": state, "caller": caller}
        wanted = {"limit": str(limit)} | {name: value for name, value in filters.items() if value}
        with self._call(f"{_REQUESTS}?{urllib.parse.urlencode(wanted)}", {}) as reply:
            return _json(reply.read())

    def job(self, id: str) -> dict[str, Any]:
        """The reply of GET /v1/requests/ID: one request, with the lines that it logged."""
        with self._call(_request_path(id), {}) as reply:
            return _json(reply.read())

    def cancel(self, id: str) -> dict[str, Any]:
        """Have a request of the queue cancelled; it as it stands then."""
        with self._call(f"{_request_path(id)}/cancel", {}, {}) as reply:
            return _json(reply.read())

    def retry(self, id: str) -> dict[str, Any]:
        """Have a request of the queue that failed run again; it as it stands then."""
        with self._call(f"{_request_path(id)}/retry", {}, {}) as reply:
            return _json(reply.read())

    def status(self) -> dict[str, Any]:
        """The answer of GET /v1/status."""
        with self._call("/v1/status", {}) as reply:
            told = _json(reply.read())
        if told.get("object") != "status":
            raise CallFailed(f"{self.url}/v1/status did not send a status; is this a Sensorium hub?")
        return told

    def see(self, image_url: str, question: str, model: str = "*") -> Iterator[str]:
        """Ask about one picture; yields the answer's text piece by piece as it is made. `image_url` is a data: or http(s) URL."""
        parts = [{"type": "text", "text": question}, {"type": "image_url", "image_url": {"url": image_url}}]
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": parts}]}
        with self._call("/v1/chat/completions", {"Accept": "text/event-stream"}, body) as reply:
            for line in reply:
                payload = sse.data(line.decode("utf-8", "replace"))
                if payload == "[DONE]":
                    return
                if payload:
                    yield from _deltas(_json(payload))
        raise CallFailed("the answer broke off before its end")

    def draw(self, prompt: str, media_type: str, model: str, *, seed: int | None = None, steps: int | None = None) -> Picture:
        """Draw `prompt` as a picture of `media_type` (image/png or image/jpeg). What is None is left to the model."""
        wanted = {"seed": seed, "steps": steps}
        body = {"prompt": prompt} | {name: value for name, value in wanted.items() if value is not None}
        path = "/v1/genai/" + urllib.parse.quote(model, safe="/:@")
        with self._call(path, {"Accept": media_type}, body) as reply:
            data, said = reply.read(), reply.headers
        found = picture.media_type(data)
        if found != media_type:
            raise CallFailed(f"the hub was asked for {media_type} and sent {found or 'something that is no picture'}")
        return Picture(data, media_type, said.get("x-sensorium-model", ""), said.get("x-sensorium-ignored", ""))

    @contextmanager
    def _call(self, path: str, headers: dict[str, str], body: dict[str, Any] | None = None) -> Iterator[http.client.HTTPResponse]:
        request = urllib.request.Request(self.url.rstrip("/") + path, headers=headers)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with _opener(self.url).open(request, timeout=_PATIENCE) as reply:
                yield reply
        except urllib.error.HTTPError as error:
            raise CallFailed(_refusal(error)) from None
        except urllib.error.URLError as error:
            raise self._unsent(error.reason) from None
        except TimeoutError:
            raise CallFailed(f"the hub sent nothing for {_PATIENCE:.0f} seconds") from None
        except (http.client.HTTPException, ConnectionError) as error:
            raise CallFailed(f"the connection to the hub broke off: {str(error) or type(error).__name__}") from None

    def _unsent(self, reason: object) -> SensoriumError:
        if isinstance(reason, BrokenPipeError | ConnectionResetError):
            return CallFailed("the hub closed the connection while the request was being sent; the picture may exceed its body cap")
        return HubUnreachable(
            f"no hub at {self.url} ({getattr(reason, 'strerror', None) or reason})", hint="start one with: sensorium serve"
        )


def _request_path(id: str) -> str:
    return f"{_REQUESTS}/{urllib.parse.quote(id, safe='')}"


def data_url(data: bytes) -> str:
    """The picture as a data: URL whose media type is read off its bytes; unknown bytes are left for the hub to judge."""
    return dataurl.build(picture.media_type(data) or "application/octet-stream", data)


def _opener(url: str) -> urllib.request.OpenerDirector:
    host = urllib.parse.urlsplit(url).hostname or ""
    here = [urllib.request.ProxyHandler({})] if _is_loopback(host) else []
    return urllib.request.build_opener(_Direct, *here)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _json(text: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        raise CallFailed("the hub sent something that is not JSON") from None
    if not isinstance(found, dict):
        raise CallFailed("the hub sent JSON that is not an object")
    return found


def _deltas(chunk: dict[str, Any]) -> Iterator[str]:
    if "error" in chunk:
        raise CallFailed(_message(chunk) or "the hub reported an error in mid-stream")
    for choice in chunk.get("choices") or ():
        text = (choice.get("delta") or {}).get("content")
        if text:
            yield text


def _refusal(error: urllib.error.HTTPError) -> str:
    body = error.read()
    try:
        said = _message(_json(body))
    except CallFailed:
        said = body[:200].decode("utf-8", "replace").strip()
    return f"{' '.join(said.split()) or error.reason} (HTTP {error.code})"


def _message(body: dict[str, Any]) -> str:
    """What an error body says, in the OpenAI dialect or in NVIDIA's (`detail` as text or as a list of problems)."""
    error, detail = body.get("error"), body.get("detail")
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        hint = error.get("hint")
        return f"{error['message']}; {hint}" if hint else str(error["message"])
    if isinstance(detail, list):
        return "; ".join(str(item.get("msg", item)) if isinstance(item, dict) else str(item) for item in detail)
    return str(detail or error or "")
