"""Makes changes true in memory.

Decides nothing: every value that it writes was decided, or follows from one by an index.

Invariants: HELD (a running task is held by exactly one worker or callback member, under its fence), LANE-ENTRY (see
lanes).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any

from gowork.leader.core import changes as ch
from gowork.leader.core.model import COMPLETED, PENDING, RUNNING, Liveness, Standing, Task
from gowork.leader.core.state import DEPARTED_MAX, Callback, Departed, State, Worker, start_ms


def apply(state: State, change: ch.Change) -> None:
    """Makes one change true."""
    _APPLIERS[type(change)](state, change)


def adopt(state: State, task: Task) -> None:
    """Puts a task that was submitted or loaded where its standing says.

    A holder that is not known is expected to come back.
    """
    state.tasks[task.spec.id] = task
    standing = task.standing
    if standing.status is PENDING:
        _enqueue(state, task)
    elif standing.status is RUNNING:
        _hold(state, task, standing)


def expect(state: State, lease_mono: float) -> None:
    """After a start: every worker that held tasks has until then to come back with them."""
    for instance in state.workers:
        _renew(state.leases, instance, lease_mono)


def forget(state: State, ids: Iterable[str]) -> None:
    """Drops finished tasks from memory; the store has them. Unfinished and unknown ones are left alone."""
    tasks = state.tasks
    for id in ids:
        task = tasks.get(id)
        if task is not None and task.standing.status >= COMPLETED:
            del tasks[id]


def _task_submitted(state: State, change: ch.TaskSubmitted) -> None:
    task = Task(change.seq, change.spec, change.standing)
    state.next_seq = change.seq + 1
    state.submitted[change.spec.id] = task
    adopt(state, task)


def _task_moved(state: State, change: ch.TaskMoved) -> None:
    id, new = change.id, change.standing
    task = state.tasks[id]
    old = task.standing
    task.standing = new
    if id not in state.submitted:
        state.moved[id] = task
    before, after = old.status, new.status
    if before is RUNNING:
        if after is RUNNING and old.fence == new.fence:
            return
        _let_go(state, old)
    elif before is PENDING:
        if task.delayed:
            task.delayed = False
        elif after is PENDING:
            return
        else:
            state.lanes.remove(task)
    if after is RUNNING:
        state.fence = new.fence
        worker = _hold(state, task, new)
        if worker is not None:
            worker.granted += 1
    elif after is PENDING:
        task.progress = None
        _enqueue(state, task)


def _let_go(state: State, standing: Standing) -> None:
    """Whoever held the task holds it no longer."""
    if standing.instance:
        worker = state.workers.get(standing.instance)
        if worker is not None:
            worker.held.pop(standing.fence, None)
    else:
        callback = state.callbacks.get(standing.worker)
        if callback is not None and callback.held is not None and callback.held[0] == standing.fence:
            callback.held = None


def _enqueue(state: State, task: Task) -> None:
    # Each time anew: its entry is gone when it ran at its expiry.
    if task.spec.expires_at_ms:
        heapq.heappush(state.expiring, (task.spec.expires_at_ms, task.seq, task.spec.id))
    at_ms = start_ms(task)
    if at_ms:
        task.delayed = True
        heapq.heappush(state.delayed, (at_ms, task.seq, task.spec.id))
    else:
        state.lanes.add(task)


def _task_due(state: State, change: ch.TaskDue) -> None:
    task = state.tasks[change.id]
    task.delayed = False
    state.lanes.add(task)


def _task_progressed(state: State, change: ch.TaskProgressed) -> None:
    task = state.progressed[change.id] = state.tasks[change.id]
    task.progress = change.progress


def _hold(state: State, task: Task, standing: Standing) -> Worker | None:
    """The task is held as its standing says; answers the worker, if it is one."""
    if standing.instance:
        worker = state.workers.get(standing.instance)
        if worker is None:
            worker = state.workers[standing.instance] = Worker(standing.instance, standing.worker)
            state.names.setdefault(worker.name, worker)
        worker.held[standing.fence] = task.spec.id
        return worker
    callback = state.callbacks.get(standing.worker)
    if callback is not None:
        callback.held = (standing.fence, task.spec.id)
    return None


def _worker_heard(state: State, change: ch.WorkerHeard) -> None:
    worker = state.workers[change.instance]
    worker.seen_ms = change.at_ms
    if change.credit is not None:
        worker.credit = max(worker.credit, change.credit)
    if change.blocked is not None:
        worker.blocked = change.blocked
    if change.draining is not None:
        worker.draining = change.draining
    _renew(state.leases, change.instance, change.lease_mono)


def _session_opened(state: State, change: ch.SessionOpened) -> None:
    hello = change.hello
    worker = state.workers.get(hello.instance)
    if worker is None:
        worker = state.workers[hello.instance] = Worker(hello.instance, hello.name)
    _disconnect(state, worker)
    if worker.joined_ms == 0:
        worker.joined_ms = change.at_ms
    worker.connection = hello.connection
    worker.name = hello.name
    worker.slots = hello.slots
    worker.policies = {policy.name: policy for policy in hello.handlers}
    worker.default_policy = next((policy for policy in hello.handlers if policy.is_default), None)
    worker.labels = hello.labels
    worker.version = hello.version
    worker.plugin_errors = hello.plugin_errors
    worker.peer = hello.peer
    worker.credit = worker.granted = 0
    worker.draining = worker.blocked = False
    worker.seen_ms = change.at_ms
    state.connections[hello.connection] = worker
    state.names[hello.name] = worker
    state.graces.pop(hello.instance, None)
    state.departed.pop(hello.name, None)
    _renew(state.leases, hello.instance, change.lease_mono)


def _session_closed(state: State, change: ch.SessionClosed) -> None:
    _disconnect(state, state.workers[change.instance])
    _renew(state.graces, change.instance, change.grace_mono)
    state.leases.pop(change.instance, None)


def _worker_gone(state: State, change: ch.WorkerGone) -> None:
    worker = state.workers.pop(change.instance)
    _disconnect(state, worker)
    state.leases.pop(change.instance, None)
    state.graces.pop(change.instance, None)
    if state.names.get(worker.name) is worker:
        del state.names[worker.name]
        _depart(state, worker, change.liveness, change.at_ms)


def _disconnect(state: State, worker: Worker) -> None:
    if worker.connection is not None:
        del state.connections[worker.connection]
        worker.connection = None


def _challenge_opened(state: State, change: ch.ChallengeOpened) -> None:
    state.challenges[change.hello.name] = (change.hello, change.until_mono)


def _challenge_ended(state: State, change: ch.ChallengeEnded) -> None:
    del state.challenges[change.name]


def _callback_joined(state: State, change: ch.CallbackJoined) -> None:
    callback = Callback(change.id, change.address, change.at_ms)
    state.callbacks[change.id] = state.joined[change.id] = callback
    state.gone.pop(change.id, None)
    state.departed.pop(change.id, None)
    _renew(state.callback_leases, change.id, change.lease_mono)


def _callback_heard(state: State, change: ch.CallbackHeard) -> None:
    callback = state.callbacks[change.id]
    callback.status, callback.seen_ms, callback.unreachable = change.status, change.at_ms, False
    _renew(state.callback_leases, change.id, change.lease_mono)


def _callback_unreachable(state: State, change: ch.CallbackUnreachable) -> None:
    state.callbacks[change.id].unreachable = True


def _callback_gone(state: State, change: ch.CallbackGone) -> None:
    _depart(state, state.callbacks.pop(change.id), change.liveness, change.at_ms)
    state.callback_leases.pop(change.id, None)
    state.joined.pop(change.id, None)
    state.gone[change.id] = None


def _leases_extended(state: State, change: ch.LeasesExtended) -> None:
    for deadlines in (state.leases, state.graces, state.callback_leases):
        for key in deadlines:
            deadlines[key] += change.seconds


def _depart(state: State, member: Worker | Callback, liveness: Liveness, at_ms: int) -> None:
    gone = Departed(member, liveness, at_ms)
    state.departed.pop(gone.id, None)
    state.departed[gone.id] = gone
    if len(state.departed) > DEPARTED_MAX:
        del state.departed[next(iter(state.departed))]


def _renew(deadlines: dict[str, float], key: str, deadline: float) -> None:
    # Taken out and put back, so that the first key is always the first to run out: all in one dict have the same span.
    deadlines.pop(key, None)
    deadlines[key] = deadline


#: A table, since tasks move by the ten thousand a second; a test checks that it has every change.
_APPLIERS: dict[type, Callable[[State, Any], None]] = {
    ch.TaskSubmitted: _task_submitted,
    ch.TaskMoved: _task_moved,
    ch.TaskDue: _task_due,
    ch.TaskProgressed: _task_progressed,
    ch.SessionOpened: _session_opened,
    ch.SessionClosed: _session_closed,
    ch.WorkerHeard: _worker_heard,
    ch.WorkerGone: _worker_gone,
    ch.ChallengeOpened: _challenge_opened,
    ch.ChallengeEnded: _challenge_ended,
    ch.CallbackJoined: _callback_joined,
    ch.CallbackHeard: _callback_heard,
    ch.CallbackUnreachable: _callback_unreachable,
    ch.CallbackGone: _callback_gone,
    ch.LeasesExtended: _leases_extended,
}
