"""Every refusal that section 5 prints, with its status, its exact body, its type, and the headers that are there and that are not."""

from __future__ import annotations

import pytest

from sensorium.simulators.nvidia.catalog import Catalog
from sensorium.simulators.nvidia.incidents import INCIDENTS
from tests.simulators.site import AI, CHAT, CUBE, HELLO, SCHNELL, Site

MODEL = Catalog().by_name("/v1/chat/completions", "meta/llama-3.1-8b-instruct")
assert MODEL is not None
FID, VID, NCA = MODEL.function, MODEL.version, "simulated-account"
PROBLEM, TEXT = "application/problem+json", "text/plain; charset=utf-8"
DIALECT_A = [
    ("degraded", 400, "Bad Request", f"Function id '{FID}': DEGRADED function cannot be invoked"),
    ("read-failed", 400, "Bad Request", "failed to read request body: unexpected EOF"),
    ("401", 401, "Unauthorized", "Authentication failed"),
    ("402", 402, "Payment Required", f"Account '{NCA}': Cloud credits expired - Please contact NVIDIA representatives"),
    ("403", 403, "Forbidden", "Authorization failed"),
    ("missing-resource", 403, "Forbidden", f"Function '{FID}':  Missing resource entry in ApiKey for the function"),
    (
        "missing-resource-version",
        403,
        "Forbidden",
        f"Function id '{FID}', version '{VID}': Missing resource entry in ApiKey for the function",
    ),
    ("not-shared", 403, "Forbidden", f"Function '{FID}':  Not shared with the account '{NCA}'"),
    ("not-shared-version", 403, "Forbidden", f"Function id '{FID}', version '{VID}': Not shared with the account '{NCA}'"),
    ("not-granted", 404, "Not Found", f"Function '{FID}': Not found for account '{NCA}'"),
    ("not-granted-version", 404, "Not Found", f"Function id '{FID}', version '{VID}': Not found for account '{NCA}'"),
    ("not-active", 404, "Not Found", f"Function id '{FID}' version '{VID}': Specified function in account '{NCA}' is not found"),
    ("408", 408, "Request Timeout", None),
    ("409", 409, "Conflict", None),
    ("412", 412, "Precondition Failed", None),
    ("429", 429, "Too Many Requests", None),
    ("queue-full", 429, "Too Many Requests", "Queue overflow: too many requests are waiting for this function"),
    ("500", 500, "Internal Server Error", "failed to invoke function; cause: connection reset by peer"),
    ("501", 501, "Not Implemented", None),
    ("exhausted", 503, "Service Unavailable", "ResourceExhausted: Worker local total request limit reached (33/32)"),
]
BLANK = [
    ("499", 499, "Client Closed Request", "Client closed the request before a response was produced."),
    ("502", 502, "Bad Gateway", "Upstream request failed."),
    (
        "gone",
        410,
        "Gone",
        "The model 'meta/llama-3.1-8b-instruct' has reached its end of life on 2026-05-14T00:00:00Z and is no longer available.",
    ),
    ("offline", 503, "Service Unavailable", "The model is offline for maintenance."),
]
WORKERS = [
    ("inference-connection", "urn:inference-connection", "Inference connection error while making inference request"),
    ("worker-inference", "urn:nvcf-worker-service", "Internal error while making inference request"),
    ("worker-assets", "urn:nvcf-worker-service", "Internal error while downloading assets"),
    ("worker-preparing", "urn:nvcf-worker-service", "Internal error while preparing for inference"),
]


@pytest.mark.parametrize(("kind", "status", "title", "detail"), DIALECT_A, ids=[row[0] for row in DIALECT_A])
def test_dialect_a(site: Site, kind: str, status: int, title: str, detail: str | None) -> None:
    answer = site.post(CHAT, HELLO, x_simulate=kind)
    printed = f'{{"status":{status},"title":"{title}"' + (f',"detail":"{detail}"}}' if detail else "}")
    assert (answer.status, answer.body.decode(), answer.headers["content-type"]) == (status, printed, PROBLEM)
    assert "retry-after" not in answer.headers
    assert "x-request-id" not in answer.headers


@pytest.mark.parametrize(("kind", "status", "title", "detail"), BLANK, ids=[row[0] for row in BLANK])
def test_dialect_b_with_problem_details(site: Site, kind: str, status: int, title: str, detail: str) -> None:
    answer = site.post(CHAT, HELLO, x_simulate=kind)
    printed = f'{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}"}}\n'
    assert (answer.status, answer.body.decode(), answer.headers["content-type"]) == (status, printed, PROBLEM)
    assert answer.headers.get("retry-after") == ("10800" if kind == "offline" else None)


