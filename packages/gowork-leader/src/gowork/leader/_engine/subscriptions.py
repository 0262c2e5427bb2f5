"""Who wants to hear of tasks: waiters of named tasks until they finish, and watchers of all that a filter selects.

Told only of what is durable. Bounded: a waiter holds each of its tasks once, and of those that come while it does not
read, beyond some bytes, only the ids. Watchers are `watching`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from gowork.leader._core.model import COMPLETED, Task
from gowork.leader._engine.watching import Feed, Snapshot, SubscriptionsClosed, bytes_of

#: Bytes of finished tasks, in bodies and results, that wait for a waiter to read them. Beyond that it keeps ids, and
#: the tasks are looked up in the store.
WAITER_BYTES_MAX = 16 << 20
#: As above, over all waiters. One task is kept for each.
WAITERS_BYTES_MAX = 64 << 20
#: Completed tasks that are kept for those who come to wait for them: at least so many, at most twice as many.
RECENT_TASKS_MAX = 1_000
#: A task with more than this in its body and result is not kept.
RECENT_BYTES_MAX = 4 << 10


class Waiting:
    """What all waiters hold together."""

    __slots__ = ("bytes", "closed_because", "ids")

    def __init__(self) -> None:
        #: Bytes of tasks that have finished.
        self.bytes = 0
        #: Ids that calls with lists of them wait for.
        self.ids = 0
        #: Why nothing more will be told, once that is so.
        self.closed_because = ""


class Waiter:
    """Gathers tasks as they finish, each once."""

    __slots__ = ("_all", "_beyond", "_bytes", "_closed", "_event", "_finished", "_taken_bytes")

    def __init__(self, waiting: Waiting) -> None:
        """`waiting` is what all waiters hold."""
        self._all = waiting
        self._finished: list[Snapshot] = []
        self._bytes = 0
        #: Of the tasks that were taken last, which may not have been sent yet.
        self._taken_bytes = 0
        #: Ids of those that came when enough waited.
        self._beyond: list[str] = []
        self._event = asyncio.Event()
        self._closed = False

    def finish(self, snapshot: Snapshot) -> None:
        """One of the tasks has finished."""
        if self._bytes >= WAITER_BYTES_MAX or (self._finished and self._all.bytes >= WAITERS_BYTES_MAX):
            self._beyond.append(snapshot.spec.id)
        else:
            size = bytes_of(snapshot.spec.body, snapshot.standing, snapshot.spec.trace)
            self._bytes += size
            self._all.bytes += size
            self._finished.append(snapshot)
        self._event.set()

    async def take(self) -> tuple[list[Snapshot], list[str]]:
        """The tasks that have finished since the last call, at least one; of the last of them, perhaps, only the ids.

        Raises:
            SubscriptionsClosed: when no more will come.
        """
        await self._event.wait()
        self._event.clear()
        self._all.bytes -= self._taken_bytes
        taken, self._finished, self._taken_bytes, self._bytes = self._finished, [], self._bytes, 0
        beyond, self._beyond = self._beyond, []
        if self._closed and not taken:
            raise SubscriptionsClosed(self._all.closed_because)
        return taken, beyond

    def end(self) -> None:
        """Nothing more is taken."""
        self._all.bytes -= self._taken_bytes + self._bytes
        self._taken_bytes = self._bytes = 0

    def close(self) -> None:
        """Ends the wait."""
        self._closed = True
        self._event.set()


class Subscriptions:
    """All waiters and watchers."""

    def __init__(self) -> None:
        #: {task id: its waiters}; nearly always there is one.
        self._waiters: dict[str, tuple[Waiter, ...]] = {}
        self.waiting = Waiting()
        self.watchers = Feed()
        #: {task id: as it completed}, in two generations: when the new one is full, the old one is forgotten.
        self._recent: dict[str, Snapshot] = {}
        self._less_recent: dict[str, Snapshot] = {}

    def recent(self, id: str) -> Snapshot | None:
        """The task, if it completed a moment ago. None says nothing about it."""
        return self._recent.get(id) or self._less_recent.get(id)

    def add_waiter(self, waiter: Waiter, ids: Iterable[str]) -> None:
        """The waiter hears of each of these when it finishes; `ids` has each once."""
        waiters, alone = self._waiters, (waiter,)
        for id in ids:
            others = waiters.get(id)
            waiters[id] = alone if others is None else (*others, waiter)

    def drop_waiter(self, waiter: Waiter, ids: Iterable[str]) -> None:
        """The waiter hears of these no more."""
        for id in ids:
            waiters = self._waiters.get(id)
            if waiters is not None:
                others = tuple(other for other in waiters if other is not waiter)
                if others:
                    self._waiters[id] = others
                else:
                    del self._waiters[id]

    def publish(self, tasks: Sequence[Task], changed: int, removed: Sequence[str] = ()) -> None:
        """Tells of the tasks that a durable batch has changed, and of those that it has removed before."""
        waiters = self._waiters
        for id in removed:
            self._recent.pop(id, None)
            self._less_recent.pop(id, None)
        for task in tasks:
            id = task.spec.id
            if task.standing.status >= COMPLETED:
                snapshot = Snapshot(task)
                self._keep(snapshot)
                for waiter in waiters.pop(id, ()):
                    waiter.finish(snapshot)
            else:
                self._recent.pop(id, None)
                self._less_recent.pop(id, None)
        self.watchers.publish(tasks, changed, removed)

    def _keep(self, snapshot: Snapshot) -> None:
        spec, standing = snapshot.spec, snapshot.standing
        if standing.failure is not None or (bytes_of(spec.body, standing, spec.trace) > RECENT_BYTES_MAX):
            # What was kept of an earlier task by this id is wrong from here on.
            self._recent.pop(spec.id, None)
            self._less_recent.pop(spec.id, None)
            return
        if len(self._recent) >= RECENT_TASKS_MAX:
            self._recent, self._less_recent = {}, self._recent
        self._recent[spec.id] = snapshot

    def close(self, because: str) -> None:
        """Ends all waits and watches; nothing more will be told.

        Args:
            because: why that is so, for those whose calls end by it.
        """
        self.waiting.closed_because = because
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.close()
        self.watchers.close(because)
