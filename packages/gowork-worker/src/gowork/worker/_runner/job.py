"""One granted task within a runner, from its arrival to its report."""

from __future__ import annotations

import asyncio

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.calls import Handler
from gowork.worker._core.context import Context
from gowork.worker._runner import outcomes
from gowork.worker._runner.messages import StopKind


class Job:
    """A grant with what belongs to it. Made on the loop; run by one thread, or one asyncio task."""

    __slots__ = (
        "context",
        "fence",
        "future",
        "grant",
        "handler",
        "id",
        "limit_ms",
        "reason",
        "started_ns",
        "stop_kind",
        "task",
        "timer",
    )

    def __init__(self, grant: session.Grant, task: tasks.Task, handler: Handler) -> None:
        self.grant = grant
        self.fence = grant.fence
        self.id = grant.id
        self.task = task
        self.handler = handler
        self.limit_ms: int = task.time_limit_ms or handler.options.time_limit_ms
        #: Set when it starts.
        self.context: Context | None = None
        self.started_ns = 0
        #: The asyncio task of an async handler, while it runs.
        self.future: asyncio.Task[None] | None = None
        #: The timer of the time limit.
        self.timer: asyncio.TimerHandle | None = None
        self.stop_kind: StopKind | None = None
        self.reason = ""

    def ask_to_stop(self, kind: StopKind, reason: str) -> None:
        """Sets the token and cancels an async handler. Called on the loop, once the job has started; only the first
        kind is kept.
        """
        if self.stop_kind is not None:
            return
        self.stop_kind, self.reason = kind, reason
        if self.context is not None:
            self.context.cancelled.set(reason)
        if self.future is not None:
            self.future.cancel(reason)

    def settle(self, natural: session.Report) -> session.Report:
        """The report of a job that has ended: what it came to by itself, unless it stopped because it was asked to."""
        if self.stop_kind is None:
            return natural
        if self.stop_kind is StopKind.TIMEOUT:
            return outcomes.timed_out(self.fence, self.id, self.limit_ms)
        if not self._stopped_early(natural):
            return natural
        if self.stop_kind is StopKind.CANCEL:
            return outcomes.cancelled(self.fence, self.id, self.reason)
        return outcomes.interrupted(self.fence, self.id, self.reason)

    def _stopped_early(self, natural: session.Report) -> bool:
        if self.handler.is_async:
            # asyncio's own rule: a task that swallows its cancellation and returns was not cancelled.
            return natural.outcome != tasks.ATTEMPT_OUTCOME_COMPLETED
        # A thread that never looked at the token has finished its work.
        return self.context is not None and self.context.cancelled.noticed
