"""Timers: the times at which pending tasks may start, and the times at which they expire.

Memory has a window over the timers in the store: the earliest ones, up to a horizon. Later ones rest in the store and
are paged in as the window runs low. Entries may be stale, so the code that takes one looks at the task.
Tasks in the Place TIMER have a timer for their start; see LANE-ENTRY. Tasks in any place may have one for their expiry.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

#: (wall-clock milliseconds, seq, id)
Timer = tuple[int, int, str]


class Timers:
    """The timers of one kind, in order."""

    __slots__ = ("_heap", "_max", "horizon")

    def __init__(self, tasks_max: int) -> None:
        """Makes an empty set that keeps at most `tasks_max` entries in memory."""
        self._heap: list[Timer] = []
        self._max = tasks_max
        #: (time, seq) up to which all entries are in memory; None: all are.
        self.horizon: tuple[int, int] | None = None

    def __len__(self) -> int:
        """How many entries are in memory, stale ones included."""
        return len(self._heap)

    def add(self, timer: Timer) -> None:
        """Adds a task's timer, unless it is beyond the horizon."""
        if self.horizon is not None and timer[:2] > self.horizon:
            return
        heapq.heappush(self._heap, timer)
        if len(self._heap) > self._max:
            # A sorted list is a heap.
            self._heap.sort()
            del self._heap[self._max // 2 :]
            self.horizon = self._heap[-1][:2]

    def expect(self) -> None:
        """Notes that all entries are in the store alone."""
        self.horizon = (-1, 0)

    @property
    def hungry(self) -> bool:
        """Whether the window runs low and the store may have more."""
        return self.horizon is not None and len(self._heap) < self._max // 8

    @property
    def page(self) -> int:
        """How many entries to page in."""
        return self._max // 2

    def take_in(self, timers: Iterable[Timer], *, complete: bool) -> None:
        """Takes in the next entries of the store, in order. `complete`: the store has no more."""
        for timer in timers:
            heapq.heappush(self._heap, timer)
            self.horizon = timer[:2]
        if complete:
            self.horizon = None

    def next_ms(self) -> int | None:
        """Returns the earliest time in memory, in wall-clock milliseconds; None when there is none."""
        return self._heap[0][0] if self._heap else None

    def ripe(self, wall_ms: int, limit: int) -> Iterator[Timer]:
        """Yields the first `limit` entries up to this time, in order. Walks down the heap and changes nothing."""
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
        """Drops what `ripe` yields with the same arguments."""
        while limit and self._heap and self._heap[0][0] <= wall_ms:
            heapq.heappop(self._heap)
            limit -= 1
