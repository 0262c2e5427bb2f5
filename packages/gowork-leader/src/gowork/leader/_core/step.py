"""A step of the core: it carries out commands one after the other, and takes all that came of them as one value."""

from __future__ import annotations

from gowork.leader._core.commands import AnyCommand
from gowork.leader._core.decide import decide
from gowork.leader._core.model import COMPLETED, Now
from gowork.leader._core.pending import Caller, Pending
from gowork.leader._core.runs import apply_all
from gowork.leader._core.state import State


def carry_out(state: State, command: AnyCommand, now: Now, caller: Caller | None = None) -> None:
    """Decides on a command and makes the changes true in memory, so that the next decision sees them.

    Args:
        state: the state, which is changed.
        command: what is asked for.
        now: the time.
        caller: who waits for the answer; None: nobody waits.
    """
    decision = decide(state, command, now)
    apply_all(state, decision.changes)
    pending = state.pending
    if decision.effects:
        pending.effects += decision.effects
    if caller is not None:
        pending.answers.append((caller, decision.answer))


def take(state: State) -> Pending:
    """Takes what has come of the commands since the last call. None of it may leave before it is durable (BARRIER)."""
    pending = state.pending
    agenda = state.agenda
    if agenda.awaited:
        # A task that was changed in this batch is among the submitted ones.
        written = [
            task for by_id in (pending.moved, pending.submitted) for id in agenda.awaited if (task := by_id.get(id))
        ]
        agenda.finished({task.spec.id for task in written if task.standing.status >= COMPLETED})
    if pending.submitted or pending.moved or pending.removed or pending.facts or pending.forgotten_before:
        pending.is_written = True
        state.pending = Pending()
    else:
        state.pending = Pending(pending)
    return pending
