"""How many tasks wait for a slot, and how many slots there are: what decides how many workers there should be."""

from __future__ import annotations

from msgspec import Struct

from gowork.leader._core.explain import waiting_by_reason
from gowork.leader._core.model import HeartbeatStatus, Liveness, Now, WaitCode
from gowork.leader._core.state import State

#: The reasons to wait that another worker of the same kind would end. `next` is told of tasks that are just granted.
_ENDED_BY_SLOTS = frozenset({"next", WaitCode.NO_SLOT.name.lower(), WaitCode.DRAINING.name.lower()})
#: A reason that another worker ends only where there is none at all: one that has no such handler won't have it later.
_ENDED_BY_THE_FIRST = WaitCode.NO_HANDLER.name.lower()


class Backlog(Struct, frozen=True):
    """What waits for slots."""

    #: Pending tasks that could run now if there were slots: none that is delayed, that a queue's pause or limit holds
    #: back, or that no connected worker can run.
    runnable: int
    #: Slots of the members that are connected and take tasks.
    slots: int
    #: How many of these slots have a task.
    busy: int

    @property
    def per_slot(self) -> float:
        """Runnable tasks for each slot. Without slots it counts as if there were one, so that it is finite."""
        return self.runnable / max(1, self.slots)

    @property
    def has_no_slots(self) -> bool:
        """Whether tasks wait and there is no slot at all."""
        return bool(self.runnable) and not self.slots


def backlog(state: State, now: Now) -> Backlog:
    """Counts what waits for slots. It takes as long as a scrape of the metrics."""
    slots = busy = 0
    for worker in state.connections.values():
        if worker.liveness in (Liveness.LIVE, Liveness.BLOCKED):
            slots += worker.slots
            # Tasks that wait for others lend their slots, so a worker may hold more tasks than it has slots.
            busy += min(worker.slots, len(worker.held))
    for callback in state.callbacks.values():
        if not (callback.draining or callback.unreachable or callback.status is HeartbeatStatus.FAILED):
            slots += 1
            busy += int(callback.held is not None or callback.status is HeartbeatStatus.BUSY)
    counted = _ENDED_BY_SLOTS if slots else _ENDED_BY_SLOTS | {_ENDED_BY_THE_FIRST}
    runnable = sum(tasks for (_, reason), tasks in waiting_by_reason(state, now).items() if reason in counted)
    return Backlog(runnable, slots, busy)
