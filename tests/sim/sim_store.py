"""The real store on a disk that fills, fails in doubt, is slow, and loses parts of a commit when its process dies."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from gowork.leader._core.model import Now
from gowork.leader.store._sqlite_log import LogKeeper
from gowork.leader.store.protocol import Batch, StoreError, StoreFullError
from gowork.leader.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from sim_world import World

#: SQLite's log begins with a header.
LOG_HEADER_BYTES = 32
_FRAME_BYTES = 24 + 4096


class SimClock:
    """A leader's clocks. The wall clock steps now and then, and each leader's monotonic clock begins anew."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._offset = world.rng.uniform(0, 1000)
        #: The times that were read since the last commit, oldest first.
        self.read: list[Now] = []

    def now(self) -> Now:
        seconds = self._world.loop.time()
        now = Now(self._world.wall_ms(), self._offset + seconds)
        self.read.append(now)
        return now

    def wall_ns(self) -> int:
        return self._world.wall_ms() * 1_000_000


class NoThread:
    """Stands in for a store's thread; the loop does the thread's work."""

    def shutdown(self, wait: bool = True) -> None:
        """Does nothing, because there is no thread."""

    def start(self, function: object) -> None:
        """Does nothing: the log is never merged while the store is open."""


class SimStore(SqliteStore):
    """The store of one leader, from its opening to its end."""

    def __init__(self, path: Path, world: World, clock: SimClock) -> None:
        super().__init__(path)
        self._world, self._clock = world, clock
        self._log = LogKeeper(lambda merge: None)
        for connection in (self._writer, self._lookups, self._scans, self._merges, self._backups):
            connection._executor = NoThread()  # type: ignore[assignment]
        self._batch: Batch | None = None
        #: The times that the leader read while the current batch was made; the last two when it was decided.
        self._decided: list[Now] = []
        #: The log's length before the torn commit, in bytes; 0 when no commit was torn.
        self._torn_from = 0

    async def commit(self, batch: Batch) -> None:
        """See Store.commit."""
        if batch is not self._batch:
            self._batch, self._decided = batch, list(self._clock.read)
        await super().commit(batch)
        self._clock.read = []

    def _commit(self, connection: Any, batch: Batch) -> None:
        world = self._world
        if world.disk_full():
            world.trace.fault("disk full")
            raise StoreFullError("the simulated disk is full")
        rng = world.rng
        chance = 1.0 if world.calm else rng.random()
        if chance < 0.003:
            self._torn_from = log_end(self._path)
        elif chance < 0.005:
            world.trace.fault("commit in doubt, not written")
            raise StoreError("the simulated disk has failed")
        try:
            super()._commit(connection, batch)
        except StoreFullError:
            raise
        if self._torn_from:
            # `die` decides which part of it is on the disk.
            world.trace.fault("torn commit")
            raise StoreError("the simulated machine has died within a commit")
        world.checks.committed(batch, self._decided, world.wall_ms_lately())
        if 0.005 <= chance < 0.007:
            world.trace.fault("commit in doubt, written")
            raise StoreError("the simulated disk has failed")

    async def die(self, *, killed: bool) -> None:
        """Ends the process. When it is killed, the log stays as it is, and a part of a torn commit is lost."""
        if not (killed or self._torn_from) or self._lock is None:
            await self.close()
            return
        log_path = Path(f"{self._path}-wal")
        end = log_end(self._path)
        files = {path: path.read_bytes() for path in (self._path, log_path) if path.exists()}
        await self.close()
        log = files.get(log_path)
        if self._torn_from and log is not None:
            files[log_path] = _torn(log, self._torn_from, end, self._world.rng)
        for path, data in files.items():
            path.write_bytes(data)


def let_go(store: SqliteStore) -> None:
    """Closes what is still open when the world ends in the middle of a start or an end. Nothing else runs then."""
    for held in (store._digests, store._backups, store._scans, store._lookups, store._merges, store._writer):
        held._close()
    if store._at_once is not None:
        store._at_once.close()
    if store._lock is not None:
        store._lock.release()


def log_end(path: Path) -> int:
    """Where the valid part of a store's log ends, in bytes, as the wal-index says (https://sqlite.org/walformat.html)."""
    with Path(f"{path}-shm").open("rb") as index:
        frames = int.from_bytes(index.read(20)[16:], "little")
    return LOG_HEADER_BYTES + frames * _FRAME_BYTES if frames else 0


def _torn(log: bytes, begin: int, end: int, rng: Random) -> bytes:
    """The log without some of the bytes of its last commit, which may be missing in the middle."""
    if end <= begin:
        return log
    at = rng.randrange(max(begin, LOG_HEADER_BYTES), end)
    if rng.random() < 0.5:
        return log[:at]
    # One sector has not reached the disk, but those after it have.
    sector = at // 512 * 512
    first, last = max(sector, begin, LOG_HEADER_BYTES), min(sector + 512, end)
    return log[:first] + bytes(byte ^ 0xA5 for byte in log[first:last]) + log[last:]
