"""Makes many changes true at once where they are alike: a run is looked up, counted and tidied once.

A run is a row of changes that submit, grant or complete tasks of one lane, and completions of a run are those of one
worker. What comes of a run is what `apply` makes of each change by itself; a property test compares the two. Whatever
is unusual about a task ends the run before it: a time, an expiry, a concurrency key, a unique key that ends, tasks
that come before or after it, a callback worker, a task outside the window.
"""

from __future__ import annotations

from collections.abc import Sequence

from gowork.leader._core import changes as ch
from gowork.leader._core.apply import apply, waited_ms
from gowork.leader._core.model import COMPLETED, PENDING, RUNNING, Task
from gowork.leader._core.state import State

#: The last grant of a queue that had one waiting task makes the queue anew, so a run of grants has two at least.
_GRANTS_MIN = 2


def apply_all(state: State, changes: Sequence[ch.Change]) -> None:
    """Makes changes true, in order."""
    at, end = 0, len(changes)
    while at < end:
        change = changes[at]
        kind = type(change)
        if kind is ch.TaskMoved:
            after = _moved(state, changes, at)
        elif kind is ch.TaskSubmitted:
            after = _submitted(state, changes, at)
        else:
            after = at
        if after == at:
            apply(state, change)
            after += 1
        at = after


def _moved(state: State, changes: Sequence[ch.Change], at: int) -> int:
    """Applies the run of grants or completions that begins at `at`, if one does. Returns where the rest begins."""
    change = changes[at]
    assert isinstance(change, ch.TaskMoved)
    task = state.tasks[change.id]
    if task.spec.lane.concurrency_key:
        return at
    status = change.standing.status
    if status is RUNNING:
        return _granted(state, changes, at, task)
    if status is COMPLETED:
        return _completed(state, changes, at, task)
    return at


def _submitted(state: State, changes: Sequence[ch.Change], at: int) -> int:
    first = changes[at]
    assert isinstance(first, ch.TaskSubmitted)
    key = first.spec.lane
    if key.concurrency_key:
        return at
    tasks, submitted, tally = state.tasks, state.pending.submitted, state.pending.tally.submitted
    run: list[Task] = []
    for index in range(at, len(changes)):
        change = changes[index]
        if type(change) is not ch.TaskSubmitted:
            break
        spec, standing = change.spec, change.standing
        if spec.lane != key or standing.not_before_ms or spec.expires_at_ms:
            break
        task = Task(change.seq, spec, standing)
        submitted[spec.id] = tasks[spec.id] = task
        tally.append(spec)
        run.append(task)
    if run:
        state.next_seq = run[-1].seq + 1
        state.queues.add_run(key, run)
        if state.dependents.groups:
            for task in run:
                state.dependents.child_moved(task.spec.id, task.seq, None, PENDING)
    return at + len(run)


def _granted(state: State, changes: Sequence[ch.Change], at: int, task: Task) -> int:
    change = changes[at]
    assert isinstance(change, ch.TaskMoved)
    key, workers, tasks = task.spec.lane, state.workers, state.tasks
    run: list[Task] = []
    moves: list[ch.TaskMoved] = []
    for index in range(at, len(changes)):
        change = changes[index]
        if type(change) is not ch.TaskMoved:
            break
        task, new = tasks[change.id], change.standing
        if (
            task.spec.lane != key
            or not task.in_window
            or new.status is not RUNNING
            or new.instance not in workers
            or task.standing.status is not PENDING
        ):
            break
        run.append(task)
        moves.append(change)
    if len(run) < _GRANTS_MIN:
        return at
    pending = state.pending
    submitted, moved, started = pending.submitted, pending.moved, pending.tally.started
    state.queues.start_run(key, run)
    worker = workers[moves[0].standing.instance]
    for task, change in zip(run, moves, strict=True):
        new = task.standing = change.standing
        if new.instance != worker.instance:
            worker = workers[new.instance]
        id = change.id
        if id not in submitted:
            moved[id] = task
        if new.grants == 1:
            started.append((task.spec, waited_ms(task.spec, new)))
        worker.held[new.fence] = id
        worker.granted += 1
    state.fence = moves[-1].standing.fence
    return at + len(run)


def _completed(state: State, changes: Sequence[ch.Change], at: int, task: Task) -> int:
    key, instance = task.spec.lane, task.standing.instance
    worker = state.workers.get(instance) if instance else None
    if worker is None:
        return at
    tasks, pending, held = state.tasks, state.pending, worker.held
    submitted, moved, ended = pending.submitted, pending.moved, pending.tally.ended
    dependents, awaited, groups = state.dependents.by_id, state.dependents.of, state.dependents.groups
    index = at
    for index in range(at, len(changes)):
        change = changes[index]
        if type(change) is not ch.TaskMoved:
            break
        id, new = change.id, change.standing
        task = tasks[id]
        old = task.standing
        if (
            task.spec.lane != key
            or new.status is not COMPLETED
            or task.spec.unique_key
            or (dependents and (id in awaited or id in dependents))
            or old.status is not RUNNING
            or old.instance != instance
        ):
            break
        task.standing = new
        if id not in submitted:
            moved[id] = task
        ended.append((key, new.attempts[-1].outcome, COMPLETED))
        held.pop(old.fence, None)
        if groups:
            state.dependents.child_moved(id, task.seq, RUNNING, COMPLETED)
    else:
        index += 1
    count = index - at
    if count:
        state.finished_tasks += count
        state.queues.ended(key, count)
        if worker.told < state.roster.read:
            state.roster.tell(worker)
    return index
