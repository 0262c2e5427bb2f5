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

from msgspec.structs import replace

from gowork.leader._core import changes as ch
from gowork.leader._core import effects as ef
from gowork.leader._core.decision import Decision
from gowork.leader._core.dialled import dialled
from gowork.leader._core.lanes import Group
from gowork.leader._core.model import RUNNING, HandlerPolicy, Now, OnLost, Plugin, Spec, Standing, Task
from gowork.leader._core.queues import Queue
from gowork.leader._core.restored import ended_by_restore, may_have_run
from gowork.leader._core.state import Callback, State, Worker
from gowork.leader._core.takers import Members, Takers
from gowork.leader._core.tasks import expired, has_expired
from gowork.leader._core.traces import previous_of

STARVING_MS = 60_000
STARVING_TURNS = 8
#: With more lanes than this it is asked first whether any worker has room. With fewer, the lanes tell that sooner.
FEW_LANES = 100

#: A group: (seq of its next task, order, its next task, the walk over the others, who can take them)
_Entry = tuple[int, int, Task, Iterator[Task], "Takers"]


def dispatch(state: State, now: Now) -> Decision:
    """Grants all tasks that can be granted now."""
    decision = Decision()
    if not state.queues.loaded:
        return decision
    callbacks = [callback for callback in state.callbacks.values() if callback.free]
    if state.queues.lanes > FEW_LANES and not callbacks and state.roster.ranking(None).best() is None:
        return decision
    grants: dict[Worker, list[ef.Grant]] = {}
    members = Members(state, callbacks)
    turns: list[tuple[float, int, _Turn]] = []
    for order, queue in enumerate(state.queues):
        if queue.loaded:
            turn = _Turn(state, queue, members.takers, now)
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
        tasks, takers = granted
        if isinstance(takers, Callback):
            _dial(tasks[0], takers, fence + 1, now, decision)
        else:
            _grant(members, tasks, takers, fence, now, decision, grants)
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
    members: Members,
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
    last, granted, policy, plugin, policy_fails = None, [], None, None, False
    for task, worker in zip(tasks, workers, strict=True):
        fence += 1
        if worker is not last:
            last, granted = worker, grants.setdefault(worker, [])
            # The hot path among many workers: this is `policy_for` without its call.
            policy = worker.policies.get(handler) if handler else worker.default_policy
            plugin = None if policy is None else policy.plugin
            policy_fails = policy is not None and policy.on_lost is OnLost.FAIL
        old, spec = task.standing, task.spec
        standing = _running(old, fence, worker.name, worker.instance, wall_ms, plugin)
        if policy_fails if spec.on_lost is None else spec.on_lost is OnLost.FAIL:
            standing = replace(standing, fails_if_lost=True)
        changes.append(ch.TaskMoved(spec.id, standing))
        others = is_mixed and policy is not None and _others_may_fit(members, spec, policy, old.unfit)
        previous = previous_of(old.attempts) if old.attempts else ""
        granted.append(
            ef.Grant(
                fence,
                old.grants + 1,
                old.suspect,
                spec,
                previous,
                old.attempts_used,
                others,
                old.checkpoint,
                old.continued,
            )
        )


def _dial(task: Task, callback: Callback, fence: int, now: Now, decision: Decision) -> None:
    """Grants a task to a callback worker."""
    old, spec = task.standing, task.spec
    standing = _running(old, fence, callback.id, "", now.wall_ms)
    if spec.on_lost is OnLost.FAIL:
        standing = replace(standing, fails_if_lost=True)
    decision.changes.append(ch.TaskMoved(spec.id, standing))
    decision.changes.append(dialled(callback.id, spec, now))
    decision.effects.append(ef.StartWork(callback.id, callback.address, fence, spec, old.grants + 1))


def _running(
    old: Standing, fence: int, name: str, instance: str, wall_ms: int, plugin: Plugin | None = None
) -> Standing:
    """Where a pending task stands when a member with this name and instance has been given it."""
    if not old.grants and old.edit is None:
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
        edit=old.edit,
        checkpoint=old.checkpoint,
        continued=old.continued,
    )


