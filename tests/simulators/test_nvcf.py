"""The asynchronous protocol: 202 and polling with its edges, the two worker modes, large results, assets. The clock is injected."""

from __future__ import annotations

import io
import json
import socket
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest

from sensorium.simulators.nvidia.catalog import Catalog
from tests.simulators.site import AI, CHAT, CUBE, HELLO, INTEGRATE, NVCF, SCHNELL, Answer, Site, eventually, running

COSMOS, FLUX = f"{AI}/v1/cosmos/nvidia/cosmos-predict1-7b", "black-forest-labs/flux.1-schnell"
FILM = {"prompt": "a cube turns", "seed": 1, "video_params": {"height": 64, "width": 96, "frames_count": 4}}
STATUS = f"{NVCF}/v2/nvcf/pexec/status"
UNKNOWN = "0c1f0b0e-0000-4000-8000-000000000000"
NOT_FOUND = b'{"status":404,"title":"Not Found"}'


@pytest.fixture
def slow() -> Iterator[Site]:
    """A simulator whose models work for 100 seconds."""
    with running(work_s={"*": 100.0}) as site:
        yield site


def poll(site: Site, id: str, **headers: str | None) -> Answer:
    return site.get(f"{STATUS}/{id}", **headers)


def begun(site: Site, seconds: int = 10, path: str = COSMOS, body: Any = FILM) -> str:
    """The id of a job that was answered 202."""
    answer = site.post(path, body, NVCF_POLL_SECONDS=str(seconds))
    assert (answer.status, answer.body, answer.headers["content-length"]) == (202, b"", "0")
    assert answer.headers["nvcf-status"] == "in-progress"
    assert "content-type" not in answer.headers
    return answer.headers["nvcf-reqid"]


def test_a_job_is_polled_to_its_end_and_fetched_once(slow: Site) -> None:
    id = begun(slow)
    statuses, percents = [], []
    while (answer := poll(slow, id, NVCF_POLL_SECONDS="30")).status == 202:
        statuses.append(answer.headers["nvcf-status"])
        percents.append(answer.headers.get("nvcf-percent-complete"))
        assert answer.headers["nvcf-reqid"] == id
    assert (answer.status, answer.headers["nvcf-status"], answer.headers["nvcf-reqid"]) == (200, "fulfilled", id)
    assert answer.json["seed"] == 1
    assert [percent for percent in percents if percent] == ["25", "50", "75"]
    assert set(statuses) == {"in-progress"}
    assert (poll(slow, id).status, poll(slow, id).body) == (404, NOT_FOUND)
    assert slow.simulator.counters["fetched"] == 1


def test_a_report_of_progress_has_a_body(slow: Site) -> None:
    id = begun(slow)
    answer = poll(slow, id, NVCF_POLL_SECONDS="60")
    assert (answer.status, answer.body, answer.headers["content-type"]) == (202, b"null", "application/json")
    assert (answer.headers["nvcf-percent-complete"], slow.clock.slept[-1]) == ("25", 15.0)


def test_a_long_poll_ends_when_the_job_does(slow: Site) -> None:
    id = begun(slow)
    for _ in range(3):
        assert poll(slow, id, NVCF_POLL_SECONDS="90").status == 202
    assert (poll(slow, id, NVCF_POLL_SECONDS="3600").status, slow.clock.slept[-1]) == (200, 25.0)


def test_the_host_that_took_the_call_can_be_polled_too_but_not_another(slow: Site) -> None:
    id = begun(slow)
    assert slow.get(f"{AI}/v1/status/{id}").status == 202
    assert slow.get(f"/climate.api.nvidia.com/v1/status/{id}").status == 404
    assert slow.get(f"{INTEGRATE}/v1/status/{id}").body == b"404 page not found\n"


def test_a_finished_job_answers_200_at_once(site: Site) -> None:
    answer = site.post(COSMOS, FILM)
    assert (answer.status, answer.headers["nvcf-status"]) == (200, "fulfilled")


