"""Makes the report of an attempt: from the result, from an exception, or from what the worker did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.bounds import duration_ms
from gowork.worker._core.codec import PayloadError, ResultCheck, ResultError, encode_result
from gowork.worker._core.new_tasks import FollowUp
from gowork.worker._core.steering import Cancel, Delay, Fail, Snooze, Steering
from gowork.worker._core.waiting import Wait
from gowork.worker._runner import endings, exceptions
from gowork.worker._runner.completion import AttemptReport, Completion
from gowork.worker._runner.endings import interrupted
from gowork.worker._runner.exceptions import cut
from gowork.worker._runner.job import Job

#: {outcome: its word in metrics, logs and spans}
STATUS = {
    tasks.ATTEMPT_OUTCOME_COMPLETED: "completed",
    tasks.ATTEMPT_OUTCOME_FAILED: "failed",
    tasks.ATTEMPT_OUTCOME_TIMED_OUT: "timed_out",
    tasks.ATTEMPT_OUTCOME_LOST: "lost",
    tasks.ATTEMPT_OUTCOME_INTERRUPTED: "interrupted",
    tasks.ATTEMPT_OUTCOME_CANCELLED: "cancelled",
    tasks.ATTEMPT_OUTCOME_SNOOZED: "snoozed",
    tasks.ATTEMPT_OUTCOME_WAITING: "waiting",
}


_PRIORITIES = {
    "low": tasks.TASK_PRIORITY_LOW,
    "medium": tasks.TASK_PRIORITY_MEDIUM,
    "high": tasks.TASK_PRIORITY_HIGH,
}
_ON_LOST = {"again": tasks.ON_LOST_AGAIN, "fail": tasks.ON_LOST_FAIL}


def waiting(job: Job, wait: Wait) -> session.Report:
    """Reports that the handler returned this, so that its task goes on after others."""
    context = job.context
    assert context is not None
    report = session.Report(fence=job.fence, id=job.id, outcome=tasks.ATTEMPT_OUTCOME_WAITING)
    report.reason = f"waits for {len(wait.after):,} tasks; then {wait.then}"
    following = report.continuation
    following.id = job.id
    following.handler = wait.then
    following.payload, following.data, form = wait.payload or (context.payload, context.data, context.payload_form)
    following.payload_form = form  # type: ignore[assignment] # Its number.
    following.after.extend(wait.after)
    if wait.after_rule and wait.after:
        following.after_rule = tasks.AfterRule.Value(f"AFTER_RULE_{wait.after_rule.upper()}")
    for follow_up in context.follow_ups:
        fill_follow_up(report.follow_ups.add(), follow_up)
    return report


def completed(
    fence: int, id: str, value: object, follow_ups: Sequence[FollowUp] = (), check: ResultCheck | None = None
) -> AttemptReport:
    """Reports that the handler returned this result and scheduled these tasks.

    Raises:
        ResultError: when it cannot be a result, or `check` refuses it.
    """
    text, data = encode_result(value)
    if check is not None:
        check(value, text, data)
    completion = Completion(fence, id, text, data)
    if not follow_ups and (text or data):
        return completion
    report = completion.message()
    report.result_is_empty_data = not text and not data
    for follow_up in follow_ups:
        fill_follow_up(report.follow_ups.add(), follow_up)
    return report


def failed(fence: int, id: str, error: BaseException, no_retry: Iterable[str] = ()) -> session.Report:
    """Reports that the handler raised, or that its payload or result was at fault. Raises nothing, whatever the
    exception's own methods do.

    Args:
        fence: the attempt's fence.
        id: the task's id.
        error: what was raised.
        no_retry: names of exception types after which the task is not tried again; a subclass counts too.
    """
    report = session.Report(fence=fence, id=id, outcome=tasks.ATTEMPT_OUTCOME_FAILED)
    report.failure.kind = tasks.FAILURE_KIND_HANDLER
    report.failure.type = cut(exceptions.type_name(error), limits.NAME_BYTES_MAX)
    report.failure.message = exceptions.text(error)
    if not exceptions.is_a(error, Steering):
        if exceptions.is_a(error, PayloadError):
            report.failure.kind = tasks.FAILURE_KIND_REJECTED
            return report
        if exceptions.is_a(error, ResultError):
            # Another attempt would return the like.
            report.failure.kind = tasks.FAILURE_KIND_NO_RETRY
            return report
        if no_retry and not exceptions.type_names(error).isdisjoint(no_retry):
            report.failure.kind = tasks.FAILURE_KIND_NO_RETRY
        report.failure.traceback = exceptions.trace(error)
    elif exceptions.is_a(error, Cancel):
        report.outcome = tasks.ATTEMPT_OUTCOME_CANCELLED
        _say_reason(report)
    elif exceptions.is_a(error, Fail):
        if _attribute(error, "retry") is not True:
            report.failure.kind = tasks.FAILURE_KIND_NO_RETRY
    else:
        _delay(report, error, snoozed=exceptions.is_a(error, Snooze))
    return report


def outcome_of(error: BaseException) -> tasks.AttemptOutcome.ValueType:
    """Returns the outcome that `failed` reports for an exception, without the report."""
    if exceptions.is_a(error, Cancel):
        return tasks.ATTEMPT_OUTCOME_CANCELLED
    delay_ms = _attribute(error, "delay_ms")
    if exceptions.is_a(error, Snooze) and type(delay_ms) is int and delay_ms >= 0:
        return tasks.ATTEMPT_OUTCOME_SNOOZED
    return tasks.ATTEMPT_OUTCOME_FAILED


def _delay(report: session.Report, error: BaseException, *, snoozed: bool) -> None:
    """Adds the delay that Retry or Snooze asks for. A subclass may lack the attribute, or have any value there."""
    delay_ms = _attribute(error, "delay_ms")
    if type(delay_ms) is int and delay_ms >= 0:
        report.retry_delay_ms = min(delay_ms, limits.REPORTED_DELAY_MS_MAX)
        if snoozed:
            report.outcome = tasks.ATTEMPT_OUTCOME_SNOOZED
            _say_reason(report)
    elif snoozed:
        # Without a delay the task would run again at once, for ever, and use up no attempt.
        report.failure.message = (
            f"{report.failure.type} snoozes without a delay: its __init__ must call super().__init__(reason, delay=…)"
        )


def _say_reason(report: session.Report) -> None:
    """Makes the failure's text the reason, because the attempt has not failed."""
    report.reason = report.failure.message
    report.ClearField("failure")


