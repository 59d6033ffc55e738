"""The gateways: routing before auth, the rules of the key, the model list, and models at every point of their life."""

from __future__ import annotations

import pytest

from sensorium.simulators.nvidia.catalog import HIDDEN
from tests.simulators.site import AI, CHAT, CUBE, HELLO, INTEGRATE, NVCF, PARAKEET, SCHNELL, Site

MODELS = f"{INTEGRATE}/v1/models"
PROBLEM = "application/problem+json"
UNAUTHORIZED = '{"status":403,"title":"Forbidden","detail":"Authorization failed"}'
UNAUTHENTICATED = '{"status":401,"title":"Unauthorized","detail":"Authentication failed"}'


@pytest.mark.parametrize(
    ("given", "status", "printed", "media"),
    [
        (None, 401, "Header of type `authorization` was missing", None),
        ("", 401, "Unauthorized access", None),
        ("nvapi-simulated", 401, "Unauthorized access", None),
        ("Bearer ", 401, "Unauthorized access", None),
        ("Basic bnZhcGk6", 500, "Missing request extension: Extension of type `ApiKey` was not found.", "text/plain; charset=utf-8"),
        ("Bearer nvapi-unknown", 403, UNAUTHORIZED, PROBLEM),
        ("Bearer nvapi-revoked", 403, UNAUTHORIZED, PROBLEM),
        ("Bearer nvapi-expired", 401, UNAUTHENTICATED, PROBLEM),
        ("Bearer anNGCkey", 401, UNAUTHENTICATED, PROBLEM),
    ],
)
@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, HELLO), (SCHNELL, CUBE), (f"{PARAKEET}/v1/audio/transcriptions", b"x"), (f"{NVCF}/v2/nvcf/assets", {})]
)
def test_the_key(site: Site, path: str, body: object, given: str | None, status: int, printed: str, media: str | None) -> None:
    answer = site.post(path, body, Authorization=given)
    assert (answer.status, answer.body.decode(), answer.headers.get("content-type")) == (status, printed, media)
    assert "www-authenticate" not in answer.headers


@pytest.mark.parametrize(("key", "status"), [("no-credits", 402), ("missing-resource", 403), ("not-shared", 403), ("not-granted", 404)])
def test_keys_of_the_account_that_may_not_call(site: Site, key: str, status: int) -> None:
    answer = site.post(CHAT, HELLO, Authorization=f"Bearer nvapi-{key}")
    assert (answer.status, answer.json["status"], "detail" in answer.json) == (status, status, True)


def test_routing_comes_before_the_key(site: Site) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    assert site.get(MODELS, **wrong).status == 200
    assert site.get(MODELS, Authorization=None).status == 200
    assert site.post(CHAT, {"model": "nobody/nothing"}, **wrong).status == 404
    assert site.post(CHAT, {"model": "z-ai/glm4.7"}, **wrong).status == 410
    assert site.post(CHAT, {"model": "simulated/offline"}, **wrong).status == 503
    assert site.post(CHAT, b"{", **wrong).status == 500
    assert site.post(CHAT, HELLO, **wrong).status == 401


def test_the_first_of_two_models_routes(site: Site) -> None:
    two = b'{"model":"nobody/nothing","model":"meta/llama-3.1-8b-instruct","messages":[{"role":"user","content":"a"}]}'
    assert site.post(CHAT, two).status == 404


def test_the_model_list(site: Site) -> None:
    answer = site.get(MODELS)
    found = {entry["id"]: entry for entry in answer.json["data"]}
    assert answer.json["object"] == "list"
    assert found["meta/llama-3.1-8b-instruct"] == {
        "id": "meta/llama-3.1-8b-instruct",
        "object": "model",
        "created": 735790403,
        "owned_by": "meta",
    }
    assert list(found) == sorted(found)
    assert len(answer.json["data"]) == len(found)
    assert not [name for name in found if HIDDEN.search(name)]
    assert not {"z-ai/glm4.7", "nvidia/nv-embedqa-e5-v5", "black-forest-labs/flux.1-schnell"} & set(found)
    assert "simulated/not-granted" in found


