"""The hub dies at an exact step and starts again: nothing is lost, nothing is done twice (jobs.md, J-01, J-07, J-20)."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path

import pytest

from sensorium.jobs.request import State
from tests.durability.engine import Act
from tests.durability.hub import APP, eventually
from tests.durability.rig import ROUNDS, Rig, picture, rigged

BROKEN = (OSError, HTTPException)


def lost_submit(rig: Rig, step: str, prompt: str, *, embedded: bool = False) -> str:
    """Submit to a hub that dies at a step; the key of the submission. Whether a reply came is left to chance, but for the first steps."""
    rig.hub.start(step)
    try:
        answer = rig.hub.submit(prompt, key=f"key of {prompt}", hook=rig.hook, embedded=embedded)
        assert answer.status == 200 and not step.startswith("submit")
    except BROKEN:
        """The connection broke: the hub is dead."""
    rig.hub.gone()
    return f"key of {prompt}"


def known(rig: Rig, key: str) -> str:
    (id,) = rig.of_key(key)
    return id


def test_a_submission_that_is_not_committed_is_not_there_and_can_be_repeated(tmp_path: Path) -> None:
    with rigged(tmp_path) as rig:
        for number in range(ROUNDS):
            key = lost_submit(rig, "submit_uncommitted", f"{number}")
            rig.hub.start()
            assert rig.of_key(key) == []
            again = rig.hub.submit(f"{number}", key=key, hook=rig.hook)
            assert (again.status, again.headers.get("idempotent-replayed")) == (200, None)
            rig.hub.ended(again.json["request_id"])
            rig.check(again.json["request_id"], f"{number}", runs=1, starts=1)
            rig.hub.kill()
        rig.hub.start()
        rig.check_all()


def test_a_submission_whose_reply_was_lost_is_there_once_and_its_repeat_gets_its_id(tmp_path: Path) -> None:
    with rigged(tmp_path) as rig:
        for number in range(ROUNDS):
            key = lost_submit(rig, "submit_committed", f"{number}")
            id = known(rig, key)
            rig.hub.start()
            again = rig.hub.submit(f"{number}", key=key, hook=rig.hook)
            assert (again.status, again.json["request_id"], again.headers["idempotent-replayed"]) == (200, id, "true")
            assert rig.hub.submit("another body", key=key).status == 422
            rig.hub.ended(id)
            rig.check(id, f"{number}", runs=1, starts=1)
            rig.hub.kill()
        rig.hub.start()
        rig.check_all()


def test_without_a_key_the_repeat_is_a_second_request(tmp_path: Path) -> None:
    """The control of the test above."""
    with rigged(tmp_path) as rig:
        rig.hub.start("submit_committed")
        with pytest.raises(BROKEN):
            rig.hub.submit("a picture")
        rig.hub.gone()
        rig.hub.start()
        rig.hub.submit("a picture")
        assert len(rig.hub.rows("SELECT id FROM requests")) == 2


@pytest.mark.parametrize(
    ("step", "embedded", "runs", "starts"),
    [
        ("claimed", False, 2, 1),
        ("result_read", False, 2, 2),
        ("file_unsynced", False, 2, 2),
        ("finish_uncommitted", False, 2, 2),
        ("result_half_spooled", True, 2, 2),
        ("finish_uncommitted", True, 1, 1),  # finished from its spool
        ("finish_committed", False, 1, 1),
        ("finish_committed", True, 1, 1),
    ],
)
def test_a_run_whose_hub_dies(tmp_path: Path, step: str, embedded: bool, runs: int, starts: int) -> None:
    with rigged(tmp_path) as rig:
        rig.engine.usual = lambda: Act(large=embedded)
        for number in range(ROUNDS):
            id = known(rig, lost_submit(rig, step, f"{number}", embedded=embedded))
            assert rig.row(id)[0] is (State.SUCCEEDED if step == "finish_committed" else State.RUNNING)
            rig.hub.start()
            assert rig.over(id) is State.SUCCEEDED  # and no call was made that could have woken anything
            rig.check(id, f"{number}", runs=runs, starts=starts)
            assert ("data:" in picture(rig.hub.result(id).json)) == embedded
            rig.hub.kill()
        rig.hub.start()
        rig.check_all()


def test_a_run_whose_hub_dies_while_the_engine_works(tmp_path: Path) -> None:
    with rigged(tmp_path) as rig:
        for number in range(ROUNDS):
            rig.engine.acts[f"{number}"] = [Act(held=True)]
            rig.hub.start()
            id = rig.hub.submit(f"{number}", hook=rig.hook).json["request_id"]
            eventually(lambda prompt=f"{number}": len(rig.engine.runs(prompt)) == 1)  # type: ignore[misc]
            rig.hub.kill()
            rig.hub.start()
            assert rig.over(id) is State.SUCCEEDED
            rig.check(id, f"{number}", runs=2, starts=2)
            first, second = rig.engine.runs(f"{number}")
            assert first.ended is None and first.hub < second.hub
            rig.hub.kill()
        rig.hub.start()
        rig.check_all()


def test_a_webhook_that_was_sent_and_not_recorded_is_sent_again_under_its_id(tmp_path: Path) -> None:
    with rigged(tmp_path) as rig:
        for number in range(ROUNDS):
            id = known(rig, lost_submit(rig, "webhook_sent", f"{number}"))
            assert len(rig.hooks.of(id)) == 1
            rig.hub.start()
            rig.told(id, times=2)
            rig.check(id, f"{number}", runs=1, starts=1)
            assert len(rig.hooks.of(id)) == 2
            rig.hub.kill()
        rig.hub.start()
        rig.check_all()


def test_a_cancellation_that_the_engine_was_not_told_of_holds(tmp_path: Path) -> None:
    with rigged(tmp_path) as rig:
        for number in range(ROUNDS):
            rig.engine.acts[f"{number}"] = [Act(held=True)]
            rig.hub.start("cancel_committed")
            id = rig.hub.submit(f"{number}", hook=rig.hook).json["request_id"]
            eventually(lambda prompt=f"{number}": len(rig.engine.runs(prompt)) == 1)  # type: ignore[misc]
            with pytest.raises(BROKEN):
                rig.hub.call("PUT", f"{APP}/requests/{id}/cancel")
            rig.hub.gone()
            rig.hub.start()
            assert rig.over(id) is State.CANCELLED
            assert rig.hub.result(id).status == 499
            assert rig.hub.call("PUT", f"{APP}/requests/{id}/cancel").json == {"status": "ALREADY_COMPLETED"}
            rig.told(id)
            assert [got.told["status"] for got in rig.hooks.of(id)] == ["ERROR"]
            assert len(rig.engine.runs(f"{number}")) == 1  # and it is not begun again
            rig.hub.kill()
        rig.hub.start()
        rig.check_all()


def test_a_file_whose_deletion_was_cut_short_is_gone_with_its_row(tmp_path: Path) -> None:
    with rigged(tmp_path) as rig:
        for number in range(ROUNDS):
            rig.hub.start("file_removed")
            id = rig.hub.submit(f"{number}").json["request_id"]
            rig.hub.ended(id)
            url = picture(rig.hub.result(id).json)
            assert rig.hub.file(url).status == 200
            (key,) = rig.hub.rows("SELECT key FROM files WHERE request = ?", id)
            with pytest.raises(BROKEN):
                rig.hub.call("DELETE", f"/v1/files/{key[0]}")
            rig.hub.gone()
            assert rig.hub.rows("SELECT gone FROM files WHERE key = ?", *key) == [(1,)]
            rig.hub.start()
            assert rig.hub.file(url).status == 404
            eventually(lambda key=key: not rig.hub.rows("SELECT 1 FROM files WHERE key = ?", *key))  # type: ignore[misc]
            assert rig.hub.result(id).status == 200
            rig.hub.kill()
        rig.hub.start()
        rig.check_all()


def test_a_result_whose_erasure_was_cut_short_is_gone_with_its_file(tmp_path: Path) -> None:
    with rigged(tmp_path, keep_days=1e-6) as rig:
        rig.engine.usual = lambda: Act(large=True)
        for number in range(ROUNDS):
            rig.hub.start()
            id = rig.hub.submit(f"{number}", embedded=True).json["request_id"]
            rig.hub.ended(id)
            assert rig.hub.result(id).status == 200 and (tmp_path / "results" / id).exists()
            rig.hub.kill()
            rig.hub.spawn("payloads_erased")
            rig.hub.gone()
            assert rig.hub.rows("SELECT payload_gone FROM requests WHERE id = ?", id) == [(1,)]
            assert (tmp_path / "results" / id).exists()
            rig.hub.start()
            eventually(lambda id=id: not (tmp_path / "results" / id).exists())  # type: ignore[misc]
            assert (rig.hub.status(id)["status"], rig.hub.result(id).status) == ("COMPLETED", 410)
            rig.hub.kill()
        rig.hub.start()
        rig.check_all()


def test_without_the_spool_a_result_that_was_not_written_down_is_made_twice(tmp_path: Path) -> None:
    """A control: this is what the spool prevents."""
    with rigged(tmp_path, off="no-spool") as rig:
        rig.engine.usual = lambda: Act(large=True)
        id = known(rig, lost_submit(rig, "finish_uncommitted", "a picture", embedded=True))
        rig.hub.start()
        assert rig.over(id) is State.SUCCEEDED
        assert len(rig.engine.runs("a picture")) == 2


def test_without_recovery_an_orphan_is_never_run_again(tmp_path: Path) -> None:
    """A control: another request ends, the orphan does not."""
    with rigged(tmp_path, off="no-recovery") as rig:
        id = known(rig, lost_submit(rig, "claimed", "an orphan"))
        rig.hub.start()
        rig.hub.ended(rig.hub.submit("another").json["request_id"])
        assert rig.row(id)[0] is State.RUNNING and not rig.engine.runs("an orphan")
