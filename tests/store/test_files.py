"""Files: on disk before anybody is told, read by whoever may, never overwritten, counted, and swept."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.errors import BodyTooLarge, Busy, Unauthorized
from sensorium.store import objects
from sensorium.store.database import StoreUnavailable
from sensorium.store.files import STRAY_S, File, FileExists, FileForbidden, Files, QuotaSpent, UnknownFile
from sensorium.store.uploads import TICKET_S, BadParts, Part, TicketRefused, Uploads
from sensorium.wire import filelinks
from sensorium.wire.lifecycle import KEPT, Lifecycle
from tests.store.shelves import on_disk, shelved, uploading
from tests.store.vaults import Clock, meddle

BASE = "http://hub:1"
LIST = {"default": "forbid", "rules": [{"user": "bob", "decision": "allow"}, {"user": "eve", "decision": "hide"}]}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(tmp_path: Path, clock: Clock) -> Iterator[Files]:
    with shelved(tmp_path, clock) as files:
        yield files


@pytest.fixture
def uploads(files: Files) -> Uploads:
    return Uploads(files)


def put(files: Files, data: bytes = b"data", **more: Any) -> File:
    return files.put(data, **{"owner": "ada", "content_type": "image/png", "name": "a.png", **more})


def aged(folder: Path, place: str, clock: Clock, seconds: float) -> None:
    """Let a file be this old by the tests' clock."""
    os.utime(folder / "files" / place, (clock.now - seconds, clock.now - seconds), follow_symlinks=False)


def read(files: Files, file: File, caller: str = "ada") -> tuple[bytes, str] | None:
    return files.own(files.url(file, BASE), caller)


def test_a_file_comes_back_as_it_was(files: Files, tmp_path: Path) -> None:
    file = put(files, b"bytes", request="r1", lifecycle=Lifecycle(5.0, {"default": "hide"}))
    assert (file.size, file.request, file.acl, file.created_at, file.expires_at) == (5, "r1", {"default": "hide"}, *(1.8e9, 1.8e9 + 5))
    assert file.sha256 == "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9"
    assert file.key.startswith("2027/01/15/")
    assert files.of("ada", file.key) == file
    assert read(files, file) == (b"bytes", "image/png")
    assert files.url(file, BASE).startswith(f"{BASE}/fal/cdn/files/1.")
    assert files.url(file, BASE).endswith(f"/{file.key}.png")
    assert put(files).expires_at == 1.8e9 + 1000


def test_only_the_hubs_user_may_read_the_folder(files: Files, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        put(files)
    finally:
        os.umask(before)
    paths = list((tmp_path / "files").rglob("*"))
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "files", *paths) if path.is_dir()} == {0o700}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is synced is told by /proc")
def test_bytes_and_new_folders_are_on_disk_before_the_row(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        assert files.listed("ada", 10) == []
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(f"{tmp_path.resolve()}/"))

    monkeypatch.setattr(objects.os, "fsync", fsync)
    put(files)
    (place,) = on_disk(tmp_path)
    assert synced == ["files", "files/2027", "files/2027/01", f"files/{place}", "files/2027/01/15"]
    synced.clear()
    files.discard([files.listed("ada", 1)[0].key])
    put(files)
    (place,) = on_disk(tmp_path)
    assert synced == [f"files/{place}", "files/2027/01/15"]


def test_a_disk_that_fails_leaves_no_row(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(objects.os, "fsync", full)
        with pytest.raises(StoreUnavailable, match="No space left"):
            put(files)
    assert files.listed("ada", 10) == []
    assert on_disk(tmp_path) == []
    put(files)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/cat.png",
        "data:image/png;base64,AAAA",
        f"{BASE}/fal/cdn/files/upload",
        f"{BASE}/fal/cdn/files/SIG/2027/01/15/{'0' * 32}.png",
        f"{BASE}/fal/cdn/files/1.00000000.5.{'a' * 43}/2027/01/15/{'0' * 32}.png",
        "http://[::1/fal/cdn/files/x",
        "",
    ],
)
def test_urls_of_others_are_not_ours(files: Files, url: str) -> None:
    assert files.own(url, "ada") is None