def _attribute(error: BaseException, name: str) -> object:
    try:
        return getattr(error, name, None)
    except BaseException:  # noqa: BLE001 - it may be a property of the handler's, or __getattr__
        return None


def unfit(rejected: session.Report, *, not_started: bool) -> session.Report:
    """Reports that the payload does not fit here, but may fit the handler of another worker."""
    report = interrupted(rejected.fence, rejected.id, rejected.failure.message, not_started=not_started)
    report.unfit = True
    return report


def rejected(fence: int, id: str, reason: str) -> session.Report:
    """Reports that this worker cannot run the task."""
    return endings.rejected(fence, id, cut(reason, limits.FAILURE_MESSAGE_BYTES_MAX))


def fill_follow_up(task: tasks.Task, follow_up: FollowUp) -> None:
    """Writes a task that is to be scheduled into its message."""
    task.id = follow_up.id
    task.handler = follow_up.handler
    task.payload = follow_up.payload
    task.data = follow_up.data
    task.payload_form = follow_up.payload_form  # type: ignore[assignment] # Its number.
    task.queue = follow_up.queue
    if follow_up.priority is not None:
        task.priority = _PRIORITIES[follow_up.priority]
    task.labels.update(follow_up.labels)
    task.selector.update(follow_up.selector)
    task.run_at_ms = follow_up.run_at_ms
    task.delay_ms = follow_up.delay_ms
    task.time_limit_ms = follow_up.time_limit_ms
    task.plugin_version = follow_up.plugin_version
    task.unique_key = follow_up.unique_key
    task.unique_for_ms = follow_up.unique_for_ms
    task.after.extend(follow_up.after)
    if follow_up.after_rule:
        task.after_rule = tasks.AfterRule.Value(f"AFTER_RULE_{follow_up.after_rule.upper()}")
    if follow_up.group is not None:
        task.group.SetInParent()
        if follow_up.group is not True:
            task.group.children = follow_up.group
    task.expires_at_ms = follow_up.expires_at_ms
    task.expires_in_ms = follow_up.expires_in_ms
    task.concurrency_key = follow_up.concurrency_key
    if follow_up.on_lost:
        task.on_lost = _ON_LOST[follow_up.on_lost]
    if follow_up.max_attempts:
        task.retry.max_attempts = follow_up.max_attempts
    if follow_up.retry is not None:
        policy = follow_up.retry
        task.retry.initial_delay_ms = _ms("initial_delay", policy.initial_delay)
        task.retry.factor = policy.factor
        task.retry.max_delay_ms = _ms("max_delay", policy.max_delay)
        task.retry.jitter = policy.jitter
        task.retry.no_retry.extend(policy.no_retry)


def _ms(name: str, delay: Delay) -> int:
    return duration_ms(f"retry.{name}", delay, limits.RETRY_DELAY_MS_MAX)
