"""Keeps the write-ahead log short beside the commits, so that none of them has to wait for it.

SQLite by itself merges the log into the database within the commit that makes it too long, which then takes tens of
milliseconds. Here a thread does it while commits go on. It can't finish under load, since the log grows meanwhile: the
writer then merges what is left, little by then, between two commits, and the next commit starts the log anew.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable

from gowork.leader.store.protocol import Batch

logger = logging.getLogger(__name__)

#: Merge after about so many pages of 4 KiB.
_MERGE_PAGES = 4_000
#: A log of so many pages must not grow further: about 64 MiB.
_LOG_PAGES_MAX = 16_000
#: What a commit writes at least: a page of each table and index.
_COMMIT_PAGES = 6
#: Rows on a page over all tables and indexes, bodies left out.
_PAGE_ROWS = 8
_PAGE_BYTES = 4096


class LogKeeper:
    """Decides when the log is merged.

    Args:
        start: runs a function with a connection of its own, in a thread of its own, one at a time.
    """

    def __init__(self, start: Callable[[Callable[[sqlite3.Connection], None]], None]) -> None:
        self._start = start
        self._merging = False
        self._pages = 0
        self._full = False

    def before_commit(self, connection: sqlite3.Connection) -> None:
        """Merges what is left of a log that has grown too long. Called by the writer."""
        if self._full and not self._merging:
            self._full = False
            merge(connection)

    def after_commit(self, batch: Batch) -> None:
        """Takes account of a batch. Called by the writer."""
        rows = len(batch.inserts) + len(batch.moves)
        body_bytes = sum(len(new.record.body) for new in batch.inserts)
        result_bytes = sum(len(moved.standing.result) + len(moved.standing.result_data) for moved in batch.moves)
        self._pages += _COMMIT_PAGES + rows // _PAGE_ROWS + (body_bytes + result_bytes) // _PAGE_BYTES
        if self._pages >= _MERGE_PAGES and not self._merging:
            self._pages = 0
            self._merging = True
            self._start(self._merge)

    def _merge(self, connection: sqlite3.Connection) -> None:
        try:
            self._full = merge(connection) >= _LOG_PAGES_MAX
        except sqlite3.Error as error:
            # Nothing is lost: the log keeps it all, and the next attempt starts over.
            logger.warning("store log not merged", extra={"error": str(error)})
        finally:
            self._merging = False


def merge(connection: sqlite3.Connection) -> int:
    """Merges as much of the log as can be without waiting for anyone; answers how many pages the log has."""
    _, log_pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(log_pages)
