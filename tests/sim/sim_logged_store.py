"""The store of a leader among several: real SQLite, whose last commits a power cut takes away.

The commits since the last merge are in SQLite's log, and are not forced to disk. A power cut leaves a part of that log.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, cast

import apsw
from sim_process import PROCESS
from sim_store import LOG_HEADER_BYTES, log_end

from gowork.leader._core.model import Position
from gowork.leader.store._sqlite_entries import Entry, EntryWriter
from gowork.leader.store._sqlite_log import LogKeeper
from gowork.leader.store.protocol import Batch, Opened, StoreFullError
from gowork.leader.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from sim_node import LeaderProcess


class SimLoggedStore(SqliteStore):
    """The store of one process.

    Args:
        path: where it is.
        life: the process.
    """

    def __init__(self, path: Path, life: LeaderProcess) -> None:
        super().__init__(path)
        self._life = life
        self._log = LogKeeper(lambda merge: None)
        self._batch: Batch | None = None
        #: The index of the last entry that it has; None while it is closed.
        self.applied: int | None = None
        #: The same when it was closed.
        self._last_applied = 0

    async def open_logged(self, generation: str | None) -> Opened:
        """See LoggedStore.open_logged."""
        opened = await super().open_logged(generation)
        if self._life.is_alive and opened.position is not None:
            assert self._writer.connection is not None
            checks = self._life.world.log_checks
            checks.stands(self._life.name, self._writer.connection, opened.position)
            self.applied = opened.position.index
            checks.opened(self._life.name, opened.store_id, opened.position.index)
        return opened

    async def close(self) -> None:
        """See Store.close."""
        if self.applied is not None:
            self._last_applied, self.applied = self.applied, None
        await super().close()

    async def set_aside(self) -> Path:
        """See LoggedStore.set_aside."""
        if self._life.is_alive and self._last_applied:
            self._life.world.log_checks.set_aside(self._life.name, self._last_applied)
        self._last_applied = 0
        return await super().set_aside()

    async def join_log(self, position: Position, term: int) -> None:
        """See LoggedStore.join_log."""
        await super().join_log(position, term)
        self.applied = position.index

    async def prepare(self, batch: Batch, position: Position, term: int) -> None:
        """See LoggedStore.prepare."""
        life = self._life
        if batch is not self._batch:
            self._batch, decided = batch, list(life.clock.read)
            if life.is_alive:
                life.world.log_checks.decided[term, position.index] = decided
        if life.is_alive and life.world.disk_full():
            life.world.trace.fault("a leader's disk is full", life.name)
            raise StoreFullError("the simulated disk is full")
        await super().prepare(batch, position, term)

    async def settle(self) -> None:
        """See LoggedStore.settle."""
        await super().settle()
        self._life.clock.read = []

    def merged(self) -> None:
        """Notes that all that SQLite's log has is on the disk, as it is whenever something of it was merged."""
        if self._life.is_alive:
            self._life.node.forced = _run_of(self._path), log_end(self._path)

    def forced(self) -> None:
        """Notes that all that it has applied is on the disk."""
        if self._life.is_alive and self.applied is not None:
            self._life.world.log_checks.forced(self._life.name, self.applied)

    def left(self, *, power_cut: bool, rng: Random) -> dict[str, bytes]:
        """Returns what the process leaves on its disk when it ends now: {suffix of the path: content}."""
        files = {suffix: Path(f"{self._path}{suffix}") for suffix in ("", "-wal")}
        left = {suffix: path.read_bytes() for suffix, path in files.items() if path.exists()}
        if power_cut and len(left.get("-wal", b"")) > LOG_HEADER_BYTES and self._lock is not None:
            run, forced = self._life.node.forced
            begin = forced if run == _run_of(self._path) else LOG_HEADER_BYTES
            end = log_end(self._path)
            if begin < end:
                # Often nothing is on the disk that was not forced.
                left["-wal"] = left["-wal"][: begin if rng.random() < 0.5 else rng.randrange(begin, end)]
        return left


def _run_of(path: Path) -> bytes:
    """Returns what SQLite's log has anew each time that it is begun from its beginning."""
    with Path(f"{path}-wal").open("rb") as log:
        return log.read(24)[16:]


class SimEntryWriter(EntryWriter):
    """Shows the checkers what the store has after each transaction."""

    def _write(self, connection: apsw.Connection, entries: Sequence[Entry]) -> None:
        super()._write(connection, entries)
        life = cast("LeaderProcess", PROCESS.get())
        if life.is_alive:
            life.world.plants.into_entry(life.name, connection)

    def _commit(self, connection: apsw.Connection, entries: Sequence[Entry], *, is_written: bool) -> None:
        super()._commit(connection, entries, is_written=is_written)
        life = cast("LeaderProcess", PROCESS.get())
        life.store.applied = entries[-1][1].index
        if life.is_alive:
            life.world.log_checks.stands(life.name, connection, entries[-1][1])
