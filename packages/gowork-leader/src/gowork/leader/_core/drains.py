"""Decides on drains: a member that is taken out of service gets no more tasks from the moment of the decision.

A worker with a session is told, at once or with its next Welcome, and leaves by itself. The next leader tells it too,
unless it has left, its lease has run out, or another worker has taken its name. A callback worker can't be told: it
gets no more tasks until it joins again, whichever leader leads and whether its lease runs out meanwhile.
"""

from __future__ import annotations

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.decision import Decision
from gowork.leader._core.kinds import DRAINS, WORKER_DRAINS, Drain, WorkerDrain
from gowork.leader._core.model import Now
from gowork.leader._core.state import State


def drain(state: State, command: cmd.DrainMember) -> Decision:
    """Takes a member out of service, unless it already is."""
    decision = Decision()
    callback = state.callbacks.get(command.id)
    if callback is not None:
        if not callback.draining:
            if command.id not in state.facts.of(DRAINS) and state.facts.is_full(DRAINS):
                message = f"{DRAINS.rows_max} callback workers are drained, which is the limit; have some leave first"
                return Decision(cmd.Refused(cmd.TOO_MANY_MEMBERS, message))
            begin(command.id, callback.joined_ms, decision)
        return decision
    worker = state.names.get(command.id)
    if worker is None:
        return Decision(cmd.Refused(cmd.MEMBER_UNKNOWN, f"no live member has the id {command.id!r}"))
    if worker.drain_ms is None:
        if state.facts.is_full(WORKER_DRAINS):
            message = f"{WORKER_DRAINS.rows_max} workers are draining, which is the limit; wait until some have left"
            return Decision(cmd.Refused(cmd.TOO_MANY_MEMBERS, message))
        drained = WorkerDrain(worker.name, command.budget_ms, worker.joined_ms)
        decision.changes.append(ch.FactPut(WORKER_DRAINS, worker.instance, drained))
        decision.changes.append(ch.WorkerDraining(worker.instance, command.budget_ms))
        if worker.connection is not None:
            decision.effects.append(ef.DrainWorker(worker.connection, command.budget_ms))
    return decision


def begin(id: str, joined_ms: int, decision: Decision) -> None:
    """Takes the callback worker that joined then out of service."""
    decision.changes.append(ch.FactPut(DRAINS, id, Drain(joined_ms)))
    decision.changes.append(ch.CallbackDraining(id))


def end(state: State, id: str, decision: Decision) -> None:
    """Ends the drain of a callback worker, if it is drained."""
    if id in state.facts.of(DRAINS):
        decision.changes.append(ch.FactRemoved(DRAINS, id))


def resume(state: State, hello: cmd.OpenSession, now: Now, decision: Decision) -> None:
    """Tells a worker that comes back to drain, if it was drained. It may have been silent until its lease ran out."""
    worker, gone = state.workers.get(hello.instance), state.departed.get(hello.name)
    if worker is not None:
        budget_ms, joined_ms = worker.drain_ms, worker.joined_ms
    elif gone is not None and gone.instance == hello.instance:
        budget_ms, joined_ms = gone.drain_ms, now.wall_ms
    else:
        return
    if budget_ms is None:
        return
    if hello.instance in state.facts.of(WORKER_DRAINS) or not state.facts.is_full(WORKER_DRAINS):
        drained = WorkerDrain(hello.name, budget_ms, joined_ms)
        decision.changes.append(ch.FactPut(WORKER_DRAINS, hello.instance, drained))
    decision.changes.append(ch.WorkerDraining(hello.instance, budget_ms))
    decision.effects.append(ef.DrainWorker(hello.connection, budget_ms))


def end_of_worker(state: State, instance: str, decision: Decision) -> None:
    """Sees to it that the next leader does not expect this worker because of its drain."""
    if instance in state.facts.of(WORKER_DRAINS):
        decision.changes.append(ch.FactRemoved(WORKER_DRAINS, instance))
