"""Writes the entries of a log: batch, position and term in one transaction, for the one connection that writes.

Invariant PREFIX: the store is exactly what the entries up to its position make.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import apsw

from gowork.leader._core.model import Position
from gowork.leader.store._sqlite_errors import translated
from gowork.leader.store._sqlite_file import FileLock
from gowork.leader.store._sqlite_fold import Entry, folded, groups
from gowork.leader.store._sqlite_ids import TaskIds
from gowork.leader.store._sqlite_lanes import LaneIds
from gowork.leader.store._sqlite_log import LogKeeper, merge
from gowork.leader.store._sqlite_meta import join, read_position
from gowork.leader.store._sqlite_reserve import Reserve
from gowork.leader.store._sqlite_write import write_rows
from gowork.leader.store.protocol import (
    Batch,
    StoreEntryError,
    StoreError,
    StoreFullError,
    StoreLostError,
)

#: It compares and moves on in one statement. The sub-queries are evaluated once, before the first row is written.
_MOVE_ON = """
    UPDATE meta SET value = CASE key WHEN 'term' THEN :term WHEN 'log_index' THEN :index ELSE :hash END
    WHERE key IN ('term', 'log_index', 'log_hash')
    AND (SELECT value FROM meta WHERE key = 'generation') = :generation
    AND (SELECT value FROM meta WHERE key = 'log_index') = :index - 1
    AND (SELECT value FROM meta WHERE key = 'term') <= :term
