"""Decides which pending task goes to which member.

Order: HIGH before MEDIUM before LOW, first come first served within one, over all lanes that some member with room
can run; a lane that nobody
can run holds up no other. A task goes to the member with the most free slots; buffers are filled only when no slot
is free.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from gowork.leader.core import changes as ch
from gowork.leader.core import effects as ef
from gowork.leader.core.decision import Decision
from gowork.leader.core.model import RUNNING, LaneKey, Now, Spec, Standing, Task
from gowork.leader.core.state import Callback, State, Worker

_Holder = Worker | Callback
#: (fence, attempt number, alone, spec)
_Grant = tuple[int, int, bool, Spec]


def dispatch(state: State, now: Now) -> Decision:
    """Grants all that can be granted now."""
    decision = Decision()
    if not state.lanes:
        return decision
    room = {worker: worker.room for worker in state.connections.values() if worker.room > 0}
    callbacks = [callback for callback in state.callbacks.values() if callback.free]
    if not room and not callbacks:
        return decision
    grants: dict[Worker, list[_Grant]] = {}
    #: Callback members that were given a task in this round.
    given: set[str] = set()
    free = {worker: worker.slots - len(worker.held) for worker in room}
    # One entry for each lane that can go on: (−priority, seq of its head) puts the next task of all lanes first.
    heads: list[tuple[int, int, Task, Iterator[Task], _Holders]] = []
    for key, lane in state.lanes.items():
        holders = _Holders(key, room, free, callbacks, given)
        if holders:
            _push(heads, iter(lane), holders)
    fence = state.fence
    while heads:
        _, _, task, rest, holders = heapq.heappop(heads)
        holder = holders.take(task)
        if holder is None:
            if holders:
                # Only this task could not go (a binary payload, and only callback members are left).
                _push(heads, rest, holders)
            continue
        fence += 1
        _grant(task, holder, fence, now, decision, grants)
        _push(heads, rest, holders)
    for worker, granted in grants.items():
        assert worker.connection is not None
        decision.effects.append(ef.GrantTasks(worker.connection, granted))
    return decision


def _push(
    heads: list[tuple[int, int, Task, Iterator[Task], _Holders]], rest: Iterator[Task], holders: _Holders
) -> None:
    task = next(rest, None)
    if task is not None:
        heapq.heappush(heads, (-task.spec.lane.priority, task.seq, task, rest, holders))


def _grant(
    task: Task, holder: _Holder, fence: int, now: Now, decision: Decision, grants: dict[Worker, list[_Grant]]
) -> None:
    old, spec = task.standing, task.spec
    number = old.grants + 1
    standing = Standing(
        RUNNING,
        old.created_ms,
        fence,
        number,
        old.attempts_used,
        holder.name if isinstance(holder, Worker) else holder.id,
        holder.instance if isinstance(holder, Worker) else "",
        now.wall_ms,
        failure=old.failure,
        attempts=old.attempts,
        lost_alone=old.lost_alone,
        suspect=old.suspect,
    )
    decision.changes.append(ch.TaskMoved(spec.id, standing))
    if isinstance(holder, Worker):
        entry = (fence, number, old.suspect, spec)
        granted = grants.get(holder)
        if granted is None:
            grants[holder] = [entry]
        else:
            granted.append(entry)
    else:
        decision.effects.append(ef.StartWork(holder.id, holder.address, fence, spec))


class _Holders:
    """Who can take the tasks of one lane, the one with the most free slots first.

    Lanes share members, so that an entry may claim more free slots than are left: it is corrected when it comes up.
    """

    __slots__ = ("_callbacks", "_free", "_given", "_heap", "_room")

    def __init__(
        self,
        key: LaneKey,
        room: dict[Worker, int],
        free: dict[Worker, int],
        callbacks: list[Callback],
        given: set[str],
    ) -> None:
        self._room, self._free, self._given = room, free, given
        #: (−free slots, order, worker)
        self._heap = [(-free[worker], order, worker) for order, worker in enumerate(room) if worker.can_run(key)]
        heapq.heapify(self._heap)
        takes_callbacks = not key.handler and not key.selector
        self._callbacks = [callback for callback in callbacks if callback.id not in given] if takes_callbacks else []

    def __bool__(self) -> bool:
        return bool(self._heap) or bool(self._callbacks)

    def take(self, task: Task) -> _Holder | None:
        """Who gets this task; None when nobody can any more."""
        worker = self._best()
        if worker is not None and (self._free[worker] > 0 or not self._callbacks or task.spec.binary):
            self._take_worker(worker)
            return worker
        if not task.spec.binary:
            while self._callbacks:
                callback = self._callbacks.pop()
                if callback.id not in self._given:
                    self._given.add(callback.id)
                    return callback
        if worker is not None:
            self._take_worker(worker)
        return worker

    def _best(self) -> Worker | None:
        heap, room, free = self._heap, self._room, self._free
        while heap:
            claimed, order, worker = heap[0]
            if room[worker] <= 0:
                heapq.heappop(heap)
            elif -claimed != free[worker]:
                heapq.heapreplace(heap, (-free[worker], order, worker))
            else:
                return worker
        return None

    def _take_worker(self, worker: Worker) -> None:
        self._room[worker] -= 1
        self._free[worker] -= 1
