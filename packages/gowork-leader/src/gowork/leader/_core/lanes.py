"""Pending tasks in lanes: a lane keeps the order of submission, and the same workers can run all of its tasks.

Owns the order of pending tasks. A lane has a window of tasks in memory. Tasks after its horizon rest in the store and
are paged in when the window runs low. So memory is bounded, and a blocked lane hides no other lane's tasks.
When a task leaves the window, its entry becomes stale. It stays until it reaches the head or until two thirds of the
entries are stale. Walks pass over stale entries.
Invariant LANE-ENTRY: a pending task is in exactly one Place. In WINDOW it has one live entry in its lane's window. In
REST its lane counts it in `stored`. In TIMER no lane knows of it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from operator import attrgetter

from gowork.leader._core.model import LaneKey, Priority, Task

_by_seq = attrgetter("seq")
_COMPACT_ENTRIES_MIN = 64


class Lane:
    """The pending tasks of one lane that may run now."""

    __slots__ = ("_entries", "_head", "_last", "_sorted", "group", "horizon", "key", "live", "stored", "weight")

    def __init__(self, key: LaneKey, group: Group) -> None:
        self.key = key
        self.group = group
        self._entries: list[Task] = []
        self._head = 0
        self._sorted = True
        #: The highest seq that was ever in the window.
        self._last = 0
        #: How many tasks are in the window, and what they weigh: each one, and one more for each KiB of its body.
        self.live = 0
        self.weight = 0
        #: How many tasks rest in the store: those with a seq above the horizon.
        self.stored = 0
        #: The seq up to which all of the lane's tasks are in the window. None: all are; only the store can say so, when
        #: it has no more to page in.
        self.horizon: int | None = None

    def __len__(self) -> int:
        return self.live + self.stored

    def add(self, task: Task, *, room: bool) -> None:
        """Puts a task that may run from now on in the window, or leaves it in the store."""
        if self.horizon is None and not room and task.seq > self._last:
            self.horizon = self._last
        if self.horizon is not None and task.seq > self.horizon:
            self.stored += 1
        else:
            self._enter(task)

    def take_in(self, tasks: Sequence[Task], *, complete: bool) -> None:
        """Puts the next tasks of the store in the window, in order. `complete`: the store has no more."""
        for task in tasks:
            self._enter(task)
        if complete:
            self.horizon, self.stored = None, 0
        elif tasks:
            self.horizon = tasks[-1].seq
            self.stored = max(self.stored - len(tasks), 0)

    def _enter(self, task: Task) -> None:
        self.live += 1
        self.weight += 1 + (len(task.spec.body) >> 10)
        task.in_window = True
        if task.queued:
            return
        task.queued = True
        seq = task.seq
        if seq > self._last:
            self._last = seq
        elif len(self._entries) > self._head and self._entries[-1].seq > seq:
            self._sorted = False
        self._entries.append(task)

    def remove(self, task: Task) -> None:
        """Takes a task out of the lane, because it runs or may no longer run."""
        if not task.in_window:
            self.stored -= 1
            return
        self.remove_run((task,))

    def remove_run(self, tasks: Sequence[Task]) -> None:
        """Takes tasks out of the window."""
        large = 0
        for task in tasks:
            task.in_window = False
            large += len(task.spec.body) >> 10
        self.weight -= len(tasks) + large
        self.live -= len(tasks)
        entries, head = self._entries, self._head
        while head < len(entries) and not entries[head].in_window:
            entries[head].queued = False
            head += 1
        self._head = head
        if len(entries) - self.live > max(_COMPACT_ENTRIES_MIN, 2 * self.live):
            self._compact()

    def first(self) -> Task | None:
        """Returns the task at the head of the window; None when the window is empty."""
        return next(iter(self), None)

    def __iter__(self) -> Iterator[Task]:
        """Yields the tasks of the window in order. Nothing may be added or removed meanwhile."""
        if not self._sorted:
            self._compact()
            self._entries.sort(key=_by_seq)
            self._sorted = True
        entries = self._entries
        for index in range(self._head, len(entries)):
            task = entries[index]
            if task.in_window:
                yield task

    def clear(self) -> None:
        """Drops the stale entries of a lane that has no tasks left."""
        self._compact()

    def _compact(self) -> None:
        kept = []
        for task in self._entries[self._head :]:
            if task.in_window:
                kept.append(task)
            else:
                task.queued = False
        self._entries, self._head = kept, 0


class Group:
    """The lanes of one queue with the same priority, handler and selector: one lane for each concurrency key."""

    __slots__ = ("_ready", "handler", "keyed", "plain", "priority", "selector")

    def __init__(self, priority: Priority, handler: str, selector: tuple[tuple[str, str], ...]) -> None:
        self.priority = priority
        self.handler = handler
        self.selector = selector
        #: The lane of tasks without a key.
        self.plain: Lane | None = None
        #: {concurrency key: lane}
        self.keyed: dict[str, Lane] = {}
        #: A heap of (seq, concurrency key). Each keyed lane that has tasks in its window and is not held back has an
        #: entry whose seq is at most that of its head. Entries may be stale, or of lanes that are held back.
        self._ready: list[tuple[int, str]] = []

    def put(self, lane: Lane) -> None:
        """Adds a new lane."""
        if lane.key.concurrency_key:
            self.keyed[lane.key.concurrency_key] = lane
        else:
            self.plain = lane

    def drop(self, lane: Lane) -> None:
        """Removes an empty lane."""
        if lane.key.concurrency_key:
            del self.keyed[lane.key.concurrency_key]
        else:
            self.plain = None

    def __len__(self) -> int:
        return len(self.keyed) + (self.plain is not None)

    def offer(self, lane: Lane) -> None:
        """Notes that a keyed lane has another head, or that its key holds it back no longer."""
        head = lane.first()
        if head is not None:
            heapq.heappush(self._ready, (head.seq, lane.key.concurrency_key))

    def tidy(self, held_back: frozenset[str] | set[str] | dict[str, None]) -> None:
        """Drops stale entries from the top of the heap, and from all of the heap when it has grown large."""
        ready = self._ready
        while ready:
            seq, key = ready[0]
            lane = self.keyed.get(key)
            head = None if lane is None or key in held_back else lane.first()
            if head is not None and head.seq >= seq:
                break
            heapq.heappop(ready)
        if len(ready) > 2 * len(self.keyed) + _COMPACT_ENTRIES_MIN:
            self.rebuild(held_back)

    def rebuild(self, held_back: frozenset[str] | set[str] | dict[str, None]) -> None:
        """Makes the heap again from the heads of the lanes."""
        heads = [(lane.first(), key) for key, lane in self.keyed.items() if key not in held_back]
        self._ready = [(head.seq, key) for head, key in heads if head is not None]
        heapq.heapify(self._ready)

    def ready(self) -> Iterator[tuple[int, Lane]]:
        """Yields (a lower bound of its head's seq, keyed lane), lowest first. A lane may come more than once.

        Walks down the heap and changes nothing.
        """
        heap = self._ready
        places = [(*heap[0], 0)] if heap else []
        while places:
            seq, key, place = heapq.heappop(places)
            for below in (2 * place + 1, 2 * place + 2):
                if below < len(heap):
                    heapq.heappush(places, (*heap[below], below))
            lane = self.keyed.get(key)
            if lane is not None:
                yield seq, lane