@pytest.mark.parametrize(("seconds", "gap"), [(2, 10), (10, 20), (100, 200)])
def test_the_gap_limit_gives_a_job_up(seconds: int, gap: int) -> None:
    with running(work_s={"*": 10_000.0}) as site:
        id = begun(site, seconds)
        site.clock.at += gap
        assert poll(site, id, NVCF_POLL_SECONDS="1").status == 202
        site.clock.at += gap + 0.5
        assert (poll(site, id).status, poll(site, id).body) == (404, NOT_FOUND)
        assert site.simulator.counters["cancelled by the gap limit"] == 1


def test_polls_that_ask_for_nothing_that_is(slow: Site) -> None:
    assert (poll(slow, UNKNOWN).status, poll(slow, UNKNOWN).body) == (404, NOT_FOUND)
    assert poll(slow, "not-an-id").status == 400
    id = begun(slow)
    assert slow.call("POST", f"{STATUS}/{id}").status == 405
    assert poll(slow, id, NVCF_POLL_SECONDS="3601").json["detail"] == "failed to parse poll duration"


def test_a_wrong_key_does_not_consume_the_result(slow: Site) -> None:
    id = begun(slow)
    slow.clock.at += 15
    refused = poll(slow, id, Authorization="Bearer nvapi-wrong")
    assert (refused.status, refused.json["detail"]) == (403, "Authorization failed")
    assert poll(slow, id, Authorization=None).body == b"Header of type `authorization` was missing"
    assert poll(slow, id, NVCF_POLL_SECONDS="1").status == 202


def test_a_worker_that_does_not_answer_a_poll(slow: Site) -> None:
    answer = poll(slow, begun(slow), x_simulate="lost-worker")
    assert (answer.status, answer.json["detail"]) == (504, "worker did not acknowledge the status request.")
    assert answer.headers["nvcf-status"] == "errored"


@pytest.mark.parametrize("seconds", ["3601", "99999999999", "soon", "1.5", ""])
def test_poll_seconds_that_cannot_be(site: Site, seconds: str) -> None:
    answer = site.post(CHAT, HELLO, NVCF_POLL_SECONDS=seconds)
    if not seconds:
        assert answer.status == 200
        return
    assert (answer.status, answer.body) == (400, b'{"status":400,"title":"Bad Request","detail":"failed to parse poll duration"}')


@pytest.mark.parametrize("seconds", ["0", "-5", "1"])
def test_poll_seconds_below_1_are_1(slow: Site, seconds: str) -> None:
    assert slow.post(COSMOS, FILM, NVCF_POLL_SECONDS=seconds).status == 202
    assert slow.clock.slept == [1]


@pytest.mark.parametrize(
    ("path", "accept", "waited"),
    [
        (COSMOS, None, 300),  # filled in by the gateway
        (f"{NVCF}/v2/nvcf/pexec/functions/FLUX", None, 60),
        (f"{NVCF}/v2/nvcf/pexec/functions/FLUX", "text/event-stream", 1202),
        ("/FLUX.invocation.api.nvcf.nvidia.com/v1/infer", "text/event-stream", 62),
        (SCHNELL, None, 302),
        (COSMOS, "text/event-stream", 302),
    ],
)
def test_how_long_each_host_waits_by_default(path: str, accept: str | None, waited: int) -> None:
    flux = Catalog().by_path("ai.api.nvidia.com", f"/v1/genai/{FLUX}")
    assert flux is not None
    with running(work_s={"*": 10_000.0}) as site:
        answer = site.post(path.replace("FLUX", flux.function), FILM if path == COSMOS else CUBE, Accept=accept)
        assert (answer.status, site.clock.slept) == (202 if waited in (60, 300) else 504, [waited])


def test_pass_through_invents_no_202(slow: Site) -> None:
    answer = slow.post(SCHNELL, CUBE, NVCF_POLL_SECONDS="10")
    assert (answer.status, answer.body, answer.headers["nvcf-status"]) == (504, b"", "errored")
    assert "content-type" not in answer.headers
    assert (slow.clock.slept, slow.simulator.counters["cancelled by 504"]) == ([12], 1)
    assert poll(slow, answer.headers["nvcf-reqid"]).status == 404


