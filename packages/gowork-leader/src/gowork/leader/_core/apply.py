"""Makes changes true in memory.

It decides nothing: every value that it writes was decided, or is an index over values that were.

Invariants: HELD (exactly one worker holds a running task, under its fence), LANE-ENTRY (a pending task is in exactly
one Place).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, assert_never

from gowork.leader._core import changes as ch
from gowork.leader._core.dependents import Children, Dependent
from gowork.leader._core.facts import Kind, V
from gowork.leader._core.kinds import (
    ABANDONED,
    AFTER,
    DEPENDENTS_CANCELLED_MAX,
    UNIQUE_KEYS,
    Abandoned,
    After,
    GroupKept,
    UniqueKey,
)
from gowork.leader._core.model import (
    BLOCKED,
    CANCELLED,
    COMPLETED,
    ERROR,
    PENDING,
    REST,
    RUNNING,
    TIMER,
    WINDOW,
    FactKey,
    FailureKind,
    HeartbeatStatus,
    LaneKey,
    Liveness,
    Now,
    Place,
    Spec,
    Standing,
    Status,
    Task,
)
from gowork.leader._core.state import DEPARTED_MAX, Callback, Departed, Dialled, State, Worker

#: Places of tasks that are in the store alone.
_IN_STORE = frozenset({REST, TIMER, BLOCKED})


def apply(state: State, change: ch.Change) -> None:
    """Makes one change true."""
    _APPLIERS[type(change)](state, change)


def adopt(state: State, task: Task) -> None:
    """Gives a running task that was loaded from the store to the worker that its standing names.

    A worker that is not known yet is added, because it may reconnect.
    """
    state.tasks[task.spec.id] = task
    _hold(state, task, task.standing, adopted=True)
    if task.standing.checkpoint:
        state.checkpoints.note(task.spec.id, task.standing.fence, len(task.standing.checkpoint))


def take_in(state: State, key: LaneKey, tasks: Sequence[Task], *, complete: bool) -> None:
    """Takes in the next tasks of a lane, loaded in order. `complete`: the store has no more of them."""
    for task in tasks:
        state.tasks[task.spec.id] = task
    state.queues.take_in(key, tasks, complete=complete)


def recall(state: State, kind: Kind[V], key: str, value: V, now: Now) -> None:
    """Takes in a fact from the store after a start, and applies the changes that follow from it."""
    state.facts.put(kind, key, value)
    if kind.follows is not None:
        for change in kind.follows(state, key, value, now):
            apply(state, change)


def expect(state: State, lease_mono: float) -> None:
    """After a start, gives every worker that held tasks or was drained a lease until `lease_mono`, to reconnect."""
    for instance in state.workers:
        _renew(state.leases, instance, lease_mono)


def forget(state: State, ids: Iterable[str]) -> None:
    """Drops tasks from memory that only the store needs: finished ones, and pending ones that are not in a window.

    Other tasks and unknown ids are left alone.
    """
    tasks = state.tasks
    for id in ids:
        task = tasks.get(id)
        if task is None:
            continue
        status = task.standing.status
        # Most tasks here are running, so the status is asked before the place, which costs more.
        if status >= COMPLETED or (status is PENDING and task.place in _IN_STORE):
            del tasks[id]


def _task_submitted(state: State, change: ch.TaskSubmitted) -> None:
    task = Task(change.seq, change.spec, change.standing)
    state.next_seq = change.seq + 1
    pending = state.pending
    pending.submitted[change.spec.id] = state.tasks[change.spec.id] = task
    pending.tally.submitted.append(change.spec)
    if change.spec.waits_for_others:
        group = change.spec.group
        _link(state, change.spec, None if group is None else Children(change.seq, group.children, {}))
    if state.dependents.groups:
        state.dependents.child_moved(change.spec.id, change.seq, None, change.standing.status)
    _enter(state, task)
    _await_expiry(state, task)


def _task_moved(state: State, change: ch.TaskMoved) -> None:
    id, new = change.id, change.standing
    task = state.tasks[id]
    old = task.standing
    left = task.place if old.status is PENDING else None
    task.standing = new
    pending = state.pending
    if id not in pending.submitted:
        pending.moved[id] = task
    before, after = old.status, new.status
    if after >= COMPLETED:
        state.finished_tasks += 1
        if task.spec.unique_key:
            _end_of_key(state, task.spec, new)
        if after is ERROR:
            state.failed_tasks += 1
            if new.failure is not None and new.failure.kind is FailureKind.QUARANTINED:
                pending.tally.quarantined.append((id, new.grants))
    if before >= COMPLETED:
        _finished_no_more(state, before)
    if state.dependents:
        _relink(state, task, before, new)
    if before is RUNNING:
        if after is RUNNING and old.fence == new.fence:
            return
        pending.tally.ended.append((task.spec.lane, new.attempts[-1].ended_as, after))
        _let_go(state, task, old)
    elif left is not None:
        if after >= COMPLETED:
            pending.tally.ended.append((task.spec.lane, None, after))
        _leave(state, task, left)
    if after is RUNNING:
        state.fence = new.fence
        if new.grants == 1:
            pending.tally.started.append((task.spec, waited_ms(task.spec, new)))
        worker = _hold(state, task, new)
        if worker is not None:
            worker.granted += 1
    elif after is PENDING:
        task.progress = None
        _enter(state, task)
        if before is not PENDING:
            # Each time: if it was running at its expiry, its entry is gone.
            _await_expiry(state, task)


def _task_replaced(state: State, change: ch.TaskReplaced) -> None:
    id, pending, old = change.id, state.pending, state.tasks[change.id]
    if (place := old.place) is not None:
        _leave(state, old, place)
    else:
        _finished_no_more(state, old.standing.status)
    if state.dependents:
        _relink(state, old, old.standing.status, change.standing)
        if not state.dependents.group_of(id, old.seq):
            # Its new seq may make it a child.
            state.dependents.child_moved(id, change.seq, None, change.standing.status)
    task = state.tasks[id] = Task(change.seq, change.spec, change.standing)
    state.next_seq = change.seq + 1
    if id not in pending.submitted:
        pending.replaced[id] = old.seq
        pending.moved.pop(id, None)
    pending.progressed.pop(id, None)
    pending.submitted[id] = task
    _enter(state, task)
    _await_expiry(state, task)


def waited_ms(spec: Spec, granted: Standing) -> int:
    """Returns how long a task waited for its first grant while it could have run, in milliseconds."""
    # The wall clock may have been stepped back since, so the difference may be negative.
    return max(0, granted.started_ms - max(granted.created_ms, spec.run_at_ms))


def _task_purged(state: State, change: ch.TaskPurged) -> None:
    state.tasks.pop(change.id, None)
    state.briefs.pop(change.id, None)
    pending = state.pending
    pending.moved.pop(change.id, None)
    if pending.submitted.pop(change.id, None) is None:
        pending.removed[change.seq] = change.id
    elif (replaced := pending.replaced.pop(change.id, None)) is not None:
        # The store has the record before it was changed in this batch.
        pending.removed[replaced] = change.id
    _finished_no_more(state, change.status)
    if state.dependents:
        # Those after it have ended because of it, or they would keep it. Nothing can have them wait again now.
        group = state.dependents.group_of(change.id, change.seq)
        for id in (*state.dependents.of.get(change.id, ()), group, change.id):
            if id in state.dependents.by_id:
                _unlink(state, id)


def _removals_forgotten(state: State, change: ch.RemovalsForgotten) -> None:
    state.pending.forgotten_before = change.before


def _finished_no_more(state: State, status: Status) -> None:
    state.finished_tasks -= 1
    state.failed_tasks -= status is ERROR


def _let_go(state: State, task: Task, standing: Standing) -> None:
    """Takes the task from the member that held it."""
    state.queues.ended(task.spec.lane)
    if standing.instance:
        worker = state.workers.get(standing.instance)
        if worker is not None:
            worker.held.pop(standing.fence, None)
            if worker.told < state.roster.read:
                state.roster.tell(worker)
    else:
        callback = state.callbacks.get(standing.worker)
        if callback is not None and callback.held is not None and callback.held.fence == standing.fence:
            callback.held = None
            state.callback_deadlines.pop(callback.id, None)


def _enter(state: State, task: Task) -> None:
    """Puts a task that has become pending in its place."""
    place = task.place
    if place is TIMER:
        state.queues.delay(task.spec.lane.queue)
        state.delayed.add((task.standing.not_before_ms, task.seq, task.spec.id))
    elif place is BLOCKED:
        state.queues.delay(task.spec.lane.queue)
    elif place is REST:
        # The lane puts it in the window instead if there is room.
        state.queues.add(task)
    else:
        assert place is not WINDOW, "it is in the window already"
        assert place is not None, "it is not pending"
        assert_never(place)


def _leave(state: State, task: Task, place: Place) -> None:
    """Takes a task out of the place that it was in."""
    if place is TIMER or place is BLOCKED:
        # Its entry in the timers is stale from now on.
        state.queues.delay(task.spec.lane.queue, -1)
    elif place is WINDOW or place is REST:
        state.queues.remove(task)
    else:
        assert_never(place)


def _await_expiry(state: State, task: Task) -> None:
    if task.spec.expires_at_ms:
        state.expiring.add((task.spec.expires_at_ms, task.seq, task.spec.id))


def _task_progressed(state: State, change: ch.TaskProgressed) -> None:
    task = state.pending.progressed[change.id] = state.tasks[change.id]
    task.progress = change.progress


def _hold(state: State, task: Task, standing: Standing, *, adopted: bool = False) -> Worker | None:
    """Gives the task to the member that its standing names. Returns that member if it is a worker with a session."""
    state.queues.started(task.spec.lane)
    if standing.instance:
        worker = state.workers.get(standing.instance)
        if worker is None:
            worker = _expected(state, standing.instance, standing.worker)
        worker.held[standing.fence] = task.spec.id
        return worker
    callback = state.callbacks.get(standing.worker)
    if callback is not None:
        callback.held = Dialled(standing.fence, task.spec.id, adopted=adopted)
    return None


def _worker_heard(state: State, change: ch.WorkerHeard) -> None:
    worker = state.workers[change.instance]
    state.pending.tally.gaps_ms.append(max(0, change.at_ms - worker.seen_ms))
    worker.seen_ms = change.at_ms
    if change.credit is not None:
        worker.credit = max(worker.credit, change.credit)
    if change.blocked is not None:
        worker.blocked = change.blocked
    if change.draining is not None:
        worker.draining = change.draining
    if change.credit is not None or change.draining is not None:
        state.roster.tell(worker)
    _renew(state.leases, change.instance, change.lease_mono)


def _fact_put(state: State, change: ch.FactPut) -> None:
    kind = change.kind
    state.facts.put(kind, change.key, change.value)
    state.pending.facts[FactKey(kind.name, change.key)] = kind.encode(change.value)


def _fact_removed(state: State, change: ch.FactRemoved) -> None:
    state.facts.remove(change.kind, change.key)
    state.pending.facts[FactKey(change.kind.name, change.key)] = None


def _key_taken(state: State, change: ch.KeyTaken) -> None:
    before = state.facts.of(UNIQUE_KEYS).get(change.key)
    if before is not None:
        state.kept_keys.drop(change.key, before.id)
    _fact_put(state, ch.FactPut(UNIQUE_KEYS, change.key, UniqueKey(change.id)))


def _key_kept(state: State, change: ch.KeyKept) -> None:
    state.kept_keys.keep(change.key, change.id, change.until_ms)


def _key_freed(state: State, change: ch.KeyFreed) -> None:
    state.kept_keys.drop(change.key, change.id)
    _fact_removed(state, ch.FactRemoved(UNIQUE_KEYS, change.key))


def _end_of_key(state: State, spec: Spec, ended: Standing) -> None:
    """Frees the unique key of a task that has ended, or keeps it until the time that the task asked for.

    Every end of a task comes through here. A task may lack its key, which an older leader does not know.
    """
    key = spec.unique_key
    held = state.facts.of(UNIQUE_KEYS).get(key)
    if held is None or held.id != spec.id:
        return
    until_ms = spec.kept_until_ms(ended.created_ms, ended.finished_ms)
    if until_ms:
        _fact_put(state, ch.FactPut(UNIQUE_KEYS, key, UniqueKey(spec.id, until_ms)))
        state.kept_keys.keep(key, spec.id, until_ms)
    else:
        _key_freed(state, ch.KeyFreed(key, spec.id))


def _link(state: State, spec: Spec, children: Children | None) -> None:
    """Notes after which tasks one runs that waits from now on."""

    def status_of(id: str) -> Status:
        task = state.tasks.get(id)
        if task is not None:
            return task.standing.status
        brief = state.briefs.get(id)
        # A task of the same submit that comes behind this one is not there yet.
        return PENDING if brief is None else brief.status

    _keep(state, spec.id, state.dependents.add(spec.id, spec.after, spec.after_rule, status_of, children=children))


def _keep(state: State, id: str, dependent: Dependent, *, is_cancelled: bool = False) -> None:
    """Writes down what a task comes after."""
    children = dependent.children
    group = None if children is None else GroupKept(children.above, children.expected)
    _fact_put(state, ch.FactPut(AFTER, id, After(dependent.ids, dependent.rule, is_cancelled, group)))


def _relink(state: State, task: Task, before: Status, new: Standing) -> None:
    """Notes what a task's new standing means to those that run after it, and to itself if it runs after others."""
    dependents, after, id = state.dependents, new.status, task.spec.id
    dependents.moved(id, before, after)
    if dependents.groups:
        dependents.child_moved(id, task.seq, before, after)
    dependent = dependents.by_id.get(id)
    if dependent is None or (before >= COMPLETED) == (after >= COMPLETED):
        return
    if after < COMPLETED:
        is_cancelled = False
    elif (is_upstream := _has_failed_as(new, FailureKind.UPSTREAM)) and (
        len(dependents.by_id) - dependents.live < DEPENDENTS_CANCELLED_MAX
    ):
        is_cancelled = True
    else:
        was_cancelled = (after is CANCELLED and not is_upstream) or _has_failed_as(new, FailureKind.EXPIRED)
        if new.continued and before is PENDING and was_cancelled:
            _abandon(state, id, dependent.ids)
        _unlink(state, id)
        return
    dependents.revalue(id, is_live=not is_cancelled)
    _keep(state, id, dependent, is_cancelled=is_cancelled)