@pytest.mark.parametrize(("kind", "urn", "detail"), WORKERS, ids=[row[0] for row in WORKERS])
def test_a_workers_500(site: Site, kind: str, urn: str, detail: str) -> None:
    answer = site.post(CHAT, HELLO, x_simulate=kind)
    said = {"type": f"{urn}:problem-details:internal-server-error", "title": "Internal Server Error", "status": 500, "detail": detail}
    assert (answer.status, answer.json, next(iter(answer.json))) == (500, said, "type")


def test_an_operators_sentence_puts_the_members_into_alphabetical_order(site: Site) -> None:
    answer = site.post(CHAT, HELLO, x_simulate="operator-429")
    assert (answer.status, list(answer.json)) == (429, ["detail", "status", "title"])


def test_every_incident_is_in_these_tables() -> None:
    assert {row[0] for row in [*DIALECT_A, *BLANK, *WORKERS]} | {"operator-429"} == set(INCIDENTS)


@pytest.mark.parametrize("kind", ["degraded", "429", "exhausted", "offline"])
def test_pictures_meet_the_same_incidents(site: Site, kind: str) -> None:
    assert site.post(SCHNELL, CUBE, x_simulate=kind).status == INCIDENTS[kind].answer(MODEL).status


@pytest.mark.parametrize(
    ("body", "status", "printed"),
    [
        (
            b'{"messages":[]}',
            400,
            '{"error":{"message":"model field is required","type":"invalid_request_error","param":null,"code":"missing_required_field"}}\n',
        ),
        (
            b'{"model":""}',
            400,
            '{"error":{"message":"model field is required","type":"invalid_request_error","param":null,"code":"missing_required_field"}}\n',
        ),
        (
            b'{"model":null}',
            400,
            '{"error":{"message":"model field is required","type":"invalid_request_error","param":null,"code":"missing_required_field"}}\n',
        ),
        (b'{"model":"nobody/nothing"}', 404, "404 page not found\n"),
        (b'{"model":"nvidia/nv-embedqa-e5-v5"}', 404, "404 page not found\n"),
        (b"", 500, "failed to decode json body: EOF\n"),
    ],
)
def test_dialect_b_of_the_router(site: Site, body: bytes, status: int, printed: str) -> None:
    answer = site.post(CHAT, body)
    assert (answer.status, answer.body.decode(), answer.headers["content-type"]) == (status, printed, TEXT)
    assert answer.headers.get("x-content-type-options") == ("nosniff" if status == 404 else None)
    assert "nvcf-reqid" not in answer.headers


@pytest.mark.parametrize("body", [b"{", b"[]", b"{'model':1}", b'{"model":7}', b"[" * 100_000, b"\xff"])
def test_malformed_json_is_a_500_in_plain_text(site: Site, body: bytes) -> None:
    answer = site.post(CHAT, body)
    assert (answer.status, answer.headers["content-type"]) == (500, TEXT)
    assert answer.body.startswith(b"failed to decode json body: ")
    assert answer.body.endswith(b"\n")


def test_25_mib_are_the_most_that_the_openai_shaped_host_reads(site: Site) -> None:
    start = b'{"model":"meta/llama-3.1-8b-instruct","messages":[{"role":"user","content":"'
    text = b"a" * (26_214_400 - len(start) - len(b'"}]}'))
    assert site.post(CHAT, start + text + b'"}]}').status == 200
    answer = site.post(CHAT, start + text + b'a"}]}')
    assert (answer.status, answer.headers["content-type"]) == (400, TEXT)
    assert answer.body.decode() == (
        '{"error":{"message":"Please make sure your payload is below 26214400 bytes in size. If larger assets are required please '
        'refer to our Assets API.","type":"invalid_request_error","param":null,"code":"invalid_image_format"}}\n'
    )


def test_a_vanity_path_that_nobody_has_is_the_routers_404(site: Site) -> None:
    for path in ("/v1/genai/stabilityai/sdxl-turbo", "/v1/genai/qwen/qwen-image", "/v1/cv/nvidia/ocdrnet", "/v1/nothing"):
        answer = site.post(f"{AI}{path}", CUBE)
        assert (answer.status, answer.body, answer.headers["content-type"]) == (404, b"404 page not found\n", TEXT)


def test_a_retired_vanity_endpoint_does_not_name_its_model(site: Site) -> None:
    answer = site.post(f"{AI}/v1/genai/simulated/retired", CUBE)
    said = answer.json["detail"]
    assert (answer.status, said) == (410, "This endpoint has reached its end of life on 2026-05-14T00:00:00Z and is no longer available.")


def test_what_the_simulator_itself_refuses_names_the_cure(site: Site) -> None:
    for headers in ({"x_simulate": "fire"}, {"x_simulate": "slow-stream=fast"}):
        answer = site.post(CHAT, HELLO, **headers)
        assert (answer.status, "the kinds are" in answer.json["error"]) == (400, True)
