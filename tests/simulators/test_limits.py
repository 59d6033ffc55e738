"""Rate limits on the injected clock: 40 calls per minute and key over all models, hidden limits per model, nothing said about either."""

from __future__ import annotations

from sensorium.simulators.nvidia.limits import Bucket
from tests.simulators.site import CHAT, CUBE, HELLO, INTEGRATE, NVCF, SCHNELL, Site, running

LLAMA = "meta/llama-3.1-8b-instruct"


def spent(site: Site, calls: int, key: str = "nvapi-simulated") -> list[int]:
    return [site.post(CHAT, HELLO, Authorization=f"Bearer {key}").status for _ in range(calls)]


def test_40_calls_and_not_one_more() -> None:
    with running(rpm=40) as site:
        assert spent(site, 39) == [200] * 39
        assert site.post(SCHNELL, CUBE).status == 200
        refused = site.post(CHAT, HELLO)
        assert (refused.status, refused.body) == (429, b'{"status":429,"title":"Too Many Requests"}')
        assert not [name for name in refused.headers if "retry" in name or "ratelimit" in name]
        assert site.post(SCHNELL, CUBE).status == 429
        site.clock.at += 1.5
        assert spent(site, 2) == [200, 429]
        site.clock.at += 3600
        assert spent(site, 41) == [200] * 40 + [429]


def test_each_key_has_its_own() -> None:
    with running(rpm=2, keys=("nvapi-one", "nvapi-two")) as site:
        assert spent(site, 3, "nvapi-one") == [200, 200, 429]
        assert spent(site, 3, "nvapi-two") == [200, 200, 429]


def test_a_hidden_limit_of_one_model() -> None:
    with running(caps={LLAMA: 1}) as site:
        assert spent(site, 2) == [200, 429]
        assert site.post(CHAT, {**HELLO, "model": "meta/llama-3.2-11b-vision-instruct"}).status == 200


def test_what_asks_no_model_for_work_is_free() -> None:
    with running(rpm=1) as site:
        for _ in range(3):
            assert site.get(f"{INTEGRATE}/v1/models").status == 200
            assert site.get(f"{NVCF}/v2/nvcf/assets").status == 200
            assert site.post(CHAT, {"model": "nobody/nothing"}).status == 404
            assert site.post(CHAT, HELLO, Authorization="Bearer wrong").status == 401
        assert spent(site, 2) == [200, 429]


def test_a_bucket_never_holds_more_than_a_minute() -> None:
    bucket = Bucket(60, 0)
    assert [bucket.take(1000) for _ in range(61)] == [True] * 60 + [False]
    assert [bucket.take(1000.5), bucket.take(1001.0), bucket.take(1001.0)] == [False, True, False]
