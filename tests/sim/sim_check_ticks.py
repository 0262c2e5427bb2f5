"""Checks what schedules make: each tick has one task, or is counted as skipped, whatever fails."""

from __future__ import annotations

from sim_tasks import SCHEDULES
from sim_trace import Trace
from sim_violation import Violation

from gowork.leader._core.kinds import TICKS
from gowork.leader._core.schedules import Ticks, count_of
from gowork.leader.store.protocol import Batch


class TickChecks:
    """Goes by the facts that say how far each schedule has come, and by the tasks that come with them."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        #: {schedule: how far it had come when it was added}, and how far it has come.
        self._added: dict[str, Ticks] = {}
        self._now: dict[str, Ticks] = {}
        #: {schedule: the ids of the tasks that its ticks have ever had}
        self._made: dict[str, set[str]] = {name: set() for name in SCHEDULES}

    def committed(self, batch: Batch, due_ms: int) -> None:
        """Checks a batch after what it inserts was noted. `due_ms` is the latest time that the leader read for it."""
        for fact in batch.facts:
            if fact.kind == TICKS.name:
                self._come_to(fact.key, TICKS.decode(fact.value), due_ms)

    def inserted(self, id: str) -> None:
        """Notes a new task."""
        name = id.rpartition("/")[0]
        if name in self._made and "+" not in id:
            if id in self._made[name]:
                raise Violation("a tick has one task", id, "was made again")
            self._made[name].add(id)
            self._trace.seen["schedule: a tick has its task"] += 1

    def _come_to(self, name: str, ticks: Ticks, due_ms: int) -> None:
        first, before = self._added.setdefault(name, ticks), self._now.get(name, ticks)
        self._now[name] = ticks
        if ticks.last_ms < before.last_ms:
            raise Violation("a schedule does not go back", name, ticks.last_ms - before.last_ms, "ms")
        # The clock may have been set back since the last tick.
        if before.last_ms < ticks.last_ms > due_ms:
            raise Violation("no tick comes before its time", name, ticks.last_ms - due_ms, "ms too early")
        came, _ = count_of(SCHEDULES[name], first.last_ms, ticks.last_ms, 1_000_000)
        told = ticks.made + sum(ticks.skipped) + bool(ticks.waiting_ms)
        if came != told:
            raise Violation("each tick has its task or was skipped", name, came, "came, and told of are", told)
        if ticks.made != len(self._made[name]):
            raise Violation("each tick has its task or was skipped", name, len(self._made[name]), "are there of", ticks)
        self._trace.seen["schedule: ticks are skipped"] += sum(ticks.skipped) > sum(before.skipped)
        self._trace.seen["schedule: a tick waits for the run before"] += bool(ticks.waiting_ms)
