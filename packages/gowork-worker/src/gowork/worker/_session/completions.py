"""Tells the leader how a callback worker's tasks ended, and how far they have come.

TaskComplete of the original contract knows only done and failed. A leader that gives a fence with StartWork also knows
tasks that are handed back or snoozed. A leader that gives none cannot be told of these. gowork's own leaders up to
0.1.0 take a task back when its worker joins again, or leaves. The original's leader cannot take a task back: there it
ends with an error.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.status import refusal_of
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._session.stream import handler_info
from gowork.worker._supervisor.supervisor import Supervisor

logger = logging.getLogger("gowork.worker")

#: Seconds that a leader has to answer a call: where it is the only one, and where the next try goes to another one. All
#: calls may be repeated.
CALL_TIMEOUT = 5.0
CALL_TIMEOUT_AMONG_SEVERAL = 2.0
#: Seconds between attempts to reach the leader, at first and at most.
RETRY_FIRST = 0.1
RETRY_MAX = 2.0
#: Most seconds that the worker keeps a snoozed task when its leader would run it again at once.
SNOOZE_KEPT_MAX = 60.0

#: Codes with which the leader has decided, so that the same call would be refused again. All others may pass.
_FINAL = frozenset(
    {
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)
_HANDED_BACK = (tasks.ATTEMPT_OUTCOME_INTERRUPTED, tasks.ATTEMPT_OUTCOME_SNOOZED)


class Started:
    """A task that the leader has started with StartWork."""

    __slots__ = ("ended", "fence", "id", "stops")

    def __init__(self, id: str, fence: int) -> None:
        self.id = id
        #: The leader's; 0 when it gave none.
        self.fence = fence
        #: How many calls of StopWork wait for its end, and the event that they wait for.
        self.stops = 0
        self.ended = asyncio.Event()


class Completions:
    """Calls the leader's SchedulerService."""

    def __init__(
        self, scheduler: Any, supervisor: Supervisor, timeout: float = CALL_TIMEOUT, *, addresses: int = 1
    ) -> None:
        """Args:
        scheduler: the stub.
        supervisor: knows the handlers.
        timeout: how long a leader has to answer a call, in seconds.
        addresses: how many addresses the stub's calls go to, in turn.
        """
        self._scheduler = scheduler
        #: How many calls in a row must find no such method, until no leader is believed to have it. With several
        #: addresses one may be no leader's. Two rounds, because other calls take turns too.
        self._lacking_max = 1 if addresses == 1 else 2 * addresses
        self._timeout = timeout
        self._supervisor = supervisor
        self._knows_progress = True

    async def tell(self, started: Started, report: session.Report) -> bool:
        """Tells how a task ended, until the leader has heard it.

        Returns:
            Whether that is all. False when the worker has to join again, so that the leader takes the task back.
        """
        if report.outcome == tasks.ATTEMPT_OUTCOME_CANCELLED and started.stops:
            # The answer to StopWork tells it.
            return True
        if not started.fence and report.outcome in _HANDED_BACK and await self._takes_back():
            if report.outcome == tasks.ATTEMPT_OUTCOME_SNOOZED:
                await asyncio.sleep(min(report.retry_delay_ms / 1000, SNOOZE_KEPT_MAX))
            return False
        try:
            await self._until_heard(self._scheduler.TaskComplete, self._completion(started, report), started.id)
        except grpc.aio.AioRpcError as error:
            logger.warning("report refused", extra={"task_id": started.id, "reason": refusal_of(error).message})
        return True

    async def tell_progress(self, started: Started, progress: session.ProgressReport) -> bool:
        """Tells how far a task has come, in one call.

        Returns:
            Whether that is all. False when the same call may pass later.
        """
        if not self._knows_progress:
            return True
        request = tasks.TaskProgressRequest(
            id=started.id, fraction=progress.fraction, message=progress.message, fence=started.fence
        )
        try:
            await self._scheduler.TaskProgress(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            self._knows_progress = self._lacking_max > 1 or error.code() is not grpc.StatusCode.UNIMPLEMENTED
            logger.debug("progress not told", extra={"task_id": started.id, "reason": refusal_of(error).message})
            return error.code() in _FINAL
        return True

    def meet_leader(self) -> None:
        """Notes that the worker has joined: perhaps another leader, which knows TaskProgress."""
        self._knows_progress = True

    def _completion(self, started: Started, report: session.Report) -> tasks.TaskCompleteRequest:
        outcome = report.outcome
        request = tasks.TaskCompleteRequest(id=started.id, fence=started.fence)
        if report.follow_ups:
            # TaskComplete has no field for them, and another call could schedule them twice.
            outcome = tasks.ATTEMPT_OUTCOME_FAILED
            request.error = "the handler has scheduled follow-ups, which a callback worker can't report"
            request.failure.kind = tasks.FAILURE_KIND_REJECTED
            request.failure.message = request.error
        elif outcome == tasks.ATTEMPT_OUTCOME_WAITING:
            outcome = tasks.ATTEMPT_OUTCOME_FAILED
            request.error = "the handler waits for other tasks, which a callback worker can't report"
            request.failure.kind = tasks.FAILURE_KIND_REJECTED
            request.failure.message = request.error
        elif outcome != tasks.ATTEMPT_OUTCOME_COMPLETED:
            request.error = report.failure.message or report.reason or "failed"
        if not started.fence:
            # A leader that gives no fence ignores the other fields.
            request.ClearField("failure")
            return request
        request.outcome = outcome
        request.not_started = report.not_started
        if report.HasField("retry_delay_ms"):
            request.retry_delay_ms = report.retry_delay_ms
        if report.HasField("failure"):
            request.failure.CopyFrom(report.failure)
        known = self._supervisor.handlers
        note = next((note for note in known.handlers if note.name == known.default_handler), None)
        if note is not None and note.retry is not None and outcome != tasks.ATTEMPT_OUTCOME_COMPLETED:
            request.retry.CopyFrom(handler_info(note, is_default=True).retry)
        return request

    async def _takes_back(self) -> bool:
        """Whether the leader takes tasks back, as gowork's do: these know TaskProgress, and refuse it without an id."""
        try:
            await self._until_heard(self._scheduler.TaskProgress, tasks.TaskProgressRequest(), "")
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNIMPLEMENTED
        return True

    async def _until_heard(self, call: Any, request: Any, id: str) -> None:
        """Repeats the call until the leader has answered.

        Raises:
            grpc.aio.AioRpcError: when the leader has refused it.
        """
        delay, lacking = RETRY_FIRST, 0
        while True:
            try:
                await call(request, timeout=self._timeout)
                return
            except grpc.aio.AioRpcError as error:
                lacking = lacking + 1 if error.code() is grpc.StatusCode.UNIMPLEMENTED else 0
                if error.code() in _FINAL and not 0 < lacking < self._lacking_max:
                    raise
                if delay == RETRY_FIRST:
                    reason = refusal_of(error).message or error.code().name
                    logger.warning("report not heard, trying again", extra={"task_id": id, "reason": reason})
                await asyncio.sleep(delay)
                delay = min(RETRY_MAX, delay * 2)
