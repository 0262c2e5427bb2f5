"""Decides on worker sessions: hellos, frames, broken streams.

A newcomer may prove that earlier instances of its name have ended (PROOF, an invariant that the worker keeps). Then
nothing waits for them.

Invariants: ONE-NAME (no two live sessions have the same name), FENCED (a report moves a task only under the task's
fence and from the instance that holds it).
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from gowork.leader._core import changes as ch
from gowork.leader._core import checkpoints, drains
from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.attempts import complete, requeue, settle
from gowork.leader._core.continuing import Continuing
from gowork.leader._core.decision import Decision
from gowork.leader._core.declared import adopt
from gowork.leader._core.forms import with_form
from gowork.leader._core.model import (
    COMPLETED,
    PENDING,
    RUNNING,
    Failure,
    FailureKind,
    Liveness,
    Now,
    Outcome,
    Progress,
    RetryPolicy,
    Spec,
    Standing,
    Task,
)
from gowork.leader._core.schedules import is_reserved
from gowork.leader._core.state import State, Worker
from gowork.leader._core.tasks import new_tasks, reserved_words
from gowork.leader._core.traces import refused as trace_refused
from gowork.leader._core.traces import settled as trace_settled
from gowork.leader._core.traces import taken_back
from gowork.leader._core.unique import Keys
from gowork.leader._core.upstream import fault_of


def open_session(state: State, hello: cmd.OpenSession, now: Now) -> Decision:
    """Welcomes a worker, unless another one holds its name and answers a ping."""
    decision = Decision()
    same = state.workers.get(hello.instance)
    if same is None and len(state.connections) >= state.settings.sessions_max:
        limit = state.settings.sessions_max
        message = f"this leader has {limit} sessions, which is its limit; end some workers, or try again later"
        return _turn_away(hello, cmd.TOO_MANY_SESSIONS, message)
    holder = state.names.get(hello.name)
    if hello.name in state.callbacks:
        return _turn_away(hello, cmd.NAME_TAKEN, f"a callback worker has the name {hello.name!r}; choose another one")
    if holder is not None and holder is not same and holder.connection is not None:
        if hello.name in state.challenges:
            return _turn_away(hello, cmd.NAME_TAKEN, _taken(hello.name))
        decision.changes.append(ch.ChallengeOpened(hello, now.mono + state.settings.challenge_wait))
        decision.effects.append(ef.Ping(holder.connection))
        return decision
    _admit(state, hello, now, decision)
    return decision


def receive_frame(state: State, frame: cmd.ReceiveFrame, now: Now) -> Decision:
    """Renews the lease and takes in what the frame says."""
    decision = Decision()
    worker = state.connections.get(frame.connection)
    if worker is None:
        # Its stream ended while this frame was under way. The worker will send its reports again.
        return decision
    changes = decision.changes
    changes.append(
        ch.WorkerHeard(
            worker.instance,
            now.mono + state.settings.lease,
            now.wall_ms,
            frame.credit,
            frame.blocked,
            frame.draining,
        )
    )
    challenge = state.challenges.get(worker.name)
    if challenge is not None:
        newcomer = challenge[0]
        changes.append(ch.ChallengeEnded(worker.name))
        decision.effects.append(ef.EndSession(newcomer.connection, cmd.Refused(cmd.NAME_TAKEN, _taken(worker.name))))
    if frame.reports or frame.completions:
        _take_reports(state, worker, frame, now, decision)
    for progress in frame.progress:
        task = _held_by(state, worker, progress.id, progress.fence)
        if task is not None:
            changes.append(ch.TaskProgressed(progress.id, Progress(progress.fraction, progress.message, now.wall_ms)))
    if frame.checkpoints:
        checkpoints.take(state, worker, frame, now, decision)
    if frame.leaving:
        settled = {report.fence for report in frame.reports}
        for columns in frame.completions:
            settled.update(columns.fences)
        # A worker leaves when it has reported all that it had. What it has not reported never reached it.
        reason = "its worker has left"
        lose_tasks(state, worker, Outcome.INTERRUPTED, reason, now, decision, settled, may_have_run=False)
        drains.end_of_worker(state, worker.instance, decision)
        changes.append(ch.WorkerGone(worker.instance, Liveness.LEFT, now.wall_ms))
        decision.effects.append(ef.EndSession(frame.connection, None))
    return decision


def close_session(state: State, command: cmd.CloseSession, now: Now) -> Decision:
    """Starts the reconnect grace of a worker whose stream broke. A newcomer that waits for its name gets it now."""
    decision = Decision()
    worker = state.connections.get(command.connection)
    if worker is None:
        for name, (hello, _) in state.challenges.items():
            if hello.connection == command.connection:
                decision.changes.append(ch.ChallengeEnded(name))
        return decision
    grace_mono = max(now.mono + state.settings.reconnect_grace, state.held_up_until)
    decision.changes.append(ch.SessionClosed(worker.instance, grace_mono))
    challenge = state.challenges.get(worker.name)
    if challenge is not None:
        decision.changes.append(ch.ChallengeEnded(worker.name))
        _admit(state, challenge[0], now, decision, closed=worker.instance)
    return decision


def take_over(state: State, hello: cmd.OpenSession, now: Now, decision: Decision, gone: Sequence[str]) -> None:
    """Gives the name to the newcomer, because its holder did not answer. The holder keeps its tasks for one more lease.

    `gone` are the instances that this decision has ended already.
    """
    decision.changes.append(ch.ChallengeEnded(hello.name))
    holder = state.names.get(hello.name)
    closed = ""
    if holder is not None and holder.connection is not None and holder.instance not in gone:
        closed = holder.instance
        refusal = cmd.Refused(cmd.REPLACED, f"another worker has taken the name {hello.name!r}")
        decision.effects.append(ef.EndSession(holder.connection, refusal))
        decision.changes.append(ch.SessionClosed(holder.instance, now.mono + state.settings.lease))
    _admit(state, hello, now, decision, closed=closed, gone=gone)


def lose_tasks(
    state: State,
    worker: Worker,
    outcome: Outcome,
    reason: str,
    now: Now,
    decision: Decision,
    settled: set[int] | frozenset[int] = frozenset(),
    *,
    may_have_run: bool = True,
) -> None:
    """Takes back all tasks that a worker holds, except those whose fences are in `settled`.

    `may_have_run` is False when it is certain that none of their handlers has begun.
    """
    for fence, id in worker.held.items():
        if fence not in settled:
            task = state.tasks[id]
            trace = taken_back(task, outcome, reason, now, decision) if state.settings.traced else ""
            policy = _policy_of(worker, task)
            standing = requeue(task.standing, outcome, reason, now.wall_ms, trace, policy, may_have_run=may_have_run)
            decision.changes.append(ch.TaskMoved(id, standing))


def _admit(
    state: State, hello: cmd.OpenSession, now: Now, decision: Decision, *, closed: str = "", gone: Sequence[str] = ()
) -> None:
    """Welcomes a worker.

    Args:
        state: the state.
        hello: the worker's Hello.
        now: the time.
        decision: gets what follows.
        closed: the instance whose connection this decision has ended already; empty: none.
        gone: the instances that this decision has ended already.
    """
    _release_ended(state, hello, now, decision, closed, gone)
    worker = state.workers.get(hello.instance)
    if worker is not None and worker.connection is not None:
        refusal = cmd.Refused(cmd.REPLACED, "this worker has connected again")
        decision.effects.append(ef.EndSession(worker.connection, refusal))
    listed = {held.fence for held in hello.held}
    released: list[int] = []
    cancelled: list[int] = []
    for held in hello.held:
        task = state.tasks.get(held.id)
        if task is None or not _holds(task, hello.instance, held.fence):
            # A finished one is not released: its report follows and has an answer of its own.
            if not held.finished:
                released.append(held.fence)
        elif task.standing.cancel_requested:
            cancelled.append(held.fence)
    decision.changes.append(ch.SessionOpened(hello, now.mono + state.settings.lease, now.wall_ms))
    if hello.schedules:
        adopt(state, hello.schedules, now, decision)
    if worker is not None:
        reason = "the grant did not reach its worker"
        lose_tasks(state, worker, Outcome.INTERRUPTED, reason, now, decision, listed, may_have_run=False)
    decision.effects.append(ef.Welcome(hello.connection))
    if released:
        decision.effects.append(ef.ReleaseTasks(hello.connection, released))
    if cancelled:
        decision.effects.append(ef.CancelTasks(hello.connection, cancelled))
    holder = state.names.get(hello.name)
    if holder is not None and holder is not worker:
        drains.end_of_worker(state, holder.instance, decision)
    drains.resume(state, hello, now, decision)


def _release_ended(
    state: State, hello: cmd.OpenSession, now: Now, decision: Decision, closed: str, gone: Sequence[str]
) -> None:
    """Takes back the tasks of the newcomer's earlier instances, which it knows to have ended with all that they ran.

    The tasks do not become suspects, because a whole worker ended and not their runner alone.
    """
    for instance in dict.fromkeys(hello.ended_instances):
        worker = state.workers.get(instance)
        if worker is None or worker.name != hello.name or instance == hello.instance or instance in gone:
            continue
        # An instance with a live connection has not ended, even if the newcomer says so.
        if worker.connection is None or instance == closed:
            reason = "its worker was restarted, and nothing that ran there is left"
            lose_tasks(state, worker, Outcome.LOST, reason, now, decision)
            drains.end_of_worker(state, instance, decision)
            decision.changes.append(ch.WorkerGone(instance, Liveness.LOST, now.wall_ms))


def _take_reports(state: State, worker: Worker, frame: cmd.ReceiveFrame, now: Now, decision: Decision) -> None:
    # The hot path: the loop runs once for each finished task of the cluster.
    instance, tasks, changes, wall_ms = worker.instance, state.tasks, decision.changes, now.wall_ms
    traced = state.settings.traced
    refused: list[int] = []
    taken: dict[int, None] = {}
    scheduled: dict[str, Spec] = {}
    # Most frames have no task with a unique key, and no follow-up.
    keys: Keys | None = None
    continuing: Continuing | None = None
    reports: Sequence[cmd.Report] = frame.reports
    if traced and frame.completions:
        # Spans are made of reports.
        reports = [*reports, *(report for columns in frame.completions for report in columns.reports())]
    for report in reports:
        fence = report.fence
        if fence in taken:
            continue
        taken[fence] = None
        task = tasks.get(report.id)
        if task is None or not _holds(task, instance, fence):
            if not _was_accepted(task, fence, instance):
                refused.append(fence)
                if traced:
                    trace_refused(task, report, worker.name, frame.received_ns, decision)
            continue
        follow_ups: list[ch.TaskSubmitted] = []
        key_changes: Sequence[ch.KeyTaken] = ()
        if report.continuation is not None or (report.follow_ups and report.outcome is Outcome.COMPLETED):
            keys = keys or Keys(state, now)
            continuing = continuing or Continuing(state, now)
            report, follow_ups, key_changes = _schedule(state, task, report, scheduled, continuing, keys, now)
        if traced:
            report = trace_settled(task, report, frame.received_ns, decision)
        policy = None if report.outcome is Outcome.COMPLETED else _policy_of(worker, task)
        standing = settle(task.standing, report, policy, wall_ms)
        if report.unfit:
            standing = _unfit(standing, worker, task)
        if task.spec.unique_key and standing.status >= COMPLETED:
            keys = keys or Keys(state, now)
            keys.end(task)
        if report.continuation is not None and continuing is not None:
            standing = continuing.waiting(standing, report.id)
        changes.append(ch.TaskMoved(report.id, standing))
        changes.extend(follow_ups)
        changes.extend(key_changes)
    if continuing is not None:
        changes.extend(continuing.changes(len(scheduled)))
    if not traced:
        for columns in frame.completions:
            _take_completions(state, worker, columns, wall_ms, taken, refused, decision)
    decision.effects.append(ef.Acknowledge(frame.connection, tuple(taken), refused))


def _schedule(
    state: State,
    task: Task,
    report: cmd.Report,
    scheduled: dict[str, Spec],
    continuing: Continuing,
    keys: Keys,
    now: Now,
) -> tuple[cmd.Report, list[ch.TaskSubmitted], list[ch.KeyTaken]]:
    """Schedules a report's follow-ups, all or none, and has its task wait for others, if it is to be continued.

    Returns:
        The report, which is that of a failed attempt if the follow-ups can't be scheduled or the task can't wait, and
        the changes.
    """
    continuation = report.continuation
    if continuation is not None and task.standing.cancel_requested:
        return replace(report, outcome=Outcome.CANCELLED, follow_ups=(), continuation=None), [], []
    mark, before = keys.mark(), continuing.beside
    if continuation is None:
        # A task may schedule its own successor under its key.
        keys.end(task)
    follow_ups, taken = new_tasks(state, report.follow_ups, scheduled, keys, now)
    names = state.agenda.names
    if names:
        ids = (spec.id for spec in report.follow_ups)
        taken += [(id, reserved_words(id)) for id in ids if is_reserved(names, id)]
    refusal = keys.too_many() or fault_of(
        state, report.follow_ups, scheduled, "follow_ups", waiting=continuing.specs, beside=continuing.beside
    )
    fault = ""
    if taken or refusal is not None:
        why = taken[0][1] if taken else refusal.message if refusal is not None else ""
        fault = f"a follow-up can't be scheduled: {why}"
    else:
        continuing.count([change.spec for change in follow_ups])
    if not fault and continuation is not None and (why := continuing.fault_of(task, continuation, scheduled)):
        fault = f"it can't wait: {why}"
        continuing.beside = before
    if not fault:
        return report, follow_ups, keys.taken(mark)
    # `new_tasks` noted the new ones and their keys, but none of this report's follow-ups is scheduled.
    for follow_up in follow_ups:
        del scheduled[follow_up.spec.id]
    keys.back_to(mark)
    return _rejected(report, fault), [], []


def _take_completions(
    state: State,
    worker: Worker,
    columns: cmd.Completions,
    wall_ms: int,
    taken: dict[int, None],
    refused: list[int],
    decision: Decision,
) -> None:
    """Does with each row what `_take_reports` does with its report, when no spans are made.

    Args:
        state: the state.
        worker: whose reports these are.
        columns: the reports.
        wall_ms: the time.
        taken: the fences that came before in this frame; gets these.
        refused: gets the fences of refused reports.
        decision: gets the changes.
    """
    # The hot path, as in `_take_reports`.
    instance, tasks, change = worker.instance, state.tasks, decision.changes.append
    for id, fence, execution_us, result, data, trace in zip(
        columns.ids,
        columns.fences,
        columns.execution_us,
        columns.results,
        columns.result_data,
        columns.traces,
        strict=True,
    ):
        if fence in taken:
            continue
        taken[fence] = None
        task = tasks.get(id)
        if task is not None and _holds(task, instance, fence):
            change(ch.TaskMoved(id, complete(task.standing, result, data, execution_us, trace, wall_ms)))
        elif not _was_accepted(task, fence, instance):
            refused.append(fence)


def _unfit(standing: Standing, worker: Worker, task: Task) -> Standing:
    """Returns the standing with this worker's form of the handler among those that do not fit."""
    policy = worker.policy_for(task.spec.lane.handler)
    if policy is None or standing.status is not PENDING:
        return standing
    return replace(standing, unfit=with_form(standing.unfit, policy.form))


