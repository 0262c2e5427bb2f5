"""Decides on callback workers: workers of the original contract, which join with an address and send heartbeats.

Each of them may hold one task. `dialled` decides on that.
"""

from __future__ import annotations

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core import drains, owners
from gowork.leader._core import effects as ef
from gowork.leader._core.decision import Decision
from gowork.leader._core.dialled import ask_to_stop, dialled, is_to_stop, lose, release
from gowork.leader._core.kinds import MEMBERS, Member
from gowork.leader._core.model import HeartbeatStatus, Liveness, Now, Outcome
from gowork.leader._core.state import Callback, Departed, State

#: After this many idle heartbeats in a row a member no longer has its task. One alone may have crossed the call that
#: started the task, or have been held up on its way.
IDLE_BEATS_MIN = 2
#: How long after a call to stop a task a heartbeat repeats the call, in seconds; longer than the call may take.
STOP_AGAIN_SECONDS = 12.0


def join(state: State, command: cmd.Join, now: Now) -> Decision:
    """Adds a member. A second Join of an id replaces the first member, and takes back the task that it held."""
    worker = state.names.get(command.id)
    if worker is not None and worker.connection is not None:
        return Decision(cmd.Refused(cmd.NAME_TAKEN, f"a worker session has the name {command.id!r}; choose another id"))
    earlier = state.callbacks.get(command.id)
    if (refused := owners.refusal(earlier, command.caller)) is not None:
        return Decision(refused)
    if earlier is None and state.facts.is_full(MEMBERS):
        message = f"this leader has {MEMBERS.rows_max} callback workers, which is its limit; have some leave first"
        return Decision(cmd.Refused(cmd.TOO_MANY_MEMBERS, message))
    decision = Decision()
    if earlier is not None:
        release(state, earlier, "its worker has joined again", Outcome.INTERRUPTED, now, decision)
    lease = now.mono + state.settings.callback_lease
    drains.end(state, command.id, decision)
    decision.changes.append(ch.FactPut(MEMBERS, command.id, Member(command.address, now.wall_ms)))
    decision.changes.append(ch.CallbackJoined(command.id, command.address, lease, now.wall_ms))
    owners.claim(state, command.id, command.caller, now.wall_ms, decision)
    return decision


def leave(state: State, command: cmd.Leave, now: Now) -> Decision:
    """Removes a callback worker and takes back the task that it held."""
    callback = state.callbacks.get(command.id)
    if callback is None:
        return Decision(_member_unknown(state, command.id))
    if (refused := owners.refusal(callback, command.caller)) is not None:
        return Decision(refused)
    decision = Decision()
    release(state, callback, "its worker has left", Outcome.INTERRUPTED, now, decision)
    drains.end(state, command.id, decision)
    owners.end(state, command.id, decision)
    decision.changes.append(ch.FactRemoved(MEMBERS, command.id))
    decision.changes.append(ch.CallbackGone(command.id, Liveness.LEFT, now.wall_ms))
    return decision


def heartbeat(state: State, command: cmd.Heartbeat, now: Now) -> Decision:
    """Renews a member's lease. A member whose lease ran out becomes a member again."""
    callback = state.callbacks.get(command.id)
    if (refused := owners.refusal(callback or state.departed.get(command.id), command.caller)) is not None:
        return Decision(refused)
    decision = Decision()
    lease = now.mono + state.settings.callback_lease
    if callback is not None:
        if command.caller and not callback.owner:
            # It joined with a leader that asked nobody.
            owners.claim(state, command.id, command.caller, callback.joined_ms, decision)
        _compare(state, callback, command.status, now, decision)
    elif (gone := _lost(state, command.id)) is not None:
        decision.changes.append(ch.FactPut(MEMBERS, command.id, Member(gone.address, gone.joined_ms)))
        decision.changes.append(ch.CallbackJoined(command.id, gone.address, lease, gone.joined_ms))
        owners.claim(state, command.id, gone.owner, gone.joined_ms, decision)
        if gone.draining:
            drains.begin(command.id, gone.joined_ms, decision)
    else:
        decision.answer = _member_unknown(state, command.id)
        decision.effects.append(ef.CountHeartbeatRefused(command.id))
        return decision
    decision.changes.append(ch.CallbackHeard(command.id, command.status, lease, now.wall_ms))
    return decision


def take_up(state: State, now: Now) -> Decision:
    """After a start, restarts the time limits of the tasks that members hold. When those were dialled is not known."""
    decision = Decision()
    for callback in state.callbacks.values():
        if callback.held is not None:
            decision.changes.append(dialled(callback.id, state.tasks[callback.held.id].spec, now))
    return decision


def _compare(state: State, callback: Callback, status: HeartbeatStatus, now: Now, decision: Decision) -> None:
    """Compares a callback worker's status with the task that it was given."""
    held = callback.held
    if held is None:
        return
    if status is HeartbeatStatus.IDLE:
        seconds = now.mono - held.since_mono
        if held.adopted and seconds >= state.settings.callback_adopted_grace:
            # An earlier leader ended between the grant and the call, or before the member's refusal arrived.
            reason = "its worker is idle: the start did not reach it"
            release(state, callback, reason, Outcome.INTERRUPTED, now, decision)
            return
        if held.idle_beats + 1 >= IDLE_BEATS_MIN and seconds >= state.settings.callback_idle_grace:
            reason = f"its worker is idle {seconds:.0f} s after the start, and has reported no end"
            lose(state, callback, reason, now, decision)
            return
    if is_to_stop(state, held) and (held.stop_mono is None or now.mono - held.stop_mono >= STOP_AGAIN_SECONDS):
        # The call failed, or an earlier leader ended before it.
        ask_to_stop(callback, now, decision)


def _lost(state: State, id: str) -> Departed | None:
    """Returns the lost member with this id, if it may come back and there is room for it."""
    gone = state.departed.get(id)
    return gone if gone is not None and gone.may_come_back and not state.facts.is_full(MEMBERS) else None


def _member_unknown(state: State, id: str) -> cmd.Refused:
    if id in state.names:
        message = f"member {id!r} is a worker session: it needs no heartbeats and leaves over its stream"
    else:
        message = f"no member has the id {id!r}; join first"
    return cmd.Refused(cmd.MEMBER_UNKNOWN, message)
