"""A settings file taken over while the hub runs: what can change does, what cannot is named, and a file with problems changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import Field

from sensorium.errors import SettingsError
from sensorium.live import Change, LiveSettings, Source, difference, settled
from sensorium.settings import Settings, load

CHAT = '[router.chat]\nurl = "https://one.example/v1"\nkey = "none"\n'
MORE = '[router.chat]\nurl = "https://one.example/v1"\nkey = "none"\nmodels = ["a", "b"]\n'
MOVED = CHAT.replace("one.", "two.")
BOX = '[providers.box]\nkind = "engine"\nbase_url = "http://127.0.0.1:9/v1"\nmodels = ["m"]\n'


class File:
    """A settings file, and what was taken over from it."""

    def __init__(self, folder: Path, text: str) -> None:
        self.path = folder / "hub.toml"
        self.write(text)
        self.taken: list[tuple[Settings, Change]] = []
        read = lambda: load(self.path, {"HOME": str(folder), "BOX_KEY": "k"})  # noqa: E731
        self.live = LiveSettings(read(), Source(self.path, read), lambda *told: self.taken.append(told), lambda: 1000.0)

    def write(self, text: str) -> None:
        self.path.write_text(text, "utf-8")

    def watched(self, *steps: Callable[[], None]) -> None:
        """The watch, with a step before each of its looks."""
        left = list(steps)

        async def sleep(_: float) -> None:
            if not left:
                raise asyncio.CancelledError
            left.pop(0)()

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(self.live.watch(sleep))


def nothing() -> None:
    """A look at a file that rests."""


@pytest.mark.parametrize(
    ("before", "after", "options", "providers"),
    [
        (CHAT, CHAT, (), ()),
        (CHAT, CHAT + BOX, ("providers.box",), ("box",)),
        (CHAT + BOX, CHAT, ("providers.box",), ("box",)),
        (CHAT, MORE, ("router.chat",), ()),
        (CHAT, MOVED, ("router.chat",), ("router.chat",)),
        (CHAT, CHAT + "[local]\nstand_ins = false\n", ("local.stand_ins",), ()),
        (CHAT, CHAT + "[server]\nmax_body_bytes = 2048\n", ("server.max_body_bytes",), ()),
        (BOX + BOX.replace("box", "bag"), BOX.replace("box", "bag") + BOX, ("providers",), ()),
        (BOX, BOX + 'key_env = "BOX_KEY"\n', ("providers.box",), ("box",)),
    ],
)
def test_what_a_changed_file_changes(tmp_path: Path, before: str, after: str, options: tuple[str, ...], providers: tuple[str, ...]) -> None:
    file = File(tmp_path, before)
    file.write(after)
    assert file.live.reload() == Change(options, providers)
    assert [change for _, change in file.taken] == ([Change(options, providers)] if options else [])
    assert (file.live.problems, file.live.needs_restart) == ([], [])


def test_what_cannot_change_is_named_and_stays_while_the_rest_is_taken_over(tmp_path: Path) -> None:
    file = File(tmp_path, CHAT)
    port, folder = file.live.current.server.port, file.live.current.data_dir
    file.write(MOVED + '[server]\nport = 1\ndata_dir = "/elsewhere"\n[vault]\nmaster_key_file = "k"\n[local]\nenabled = false\nqueue = 3\n')
    assert file.live.reload().options == ("router.chat",)
    assert set(file.live.needs_restart) == {"server.port", "server.data_dir", "vault.master_key_file", "local.enabled", "local.queue"}
    now = file.live.current
    assert (now.server.port, now.data_dir, now.local.queue) == (port, folder, 32)
    assert now.router.chat is not None and now.router.chat.url == "https://two.example/v1"
    file.write(MOVED)
    file.live.reload()
    assert file.live.needs_restart == []


def test_what_nobody_has_said_to_be_changeable_needs_a_restart() -> None:
    class Larger(Settings):
        extra: dict[str, int] = Field(default={})

    running, read = Larger(extra={"a": 1}), Larger(extra={"a": 2})
    settings, fixed = settled(running, read)
    assert (settings, fixed) == (running, ["extra"])
    assert difference(running, settings) == Change((), ())


@pytest.mark.parametrize(
    "broken", ["[router.chat\n", CHAT + "keys = 1\n", MOVED.replace("https", "gopher"), BOX + 'key_env = "NO_SUCH_KEY"\n']
)
def test_a_file_with_problems_changes_nothing_and_says_so_until_it_is_mended(tmp_path: Path, broken: str) -> None:
    file = File(tmp_path, CHAT)
    before = file.live.current
    file.write(broken)
    with pytest.raises(SettingsError) as caught:
        file.live.reload()
    assert file.live.problems == caught.value.problems != []
    assert (file.live.current, file.taken) == (before, [])
    file.write(MOVED)
    file.live.reload()
    assert file.live.problems == []


def test_what_cannot_be_applied_is_not_in_force(tmp_path: Path) -> None:
    file = File(tmp_path, CHAT)

    def refuse(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    file.live._apply = refuse
    before = file.live.current
    file.watched(lambda: file.write(MOVED), nothing, nothing)
    assert file.live.current is before
    assert file.live.problems == ["it could not be taken over; the log says why"]


def test_a_file_is_taken_over_once_it_rests(tmp_path: Path) -> None:
    file = File(tmp_path, CHAT)
    halves: list[int] = []
    file.watched(
        nothing,
        lambda: file.write(MORE[:60]),
        lambda: (halves.append(len(file.taken)), file.write(MORE))[1],  # type: ignore[func-returns-value]
        lambda: halves.append(len(file.taken)),
        lambda: halves.append(len(file.taken)),
        nothing,
    )
    assert halves == [0, 0, 1]
    assert [change.options for _, change in file.taken] == [("router.chat",)]
    assert file.live.problems == []


def test_a_file_that_is_gone_is_a_problem_until_it_is_back(tmp_path: Path) -> None:
    file = File(tmp_path, CHAT)
    seen: list[list[str]] = []
    file.watched(file.path.unlink, nothing, lambda: seen.append(file.live.problems), lambda: file.write(CHAT), nothing, nothing)
    assert [problem.split(": ", 1)[1] for problem in seen[0]] == ["cannot be read: No such file or directory"]
    assert file.live.problems == []


def test_without_a_file_there_is_nothing_to_take_over() -> None:
    live = LiveSettings(Settings(), Source(None, Settings), lambda *_: None, lambda: 0.0)
    with pytest.raises(SettingsError, match="started without a settings file"):
        live.reload()
    asyncio.run(live.watch())


def test_what_outlives_a_connection_changes_with_a_restart_and_that_is_told(tmp_path: Path) -> None:
    file = tmp_path / "hub.toml"
    file.write_text("", "utf-8")
    running = load(file, {}, data_dir=tmp_path)
    file.write_text('[jobs]\nat_once = 3\n[files]\nquota_mb = 5\n[webhooks]\nkeep_days = 3.0\n[callers.ann]\ntoken_env = "ANN"\n', "utf-8")
    settings, fixed = settled(running, load(file, {"ANN": "long-enough-for-a-token"}, data_dir=tmp_path))
    assert fixed == ["jobs.at_once", "files.quota_mb", "webhooks.keep_days", "callers"]
    assert (settings.jobs, settings.files, settings.callers, settings.caller_tokens) == (running.jobs, running.files, {}, {})
