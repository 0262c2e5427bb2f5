"""Translates messages of the contract into the core's values and back.

It and `schedule_messages` are the only modules of this layer that fill in messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import grpc

from gowork.base.trace_context import is_traceparent
from gowork.leader._access.audit import RECORDER
from gowork.leader._access.rights import CALLER, caller_name
from gowork.leader._core import commands as cmd
from gowork.leader._core.model import (
    BLOCKED_MS,
    PENDING,
    Failure,
    FailureKind,
    HandlerPolicy,
    HeartbeatStatus,
    Liveness,
    Outcome,
    Plugin,
    Progress,
    QueueSettings,
    Spec,
    Standing,
    Status,
)
from gowork.leader._core.queries import MemberView
from gowork.leader._core.queues import Queue
from gowork.leader._core.ranges import RANGE_KEY, range_of
from gowork.leader._replication.census import Census, LeaderView
from gowork.leader._rpc.columns import SHORT_RESULT_CHARS, check_lengths, completions_from
from gowork.leader._rpc.validation import Violations, check_follow_ups, check_task
from gowork.leader._wire.edits import Edits
from gowork.leader._wire.specs import DEFAULT_QUEUE, on_lost_of, retry_of, spec_from
from gowork.leader.store.codec import restore
from gowork.leader.store.protocol import Record, StoreFormatError
from gowork.proto import limits
from gowork.proto.cluster.v1 import leader_pb2
from gowork.proto.completions import reports_of
from gowork.proto.scheduler.v1 import scheduler_pb2
from gowork.proto.status import Refusal
from gowork.proto.worker.v1 import session_pb2

_VIEW_FULL = scheduler_pb2.TASK_VIEW_FULL
_VIEW_RESULT = scheduler_pb2.TASK_VIEW_RESULT
_COMPLETED = scheduler_pb2.ATTEMPT_OUTCOME_COMPLETED
#: Outcomes with which tasks are scheduled.
_SCHEDULING = (Outcome.COMPLETED, Outcome.WAITING)
_OUTCOMES = {int(outcome): outcome for outcome in Outcome}
_UNKNOWN = Plugin("")
_KINDS = {int(kind): kind for kind in FailureKind}


def task_message(spec: Spec, standing: Standing, view: int, progress: Progress | None = None) -> scheduler_pb2.Task:
    """Returns a task as a client sees it. `view` is a TaskView; UNSPECIFIED means BASIC."""
    if view == _VIEW_RESULT:
        result = scheduler_pb2.Task()
        fill_result(result, spec.id, standing)
        return result
    task = scheduler_pb2.Task.FromString(spec.body + spec.trace)
    if view != _VIEW_FULL:
        task.ClearField("payload")
        task.ClearField("data")
    task.status = int(standing.status)  # type: ignore[assignment]
    task.priority = int(spec.lane.priority)  # type: ignore[assignment]
    task.queue = spec.lane.queue
    if wanted := range_of(spec.lane.selector):
        del task.selector[RANGE_KEY]
        task.plugin_version = wanted
    if spec.delay_ms:
        task.run_at_ms = spec.run_at_ms
    if spec.expires_in_ms:
        task.expires_at_ms = spec.expires_at_ms
    if standing.edit is not None:
        task.changed_at_ms = standing.edit.changed_ms
        task.changed_fields.extend(standing.edit.fields)
    if standing.status is PENDING and standing.not_before_ms >= BLOCKED_MS:
        task.is_waiting = True
    task.fence = standing.fence
    task.created_at_ms = standing.created_ms
    task.started_at_ms = standing.started_ms
    task.finished_at_ms = standing.finished_ms
    task.worker = standing.worker
    task.attempts_used = standing.attempts_used
    task.cancel_requested = standing.cancel_requested
    if standing.failure is not None:
        _fill_failure(task.failure, standing.failure, view)
    if progress is not None:
        task.progress.fraction = progress.fraction
        task.progress.message = progress.message
        task.progress.updated_at_ms = progress.updated_ms
    if view == _VIEW_FULL:
        task.result = standing.result
        task.result_data = standing.result_data
        task.result_is_empty_data = standing.result_is_empty_data
        _fill_attempts(task, standing)
    return task


def record_message(record: Record, view: int) -> scheduler_pb2.Task:
    """Returns a task of a list. A task that can't be read has only its id, its status and the fault."""
    try:
        task = restore(record)
    except StoreFormatError as error:
        message = scheduler_pb2.Task(id=record.id, waiting_reason=str(error))
        message.status = int(record.standing.status)  # type: ignore[assignment]
        return message
    return task_message(task.spec, task.standing, view)