def test_altered_expired_and_foreign_links_give_nothing(files: Files, clock: Clock, tmp_path: Path) -> None:
    file = put(files)
    url = files.url(file, BASE)
    assert files.own(f"{url}?x=1#y", "ada") == (b"data", "image/png")
    assert files.own(url.replace(BASE, "https://public.example/hub"), "ada") == (b"data", "image/png")
    for wrong in (url.replace(".png", ".svg"), url.replace("/15/", "/16/"), url.replace(f".{int(file.expires_at or 0)}.", ".0.")):
        with pytest.raises(UnknownFile):
            files.own(wrong, "ada")
    clock.now += 999
    assert files.own(url, "ada") is not None
    clock.now += 1
    with pytest.raises(UnknownFile):
        files.own(url, "ada")


@pytest.mark.parametrize("key", ["../../../etc/passwd", "..%2f..%2fx", "a\0b", "2027/01/15/../../x", "2027/01/15/" + "0" * 32 + "#1"])
def test_odd_keys_reach_nothing(files: Files, key: str) -> None:
    sealed = filelinks.seal(files.signing_key(), filelinks.READ, f"{key}.png", 0)  # even if the hub itself had signed it
    assert files.own(f"{BASE}{filelinks.PREFIX}{sealed}/{key}.png", "ada") is None
    assert files.own(f"{BASE}{filelinks.PREFIX}{sealed}/{quote(key)}.png", "ada") is None
    with pytest.raises(UnknownFile):
        files.of("ada", key)
    files.discard([key])
    with pytest.raises(FileNotFoundError):
        files.objects.open(key)


