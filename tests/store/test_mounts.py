"""The kind of file system below a folder, out of what Linux tells, and a hub that does not start on one of several machines."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from sensorium.errors import SettingsError
from sensorium.store import database as stored
from sensorium.store.database import Database
from sensorium.store.mounts import MOUNTS, network_file_system

LINES = r"""
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 22 0:35 / /srv/share rw,relatime shared:20 master:3 - nfs4 10.0.0.2:/share rw,vers=4.2
41 40 254:2 / /srv/share/disk rw - xfs /dev/vdb rw
42 22 0:36 / /srv/with\040blank rw - cifs //there/share rw
43 22 0:37 / /home/me/far rw,nosuid - fuse.sshfs me@there: rw
44 22 0:38 / /over rw - nfs 10.0.0.2:/over rw
45 44 254:3 / /over rw - ext4 /dev/vdc rw
46 22 0:39 / /net rw - autofs systemd-1 rw
47 46 0:40 / /net rw - nfs 10.0.0.2:/net rw
not a line
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv", None),
        ("/srv/share", "nfs4"),
        ("/srv/share/data/of/mine", "nfs4"),
        ("/srv/shared", None),
        ("/srv/share/disk/data", None),
        ("/srv/with blank/data", "cifs"),
        ("/home/me/far/data", "fuse.sshfs"),
        ("/over/data", None),
        ("/net/data", "nfs"),
    ],
)
def test_the_innermost_mount_counts_and_of_several_the_last(tmp_path: Path, folder: str, kind: str | None) -> None:
    (tmp_path / "mountinfo").write_text(LINES)
    assert network_file_system(Path(folder), tmp_path / "mountinfo") == kind


def test_nobody_tells(tmp_path: Path) -> None:
    assert network_file_system(tmp_path, tmp_path / "missing") is None


@pytest.mark.parametrize("lines", ["", "\n\n", " - \n", "22 1 0:1 / /", "22 1 0:1 / / rw -"])
def test_what_cannot_be_read_is_passed_over(tmp_path: Path, lines: str) -> None:
    (tmp_path / "mountinfo").write_text(lines)
    assert network_file_system(tmp_path, tmp_path / "mountinfo") is None


def test_the_disk_that_tests_run_on_is_told(tmp_path: Path) -> None:
    assert network_file_system(tmp_path, MOUNTS) is None


def test_a_hub_does_not_start_on_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "network_file_system", lambda folder: "nfs4")
    with (
        closing(Database(tmp_path)) as database,
        pytest.raises(SettingsError, match=r"network file system \(nfs4\); use a server\.data_dir"),
    ):
        database.keep_hubs_off()
