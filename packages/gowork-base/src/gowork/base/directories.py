"""Directories for files that nobody else may touch: stores, and the locks that prove that a worker has ended.

Whoever may write to a directory can replace each file in it, whatever that file's own permissions are. Whoever may
write to a parent can replace the directory. So the directory and all its parents are checked, as sshd does for keys.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class SharedDirectoryError(PermissionError):
    """Somebody else may write to a directory, or to one of its parents."""


def make_directory(path: Path) -> None:
    """Makes a directory and its missing parents, durably and with mode 0700.

    Raises:
        OSError: a directory cannot be made.
    """
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(mode=0o700, exist_ok=True)
        # Its name is stored in its parent. Without this, a power cut could lose the directory with all its files.
        sync_directory(directory.parent)


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable.

    Raises:
        OSError: the directory cannot be opened or synced.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private(path: Path) -> None:
    """Makes a directory as make_directory does, and checks that nobody else may write to it or to its parents.

    Raises:
        SharedDirectoryError: somebody else may write to one of them.
        OSError: a directory cannot be made.
    """
    make_directory(path)
    for directory in _with_parents(path):
        look = directory.stat()
        if look.st_uid not in (0, os.geteuid()):
            raise SharedDirectoryError(
                f"{directory} belongs to another user (uid {look.st_uid}), who could replace what is kept in {path}. "
                f"Name another directory."
            )
        writers = look.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if writers & stat.S_IWGRP and _is_own_group(look.st_gid):
            writers &= ~stat.S_IWGRP
        # In a directory with the sticky bit, such as /tmp, nobody else can rename or remove this user's files.
        if writers and not (directory != path.resolve() and look.st_mode & stat.S_ISVTX):
            raise SharedDirectoryError(_told(directory, path))


def check_not_public(path: Path) -> None:
    """Checks that not everybody may replace the files of a directory.

    It demands less than make_private: a group may write, because volumes of containers are made so.

    Raises:
        SharedDirectoryError: everybody may write to the directory or to a parent, and it has no sticky bit.
    """
    for directory in _with_parents(path):
        mode = directory.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise SharedDirectoryError(_told(directory, path))


def _told(directory: Path, path: Path) -> str:
    return (
        f"{directory} may be written by others, who could replace what is kept in {path}. "
        f"Forbid it (chmod go-w {directory}), or name another directory."
    )


def _with_parents(path: Path) -> list[Path]:
    path = path.resolve()
    return [path, *path.parents]


def _is_own_group(gid: int) -> bool:
    """Whether the group is the user's private one: many systems give each user a group with the user's own number."""
    return gid == os.getegid() == os.geteuid()
