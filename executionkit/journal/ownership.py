"""Who has a run: which process of which machine, and whether it still lives. Which files a machine shares."""

import os
import platform
import time
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["LEASE", "Owner", "is_gone", "network_mount", "this_process"]

LEASE: Final = 30.0
"""Seconds that an owner on another machine may be silent before its run can be taken over."""

_NETWORK: Final = frozenset(
    {
        *(
            "nfs",
            "nfs4",
            "cifs",
            "smb2",
            "smb3",
            "smbfs",
            "afs",
            "ceph",
            "glusterfs",
            "lustre",
            "gfs2",
            "ocfs2",
        ),
        *("9p", "ncpfs", "beegfs", "gpfs", "davfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs"),
        *("fuse.davfs2", "fuse.rclone", "fuse.gcsfuse", "fuse.juicefs"),
    }
)


class Owner(msgspec.Struct, frozen=True):
    """A process.

    Args:
        machine: Its machine, up since its last start; within a container, that.
        pid: Its number there.
        started: When it started, as the machine counts; empty where it does not tell.
    """

    machine: str
    pid: int
    started: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine.partition(' ')[0]}"


@cache
def this_process() -> Owner:
    """Return this process."""
    return Owner(_machine(), os.getpid(), _started(os.getpid()))


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=this_process.cache_clear)


def is_gone(owner: Owner, heard: float, now: float) -> bool:
    """Tell whether a process has ended: at once where it was on this machine, else by its silence.

    Args:
        owner: The process.
        heard: When it was heard of last, in seconds since 1970.
        now: The time.
    """
    if owner.machine == _machine():
        if owner.started:
            return _started(owner.pid) != owner.started
        if os.name == "posix" and not _is_there(owner.pid):
            return True
    return now - heard > LEASE


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@cache
def _machine() -> str:
    """Name this machine, since its last start; processes that cannot see each other are on two."""
    parts = [platform.node() or "localhost"]
    for source in (Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")):
        try:
            parts.append(str(source.readlink()) if source.name == "pid" else source.read_text().strip())
        except OSError:
            continue
    return " ".join(parts)


def _started(pid: int) -> str:
    """Return when a process of this machine started; empty where there is none, or nobody tells."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    # A process that has ended but was not waited for yet is gone, too.
    return "" if fields[0] in {"Z", "X"} else fields[19]


def wall_clock() -> float:
    """Return the time in seconds since 1970."""
    return time.time()


def network_mount(path: Path, mounts: str | None = None) -> str | None:
    """Return the kind of the network file system that a path is on; None where it is on none that is known.

    Args:
        path: The path, absolute.
        mounts: What `/proc/self/mountinfo` says; None reads it. Elsewhere than on Linux nothing is known.

    >>> network_mount(Path("/data/a.db"), "36 35 0:1 / /data rw - nfs4 server:/x rw")
    'nfs4'
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None
    kind, longest = None, -1
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or not kinds:
            continue
        point = Path(fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        if len(point.parts) >= longest and path.is_relative_to(point):
            kind, longest = kinds[0], len(point.parts)
    return kind if kind in _NETWORK else None