def test_links_inside_the_folder_are_not_followed(files: Files, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    file = put(files)
    (place,) = on_disk(tmp_path)
    at = tmp_path / "files" / place
    at.rename(secret / at.name)
    at.symlink_to(secret / at.name)
    with pytest.raises(StoreUnavailable):
        read(files, file)
    at.unlink()
    at.parent.rmdir()
    at.parent.symlink_to(secret)
    with pytest.raises(StoreUnavailable):
        read(files, file)
    with pytest.raises(StoreUnavailable):
        put(files)
    with pytest.raises(StoreUnavailable):
        files.discard([file.key])
    assert (secret / at.name).read_bytes() == b"data"


def test_a_row_altered_to_lead_out_reaches_nothing(files: Files, tmp_path: Path) -> None:
    file = put(files)
    other = put(files)
    meddle(tmp_path, f"UPDATE files SET place = '../sensorium.db' WHERE key = '{file.key}'")
    with pytest.raises(UnknownFile):
        read(files, file)
    files.discard([file.key, other.key])
    assert (tmp_path / "sensorium.db").exists()
    assert files.listed("ada", 10) == []


def test_an_access_list_admits_and_its_owner_may_always(files: Files) -> None:
    file = put(files, lifecycle=Lifecycle(None, LIST))
    for caller in ("ada", "bob"):
        assert read(files, file, caller) == (b"data", "image/png")
    with pytest.raises(UnknownFile):
        read(files, file, "eve")
    for caller in ("carl", ""):
        with pytest.raises(FileForbidden):
            read(files, file, caller)


def test_a_file_that_is_too_large_for_its_reader_is_not_read(files: Files) -> None:
    url = files.url(put(files, b"x" * 100), BASE)
    assert files.own(url, "ada", 100) == (b"x" * 100, "image/png")
    with pytest.raises(BodyTooLarge, match="100 bytes; at most 99"):
        files.own(url, "ada", 99)


def test_only_owners_see_and_list_their_files(files: Files, clock: Clock) -> None:
    made = []
    for number in range(5):
        clock.now += 1
        made.append(put(files, b"%d" % number))
    put(files, owner="bob")
    listed = files.listed("ada", 3)
    assert listed == made[:1:-1]
    assert files.listed("ada", 10, after=listed[-1].key) == made[1::-1]
    for wrong in (made[0].key, "nothing"):
        with pytest.raises(UnknownFile):
            files.of("bob", wrong)
        with pytest.raises(UnknownFile):
            files.listed("bob", 10, after=wrong)


def test_an_owner_may_keep_so_much_and_a_file_have_so_much(files: Files, tmp_path: Path) -> None:
    with pytest.raises(BodyTooLarge, match="601 bytes; at most 600"):
        put(files, b"x" * 601)
    first = put(files, b"x" * 600)
    put(files, b"x" * 400)
    with pytest.raises(QuotaSpent, match="at most 1000"):
        put(files, b"x")
    put(files, b"x" * 600, owner="bob")
    assert len(on_disk(tmp_path)) == 3
    files.discard([first.key])
    put(files, b"x" * 600)


def test_what_is_being_written_counts(files: Files, tmp_path: Path) -> None:
    one, two = (files.begin(files.new_key(), "ada") for _ in range(2))
    one.write(b"x" * 600)
    two.write(b"x" * 400)
    for incoming in (one, two):
        with pytest.raises(QuotaSpent):
            incoming.write(b"x")
    one.drop()
    two.write(b"x" * 600)
    with pytest.raises(StoreUnavailable, match="given up"):
        one.write(b"x")
    two.drop()
    assert on_disk(tmp_path) == []
    put(files, b"x" * 600)


def test_dropping_what_was_kept_changes_nothing_and_what_was_dropped_is_not_kept(files: Files) -> None:
    key, late = files.new_key(), files.begin(files.new_key(), "ada")
    incoming = files.begin(key, "ada")
    incoming.write(b"x" * 600)
    file = files.finish(incoming, key, "ada", "a/b", "x", KEPT)
    incoming.drop()
    assert read(files, file) is not None
    late.write(b"x" * 400)
    late.drop()
    with pytest.raises(StoreUnavailable, match="given up"):
        files.finish(late, files.new_key(), "ada", "a/b", "x", KEPT)
    put(files, b"x" * 400)


def test_a_quota_holds_also_when_files_end_at_the_same_time(files: Files, tmp_path: Path) -> None:
    keys = [files.new_key() for _ in range(4)]
    incoming = [files.begin(key, "ada") for key in keys]
    for one in incoming:
        one.write(b"x" * 250)
    with files.database.write() as db:  # meanwhile another process of the hub wrote a row
        files.insert(db, File("2027/01/15/" + "0" * 32, "ada", None, "a/b", "x", 400, "", None, 0.0, None), "2027/01/15/0-0")
    kept = refused = 0
    for key, one in zip(keys, incoming, strict=True):
        try:
            files.finish(one, key, "ada", "a/b", "x", KEPT)
            kept += 1
        except QuotaSpent:
            refused += 1
    assert (kept, refused) == (2, 2)
    assert len(on_disk(tmp_path)) == 2


def test_a_file_is_never_overwritten(files: Files, tmp_path: Path) -> None:
    key = files.new_key()
    tries = [files.begin(key, "ada") for _ in range(2)]
    for number, one in enumerate(tries):
        one.write(b"try %d" % number)
    file = files.finish(tries[1], key, "ada", "a/b", "x", KEPT)
    with pytest.raises(FileExists):
        files.finish(tries[0], key, "ada", "a/b", "x", KEPT)
    assert read(files, file) == (b"try 1", "a/b")
    assert len(on_disk(tmp_path)) == 1


def test_discarded_files_are_gone_at_once(files: Files, tmp_path: Path) -> None:
    kept, *others = [put(files, b"x") for _ in range(3)]
    files.discard([*(file.key for file in others), "unknown"])
    files.discard([])
    assert [file.key for file in files.listed("ada", 10)] == [kept.key]
    assert len(on_disk(tmp_path)) == 1
    with pytest.raises(UnknownFile):
        read(files, others[0])


def test_a_sweep_deletes_what_expired_and_nothing_else(files: Files, clock: Clock, tmp_path: Path) -> None:
    short, long = put(files, lifecycle=Lifecycle(60.0)), put(files)
    clock.now += 60
    with pytest.raises(UnknownFile):
        files.of("ada", short.key)
    assert files.listed("ada", 10) == [long]
    assert files.sweep() == 1
    assert files.sweep() == 0
    assert len(on_disk(tmp_path)) == 1
    assert read(files, long) is not None


def test_a_hub_that_died_between_bytes_and_row_leaves_strays(tmp_path: Path, clock: Clock) -> None:
    with shelved(tmp_path, clock) as files:
        kept = put(files)
        (place,) = on_disk(tmp_path)
        unfinished = files.begin(files.new_key(), "ada")
        unfinished.write(b"a row was never written")
        unfinished.keep()
        day = tmp_path / "files" / "2027" / "01" / "15"
        (day / "odd name#1").write_bytes(b"")
        (day / "link").symlink_to(tmp_path / "sensorium.db")
    strays = sorted(set(on_disk(tmp_path)) - {place})
    with shelved(tmp_path, clock) as files:
        for one in (place, *strays):
            aged(tmp_path, one, clock, STRAY_S - 1)
        assert files.sweep() == 0
        for one in (place, *strays):
            aged(tmp_path, one, clock, STRAY_S + 1)
        assert files.sweep() == 3
        assert on_disk(tmp_path) == [place]
        assert (tmp_path / "sensorium.db").exists()
        assert read(files, kept) is not None


def test_a_hub_that_died_while_deleting_ends_it_later(files: Files, tmp_path: Path) -> None:
    marked, without_bytes = put(files), put(files)
    meddle(tmp_path, "UPDATE files SET gone = 1")
    files.objects.remove([place for place in on_disk(tmp_path) if place.startswith(without_bytes.key)])
    with pytest.raises(UnknownFile):
        files.of("ada", marked.key)
    assert files.sweep() == 2
    assert on_disk(tmp_path) == []
    assert files.database.read("SELECT count(*) FROM files") == [(0,)]


def test_empty_folders_of_days_long_over_are_removed(files: Files, clock: Clock, tmp_path: Path) -> None:
    put(files, lifecycle=Lifecycle(1.0))
    clock.now += 2 * 86_400
    files.sweep()
    assert (tmp_path / "files/2027/01/15").is_dir()
    clock.now += 2 * 86_400
    files.sweep()
    assert not (tmp_path / "files/2027").exists()
    clock.now -= 4 * 86_400
    put(files)


def parted(uploads: Uploads, *parts: bytes, ticket: filelinks.Ticket | None = None) -> tuple[filelinks.Ticket, list[Part]]:
    ticket = ticket or uploads.ticket("ada", "video/mp4", "film.mp4", KEPT)[0]
    return ticket, [part(uploads, ticket, number, data) for number, data in enumerate(parts, 1)]


def part(uploads: Uploads, ticket: filelinks.Ticket, number: int, data: bytes) -> Part:
    incoming = uploads.begin(ticket)
    try:
        incoming.write(data)
    except QuotaSpent:
        incoming.drop()
        raise
    return uploads.finish_part(ticket, number, incoming)


def test_parts_make_a_file_in_the_order_of_their_numbers(uploads: Uploads, tmp_path: Path) -> None:
    ticket, parts = parted(uploads, b"one ", b"two ", b"three")
    link = uploads.link(ticket, BASE)
    with pytest.raises(UnknownFile):
        uploads.files.own(link, "ada")
    file = uploads.complete(ticket, [parts[2], parts[0], parts[1]])
    assert uploads.files.own(link, "ada") == (b"one two three", "video/mp4")
    assert (file.size, file.name, file.owner) == (13, "film.mp4", "ada")
    assert len(on_disk(tmp_path)) == 1
    assert uploads.complete(ticket, parts) == file
    with pytest.raises(FileExists):
        part(uploads, ticket, 4, b"late")
    assert len(on_disk(tmp_path)) == 1
    uploads.files.discard([file.key])
    with pytest.raises(BadParts):
        uploads.complete(ticket, parts)


@given(st.lists(st.tuples(st.integers(1, 5), st.binary(max_size=20)), max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_whatever_is_sent_in_whatever_order_the_last_of_each_number_counts(sent: list[tuple[int, bytes]], chance: Random) -> None:
    with tempfile.TemporaryDirectory() as folder, uploading(Path(folder)) as uploads:
        ticket, _ = parted(uploads)
        made = {number: part(uploads, ticket, number, data) for number, data in sent}
        last, named = dict(sent), list(made.values())
        chance.shuffle(named)
        if sorted(last) == [*range(1, len(last) + 1)] and last:
            file = uploads.complete(ticket, named)
            assert read(uploads.files, file) == (b"".join(last[number] for number in sorted(last)), "video/mp4")
            assert len(on_disk(Path(folder))) == 1
        else:
            with pytest.raises(BadParts, match="is missing"):
                uploads.complete(ticket, named)
            assert len(on_disk(Path(folder))) == len(last)


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ([], "part 1, 2 is not named"),
        ([(1, 0)], "part 2 is not named"),
        ([(1, 0), (2, 1), (2, 1)], "part 2 is named twice"),
        ([(1, 0), (2, 1), (3, 1)], "part 3 is missing"),
        ([(1, 1), (2, 0)], "part 1, 2 is other than what arrived last"),
        ([(0, 0)], "numbers from 1 to 10000"),
        ([(10**15, 0)], "numbers from 1 to 10000"),
    ],
)
def test_a_list_of_parts_that_is_wrong(uploads: Uploads, named: list[tuple[int, int]], says: str) -> None:
    ticket, parts = parted(uploads, b"one", b"two")
    with pytest.raises(BadParts, match=says):
        uploads.complete(ticket, [Part(number, parts[which].etag) for number, which in named])
    assert uploads.complete(ticket, parts).size == 6


def test_a_gap_between_parts_is_told(uploads: Uploads) -> None:
    ticket, _ = parted(uploads)
    with pytest.raises(BadParts, match="part 1 is missing"):
        uploads.complete(ticket, [])
    made = [part(uploads, ticket, number, b"x") for number in (1, 3)]
    with pytest.raises(BadParts, match="part 2 is missing"):
        uploads.complete(ticket, made)
    for number in (0, 10_001):
        with pytest.raises(BadParts, match="numbers from 1"):
            part(uploads, ticket, number, b"x")


def test_a_part_sent_again_takes_the_place_of_the_first(uploads: Uploads, tmp_path: Path) -> None:
    ticket, (first,) = parted(uploads, b"first")
    assert part(uploads, ticket, 1, b"first") == first
    second = part(uploads, ticket, 1, b"second")
    assert len(on_disk(tmp_path)) == 1
    with pytest.raises(BadParts, match="part 1 is other"):
        uploads.complete(ticket, [first])
    assert uploads.complete(ticket, [second]).size == 6


def test_parts_count_against_quota_and_size(uploads: Uploads, tmp_path: Path) -> None:
    ticket, parts = parted(uploads, b"x" * 300, b"x" * 300)
    with pytest.raises(BodyTooLarge, match="601 bytes together; at most 600"):
        part(uploads, ticket, 3, b"x")
    other, _ = parted(uploads, b"x" * 400)
    with pytest.raises(QuotaSpent):
        part(uploads, other, 2, b"x")
    assert len(on_disk(tmp_path)) == 3
    assert uploads.complete(ticket, parts).size == 600


def test_a_whole_file_sent_twice(uploads: Uploads, tmp_path: Path) -> None:
    ticket, text = uploads.ticket("ada", "a/b", "x", Lifecycle(60.0, {"default": "hide"}))
    assert uploads.opened(text) == ticket
    kept = []
    for _ in range(2):
        incoming = uploads.begin(ticket)
        incoming.write(b"same")
        kept.append(uploads.finish(ticket, incoming))
    assert kept[0] == kept[1]
    assert (kept[0].acl, kept[0].expires_at) == ({"default": "hide"}, 1.8e9 + 60)
    incoming = uploads.begin(ticket)
    incoming.write(b"other")
    with pytest.raises(FileExists):
        uploads.finish(ticket, incoming)
    assert len(on_disk(tmp_path)) == 1


def test_a_file_lives_from_its_completion_on(uploads: Uploads, clock: Clock) -> None:
    ticket, _ = uploads.ticket("ada", "a/b", "x", Lifecycle(60.0))
    link = uploads.link(ticket, BASE)
    _, parts = parted(uploads, b"slow", ticket=ticket)
    clock.now += TICKET_S - 1
    uploads.files.sweep()
    uploads.complete(ticket, parts)
    clock.now += 59
    assert uploads.files.own(link, "ada") == (b"slow", "a/b")
    clock.now += 1
    with pytest.raises(UnknownFile):
        uploads.files.own(link, "ada")


def test_tickets_and_tokens_end(uploads: Uploads, clock: Clock) -> None:
    _, text = uploads.ticket("ada", "a/b", "x", KEPT)
    token, expires = uploads.token("ada")
    assert uploads.token_owner(token) == "ada"
    clock.now = float(expires)
    with pytest.raises(Unauthorized, match="altered or has expired"):
        uploads.token_owner(token)
    with pytest.raises(TicketRefused, match="not one of this hub's"):
        uploads.opened(text[:-1])
    clock.now += TICKET_S
    with pytest.raises(TicketRefused, match="has expired"):
        uploads.opened(text)


def test_abandoned_uploads_are_swept_when_their_ticket_ends(uploads: Uploads, clock: Clock, tmp_path: Path) -> None:
    ticket, _ = parted(uploads, b"one", b"two")
    for place in on_disk(tmp_path):
        aged(tmp_path, place, clock, 2 * STRAY_S)
    assert uploads.files.sweep() == 0  # they have rows
    clock.now = float(ticket.expires)
    assert uploads.files.sweep() == 2
    assert on_disk(tmp_path) == []
    put(uploads.files, b"x" * 600)


def test_one_completion_at_a_time(uploads: Uploads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticket, parts = parted(uploads, b"one", b"two")
    begun, go_on = threading.Event(), threading.Event()
    assemble = uploads._assembled

    def slow(*given: Any) -> File:
        begun.set()
        assert go_on.wait(10)
        return assemble(*given)

    monkeypatch.setattr(uploads, "_assembled", slow)
    made: list[File] = []
    first = threading.Thread(target=lambda: made.append(uploads.complete(ticket, parts)))
    first.start()
    assert begun.wait(10)
    for meanwhile in (lambda: uploads.complete(ticket, parts), lambda: part(uploads, ticket, 2, b"new")):
        with pytest.raises(Busy, match="being completed"):
            meanwhile()
    go_on.set()
    first.join()
    assert uploads.complete(ticket, parts) == made[0]
    assert len(on_disk(tmp_path)) == 1


def test_a_part_lost_from_the_disk_is_told(uploads: Uploads, tmp_path: Path) -> None:
    ticket, parts = parted(uploads, b"one", b"two")
    (tmp_path / "files" / on_disk(tmp_path)[0]).unlink()
    with pytest.raises(BadParts, match="lost"):
        uploads.complete(ticket, parts)
    assert len(on_disk(tmp_path)) == 1


def test_a_restarted_hub_knows_parts_and_files(tmp_path: Path) -> None:
    with uploading(tmp_path) as uploads:
        ticket, text = uploads.ticket("ada", "a/b", "x", KEPT)
        _, parts = parted(uploads, b"one ", b"two", ticket=ticket)
        link = uploads.link(ticket, BASE)
    with uploading(tmp_path) as uploads:
        uploads.complete(uploads.opened(text), parts)
        assert uploads.files.own(link, "bob") == (b"one two", "a/b")


def test_bytes_that_are_lost_are_told(files: Files, tmp_path: Path) -> None:
    file = put(files)
    (tmp_path / "files" / on_disk(tmp_path)[0]).unlink()
    with pytest.raises(UnknownFile, match="lost"):
        read(files, file)
    link = filelinks.link(files.url(file, "").removeprefix(filelinks.PREFIX))
    assert link is not None
    other = put(files)
    link = filelinks.link(files.url(other, "").removeprefix(filelinks.PREFIX))
    assert link is not None
    _, opened = files.linked(link, lambda: "")
    with closing(opened):
        files.discard([other.key])
        assert opened.read() == b"data"  # a reader that has begun goes on
