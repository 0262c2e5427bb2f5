"""What an attempt's end means: a result, or an exception, becomes a Report."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Sequence

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.rpc import limits
from gowork.worker._core.codec import PayloadError, encode_result
from gowork.worker._core.follow_ups import FollowUp
from gowork.worker._core.steering import Cancel, Fail, Retry, Snooze

#: Words for metrics and logs.
STATUS = {
    tasks.ATTEMPT_OUTCOME_COMPLETED: "completed",
    tasks.ATTEMPT_OUTCOME_FAILED: "failed",
    tasks.ATTEMPT_OUTCOME_TIMED_OUT: "timed_out",
    tasks.ATTEMPT_OUTCOME_LOST: "lost",
    tasks.ATTEMPT_OUTCOME_INTERRUPTED: "interrupted",
    tasks.ATTEMPT_OUTCOME_CANCELLED: "cancelled",
    tasks.ATTEMPT_OUTCOME_SNOOZED: "snoozed",
}


_PRIORITIES = {
    "low": tasks.TASK_PRIORITY_LOW,
    "medium": tasks.TASK_PRIORITY_MEDIUM,
    "high": tasks.TASK_PRIORITY_HIGH,
}


def completed(fence: int, id: str, value: object, follow_ups: Sequence[FollowUp] = ()) -> session.Report:
    """The handler returned this value, and has scheduled these tasks.

    Raises:
        ResultError: when it cannot be a result.
    """
    text, data = encode_result(value)
    report = session.Report()
    # Assigned one by one: this runs once for each task, and keywords cost twice as much.
    report.fence = fence
    report.id = id
    report.outcome = tasks.ATTEMPT_OUTCOME_COMPLETED
    if data:
        report.result_data = data
    else:
        report.result = text
    for follow_up in follow_ups:
        _fill_follow_up(report.follow_ups.add(), follow_up)
    return report


def failed(fence: int, id: str, error: BaseException, no_retry: Iterable[str] = ()) -> session.Report:
    """The handler raised this exception, or its payload or result was at fault.

    Args:
        fence: the attempt's fence.
        id: the task's id.
        error: what was raised.
        no_retry: names of exception types that are not tried again; a subclass counts.
    """
    report = session.Report(fence=fence, id=id, outcome=tasks.ATTEMPT_OUTCOME_FAILED)
    kind = tasks.FAILURE_KIND_HANDLER
    match error:
        case Snooze():
            report.outcome = tasks.ATTEMPT_OUTCOME_SNOOZED
            report.retry_delay_ms = error.delay_ms
            report.reason = cut(_text(error), limits.FAILURE_MESSAGE_BYTES_MAX)
            return report
        case Cancel():
            report.outcome = tasks.ATTEMPT_OUTCOME_CANCELLED
            report.reason = cut(_text(error), limits.FAILURE_MESSAGE_BYTES_MAX)
            return report
        case Retry():
            if error.delay_ms is not None:
                report.retry_delay_ms = error.delay_ms
        case Fail():
            kind = tasks.FAILURE_KIND_HANDLER if error.retry else tasks.FAILURE_KIND_NO_RETRY
        case PayloadError():
            kind = tasks.FAILURE_KIND_REJECTED
        case _ if no_retry and not {base.__name__ for base in type(error).__mro__}.isdisjoint(no_retry):
            kind = tasks.FAILURE_KIND_NO_RETRY
    report.failure.kind = kind
    report.failure.type = type(error).__name__
    report.failure.message = cut(_text(error), limits.FAILURE_MESSAGE_BYTES_MAX)
    if not isinstance(error, (Retry, Fail, PayloadError)):
        report.failure.traceback = _traceback(error)
    return report


def timed_out(fence: int, id: str, limit_ms: int) -> session.Report:
    """The time limit ran out."""
    report = session.Report(fence=fence, id=id, outcome=tasks.ATTEMPT_OUTCOME_TIMED_OUT)
    report.failure.kind = tasks.FAILURE_KIND_TIMEOUT
    report.failure.type = "TimeoutError"
    report.failure.message = (
        f"the time limit of {limit_ms / 1000:g} s ran out" if limit_ms else "the time limit ran out"
    )
    return report


def lost(fence: int, id: str, reason: str) -> session.Report:
    """The runner vanished while the task ran."""
    report = session.Report(fence=fence, id=id, outcome=tasks.ATTEMPT_OUTCOME_LOST, reason=reason)
    report.failure.kind = tasks.FAILURE_KIND_HANDLER
    report.failure.type = "RunnerLost"
    report.failure.message = reason
    return report


def cancelled(fence: int, id: str, reason: str) -> session.Report:
    """It was to be cancelled, and no longer runs."""
    return session.Report(fence=fence, id=id, outcome=tasks.ATTEMPT_OUTCOME_CANCELLED, reason=reason)


def interrupted(fence: int, id: str, reason: str) -> session.Report:
    """It goes back without blame."""
    return session.Report(fence=fence, id=id, outcome=tasks.ATTEMPT_OUTCOME_INTERRUPTED, reason=reason)


def rejected(fence: int, id: str, reason: str) -> session.Report:
    """This worker cannot take it."""
    report = session.Report(fence=fence, id=id, outcome=tasks.ATTEMPT_OUTCOME_FAILED)
    report.failure.kind = tasks.FAILURE_KIND_REJECTED
    report.failure.type = "Rejected"
    report.failure.message = cut(reason, limits.FAILURE_MESSAGE_BYTES_MAX)
    return report


def _fill_follow_up(task: tasks.Task, follow_up: FollowUp) -> None:
    task.id = follow_up.id
    task.handler = follow_up.handler
    task.payload = follow_up.payload
    task.data = follow_up.data
    task.queue = follow_up.queue
    if follow_up.priority is not None:
        task.priority = _PRIORITIES[follow_up.priority]
    task.labels.update(follow_up.labels)
    task.selector.update(follow_up.selector)
    task.run_at_ms = follow_up.run_at_ms
    task.time_limit_ms = follow_up.time_limit_ms
    if follow_up.max_attempts:
        task.retry.max_attempts = follow_up.max_attempts


def cut(text: str, bytes_max: int) -> str:
    """The beginning of a text, in at most so many bytes. Lone surrogates, which protobuf refuses, are written as
    escapes.
    """
    data = text.encode(errors="backslashreplace")
    return (data if len(data) <= bytes_max else data[: bytes_max - 3] + "…".encode()).decode(errors="ignore")


def _text(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception as second:  # noqa: BLE001 - the handler's exception may have a broken __str__
        return f"{type(error).__name__}, whose text cannot be read: {type(second).__name__}"


def _traceback(error: BaseException) -> str:
    # The first frames are the executor's own.
    trace = error.__traceback__
    while trace is not None and f"{'_runner'}/" in trace.tb_frame.f_code.co_filename:
        trace = trace.tb_next
    lines = traceback.format_exception(type(error), error, trace or error.__traceback__, limit=-50)
    data = "".join(lines).encode(errors="backslashreplace")
    return data[-limits.FAILURE_TRACEBACK_BYTES_MAX :].decode(errors="ignore")
