"""Whether a store would lie on a file system of the network, where SQLite's log does not work.

SQLite's log (WAL) has its index in memory that processes map from a file. Over a network that memory is not shared, and
locks may not reach every machine. https://www.sqlite.org/wal.html#overview. EFS is NFS.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from gowork.leader.store.protocol import StoreError

#: Types of file systems, as /proc/self/mountinfo names them, whose files another machine or a program has.
_NETWORK = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs",
        "nfs4", "orangefs", "pvfs2", "smb3", "smbfs",
    }
)  # fmt: skip
#: Of file systems that a program serves (FUSE), those whose files are on this machine's disks: layers of containers
#: that run without root.
_LOCAL_FUSE = frozenset({"fuse.fuse-overlayfs"})


class NetworkFileSystemError(StoreError):
    """The store would lie on a file system of the network."""


def check_not_on_network(path: Path) -> None:
    """Checks that a store at this path would lie on this machine. Where the kernel does not tell, nothing is refused.

    Args:
        path: where the database is, or is to be.

    Raises:
        NetworkFileSystemError: it would lie on a file system of the network.
    """
    mount = _mount_of(path.parent)
    if mount is None:
        return
    point, kind = mount
    if is_network(kind):
        raise NetworkFileSystemError(
            f"{path} would be on a file system of the network ({kind}, mounted at {point}), where SQLite can lose "
            f"tasks. Name a directory on a disk of this machine (--data-dir). Leaders that should keep nothing on a "
            f"disk share a log (--log). --store-on-network-file-system uses it all the same."
        )


def is_network(kind: str) -> bool:
    """Whether a type of file systems, such as "nfs4", keeps its files elsewhere."""
    return kind in _NETWORK or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)


def mount_in(lines: Iterable[str], id: str) -> tuple[str, str] | None:
    """Returns where a mount is and its type, from the lines of /proc/self/mountinfo; None: it is not there.

    The number of fields before the hyphen differs from line to line: proc_pid_mountinfo(5).
    """
    for line in lines:
        fields, hyphen, rest = line.partition(" - ")
        words = fields.split(" ")
        if hyphen and words[0] == id and len(words) > 4:
            return words[4], rest.split(" ")[0]
    return None


def _mount_of(directory: Path) -> tuple[str, str] | None:
    """Returns where the mount of a directory, or of its first parent that exists, is, and its type."""
    try:
        descriptor = _opened(directory)
    except OSError:
        # Whoever opens the store will say what is wrong.
        return None
    try:
        id = _mount_id(descriptor)
        if id is None:
            return None
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            return mount_in(lines, id)
    except OSError:
        # This system has no such files.
        return None
    finally:
        os.close(descriptor)


def _opened(directory: Path) -> int:
    while True:
        try:
            return os.open(directory, getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)
        except FileNotFoundError:
            directory = directory.parent


def _mount_id(descriptor: int) -> str | None:
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
        return next((line.split()[1] for line in lines if line.startswith("mnt_id:")), None)