def _has_failed_as(ended: Standing, kind: FailureKind) -> bool:
    return ended.failure is not None and ended.failure.kind is kind


def _abandon(state: State, id: str, ids: Sequence[str]) -> None:
    """Notes which tasks are to be cancelled because the one that waited for them was: those whose ids say so."""
    own = tuple([each for each in ids if each.startswith(f"{id}/")])
    if own:
        state.dependents.abandoned[id] = own
        _fact_put(state, ch.FactPut(ABANDONED, id, Abandoned(own)))


def _children_stopped(state: State, change: ch.ChildrenStopped) -> None:
    del state.dependents.abandoned[change.id]
    _fact_removed(state, ch.FactRemoved(ABANDONED, change.id))


def _task_continued(state: State, change: ch.TaskContinued) -> None:
    if change.id in state.dependents.by_id:
        _unlink(state, change.id)
    _link(state, state.tasks[change.id].spec, None)


def _group_sealed(state: State, change: ch.GroupSealed) -> None:
    state.dependents.seal(change.id, change.children)
    dependent = state.dependents.by_id[change.id]
    _keep(state, change.id, dependent, is_cancelled=not dependent.is_live)


def _unlink(state: State, id: str) -> None:
    state.dependents.remove(id)
    _fact_removed(state, ch.FactRemoved(AFTER, id))


