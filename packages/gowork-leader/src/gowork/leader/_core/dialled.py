"""Decides on the one task that a callback worker may hold: its start by a call, its end, and what else may end it.

Every attempt ends. A member that says twice that it is idle, well after the call, has lost the task, or its report got
lost. That counts as a loss, so a task that no member ever completes ends in quarantine. A member that does not have the
task that it is asked to stop has `callback_absent_grace` seconds to report the end after all. The leader keeps the time
limit of the task. When it has passed, the member is asked to stop the task. `callback_stop_grace` seconds later the
attempt has timed out, whatever the member says.
"""

from __future__ import annotations

from gowork.leader._core import changes as ch
from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core import owners
from gowork.leader._core.attempts import requeue, settle
from gowork.leader._core.decision import Decision
from gowork.leader._core.model import Failure, FailureKind, Now, Outcome, Progress, Spec, Status, Task
from gowork.leader._core.state import Callback, Dialled, State
from gowork.leader._core.tasks import task_unknown
from gowork.leader._core.traces import taken_back

#: How long to wait before a member that did not take its task is dialled again, in seconds: it may have reported the
#: end of its last task a moment before it was free. After the last refusal the task goes back to its queue.
DIAL_AGAIN_SECONDS = (0.05, 0.1, 0.2)


def dialled(member: str, spec: Spec, now: Now) -> ch.CallbackDialled:
    """Returns the change that says that the member is dialled with this task now."""
    limit = spec.time_limit_ms
    return ch.CallbackDialled(member, now.mono, now.mono + limit / 1000 if limit > 0 else None)


def complete_task(state: State, command: cmd.CompleteTask, now: Now) -> Decision:
    """Accepts a report only for a task that a callback worker holds, and under its fence if the report names one."""
    task = state.tasks.get(command.id)
    if task is None:
        return Decision(task_unknown(command.id))
    if (refused := _of_another(state, task, command.caller)) is not None:
        return Decision(refused)
    refused = _not_held(task, "TaskComplete", command.fence)
    if refused is not None:
        decision = Decision(refused)
        decision.effects.append(ef.CountStale(command.id))
        return decision
    decision = Decision()
    report = _report_of(command, task, is_overdue=_is_overdue(state, task))
    policy = task.spec.retry or command.retry
    decision.changes.append(ch.TaskMoved(command.id, settle(task.standing, report, policy, now.wall_ms)))
    return decision


def tell_progress(state: State, command: cmd.TellProgress, now: Now) -> Decision:
    """Accepts progress only on a task that a callback worker holds, and under its fence if the message names one."""
    task = state.tasks.get(command.id)
    if task is None:
        return Decision(task_unknown(command.id))
    refused = _of_another(state, task, command.caller) or _not_held(task, "TaskProgress", command.fence)
    if refused is not None:
        return Decision(refused)
    decision = Decision()
    progress = Progress(command.fraction, command.message, now.wall_ms)
    decision.changes.append(ch.TaskProgressed(command.id, progress))
    return decision


def refuse_start(state: State, command: cmd.RefuseStart, now: Now) -> Decision:
    """Dials a member that did not take its task a few times more, and then takes the task back.

    After that the member gets no task until its next heartbeat.
    """
    decision = Decision()
    task = state.tasks.get(command.id)
    callback = state.callbacks.get(command.member)
    held = None if callback is None else callback.held
    if task is None or callback is None or held is None or held.fence != command.fence:
        # The task was taken back in the meantime, so this refusal says nothing about the member as it is now.
        return decision
    # Without a clear no it may have begun the task, which some tasks must not do twice.
    again = command.declined or (command.answered and not task.standing.fails_if_lost)
    if again and held.refusals < len(DIAL_AGAIN_SECONDS) and not task.standing.cancel_requested:
        delay = DIAL_AGAIN_SECONDS[held.refusals]
        decision.changes.append(ch.CallbackRefused(callback.id))
        decision.effects.append(
            ef.StartWork(callback.id, callback.address, held.fence, task.spec, task.standing.grants, delay)
        )
        return decision
    standing = requeue(
        task.standing,
        Outcome.INTERRUPTED,
        command.reason,
        now.wall_ms,
        policy=task.spec.retry,
        began=False,
        may_have_run=not command.declined,
    )
    decision.changes.append(ch.TaskMoved(command.id, standing))
    decision.changes.append(ch.CallbackUnreachable(command.member, command.reason))
    return decision


