"""Checks what passes between core, engine and store: off in production, on in tests and in the simulator.

The store must give back what was written. A batch must be one step further than the batch before. The member that a
running task's standing names must hold the task.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, cast

from gowork.leader._core.model import PENDING, RUNNING, LaneKey, Standing, Task
from gowork.leader._core.state import State
from gowork.leader._replication.journal import Journal
from gowork.leader.store.protocol import TERM_SHIFT, Batch, Opened, Record, Store

#: The one switch. An engine reads it when it is made.
ON = False
#: How many written tasks are remembered, so that a test of many tasks does not keep all of them.
REMEMBERED_MAX = 20_000


class BrokenSeamError(AssertionError):
    """A rule between two parts of the leader was broken: a defect of the leader, not a fault of a caller."""

    def __init__(self, rule: str, *what: object) -> None:
        super().__init__(f"{rule}: {' '.join(map(str, what))}")


def checked(store: Store) -> Store:
    """Returns the store. When checks are switched on, it checks what goes in and comes out."""
    return cast(Store, CheckedStore(store)) if ON else store


def checked_journal(journal: Journal, store: Store) -> Journal:
    """Returns the journal. If the store is checked, so is what the journal commits to it."""
    return CheckedJournal(journal, store) if isinstance(store, CheckedStore) else journal


class CheckedStore:
    """A store in use by one engine. Calls that are not checked pass through."""

    def __init__(self, store: Store) -> None:
        self._store = store
        #: {seq: (id, standing)} as last written, the oldest first.
        self._written: dict[int, tuple[str, Standing]] = {}
        #: {seq: fence} of the running tasks that this leader has written.
        self._running: dict[int, int] = {}
        self._next_seq = 1
        #: A bound on the fences of earlier leaders, and the highest fence so far.
        self._fence_floor = self._fence = 0
        self._changed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def open(self) -> Opened:
        opened = await self._store.open()
        self.begin(opened)
        return opened

    def begin(self, opened: Opened) -> None:
        """Remembers what was true at the beginning."""
        self._next_seq = opened.next_seq
        self._fence_floor = self._fence = self._changed = opened.term << TERM_SHIFT

    async def commit(self, batch: Batch) -> None:
        await self.commit_by(self._store.commit, batch)

    async def commit_by(self, commit: Callable[[Batch], Awaitable[None]], batch: Batch) -> None:
        """Checks the batch, and remembers it when it is durable. A batch that is tried again is checked again."""
        granted = self._check(batch)
        await commit(batch)
        for new in batch.inserts:
            self._remember(new.record.seq, new.record.id, new.record.standing)
            self._next_seq = new.record.seq + 1
        for move in batch.moves:
            known = self._written.get(move.seq)
            self._remember(move.seq, known[0] if known is not None else "", move.standing)
        for deleted in batch.deletes:
            self._written.pop(deleted.seq, None)
        self._fence = max(granted, default=self._fence)
        self._changed = max(_numbers(batch), default=self._changed)

    async def load(self, ids: Sequence[str]) -> list[Record]:
        records = await self._store.load(ids)
        wanted = set(ids)
        self._came_out(records)
        for record in records:
            if record.id not in wanted:
                raise BrokenSeamError("the store gives what was asked for", record.id, "was not")
        return records

    async def standings(self, ids: Sequence[str]) -> list[tuple[str, Standing]]:
        found = await self._store.standings(ids)
        wanted = set(ids)
        for id, _ in found:
            if id not in wanted:
                raise BrokenSeamError("the store gives what was asked for", id, "was not")
        return found

    async def lane_page(self, lane: LaneKey, after: int, limit: int, bytes_max: int) -> list[Record]:
        records = await self._store.lane_page(lane, after, limit, bytes_max)
        self._came_out(records)
        for record in records:
            if record.seq <= after:
                raise BrokenSeamError("a page goes on in the order of seq", record.id, record.seq, "after", after)
            if record.standing.status is not PENDING or record.standing.not_before_ms:
                raise BrokenSeamError("a lane has what waits in it", record.id, record.standing)
            after = record.seq
        return records

    async def running(self) -> AsyncIterator[list[Record]]:
        async for records in self._store.running():
            self._came_out(records)
            for record in records:
                if record.standing.status is not RUNNING:
                    raise BrokenSeamError("what runs is RUNNING", record.id, record.standing)
            yield records

    def _check(self, batch: Batch) -> list[int]:
        """Checks a batch. Returns the fences of its grants."""
        numbers = _numbers(batch)
        if len(numbers) > 1 or any(number <= self._changed for number in numbers):
            raise BrokenSeamError("a batch has one number, above all before", *numbers, "after", self._changed)
        next_seq = self._next_seq
        for new in batch.inserts:
            if new.record.seq < next_seq:
                raise BrokenSeamError("new tasks come in the order of seq", new.record.id, new.record.seq)
            next_seq = new.record.seq + 1
        moved = [move.seq for move in batch.moves]
        deleted = [task.seq for task in batch.deletes]
        if len({*moved, *deleted}) < len(moved) + len(deleted):
            raise BrokenSeamError("a batch changes each task once", sorted(moved), sorted(deleted))
        if any(seq >= self._next_seq for seq in (*moved, *deleted)):
            raise BrokenSeamError("only stored tasks move", sorted(moved), sorted(deleted))
        standings = [
            *((new.record.seq, new.record.standing) for new in batch.inserts),
            *((move.seq, move.standing) for move in batch.moves),
        ]
        granted = []
        for seq, standing in standings:
            fence = standing.fence
            if standing.status is RUNNING and self._running.get(seq) != fence and fence >= self._fence_floor:
                granted.append(fence)
        if len(set(granted)) < len(granted) or any(fence <= self._fence for fence in granted):
            raise BrokenSeamError("fences only grow (FENCED)", sorted(granted), "after", self._fence)
        return granted

    def _remember(self, seq: int, id: str, standing: Standing) -> None:
        self._written.pop(seq, None)
        self._written[seq] = id, standing
        if len(self._written) > REMEMBERED_MAX:
            del self._written[next(iter(self._written))]
        if standing.status is RUNNING:
            self._running[seq] = standing.fence
        else:
            self._running.pop(seq, None)

    def _came_out(self, records: Iterable[Record]) -> None:
        for record in records:
            id, standing = self._written.get(record.seq, (record.id, record.standing))
            if standing != record.standing or id not in ("", record.id):
                raise BrokenSeamError("what comes out is what was written", record.id, record.standing, "not", standing)


class CheckedJournal:
    """A journal whose batches are checked."""

    def __init__(self, journal: Journal, store: CheckedStore) -> None:
        self._journal = journal
        self._store = store
        self.confirm = journal.confirm
        self.leads = journal.leads
        self.resign = journal.resign
        self.close = journal.close

    async def open(self) -> Opened:
        opened = await self._journal.open()
        self._store.begin(opened)
        return opened

    async def commit(self, batch: Batch) -> None:
        await self._store.commit_by(self._journal.commit, batch)


def check_held(state: State, changed: Iterable[Task]) -> None:
    """Checks HELD after a step: each running task is held under its fence, and as many tasks are held as run."""
    for task in changed:
        standing = task.standing
        if standing.status is RUNNING and _held_under(state, standing) != task.spec.id:
            raise BrokenSeamError("what runs is held under its fence (HELD)", task.spec.id, standing)
    held = sum(len(worker.held) for worker in state.workers.values())
    held += sum(callback.held is not None for callback in state.callbacks.values())
    running = sum(queue.running for queue in state.queues)
    if held != running:
        raise BrokenSeamError("as many tasks are held as run (HELD)", held, "are held and", running, "run")


def _held_under(state: State, standing: Standing) -> str | None:
    """Returns the id of the task that the standing's holder has under its fence; None when it has none."""
    if standing.instance:
        worker = state.workers.get(standing.instance)
        return None if worker is None else worker.held.get(standing.fence)
    callback = state.callbacks.get(standing.worker)
    held = None if callback is None else callback.held
    return held.id if held is not None and held.fence == standing.fence else None


def _numbers(batch: Batch) -> set[int]:
    return {
        *(new.record.changed for new in batch.inserts),
        *(move.changed for move in batch.moves),
        *(deleted.changed for deleted in batch.deletes),
    }
