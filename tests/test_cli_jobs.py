"""`sensorium jobs` against the queue's door, in a process of its own, and what it makes of answers that are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from sensorium import cli_jobs, client
from sensorium.api.auth import Auth
from tests.api.test_requests import door
from tests.hub_process import free_port
from tests.test_cli import one_line, run


@pytest.fixture
def url() -> Iterator[str]:
    with door(Auth("sesame", {"alice": "a1:s"})) as hub:
        yield f"http://{hub.address}"


def jobs(url: str, *arguments: str, token: str = "sesame") -> tuple[int, list[str]]:
    result = run("jobs", *arguments, hub=url, MAC_API_TOKEN=token)
    assert b"Traceback" not in result.stderr
    return result.returncode, result.stdout.decode().splitlines()


def test_requests_are_listed_as_the_token_may_see_them(url: str) -> None:
    code, lines = jobs(url, "list")
    assert (code, [line.split()[2] for line in lines[1:]]) == (0, ["r5", "r4", "r3", "r2", "r1"])
    assert lines[2].split() == ["2027-01-15", "08:00:04.000", "r4", "alice", "fal-ai/echo/sub", "failed", "422", "1", "0.750"]
    assert lines[4].split()[4:] == ["fal-ai/echo/sub", "queued", "-", "0", "-"]
    assert [line.split()[2] for line in jobs(url, "list", token="a1:s")[1][1:]] == ["r4", "r3", "r1"]
    assert [line.split()[2] for line in jobs(url, "list", "--state", "failed,running", "--app", "fal-ai/other")[1][1:]] == ["r3"]
    some = jobs(url, "list", "-n", "1", "--after", "r4", "--caller", "alice")[1]
    assert [some[1].split()[2], some[2]] == ["r3", "there are more: --after ID goes on"]


def test_one_request_is_shown(url: str) -> None:
    assert jobs(url, "show", "r4") == (
        0,
        [
            "request r4 of alice: failed",
            "  fal-ai/echo/sub, priority normal",
            "  created 2027-01-15 08:00:04.000",
            "  claimed 2027-01-15 08:00:04.250",
            "  ended 2027-01-15 08:00:05.000",
            "  runs 1, of these 0 ended with their engine",
            "  answered with 422",
            "  validation_error: prompt: Field required",
            "  webhook https://a.example/hook",
            "  2027-01-15 08:00:00.123 INFO r4 started",
            "  2027-01-15 08:00:01.000 WARN slow",
        ],
    )
    assert jobs(url, "show", "r2")[1][0] == "request r2 of bob: queued, 7 before it"
    assert json.loads("\n".join(jobs(url, "show", "r1", "--json")[1]))["inference_s"] == 0.5
    assert jobs(url, "show", "r1")[1][4] == "  answered with 200, 0.500 s of work"


def test_a_request_is_cancelled_and_one_that_failed_is_run_again(url: str) -> None:
    assert jobs(url, "cancel", "r3") == (0, ["r3: cancelled"])
    assert jobs(url, "retry", "r4") == (0, ["r4: queued"])
    assert json.loads("\n".join(jobs(url, "cancel", "r4", "--json")[1]))["state"] == "cancelled"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cancel", "r1"), "the request r1 is over"),
        (("retry", "r1"), "r1 did not fail"),
        (("show", "never"), "no request never of this caller is known"),
        (("show", "../calls"), "no request .. of this caller is known"),
        (("list", "--state", "done"), "state is 'done'"),
        (("list", "-n", "0"), "limit is '0'"),
    ],
)
def test_what_the_hub_refuses_is_one_line(url: str, arguments: tuple[str, ...], said: str) -> None:
    result = run("jobs", *arguments, hub=url, MAC_API_TOKEN="sesame")
    assert (result.returncode, said in one_line(result)) == (1, True)


def test_another_callers_request_is_not_there_and_without_a_token_nothing_is(url: str) -> None:
    for token, said in (("a1:s", "no request r2"), ("", "no token was sent"), ("x", "does not know the token")):
        result = run("jobs", "show", "r2", hub=url, MAC_API_TOKEN=token)
        assert (result.returncode, said in one_line(result)) == (1, True)


def test_without_a_hub_it_says_how_to_start_one() -> None:
    result = run("jobs", "list", hub=f"http://127.0.0.1:{free_port()}")
    assert (result.returncode, "start one with: sensorium serve" in one_line(result)) == (3, True)
    assert run("jobs", "show").returncode == 2


@pytest.mark.parametrize("told", [{}, {"data": [{}], "has_more": False}, {"data": 3}, {"id": "x", "state": 3, "created_at": 1e300}])
def test_an_answer_of_another_program_is_one_line(told: dict[str, Any]) -> None:
    for text in (cli_jobs.table, cli_jobs.shown, cli_jobs.stands):
        with pytest.raises(client.CallFailed, match="the hub did not send"):
            text(told)