def _others_may_fit(members: Members, spec: Spec, policy: HandlerPolicy, unfit: tuple[str, ...]) -> bool:
    forms = members.forms(spec.lane)
    return not forms.issubset((*unfit, policy.form))


class _Turn:
    """The turn of one queue in this round of grants."""

    __slots__ = ("_given", "_levels", "_now", "_passed_over", "_queue", "_state", "_taken", "room", "share")

    def __init__(self, state: State, queue: Queue, takers_of: Callable[[Group, str], Takers], now: Now) -> None:
        self._state, self._queue, self._now = state, queue, now
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
            takers = takers_of(group, queue.name)
            if takers:
                walk = _walk(group, self._holds_back)
                task = next(walk, None)
                if task is not None:
                    by_priority.setdefault(group.priority, []).append((task.seq, order, task, walk, takers))
        for priority in sorted(by_priority, reverse=True):
            level = by_priority[priority]
            heapq.heapify(level)
            self._levels.append(level)

    def take(self, decision: Decision, *, in_runs: bool) -> tuple[list[Task], list[Worker] | Callback] | None:
        """Returns the queue's next task and who gets it; None when the queue gets nothing more in this round.

        Ends the expired tasks that it meets, and those that may have run before a restore. With `in_runs` it may return
        several tasks of one group, with the worker of each, if these would be next one after the other.
        """
        restored = self._state.restored
        while self.room:
            level = self._next_level()
            if level is None:
                return None
            _, _, task, _, takers = level[0]
            if task.spec.expires_at_ms and has_expired(task.spec, self._now):
                # A tick has not ended it yet: it was taken back in this batch, or more expire than one tick ends.
                decision.changes.append(ch.TaskMoved(task.spec.id, expired(task.standing, self._now)))
                _advance(level)
                continue
            if restored is not None and may_have_run(self._state, restored, task):
                decision.changes.append(ch.TaskMoved(task.spec.id, ended_by_restore(task.standing, self._now)))
                _advance(level)
                continue
            key = task.spec.lane.concurrency_key
            if key and self._holds_back(key):
                # Another priority has taken the last place of its key.
                _advance(level)
                continue
            taker = takers.take(task)
            if taker is None:
                if takers:
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
            if isinstance(taker, Callback):
                return [task], taker
            tasks, workers = [task], [taker]
            if in_runs and not key and len(self._levels) == len(level) == 1:
                self._take_more(level, tasks, workers)
            return tasks, workers
        return None

    def _take_more(self, level: list[_Entry], tasks: list[Task], workers: list[Worker]) -> None:
        """Takes the next tasks of the only group as well, as long as nothing is unusual about them."""
        _, order, task, walk, takers = level[0]
        following: Task | None = task
        if takers.has_callbacks:
            return
        restored = self._state.restored
        alone, left = takers.alone()
        most = self.room if alone is None else min(self.room, left)
        before = len(tasks)
        while most and following is not None and not following.standing.unfit:
            if restored is not None and may_have_run(self._state, restored, following):
                break
            spec = following.spec
            if spec.expires_at_ms or spec.lane.concurrency_key:
                break
            if alone is None:
                worker = takers.take_worker()
                if worker is None:
                    break
                workers.append(worker)
            tasks.append(following)
            most -= 1
            following = next(walk, None)
        taken = len(tasks) - before
        if alone is not None:
            takers.take_alone(taken)
            workers += [alone] * taken
        self._taken += taken
        self.room -= taken
        if following is None:
            level.clear()
        else:
            level[0] = (following.seq, order, following, walk, takers)

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
    _, order, _, walk, takers = level[0]
    task = next(walk, None)
    if task is None:
        heapq.heappop(level)
    elif len(level) == 1:
        level[0] = (task.seq, order, task, walk, takers)
    else:
        heapq.heapreplace(level, (task.seq, order, task, walk, takers))


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
