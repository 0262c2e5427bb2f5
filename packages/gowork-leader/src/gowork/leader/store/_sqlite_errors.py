"""Turns errors of SQLite and the operating system into the store's own, which say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from gowork.leader.store.protocol import StoreBusyError, StoreDamagedError, StoreError, StoreFullError

#: A page could not be written, because of a quota, the process's file size limit or a failing disk. The batch is not in
#: the log, because a transaction counts only when its last frame is there whole. So it may be tried again. After a
#: failed fsync, in contrast, what it should have made durable is in doubt.
_UNWRITTEN = frozenset(
    {
        apsw.SQLITE_IOERR_WRITE,
        apsw.SQLITE_IOERR_SHMSIZE,
    }
)


@contextmanager
def reported(path: str) -> Iterator[None]:
    """Turns errors of SQLite that are raised inside into errors of the store at this path."""
    try:
        yield
    except apsw.Error as error:
        raise translated(error, path) from error


def translated(error: apsw.Error, path: str) -> StoreError:
    """Returns the store's error for one of SQLite's."""
    # Errors that apsw raises by itself, such as the use of a closed connection, carry no code.
    extended: int = getattr(error, "extendedresult", apsw.SQLITE_ERROR)
    code = extended & 0xFF
    if code == apsw.SQLITE_FULL:
        return StoreFullError(f"There is no space left for {path}. Nothing was written. Free some, and it goes on.")
    if extended in _UNWRITTEN:
        return StoreFullError(
            f"{path} could not be written ({error}), because of a quota, a file size limit or a failing disk. "
            f"Nothing was written. Make room, and it goes on."
        )
    if code in (apsw.SQLITE_CORRUPT, apsw.SQLITE_NOTADB):
        return damaged(path, str(error))
    if code in (apsw.SQLITE_READONLY, apsw.SQLITE_CANTOPEN, apsw.SQLITE_PERM):
        return StoreError(
            f"{path} can't be written ({error}). The leader's user must be able to write the file and its directory."
        )
    if code == apsw.SQLITE_BUSY:
        return StoreBusyError(
            f"{path} is locked by another program ({error}). Nothing was written. It goes on when that program "
            f"releases the lock."
        )
    return StoreError(f"{path} can't be used: {error}.")


def damaged(path: str, what: str) -> StoreDamagedError:
    """Returns the error for a damaged store."""
    return StoreDamagedError(
        f"{path} is damaged: {what}. It was left as it is. Restore a backup, or move it away together with {path}-wal "
        f"to start with an empty store; `sqlite3 {path} .recover` may save what can still be read."
    )