def test_a_route_can_be_switched_to_compatibility_mode() -> None:
    with running(work_s={FLUX: 100.0}, pexec=frozenset({FLUX})) as site:
        id = begun(site, path=SCHNELL, body=CUBE)
        assert poll(site, id, NVCF_POLL_SECONDS="100").json["artifacts"][0]["finishReason"] == "SUCCESS"
        refused = site.post(SCHNELL, {**CUBE, "steps": 9})
        assert (refused.status, refused.json) == (
            422,
            {
                "type": "urn:inference-service:problem-details:unprocessable-entity",
                "title": "Unprocessable Entity",
                "status": 422,
                "detail": "Inference error",
            },
        )
        assert refused.headers["content-type"] == "application/problem+json"


def test_a_stream_is_passed_through_even_there() -> None:
    with running(work_s={"*": 100.0}, pexec=frozenset({HELLO["model"]})) as site:
        assert site.post(CHAT, HELLO, NVCF_POLL_SECONDS="10").status == 202
        assert site.post(CHAT, {**HELLO, "stream": True}, NVCF_POLL_SECONDS="10").status == 504


def test_a_job_that_nobody_picks_up_is_a_504_even_there(site: Site) -> None:
    answer = site.post(COSMOS, FILM, NVCF_POLL_SECONDS="5", x_simulate="no-worker")
    assert (answer.status, answer.body, site.clock.slept[-1]) == (504, b"", 7)


def test_a_caller_that_leaves_before_the_first_answer_cancels_the_job(slow: Site) -> None:
    slow.clock.held = True
    connection = slow.connect()
    connection.request("POST", COSMOS, json.dumps(FILM).encode(), {"Authorization": "Bearer nvapi-simulated"})
    eventually(lambda: slow.simulator.counters["invoked"] == 1)
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    eventually(lambda: slow.simulator.counters["cancelled by the caller"] == 1)
    eventually(lambda: slow.simulator.counters["callers who left"] == 1)


def test_functions_by_id_and_version(site: Site) -> None:
    chat = Catalog().by_name("/v1/chat/completions", "meta/llama-3.1-8b-instruct")
    assert chat is not None
    path = f"{NVCF}/v2/nvcf/pexec/functions"
    assert site.post(f"{path}/{chat.function}", HELLO).json["model"] == chat.name
    assert site.post(f"{path}/{chat.function}/versions/{chat.version}", HELLO).status == 200
    wrong = site.post(f"{path}/{chat.function}/versions/{UNKNOWN}", HELLO).json["detail"]
    assert wrong == f"Function id '{chat.function}', version '{UNKNOWN}': Not found for account 'simulated-account'"
    unknown = site.post(f"{path}/{UNKNOWN}", HELLO)
    assert unknown.body.decode() == (
        f'{{"status":404,"title":"Not Found","detail":"Function \'{UNKNOWN}\': Not found for account \'simulated-account\'"}}'
    )
    assert site.get(f"{path}/{chat.function}").status == 405


def test_an_unknown_path_is_looked_at_after_the_header(site: Site) -> None:
    assert site.get(f"{NVCF}/v2/nvcf/nothing").body == NOT_FOUND
    assert site.get(f"{NVCF}/v2/nvcf/nothing", Authorization=None).body == b"Header of type `authorization` was missing"


def local(site: Site, url: str) -> str:
    """The path and query of a presigned URL, which must lead back to the simulator."""
    assert url.startswith(f"http://{site.address}/")
    return url.partition(site.address)[2]


@pytest.mark.parametrize(("fault", "extra"), [("zip", "logs/worker.log"), ("hostile-zip", "../escaped.txt")])
def test_a_large_result_is_a_302_to_a_zip_that_takes_no_credentials(site: Site, fault: str, extra: str) -> None:
    answer = site.post(COSMOS, FILM, x_simulate=fault)
    assert (answer.status, answer.body, answer.headers["nvcf-status"]) == (302, b"", "fulfilled")
    path = local(site, answer.headers["location"])
    refused = site.get(path)
    assert (refused.status, b"<Code>InvalidArgument</Code>" in refused.body) == (400, True)
    fetched = site.get(path, Authorization=None)
    with zipfile.ZipFile(io.BytesIO(fetched.body)) as archive:
        assert archive.namelist() == [f"{answer.headers['nvcf-reqid']}.response", extra]
        assert b'"b64_video"' in archive.read(archive.namelist()[0])
    assert site.get(path.partition("?")[0], Authorization=None).status == 403
    assert site.get("/s3/results/nothing?X-Amz-Signature=a", Authorization=None).status == 404