def _policy_of(worker: Worker, task: Task) -> RetryPolicy | None:
    """Returns the task's own retry policy, or else its handler's."""
    if task.spec.retry is not None:
        return task.spec.retry
    advertised = worker.policy_for(task.spec.lane.handler)
    return None if advertised is None else advertised.retry


def _rejected(report: cmd.Report, why: str) -> cmd.Report:
    """Returns the report as that of a failed attempt, because of its follow-ups or its continuation."""
    failure = Failure(FailureKind.REJECTED, why)
    return cmd.Report(
        report.fence,
        report.id,
        Outcome.FAILED,
        failure=failure,
        execution_us=report.execution_us,
        trace=report.trace,
    )


def _was_accepted(task: Task | None, fence: int, instance: str) -> bool:
    """Whether this report was accepted before and its acknowledgement got lost."""
    if task is None:
        return False
    standing = task.standing
    attempts = standing.attempts
    return bool(attempts) and standing.instance == instance and attempts[-1].fence == fence and standing.fence == fence


def _held_by(state: State, worker: Worker, id: str, fence: int) -> Task | None:
    task = state.tasks.get(id)
    return task if task is not None and _holds(task, worker.instance, fence) else None


def _holds(task: Task, instance: str, fence: int) -> bool:
    standing = task.standing
    return standing.status is RUNNING and standing.fence == fence and standing.instance == instance


def _turn_away(hello: cmd.OpenSession, code: cmd.RefusalCode, message: str) -> Decision:
    decision = Decision()
    decision.effects.append(ef.EndSession(hello.connection, cmd.Refused(code, message)))
    return decision


def _taken(name: str) -> str:
    return f"a live worker has the name {name!r}; stop it or choose another name"
