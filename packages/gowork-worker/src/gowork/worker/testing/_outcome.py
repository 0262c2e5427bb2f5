"""How a run of a handler ended: what the worker would have told its leader, and what a test wants to know besides."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar, overload

from gowork.base.typed_values import Unfit, reader_of
from gowork.base.values import type_name
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.context import Context
from gowork.worker._core.new_tasks import FollowUp
from gowork.worker._core.waiting import Wait
from gowork.worker._runner import outcomes
from gowork.worker._runner.exceptions import cut
from gowork.worker._runner.job import Job
from gowork.worker._runner.next_steps import next_step, next_try

ResultT = TypeVar("ResultT")


class Status(StrEnum):
    """How an attempt ended, in the words of the worker's logs."""

    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    SNOOZED = "snoozed"
    WAITING = "waiting"


class FailureKind(StrEnum):
    """What kind of failure it was. After REJECTED and NO_RETRY the task is not tried again."""

    HANDLER = "handler"
    REJECTED = "rejected"
    TIMEOUT = "timeout"
    NO_RETRY = "no_retry"


@dataclass(frozen=True, slots=True)
class Failure:
    """The failure as the leader is told of it."""

    kind: FailureKind
    #: The name of the exception's type.
    type: str
    message: str
    #: From the handler on; empty where it says nothing, as for a payload that does not fit.
    traceback: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Progress:
    """One word of progress."""

    #: 0 to 1.
    fraction: float
    message: str
    #: When it came, in seconds after the handler's start.
    at: float


class NotCompleted(AssertionError):
    """The result of a run was asked for that did not complete."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Every field is as the worker tells its leader, which forgets what a failed attempt has scheduled.
    """

    status: Status
    #: Why it was cancelled, snoozed or handed back; empty otherwise.
    reason: str
    #: None unless it failed or timed out.
    failure: Failure | None
    #: What the handler raised, or what was raised while its payload was read or its result was written; None if
    #: nothing was.
    error: BaseException | None
    #: Seconds until the leader tries the task again, by Retry or by the policy; None when it does not.
    retry_delay: float | None
    #: Seconds that a Snooze asks for; None unless it is snoozed.
    snooze_delay: float | None
    #: What comes next after a failure, in the words of the worker's log; empty otherwise.
    next: str
    #: Every word of progress. A leader is told of the latest one only, a few times a second.
    progress: tuple[Progress, ...]
    #: The tasks that were scheduled with the report; none unless it completed, or waits.
    follow_ups: tuple[FollowUp, ...]
    #: What the handler returned to have its task go on after others; None unless it waits.
    wait: Wait | None
    #: What was logged while the handler ran, by whom it may be, and the worker's line on a failed attempt.
    logs: tuple[logging.LogRecord, ...] = field(repr=False)
    #: Seconds on the run's clock, from the handler's start to its end; 0 when it was not started.
    elapsed: float
    #: Whether it went on past its grace, so that a worker would have ended its process.
    was_killed: bool
    #: The attempt's context.
    context: Context | None
    _report: session.Report = field(repr=False)

    @property
    def result(self) -> Any:
        """What the task's result is for a client: bytes if the handler returned bytes, else the decoded JSON.

        Raises:
            NotCompleted: when it did not complete; the cause is what the handler raised.
        """
        return self.result_as()

    @overload
    def result_as(self) -> Any: ...
    @overload
    def result_as(self, type: type[ResultT]) -> ResultT: ...
    def result_as(self, type: Any = Any) -> Any:  # noqa: A002 - as the client calls it
        """Returns what a client gets that asks for the result as this type.

        Raises:
            NotCompleted: when it did not complete, or the result does not fit the type.
        """
        if self.status is not Status.COMPLETED:
            raise NotCompleted(f"the handler has no result: {self}") from self.error
        report = self._report
        try:
            return reader_of(type).result(report.result, report.result_data, is_empty_data=report.result_is_empty_data)
        except Unfit as error:
            raise NotCompleted(f"the result is not {type_name(type)}: {error}") from error

    @property
    def checkpoint(self) -> Any:
        """What another attempt would find in `ctx.last_checkpoint`; None when there is nothing."""
        return None if self.context is None else self.context.last_checkpoint

    @property
    def will_retry(self) -> bool:
        """Whether the leader tries the task again because it failed."""
        return self.retry_delay is not None

    def __str__(self) -> str:
        if self.failure is not None:
            return f"{self.status}: {self.failure.type}: {self.failure.message} ({self.next})"
        return f"{self.status}: {self.reason}" if self.reason else self.status


@dataclass(slots=True)
class Notes:
    """What is noted while a handler runs."""

    progress: list[Progress] = field(default_factory=list)
    logs: list[logging.LogRecord] = field(default_factory=list)
    error: BaseException | None = None
    was_killed: bool = False

    def progressed(self, fraction: float, message: str, at: float) -> None:
        """Notes a word of progress, cut as it is when it is sent."""
        self.progress.append(Progress(fraction, cut(message, limits.PROGRESS_MESSAGE_BYTES_MAX), at))


def outcome_of(job: Job, report: session.Report, notes: Notes) -> Outcome:
    """Makes the outcome of a report."""
    failed = report.HasField("failure")
    retry, fails = job.handler.options.retry, job.handler.options.fails_if_lost
    following = next_try(job.grant, job.task, retry, report) if failed else None
    snoozed = report.outcome == tasks.ATTEMPT_OUTCOME_SNOOZED
    waits = report.outcome == tasks.ATTEMPT_OUTCOME_WAITING
    schedules = waits or report.outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
    return Outcome(
        status=Status(outcomes.STATUS[report.outcome]),
        reason=report.reason,
        failure=_failure(report.failure) if failed else None,
        error=notes.error,
        retry_delay=following.delay_ms / 1000 if following is not None else None,
        snooze_delay=report.retry_delay_ms / 1000 if snoozed else None,
        next=next_step(job.grant, job.task, retry, report, fails_if_lost=fails) if failed else "",
        progress=tuple(notes.progress),
        wait=_wait_of(report.continuation) if waits else None,
        follow_ups=tuple(job.context.follow_ups) if schedules and job.context is not None else (),
        logs=tuple(notes.logs),
        elapsed=report.execution_us / 1e6,
        was_killed=notes.was_killed,
        context=job.context,
        _report=report,
    )


def _wait_of(following: tasks.Task) -> Wait:
    rule = tasks.AfterRule.Name(following.after_rule).removeprefix("AFTER_RULE_").lower()
    payload = following.payload, following.data, int(following.payload_form)
    return Wait(tuple(following.after), following.handler, payload, "" if rule == "unspecified" else rule)


def _failure(failure: tasks.Failure) -> Failure:
    kind = tasks.FailureKind.Name(failure.kind).removeprefix("FAILURE_KIND_").lower()
    return Failure(FailureKind(kind), failure.type, failure.message, failure.traceback)