def fill_result(task: scheduler_pb2.Task, id: str, standing: Standing) -> None:
    """Fills in a task as TASK_VIEW_RESULT shows it, which takes no spec."""
    # The hot path of waits: result fields are set only when there is a result.
    task.id = id
    task.status = standing.status  # type: ignore[assignment]
    task.worker = standing.worker
    task.fence = standing.fence
    task.attempts_used = standing.attempts_used
    task.created_at_ms = standing.created_ms
    task.started_at_ms = standing.started_ms
    task.finished_at_ms = standing.finished_ms
    if standing.result:
        task.result = standing.result
    elif standing.result_data:
        task.result_data = standing.result_data
    elif standing.result_is_empty_data:
        task.result_is_empty_data = True
    if standing.failure is not None:
        _fill_failure(task.failure, standing.failure, _VIEW_RESULT)


def member_message(member: MemberView) -> leader_pb2.Member:
    """Returns a member as a client sees it."""
    return leader_pb2.Member(
        id=member.id,
        address=member.address,
        status=member.status,
        liveness=int(member.liveness),  # type: ignore[arg-type]
        kind=leader_pb2.MEMBER_KIND_CALLBACK if member.is_callback else leader_pb2.MEMBER_KIND_SESSION,
        slots=member.slots,
        running=member.running,
        handlers=member.handlers,
        labels=member.labels,
        version=member.version,
        joined_at_ms=member.joined_ms,
        seen_at_ms=member.seen_ms,
        plugin_errors=member.plugin_errors,
        plugins=[leader_pb2.Plugin(name=name, version=version) for name, version in member.plugins],
        queues=member.queues,
    )


def member_stats(views: list[MemberView]) -> list[scheduler_pb2.MemberStats]:
    """Returns for each liveness how many members, slots and running tasks there are. A liveness of none is left out."""
    by_liveness = {liveness: [view for view in views if view.liveness is liveness] for liveness in Liveness}
    return [
        scheduler_pb2.MemberStats(
            liveness=liveness.name,
            members=len(alike),
            slots=sum(view.slots for view in alike),
            running=sum(view.running for view in alike),
        )
        for liveness, alike in by_liveness.items()
        if alike
    ]


def queue_message(name: str, settings: QueueSettings, queue: Queue | None) -> scheduler_pb2.Queue:
    """Returns a queue as a client sees it. Without a `queue` it has no tasks."""
    message = scheduler_pb2.Queue(
        name=name,
        paused=settings.paused,
        weight=settings.weight,
        concurrency_limit=settings.concurrency_limit,
        key_concurrency_limit=settings.key_concurrency_limit,
        rate_limit=settings.rate_limit,
        rate_burst=settings.rate_burst,
    )
    if queue is not None:
        message.waiting, message.delayed, message.running = queue.waiting, queue.delayed, queue.running
    return message


def heartbeat_from(request: leader_pb2.HeartbeatRequest) -> cmd.Heartbeat:
    """Returns the command of a checked heartbeat of a callback worker."""
    return cmd.Heartbeat(request.id, HeartbeatStatus(request.status), caller_name())


def hello_from(hello: session_pb2.Hello, connection: int, peer: str) -> cmd.OpenSession:
    """Returns the command of a checked Hello. Texts for people are cut to their limits."""
    return cmd.OpenSession(
        connection,
        hello.name,
        hello.instance,
        hello.slots,
        tuple(
            HandlerPolicy(
                info.name,
                info.is_default,
                retry_of(info.retry) if info.HasField("retry") else None,
                _cut(info.form, limits.HANDLER_FORM_BYTES_MAX),
                _plugin_of(info),
                _cut(info.description_digest, limits.HANDLER_DIGEST_DIGITS),
                on_lost_of(info.on_lost),
            )
            for info in hello.handlers
        ),
        dict(hello.labels),
        hello.version,
        tuple(cmd.HeldTask(held.id, held.fence, held.state == session_pb2.HELD_STATE_FINISHED) for held in hello.held),
        # These texts are for people. No decision uses them, so they may be cut.
        tuple(_cut(error, limits.PLUGIN_ERROR_BYTES_MAX) for error in hello.plugin_errors[: limits.PLUGIN_ERRORS_MAX]),
        peer,
        tuple(hello.ended_instances),
        frozenset(hello.queues),
    )


