"""The store in one SQLite file: durable before it answers, for one leader at a time.

Owns the connections and the threads that use them. One thread writes. One looks up what the leader waits for: many ids,
and pages of lanes. One scans, which may take long. One merges SQLite's own log, one makes backups, and one digests. A
few ids are looked up on the caller's thread.
It never decides anything.
Invariant DURABLE: a commit returns after SQLite's log was forced to disk. A store that follows a log of several leaders
forces its entries later; see `force`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import apsw

from gowork.leader._core.model import Brief, Fact, LaneKey, Position, Standing, Status
from gowork.leader.store import _sqlite_aside, _sqlite_file, _sqlite_meta, _sqlite_query, _sqlite_scans
from gowork.leader.store._sqlite_backup import back_up, check_copy, install, restore
from gowork.leader.store._sqlite_digest import digest
from gowork.leader.store._sqlite_entries import EntryWriter
from gowork.leader.store._sqlite_errors import reported, translated
from gowork.leader.store._sqlite_facts import facts_page
from gowork.leader.store._sqlite_file import FileLock, check_library
from gowork.leader.store._sqlite_ids import TaskIds
from gowork.leader.store._sqlite_lanes import LaneIds, drop_unused
from gowork.leader.store._sqlite_log import LogKeeper, merge, merge_all
from gowork.leader.store._sqlite_migrate import add_missing, migrate
from gowork.leader.store._sqlite_schema import FORMAT, FORMAT_LOGGED, LOGGED, LOWER
from gowork.leader.store._sqlite_threads import LoopExecutor
from gowork.leader.store._sqlite_write import write_batch
from gowork.leader.store.protocol import (
    Batch,
    Finished,
    Opened,
    Query,
    Record,
    StoreError,
    StoreFullError,
    Timer,
)

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: How many ids are looked up on the caller's thread at most.
_IDS_AT_ONCE_MAX = 16
_CHUNK_RECORDS = 5_000
_CHUNK_BYTES = 8 << 20
#: How long `force` waits before it tries again, in seconds, at first and at most.
_FORCE_AGAIN_SECONDS = 0.01
_FORCE_AGAIN_SECONDS_MAX = 1.0
#: How long a commit waits for another program's write lock before it raises StoreBusyError, in milliseconds.
_BUSY_MS = 1_000
#: What the names of copies that are made for a while end with, after `scratch`: for clients, leaders, shared snapshots.
_SCRATCHES = ("", "-copy", "-snapshot")
_PRAGMAS = (
    "synchronous = FULL",
    # For macOS, where fsync alone leaves data in the disk's cache. Elsewhere it changes nothing.
    "fullfsync = ON",
    "foreign_keys = ON",
    "cache_size = -16384",
    # See LogKeeper.
    "wal_autocheckpoint = 0",
    # When a log that grew during a long read starts again from its beginning, it is cut to this size.
    "journal_size_limit = 67108864",
)


class SqliteStore:
    """A store in one file, with its log and its lock beside it.

    Args:
        path: where the database is or is to be. Directories are made as needed.
    """

    def __init__(self, path: Path | str) -> None:
        # Resolved, so that two names of one file share one lock.
        self._path = Path(path).resolve()
        self._lock: FileLock | None = None
        self._writer = _Connection("gowork-store-write")
        self._lookups = _Connection("gowork-store-load")
        self._scans = _Connection("gowork-store-scan")
        self._merges = _Connection("gowork-store-merge")
        self._backups = _Connection("gowork-store-backup")
        self._digests = _Connection("gowork-store-digest")
        self._closing = False
        #: The connection that looks up a few ids on the caller's own thread.
        self._at_once: apsw.Connection | None = None
        self._log = LogKeeper(self._merges.start)
        self._lanes = LaneIds()
        self._ids = TaskIds()
        #: The term of this opening; without a log alone.
        self._term = 0
        #: Takes the place of `commit` while it is open for a log.
        self._entries: EntryWriter | None = None

    @property
    def path(self) -> Path:
        """Where the database is."""
        return self._path

    @property
    def scratch(self) -> Path:
        """See Store.scratch."""
        return Path(f"{self._path}.backup")

    async def open(self) -> Opened:
        """See Store.open."""
        return await self._opening(self._open)

    async def open_logged(self, generation: str | None) -> Opened:
        """See LoggedStore.open_logged."""
        return await self._opening(lambda: self._open_logged(generation))

    async def close(self) -> None:
        """See Store.close. It merges the log into the database, so that a single file is left to copy."""
        if self._at_once is not None:
            self._at_once.close()
            self._at_once = None
        self._closing = True
        # What is prepared is rolled back when its connection is closed.
        self._entries = None
        await self._backups.close()
        await self._digests.close()
        await self._scans.close()
        await self._lookups.close()
        await self._merges.close()
        # The writer closes last, because only the last connection that closes merges the log.
        await self._writer.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    async def commit(self, batch: Batch) -> None:
        """See Store.commit."""
        await self._call(self._writer, self._commit, batch)

    async def join_log(self, position: Position, term: int) -> None:
        """See LoggedStore.join_log."""
        await self._call(self._writer, self._entry_writer.join, position, term)

    async def current(self) -> Opened:
        """See LoggedStore.current."""
        # What a cancelled call has begun to write is still written, so this waits for it. But the writer does not read,
        # because it sees what is prepared.
        await self._call(self._writer, lambda connection: None)
        return await self._call(self._lookups, _sqlite_meta.read_opened)

    async def prepare(self, batch: Batch, position: Position, term: int) -> None:
        """See LoggedStore.prepare. The transaction stays open on the writer's connection."""
        await self._call(self._writer, self._entry_writer.prepare, batch, position, term)

    async def settle(self) -> None:
        """See LoggedStore.settle."""
        await self._call(self._writer, self._entry_writer.settle)

    async def give_up(self) -> None:
        """See LoggedStore.give_up."""
        await self._call(self._writer, self._entry_writer.give_up)

    async def apply(self, entries: Sequence[tuple[Batch | None, Position, int]]) -> None:
        """See LoggedStore.apply."""
        await self._call(self._writer, self._entry_writer.apply, entries)

    async def force(self) -> Position:
        """See LoggedStore.force."""
        wait = _FORCE_AGAIN_SECONDS
        while (position := await self._call(self._merges, _forced)) is None:
            await asyncio.sleep(wait)
            wait = min(2 * wait, _FORCE_AGAIN_SECONDS_MAX)
        return position

    async def force_each(self, each: bool) -> None:
        """See LoggedStore.force_each."""
        self._entry_writer.force_each(each)

    async def has_room(self) -> bool:
        """See LoggedStore.has_room."""
        return await self._call(self._writer, self._entry_writer.has_room)

    async def digest(self, begun: asyncio.Event | None = None) -> bytes:
        """See LoggedStore.digest. Until it ends, SQLite's log grows with each commit, as with a backup."""
        self._check_open()
        begun = begun or asyncio.Event()
        tell = partial(asyncio.get_running_loop().call_soon_threadsafe, begun.set)
        try:
            return await self._interruptible(
                self._digests, lambda stopped: digest(self._path, stopped, tell), lambda _: None
            )
        finally:
            begun.set()

    async def load(self, ids: Sequence[str]) -> list[Record]:
        """See Store.load."""
        return await self._looked_up(_sqlite_query.load, ids)

    async def standings(self, ids: Sequence[str]) -> list[tuple[str, Standing]]:
        """See Store.standings."""
        return await self._looked_up(_sqlite_query.standings, ids)

    async def briefs(self, ids: Sequence[str]) -> list[Brief]:
        """See Store.briefs."""
        return await self._call(self._lookups, _sqlite_scans.briefs, ids, self._ids)

    async def running(self) -> AsyncIterator[list[Record]]:
        """See Store.running."""
        after = (0, 0)
        while records := await self._scan(_sqlite_scans.running_page, after, _CHUNK_RECORDS, _CHUNK_BYTES):
            yield records
            after = (records[-1].changed, records[-1].seq)

    async def waiting(self) -> list[tuple[LaneKey, int]]:
        """See Store.waiting."""
        return await self._scan(_sqlite_scans.waiting)

    async def lane_page(self, lane: LaneKey, after: int, limit: int, bytes_max: int) -> list[Record]:
        """See Store.lane_page."""
        return await self._call(self._lookups, _sqlite_scans.lane_page, lane, after, limit, bytes_max)

    async def delayed(self, after: tuple[int, int] | None, limit: int) -> list[Timer]:
        """See Store.delayed."""
        return await self._call(self._lookups, _sqlite_scans.delayed, after, limit)

    async def expiring(self, after: tuple[int, int] | None, limit: int) -> list[Timer]:
        """See Store.expiring."""
        return await self._call(self._lookups, _sqlite_scans.expiring, after, limit)

    async def delayed_counts(self) -> list[tuple[LaneKey, int]]:
        """See Store.delayed_counts."""
        return await self._call(self._scans, _sqlite_scans.delayed_counts)

    async def facts(self, kind: str, after: str, limit: int, bytes_max: int) -> list[Fact]:
        """See Store.facts."""
        return await self._scan(facts_page, kind, after, limit, bytes_max)

    async def finished_counts(self) -> tuple[int, int]:
        """See Store.finished_counts."""
        return await self._scan(_sqlite_scans.finished_counts)

    async def finished(self, failed: bool, limit: int, after: tuple[int, int] = (0, 0)) -> list[Finished]:
        """See Store.finished."""
        return await self._scan(_sqlite_scans.finished, failed, limit, after)

    async def last_failed(self, limit: int, bytes_max: int) -> list[Record]:
        """See Store.last_failed."""
        return await self._scan(_sqlite_scans.last_failed, limit, bytes_max)

    async def deleted_since(self, changed: int, limit: int) -> list[tuple[int, str]]:
        """See Store.deleted_since."""
        return await self._scan(_sqlite_scans.deleted_since, changed, limit)

    async def watch_floor(self) -> int:
        """See Store.watch_floor."""
        return await self._scan(_sqlite_scans.watch_floor)

    async def backup(self, path: Path) -> None:
        """See Store.backup."""
        self._check_open()
        await self._interruptible(
            self._backups,
            lambda stopped: back_up(self._path, path, stopped),
            # The copy was complete before it could be given up.
            lambda _: path.unlink(missing_ok=True),
        )

    async def restore(self, backup: Path, above: int = 0) -> None:
        """See Store.restore."""
        await self._while_closed(lambda: restore(self._path, backup, above))

    @property
    def copy_format(self) -> int:
        """See LoggedStore.copy_format."""
        return LOWER[FORMAT_LOGGED]

    async def check_copy(self, backup: Path) -> tuple[int, Position]:
        """See LoggedStore.check_copy."""
        # A thread of its own, which is not waited for when the process ends: a large copy takes a while.
        thread = LoopExecutor("gowork-store-check")
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, lambda: check_copy(backup))
        finally:
            thread.shutdown(wait=False)

    async def install_copy(self, backup: Path) -> None:
        """See LoggedStore.install_copy."""
        await self._while_closed(lambda: install(self._path, backup))

    async def set_aside(self) -> Path:
        """See LoggedStore.set_aside. The log and the shared memory of SQLite are renamed with it."""
        return await self._while_closed(lambda: _sqlite_aside.set_aside(self._path))

    async def detach(self) -> None:
        """See LoggedStore.detach."""
        await self._while_closed(lambda: _sqlite_aside.detach(self._path))

    async def select_finished(self, query: Query, before_ms: int | None, limit: int) -> list[Brief]:
        """See Store.select_finished."""
        return await self._call(self._scans, _sqlite_scans.select_finished, query, before_ms, limit, self._ids)

    async def page(self, query: Query, after: int | None, limit: int, bytes_max: int) -> list[Record]:
        """See Store.page."""
        return await self._scan(_sqlite_query.page, query, after, limit, bytes_max, self._ids)

    async def children(self, groups: Sequence[tuple[str, int]]) -> list[Mapping[Status, int]]:
        """See Store.children."""
        return await self._scan(_sqlite_scans.children, groups)

    async def changed_since(self, changed: int, limit: int) -> list[Record]:
        """See Store.changed_since."""
        return await self._scan(_sqlite_query.changed_since, changed, limit)

    async def counts(self) -> Mapping[tuple[str, str, Status], int]:
        """See Store.counts."""
        return await self._scan(_sqlite_query.counts)

    async def _opening(self, function: Callable[[], Opened]) -> Opened:
        self._check_closed()
        self._closing = False
        try:
            return await self._writer.submit(function)
        except BaseException:
            await self.close()
            raise

    async def _while_closed(self, function: Callable[[], _T]) -> _T:
        """Runs the function in the writer's thread, and ends the thread."""
        self._check_closed()
        try:
            return await self._writer.submit(function)
        finally:
            await self._writer.close()

    async def _interruptible(
        self, thread: _Connection, function: Callable[[Callable[[], bool]], _T], undo: Callable[[_T], None]
    ) -> _T:
        """Runs a long function in a thread. It must stop when the store closes or the caller is cancelled.

        Args:
            thread: the thread.
            function: gets a function that tells whether to stop.
            undo: is called, in the same thread, when the caller was cancelled too late for the function to notice.
        """
        given_up = threading.Event()
        running = asyncio.ensure_future(thread.submit(lambda: function(lambda: self._closing or given_up.is_set())))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            given_up.set()
            await asyncio.wait({running})
            if running.exception() is None:
                await thread.submit(lambda: undo(running.result()))
            raise

    def _check_open(self) -> None:
        if self._lock is None:
            raise StoreError(f"{self._path} is not open.")

    def _check_closed(self) -> None:
        if self._lock is not None:
            raise StoreError(f"{self._path} is open already.")

    @property
    def _entry_writer(self) -> EntryWriter:
        if self._entries is None:
            raise StoreError(f"{self._path} is not open for a log.")
        return self._entries

    async def _scan(
        self,
        function: Callable[Concatenate[apsw.Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        return await self._call(self._scans, function, *args, **kwargs)

    async def _looked_up(
        self, look: Callable[[apsw.Connection, Sequence[str], TaskIds], list[_T]], ids: Sequence[str]
    ) -> list[_T]:
        if self._at_once is None:
            raise StoreError(f"{self._path} is not open.")
        # Each submit makes such a look-up, and the ids that gowork makes come in order.
        if self._ids.are_above_all(ids):
            return []
        if len(ids) > _IDS_AT_ONCE_MAX:
            return await self._call(self._lookups, look, ids, self._ids)
        # The way to another thread and back would take several times as long as reading a few pages here.
        with reported(str(self._path)):
            return look(self._at_once, ids, self._ids)

    async def _call(
        self,
        thread: _Connection,
        function: Callable[Concatenate[apsw.Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        not_open = StoreError(f"{self._path} is not open.")
        if self._lock is None:
            raise not_open

        def run() -> _T:
            if thread.connection is None:
                raise not_open
            with reported(str(self._path)):
                return function(thread.connection, *args, **kwargs)

        return await thread.submit(run)

    def _commit(self, connection: apsw.Connection, batch: Batch) -> None:
        assert self._lock is not None
        if self._entries is not None:
            raise StoreError(f"{self._path} follows a log: nothing else is written.")
        self._log.before_commit(connection)
        try:
            write_batch(connection, batch, self._lanes, self._ids, self._term)
        except apsw.Error as error:
            if not isinstance(translated(error, str(self._path)), StoreFullError):
                raise
            # The log itself may fill a small disk. After a merge, the batch is written to the beginning of the log.
            try:
                merge(connection)
            except apsw.Error:
                raise error from None
            write_batch(connection, batch, self._lanes, self._ids, self._term)
        # Checked after the write, because a batch must not be acknowledged when its file is no longer at its path.
        self._lock.check()
        self._log.after_commit(batch)

    def _open(self) -> Opened:
        self._take(logged=False)
        with reported(str(self._path)):
            writer = self._connect()
            _sqlite_meta.check_next_term(writer, self._path)
            # Every opening gets a new term, which is durable before it is used.
            writer.execute("UPDATE meta SET value = value + 1 WHERE key = 'term'")
            opened = self._opened(writer)
        self._term = opened.term
        return opened

    def _open_logged(self, generation: str | None) -> Opened:
        self._take(logged=True)
        assert self._lock is not None
        with reported(str(self._path)):
            writer = self._connect()
            _sqlite_meta.check_generation(writer, self._path, generation)
            opened = self._opened(writer)
            entries = EntryWriter(self._path, self._lock, self._lanes, self._ids, self._log)
            if opened.position is not None:
                entries.begin(writer)
        self._entries = entries
        return opened

    def _take(self, *, logged: bool) -> None:
        """Locks the store, makes it when there is none, and brings it to the format of this version.

        Args:
            logged: whether it may belong to a log.
        """
        check_library()
        path = self._path
        self._lock = FileLock(path)
        for name in _SCRATCHES:
            for leftover in (Path(f"{self.scratch}{name}"), Path(f"{self.scratch}{name}.part")):
                leftover.unlink(missing_ok=True)
        version = _sqlite_file.format_at(path)
        if not version:
            _sqlite_file.create(path)
            self._lock.hold()
        if not logged and version in LOGGED.values():
            raise StoreError(
                f"{path} belongs to a log that several leaders share. Start the leader with --log. To use the "
                f"store without the others, run `gowork store detach` first."
            )
        self._lock.make_private()
        if 0 < version < FORMAT:
            migrate(path, version)

    def _connect(self) -> apsw.Connection:
        """Connects the one that writes. The store has all tables then."""
        writer = self._writer.connection = _sqlite_file.connect(self._path)
        for pragma in _PRAGMAS:
            writer.execute(f"PRAGMA {pragma}")
        add_missing(writer)
        return writer

    def _opened(self, writer: apsw.Connection) -> Opened:
        """Makes the store ready for use, and returns what it says of itself."""
        self._lanes.forget()
        drop_unused(writer)
        self._ids.load(writer)
        _sqlite_meta.name(writer)
        opened = _sqlite_meta.read_opened(writer)
        for thread in (self._lookups, self._scans):
            thread.connection = _sqlite_file.connect(self._path, read_only=True)
        self._at_once = _sqlite_file.connect(self._path, read_only=True)
        self._merges.connection = _sqlite_file.connect(self._path)
        for pragma in _PRAGMAS:
            self._merges.connection.execute(f"PRAGMA {pragma}")
        writer.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        assert self._lock is not None
        self._lock.watch_log()
        return opened


def _forced(connection: apsw.Connection) -> Position | None:
    """Forces to disk what is committed. Returns up to where; None when it could not yet."""
    # Read before the merge, because what is committed meanwhile need not be on disk.
    position = _sqlite_meta.read_position(connection)
    if position is None:
        raise StoreError("The store belongs to no log, so it has no position in one.")
    return position if merge_all(connection) else None


class _Connection:
    """A connection, or None before it is opened, and the one thread that uses it."""

    def __init__(self, name: str) -> None:
        self.connection: apsw.Connection | None = None
        self._executor: LoopExecutor | None = None
        self._name = name

    async def submit(self, function: Callable[[], _T]) -> _T:
        if self._executor is None:
            self._executor = LoopExecutor(self._name)
        return await asyncio.get_running_loop().run_in_executor(self._executor, function)

    def start(self, function: Callable[[apsw.Connection], None]) -> None:
        """Runs the function in the thread, and does not wait for it."""
        if self._executor is None:
            self._executor = LoopExecutor(self._name)

        def run() -> None:
            if self.connection is not None:
                function(self.connection)

        self._executor.start(run)

    async def close(self) -> None:
        if self._executor is not None or self.connection is not None:
            # The thread works in order, so earlier work ends first, even if the asyncio task that awaited it was
            # cancelled.
            await self.submit(self._close)
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def _close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