def _session_opened(state: State, change: ch.SessionOpened) -> None:
    hello = change.hello
    worker = state.workers.get(hello.instance)
    if worker is None:
        worker = state.workers[hello.instance] = Worker(hello.instance, hello.name)
    _disconnect(state, worker)
    state.forms.remove(worker)
    state.reserved.remove(worker)
    if worker.joined_ms == 0:
        worker.joined_ms = change.at_ms
    worker.connection = hello.connection
    worker.name = hello.name
    worker.slots = hello.slots
    worker.policies = {policy.name: policy for policy in hello.handlers}
    worker.default_policy = next((policy for policy in hello.handlers if policy.is_default), None)
    state.forms.add(worker)
    worker.queues = hello.queues
    state.reserved.add(worker)
    if worker.schedules or hello.schedules:
        state.agenda.undeclare(worker.instance, worker.schedules, change.at_ms)
        worker.schedules = hello.schedules
        state.agenda.declare(worker.instance, worker.schedules)
    worker.labels = hello.labels
    worker.version = hello.version
    worker.plugin_errors = hello.plugin_errors
    worker.peer = hello.peer
    worker.credit = worker.granted = 0
    worker.draining = worker.blocked = False
    worker.seen_ms = change.at_ms
    state.connections[hello.connection] = worker
    state.roster.tell(worker)
    state.names[hello.name] = worker
    state.pending.tally.connected.append(hello.name)
    state.graces.pop(hello.instance, None)
    state.departed.pop(hello.name, None)
    _renew(state.leases, hello.instance, change.lease_mono)


