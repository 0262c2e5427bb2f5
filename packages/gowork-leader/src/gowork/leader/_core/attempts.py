"""How an attempt that has ended moves its task.

Rules: completed, failed and timed-out attempts count towards max_attempts. Lost, interrupted and snoozed ones are
uncounted. LOSSES_MAX losses of a task that was alone in its runner end it. A task that was to be cancelled is not run
again. A task that fails if it is lost (`Standing.fails_if_lost`) is not run again after an attempt whose handler may
have begun, unless the handler itself has reported how it ended.

A task whose handler waits for others (WAITING) begins anew with what it runs next: all of its attempts are left. After
UNCOUNTED_MAX waits in a row for nothing the next one fails (`continuing`).

No task loops for nothing. After the first UNCOUNTED_AT_ONCE uncounted attempts in a row a task goes back at once,
because a rolling restart hands a task on several times. After each further one it waits longer. Beyond UNCOUNTED_MAX
each one counts.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from gowork.leader._core.commands import Report
from gowork.leader._core.model import (
    COMPLETED,
    Attempt,
    Failure,
    FailureKind,
    Outcome,
    RetryPolicy,
    Standing,
    Status,
)
from gowork.proto.limits import ATTEMPTS_KEPT

#: A task that was lost this often while alone in its runner goes into quarantine.
LOSSES_MAX = 3
#: After how many uncounted attempts in a row a task may still run again at once.
UNCOUNTED_AT_ONCE = 5
#: How long the task waits after the next one, in milliseconds. Each further one doubles the wait, up to the maximum.
UNCOUNTED_DELAY_MS = 100
UNCOUNTED_DELAY_MS_MAX = 30_000
#: How many attempts in a row may be uncounted. They take at least 45 minutes.
UNCOUNTED_MAX = 100
#: An attempt that was held for at least this many milliseconds is no part of a loop: it begins a new row.
LASTING_MS = 60_000
#: How long a snooze that asks for less waits, in milliseconds, once UNCOUNTED_AT_ONCE uncounted attempts precede it.
SNOOZE_MS_MIN = 1_000
_DEFAULT_POLICY = RetryPolicy()
_COMPLETED = Outcome.COMPLETED
#: A multiplier that scatters fences evenly (Knuth, The Art of Computer Programming, 6.4).
_SCATTER = 2654435761


def complete(
    standing: Standing,
    result: str,
    result_data: bytes,
    execution_us: int,
    trace: str,
    wall_ms: int,
    reason: str = "",
    *,
    result_is_empty_data: bool = False,
) -> Standing:
    """Returns where a running task stands when its attempt has completed.

    Args:
        standing: a RUNNING one.
        result: what the handler returned as text, and the next one as bytes.
        result_data: see `result`.
        execution_us: how long the handler ran, in microseconds.
        trace: the traceparent of the attempt's span; empty when it was not traced.
        wall_ms: the time.
        reason: what the report says besides.
        result_is_empty_data: whether the handler returned empty bytes.
    """
    started_ms = standing.started_ms
    if execution_us:
        started_ms = max(started_ms, wall_ms - execution_us // 1000)
    fence, grants, worker, attempts = standing.fence, standing.grants, standing.worker, standing.attempts
    ended = Attempt(grants, worker, started_ms, wall_ms, _COMPLETED, reason, fence, trace, standing.plugin)
    return Standing(
        COMPLETED,
        standing.created_ms,
        fence,
        grants,
        standing.attempts_used + 1,
        worker,
        standing.instance,
        started_ms,
        wall_ms,
        result,
        result_data,
        attempts=(*attempts[1 - ATTEMPTS_KEPT :], ended) if attempts else (ended,),
        lost_alone=standing.lost_alone,
        suspect=standing.suspect,
        result_is_empty_data=result_is_empty_data,
        edit=standing.edit,
    )


def settle(standing: Standing, report: Report, policy: RetryPolicy | None, wall_ms: int) -> Standing:
    """Returns where a running task stands after this report.

    Args:
        standing: a RUNNING one.
        report: how its attempt ended.
        policy: the task's own retry policy, or else its handler's, if there is one.
        wall_ms: the time.
    """
    outcome = report.outcome
    reason = report.reason or (report.failure.message[:200] if report.failure is not None else "")
    if outcome is _COMPLETED:
        return complete(
            standing,
            report.result,
            report.result_data,
            report.execution_us,
            report.trace,
            wall_ms,
            reason,
            result_is_empty_data=report.result_is_empty_data,
        )
    # A grant may have waited in the worker's buffer: the attempt began when its handler did.
    started_ms = standing.started_ms
    if report.execution_us:
        started_ms = max(started_ms, wall_ms - report.execution_us // 1000)
    waits = outcome is Outcome.WAITING
    ended = Attempt(
        standing.grants,
        standing.worker,
        started_ms,
        wall_ms,
        Outcome.SNOOZED if waits else outcome,
        reason,
        standing.fence,
        report.trace,
        standing.plugin,
        waits,
    )
    history = (*standing.attempts[1 - ATTEMPTS_KEPT :], ended) if standing.attempts else (ended,)
    used, lost_alone, suspect, failure = standing.attempts_used, standing.lost_alone, standing.suspect, report.failure
    status, delay_ms, uncounted, continued = Status.PENDING, 0, 0, standing.continued
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
    elif _ends_as_lost(standing, outcome, may_have_run=not report.not_started):
        status, failure = Status.ERROR, _lost(reason)
    elif outcome is Outcome.LOST:
        lost_alone += suspect
        suspect = True
        if lost_alone >= LOSSES_MAX:
            status = Status.ERROR
            failure = Failure(
                FailureKind.QUARANTINED, f"lost {lost_alone} times while it ran alone; the last time: {reason}"
            )
        else:
            back = _taken_back(standing, policy, reason, wall_ms)
            status, used, delay_ms, uncounted = back.status, back.used, back.delay_ms, back.uncounted
            failure = back.failure or failure
    elif outcome is Outcome.INTERRUPTED:
        back = _taken_back(standing, policy, reason, wall_ms)
        status, used, delay_ms, uncounted = back.status, back.used, back.delay_ms, back.uncounted
        failure = back.failure or failure
    elif waits:
        used, lost_alone, suspect, continued, failure = 0, 0, False, continued + 1, None
    elif outcome is Outcome.SNOOZED:
        delay_ms = report.retry_delay_ms or 0
        if delay_ms < SNOOZE_MS_MIN:
            # A handler may poll for as long as it likes: its snoozes alone never come near UNCOUNTED_MAX.
            before = _uncounted_before(standing, wall_ms)
            uncounted = max(before, min(before + 1, UNCOUNTED_AT_ONCE + 1))
            delay_ms = delay_ms if uncounted <= UNCOUNTED_AT_ONCE else SNOOZE_MS_MIN
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
        uncounted=0 if finished else uncounted,
        unfit=() if finished else standing.unfit,
        edit=standing.edit,
        checkpoint=b"" if finished or waits else report.checkpoint or standing.checkpoint,
        continued=continued,
    )


def requeue(
    standing: Standing,
    outcome: Outcome,
    reason: str,
    wall_ms: int,
    trace: str = "",
    policy: RetryPolicy | None = None,
    *,
    began: bool = True,
    may_have_run: bool = True,
) -> Standing:
    """Returns where a running task stands when the leader itself takes it back and does not blame the task.

    Args:
        standing: a RUNNING one.
        outcome: LOST or INTERRUPTED.
        reason: why, in words.
        wall_ms: the time.
        trace: the traceparent of the attempt's span; empty when it has none.
        policy: the task's own retry policy, or else its handler's, if there is one.
        began: False when the handler certainly never saw the task: then the attempt is always uncounted.
        may_have_run: False when it is certain that the handler never began, whoever had the task.
    """
    ended = Attempt(
        standing.grants,
        standing.worker,
        standing.started_ms,
        wall_ms,
        outcome,
        reason,
        standing.fence,
        trace,
        standing.plugin,
    )
    attempts = (*standing.attempts[1 - ATTEMPTS_KEPT :], ended)
    if standing.cancel_requested:
        return replace(
            standing,
            status=Status.CANCELLED,
            finished_ms=wall_ms,
            cancel_requested=False,
            attempts=attempts,
            uncounted=0,
            plugin=None,
            fails_if_lost=False,
            checkpoint=b"",
        )
    if _ends_as_lost(standing, outcome, may_have_run=may_have_run):
        return replace(
            standing,
            status=Status.ERROR,
            finished_ms=wall_ms,
            failure=_lost(reason),
            attempts=attempts,
            uncounted=0,
            plugin=None,
            fails_if_lost=False,
            checkpoint=b"",
        )
    back = _taken_back(standing, policy, reason, wall_ms, began=began)
    finished = back.status is not Status.PENDING
    return replace(
        standing,
        status=back.status,
        attempts_used=back.used,
        finished_ms=wall_ms if finished else 0,
        failure=back.failure or standing.failure,
        not_before_ms=wall_ms + back.delay_ms if back.delay_ms and not finished else 0,
        attempts=attempts,
        uncounted=0 if finished else back.uncounted,
        plugin=None,
        fails_if_lost=False,
        checkpoint=b"" if finished else standing.checkpoint,
    )


def _ends_as_lost(standing: Standing, outcome: Outcome, *, may_have_run: bool) -> bool:
    """Whether a task must not run again, because an attempt of it may have run and nobody knows how far."""
    return (
        standing.fails_if_lost
        and may_have_run
        and outcome in (Outcome.LOST, Outcome.INTERRUPTED)
        and not standing.cancel_requested
    )


def _lost(reason: str) -> Failure:
    message = f"it may have run, and is not run again because of its on_lost: {reason}"
    return Failure(FailureKind.LOST, message, "Lost")


class _TakenBack(NamedTuple):
    """What follows for a task that was taken back."""

    status: Status
    used: int
    delay_ms: int
    uncounted: int
    failure: Failure | None


def _taken_back(
    standing: Standing, policy: RetryPolicy | None, reason: str, wall_ms: int, *, began: bool = True
) -> _TakenBack:
    uncounted, used = _uncounted_before(standing, wall_ms) + 1, standing.attempts_used
    if not began:
        uncounted = min(uncounted, UNCOUNTED_MAX)
    if uncounted <= UNCOUNTED_MAX:
        return _TakenBack(Status.PENDING, used, _uncounted_delay_ms(uncounted), uncounted, None)
    used += 1
    message = f"taken back {uncounted} times in a row, none of them after a minute of work; the last time: {reason}"
    failure = Failure(FailureKind.QUARANTINED, message)
    final = used >= (policy or _DEFAULT_POLICY).max_attempts
    return _TakenBack(Status.ERROR if final else Status.PENDING, used, UNCOUNTED_DELAY_MS_MAX, uncounted, failure)


def _uncounted_before(standing: Standing, wall_ms: int) -> int:
    """Returns how many attempts in a row, before the one that ends now, were uncounted."""
    # `started_ms` is the time of the grant by the leader's clock; a time from the worker could be anything.
    return 0 if wall_ms - standing.started_ms >= LASTING_MS else standing.uncounted


def _uncounted_delay_ms(uncounted: int) -> int:
    beyond = uncounted - UNCOUNTED_AT_ONCE
    return min(UNCOUNTED_DELAY_MS << min(beyond - 1, 16), UNCOUNTED_DELAY_MS_MAX) if beyond > 0 else 0


def retry_delay_ms(policy: RetryPolicy, used: int, fence: int) -> int:
    """Returns how many milliseconds to wait after `used` attempts.

    The spread follows from the fence, so the same history gives the same delay.
    """
    # The exponent has a bound because a long series of attempts would overflow a float.
    delay = min(policy.initial_delay_ms * policy.factor ** min(used - 1, 64), policy.max_delay_ms)
    spread = (fence * _SCATTER & 0xFFFFFFFF) / 0x100000000
    return int(delay * (1 - policy.jitter * spread))


def _is_final(failure: Failure, policy: RetryPolicy, used: int) -> bool:
    return (
        failure.kind in (FailureKind.REJECTED, FailureKind.NO_RETRY)
        or used >= policy.max_attempts
        or failure.type in policy.no_retry
    )