def _plugin_of(info: session_pb2.HandlerInfo) -> Plugin | None:
    if not info.plugin and not info.plugin_version:
        return None
    name, version = (_cut(text, limits.PLUGIN_NAME_BYTES_MAX) for text in (info.plugin, info.plugin_version))
    # What is left of a version that was cut would be another version.
    return Plugin(name, version if version == info.plugin_version else "")


def frame_from(frame: session_pb2.ConnectRequest, connection: int, clock_ns: Callable[[], int]) -> cmd.ReceiveFrame:
    """Returns the command of a worker's frame.

    A text that breaks a limit is cut to the limit, and a report that breaks one fails its attempt, because a stream has
    no way to refuse one field.

    Raises:
        Refusal: INVALID_ARGUMENT: columns have different lengths, so that nobody knows which rows belong together, or
            the frame has more than it may have.
    """
    check_lengths(frame)
    conditions = frame.conditions
    reports = [_report_from(report) for report in frame.reports]
    completions: Sequence[cmd.Completions] = ()
    if frame.completions:
        read = [(columns, completions_from(columns, number)) for number, columns in enumerate(frame.completions)]
        completions = tuple(found for _, found in read if found is not None)
        reports += [_report_from(each) for columns, found in read if found is None for each in reports_of(columns)]
    return cmd.ReceiveFrame(
        connection,
        reports,
        max(frame.credit) if frame.credit else None,
        [
            cmd.ProgressReport(
                progress.fence,
                progress.id,
                # A NaN compares false with everything: it becomes 0.
                min(progress.fraction, 1.0) if progress.fraction > 0 else 0.0,
                _cut(progress.message, limits.PROGRESS_MESSAGE_BYTES_MAX),
            )
            for progress in frame.progress
            if not progress.is_checkpoint_alone
        ]
        if frame.progress
        else (),
        conditions[-1].blocked if conditions else None,
        conditions[-1].draining if conditions else None,
        conditions[-1].leaving if conditions else False,
        clock_ns() if reports or completions else 0,
        completions,
        [
            cmd.Checkpoint(progress.fence, progress.id, progress.checkpoint)
            for progress in frame.progress
            if 0 < len(progress.checkpoint) <= limits.CHECKPOINT_BYTES_MAX
        ]
        if frame.progress
        else (),
    )


def _report_from(report: session_pb2.Report) -> cmd.Report:
    # The hot path: most reports carry only a short result, so it reads few other fields.
    result, trace = report.result, report.traceparent
    if trace and not is_traceparent(trace):
        trace = ""
    if report.outcome == _COMPLETED and len(result) < SHORT_RESULT_CHARS:
        data = report.result_data
        if len(data) < SHORT_RESULT_CHARS and not report.follow_ups:
            return cmd.Report(
                report.fence,
                report.id,
                Outcome.COMPLETED,
                result,
                data,
                execution_us=report.execution_us,
                trace=trace,
                result_is_empty_data=not result and report.result_is_empty_data and not data,
            )
    return _whole_report_from(report, trace)