def _session_closed(state: State, change: ch.SessionClosed) -> None:
    _disconnect(state, state.workers[change.instance])
    _renew(state.graces, change.instance, change.grace_mono)
    state.leases.pop(change.instance, None)


def _worker_expected(state: State, change: ch.WorkerExpected) -> None:
    _expected(state, change.instance, change.name).joined_ms = change.joined_ms


def _expected(state: State, instance: str, name: str) -> Worker:
    worker = state.workers[instance] = Worker(instance, name)
    state.names.setdefault(name, worker)
    return worker


def _worker_draining(state: State, change: ch.WorkerDraining) -> None:
    state.workers[change.instance].drain_ms = change.budget_ms


def _worker_gone(state: State, change: ch.WorkerGone) -> None:
    worker = state.workers.pop(change.instance)
    state.forms.remove(worker)
    state.reserved.remove(worker)
    if worker.schedules:
        state.agenda.undeclare(worker.instance, worker.schedules, change.at_ms)
    state.pending.tally.gone.append((worker.name, change.liveness))
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


def _checkpoint_noted(state: State, change: ch.CheckpointNoted) -> None:
    if change.size:
        state.checkpoints.note(change.id, change.fence, change.size)
    else:
        state.checkpoints.make_room(change.mono)


def _challenge_opened(state: State, change: ch.ChallengeOpened) -> None:
    state.challenges[change.hello.name] = (change.hello, change.until_mono)