def confirm_stop(state: State, command: cmd.ConfirmStop, now: Now) -> Decision:
    """Ends a task that was to stop, because the member no longer runs it."""
    decision = Decision()
    callback = _holder(state, command.id, command.fence)
    if callback is not None and callback.held is not None and is_to_stop(state, callback.held):
        _stopped(state, callback, "stopped on request", now, decision, is_certain=True)
    return decision


def deny_stop(state: State, command: cmd.DenyStop, now: Now) -> Decision:
    """Waits a moment for the report of a task that was to stop and that the member no longer has."""
    decision = Decision()
    callback = _holder(state, command.id, command.fence)
    if callback is not None and callback.held is not None and is_to_stop(state, callback.held):
        until = now.mono + state.settings.callback_absent_grace
        decision.changes.append(ch.CallbackStopDenied(callback.id, until))
    return decision


def run_out(state: State, callback: Callback, now: Now, decision: Decision) -> None:
    """Ends the task that a callback worker holds, or has it stopped, because its deadline has come."""
    held = callback.held
    assert held is not None
    if held.absent:
        _stopped(state, callback, "its worker does not have it", now, decision)
    elif held.overdue:
        _stopped(state, callback, "its worker did not stop it", now, decision)
    else:
        ask_to_stop(callback, now, decision, overdue_mono=now.mono + state.settings.callback_stop_grace)


def ask_to_stop(callback: Callback, now: Now, decision: Decision, *, overdue_mono: float | None = None) -> None:
    """Has a callback worker asked to stop its task. `overdue_mono`: its deadline, if its time limit has just passed."""
    held = callback.held
    assert held is not None
    decision.changes.append(ch.CallbackStopping(callback.id, now.mono, overdue_mono))
    decision.effects.append(ef.StopWork(callback.id, callback.address, held.fence, held.id))


def is_to_stop(state: State, held: Dialled) -> bool:
    """Whether a task that a member holds was cancelled, or is past its time limit."""
    return held.overdue or state.tasks[held.id].standing.cancel_requested


def take_back_orphans(state: State, now: Now) -> Decision:
    """Takes back the running tasks of unknown callback workers, which a leader may find when it starts."""
    decision = Decision()
    for id, task in state.tasks.items():
        standing = task.standing
        if standing.status is Status.RUNNING and not standing.instance and standing.worker not in state.callbacks:
            back = requeue(standing, Outcome.LOST, "its callback worker is gone", now.wall_ms, policy=task.spec.retry)
            decision.changes.append(ch.TaskMoved(id, back))
    return decision


def release(state: State, callback: Callback, reason: str, outcome: Outcome, now: Now, decision: Decision) -> None:
    """Takes back the task of a callback worker, and does not blame the task."""
    if callback.held is not None:
        id = callback.held.id
        task = state.tasks[id]
        trace = taken_back(task, outcome, reason, now, decision) if state.settings.traced else ""
        standing = requeue(task.standing, outcome, reason, now.wall_ms, trace, task.spec.retry)
        decision.changes.append(ch.TaskMoved(id, standing))


def lose(state: State, callback: Callback, reason: str, now: Now, decision: Decision) -> None:
    """Takes back the task of a callback worker as lost. Too many losses put a task into quarantine."""
    _end(state, callback, Outcome.LOST, reason, now, decision)


def _stopped(
    state: State, callback: Callback, reason: str, now: Now, decision: Decision, *, is_certain: bool = False
) -> None:
    """Ends a task that was to stop: as timed out when its time limit has passed, otherwise as cancelled.

    `is_certain` says that its worker has confirmed the stop. Without that, a task that fails if it is lost has timed
    out for good, because its attempt may still run.
    """
    held = callback.held
    assert held is not None
    if not held.overdue:
        _end(state, callback, Outcome.CANCELLED, reason, now, decision)
    elif state.tasks[held.id].standing.fails_if_lost and not is_certain:
        lose(state, callback, f"its time limit ran out: {reason}", now, decision)
    else:
        _end(state, callback, Outcome.TIMED_OUT, reason, now, decision)


