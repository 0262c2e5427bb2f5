"""Makes the calls that do something to all tasks that a filter selects.

The asyncio form of this module is written by hand; the blocking form is generated from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from gowork.client import _arguments as arguments
from gowork.client._async.operations import AsyncOperations
from gowork.client._change_models import CancelledTasks, RetriedTasks
from gowork.client._filters import filter_expression
from gowork.client._models import TaskFilter
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler


class AsyncChanges(AsyncOperations):
    """The part of a client that changes tasks, many at once."""

    async def cancel_many(
        self,
        filter: str = "",
        *,
        progress: Callable[[CancelledTasks], object] | None = None,
        **terms: Unpack[TaskFilter],
    ) -> CancelledTasks:
        """Cancels all unfinished tasks that a filter selects, and returns how many.

        Tasks that are scheduled after the call has begun are left alone. It may be repeated after an error: what was
        cancelled before stays so.

        Args:
            filter: as for tasks. Finished tasks are skipped. `status != COMPLETED` selects all unfinished ones.
            progress: called with what was done so far, after each thousand tasks.
            terms: as for tasks.

        Raises:
            InvalidArgument: when there is neither a filter nor a term, or the filter does not parse.
            LeaderTooOld: when the leader is older than 0.2.0.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(scheduler.CancelTasksRequest, filter=filter_expression(filter, terms))
        done = CancelledTasks()
        while True:
            response = await self._calls.call(self._connection.scheduler.CancelTasks, request)
            done = CancelledTasks(done.cancelled + response.cancelled, done.asked + response.asked)
            if progress is not None:
                progress(done)
            request.page_token = response.next_page_token
            if not request.page_token:
                return done

    async def retry_many(
        self,
        filter: str = "",
        *,
        progress: Callable[[RetriedTasks], object] | None = None,
        **terms: Unpack[TaskFilter],
    ) -> RetriedTasks:
        """Runs all failed tasks that a filter selects again, as retry does each, and returns how many.

        A task that fails again meanwhile is not run once more.

        Args:
            filter: as for tasks, among the tasks that have ended with ERROR. Cancelled tasks are among them only if the
                filter names that status: `status = CANCELLED`. `status = ERROR` selects all that failed.
            progress: called with what was done so far, after each thousand tasks.
            terms: as for tasks.

        Raises:
            InvalidArgument: when there is neither a filter nor a term, or the filter does not parse.
            ResourceExhausted: when no more tasks may be pending. Some may have been run again, as `progress` was told.
                Call it again when some have run.
            LeaderTooOld: when the leader is older than 0.2.0.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(scheduler.RetryTasksRequest, filter=filter_expression(filter, terms))
        done = RetriedTasks()
        while True:
            response = await self._calls.call(self._connection.scheduler.RetryTasks, request)
            done = RetriedTasks(done.retried + response.retried, done.expired + response.expired)
            # The first call only says which tasks have failed by now.
            if progress is not None and request.page_token:
                progress(done)
            request.page_token = response.next_page_token
            if not request.page_token:
                return done
