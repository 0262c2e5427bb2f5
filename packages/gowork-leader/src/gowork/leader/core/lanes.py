"""Pending tasks in lanes: each lane in the order of submission, all of a lane runnable by the same workers.

Owns the order of pending tasks. Entries of tasks that are no longer pending stay until they reach the head or make
up half of a lane: whoever
walks a lane passes over them. Invariant LANE-ENTRY: a pending task that is not delayed has exactly one entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from gowork.leader.core.model import PENDING, LaneKey, Task

_by_seq = attrgetter("seq")
_COMPACT_ENTRIES_MIN = 64


class Lane:
    """The pending tasks of one lane."""

    __slots__ = ("_entries", "_head", "_sorted", "live")

    def __init__(self) -> None:
        self._entries: list[Task] = []
        self._head = 0
        self._sorted = True
        #: How many entries are pending tasks.
        self.live = 0

    def add(self, task: Task) -> None:
        """Puts a task that has become pending in its place."""
        self.live += 1
        if task.queued:
            return
        task.queued = True
        entries = self._entries
        if len(entries) > self._head and entries[-1].seq > task.seq:
            self._sorted = False
        entries.append(task)

    def remove(self) -> None:
        """One of the lane's tasks is no longer pending."""
        self.live -= 1
        entries, head = self._entries, self._head
        while head < len(entries) and entries[head].standing.status is not PENDING:
            entries[head].queued = False
            head += 1
        self._head = head
        if len(entries) - self.live > max(_COMPACT_ENTRIES_MIN, 2 * self.live):
            self._compact()

    def __iter__(self) -> Iterator[Task]:
        """The pending tasks in order. Nothing may be added or removed meanwhile."""
        if not self._sorted:
            self._compact()
            self._entries.sort(key=_by_seq)
            self._sorted = True
        entries = self._entries
        for index in range(self._head, len(entries)):
            task = entries[index]
            if task.standing.status is PENDING:
                yield task

    def clear(self) -> None:
        """Forgets the entries that are left; none of them is pending."""
        self._compact()

    def _compact(self) -> None:
        kept = []
        for task in self._entries[self._head :]:
            if task.standing.status is PENDING:
                kept.append(task)
            else:
                task.queued = False
        self._entries, self._head = kept, 0


class Lanes:
    """All lanes that have pending tasks."""

    __slots__ = ("_lanes",)

    def __init__(self) -> None:
        self._lanes: dict[LaneKey, Lane] = {}

    def add(self, task: Task) -> None:
        """A task has become pending."""
        key = task.spec.lane
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane()
        lane.add(task)

    def remove(self, task: Task) -> None:
        """A task is no longer pending; its standing says so already."""
        key = task.spec.lane
        lane = self._lanes[key]
        lane.remove()
        if not lane.live:
            # An entry that is left may become pending again: it must then be added to a new lane.
            lane.clear()
            del self._lanes[key]

    def items(self) -> Iterator[tuple[LaneKey, Lane]]:
        """Every lane with at least one pending task, in the order in which they came to be."""
        return iter(self._lanes.items())

    def __len__(self) -> int:
        """How many pending tasks there are in all."""
        return sum(lane.live for lane in self._lanes.values())
