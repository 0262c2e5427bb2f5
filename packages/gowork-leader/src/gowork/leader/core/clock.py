"""Decides what follows when time has passed, and tells when to look again."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from gowork.leader.core import changes as ch
from gowork.leader.core import commands as cmd
from gowork.leader.core import effects as ef
from gowork.leader.core.callbacks import release
from gowork.leader.core.decision import Decision
from gowork.leader.core.model import Liveness, Now, Outcome, Status
from gowork.leader.core.sessions import lose_tasks, take_over
from gowork.leader.core.state import State, Worker, start_ms
from gowork.leader.core.tasks import expired


def tick(state: State, now: Now) -> Decision:
    """Ends leases, graces and challenges that have run out; lets delayed tasks start; ends expired ones.

    The engine drops stale heap entries with `trim` afterwards: nothing is taken out here.
    """
    decision = Decision()
    silent = _run_out(state.leases, now.mono)
    for instance in silent:
        worker = state.workers[instance]
        if worker.connection is not None:
            message = f"nothing was heard from this worker for {state.settings.lease:g} s"
            decision.effects.append(ef.EndSession(worker.connection, cmd.Refused(cmd.LEASE_EXPIRED, message)))
        _lose(state, worker, "its lease ran out", now, decision)
    for instance in _run_out(state.graces, now.mono):
        _lose(state, state.workers[instance], "its stream broke and it did not come back", now, decision)
    for id in _run_out(state.callback_leases, now.mono):
        release(state, state.callbacks[id], "its worker was not heard of", Outcome.LOST, now, decision)
        decision.changes.append(ch.CallbackGone(id, Liveness.LOST, now.wall_ms))
    for hello, until in list(state.challenges.values()):
        if until <= now.mono:
            take_over(state, hello, now, decision, silent)
    _due(state, now, decision)
    return decision


def trim(state: State, wall_ms: int) -> None:
    """Drops the heap entries that a tick at this time has dealt with."""
    for heap in (state.delayed, state.expiring):
        while heap and heap[0][0] <= wall_ms:
            heapq.heappop(heap)


def next_deadlines(state: State) -> tuple[float | None, int | None]:
    """When the next tick is due: in monotonic seconds and in wall-clock milliseconds; None when nothing is."""
    # Leases of one kind have one span, so that the first in order is the first to run out; graces and challenges are
    # few.
    firsts = [next(iter(deadlines.values())) for deadlines in (state.leases, state.callback_leases) if deadlines]
    firsts += state.graces.values()
    firsts += [until for _, until in state.challenges.values()]
    dues = [heap[0][0] for heap in (state.delayed, state.expiring) if heap]
    return min(firsts, default=None), min(dues, default=None)


def _run_out(deadlines: dict[str, float], mono: float) -> list[str]:
    return [key for key, deadline in deadlines.items() if deadline <= mono]


def _lose(state: State, worker: Worker, reason: str, now: Now, decision: Decision) -> None:
    lose_tasks(state, worker, Outcome.LOST, reason, now, decision)
    decision.changes.append(ch.WorkerGone(worker.instance, Liveness.LOST, now.wall_ms))


def _due(state: State, now: Now, decision: Decision) -> None:
    dealt_with: set[str] = set()
    for _, seq, id in _ripe(state.expiring, now.wall_ms):
        task = state.tasks.get(id)
        if task is not None and task.seq == seq and task.standing.status is Status.PENDING:
            dealt_with.add(id)
            decision.changes.append(ch.TaskMoved(id, expired(task.standing, now)))
    for at, seq, id in sorted(_ripe(state.delayed, now.wall_ms)):
        task = state.tasks.get(id)
        if task is None or id in dealt_with or task.seq != seq or not task.delayed:
            continue
        # An entry for another time is stale: the task has been delayed anew since.
        if at == start_ms(task):
            dealt_with.add(id)
            decision.changes.append(ch.TaskDue(id))


def _ripe(heap: list[tuple[int, int, str]], wall_ms: int) -> Iterator[tuple[int, int, str]]:
    # Walks down the heap only where its entries are due.
    places = [0]
    while places:
        place = places.pop()
        if place < len(heap) and heap[place][0] <= wall_ms:
            yield heap[place]
            places += (2 * place + 1, 2 * place + 2)
