"""Jobs that outlive their first answer, answer by answer, on a clock of the test."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import pytest

from sensorium.errors import SensoriumError, Unavailable, UpstreamFailed, UpstreamRefused
from sensorium.routing import nvcf
from sensorium.routing.call import Reply
from tests.routing.hosted import chat, image, nvidia, provider

AT = replace(provider("https://ai.example/v1/genai", "there"), timeout_s=600.0, idle_s=300.0)
ROUTE = image("org/model", AT)
ID = "0c1f0b0e-0000-4000-8000-000000000000"
STATUS = f"https://ai.example/v1/status/{ID}"
STORE = "https://93.184.216.34/s3/x?signature=1"


class Said:
    """One answer: a status, headers, a body, and how many seconds it takes."""

    def __init__(self, status: int, body: bytes = b"", took: float = 295.0, **headers: str) -> None:
        self.status, self.body, self.took = status, body, took
        self.headers = {name.replace("_", "-"): text for name, text in headers.items()}


class There:
    """The other side: answers with the next of `outcomes`. `asked` are URLs with their headers."""

    def __init__(self, *outcomes: Said | Exception) -> None:
        self.outcomes, self.asked, self.now = list(outcomes), list[tuple[str, Mapping[str, str] | None]](), 0.0
        self.slept: list[float] = []

    async def get(self, url: str, headers: Mapping[str, str] | None) -> Reply:
        self.asked.append((url, headers))
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        self.now += outcome.took
        return reply(outcome)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def finished(self, first: Said) -> tuple[int, bytes]:
        async def main() -> tuple[int, bytes]:
            job = nvcf.Job(self.get, lambda: self.now, self.sleep, nvcf.Patience.of(AT, 0.0))
            got = await job.finished(replace(reply(first), changes=("a dropped",)))
            assert got.changes == ("a dropped",)
            return got.status, await got.whole()

        return asyncio.run(main())

    def lost(self, first: Said) -> SensoriumError:
        with pytest.raises(SensoriumError) as refused:
            self.finished(first)
        return refused.value


def reply(said: Said) -> Reply:
    async def chunks() -> AsyncIterator[bytes]:
        yield said.body

    async def close() -> None:
        """Nothing is open."""

    return Reply(said.status, said.headers, chunks(), close, ROUTE)


BEGUN = Said(202, nvcf_reqid=ID)
DONE = Said(200, b'{"artifacts":[]}')


def packed(body: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(f"{ID}.response", body)
    return out.getvalue()


def test_an_answer_at_once_is_no_job() -> None:
    there = There()
    assert (there.finished(DONE), there.asked) == ((200, b'{"artifacts":[]}'), [])
    assert there.finished(Said(422, b"no")) == (422, b"no")


def test_polls_follow_each_other_at_once_and_ask_for_no_more_than_is_left() -> None:
    there = There(Said(202), Said(202, b"null"), DONE)
    assert there.finished(BEGUN) == (200, b'{"artifacts":[]}')
    assert there.asked == [
        (STATUS, {"nvcf-poll-seconds": "295"}),
        (STATUS, {"nvcf-poll-seconds": "295"}),
        (STATUS, {"nvcf-poll-seconds": "10"}),
    ]
    assert there.slept == []


def test_answers_that_come_at_once_are_not_asked_for_in_a_rush() -> None:
    there = There(Said(202, took=0), Said(202, took=0), DONE)
    assert there.finished(BEGUN)[0] == 200
    assert there.slept == [1, 1]


@pytest.mark.parametrize("body", [b'{"requestId":"%s"}', b'{"reqId":"%s"}'])
def test_the_id_may_be_in_the_body(body: bytes) -> None:
    there = There(DONE)
    assert there.finished(Said(202, body % ID.encode()))[0] == 200
    assert there.asked[0][0] == STATUS


@pytest.mark.parametrize("id", ["", "../../admin", "a/b", "x" * 65, "a?b"])
def test_an_id_that_is_none_is_never_asked_for(id: str) -> None:
    there = There()
    assert isinstance(there.lost(Said(202, nvcf_reqid=id)), UpstreamFailed)
    assert there.asked == []


@pytest.mark.parametrize("outcome", [Said(429, took=0), Said(503, took=0), Said(401, took=0), Unavailable("x"), UpstreamFailed("y")])
def test_a_poll_that_fails_is_asked_again(outcome: Said | Exception) -> None:
    there = There(outcome, outcome, DONE)
    assert (there.finished(BEGUN)[0], there.slept) == (200, [1, 1])


@pytest.mark.parametrize("status", [404, 504])
def test_a_result_that_is_gone_is_told_as_lost(status: int) -> None:
    error = There(Said(status)).lost(BEGUN)
    assert isinstance(error, UpstreamRefused)
    assert (error.status, error.code, error.source, error.retryable) == (502, "result_lost", "there", False)


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_jobs_own_error_is_its_result(status: int) -> None:
    assert There(Said(status, b"why")).finished(BEGUN) == (status, b"why")


def test_beyond_the_gap_limit_there_is_nothing_to_poll() -> None:
    short = replace(AT, idle_s=7.0)
    assert nvcf.Patience.of(short, 0.0).gap_s == 10

    async def main() -> None:
        there = There(*(Said(503, took=0) for _ in range(20)))
        job = nvcf.Job(there.get, lambda: there.now, there.sleep, nvcf.Patience.of(short, 0.0))
        with pytest.raises(UpstreamRefused, match="answered 503") as refused:
            await job.finished(reply(BEGUN))
        assert (refused.value.code, len(there.asked)) == ("result_lost", 11)

    asyncio.run(main())


def test_the_end_of_patience() -> None:
    error = There(*(Said(202) for _ in range(5))).lost(BEGUN)
    assert (error.status, error.code, error.retryable) == (504, "deadline_exceeded", False)


def test_a_large_result_is_fetched_without_the_key() -> None:
    there = There(Said(302, location=STORE), Said(200, packed(b'{"a":1}')))
    assert there.finished(BEGUN) == (200, b'{"a":1}')
    assert there.asked[-1] == (STORE, None)


def test_it_is_fetched_again_before_it_is_lost() -> None:
    there = There(Said(503), UpstreamFailed("cut"), Said(200, packed(b"{}")))
    assert there.finished(Said(302, location=STORE)) == (200, b"{}")
    assert there.slept == [1, 1]
    gone = There(*(Said(403) for _ in range(3))).lost(Said(302, location=STORE))
    assert (gone.code, "answered 403" in gone.message) == ("result_lost", True)


@pytest.mark.parametrize(
    "location",
    [
        "http://93.184.216.34/x", "https://127.0.0.1/x", "https://169.254.169.254/latest", "https://10.0.0.1/x", "file:///etc/passwd", "",
        "https://user:pass@93.184.216.34/x", "/relative", "https://[::1]/x", "http://ai.example/v1/x",
    ],
)  # fmt: skip
def test_a_result_is_not_fetched_from_anywhere(location: str) -> None:
    there = There()
    assert isinstance(there.lost(Said(302, location=location)), UpstreamFailed)
    assert there.asked == []


def test_a_store_that_answers_no_zip() -> None:
    assert There(*(Said(200, b"<Error/>") for _ in range(3))).lost(Said(302, location=STORE)).status == 502


def test_which_routes_answer_that_way() -> None:
    engine = image("m", replace(AT, local=True))
    routes = (ROUTE, nvidia("video", AT), nvidia("speech", AT), chat("m", AT), engine)
    assert [nvcf.spoken(route) for route in routes] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("base", "root"),
    [
        ("https://a.b/v1/cosmos", "https://a.b/v1/status"),
        ("http://a:1/ai.api/v1/genai", "http://a:1/ai.api/v1/status"),
        ("https://a.b", "https://a.b/v1/status"),
    ],
)
def test_where_jobs_are_polled(base: str, root: str) -> None:
    assert nvcf.Patience.of(provider(base), 0.0).status_url == root
    assert nvcf.Patience.of(replace(provider(base), status_url="https://c/s"), 0.0).status_url == "https://c/s"
