"""Decides on callback members: workers of the original contract, which are dialled and hold one task at a time."""

from __future__ import annotations

from gowork.leader.core import changes as ch
from gowork.leader.core import commands as cmd
from gowork.leader.core import effects as ef
from gowork.leader.core.attempts import requeue, settle
from gowork.leader.core.decision import Decision
from gowork.leader.core.model import (
    Failure,
    FailureKind,
    HeartbeatStatus,
    Liveness,
    Now,
    Outcome,
    Progress,
    Status,
    Task,
)
from gowork.leader.core.state import Callback, State
from gowork.leader.core.tasks import task_unknown
from gowork.leader.core.traces import taken_back


def join(state: State, command: cmd.Join, now: Now) -> Decision:
    """Adds a member; a second Join of an id replaces the first and gives back what that one held."""
    worker = state.names.get(command.id)
    if worker is not None and worker.connection is not None:
        return Decision(cmd.Refused(cmd.NAME_TAKEN, f"a worker session has the name {command.id!r}; choose another id"))
    decision = Decision()
    earlier = state.callbacks.get(command.id)
    if earlier is not None:
        release(state, earlier, "its worker has joined again", Outcome.INTERRUPTED, now, decision)
    lease = now.mono + state.settings.callback_lease
    decision.changes.append(ch.CallbackJoined(command.id, command.address, lease, now.wall_ms))
    return decision


def leave(state: State, command: cmd.Leave, now: Now) -> Decision:
    """Removes a member and gives back what it held."""
    callback = state.callbacks.get(command.id)
    if callback is None:
        return Decision(_member_unknown(state, command.id))
    decision = Decision()
    release(state, callback, "its worker has left", Outcome.INTERRUPTED, now, decision)
    decision.changes.append(ch.CallbackGone(command.id, Liveness.LEFT, now.wall_ms))
    return decision


def heartbeat(state: State, command: cmd.Heartbeat, now: Now) -> Decision:
    """Renews a member's lease."""
    callback = state.callbacks.get(command.id)
    if callback is None:
        decision = Decision(_member_unknown(state, command.id))
        decision.effects.append(ef.CountHeartbeatRefused(command.id))
        return decision
    decision = Decision()
    if callback.held is not None and callback.held[0] == callback.adopted and command.status is HeartbeatStatus.IDLE:
        # An earlier leader ended between the grant and the call, or before it heard the refusal. While one leader lives
        # an idle member says nothing: its heartbeat may have crossed the call.
        release(state, callback, "its worker is idle: the start did not reach it", Outcome.INTERRUPTED, now, decision)
    lease = now.mono + state.settings.callback_lease
    decision.changes.append(ch.CallbackHeard(command.id, command.status, lease, now.wall_ms))
    return decision


def complete_task(state: State, command: cmd.CompleteTask, now: Now) -> Decision:
    """Accepts a report without a fence, for a task that a callback member holds and for no other."""
    task = state.tasks.get(command.id)
    if task is None:
        return Decision(task_unknown(command.id))
    standing = task.standing
    refused = _not_held(task, "TaskComplete")
    if refused is not None:
        decision = Decision(refused)
        decision.effects.append(ef.CountStale(command.id))
        return decision
    if command.error is None:
        report = cmd.Report(standing.fence, command.id, Outcome.COMPLETED)
    else:
        outcome = Outcome.CANCELLED if standing.cancel_requested else Outcome.FAILED
        failure = Failure(FailureKind.HANDLER, command.error)
        report = cmd.Report(standing.fence, command.id, outcome, failure=failure)
    decision = Decision()
    decision.changes.append(ch.TaskMoved(command.id, settle(standing, report, task.spec.retry, now.wall_ms)))
    return decision


def tell_progress(state: State, command: cmd.TellProgress, now: Now) -> Decision:
    """Takes a word of progress on a task that a callback member holds, and under that fence if one is named."""
    task = state.tasks.get(command.id)
    if task is None:
        return Decision(task_unknown(command.id))
    refused = _not_held(task, "TaskProgress")
    if refused is None and command.fence not in (0, task.standing.fence):
        message = f"task {command.id!r} was granted anew, under fence {task.standing.fence}"
        refused = cmd.Refused(cmd.STALE_FENCE, message)
    if refused is not None:
        return Decision(refused)
    decision = Decision()
    progress = Progress(command.fraction, command.message, now.wall_ms)
    decision.changes.append(ch.TaskProgressed(command.id, progress))
    return decision


def refuse_start(state: State, command: cmd.RefuseStart, now: Now) -> Decision:
    """Takes back a task that a member would not start; the member gets nothing until it is heard of again."""
    decision = Decision()
    task = state.tasks.get(command.id)
    if task is not None and _held_under(task, command.fence):
        standing = requeue(task.standing, Outcome.INTERRUPTED, command.reason, now.wall_ms, policy=task.spec.retry)
        decision.changes.append(ch.TaskMoved(command.id, standing))
    if command.member in state.callbacks:
        decision.changes.append(ch.CallbackUnreachable(command.member))
    return decision


def confirm_stop(state: State, command: cmd.ConfirmStop, now: Now) -> Decision:
    """The member no longer runs a task that was to be cancelled."""
    decision = Decision()
    task = state.tasks.get(command.id)
    if task is not None and _held_under(task, command.fence) and task.standing.cancel_requested:
        report = cmd.Report(command.fence, command.id, Outcome.CANCELLED, reason="stopped on request")
        decision.changes.append(ch.TaskMoved(command.id, settle(task.standing, report, None, now.wall_ms)))
    return decision


def take_back_orphans(state: State, now: Now) -> Decision:
    """Takes back the running tasks of members that are not known, as a leader finds them at its start."""
    decision = Decision()
    for id, task in state.tasks.items():
        standing = task.standing
        if standing.status is Status.RUNNING and not standing.instance and standing.worker not in state.callbacks:
            back = requeue(standing, Outcome.LOST, "its member is gone", now.wall_ms, policy=task.spec.retry)
            decision.changes.append(ch.TaskMoved(id, back))
    return decision


def release(state: State, callback: Callback, reason: str, outcome: Outcome, now: Now, decision: Decision) -> None:
    """Takes back what a member holds."""
    if callback.held is not None:
        id = callback.held[1]
        task = state.tasks[id]
        trace = taken_back(task, outcome, reason, now, decision) if state.settings.traced else ""
        standing = requeue(task.standing, outcome, reason, now.wall_ms, trace, task.spec.retry)
        decision.changes.append(ch.TaskMoved(id, standing))


def _not_held(task: Task, method: str) -> cmd.Refused | None:
    """The refusal when no callback member holds the task."""
    standing = task.standing
    if standing.status is Status.RUNNING and not standing.instance:
        return None
    what = f"is {standing.status.name}" if standing.status is not Status.RUNNING else "is held by a worker session"
    message = f"task {task.spec.id!r} {what}: {method} is for tasks that a callback member holds"
    return cmd.Refused(cmd.NOT_HELD, message)


def _held_under(task: Task, fence: int) -> bool:
    standing = task.standing
    return standing.status is Status.RUNNING and not standing.instance and standing.fence == fence


def _member_unknown(state: State, id: str) -> cmd.Refused:
    if id in state.names:
        message = f"member {id!r} is a worker session: it needs no heartbeats and leaves over its stream"
    else:
        message = f"no member has the id {id!r}; join first"
    return cmd.Refused(cmd.MEMBER_UNKNOWN, message)
