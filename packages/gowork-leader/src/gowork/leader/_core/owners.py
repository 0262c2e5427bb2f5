"""Decides who speaks for a callback worker: whoever it joined as, where the leader knows who callers are.

The owner is a fact of its own, and no part of the member's, whose table has the columns of version 0.1.0.
"""

from __future__ import annotations

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core.decision import Decision
from gowork.leader._core.kinds import OWNERS, Owner
from gowork.leader._core.state import Callback, Departed, State


def claim(state: State, id: str, owner: str, joined_ms: int, decision: Decision) -> None:
    """Makes a caller the owner of the member that joined then; empty: nobody is."""
    if not owner:
        end(state, id, decision)
        return
    # Versions that know no owners leave some behind, of which there may be as many as there is room for.
    if id in state.facts.of(OWNERS) or not state.facts.is_full(OWNERS):
        decision.changes.append(ch.FactPut(OWNERS, id, Owner(owner, joined_ms)))
    decision.changes.append(ch.CallbackOwned(id, owner))


def end(state: State, id: str, decision: Decision) -> None:
    """Forgets the owner of a member that has left."""
    if id in state.facts.of(OWNERS):
        decision.changes.append(ch.FactRemoved(OWNERS, id))


def refusal(member: Callback | Departed | None, caller: str) -> cmd.Refused | None:
    """Returns the refusal of a caller who may not speak for a member; None: they may."""
    if member is None or not caller or member.owner in ("", caller):
        return None
    message = f"member {member.id!r} has joined as {member.owner!r}, and {caller!r} may not speak for it"
    return cmd.Refused(cmd.NOT_THE_OWNER, message)
