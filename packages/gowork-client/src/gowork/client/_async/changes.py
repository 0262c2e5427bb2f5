"""Makes the calls that change a task, or all tasks that a filter selects.

The asyncio form of this module is written by hand; the blocking form is generated from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from gowork.client import _arguments as arguments
from gowork.client import _requests as requests
from gowork.client._async.operations import AsyncOperations
from gowork.client._change_models import CancelledTasks, RetriedTasks
from gowork.client._filters import filter_expression
from gowork.client._models import Duration, Moment, Priority, PriorityName, TaskFilter
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler


class AsyncChanges(AsyncOperations):
    """The part of a client that changes tasks, one or many at once."""

    async def update(
        self,
        id: str,
        *,
        priority: Priority | PriorityName | None = None,
        queue: str | None = None,
        run_at: Moment | None = None,
        delay: Duration | None = None,
        expires_at: Moment | None = None,
        expires_in: Duration | None = None,
    ) -> None:
        """Changes a pending task: all that is given, or nothing. None leaves a field as it is.

        The task goes behind those that wait already in its queue and priority. It keeps its id and its attempts, and to
        schedule it again as it was scheduled still changes nothing.

        Args:
            id: the task's id.
            priority: HIGH runs before MEDIUM, and MEDIUM before LOW.
            queue: the name of the queue in which it waits from now on.
            run_at: the time before which it is not started, also if it waits for its next attempt.
            delay: in place of run_at: how long after the leader took this call it may be started; 0 for at once. When
                the call is made again, because a leader went away, it counts from then.
            expires_at: the time after which it is not started any more; 0 for never.
            expires_in: in place of expires_at: for how long after the leader took this call it may be started.

        Raises:
            InvalidArgument: when nothing is given, or a field is at fault.
            NotFound: when no task has the id.
            FailedPrecondition: when the task runs, has finished, or has expired.
            ResourceExhausted: when no more tasks may be pending where it would wait.
            LeaderTooOld: when the leader is older than 0.2.0.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = requests.update_request(
            id,
            priority=priority,
            queue=queue,
            run_at=run_at,
            delay=delay,
            expires_at=expires_at,
            expires_in=expires_in,
        )
        await self._calls.call(self._connection.scheduler.UpdateTask, request)

    async def cancel_many(
        self,
        filter: str = "",
        *,
        progress: Callable[[CancelledTasks], object] | None = None,
        **terms: Unpack[TaskFilter],
    ) -> CancelledTasks:
        """Cancels all unfinished tasks that a filter selects, and returns how many.

        Tasks that are scheduled, or changed, after the call has begun are left alone. It may be repeated after an
        error: what was cancelled before stays so.

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
            done = RetriedTasks(done.retried + response.retried, done.left + response.left)
            # The first call only says which tasks have failed by now.
            if progress is not None and request.page_token:
                progress(done)
            request.page_token = response.next_page_token
            if not request.page_token:
                return done
