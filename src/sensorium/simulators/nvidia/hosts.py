"""Which of NVIDIA's hosts a request is for: one port serves all of them (section 13, N14).

In this order: the first segment of the path (`/ai.api.nvidia.com/v1/...`), the Host header, a `function-id` header, and for a bare path
the only host that has it. Four places of our own stand beside them: `s3` (presigned storage), `nim` (local containers) and
`simulator` (control).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sensorium.simulators.nvidia.catalog import AI, INTEGRATE, NVCF, VANITY

FUNCTIONS = ".invocation.api.nvcf.nvidia.com"
S3, NIM, CONTROL = "s3", "nim", "simulator"
HOSTS = (INTEGRATE, *VANITY, NVCF)
UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_FUNCTION = re.compile(rf"(?:({UUID})\.)?({UUID}){re.escape(FUNCTIONS)}")
MAGPIE, PARAKEET = "877104f7-e885-42b9-8de8-f6e4c6303969", "1598d209-5e27-4d3c-8079-4751568b1081"
# Of two functions that synthesise, a bare path takes the one that lists voices as well.
BARE_SPEECH = {
    "/v1/audio/synthesize": MAGPIE,
    "/v1/audio/synthesize_online": MAGPIE,
    "/v1/audio/list_voices": MAGPIE,
    "/v1/audio/transcriptions": PARAKEET,
}
BARE_HOSTS = (
    (NVCF, ("/v2/nvcf/",)),
    (AI, ("/v1/genai/", "/v1/vlm/", "/v1/gr/", "/v1/retrieval/", "/v1/cv/", "/v1/cosmos/", "/v1/status/")),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A host and a path on it. `function` and `version` are set where the host is one function's own."""

    host: str
    path: str
    function: str = ""
    version: str = ""


def locate(path: str, host: str, function: str, version: str) -> Place:
    """Where a request goes; `host`, `function` and `version` are its headers, "" when missing."""
    first, _, rest = path.removeprefix("/").partition("/")
    if first in (*HOSTS, S3, NIM, CONTROL):
        return Place(first, f"/{rest}")
    if match := _FUNCTION.fullmatch(first):
        return _function(match, f"/{rest}")
    name = host.partition(":")[0].lower()
    if name in HOSTS:
        return Place(name, path)
    if match := _FUNCTION.fullmatch(name):
        return _function(match, path)
    function = function or BARE_SPEECH.get(path, "")
    if function:
        return Place(FUNCTIONS, path, function.lower(), version.lower())
    return Place(next((host for host, starts in BARE_HOSTS if path.startswith(starts)), INTEGRATE), path)


def _function(match: re.Match[str], path: str) -> Place:
    return Place(FUNCTIONS, path, match[2].lower(), (match[1] or "").lower())
