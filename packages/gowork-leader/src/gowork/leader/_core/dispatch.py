"""Decides which pending task goes to which member. The roster (see `roster`) has the workers in their order.

Queues take turns by their weights. Within a queue HIGH goes before MEDIUM and MEDIUM before LOW. Within a priority
tasks go in the order of their submission, over all lanes that some member with room can run. A task that nobody can
run, or that a limit keeps back, holds up no other task. A task goes to the member with the most free slots. Workers get
tasks beyond their slots only when no slot is free.

No priority starves: when tasks of a lower one have waited for STARVING_MS, every STARVING_TURNS-th grant of the queue
goes to the one that was submitted first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence

from gowork.leader._core import changes as ch
from gowork.leader._core import effects as ef
from gowork.leader._core.decision import Decision
from gowork.leader._core.dialled import dialled
from gowork.leader._core.forms import fits, open_forms
from gowork.leader._core.lanes import Group
from gowork.leader._core.model import RUNNING, HandlerPolicy, Now, Plugin, Spec, Standing, Task
from gowork.leader._core.queues import Queue
from gowork.leader._core.roster import Entry, Need, Ranking
from gowork.leader._core.state import Callback, State, Worker
from gowork.leader._core.tasks import expired, has_expired
from gowork.leader._core.traces import previous_of

STARVING_MS = 60_000
STARVING_TURNS = 8
#: With more lanes than this it is asked first whether any worker has room. With fewer, the lanes tell that sooner.
FEW_LANES = 100

_Holder = Worker | Callback
#: A group: (seq of its next task, order, its next task, the walk over the others, who can take them)
_Entry = tuple[int, int, Task, Iterator[Task], "_Holders"]


def dispatch(state: State, now: Now) -> Decision:
    """Grants all tasks that can be granted now."""
    decision = Decision()
    if not state.queues.loaded:
        return decision
    callbacks = [callback for callback in state.callbacks.values() if callback.free]
    if state.queues.lanes > FEW_LANES and not callbacks and state.roster.ranking(None).best() is None:
        return decision
    grants: dict[Worker, list[ef.Grant]] = {}
    members = _Members(state, callbacks)
    turns: list[tuple[float, int, _Turn]] = []
    for order, queue in enumerate(state.queues):
        if queue.loaded:
            turn = _Turn(queue, members.holders, now)
            if turn.room:
                # A queue that had nothing to do has no claim to turns that it missed.
                turns.append((max(queue.virtual, state.queues.virtual), order, turn))
    heapq.heapify(turns)
    fence = state.fence
    reached = state.queues.virtual
    while turns:
        virtual, order, turn = turns[0]
        granted = turn.take(decision, in_runs=len(turns) == 1)
        if granted is None:
            heapq.heappop(turns)
            turn.served(virtual, reached, now, decision)
            continue
        tasks, holders = granted
        if isinstance(holders, Callback):
            _dial(tasks[0], holders, fence + 1, now, decision)
        else:
            _grant(members, tasks, holders, fence, now, decision, grants)
        fence += len(tasks)
        for _ in tasks:
            # One by one, because a product is not to the last digit what this sum is.
            reached = virtual
            virtual += turn.share
        if len(turns) == 1:
            turns[0] = (virtual, order, turn)
        else:
            heapq.heapreplace(turns, (virtual, order, turn))
    members.put_back()
    for worker, granted_tasks in grants.items():
        assert worker.connection is not None
        decision.effects.append(ef.GrantTasks(worker.connection, granted_tasks))
    return decision


def _grant(
    members: _Members,
    tasks: Sequence[Task],
    workers: Sequence[Worker],
    fence: int,
    now: Now,
    decision: Decision,
    grants: dict[Worker, list[ef.Grant]],
) -> None:
    """Grants tasks of one group, each to its worker; `fence` is the last one that was given."""
    wall_ms, changes, handler = now.wall_ms, decision.changes, tasks[0].spec.lane.handler
    is_mixed = members.are_mixed(handler)
    last, granted, policy, plugin = None, [], None, None
    for task, worker in zip(tasks, workers, strict=True):
        fence += 1
        if worker is not last:
            last, granted = worker, grants.setdefault(worker, [])
            # The hot path among many workers: this is `policy_for` without its call.
            policy = worker.policies.get(handler) if handler else worker.default_policy
            plugin = None if policy is None else policy.plugin
        old, spec = task.standing, task.spec
        changes.append(ch.TaskMoved(spec.id, _running(old, fence, worker.name, worker.instance, wall_ms, plugin)))
        others = is_mixed and policy is not None and _others_may_fit(members, spec, policy, old.unfit)
        previous = previous_of(old.attempts) if old.attempts else ""
        granted.append(ef.Grant(fence, old.grants + 1, old.suspect, spec, previous, old.attempts_used, others))


def _dial(task: Task, callback: Callback, fence: int, now: Now, decision: Decision) -> None:
    """Grants a task to a callback worker."""
    old, spec = task.standing, task.spec
    decision.changes.append(ch.TaskMoved(spec.id, _running(old, fence, callback.id, "", now.wall_ms)))
    decision.changes.append(dialled(callback.id, spec, now))
    decision.effects.append(ef.StartWork(callback.id, callback.address, fence, spec, old.grants + 1))


def _running(
    old: Standing, fence: int, name: str, instance: str, wall_ms: int, plugin: Plugin | None = None
) -> Standing:
    """Where a pending task stands when a member with this name and instance has been given it."""
    if not old.grants:
        # It has no past, nor had it one that a retry left. Each field that is not given is time saved for each task.
        return Standing(RUNNING, old.created_ms, fence, 1, 0, name, instance, wall_ms, plugin=plugin)
    return Standing(
        RUNNING,
        old.created_ms,
        fence,
        old.grants + 1,
        old.attempts_used,
        name,
        instance,
        wall_ms,
        failure=old.failure,
        attempts=old.attempts,
        lost_alone=old.lost_alone,
        suspect=old.suspect,
        uncounted=old.uncounted,
        unfit=old.unfit,
        plugin=plugin,
    )


def _others_may_fit(members: _Members, spec: Spec, policy: HandlerPolicy, unfit: tuple[str, ...]) -> bool:
    forms = members.forms(spec.lane.handler, spec.lane.selector)
    return not forms.issubset((*unfit, policy.form))


class _Turn:
    """The turn of one queue in this round of grants."""

    __slots__ = ("_given", "_levels", "_now", "_passed_over", "_queue", "_taken", "room", "share")

    def __init__(self, queue: Queue, holders_of: Callable[[Group], _Holders], now: Now) -> None:
        self._queue, self._now = queue, now
        #: How many more grants its limits allow.
        self.room = queue.room_at(now.mono)
        #: By how much a grant moves the queue back in the order of queues.
        self.share = 1 / queue.settings.weight
        #: Grants of this round.
        self._taken = 0
        self._passed_over = queue.passed_over
        #: {concurrency key: grants of this round}
        self._given: dict[str, int] = {}
        #: For each priority, highest first: a heap with an entry for each group.
        self._levels: list[list[_Entry]] = []
        if not self.room:
            return
        by_priority: dict[int, list[_Entry]] = {}
        for order, group in enumerate(queue.groups.values()):
            holders = holders_of(group)
            if holders:
                walk = _walk(group, self._holds_back)
                task = next(walk, None)
                if task is not None:
                    by_priority.setdefault(group.priority, []).append((task.seq, order, task, walk, holders))
        for priority in sorted(by_priority, reverse=True):
            level = by_priority[priority]
            heapq.heapify(level)
            self._levels.append(level)

    def take(self, decision: Decision, *, in_runs: bool) -> tuple[list[Task], list[Worker] | Callback] | None:
        """Returns the queue's next task and who gets it; None when the queue gets nothing more in this round.

        Ends the expired tasks that it meets. With `in_runs` it may return several tasks of one group, with the worker
        of each, if these would be next one after the other.
        """
        while self.room:
            level = self._next_level()
            if level is None:
                return None
            _, _, task, _, holders = level[0]
            if task.spec.expires_at_ms and has_expired(task.spec, self._now):
                # A tick has not ended it yet: it was taken back in this batch, or more expire than one tick ends.
                decision.changes.append(ch.TaskMoved(task.spec.id, expired(task.standing, self._now)))
                _advance(level)
                continue
            key = task.spec.lane.concurrency_key
            if key and self._holds_back(key):
                # Another priority has taken the last place of its key.
                _advance(level)
                continue
            holder = holders.take(task)
            if holder is None:
                if holders:
                    # Only this task could not go. Its payload is binary and only callback workers are left, or it
                    # waits for a worker with another form of its handler.
                    _advance(level)
                else:
                    heapq.heappop(level)
                continue
            if key:
                self._given[key] = self._given.get(key, 0) + 1
            if level is not self._levels[0]:
                self._passed_over = 0
            elif len(self._levels) > 1:
                self._passed_over = min(self._passed_over + 1, STARVING_TURNS)
            _advance(level)
            self._taken += 1
            self.room -= 1
            if isinstance(holder, Callback):
                return [task], holder
            tasks, workers = [task], [holder]
            if in_runs and not key and len(self._levels) == len(level) == 1:
                self._take_more(level, tasks, workers)
            return tasks, workers
        return None

    def _take_more(self, level: list[_Entry], tasks: list[Task], workers: list[Worker]) -> None:
        """Takes the next tasks of the only group as well, as long as nothing is unusual about them."""
        _, order, task, walk, holders = level[0]
        following: Task | None = task
        if holders.has_callbacks:
            return
        alone, left = holders.alone()
        most = self.room if alone is None else min(self.room, left)
        before = len(tasks)
        while most and following is not None and not following.standing.unfit:
            spec = following.spec
            if spec.expires_at_ms or spec.lane.concurrency_key:
                break
            if alone is None:
                worker = holders.take_worker()
                if worker is None:
                    break
                workers.append(worker)
            tasks.append(following)
            most -= 1
            following = next(walk, None)
        taken = len(tasks) - before
        if alone is not None:
            holders.take_alone(taken)
            workers += [alone] * taken
        self._taken += taken
        self.room -= taken
        if following is None:
            level.clear()
        else:
            level[0] = (following.seq, order, following, walk, holders)

    def served(self, virtual: float, reached: float, now: Now, decision: Decision) -> None:
        """Notes what the queue got, if it got anything."""
        if self._taken:
            queue = self._queue
            tokens = queue.tokens_at(now.mono) - self._taken if queue.settings.rate_limit else 0.0
            decision.changes.append(ch.QueueServed(queue.name, virtual, reached, tokens, now.mono, self._passed_over))

    def _next_level(self) -> list[_Entry] | None:
        levels = self._levels
        while levels and not levels[0]:
            del levels[0]
        if not levels:
            return None
        if self._passed_over >= STARVING_TURNS - 1 and len(levels) > 1:
            long_ago = self._now.wall_ms - STARVING_MS
            starving = [level for level in levels[1:] if level and level[0][2].standing.created_ms <= long_ago]
            if starving:
                return min(starving, key=lambda level: level[0][0])
        return levels[0]

    def _holds_back(self, key: str) -> bool:
        return self._queue.holds_back(key, self._given.get(key, 0))


def _advance(level: list[_Entry]) -> None:
    """Replaces the first entry of the level by the next task of the same group."""
    _, order, _, walk, holders = level[0]
    task = next(walk, None)
    if task is None:
        heapq.heappop(level)
    elif len(level) == 1:
        level[0] = (task.seq, order, task, walk, holders)
    else:
        heapq.heapreplace(level, (task.seq, order, task, walk, holders))


def _walk(group: Group, holds_back: Callable[[str], bool]) -> Iterator[Task]:
    """Yields the tasks of a group in order, without those whose keys are held back."""
    if not group.keyed:
        if group.plain is not None:
            yield from group.plain
        return
    #: A heap of the lanes that the walk has reached: (seq, order, task, rest of its lane, key).
    opened: list[tuple[int, int, Task, Iterator[Task], str]] = []
    seen: set[str] = set()
    ready = group.ready()
    order = 0
    if group.plain is not None:
        rest = iter(group.plain)
        first = next(rest, None)
        if first is not None:
            opened.append((first.seq, order, first, rest, ""))
    coming = next(ready, None)
    while True:
        while coming is not None and (not opened or coming[0] <= opened[0][0]):
            lane = coming[1]
            key = lane.key.concurrency_key
            if key not in seen and not holds_back(key):
                seen.add(key)
                rest = iter(lane)
                first = next(rest, None)
                if first is not None:
                    order += 1
                    heapq.heappush(opened, (first.seq, order, first, rest, key))
            coming = next(ready, None)
        if not opened:
            return
        _, place, task, rest, key = opened[0]
        if key and holds_back(key):
            heapq.heappop(opened)
            continue
        yield task
        following = next(rest, None)
        if following is None:
            heapq.heappop(opened)
        else:
            heapq.heapreplace(opened, (following.seq, place, following, rest, key))


class _Members:
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
        self._by_need: dict[Need, _Holders] = {}
        #: {need: what `forms` found}; filled only for handlers whose forms are mixed.
        self._forms: dict[Need, frozenset[str]] = {}

    def holders(self, group: Group) -> _Holders:
        """Returns who can take the tasks of a group."""
        need = (group.handler, group.selector)
        holders = self._by_need.get(need)
        if holders is None:
            ranking = self._state.roster.ranking(need)
            callbacks = [] if group.handler or group.selector else list(self._callbacks)
            holders = self._by_need[need] = _Holders(need, self, ranking, self._left, callbacks, self._given)
        return holders

    def put_back(self) -> None:
        """Leaves the rankings as they were before this round."""
        for holders in self._by_need.values():
            holders.put_back()

    def forms(self, handler: str, selector: tuple[tuple[str, str], ...]) -> frozenset[str]:
        """Returns the forms of the handler on all workers that may be given its tasks, with room or without."""
        forms = self._forms.get((handler, selector))
        if forms is None:
            forms = open_forms(self._state.workers.values(), handler, selector)
            self._forms[handler, selector] = forms
        return forms


class _Holders:
    """The members that can take the tasks of one handler and selector; the one with the most free slots comes first."""

    __slots__ = ("_callbacks", "_given", "_left", "_lowered", "_members", "_need", "_ranking", "_taken_out")

    def __init__(
        self,
        need: Need,
        members: _Members,
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

    def take(self, task: Task) -> _Holder | None:
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
        if self._members.forms(*self._need).issubset(unfit):
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
