"""A step of the core: commands are carried out one after the other, and what has come of them is taken as one value."""

from __future__ import annotations

from gowork.leader._core.apply import apply
from gowork.leader._core.commands import AnyCommand
from gowork.leader._core.decide import decide
from gowork.leader._core.model import Now
from gowork.leader._core.pending import Caller, Pending
from gowork.leader._core.state import State


def carry_out(state: State, command: AnyCommand, now: Now, caller: Caller | None = None) -> None:
    """Decides on a command and makes the changes true in memory; the next one is decided on top of them.

    Args:
        state: what is changed.
        command: what is asked.
        now: the time.
        caller: whoever waits for the answer; None: nobody waits.
    """
    decision = decide(state, command, now)
    for change in decision.changes:
        apply(state, change)
    pending = state.pending
    if decision.effects:
        pending.effects += decision.effects
    if caller is not None:
        pending.answers.append((caller, decision.answer))


def take(state: State) -> Pending:
    """What has come of the commands since the last time. None of it may leave before it is durable (BARRIER)."""
    pending = state.pending
    if pending.submitted or pending.moved or pending.removed or pending.facts or pending.forgotten_before:
        pending.is_written = True
        state.pending = Pending()
    else:
        state.pending = Pending(pending)
    return pending