def _end(state: State, callback: Callback, outcome: Outcome, reason: str, now: Now, decision: Decision) -> None:
    held = callback.held
    assert held is not None
    task = state.tasks[held.id]
    trace = taken_back(task, outcome, reason, now, decision) if state.settings.traced else ""
    failure = _timeout(task.spec, reason) if outcome is Outcome.TIMED_OUT else None
    report = cmd.Report(held.fence, held.id, outcome, failure=failure, reason=reason, trace=trace)
    decision.changes.append(ch.TaskMoved(held.id, settle(task.standing, report, task.spec.retry, now.wall_ms)))


def _report_of(command: cmd.CompleteTask, task: Task, *, is_overdue: bool) -> cmd.Report:
    """Returns the report that follows from what a member has sent."""
    standing, error = task.standing, command.error
    outcome = command.outcome or (Outcome.COMPLETED if error is None else Outcome.FAILED)
    failure = command.failure
    if outcome is Outcome.COMPLETED:
        return cmd.Report(standing.fence, command.id, outcome)
    if command.outcome is None and standing.cancel_requested:
        outcome = Outcome.CANCELLED
    elif is_overdue and outcome in (Outcome.FAILED, Outcome.CANCELLED, Outcome.INTERRUPTED):
        # The member was asked to stop the task, so this end is the timeout and not an end of the task's own.
        outcome, failure = Outcome.TIMED_OUT, _timeout(task.spec, "stopped on request")
    if failure is None and error is not None and outcome in (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST):
        failure = Failure(FailureKind.HANDLER, error)
    reason = "" if failure is not None else (error or "")[:1000]
    return cmd.Report(
        standing.fence,
        command.id,
        outcome,
        failure=failure,
        retry_delay_ms=command.retry_delay_ms,
        reason=reason,
        not_started=command.not_started,
    )


def _timeout(spec: Spec, reason: str) -> Failure:
    message = f"the time limit of {spec.time_limit_ms / 1000:g} s ran out: {reason}"
    return Failure(FailureKind.TIMEOUT, message, "TimeoutError")


def _is_overdue(state: State, task: Task) -> bool:
    callback = _holder(state, task.spec.id, task.standing.fence)
    return callback is not None and callback.held is not None and callback.held.overdue


def _holder(state: State, id: str, fence: int) -> Callback | None:
    """Returns the callback worker that holds this task under this fence; None when none does."""
    task = state.tasks.get(id)
    if task is None or task.standing.status is not Status.RUNNING or task.standing.instance:
        return None
    callback = state.callbacks.get(task.standing.worker)
    held = None if callback is None else callback.held
    return callback if held is not None and held.fence == fence == task.standing.fence else None


def _of_another(state: State, task: Task, caller: str) -> cmd.Refused | None:
    """Returns the refusal when the caller may not speak for the callback worker that holds the task."""
    standing = task.standing
    if standing.status is not Status.RUNNING or standing.instance:
        return None
    return owners.refusal(state.callbacks.get(standing.worker), caller)


def _not_held(task: Task, method: str, fence: int) -> cmd.Refused | None:
    """Returns the refusal when no callback worker holds the task under this fence; 0 means any fence."""
    standing, id = task.standing, task.spec.id
    if standing.status is not Status.RUNNING:
        what = f"is {standing.status.name}"
    elif standing.instance:
        what = "is held by a worker session"
    elif fence not in (0, standing.fence):
        return cmd.Refused(cmd.STALE_FENCE, f"task {id!r} was granted again since, under fence {standing.fence}")
    else:
        return None
    return cmd.Refused(cmd.NOT_HELD, f"task {id!r} {what}: {method} is for tasks that a callback worker holds")