def test_a_presigned_url_ends_after_an_hour() -> None:
    with running() as site:
        path = local(site, site.post(COSMOS, FILM, x_simulate="zip").headers["location"])
        site.clock.at += 3601
        expired = site.get(path, Authorization=None)
        assert (expired.status, b"Request has expired" in expired.body) == (403, True)


def test_models_with_extra_files_and_results_over_5_mib_go_through_storage(site: Site) -> None:
    assert site.post(f"{AI}/v1/cosmos/nvidia/cosmos-transfer1-7b", FILM).status == 302
    large = {"prompt": "a", "video_params": {"height": 1920, "width": 1920}}
    assert site.post(COSMOS, large).status == 302
    assert site.post(COSMOS, large, Accept="text/event-stream").status == 200


def uploaded(site: Site, description: str = "x", **headers: str | None) -> tuple[str, Answer]:
    made = site.post(f"{NVCF}/v2/nvcf/assets", {"contentType": "image/png", "description": description})
    assert (made.status, list(made.json)) == (200, ["assetId", "uploadUrl", "contentType", "description"])
    signed = {"Authorization": None, "Content-Type": "image/png", "x-amz-meta-nvcf-asset-description": description}
    return made.json["assetId"], site.call("PUT", local(site, made.json["uploadUrl"]), b"png", {**signed, **headers})


def test_an_asset_from_upload_to_deletion() -> None:
    with running() as site:
        id, put = uploaded(site)
        assert (put.status, put.body) == (200, b"")
        listed, path = f"{NVCF}/v2/nvcf/assets", f"{NVCF}/v2/nvcf/assets/{id}"
        assert site.get(listed).json == {"assets": [{"assetId": id}]}
        shown = {"assetId": id, "description": "x", "contentType": "image/png", "createdAt": "2026-10-01T00:00:00Z"}
        assert site.get(path).json == {"asset": shown}
        assert site.post(CHAT, HELLO, NVCF_INPUT_ASSET_REFERENCES=f"{id}, {id}").status == 200
        assert site.call("DELETE", path).status == 204
        gone = site.get(path)
        assert (gone.status, gone.json["detail"]) == (404, f"Asset '{id}' does not exist for account 'simulated-account'")
        assert site.get(listed).json == {"assets": []}


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content-Type": "image/jpeg"}, 403, b"SignatureDoesNotMatch"),
        ({"x-amz-meta-nvcf-asset-description": None}, 403, b"SignatureDoesNotMatch"),
        ({"Authorization": "Bearer nvapi-simulated"}, 400, b"InvalidArgument"),
    ],
)
def test_an_upload_must_be_as_it_was_signed(site: Site, headers: dict[str, str | None], status: int, code: bytes) -> None:
    id, put = uploaded(site, **headers)
    assert (put.status, code in put.body) == (status, True)
    missing = site.post(CHAT, HELLO, NVCF_INPUT_ASSET_REFERENCES=id)
    assert (missing.status, missing.json["detail"]) == (404, f"NotFound error: failed to find asset {id}")


def test_assets_and_their_urls_age() -> None:
    with running() as site:
        made = site.post(f"{NVCF}/v2/nvcf/assets", {"contentType": "image/png", "description": ""}).json
        assert site.get(f"{NVCF}/v2/nvcf/assets/{made['assetId']}").json["asset"]["description"] == "Description not available"
        site.clock.at += 3601
        signed = {"Authorization": None, "Content-Type": "image/png", "x-amz-meta-nvcf-asset-description": ""}
        assert site.call("PUT", local(site, made["uploadUrl"]), b"png", signed).status == 403
        site.clock.at += 24 * 3600
        assert site.get(f"{NVCF}/v2/nvcf/assets/{made['assetId']}").status == 404


@pytest.mark.parametrize(("references", "status"), [("", 200), ("nonsense", 400), (UNKNOWN, 404)])
def test_references_to_assets(site: Site, references: str, status: int) -> None:
    assert site.post(CHAT, HELLO, NVCF_INPUT_ASSET_REFERENCES=references).status == status
    assert site.post(f"{NVCF}/v2/nvcf/assets", {"contentType": "image/png"}).status == 400
