"""Keeps the write-ahead log short while commits go on, so that no commit has to wait for it.

SQLite by itself merges the log into the database inside the commit that makes it too long. That commit then takes tens
of milliseconds. Here a thread merges while commits go on. Under load it can't finish, because the log grows meanwhile.
Then the writer merges the little that is left between two commits, and the next commit starts the log from its
beginning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import apsw

from gowork.leader.store.protocol import Batch

logger = logging.getLogger(__name__)

#: The log is merged when it has grown by about this many pages of 4 KiB.
_MERGE_PAGES = 1_000
#: How many pages the log may have: about 16 MiB.
_LOG_PAGES_MAX = 4_000
#: The weight of a batch: how many pages it writes, at least, when its rows are short and in the order of their keys.
_COMMIT_WEIGHT = 6
_ROWS_WEIGHT = 1 / 8
_BYTES_WEIGHT = 1 / 4096
#: Is used until a merge has shown how long the log really is. It is high, because each id in no order touches a page.
_PAGES_PER_WEIGHT_AT_FIRST = 4.0


class LogKeeper:
    """Decides when the log is merged.

    SQLite says how long the log is only when it merges. So the keeper weighs batches, and learns from each merge how
    many pages a unit of weight takes.

    Args:
        start: runs a function with a connection of its own in a thread of its own, one function at a time.
    """

    def __init__(self, start: Callable[[Callable[[apsw.Connection], None]], None]) -> None:
        self._start = start
        self._merging = False
        self._weight = 0.0
        self._weight_merged = 0.0
        self._pages_per_weight = _PAGES_PER_WEIGHT_AT_FIRST
        self._log_pages = 0
        self._full = False

    def before_commit(self, connection: apsw.Connection) -> None:
        """Merges the rest of a log that has grown too long. The writer calls it."""
        if self._full and not self._merging:
            self._full = False
            merge(connection)

    def after_commit(self, batch: Batch) -> None:
        """Adds the weight of a batch, and has the log merged when it is due. The writer calls it."""
        rows = len(batch.inserts) + len(batch.moves) + len(batch.deletes)
        body_bytes = sum(len(new.record.body) for new in batch.inserts)
        result_bytes = sum(len(moved.standing.result) + len(moved.standing.result_data) for moved in batch.moves)
        self._weight += _COMMIT_WEIGHT + rows * _ROWS_WEIGHT + (body_bytes + result_bytes) * _BYTES_WEIGHT
        if self._weight * self._pages_per_weight >= _MERGE_PAGES and not self._merging:
            self._weight, self._weight_merged = 0.0, self._weight
            self._merging = True
            self._start(self._merge)

    def _merge(self, connection: apsw.Connection) -> None:
        try:
            log_pages, pages_left = merge(connection)
        except apsw.Error as error:
            # Nothing is lost: the log keeps all of it, and the next attempt starts again.
            logger.warning("store log not merged", extra={"error": str(error)})
        else:
            # A log that has become shorter was started from its beginning in between.
            pages = log_pages - self._log_pages if log_pages >= self._log_pages else log_pages
            self._pages_per_weight = max(1.0, pages / self._weight_merged)
            self._log_pages = log_pages
            # A reader, such as a backup, may hold back many pages. Those are merged here later, not by the writer.
            self._full = log_pages >= _LOG_PAGES_MAX and pages_left <= _LOG_PAGES_MAX
        finally:
            self._merging = False


def merge(connection: apsw.Connection) -> tuple[int, int]:
    """Merges as much of the log as can be merged without waiting for a reader or writer.

    Returns how many pages the log has, and how many of them are not merged.
    """
    _, log_pages, merged_pages = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").get
    return int(log_pages), int(log_pages - merged_pages)


def merge_all(connection: apsw.Connection) -> bool:
    """Merges the log. Returns whether all that had been committed before is merged, and so forced to disk.

    A merge that goes on elsewhere, or a reader that needs an older page, keeps it from that.
    """
    busy, log_pages, merged_pages = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").get
    # The numbers are -1 when it was not tried at all.
    return not busy and 0 <= log_pages == merged_pages
