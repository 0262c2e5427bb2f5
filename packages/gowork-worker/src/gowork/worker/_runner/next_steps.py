"""Foretells, in words for the log, what the leader does after an attempt that failed, timed out or was lost.

The leader decides, by the same rules: see RetryPolicy in scheduler.proto.
"""

from __future__ import annotations

from dataclasses import dataclass

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.handlers import RetryOptions

_FINAL = frozenset({tasks.FAILURE_KIND_REJECTED, tasks.FAILURE_KIND_NO_RETRY})
#: What 0 means in a policy.
_INITIAL_DELAY_MS = 1_000
_FACTOR = 2.0
_DELAY_MS_MAX = 300_000
#: The largest exponent of the factor, as in the leader, so that a long series of attempts doesn't overflow a float.
_EXPONENT_MAX = 64
#: The leader's multiplier (Knuth, The Art of Computer Programming, 6.4). With it the random part of a delay follows
#: from the fence.
_SCATTER = 2654435761


@dataclass(frozen=True, slots=True)
class NextTry:
    """The next attempt of a task that has failed."""

    #: How long the leader waits before it, in milliseconds.
    delay_ms: int
    #: Its number among those that count, from 2.
    number: int
    #: How many there are at most.
    max_attempts: int


@dataclass(frozen=True, slots=True)
class _Policy:
    max_attempts: int
    initial_delay_ms: int
    factor: float
    max_delay_ms: int
    jitter: float
    no_retry: tuple[str, ...]


def next_step(
    grant: session.Grant,
    task: tasks.Task,
    handlers: RetryOptions | None,
    report: session.Report,
    *,
    fails_if_lost: bool = False,
) -> str:
    """Returns what comes next for the task of this report, in words.

    Args:
        grant: the attempt.
        task: the task.
        handlers: the policy of its handler; None where that has none.
        report: how the attempt ended: failed, timed out or lost.
        fails_if_lost: whether its handler says that it must not run twice; see HandlerOptions.
    """
    if report.outcome == tasks.ATTEMPT_OUTCOME_LOST:
        if task.on_lost == tasks.ON_LOST_FAIL or (fails_if_lost and task.on_lost != tasks.ON_LOST_AGAIN):
            return "failed for good, because it may have run and must not run twice"
        return "runs again alone, until lost alone three times" if grant.alone else "runs again, alone in its process"
    following = next_try(grant, task, handlers, report)
    if following is None:
        return "failed for good"
    return f"retry in {following.delay_ms / 1000:g} s, attempt {following.number} of {following.max_attempts}"


def next_try(
    grant: session.Grant, task: tasks.Task, handlers: RetryOptions | None, report: session.Report
) -> NextTry | None:
    """Returns the attempt that follows one that failed or timed out; None when the task has failed for good."""
    used = 1 + (grant.attempts_used if grant.HasField("attempts_used") else max(0, grant.attempt - 1))
    policy = _policy(task, handlers)
    failure = report.failure
    if failure.kind in _FINAL or used >= policy.max_attempts or failure.type in policy.no_retry:
        return None
    if report.HasField("retry_delay_ms"):
        delay_ms = report.retry_delay_ms
    else:
        exponent = min(used - 1, _EXPONENT_MAX)
        spread = (grant.fence * _SCATTER & 0xFFFFFFFF) / 0x100000000
        delay = min(policy.initial_delay_ms * policy.factor**exponent, policy.max_delay_ms)
        delay_ms = int(delay * (1 - policy.jitter * spread))
    return NextTry(delay_ms, used + 1, policy.max_attempts)


def _policy(task: tasks.Task, handlers: RetryOptions | None) -> _Policy:
    given = task.retry if task.HasField("retry") else handlers
    if given is None:
        return _Policy(1, _INITIAL_DELAY_MS, _FACTOR, _DELAY_MS_MAX, 0.0, ())
    return _Policy(
        given.max_attempts or 1,
        given.initial_delay_ms or _INITIAL_DELAY_MS,
        given.factor or _FACTOR,
        given.max_delay_ms or _DELAY_MS_MAX,
        given.jitter,
        tuple(given.no_retry),
    )
