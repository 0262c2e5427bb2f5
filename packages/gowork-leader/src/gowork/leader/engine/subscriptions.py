"""Who wants to hear of tasks: waiters of named tasks until they finish, and watchers of all that a filter selects.

Told only of what is durable. Bounded: a watcher that falls behind is ended, a waiter holds each of its tasks once, and
of those that come while it does not read, beyond some bytes, only the ids.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from gowork.leader.core.model import COMPLETED, Progress, Spec, Standing, Task

#: When so many tasks wait for a watcher to read them, the next batch that brings more ends it. Counted over batches
#: and not within one, which may bring tens of thousands before any watcher could have read.
WATCHER_TASKS_MAX = 50_000
#: As above: when they have so many bytes in bodies and results. Watchers that wait for the same tasks share them.
WATCHER_BYTES_MAX = 64 << 20
#: Finished tasks with so many bytes, in bodies and results, wait for a waiter to read them; of those that come then it
#: keeps the ids, and they are looked up in the store.
WAITER_BYTES_MAX = 16 << 20
#: Completed tasks that are kept for those who come to wait for them: at least so many, at most twice as many.
RECENT_TASKS_MAX = 1_000
#: A task with more than this in its body and result is not kept.
RECENT_BYTES_MAX = 4 << 10


class Snapshot:
    """A task as it stood after a batch."""

    __slots__ = ("changed", "progress", "spec", "standing")

    def __init__(self, task: Task) -> None:
        self.spec: Spec = task.spec
        self.standing: Standing = task.standing
        self.progress: Progress | None = task.progress
        self.changed = task.changed


def bytes_of(body: bytes, standing: Standing, trace: bytes = b"") -> int:
    """What a task takes, nearly: its body, its trace context where that is apart, and its result."""
    return len(body) + len(trace) + len(standing.result) + len(standing.result_data)


class SubscriptionsClosed(Exception):
    """The engine stops; nothing more will be told."""


class Waiter:
    """Gathers tasks as they finish, each once."""

    __slots__ = ("_beyond", "_bytes", "_closed", "_event", "_finished")

    def __init__(self) -> None:
        self._finished: list[Snapshot] = []
        self._bytes = 0
        #: Ids of those that came when enough waited.
        self._beyond: list[str] = []
        self._event = asyncio.Event()
        self._closed = False

    def finish(self, snapshot: Snapshot) -> None:
        """One of the tasks has finished."""
        if self._bytes >= WAITER_BYTES_MAX:
            self._beyond.append(snapshot.spec.id)
        else:
            self._bytes += bytes_of(snapshot.spec.body, snapshot.standing, snapshot.spec.trace)
            self._finished.append(snapshot)
        self._event.set()

    async def take(self) -> tuple[list[Snapshot], list[str]]:
        """The tasks that have finished since the last call, at least one; of the last of them, perhaps, only the ids.

        Raises:
            SubscriptionsClosed: when no more will come.
        """
        await self._event.wait()
        self._event.clear()
        taken, self._finished, self._bytes = self._finished, [], 0
        beyond, self._beyond = self._beyond, []
        if self._closed and not taken:
            raise SubscriptionsClosed
        return taken, beyond

    def close(self) -> None:
        """Ends the wait."""
        self._closed = True
        self._event.set()


class WatcherBehind(Exception):
    """The watcher does not read fast enough."""


class Watcher:
    """Gathers the latest state of changed tasks."""

    __slots__ = ("_behind", "_bytes", "_dirty", "_event", "_full", "_removed", "changed", "closed", "selects")

    def __init__(self, selects: Callable[[Spec, Standing], bool]) -> None:
        self.selects = selects
        self._dirty: dict[str, Snapshot] = {}
        self._bytes = 0
        #: Ids of removed tasks.
        self._removed: dict[str, None] = {}
        self._event = asyncio.Event()
        self._behind = False
        self._full = False
        #: Everything up to this batch has been gathered.
        self.changed = 0
        self.closed = False

    def begin_batch(self) -> None:
        """What is noted from here on came with one batch."""
        waiting = len(self._dirty) + len(self._removed)
        self._full = waiting >= WATCHER_TASKS_MAX or self._bytes >= WATCHER_BYTES_MAX

    def note(self, snapshot: Snapshot) -> None:
        """A task has changed."""
        if self._full and (snapshot.spec.id not in self._dirty or self._bytes >= 2 * WATCHER_BYTES_MAX):
            self._behind = True
            self._dirty.clear()
        if not self._behind:
            # Put in anew, so that the order is that of the last change.
            before = self._dirty.pop(snapshot.spec.id, None)
            if before is not None:
                self._bytes -= bytes_of(before.spec.body, before.standing, before.spec.trace)
            self._bytes += bytes_of(snapshot.spec.body, snapshot.standing, snapshot.spec.trace)
            self._dirty[snapshot.spec.id] = snapshot
            # Another task by that id is there by now.
            self._removed.pop(snapshot.spec.id, None)
        self._event.set()

    def note_removed(self, id: str) -> None:
        """A task is there no longer."""
        if self._full:
            self._behind = True
            self._dirty.clear()
            self._removed.clear()
        if not self._behind:
            before = self._dirty.pop(id, None)
            if before is not None:
                self._bytes -= bytes_of(before.spec.body, before.standing, before.spec.trace)
            self._removed[id] = None
        self._event.set()

    async def take(self) -> tuple[list[Snapshot], list[str], int]:
        """The tasks that have changed since the last call, the ids of those that were removed, and the number of the
        batch up to which that holds.

        Raises:
            WatcherBehind: when more changed than may wait.
            SubscriptionsClosed: when no more will come.
        """
        await self._event.wait()
        self._event.clear()
        if self._behind:
            raise WatcherBehind
        taken, self._dirty, self._bytes = self._dirty, {}, 0
        removed, self._removed = self._removed, {}
        if self.closed and not taken and not removed:
            raise SubscriptionsClosed
        return list(taken.values()), list(removed), self.changed

    def close(self) -> None:
        """Ends the wait."""
        self.closed = True
        self._event.set()


class Subscriptions:
    """All waiters and watchers."""

    def __init__(self) -> None:
        #: {task id: its waiters}; nearly always there is one.
        self._waiters: dict[str, tuple[Waiter, ...]] = {}
        self._watchers: dict[Watcher, None] = {}
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

    def add_watcher(self, watcher: Watcher) -> None:
        self._watchers[watcher] = None

    def drop_watcher(self, watcher: Watcher) -> None:
        self._watchers.pop(watcher, None)

    def publish(self, tasks: Iterable[Task], changed: int, removed: Iterable[str] = ()) -> None:
        """Tells of the tasks that a durable batch has changed, and of those that it has removed before."""
        waiters, watchers = self._waiters, self._watchers
        for watcher in watchers:
            watcher.begin_batch()
        for id in removed:
            self._recent.pop(id, None)
            self._less_recent.pop(id, None)
            for watcher in watchers:
                watcher.changed = changed
                watcher.note_removed(id)
        for task in tasks:
            id, snapshot = task.spec.id, None
            if task.standing.status >= COMPLETED:
                snapshot = Snapshot(task)
                self._keep(snapshot)
                for waiter in waiters.pop(id, ()):
                    waiter.finish(snapshot)
            else:
                self._recent.pop(id, None)
                self._less_recent.pop(id, None)
            for watcher in watchers:
                if watcher.selects(task.spec, task.standing):
                    snapshot = snapshot or Snapshot(task)
                    watcher.changed = changed
                    watcher.note(snapshot)

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

    def close(self) -> None:
        """Ends all waits; nothing more will be told."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.close()
        for watcher in self._watchers:
            watcher.close()
