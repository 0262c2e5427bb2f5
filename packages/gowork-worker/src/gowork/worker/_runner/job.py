"""One granted task within a runner, from its arrival to its report."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.calls import Handler
from gowork.worker._core.context import Context
from gowork.worker._runner import endings
from gowork.worker._runner.attempt_task import AttemptTask
from gowork.worker._runner.completion import AttemptReport
from gowork.worker._runner.messages import StopKind

#: How an attempt ends whose handler has returned.
RETURNED = (tasks.ATTEMPT_OUTCOME_COMPLETED, tasks.ATTEMPT_OUTCOME_WAITING)


@dataclass(frozen=True, slots=True)
class Stop:
    """That a job was asked to stop, and why."""

    kind: StopKind
    #: In words.
    reason: str


class Job:
    """A grant with what belongs to it. Made on the loop; run by one thread, or one asyncio task.

    Below, "its thread" is the one that runs the job: a thread of the executor, or the loop for an async handler. A
    field that has an owner is written by that thread alone, in one assignment of something that is whole, and may be
    read by the other.
    """

    __slots__ = (
        "context",
        "fence",
        "future",
        "grant",
        "handler",
        "id",
        "limit_ms",
        "started_ns",
        "stop",
        "task",
        "timer",
    )

    def __init__(self, grant: session.Grant, task: tasks.Task, handler: Handler) -> None:
        self.grant = grant
        self.fence = grant.fence
        self.id = grant.id
        self.task = task
        self.handler = handler
        #: 0 means none. Older stores hold longer limits than are taken today, which no clock could count.
        limit_ms = task.time_limit_ms
        if limit_ms <= 0:
            limit_ms = handler.options.time_limit_ms
        self.limit_ms = limit_ms if limit_ms < limits.DURATION_MS_MAX else limits.DURATION_MS_MAX
        #: Owner: its thread. Both are set before anybody else is told that the job has started.
        self.started_ns = 0
        self.context: Context | None = None
        #: The asyncio task of an async handler, once it runs. Only the loop sees it.
        self.future: AttemptTask | None = None
        #: The timer of the time limit, while the job runs. Only the loop sees it.
        self.timer: asyncio.TimerHandle | None = None
        #: Owner: the loop. One object, so that no thread sees a kind without its reason.
        self.stop: Stop | None = None

    def ask_to_stop(self, kind: StopKind, reason: str) -> None:
        """Sets the token and cancels an async handler. Called on the loop, once the job has started; only the first
        kind is kept.
        """
        if self.stop is not None:
            return
        # Before the look at the context: its thread sets that first and looks here afterwards, so that one of the two
        # sets the token.
        self.stop = Stop(kind, reason)
        if self.context is not None:
            self.context.cancelled.set(reason)
        if self.future is not None:
            self.future.stop(reason)

    def settle(self, stop: Stop, natural: AttemptReport) -> AttemptReport:
        """Returns the report of a job that was asked to stop and has ended: its own, unless it stopped early."""
        if stop.kind is StopKind.TIMEOUT:
            return endings.timed_out(self.fence, self.id, self.limit_ms)
        if not self._stopped_early(natural):
            return natural
        if stop.kind is StopKind.CANCEL:
            return endings.cancelled(self.fence, self.id, stop.reason)
        return endings.interrupted(self.fence, self.id, stop.reason)

    def _stopped_early(self, natural: AttemptReport) -> bool:
        if self.handler.is_async:
            # asyncio's own rule: a task that swallows its cancellation and returns was not cancelled.
            return natural.outcome not in RETURNED
        # A thread that never looked at the token has finished its work.
        return self.context is not None and self.context.cancelled.noticed
