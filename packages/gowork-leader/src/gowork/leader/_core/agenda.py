"""When each schedule is to be looked at next. It is derived: from the facts at a start, and from decisions later."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from msgspec import Struct

from gowork.leader._core.schedules import Declared, Declarer, Schedule, SkipReason, Ticks

#: How many stale entries there may be, besides one for each schedule, before they are dropped.
_STALE_MAX = 1_000
#: For how long a schedule may be without a worker that declares it, in milliseconds: longer than a rolling upgrade
#: takes to put a worker in another one's place.
ORPHANED_MS = 60_000


class Plan(Struct, frozen=True):
    """What is due of one schedule. It holds only while its facts are these."""

    name: str
    schedule: Schedule
    ticks: Ticks
    #: How many ticks are skipped before all others, up to which one.
    skipped: int
    skipped_until_ms: int
    #: Ticks for which tasks may be made, ascending.
    due: tuple[int, ...]
    #: When the schedule is to be looked at again; None: it has no more ticks.
    next_ms: int | None
    #: Why all of its ticks are skipped now; None: they are not.
    reason: SkipReason | None = None


class Agenda:
    """The schedules in the order in which they are due. Only `apply`, and the loader for plans, change it."""

    __slots__ = ("awaited", "declared", "gone_ms", "heap", "names", "plans", "since_ms")

    def __init__(self) -> None:
        #: {name of each schedule: when it is looked at next, in wall-clock milliseconds; None: never}
        self.names: dict[str, int | None] = {}
        #: (time, name). Entries may be stale.
        self.heap: list[tuple[int, str]] = []
        #: {id of an unfinished task: the schedule that has a tick waiting for it}
        self.awaited: dict[str, str] = {}
        #: What is due, as the loader has found it for the current batch. The tasks that it concerns are in memory.
        self.plans: Sequence[Plan] = ()
        #: {name: {instance of a worker that declares it in code: as whose}}
        self.declared: dict[str, dict[str, Declarer]] = {}
        #: {name: when the last worker went that had declared it}
        self.gone_ms: dict[str, int] = {}
        #: When this leader started. Workers need a moment to reconnect.
        self.since_ms = 0

    def set(self, name: str, at_ms: int | None, awaited: Sequence[str] = ()) -> None:
        """Notes when a schedule is to be looked at, and which tasks it waits for: then too, when one has finished."""
        self._await_no_more(name)
        self.names[name] = at_ms
        if at_ms is not None:
            heapq.heappush(self.heap, (at_ms, name))
            if len(self.heap) > 2 * len(self.names) + _STALE_MAX:
                self.heap = [(at, name) for name, at in self.names.items() if at is not None]
                heapq.heapify(self.heap)
        for id in awaited:
            self.awaited[id] = name

    def remove(self, name: str) -> None:
        """Forgets a schedule."""
        self._await_no_more(name)
        self.names.pop(name, None)
        self.gone_ms.pop(name, None)

    def next_ms(self) -> int | None:
        """Returns when the next schedule is due; None: none is."""
        heap, names = self.heap, self.names
        while heap and names.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def ripe(self, wall_ms: int, limit: int) -> list[str]:
        """Returns the names of the first schedules that are due by this time, in order. Each is named once."""
        found: dict[str, None] = {}
        taken: list[tuple[int, str]] = []
        while len(found) < limit and (at := self.next_ms()) is not None and at <= wall_ms:
            entry = heapq.heappop(self.heap)
            if entry[1] not in found:
                found[entry[1]] = None
                taken.append(entry)
        for entry in taken:
            heapq.heappush(self.heap, entry)
        return list(found)

    def declare(self, instance: str, declared: Sequence[Declared]) -> None:
        """Notes which schedules a worker declares."""
        for each in declared:
            self.declared.setdefault(each.name, {})[instance] = each.declarer
            self.gone_ms.pop(each.name, None)

    def undeclare(self, instance: str, declared: Sequence[Declared], at_ms: int) -> None:
        """Takes back what `declare` noted."""
        for each in declared:
            declarers = self.declared.get(each.name, {})
            declarers.pop(instance, None)
            if not declarers:
                self.declared.pop(each.name, None)
                if each.name in self.names:
                    self.gone_ms[each.name] = at_ms

    def is_orphaned(self, name: str, schedule: Schedule, wall_ms: int) -> bool:
        """Whether a schedule was declared in code, and no worker has declared it for ORPHANED_MS."""
        if schedule.declarer is None or name in self.declared:
            return False
        return wall_ms >= self.gone_ms.get(name, self.since_ms) + ORPHANED_MS

    def finished(self, moved: Mapping[str, object]) -> None:
        """Has schedules looked at whose ticks wait for one of these tasks."""
        for name in [name for id, name in self.awaited.items() if id in moved]:
            self.set(name, 0)

    def _await_no_more(self, name: str) -> None:
        if self.awaited:
            for id in [id for id, waiting in self.awaited.items() if waiting == name]:
                del self.awaited[id]
