"""What becomes of a closed store that follows its log no more: it gets another name, or belongs to no log."""

from __future__ import annotations

import datetime
import itertools
import os
from pathlib import Path

from gowork.base.directories import sync_directory
from gowork.leader.store._sqlite_errors import reported
from gowork.leader.store._sqlite_file import FileLock, connect, format_at, unwritable
from gowork.leader.store._sqlite_meta import begin_anew
from gowork.leader.store._sqlite_reserve import reserve_path
from gowork.leader.store._sqlite_schema import LOGGED
from gowork.leader.store.protocol import StoreError

#: The database comes first. If the process dies before its log follows, the next one finds a log without a database,
#: and refuses it. The other way round it would open a database without its log, which may be damaged.
_SUFFIXES = ("", "-wal", "-shm")


def set_aside(path: Path) -> Path:
    """Renames the store at this path, durably. See LoggedStore.set_aside."""
    lock = FileLock(path)
    try:
        there = [suffix for suffix in _SUFFIXES if os.path.lexists(f"{path}{suffix}")]
        if not there:
            raise StoreError(f"{path} is not there, so it can't be set aside.")
        aside = _free_name(path)
        for suffix in there:
            os.rename(f"{path}{suffix}", f"{aside}{suffix}")
        sync_directory(path.parent)
        return aside
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        lock.release()


def _free_name(path: Path) -> Path:
    now = datetime.datetime.now(datetime.UTC)
    stem = f"{path}.aside-{now:%Y%m%dT%H%M%SZ}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return Path(next(name for name in names if not any(os.path.lexists(f"{name}{suffix}") for suffix in _SUFFIXES)))


def detach(path: Path) -> None:
    """Makes the store at this path belong to no log, durably. See LoggedStore.detach."""
    lock = FileLock(path)
    try:
        version = format_at(path)
        if version not in LOGGED.values():
            what = "belongs to no log" if version else "is not there"
            raise StoreError(f"{path} {what}, so it can't be detached.")
        with reported(str(path)):
            connection = connect(path)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("BEGIN IMMEDIATE")
                begin_anew(connection)
                connection.execute("COMMIT")
            finally:
                connection.close()
        reserve_path(path).unlink(missing_ok=True)
    finally:
        lock.release()
