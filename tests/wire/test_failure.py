"""Error bodies as hosted services send them, and what each means."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.wire.failure import LONGEST, clean, understand

# status, body, class, a part of the message
TABLE = [
    (400, '{"status":400,"title":"Bad Request","detail":"Function id \'6f\': DEGRADED function cannot be invoked"}',
     "provider_outage", "DEGRADED"),
    (400, '{"status":400,"title":"Bad Request","detail":"failed to parse poll duration"}', "semantic", "failed to parse poll duration"),
    (400, '{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the API."}}',
     "quota_exhausted", "credit balance"),
    (529, '{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', "provider_outage", "(overloaded_error)"),
    (401, '{"status":401,"title":"Unauthorized","detail":"Authentication failed"}', "auth", "Authentication failed"),
    (401, "Header of type `authorization` was missing", "auth", "was missing"),
    (402, '{"status":402,"title":"Payment Required","detail":"Account \'acc-1\': Cloud credits expired - Please contact"}',
     "quota_exhausted", "credits"),
    (403, '{"status":403,"title":"Forbidden","detail":"Authorization failed"}', "auth", "Authorization failed"),
    (403, '{"status":403,"detail":"Function \'f\':  Missing resource entry in ApiKey for the function"}', "auth", "Missing resource"),
    (403, '{"status":403,"detail":"Function \'f\':  Not shared with the account \'nca-77\'"}', "model_unavailable", "Not shared"),
    (403, '{"detail":"User is locked. Reason: Exhausted balance. Top up your balance"}', "quota_exhausted", "Exhausted balance"),
    (400, '{"detail":[{"loc":["body"],"msg":"It failed","type":"downstream_service_error","url":"u"}]}', "provider_outage", "It failed"),
    (404, '{"detail":"Application \'a/b\' not found"}', "model_unavailable", "Application"),
    (404, '{"status":404,"title":"Not Found","detail":"Function \'f\': Not found for account \'nca-77\'"}',
     "model_unavailable", "Not found"),
    (404, "404 page not found\n", "model_unavailable", "404 page not found"),
    (408, "", "provider_outage", ""),
    (410, '{"type":"about:blank","title":"Gone","status":410,"detail":"The model \'z/g\' has reached its end of life"}',
     "model_unavailable", "end of life"),
    (413, '{"error":{"message":"too large","type":"invalid_request_error","code":null}}', "semantic", "too large"),
    (422, '{"detail":[{"type":"missing","loc":["body","prompt"],"msg":"Field required","input":{}}]}',
     "semantic", "prompt: Field required"),
    (422, '{"detail":"Expected: example_id, got: base64"}', "semantic", "Expected: example_id, got: base64"),
    (429, '{"status":429,"title":"Too Many Requests"}', "rate_limited", "Too Many Requests"),
    (429, '{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}', "quota_exhausted", "insufficient_quota"),
    (500, "failed to decode json body: invalid character 'x'\n", "semantic", "failed to decode json body"),
    (500, '{"type":"urn:inference-connection:problem-details:internal-server-error","title":"Internal Server Error","status":500,'
     '"detail":"Inference connection error while making inference request"}', "provider_outage", "Inference connection error"),
    (502, "<html><h1>Bad gateway</h1></html>", "provider_outage", ""),
    (503, '{"detail":"ResourceExhausted: Worker local total request limit reached (33/32)"}', "provider_outage", "ResourceExhausted"),
    (504, "", "provider_outage", ""),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind", "part"), TABLE)
def test_what_an_error_body_means(status: int, body: str, kind: str, part: str) -> None:
    failure = understand(status, body.encode())
    assert (failure.kind, failure.status) == (kind, status)
    assert part in failure.message


@pytest.mark.parametrize(
    "words",
    [
        "Incorrect API key provided: sk-proj-abcdef1234567890. You can find",
        "key nvapi-abcdEFGH1234_-xyz was refused",
        "Function 'f': Not found for account 'nca-77-secret'",
        "organization org-SECRETabcdef hit its limit",
        "Authorization: Bearer abcdef123456789",
        "token " + "a1B2" * 12,
    ],
)
def test_keys_and_accounts_are_cut_out(words: str) -> None:
    said = clean(words)
    assert "[removed]" in said
    for secret in ("abcdef1234567890", "abcdEFGH", "nca-77", "SECRET", "abcdef123456789", "a1B2a1B2"):
        assert secret not in said


@given(st.integers(400, 599), st.binary(max_size=4000))
def test_any_bytes_are_understood_in_one_bounded_line(status: int, body: bytes) -> None:
    message = understand(status, body).message
    assert len(message) <= LONGEST
    assert message.isprintable()


NAMES = st.sampled_from(["error", "detail", "message", "title", "msg", "loc", "code", "type"])
LEAVES = st.none() | st.booleans() | st.floats() | st.text()
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner), max_leaves=12)


@given(st.integers(400, 599), JSON)
def test_any_json_is_understood(status: int, value: object) -> None:
    assert isinstance(understand(status, json.dumps(value).encode()).message, str)


def test_a_deep_body_is_no_trap() -> None:
    assert understand(500, b'{"error":' * 5000 + b"1" + b"}" * 5000).kind == "provider_outage"


def test_a_policy_that_forbids_an_input_keeps_its_name() -> None:
    body = b'{"detail":[{"loc":["body","prompt"],"msg":"Not allowed","type":"content_policy_violation"}]}'
    assert understand(422, body).code == "content_policy_violation"
    assert understand(422, b'{"detail":[{"loc":["body","prompt"],"msg":"Field required","type":"missing"}]}').code is None