def _whole_report_from(report: session_pb2.Report, trace: str) -> cmd.Report:
    outcome = _OUTCOMES.get(report.outcome)
    failure = _failure_from(report.failure) if report.HasField("failure") else None
    result, data = report.result, report.result_data
    if outcome is None:
        outcome = Outcome.FAILED
        failure = Failure(FailureKind.REJECTED, f"the worker reported the unknown outcome {report.outcome}")
    elif outcome is Outcome.COMPLETED and (
        len(result) * 4 + len(data) > limits.PAYLOAD_BYTES_MAX
        and len(result.encode()) + len(data) > limits.PAYLOAD_BYTES_MAX
    ):
        size = len(result.encode()) + len(data)
        outcome, result, data = Outcome.FAILED, "", b""
        failure = Failure(FailureKind.REJECTED, f"the result has {size} bytes; the limit is {limits.PAYLOAD_BYTES_MAX}")
    follow_ups: tuple[Spec, ...] = ()
    continuation = None
    if outcome is Outcome.WAITING:
        result, data = "", b""
        continuation, fault = _continuation_from(report.continuation)
        if continuation is None:
            outcome, failure = Outcome.FAILED, Failure(FailureKind.REJECTED, f"it can't wait: {fault}")
    if outcome in _SCHEDULING and report.follow_ups:
        for task in report.follow_ups:
            if task.delay_ms:
                # The worker has also set `run_at_ms`, for leaders that do not know delays.
                task.ClearField("run_at_ms")
            if task.expires_in_ms:
                task.ClearField("expires_at_ms")
        fault = check_follow_ups(report.follow_ups) or _out_of_bounds(report.follow_ups)
        if fault:
            outcome, result, data, continuation = Outcome.FAILED, "", b"", None
            failure = Failure(FailureKind.REJECTED, f"a follow-up can't be scheduled: {fault}")
        else:
            follow_ups = tuple([spec_from(task) for task in report.follow_ups])
    return cmd.Report(
        report.fence,
        report.id,
        outcome,
        result,
        data,
        failure,
        _delay_from(report.retry_delay_ms) if report.HasField("retry_delay_ms") else None,
        report.execution_us,
        report.reason[:1000],
        follow_ups,
        trace,
        outcome is Outcome.COMPLETED and report.result_is_empty_data and not result and not data,
        outcome is Outcome.INTERRUPTED and report.unfit,
        outcome is Outcome.INTERRUPTED and report.not_started,
        report.checkpoint if len(report.checkpoint) <= limits.CHECKPOINT_BYTES_MAX else b"",
        continuation,
    )


def _continuation_from(task: scheduler_pb2.Task) -> tuple[cmd.Continuation | None, str]:
    """Returns what a task runs next; or None, and what is wrong with it."""
    violations: Violations = []
    check_task(task, "", violations)
    if violations:
        return None, f"{violations[0].field}: {violations[0].description}"
    if not task.handler:
        return None, "handler: it is empty; name the handler that runs next"
    caller = CALLER.get()
    if caller is not None and not caller.may_handler(task.handler):
        return None, _recorded(f"{caller.words} may not schedule for handler {task.handler!r}")
    after = tuple(dict.fromkeys(task.after))
    edits = Edits(
        handler=task.handler,
        payload=task.payload,
        data=task.data,
        payload_form=int(task.payload_form),
        after=after,
        after_rule=int(task.after_rule),
    )
    return cmd.Continuation(after, edits.apply), ""


def _recorded(words: str) -> str:
    """Records that a worker may not do what it reports. Returns the words for it."""
    if (record := RECORDER.get()) is not None:
        record(Refusal(grpc.StatusCode.PERMISSION_DENIED, "OUT_OF_BOUNDS", words))
    return words


def _out_of_bounds(tasks: Iterable[scheduler_pb2.Task]) -> str:
    """Returns why the worker that reports now may not schedule one of these tasks, which is recorded; empty: it may."""
    caller = CALLER.get()
    if caller is None or not caller.is_bound:
        return ""
    outside = (task for task in tasks if not caller.may_lane(task.queue or DEFAULT_QUEUE, task.handler))
    task = next(outside, None)
    if task is None:
        return ""
    queue = task.queue or DEFAULT_QUEUE
    return _recorded(f"{caller.words} may not schedule for handler {task.handler!r} in queue {queue!r}")


def _failure_from(failure: scheduler_pb2.Failure) -> Failure:
    return Failure(
        _KINDS.get(failure.kind, FailureKind.HANDLER),
        _cut(failure.message, limits.FAILURE_MESSAGE_BYTES_MAX),
        _cut(failure.type, limits.NAME_BYTES_MAX),
        _cut_start(failure.traceback, limits.FAILURE_TRACEBACK_BYTES_MAX),
    )


def progress_from(request: scheduler_pb2.TaskProgressRequest) -> cmd.TellProgress:
    """Returns the command of a callback worker's checked progress. Its message is cut to the limit."""
    message = _cut(request.message, limits.PROGRESS_MESSAGE_BYTES_MAX)
    return cmd.TellProgress(request.id, request.fraction, message, request.fence, caller_name())