@pytest.mark.parametrize(
    ("name", "status", "start"),
    [
        ("meta/llama-3.1-8b-instruct", 200, '{"id":"meta/llama-3.1-8b-instruct","object":"model"'),
        ("nvdev/meta/llama-3.1-8b-instruct", 200, '{"id":"nvdev/'),
        ("org/m", 404, "Model does not exist by the name of org/m\n"),
        ("z-ai/glm4.7", 410, '{"type":"about:blank","title":"Gone"'),
        ("simulated/offline", 503, '{"type":"about:blank","title":"Service Unavailable"'),
    ],
)
def test_one_model(site: Site, name: str, status: int, start: str) -> None:
    answer = site.get(f"{MODELS}/{name}")
    assert (answer.status, answer.body.decode().startswith(start)) == (status, True)


def test_hidden_models_can_be_called(site: Site) -> None:
    answer = site.post(CHAT, {**HELLO, "model": "nvdev/meta/llama-3.1-8b-instruct"})
    assert (answer.status, answer.json["model"]) == (200, "nvdev/meta/llama-3.1-8b-instruct")


def test_a_model_with_an_end_says_when(site: Site) -> None:
    answer = site.post(CHAT, {**HELLO, "model": "simulated/ending"})
    assert (answer.status, answer.headers["deprecation"]) == (200, "2999-12-31T00:00:00Z")
    assert "deprecation" not in site.post(CHAT, HELLO).headers


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("degraded", 400, "DEGRADED"),
        ("exhausted", 503, "ResourceExhausted"),
        ("not-granted", 404, "Not found for account"),
        ("queue-full", 429, "Queue overflow"),
        ("429", 429, "Too Many Requests"),
        ("500", 500, "cause:"),
    ],
)
def test_models_that_always_fail_as_they_are_called(site: Site, name: str, status: int, said: str) -> None:
    answer = site.post(CHAT, {**HELLO, "model": f"simulated/{name}"})
    assert (answer.status, said in answer.body.decode()) == (status, True)


def test_the_headers_of_an_answer(site: Site) -> None:
    one, two = site.post(CHAT, HELLO).headers, site.post(CHAT, HELLO).headers
    assert (one["nvcf-status"], one["access-control-expose-headers"], len(one["nvcf-reqid"])) == ("fulfilled", "nvcf-reqid", 36)
    assert one["nvcf-reqid"] != two["nvcf-reqid"]
    assert site.post(CHAT, {**HELLO, "n": 2}).headers["nvcf-status"] == "errored"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"{INTEGRATE}/health", 200),
        ("GET", f"{AI}/info", 200),
        ("GET", f"{NVCF}/health", 200),
        ("GET", CHAT, 405),
        ("GET", SCHNELL, 405),
        ("DELETE", MODELS, 405),
        ("POST", f"{INTEGRATE}/v1/ranking", 404),
        ("POST", f"{INTEGRATE}/v1/audio/transcriptions", 404),
        ("GET", f"{INTEGRATE}/v1/status/0c1f0b0e-0000-4000-8000-000000000000", 404),
        ("GET", f"{AI}/v1/models", 404),
        ("POST", "/health.api.nvidia.com/v1/genai/black-forest-labs/flux.1-dev", 404),
    ],
)
def test_routes_that_are_there_and_routes_that_are_not(site: Site, method: str, path: str, status: int) -> None:
    answer = site.call(method, path, b"{}" if method == "POST" else None, {"Authorization": None})
    assert answer.status == status
    if status == 405:
        assert answer.body == b""
    if path == f"{NVCF}/health":
        assert answer.body == b'{"status":"OK"}'


def test_the_images_routes_exist_but_nobody_is_mapped_there(site: Site) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nqwen/qwen-image-edit\r\n--x--\r\n'
    assert site.post(f"{INTEGRATE}/v1/images/generations", {"model": "qwen/qwen-image"}).body == b"404 page not found\n"
    for route in ("edits", "variations"):
        mapped = site.post(f"{INTEGRATE}/v1/images/{route}", form, Content_Type="multipart/form-data; boundary=x")
        assert mapped.body == b"404 page not found\n"
        unread = site.post(f"{INTEGRATE}/v1/images/{route}", {"model": "qwen/qwen-image-edit"})
        assert (unread.status, unread.json["error"]["code"]) == (400, "missing_required_field")
