"""Decides on drains: a member that is taken out of service gets no more tasks from the moment of the decision.

A worker with a session is told, at once or with its next Welcome, and leaves by itself. A callback worker can't be
told: it gets no more tasks until it joins again, whichever leader leads and whether its lease runs out meanwhile.
"""

from __future__ import annotations

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.decision import Decision
from gowork.leader._core.kinds import DRAINS, Drain
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
