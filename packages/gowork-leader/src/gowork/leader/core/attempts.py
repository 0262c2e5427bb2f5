"""How an attempt that has ended moves its task.

Rules (DESIGN §4): failed and timed-out attempts use up max_attempts; a loss counts only when the task was alone in
its runner; interrupted and snoozed ones count for nothing; a task that was to be cancelled is not run again.
"""

from __future__ import annotations

from msgspec.structs import replace

from gowork.leader.core.commands import Report
from gowork.leader.core.model import (
    COMPLETED,
    Attempt,
    Failure,
    FailureKind,
    Outcome,
    RetryPolicy,
    Standing,
    Status,
)
from gowork.rpc.limits import ATTEMPTS_KEPT

#: Losses of a task alone in its runner that put it into quarantine.
LOSSES_MAX = 3
_DEFAULT_POLICY = RetryPolicy()
_COMPLETED = Outcome.COMPLETED
#: A multiplier that scatters fences evenly (Knuth, The Art of Computer Programming, 6.4).
_SCATTER = 2654435761


def settle(standing: Standing, report: Report, policy: RetryPolicy | None, wall_ms: int) -> Standing:
    """Where a running task stands after this report.

    Args:
        standing: a RUNNING one.
        report: how its attempt ended.
        policy: the task's own or the handler's, if there is one.
        wall_ms: the time.
    """
    outcome = report.outcome
    reason = report.reason or (report.failure.message[:200] if report.failure is not None else "")
    # A grant may have waited in the worker's buffer: the attempt began when its handler did.
    started_ms = standing.started_ms
    if report.execution_us:
        started_ms = max(started_ms, wall_ms - report.execution_us // 1000)
    ended = Attempt(
        standing.grants, standing.worker, started_ms, wall_ms, outcome, reason, standing.fence, report.trace
    )
    history = (*standing.attempts[1 - ATTEMPTS_KEPT :], ended) if standing.attempts else (ended,)
    if outcome is _COMPLETED:
        return Standing(
            COMPLETED,
            standing.created_ms,
            standing.fence,
            standing.grants,
            standing.attempts_used + 1,
            standing.worker,
            standing.instance,
            started_ms,
            wall_ms,
            report.result,
            report.result_data,
            attempts=history,
            lost_alone=standing.lost_alone,
            suspect=standing.suspect,
        )
    used, lost_alone, suspect, failure = standing.attempts_used, standing.lost_alone, standing.suspect, report.failure
    status, delay_ms = Status.PENDING, 0
    if outcome is Outcome.CANCELLED:
        status = Status.CANCELLED
    elif outcome in (Outcome.FAILED, Outcome.TIMED_OUT):
        used += 1
        policy = policy or _DEFAULT_POLICY
        if failure is None:
            kind = FailureKind.TIMEOUT if outcome is Outcome.TIMED_OUT else FailureKind.HANDLER
            failure = Failure(kind, reason)
        if _is_final(failure, policy, used):
            status = Status.ERROR
        elif report.retry_delay_ms is not None:
            delay_ms = report.retry_delay_ms
        else:
            delay_ms = retry_delay_ms(policy, used, standing.fence)
    elif outcome is Outcome.LOST:
        lost_alone += suspect
        suspect = True
        if lost_alone >= LOSSES_MAX:
            status = Status.ERROR
            failure = Failure(
                FailureKind.QUARANTINED, f"lost {lost_alone} times while it ran alone; the last time: {reason}"
            )
    elif outcome is Outcome.SNOOZED:
        delay_ms = report.retry_delay_ms or 0
    if status is Status.PENDING and standing.cancel_requested:
        status = Status.CANCELLED
    finished = status is not Status.PENDING
    return Standing(
        status,
        standing.created_ms,
        standing.fence,
        standing.grants,
        used,
        standing.worker,
        standing.instance,
        started_ms,
        wall_ms if finished else 0,
        failure=failure,
        not_before_ms=wall_ms + delay_ms if delay_ms and not finished else 0,
        attempts=history,
        lost_alone=lost_alone,
        suspect=suspect,
    )


def requeue(standing: Standing, outcome: Outcome, reason: str, wall_ms: int, trace: str = "") -> Standing:
    """Where a running task stands when the leader itself takes it back, without blame for the task.

    `trace` is the context that the attempt is known by.
    """
    ended = Attempt(
        standing.grants, standing.worker, standing.started_ms, wall_ms, outcome, reason, standing.fence, trace
    )
    status = Status.CANCELLED if standing.cancel_requested else Status.PENDING
    return replace(
        standing,
        status=status,
        finished_ms=wall_ms if status is Status.CANCELLED else 0,
        cancel_requested=False,
        attempts=(*standing.attempts[1 - ATTEMPTS_KEPT :], ended),
    )


def retry_delay_ms(policy: RetryPolicy, used: int, fence: int) -> int:
    """How long to wait after `used` attempts.

    The spread follows from the fence, so that the same history gives the same delay.
    """
    # The exponent is bounded so that a long series of attempts doesn't overflow a float.
    delay = min(policy.initial_delay_ms * policy.factor ** min(used - 1, 64), policy.max_delay_ms)
    spread = (fence * _SCATTER & 0xFFFFFFFF) / 0x100000000
    return int(delay * (1 - policy.jitter * spread))


def _is_final(failure: Failure, policy: RetryPolicy, used: int) -> bool:
    return (
        failure.kind in (FailureKind.REJECTED, FailureKind.NO_RETRY)
        or used >= policy.max_attempts
        or failure.type in policy.no_retry
    )
