"""Reports of attempts that end by other means than their handler: stopped, lost, or never started.

The desk makes them as well as the runner, so they need nothing that only a runner has.
"""

from __future__ import annotations

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session


def timed_out(fence: int, id: str, limit_ms: int) -> session.Report:
    """The time limit ran out. `limit_ms` is 0 where the limit is not known."""
    report = session.Report(fence=fence, id=id, outcome=tasks.ATTEMPT_OUTCOME_TIMED_OUT)
    report.failure.kind = tasks.FAILURE_KIND_TIMEOUT
    report.failure.type = "TimeoutError"
    report.failure.message = (
        f"the time limit of {limit_ms / 1000:g} s ran out" if limit_ms else "the time limit ran out"
    )
    return report


def lost(fence: int, id: str, reason: str) -> session.Report:
    """Reports that the runner ended while the task ran."""
    report = session.Report(fence=fence, id=id, outcome=tasks.ATTEMPT_OUTCOME_LOST, reason=reason)
    report.failure.kind = tasks.FAILURE_KIND_HANDLER
    report.failure.type = "RunnerLost"
    report.failure.message = reason
    return report


def rejected(fence: int, id: str, reason: str) -> session.Report:
    """Reports that this worker can't run the task, or that what it has brought about can't be told."""
    report = session.Report(fence=fence, id=id, outcome=tasks.ATTEMPT_OUTCOME_FAILED)
    report.failure.kind = tasks.FAILURE_KIND_REJECTED
    report.failure.type = "Rejected"
    report.failure.message = reason
    return report


def cancelled(fence: int, id: str, reason: str) -> session.Report:
    """Reports that the task was cancelled, and no longer runs."""
    return session.Report(fence=fence, id=id, outcome=tasks.ATTEMPT_OUTCOME_CANCELLED, reason=reason)


def interrupted(fence: int, id: str, reason: str, *, not_started: bool = False) -> session.Report:
    """It goes back to the queue and uses up no attempt.

    `not_started` says that its handler certainly never began. Without that, a task that must not run twice ends.
    """
    outcome = tasks.ATTEMPT_OUTCOME_INTERRUPTED
    return session.Report(fence=fence, id=id, outcome=outcome, reason=reason, not_started=not_started)
