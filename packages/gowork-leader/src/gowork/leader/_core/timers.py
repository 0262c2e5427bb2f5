"""Times at which something becomes of a pending task: it may start, or it expires.

A window in memory over what the store has: the earliest times up to a horizon. What is later rests in the store and is
paged in as the window runs low. Entries may be stale: whoever takes one looks at the task.
The times at which tasks may start are those of the tasks whose Place is TIMER; see LANE-ENTRY. Those at which they
expire are of tasks in any place.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

#: (wall-clock milliseconds, seq, id)
Timer = tuple[int, int, str]


class Timers:
    """Times of one kind, in order."""

    __slots__ = ("_heap", "_max", "horizon")

    def __init__(self, tasks_max: int) -> None:
        """At most `tasks_max` entries are in memory."""
        self._heap: list[Timer] = []
        self._max = tasks_max
        #: (time, seq) up to which all entries are in memory; None: all are.
        self.horizon: tuple[int, int] | None = None

    def __len__(self) -> int:
        """How many entries are in memory, stale ones included."""
        return len(self._heap)

    def add(self, timer: Timer) -> None:
        """A task has a time."""
        if self.horizon is not None and timer[:2] > self.horizon:
            return
        heapq.heappush(self._heap, timer)
        if len(self._heap) > self._max:
            # A sorted list is a heap.
            self._heap.sort()
            del self._heap[self._max // 2 :]
            self.horizon = self._heap[-1][:2]

    def expect(self) -> None:
        """Whatever there is, is in the store."""
        self.horizon = (-1, 0)

    @property
    def hungry(self) -> bool:
        """The window runs low, and the store may have more."""
        return self.horizon is not None and len(self._heap) < self._max // 8

    @property
    def page(self) -> int:
        """How many entries to page in."""
        return self._max // 2

    def take_in(self, timers: Iterable[Timer], *, complete: bool) -> None:
        """The next entries of the store, in order; `complete` when it has no more."""
        for timer in timers:
            heapq.heappush(self._heap, timer)
            self.horizon = timer[:2]
        if complete:
            self.horizon = None

    def next_ms(self) -> int | None:
        """The earliest time."""
        return self._heap[0][0] if self._heap else None

    def ripe(self, wall_ms: int, limit: int) -> Iterator[Timer]:
        """The first entries up to this time, in order, at most so many. Walks down the heap and changes nothing."""
        heap = self._heap
        places = [(heap[0], 0)] if heap else []
        while places and limit:
            timer, place = heapq.heappop(places)
            if timer[0] > wall_ms:
                return
            limit -= 1
            for below in (2 * place + 1, 2 * place + 2):
                if below < len(heap):
                    heapq.heappush(places, (heap[below], below))
            yield timer

    def trim(self, wall_ms: int, limit: int) -> None:
        """Drops what `ripe` gives with the same arguments."""
        while limit and self._heap and self._heap[0][0] <= wall_ms:
            heapq.heappop(self._heap)
            limit -= 1