def _challenge_ended(state: State, change: ch.ChallengeEnded) -> None:
    del state.challenges[change.name]


def _callback_joined(state: State, change: ch.CallbackJoined) -> None:
    callback = Callback(change.id, change.address, change.at_ms)
    state.callbacks[change.id] = callback
    state.pending.tally.connected.append(change.id)
    state.departed.pop(change.id, None)
    _renew(state.callback_leases, change.id, change.lease_mono)


def _callback_heard(state: State, change: ch.CallbackHeard) -> None:
    callback = state.callbacks[change.id]
    callback.status, callback.seen_ms, callback.unreachable = change.status, change.at_ms, ""
    held = callback.held
    if held is not None:
        held.idle_beats = held.idle_beats + 1 if change.status is HeartbeatStatus.IDLE else 0
    state.pending.tally.callback_heartbeats += 1
    _renew(state.callback_leases, change.id, change.lease_mono)


def _callback_dialled(state: State, change: ch.CallbackDialled) -> None:
    _held(state, change.id).since_mono = change.mono
    if change.limit_mono is not None:
        state.callback_deadlines[change.id] = change.limit_mono


def _callback_refused(state: State, change: ch.CallbackRefused) -> None:
    _held(state, change.id).refusals += 1


def _callback_stopping(state: State, change: ch.CallbackStopping) -> None:
    held = _held(state, change.id)
    held.stop_mono = change.mono
    if change.overdue_mono is not None:
        held.overdue = True
        state.callback_deadlines[change.id] = change.overdue_mono


def _callback_stop_denied(state: State, change: ch.CallbackStopDenied) -> None:
    _held(state, change.id).absent = True
    state.callback_deadlines[change.id] = change.until_mono


def _held(state: State, id: str) -> Dialled:
    held = state.callbacks[id].held
    assert held is not None
    return held


def _callback_unreachable(state: State, change: ch.CallbackUnreachable) -> None:
    state.callbacks[change.id].unreachable = change.reason


def _callback_draining(state: State, change: ch.CallbackDraining) -> None:
    state.callbacks[change.id].draining = True


def _callback_owned(state: State, change: ch.CallbackOwned) -> None:
    state.callbacks[change.id].owner = change.owner


def _callback_gone(state: State, change: ch.CallbackGone) -> None:
    _depart(state, state.callbacks.pop(change.id), change.liveness, change.at_ms)
    state.pending.tally.gone.append((change.id, change.liveness))
    state.callback_leases.pop(change.id, None)


