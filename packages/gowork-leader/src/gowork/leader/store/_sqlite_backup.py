"""Copies the database while it is in use.

The copy is of the moment at which it begins: a reading transaction keeps that moment, so that commits neither wait for
it nor get into it. While it lasts the log can't start anew, and grows by what is committed.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from gowork.leader.store._sqlite_errors import reported
from gowork.leader.store._sqlite_file import connect, format_at, sync_directory, unwritable
from gowork.leader.store.protocol import StoreError, StoreFormatError

#: By how much a restored store's term is raised: more often than a leader is started between a backup and its restore,
#: so that its fences grow over all that were granted since. A term has 24 bits.
_TERMS_SKIPPED = 1 << 16
#: So much is copied and forced to disk at a time: a commit that comes meanwhile waits for no more than that.
_STEP_PAGES = 512


def back_up(source: Path, target: Path, stopped: Callable[[], bool]) -> None:
    """Copies the store at `source`, which may be in use, to `target`, durably, whole or not at all.

    Args:
        source: a store.
        target: where there is nothing yet.
        stopped: asked now and then; when it says so, the copy is given up.

    Raises:
        StoreError: there is something at `target`, it can't be written, or the copy was given up.
    """
    if target.exists():
        raise StoreError(f"{target} is there already: it was left as it is. Name a place where there is nothing.")
    building = Path(f"{target}.part")
    try:
        descriptor = os.open(building, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise unwritable(target, error) from error
    try:
        with reported(str(target)):
            _copy(source, building, descriptor, stopped)
        os.fsync(descriptor)
        building.rename(target)
        sync_directory(target.parent)
    except BaseException as error:
        building.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(target, error) from error
        raise
    finally:
        os.close(descriptor)


def _copy(source: Path, building: Path, descriptor: int, stopped: Callable[[], bool]) -> None:
    def after_step(status: int, remaining: int, total: int) -> None:
        if stopped():
            raise StoreError("The store closes: the backup was given up, and nothing is left of it.")
        os.fdatasync(descriptor)

    reader = connect(source, read_only=True)
    try:
        reader.execute("BEGIN")
        # A transaction begins with the first look.
        reader.execute("SELECT count(*) FROM meta").fetchone()
        # Forced to disk here, and thrown away when it does not come about: no journal is needed.
        writer = sqlite3.connect(building, isolation_level=None)
        try:
            writer.execute("PRAGMA synchronous = OFF")
            writer.execute("PRAGMA journal_mode = OFF")
            writer.execute("PRAGMA cache_size = -1024")
            reader.backup(writer, pages=_STEP_PAGES, progress=after_step)
        finally:
            writer.close()
    finally:
        reader.close()


def restore(backup: Path, target: Path) -> None:
    """Makes the store at `target` from a backup, durably, whole or not at all. The backup is only read.

    Raises:
        StoreFormatError: the backup is damaged, of a newer format, or no store.
        StoreError: there is something at `target`, or it can't be written.
    """
    for there in (target, Path(f"{target}-wal")):
        if there.exists():
            raise StoreError(f"{there} is there already: it was left as it is. Move it away before you restore.")
    if not backup.exists():
        raise StoreError(f"{backup} is not there: name a backup that `gowork store backup` has written.")
    building = Path(f"{target}.part")
    try:
        # Looked at where it is copied to: the backup itself may be read-only, and nothing is to be laid beside it.
        shutil.copyfile(backup, building)
        try:
            version = format_at(building)
        except StoreFormatError as error:
            raise StoreFormatError(str(error).replace(str(building), str(backup))) from None
        if not version:
            raise StoreFormatError(f"{backup} is empty: it is no backup.")
        with reported(str(building)):
            connection = sqlite3.connect(building, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("UPDATE meta SET value = value + ? WHERE key = 'term'", (_TERMS_SKIPPED,))
                connection.execute("PRAGMA journal_mode = WAL")
            finally:
                connection.close()
        with building.open("rb") as file:
            os.fsync(file.fileno())
        building.rename(target)
        sync_directory(target.parent)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        for left in (building, Path(f"{building}-wal"), Path(f"{building}-shm")):
            left.unlink(missing_ok=True)
