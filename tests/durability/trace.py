"""System calls of a hub as strace has written them, and whether what was told of a request was on disk before (jobs.md, J-24)."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = "openat,write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,link,linkat,sendto,sendmsg"
LINE = re.compile(r"(?P<pid>\d+) +(?:<\.\.\. (?P<resumed>\w+) resumed>(?P<rest>.*)|(?P<name>\w+)\((?P<args>.*))")
ENDED = re.compile(r"^(?P<args>.*)\) += (?P<result>-?\d+|\?).*$", re.DOTALL)
UNFINISHED = " <unfinished ...>"
FIRST = re.compile(r"^\d+<(?P<path>[^>]*)>")
HOOK_ID = re.compile(r"msg_[0-9a-f]{32}")
SYNCS, SENDS = ("fsync", "fdatasync"), ("sendto", "sendmsg", "write", "writev")


def tracing(to: Path) -> tuple[str, ...]:
    """What stands before a command whose system calls shall be written down. Fails where strace is missing."""
    return (*_strace(), "-y", "-s", "6000", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(to))


def failing(call: str, after: int) -> tuple[str, ...]:
    """What stands before a command whose calls of one kind shall fail after so many, as on a broken disk. Fails where strace is missing."""
    return (*_strace(), "-e", f"trace={call}", "-e", f"inject={call}:error=EIO:when={after}+", "-e", "signal=none", "-o", "/dev/null")


def _strace() -> tuple[str, ...]:
    strace = shutil.which("strace")
    assert strace is not None, "this test needs strace: apt-get install strace"
    return (strace, "-D", "-f", "--seccomp-bpf")


@dataclass(frozen=True, slots=True)
class Call:
    """One system call; `begun` and `over` count lines of the trace. `path` is what its first argument is open on."""

    name: str
    args: str
    begun: int
    over: int

    @property
    def path(self) -> str:
        found = FIRST.match(self.args)
        return found["path"] if found else ""


def read(trace: str) -> list[Call]:
    """The calls that came to their end without an error, in the order of their beginnings."""
    begun: dict[str, tuple[str, str, int]] = {}
    calls = []
    for number, line in enumerate(trace.splitlines()):
        found = LINE.match(line)
        if found is None:
            continue
        pid = found["pid"]
        if found["resumed"]:
            if pid not in begun:
                continue
            name, args, since = begun.pop(pid)
            args += found["rest"]
        elif found["args"].endswith(UNFINISHED):
            begun[pid] = found["name"], found["args"].removesuffix(UNFINISHED), number
            continue
        else:
            name, args, since = found["name"], found["args"], number
        ended = ENDED.match(args)
        if ended is not None and not ended["result"].startswith(("-", "?")):
            calls.append(Call(name, ended["args"], since, number))
    return sorted(calls, key=lambda call: call.begun)


def acknowledged(calls: Sequence[Call], id: str) -> bool:
    """Whether a submission was on disk before anybody was told of it."""
    told = [call for call in calls if _tells(call, id)]
    row = next((call for call in calls if _writes(call, id)), None)
    return bool(told) and row is not None and _synced(calls, row, told[0].begun)


def problems(calls: Sequence[Call], id: str, written: Sequence[Path]) -> Iterator[str]:
    """What was told of a request before it was on disk: of its submission, of the files `written` for it, of its end."""
    if not acknowledged(calls, id):
        yield f"{id}: acknowledged before it was on disk"
    hook = next((call for call in calls if _tells(call, id) and "x-fal-webhook-request-id" in call.args.lower()), None)
    name = None if hook is None else HOOK_ID.search(hook.args)
    end = None if name is None else next((call for call in calls if _writes(call, name[0])), None)  # it is written with the end
    if hook is None or end is None or not _synced(calls, end, hook.begun):
        yield f"{id}: told of before its end was on disk"
        return
    for path in written:
        yield from _unsafe(calls, id, path, end.begun)


def _tells(call: Call, id: str) -> bool:
    return call.name in SENDS and "<socket:" in call.args and id in call.args


def _writes(call: Call, text: str) -> bool:
    return call.name == "pwrite64" and call.path.endswith("-wal") and text in call.args


def _unsafe(calls: Sequence[Call], id: str, path: Path, row: int) -> Iterator[str]:
    """Data, then its sync, then the name, then the folder's sync, then the row that speaks of it."""
    renamed = [call for call in calls if call.name.startswith("rename") and call.args.endswith(f', "{path}"')]
    first = renamed[0].args.split('"')[1] if renamed else str(path)
    data = [call for call in calls if call.name in ("write", "pwrite64", "writev") and call.path == first]
    if not data:
        yield f"{id}: {path.name} was not seen being written"
        return
    synced = next((call for call in calls if call.name in SYNCS and call.path == first and call.begun > data[-1].over), None)
    if synced is None or synced.over > row:
        yield f"{id}: {path.name} is not synced before the row"
        return
    named = renamed[0] if renamed else next(call for call in calls if call.name == "openat" and f'"{path}"' in call.args)
    if renamed and named.begun < synced.over:
        yield f"{id}: {path.name} has its name before it is synced"
    after = max(named.over, data[0].begun)
    if not any(call.name in SYNCS and call.path == str(path.parent) and after < call.begun and call.over < row for call in calls):
        yield f"{id}: the folder of {path.name} is not synced before the row"


def _synced(calls: Sequence[Call], write: Call, before: int) -> bool:
    return any(call.name in SYNCS and call.path == write.path and write.over < call.begun and call.over < before for call in calls)
