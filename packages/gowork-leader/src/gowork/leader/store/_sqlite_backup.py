"""Copies the database while it is in use.

The copy is of the moment at which it begins: a reading transaction keeps that moment, so that commits neither wait for
it nor get into it. While it lasts the log can't start anew, and grows by what is committed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from gowork.leader.store._sqlite_errors import reported
from gowork.leader.store._sqlite_file import connect, sync_directory, unwritable
from gowork.leader.store.protocol import StoreError

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
