"""Finds who can take a task in one round of grants: workers in the order of the roster, then callback workers.

What a round gives away is noted here, so that rankings and state stay as they are until the round is applied.
"""

from __future__ import annotations

import heapq

from gowork.leader._core.forms import fits, open_forms
from gowork.leader._core.lanes import Group
from gowork.leader._core.model import LaneKey, Task
from gowork.leader._core.roster import Entry, Need, Ranking
from gowork.leader._core.state import Callback, State, Worker

Taker = Worker | Callback


class Members:
    """The members that have room in this round."""

    __slots__ = ("_by_need", "_callbacks", "_forms", "_given", "_left", "_state", "are_mixed")

    def __init__(self, state: State, callbacks: list[Callback]) -> None:
        self._state = state
        #: Whether workers have a handler in more than one form. Workers that may not be given the task count too.
        self.are_mixed = state.forms.are_mixed
        #: {worker that was given tasks in this round: [its room, its free slots]}
        self._left: dict[Worker, list[int]] = {}
        self._callbacks = callbacks
        #: Ids of callback workers that were given a task in this round.
        self._given: set[str] = set()
        self._by_need: dict[Need, Takers] = {}
        #: {need: what `forms` found}; filled only for handlers whose forms are mixed.
        self._forms: dict[Need, frozenset[str]] = {}

    def takers(self, group: Group, queue: str) -> Takers:
        """Returns who can take the tasks of a group of a queue."""
        need = (group.handler, group.selector, self._state.reserved.need_of(queue))
        takers = self._by_need.get(need)
        if takers is None:
            ranking = self._state.roster.ranking(need)
            callbacks = [] if group.handler or group.selector else list(self._callbacks)
            takers = self._by_need[need] = Takers(need, self, ranking, self._left, callbacks, self._given)
        return takers

    def put_back(self) -> None:
        """Leaves the rankings as they were before this round."""
        for takers in self._by_need.values():
            takers.put_back()

    def forms(self, lane: LaneKey) -> frozenset[str]:
        """Returns the forms of a lane's handler on all workers that may be given its tasks, with room or without."""
        return self.forms_for((lane.handler, lane.selector, self._state.reserved.need_of(lane.queue)))

    def forms_for(self, need: Need) -> frozenset[str]:
        """Does as `forms` for the tasks of a need."""
        forms = self._forms.get(need)
        if forms is None:
            forms = self._forms[need] = open_forms(self._state.workers.values(), *need)
        return forms


class Takers:
    """The members that can take the tasks of one need; the one with the most free slots comes first."""

    __slots__ = ("_callbacks", "_given", "_left", "_lowered", "_members", "_need", "_ranking", "_taken_out")

    def __init__(
        self,
        need: Need,
        members: Members,
        ranking: Ranking,
        left: dict[Worker, list[int]],
        callbacks: list[Callback],
        given: set[str],
    ) -> None:
        self._need, self._members, self._ranking = need, members, ranking
        self._left, self._callbacks, self._given = left, callbacks, given
        #: Workers of the ranking that were given tasks in this round, by whichever need. Until its end they are not in
        #: the ranking but here, in a heap, by what is left of them.
        self._lowered: list[Entry] = []
        self._taken_out: dict[Worker, None] = {}

    def __bool__(self) -> bool:
        return bool(self._callbacks) or self._best() is not None

    def take(self, task: Task) -> Taker | None:
        """Returns who gets this task; None when nobody can take it any more."""
        unfit = task.standing.unfit
        worker = self._best_for(unfit) if unfit else self._best()
        if worker is not None and (not self._callbacks or task.spec.binary or self._free(worker) > 0):
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

    @property
    def has_callbacks(self) -> bool:
        """Whether callback workers are left."""
        return bool(self._callbacks)

    def take_worker(self) -> Worker | None:
        """Returns the worker that gets the next task, as if there were no callback workers; None: there is none."""
        worker = self._best()
        if worker is not None:
            self._take_worker(worker)
        return worker

    def alone(self) -> tuple[Worker | None, int]:
        """Returns (the only worker that is left, its room); None when there may be others, or none."""
        worker = self._best()
        if worker is None or self._ranking.entries or len(self._lowered) != 1:
            return None, 0
        return worker, self._left[worker][0]

    def take_alone(self, number: int) -> None:
        """Notes that the only worker gets as many tasks."""
        left = self._left[self._lowered[0][2]]
        left[0] -= number
        left[1] -= number

    def put_back(self) -> None:
        """Puts what was taken out of the ranking back into it."""
        if self._taken_out:
            self._ranking.put_back(self._taken_out)

    def _best(self) -> Worker | None:
        left, lowered, ranking = self._left, self._lowered, self._ranking
        if len(lowered) == 1 and not ranking.entries:
            # The only worker: nobody has to be compared.
            alone = lowered[0][2]
            return alone if left[alone][0] > 0 else None
        worker = ranking.best() if ranking.entries else None
        while worker is not None and worker in left:
            _, connection, _ = heapq.heappop(ranking.entries)
            if worker not in self._taken_out:
                self._taken_out[worker] = None
                heapq.heappush(lowered, (-left[worker][1], connection, worker))
            worker = ranking.best() if ranking.entries else None
        while lowered:
            claimed, connection, given = lowered[0]
            room, free = left[given]
            if room <= 0:
                heapq.heappop(lowered)
            elif free != -claimed:
                heapq.heapreplace(lowered, (-free, connection, given))
            else:
                return given if worker is None or lowered[0] < ranking.entries[0] else worker
        return worker

    def _best_for(self, unfit: tuple[str, ...]) -> Worker | None:
        """Returns the best worker with another form of the handler than these, or of all if nobody has another form."""
        if self._members.forms_for(self._need).issubset(unfit):
            return self._best()
        fitting = [
            (-self._free(worker), connection, worker)
            for _, connection, worker in (*self._ranking.entries, *self._lowered)
            if worker.connection == connection
            and self._room(worker) > 0
            and fits(worker.policy_for(self._need[0]), unfit)
        ]
        return min(fitting)[2] if fitting else None

    def _room(self, worker: Worker) -> int:
        left = self._left.get(worker)
        return worker.room if left is None else left[0]

    def _free(self, worker: Worker) -> int:
        left = self._left.get(worker)
        return worker.free if left is None else left[1]

    def _take_worker(self, worker: Worker) -> None:
        try:
            left = self._left[worker]
        except KeyError:
            left = self._left[worker] = [worker.room, worker.slots - len(worker.held)]
        left[0] -= 1
        left[1] -= 1