def _leases_extended(state: State, change: ch.LeasesExtended) -> None:
    for deadlines in (state.leases, state.graces, state.callback_leases, state.callback_deadlines):
        for key in deadlines:
            # The order of the deadlines stays the same.
            deadlines[key] = max(deadlines[key] + change.seconds, change.until_mono)
    for name, (hello, until) in state.challenges.items():
        state.challenges[name] = hello, max(until + change.seconds, change.until_mono)
    state.held_up_until = change.until_mono
    for callback in state.callbacks.values():
        if callback.held is not None:
            # Heartbeats that were sent before the call may have waited in line for as long as the leader was held up.
            callback.held.since_mono += change.seconds


def _queue_served(state: State, change: ch.QueueServed) -> None:
    state.queues.served(change.name, change.virtual, change.tokens, change.mono, change.passed_over)
    state.queues.virtual = max(state.queues.virtual, change.order_virtual)


def _queue_configured(state: State, change: ch.QueueConfigured) -> None:
    state.queues.configure(change.name, change.settings, change.mono, change.tokens)


def _schedule_set(state: State, change: ch.ScheduleSet) -> None:
    state.agenda.set(change.name, change.at_ms, change.awaited)


def _schedule_gone(state: State, change: ch.ScheduleGone) -> None:
    state.agenda.remove(change.name)


def _schedule_ticked(state: State, change: ch.ScheduleTicked) -> None:
    state.pending.tally.ticked.append(change)


def _depart(state: State, member: Worker | Callback, liveness: Liveness, at_ms: int) -> None:
    gone = Departed(member, liveness, at_ms)
    state.departed.pop(gone.id, None)
    state.departed[gone.id] = gone
    if len(state.departed) > DEPARTED_MAX:
        del state.departed[next(iter(state.departed))]


def _renew(deadlines: dict[str, float], key: str, deadline: float) -> None:
    # The key is taken out and put back, so that the first key is the first to run out: all leases of one dict have the
    # same span.
    deadlines.pop(key, None)
    deadlines[key] = deadline


#: A table rather than a `match`, because tens of thousands of tasks move in a second. A test checks that it has every
#: change.
_APPLIERS: dict[type, Callable[[State, Any], None]] = {
    ch.TaskSubmitted: _task_submitted,
    ch.TaskMoved: _task_moved,
    ch.TaskReplaced: _task_replaced,
    ch.TaskContinued: _task_continued,
    ch.ChildrenStopped: _children_stopped,
    ch.TaskProgressed: _task_progressed,
    ch.TaskPurged: _task_purged,
    ch.GroupSealed: _group_sealed,
    ch.RemovalsForgotten: _removals_forgotten,
    ch.FactPut: _fact_put,
    ch.FactRemoved: _fact_removed,
    ch.KeyTaken: _key_taken,
    ch.KeyKept: _key_kept,
    ch.KeyFreed: _key_freed,
    ch.SessionOpened: _session_opened,
    ch.SessionClosed: _session_closed,
    ch.WorkerHeard: _worker_heard,
    ch.WorkerExpected: _worker_expected,
    ch.WorkerDraining: _worker_draining,
    ch.WorkerGone: _worker_gone,
    ch.CheckpointNoted: _checkpoint_noted,
    ch.ChallengeOpened: _challenge_opened,
    ch.ChallengeEnded: _challenge_ended,
    ch.CallbackJoined: _callback_joined,
    ch.CallbackHeard: _callback_heard,
    ch.CallbackDialled: _callback_dialled,
    ch.CallbackRefused: _callback_refused,
    ch.CallbackStopping: _callback_stopping,
    ch.CallbackStopDenied: _callback_stop_denied,
    ch.CallbackUnreachable: _callback_unreachable,
    ch.CallbackDraining: _callback_draining,
    ch.CallbackOwned: _callback_owned,
    ch.CallbackGone: _callback_gone,
    ch.LeasesExtended: _leases_extended,
    ch.QueueServed: _queue_served,
    ch.QueueConfigured: _queue_configured,
    ch.ScheduleSet: _schedule_set,
    ch.ScheduleGone: _schedule_gone,
    ch.ScheduleTicked: _schedule_ticked,
}
