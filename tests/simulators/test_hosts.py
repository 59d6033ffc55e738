"""One port for all hosts: which one a request is for, by path, by header, or by what only one host has."""

from __future__ import annotations

import pytest

from sensorium.simulators.nvidia.hosts import Place, locate
from tests.simulators.site import CUBE, HELLO, Site

MAGPIE, PARAKEET = "877104f7-e885-42b9-8de8-f6e4c6303969", "1598d209-5e27-4d3c-8079-4751568b1081"
OTHER = "0c1f0b0e-0000-4000-8000-000000000000"
FUNCTIONS = ".invocation.api.nvcf.nvidia.com"
INTEGRATE, AI, NVCF = "integrate.api.nvidia.com", "ai.api.nvidia.com", "api.nvcf.nvidia.com"


@pytest.mark.parametrize(
    ("path", "host", "function", "version", "expected"),
    [
        (f"/{AI}/v1/genai/a/b", "localhost", "", "", Place(AI, "/v1/genai/a/b")),
        (f"/{INTEGRATE}/v1/models", AI, MAGPIE, "", Place(INTEGRATE, "/v1/models")),
        (f"/{NVCF}", "localhost", "", "", Place(NVCF, "/")),
        ("/v1/models", INTEGRATE, "", "", Place(INTEGRATE, "/v1/models")),
        ("/v1/status/x", f"{AI.upper()}:443", "", "", Place(AI, "/v1/status/x")),
        (f"/{MAGPIE}{FUNCTIONS}/v1/audio/synthesize", "", "", "", Place(FUNCTIONS, "/v1/audio/synthesize", MAGPIE)),
        (f"/{OTHER}.{MAGPIE.upper()}{FUNCTIONS}/v1/x", "", "", "", Place(FUNCTIONS, "/v1/x", MAGPIE, OTHER)),
        ("/v1/x", f"{MAGPIE}{FUNCTIONS}", "", "", Place(FUNCTIONS, "/v1/x", MAGPIE)),
        ("/v1/x", "localhost", MAGPIE, OTHER, Place(FUNCTIONS, "/v1/x", MAGPIE, OTHER)),
        ("/v1/audio/synthesize", "localhost", "", "", Place(FUNCTIONS, "/v1/audio/synthesize", MAGPIE)),
        ("/v1/audio/transcriptions", "localhost", PARAKEET, "", Place(FUNCTIONS, "/v1/audio/transcriptions", PARAKEET)),
        ("/v1/genai/a/b", "127.0.0.1:80", "", "", Place(AI, "/v1/genai/a/b")),
        ("/v2/nvcf/assets", "127.0.0.1:80", "", "", Place(NVCF, "/v2/nvcf/assets")),
        ("/v1/chat/completions", "127.0.0.1:80", "", "", Place(INTEGRATE, "/v1/chat/completions")),
        ("/nonsense", "127.0.0.1:80", "", "", Place(INTEGRATE, "/nonsense")),
        (f"/{MAGPIE}.evil.example/v1/x", "", "", "", Place(INTEGRATE, f"/{MAGPIE}.evil.example/v1/x")),
        ("/nim/org/model/v1/infer", "", "", "", Place("nim", "/org/model/v1/infer")),
        ("/s3/assets/t", "", "", "", Place("s3", "/assets/t")),
    ],
)
def test_where_a_request_goes(path: str, host: str, function: str, version: str, expected: Place) -> None:
    assert locate(path, host, function, version) == expected


def test_all_ways_lead_to_the_same_answer(site: Site) -> None:
    chat = [
        site.post(f"/{INTEGRATE}/v1/chat/completions", HELLO),
        site.post("/v1/chat/completions", HELLO),
        site.post("/v1/chat/completions", HELLO, Host=INTEGRATE),
    ]
    assert {answer.json["choices"][0]["message"]["content"] for answer in chat} == {'You wrote: "hello"'}
    seeded = {**CUBE, "seed": 1}
    drawn = [site.post(f"/{AI}/v1/genai/black-forest-labs/flux.1-dev", seeded), site.post("/v1/genai/black-forest-labs/flux.1-dev", seeded)]
    assert len({answer.body for answer in drawn}) == 1


def test_a_presigned_url_leads_back_whatever_host_was_named(site: Site) -> None:
    made = site.post("/v2/nvcf/assets", {"contentType": "image/png", "description": "x"}, Host=NVCF).json
    assert made["uploadUrl"].startswith(f"http://{site.address}/s3/")