def completion_from(request: scheduler_pb2.TaskCompleteRequest) -> cmd.CompleteTask:
    """Returns the command of a callback worker's checked report. Texts that are too long are cut to the limit."""
    return cmd.CompleteTask(
        request.id,
        _cut(request.error, limits.FAILURE_MESSAGE_BYTES_MAX) if request.HasField("error") else None,
        request.fence,
        # A newer member may send an unknown outcome, and none can wait. Then `error` decides.
        None if request.outcome == scheduler_pb2.ATTEMPT_OUTCOME_WAITING else _OUTCOMES.get(request.outcome),
        _failure_from(request.failure) if request.HasField("failure") else None,
        _delay_from(request.retry_delay_ms) if request.HasField("retry_delay_ms") else None,
        retry_of(request.retry) if request.HasField("retry") else None,
        caller_name(),
        request.outcome == scheduler_pb2.ATTEMPT_OUTCOME_INTERRUPTED and request.not_started,
    )


def _delay_from(delay_ms: int) -> int:
    return min(max(0, delay_ms), limits.REPORTED_DELAY_MS_MAX)


def _fill_failure(message: scheduler_pb2.Failure, failure: Failure, view: int) -> None:
    message.kind = int(failure.kind)  # type: ignore[assignment]
    message.message = failure.message
    message.type = failure.type
    if view in (_VIEW_FULL, _VIEW_RESULT):
        message.traceback = failure.traceback


def _fill_attempts(task: scheduler_pb2.Task, standing: Standing) -> None:
    for attempt in standing.attempts:
        plugin = attempt.plugin or _UNKNOWN
        task.attempts.add(
            number=attempt.number,
            worker=attempt.worker,
            started_at_ms=attempt.started_ms,
            ended_at_ms=attempt.ended_ms,
            outcome=int(attempt.ended_as),
            reason=attempt.reason,
            fence=attempt.fence,
            traceparent=attempt.trace,
            plugin=plugin.name,
            plugin_version=plugin.version,
        )
    if standing.status is Status.RUNNING:
        plugin = standing.plugin or _UNKNOWN
        task.attempts.add(
            number=standing.grants,
            worker=standing.worker,
            started_at_ms=standing.started_ms,
            fence=standing.fence,
            plugin=plugin.name,
            plugin_version=plugin.version,
        )


def fit(messages: Iterable[scheduler_pb2.Task], bytes_max: int) -> tuple[list[scheduler_pb2.Task], bool]:
    """Returns the first messages that fit into `bytes_max` bytes, and whether those are all."""
    fitting: list[scheduler_pb2.Task] = []
    size = 0
    for message in messages:
        # A field's tag and length take up to 5 bytes.
        size += message.ByteSize() + 5
        if size > bytes_max:
            return fitting, False
        fitting.append(message)
    return fitting, True


def _cut(text: str, bytes_max: int) -> str:
    if len(text) * 4 <= bytes_max:
        return text
    return text.encode()[:bytes_max].decode(errors="ignore")


def _cut_start(text: str, bytes_max: int) -> str:
    if len(text) * 4 <= bytes_max:
        return text
    return text.encode()[-bytes_max:].decode(errors="ignore")


def leader_message(view: LeaderView) -> leader_pb2.Leader:
    """Returns a leader as operators see it."""
    own = view.announcement
    return leader_pb2.Leader(
        name=own.name,
        store_id=own.store_id,
        leads=view.term > 0,
        term=view.term,
        leads_since_ms=own.stood_ms if view.term else 0,
        applied_index=view.applied,
        forced_index=view.forced,
        lag_entries=view.lag,
        cluster_address=own.cluster,
        scheduler_address=own.scheduler,
        http_address=own.http,
        version=own.version,
        seen_at_ms=view.seen_ms,
    )


def census_message(census: Census, answered_by: str) -> leader_pb2.LeadersResponse:
    """Returns the leaders and their log. `answered_by` is the id of the store of the leader that answers."""
    log = leader_pb2.Log(generation=census.generation, first_index=census.span.first, last_index=census.span.last)
    return leader_pb2.LeadersResponse(
        leaders=[leader_message(view) for view in census.leaders], log=log, answered_by=answered_by
    )
