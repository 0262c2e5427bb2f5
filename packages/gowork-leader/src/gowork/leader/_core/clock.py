"""Decides what follows when time has passed, and says when to look again."""

from __future__ import annotations

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core import drains, owners, unique
from gowork.leader._core import effects as ef
from gowork.leader._core.continuing import stop_children
from gowork.leader._core.decision import Decision
from gowork.leader._core.dialled import release, run_out
from gowork.leader._core.freeing import look_at_dependents
from gowork.leader._core.kinds import MEMBERS
from gowork.leader._core.model import TIMER, Liveness, Now, Outcome, Status
from gowork.leader._core.sessions import lose_tasks, take_over
from gowork.leader._core.state import State, Worker
from gowork.leader._core.tasks import due, expired
from gowork.leader._core.ticking import tick_schedules

#: How many delayed tasks one tick makes ready, how many tasks it ends as expired, and how many unique keys it frees.
DUE_TASKS_MAX = 10_000


def tick(state: State, command: cmd.Tick, now: Now) -> Decision:
    """Ends leases, graces and challenges that have run out, makes delayed tasks ready, ends expired ones,
    and frees unique keys whose time is over.

    It takes no timers out. The engine calls `trim` for that afterwards.
    """
    decision = Decision()
    silent = _run_out(state.leases, now.mono)
    for instance in silent:
        worker = state.workers[instance]
        if worker.connection is not None:
            message = f"nothing was heard from this worker for {state.settings.lease:g} s"
            decision.effects.append(ef.EndSession(worker.connection, cmd.Refused(cmd.LEASE_EXPIRED, message)))
        _lose(state, worker, "its lease ran out", now, decision)
    away = _run_out(state.graces, now.mono)
    for instance in away:
        _lose(state, state.workers[instance], "its stream broke and it did not reconnect", now, decision)
    unheard = _run_out(state.callback_leases, now.mono)
    for id in unheard:
        release(state, state.callbacks[id], "its worker sent no heartbeat", Outcome.LOST, now, decision)
        drains.end(state, id, decision)
        owners.end(state, id, decision)
        decision.changes.append(ch.FactRemoved(MEMBERS, id))
        decision.changes.append(ch.CallbackGone(id, Liveness.LOST, now.wall_ms))
    for id in _run_out(state.callback_deadlines, now.mono):
        if id not in unheard:
            run_out(state, state.callbacks[id], now, decision)
    for hello, until in list(state.challenges.values()):
        if until <= now.mono:
            take_over(state, hello, now, decision, [*silent, *away])
    dealt_with = _due(state, command.due_ms, now, decision)
    decision.changes.extend(unique.ripe(state, command.due_ms, DUE_TASKS_MAX))
    if state.dependents.stopping:
        dealt_with |= stop_children(state, now, decision)
    if state.agenda.plans or state.dependents.in_hand:
        # The same ones for both, so that no key is given away twice.
        keys = unique.Keys(state, now)
        tick_schedules(state, keys, now, decision)
        look_at_dependents(state, dealt_with, keys, now, decision)
    return decision


def ripe_ids(state: State, due_ms: int) -> list[str]:
    """Returns the ids of the tasks that a tick up to this time looks at."""
    timers = (state.delayed, state.expiring)
    return [id for kind in timers for _, _, id in kind.ripe(due_ms, DUE_TASKS_MAX)]


def trim(state: State, due_ms: int) -> None:
    """Drops the timers that a tick up to this time has dealt with."""
    state.delayed.trim(due_ms, DUE_TASKS_MAX)
    state.expiring.trim(due_ms, DUE_TASKS_MAX)
    state.kept_keys.trim(due_ms, DUE_TASKS_MAX)
    state.dependents.in_hand = []
    state.dependents.stopping = []


def next_deadlines(state: State) -> tuple[float | None, int | None]:
    """Returns when the next tick is due, in monotonic seconds and in wall-clock milliseconds; None: nothing is due."""
    # Leases of one kind have the same span, so the first in order is the first to run out. Graces and challenges are
    # few.
    firsts = [next(iter(deadlines.values())) for deadlines in (state.leases, state.callback_leases) if deadlines]
    firsts += state.graces.values()
    firsts += state.callback_deadlines.values()
    firsts += [until for _, until in state.challenges.values()]
    dues = [at for at in (state.delayed.next_ms(), state.expiring.next_ms()) if at is not None]
    if state.kept_keys.keys and (at := state.kept_keys.next_ms()) is not None:
        dues.append(at)
    if state.agenda.heap and (at := state.agenda.next_ms()) is not None:
        dues.append(at)
    return min(firsts, default=None), min(dues, default=None)


def next_token(state: State, mono: float) -> float | None:
    """Returns when a queue that has used up its rate may start a task again, in monotonic seconds; None: none has."""
    nexts = []
    for queue in state.queues:
        rate = queue.settings.rate_limit
        if rate and queue.waiting and not queue.settings.paused:
            at = queue.tokens_mono + (1 - queue.tokens) / rate
            if at > mono:
                nexts.append(at)
    return min(nexts, default=None)


def _run_out(deadlines: dict[str, float], mono: float) -> list[str]:
    return [key for key, deadline in deadlines.items() if deadline <= mono]


def _lose(state: State, worker: Worker, reason: str, now: Now, decision: Decision) -> None:
    lose_tasks(state, worker, Outcome.LOST, reason, now, decision)
    drains.end_of_worker(state, worker.instance, decision)
    decision.changes.append(ch.WorkerGone(worker.instance, Liveness.LOST, now.wall_ms))


def _due(state: State, due_ms: int, now: Now, decision: Decision) -> set[str]:
    """Ends what has expired, and makes ready what was delayed. Returns the ids of all of these tasks."""
    dealt_with: set[str] = set()
    for _, seq, id in state.expiring.ripe(due_ms, DUE_TASKS_MAX):
        task = state.tasks.get(id)
        # An earlier entry may have dealt with it, or it is another task with the same id.
        if task is not None and task.seq == seq and task.standing.status is Status.PENDING and id not in dealt_with:
            dealt_with.add(id)
            decision.changes.append(ch.TaskMoved(id, expired(task.standing, now)))
    for at, seq, id in state.delayed.ripe(due_ms, DUE_TASKS_MAX):
        task = state.tasks.get(id)
        if task is None or id in dealt_with or task.seq != seq or task.place is not TIMER:
            continue
        # An entry for another time is stale: the task has been delayed again since.
        if at == task.standing.not_before_ms:
            dealt_with.add(id)
            decision.changes.append(ch.TaskMoved(id, due(task.standing)))
    return dealt_with
