"""The invocation service's own hosts: api.nvcf.nvidia.com (pexec, polling, assets) and the host that each function has.

Guesses: an id in the path that is no UUID is an unknown path; wrong methods are 405 with an empty body.
"""

from __future__ import annotations

import re
from typing import NoReturn

from sensorium.simulators.nvidia.auth import bearer
from sensorium.simulators.nvidia.call import Call
from sensorium.simulators.nvidia.catalog import ACCOUNT, Catalog, Model
from sensorium.simulators.nvidia.hosts import UUID
from sensorium.simulators.nvidia.invocation import Invocation, Terms
from sensorium.simulators.nvidia.jobs import DEFAULT_POLL_S, EVENTS_POLL_S
from sensorium.simulators.nvidia.replies import problem
from sensorium.simulators.nvidia.storage import Storage
from sensorium.simulators.replies import Refused, Reply, json_reply

EVENTS = "text/event-stream"
_PEXEC = re.compile(rf"/v2/nvcf/pexec/functions/({UUID})(?:/versions/({UUID}))?")
_STATUS = re.compile(r"/v2/nvcf/pexec/status/([^/]+)")
_ASSETS = re.compile(r"/v2/nvcf/assets(?:/([^/]+))?")


class Nvcf:
    """Answers for api.nvcf and for function hosts."""

    def __init__(self, catalog: Catalog, invocation: Invocation, storage: Storage) -> None:
        self._catalog, self._invocation, self._storage = catalog, invocation, storage

    async def api(self, call: Call, body: bytes) -> Reply:
        """Any call of api.nvcf.nvidia.com: the header is looked at before the path. Raises Refused."""
        path = call.place.path
        if path == "/health" and call.method == "GET":
            return json_reply({"status": "OK"})
        bearer(call)
        if found := _ASSETS.fullmatch(path):
            self._invocation.auth.member(call)
            return self._storage.assets(call, body, found[1] or "")
        if found := _STATUS.fullmatch(path):
            return await self._invocation.poll(call, found[1]) if call.method == "GET" else Reply(405)
        if found := _PEXEC.fullmatch(path):
            return await self._pexec(call, body, found[1].lower(), (found[2] or "").lower()) if call.method == "POST" else Reply(405)
        raise Refused(problem(404))

    async def function(self, call: Call, body: bytes) -> Reply:
        """Any call of a function's host: passed through to its container. Raises Refused."""
        model = self._function(call, call.place.function, call.place.version)
        return await self._invocation.invoke(call, body, model, call.place.path, Terms(DEFAULT_POLL_S, assets=False))

    async def _pexec(self, call: Call, body: bytes, function: str, version: str) -> Reply:
        model = self._function(call, function, version)
        streams = call.header("accept") == EVENTS
        terms = Terms(EVENTS_POLL_S if streams else DEFAULT_POLL_S, compatible=not streams)
        return await self._invocation.invoke(call, body, model, model.path, terms)

    def _function(self, call: Call, function: str, version: str) -> Model:
        model = self._catalog.by_function(function)
        if model is None or version not in ("", model.version):
            self._invocation.auth.member(call)
            _not_found(function, version)
        return model


def _not_found(function: str, version: str) -> NoReturn:
    who = f"Function id '{function}', version '{version}'" if version else f"Function '{function}'"
    raise Refused(problem(404, f"{who}: Not found for account '{ACCOUNT}'"))
