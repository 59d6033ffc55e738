"""What kind of file system a folder lies on, as Linux tells it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/proc/self/mountinfo")
# Several machines may see these, or they have no shared memory: SQLite's log needs that (https://sqlite.org/wal.html), and so do locks.
NETWORK: Final = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "afs",
        "ceph",
        "lustre",
        "gfs2",
        "ocfs2",
        "beegfs",
        "gpfs",
        "pvfs2",
        "orangefs",
        "ncpfs",
        "coda",
    }
    | {f"fuse.{name}" for name in ("sshfs", "s3fs", "glusterfs", "ceph", "rclone", "davfs2", "gcsfuse", "blobfuse", "blobfuse2", "juicefs")}
    | {"davfs", "glusterfs", "fuse.mount-s3"}
)
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


def network_file_system(folder: Path, mounts: Path = MOUNTS) -> str | None:
    """The kind of network file system that holds this folder; None for a disk of this machine, and where nobody tells."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    place, found, longest = folder.resolve(), "", -1
    for line in lines:
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        if len(fields) < 5:
            continue
        point = Path(_ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), fields[4]))
        if place.is_relative_to(point) and len(point.parts) >= longest:  # of several on one folder the last one shows
            found, longest = after.split(" ")[0], len(point.parts)
    return found if found in NETWORK else None
