"""Copies the database while it is in use, and makes one from a copy.

A copy has the older format of the store's tables, so that leaders of older versions can take it from a newer one, and a
backup serves whatever version is installed later.

The copy shows the moment at which it begins. A reading transaction keeps that moment, so commits neither wait for the
copy nor get into it. Until it ends, the log can't start again from its beginning, and grows with each commit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import apsw

from gowork.base.directories import sync_directory
from gowork.leader._core.model import Position
from gowork.leader.store._sqlite_errors import reported
from gowork.leader.store._sqlite_file import (
    FileLock,
    clear,
    connect,
    format_at,
    make_file,
    sync_file,
    unwritable,
)
from gowork.leader.store._sqlite_lower import lower
from gowork.leader.store._sqlite_meta import begin_anew, read_position, rename
from gowork.leader.store._sqlite_schema import LOGGED
from gowork.leader.store.protocol import StoreError, StoreFormatError

#: How many pages are copied and forced to disk at a time. A commit that comes meanwhile waits for no more than that.
_STEP_PAGES = 512


def back_up(source: Path, target: Path, stopped: Callable[[], bool]) -> None:
    """Copies the store at `source`, which may be in use, to `target`. The copy is durable, and whole or not there.

    Args:
        source: the path of a store.
        target: a path where there is nothing yet.
        stopped: is called after each step; when it returns True, the copy is given up.

    Raises:
        StoreError: there is something at `target`, it can't be written, or the copy was given up.
    """
    if os.path.lexists(target):
        raise StoreError(f"{target} is there already: it was left as it is. Name a place where there is nothing.")
    building = Path(f"{target}.part")
    try:
        descriptor = make_file(building)
    except OSError as error:
        raise unwritable(target, error) from error
    try:
        with reported(str(target)):
            _copy(source, building, descriptor, stopped)
            # Each version can use it then.
            _change(building, lower)
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
    def after_step() -> None:
        if stopped():
            raise StoreError("The store closes: the backup was given up, and nothing is left of it.")
        os.fdatasync(descriptor)

    reader = connect(source, read_only=True)
    try:
        reader.execute("BEGIN")
        # The transaction begins with the first read.
        reader.execute("SELECT count(*) FROM meta").fetchone()
        # The copy needs no journal, because it is forced to disk here and thrown away when it fails.
        writer = connect(building)
        try:
            writer.execute("PRAGMA synchronous = OFF")
            writer.execute("PRAGMA journal_mode = OFF")
            writer.execute("PRAGMA cache_size = -1024")
            with writer.backup("main", reader, "main") as copy:
                while not copy.done:
                    copy.step(_STEP_PAGES)
                    after_step()
        finally:
            writer.close()
    finally:
        reader.close()


def restore(path: Path, backup: Path, above: int) -> None:
    """Makes a store at `path` from a copy. It is whole or not there; see Store.restore."""
    instead = (
        "To use it, start without --restore. To use the backup instead, move it away first, with its -wal and -shm."
    )
    _make(path, backup, partial(begin_anew, above=above), instead)


def install(path: Path, backup: Path) -> None:
    """Makes a store at `path` from a copy of another leader's; see LoggedStore.install_copy."""
    _make(path, backup, rename, "To use the copy instead, set it aside first.", belongs_to_log=True)


def check_copy(backup: Path) -> tuple[int, Position]:
    """Checks all pages of a copy, and returns its format and position; see LoggedStore.check_copy."""
    version = _check_backup(backup)
    with reported(str(backup)):
        # It has no log beside it, and so SQLite puts no files there.
        connection = connect(backup, read_only=True, immutable=True)
        try:
            position = read_position(connection)
        finally:
            connection.close()
    if position is None:
        raise StoreFormatError(f"{backup} belongs to no log, so it can't follow one.")
    return version, position


def _make(
    path: Path,
    backup: Path,
    change: Callable[[apsw.Connection], None],
    instead: str,
    *,
    belongs_to_log: bool = False,
) -> None:
    lock = FileLock(path)
    try:
        if format_at(path):
            raise StoreError(f"{path} is there already: it was left as it is. {instead}")
        version = _check_backup(backup)
        if belongs_to_log and version not in LOGGED.values():
            raise StoreFormatError(f"{backup} belongs to no log, so it can't follow one.")
        building = Path(f"{path}.new")
        try:
            clear(building)
            with backup.open("rb") as source, os.fdopen(make_file(building), "wb") as target:
                shutil.copyfileobj(source, target)
            with reported(str(path)):
                _change(building, change)
            sync_file(building)
            building.replace(path)
            sync_directory(path.parent)
        except OSError as error:
            raise unwritable(path, error) from error
    finally:
        lock.release()


def _check_backup(backup: Path) -> int:
    """Returns the backup's format."""
    try:
        with backup.open("rb"):
            pass
    except OSError as error:
        raise StoreError(f"{backup} can't be read: {error.strerror or error}.") from error
    log = Path(f"{backup}-wal")
    if log.exists() and log.stat().st_size:
        raise StoreFormatError(
            f"{backup} is a store and not a backup, because it has a log beside it. Make a backup of it with "
            f"`gowork store backup`, or start a leader on it once and stop it."
        )
    version = format_at(backup, writable=False, check_all=True)
    if not version:
        raise StoreFormatError(f"{backup} is empty: it is no backup.")
    return version


def _change(path: Path, change: Callable[[apsw.Connection], None]) -> None:
    connection = connect(path)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        change(connection)
        connection.execute("COMMIT")
    finally:
        # The last connection merges the log when it closes.
        connection.close()