"""


class EntryWriter:
    """Moves a store along a log.

    Args:
        path: the store's path.
        lock: tells whether it is still there.
        lanes: the numbers of its lanes.
        ids: the ids of its tasks.
        keeper: merges SQLite's own log.
    """

    def __init__(self, path: Path, lock: FileLock, lanes: LaneIds, ids: TaskIds, keeper: LogKeeper) -> None:
        self._path, self._lock, self._lanes, self._ids, self._keeper = path, lock, lanes, ids, keeper
        self._reserve = Reserve(path)
        #: What is written and not committed.
        self._prepared: Entry | None = None
        #: Whether each commit is to be forced to disk, and whether SQLite has been told so.
        self._forces_each = self._is_forcing_each = False

    def begin(self, connection: apsw.Connection) -> None:
        """Prepares a store that belongs to a log for its entries.

        Commits may return before they are on disk from now on, because the log has them. With NORMAL a power cut loses
        the last commits and no others. OFF might damage the database. https://www.sqlite.org/pragma.html#pragma_synchronous
        """
        connection.execute("PRAGMA synchronous = NORMAL")
        self._hold_if_possible()

    def force_each(self, each: bool) -> None:
        """See LoggedStore.force_each. Any thread may call it."""
        self._forces_each = each

    def has_room(self, connection: apsw.Connection) -> bool:
        """See LoggedStore.has_room."""
        self._hold_if_possible()
        return self._reserve.has_more

    def join(self, connection: apsw.Connection, position: Position, term: int) -> None:
        """See LoggedStore.join_log."""
        connection.execute("BEGIN IMMEDIATE")
        with self._undone(connection):
            present = read_position(connection)
            if present is not None:
                raise StoreError(f"{self._path} belongs to generation {present.generation} of a log already.")
            self._compare_term(connection, term)
            join(connection, position, term)
            connection.execute("COMMIT")
        self.begin(connection)

    def prepare(self, connection: apsw.Connection, batch: Batch, position: Position, term: int) -> None:
        """See LoggedStore.prepare."""
        if self._prepared is not None:
            raise StoreError(f"Entry {self._prepared[1].index} is prepared: it must be settled or given up first.")
        self._reserve.hold()
        self._keeper.before_commit(connection)
        self._write(connection, [(batch, position, term)])
        with self._undone(connection):
            # Looked at before the log has the batch, because a store that is not at its path should refuse it.
            self._lock.check()
        self._prepared = batch, position, term

    def settle(self, connection: apsw.Connection) -> None:
        """See LoggedStore.settle."""
        if self._prepared is None:
            raise StoreError("Nothing is prepared, so nothing can be settled.")
        entry, self._prepared = self._prepared, None
        self._commit(connection, [entry], is_written=True)

    def give_up(self, connection: apsw.Connection) -> None:
        """See LoggedStore.give_up."""
        if self._prepared is not None:
            self._prepared = None
            self._undo(connection)

    def apply(self, connection: apsw.Connection, entries: Sequence[Entry]) -> None:
        """See LoggedStore.apply."""
        if self._prepared is not None:
            raise StoreError(f"Entry {self._prepared[1].index} is prepared: it must be settled or given up first.")
        self._hold_if_possible()
        self._commit(connection, entries, is_written=False)
        self._lock.check()

    def _commit(self, connection: apsw.Connection, entries: Sequence[Entry], *, is_written: bool) -> None:
        """Commits entries that the log has. When the disk is full, it uses the room that was kept for them."""
        try:
            if is_written:
                self._end(connection)
            else:
                self._keeper.before_commit(connection)
                self._write_through(connection, entries)
        except apsw.Error as error:
            self._check_full(error)
            self._reserve.release()
            try:
                # Before the merge, which may need all of that room for what is older.
                self._write_through(connection, entries)
            except apsw.Error as again:
                self._check_full(again)
                with contextlib.suppress(apsw.Error):
                    # If it can, the next transaction starts the log from its beginning.
                    merge(connection)
                self._write_through(connection, entries)
        for batch, _, _ in entries:
            if batch is not None:
                self._keeper.after_commit(batch)

    def _write(self, connection: apsw.Connection, entries: Sequence[Entry]) -> None:
        """Writes entries in a transaction that stays open. When it raises, nothing is left of it."""
        forces_each = self._forces_each
        if forces_each != self._is_forcing_each:
            # Here, because SQLite refuses it in a transaction.
            connection.execute(f"PRAGMA synchronous = {'FULL' if forces_each else 'NORMAL'}")
            self._is_forcing_each = forces_each
        try:
            self._write_groups(connection, groups(entries))
        except StoreEntryError:
            if len(entries) == 1:
                raise
            # Each alone, so that the one that contradicts the store is named.
            self._write_groups(connection, [[entry] for entry in entries])

    def _write_groups(self, connection: apsw.Connection, parts: Iterable[Sequence[Entry]]) -> None:
        # The first statement writes, so nothing is read before the write lock is there.
        connection.execute("BEGIN")
        with self._undone(connection):
            for group in parts:
                for _, position, term in group:
                    self._move_on(connection, position, term)
                batches = [batch for batch, _, _ in group if batch is not None]
                if not batches:
                    continue
                try:
                    write_rows(connection, folded(batches), self._lanes, self._ids, term)
                except (apsw.ConstraintError, StoreError) as error:
                    raise StoreEntryError(position.index, error) from error

    def _write_through(self, connection: apsw.Connection, entries: Sequence[Entry]) -> None:
        self._write(connection, entries)
        self._end(connection)

    def _check_full(self, error: apsw.Error) -> None:
        """Raises the error again, unless it says that the disk is full."""
        if not isinstance(translated(error, str(self._path)), StoreFullError):
            raise error

    def _end(self, connection: apsw.Connection) -> None:
        with self._undone(connection):
            connection.execute("COMMIT")
        self._ids.settle()

    def _move_on(self, connection: apsw.Connection, position: Position, term: int) -> None:
        connection.execute(
            _MOVE_ON,
            {"generation": position.generation, "index": position.index, "hash": position.hash, "term": term},
        )
        if connection.changes():
            return
        present = read_position(connection)
        if present is None:
            raise StoreError(f"{self._path} belongs to no log: it must join one first.")
        if (present.generation, present.index + 1) == (position.generation, position.index):
            self._compare_term(connection, term)
        raise StoreError(
            f"{self._path} is at index {present.index} of generation {present.generation}, and the entry has index "
            f"{position.index} of generation {position.generation}."
        )

    def _compare_term(self, connection: apsw.Connection, term: int) -> None:
        present = connection.execute("SELECT value FROM meta WHERE key = 'term'").get
        if present > term:
            raise StoreLostError(
                f"{self._path} has term {present}, and the entry has the older term {term}: another leader has led "
                f"since."
            )

    def _hold_if_possible(self) -> None:
        # What the log already has is written all the same.
        with contextlib.suppress(StoreFullError):
            self._reserve.hold()

    @contextlib.contextmanager
    def _undone(self, connection: apsw.Connection) -> Iterator[None]:
        """Rolls the open transaction back when anything inside raises."""
        try:
            yield
        except BaseException:
            self._undo(connection)
            raise

    def _undo(self, connection: apsw.Connection) -> None:
        self._lanes.forget()
        self._ids.forget()
        # After some errors SQLite has rolled back by itself, and after others it has not.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
