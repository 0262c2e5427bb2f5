"""The client: schedules tasks, finds them, waits for them and watches them.

The asyncio form of this module is written by hand; the blocking form is generated from it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import replace
from typing import Any, Unpack, cast, overload

import grpc

from gowork.base import running
from gowork.base.telemetry import is_traced
from gowork.client import _arguments as arguments
from gowork.client import _requests as requests
from gowork.client import _responses as responses
from gowork.client._async.changes import AsyncChanges
from gowork.client._async.flights import Flights
from gowork.client._async.groups import AsyncGroups
from gowork.client._async.handles import AsyncTaskHandle
from gowork.client._async.streams import WaitStream, finished, merged, stepped
from gowork.client._async.watches import AsyncWatch
from gowork.client._encrypting import encrypt_like
from gowork.client._filters import filter_expression
from gowork.client._ids import new_task_id
from gowork.client._leader_fields import THE_ORIGINAL, goes_beyond
from gowork.client._models import NewTask, RunOptions, TaskFilter, TaskInfo, TaskOptions, TaskView
from gowork.client._typed import (
    ContextT,
    Functions,
    Payload,
    PayloadT,
    ReturnT,
    TakesBoth,
    TakesBothAsync,
    TakesPayload,
    TakesPayloadAsync,
)
from gowork.client._waits import IDS_MAX, Wait, end_of
from gowork.client.errors import AlreadyExists, LeaderTooOld
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

_log = logging.getLogger("gowork.client")


class AsyncClient(AsyncChanges):
    """Schedules tasks on a cluster and waits for their results.

        async with AsyncClient() as client:
            handle = await client.schedule({"name": "Ada"}, handler="hello")
            print(await handle.result())

    Every call has a deadline. While no leader answers, it is made again within that deadline.
    Use the client first after a fork, not before: gRPC's connections do not survive one. ClientForked says so.
    """

    @overload
    async def schedule(
        self,
        payload: Payload[PayloadT],
        *,
        handler: TakesBothAsync[PayloadT, ReturnT],
        id: str | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncTaskHandle[ReturnT]: ...
    @overload
    async def schedule(
        self,
        payload: Payload[PayloadT],
        *,
        handler: TakesBoth[PayloadT, ReturnT],
        id: str | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncTaskHandle[ReturnT]: ...
    @overload
    async def schedule(
        self,
        *,
        handler: Callable[[ContextT], Coroutine[Any, Any, ReturnT]],
        id: str | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncTaskHandle[ReturnT]: ...
    @overload
    async def schedule(
        self,
        *,
        handler: Callable[[ContextT], ReturnT],
        id: str | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncTaskHandle[ReturnT]: ...
    @overload
    async def schedule(
        self,
        *,
        handler: Callable[[], Coroutine[Any, Any, ReturnT]],
        id: str | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncTaskHandle[ReturnT]: ...
    @overload
    async def schedule(
        self,
        *,
        handler: Callable[[], ReturnT],
        id: str | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncTaskHandle[ReturnT]: ...
    @overload
    async def schedule(
        self,
        payload: Payload[PayloadT],
        *,
        handler: TakesPayloadAsync[PayloadT, ReturnT],
        id: str | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncTaskHandle[ReturnT]: ...
    @overload
    async def schedule(
        self,
        payload: Payload[PayloadT],
        *,
        handler: TakesPayload[PayloadT, ReturnT],
        id: str | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncTaskHandle[ReturnT]: ...
    @overload
    async def schedule(
        self,
        payload: NewTask,
        *,
        handler: Callable[..., Any],
        id: str | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncTaskHandle[Any]: ...
    @overload
    async def schedule(
        self,
        payload: object = "",
        *,
        handler: str | None = None,
        id: str | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncTaskHandle[Any]: ...
    async def schedule(
        self,
        payload: object = "",
        *,
        id: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> AsyncTaskHandle[Any]:
        """Schedules one task. When it returns, the task is on the leader's disk.

        With the decorated function as handler, type checkers check the payload, and the handle's result has the
        function's return type.

        While another task has the key `unique`, none is scheduled. The handle is that of the other task then, and its
        `is_new` is False.

        Args:
            payload: text and bytes are sent as they are, everything else as JSON; at most 1 MiB. A NewTask has options
                of its own.
            id: the task's key, 1 to 256 bytes, printable; None for a new UUIDv7. To schedule the same task under the
                same id again changes nothing.
            options: the handler and how to run the task; see TaskOptions.

        Raises:
            InvalidArgument: when a field is at fault.
            AlreadyExists: when the id is taken by another task.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        encoder = requests.TaskEncoder(options, encryption=self._settings.encryption)
        if self._checks_all:
            await self._check_item(encoder, payload)
        task = encoder.task(payload, id)
        if goes_beyond(task):
            await self._calls.fit(lambda leader: leader.fit(task, encoder.now_ms(), self.address))
        if is_traced():
            from gowork.client._spans import sending

            with sending(task, self._settings):
                holder = await self._send(task)
        else:
            holder = await self._send(task)
        function = options.get("handler")
        return AsyncTaskHandle(self, task.id, function if callable(function) else None, holder)

    @overload
    def schedule_many(
        self,
        payloads: Iterable[Payload[PayloadT]] | AsyncIterable[Payload[PayloadT]],
        *,
        handler: TakesBothAsync[PayloadT, ReturnT],
        **options: Unpack[RunOptions],
    ) -> AsyncIterator[AsyncTaskHandle[ReturnT]]: ...
    @overload
    def schedule_many(
        self,
        payloads: Iterable[Payload[PayloadT]] | AsyncIterable[Payload[PayloadT]],
        *,
        handler: TakesBoth[PayloadT, ReturnT],
        **options: Unpack[RunOptions],
    ) -> AsyncIterator[AsyncTaskHandle[ReturnT]]: ...
    @overload
    def schedule_many(
        self,
        payloads: Iterable[Payload[PayloadT]] | AsyncIterable[Payload[PayloadT]],
        *,
        handler: TakesPayloadAsync[PayloadT, ReturnT],
        **options: Unpack[RunOptions],
    ) -> AsyncIterator[AsyncTaskHandle[ReturnT]]: ...
    @overload
    def schedule_many(
        self,
        payloads: Iterable[Payload[PayloadT]] | AsyncIterable[Payload[PayloadT]],
        *,
        handler: TakesPayload[PayloadT, ReturnT],
        **options: Unpack[RunOptions],
    ) -> AsyncIterator[AsyncTaskHandle[ReturnT]]: ...
    @overload
    def schedule_many(
        self,
        payloads: Iterable[NewTask] | AsyncIterable[NewTask],
        *,
        handler: Callable[..., Any],
        **options: Unpack[RunOptions],
    ) -> AsyncIterator[AsyncTaskHandle[Any]]: ...
    @overload
    def schedule_many(
        self,
        payloads: Iterable[object] | AsyncIterable[object],
        *,
        handler: str | None = None,
        **options: Unpack[RunOptions],
    ) -> AsyncIterator[AsyncTaskHandle[Any]]: ...
    def schedule_many(
        self,
        payloads: Iterable[object] | AsyncIterable[object],
        **options: Unpack[TaskOptions],
    ) -> AsyncIterator[AsyncTaskHandle[Any]]:
        """Schedules any number of tasks in batches, and yields a handle for each acknowledged task, in order.

        It works while it is iterated, and at most four batches are on their way, so that the payloads may come from an
        endless generator. A batch is sent when it is full, or when a payload comes 20 ms or more after its first. An
        asyncio client sends a batch of an asynchronous source after 20 ms even if no payload comes, and yields its
        handles when the next payload comes.

        With the decorated function as handler, type checkers check the payloads, and the handles' results have the
        function's return type, except those of NewTasks that name another handler.

        Args:
            payloads: each as for schedule, or a NewTask with options of its own.
            options: as for schedule. They are for all tasks that have none of their own.

        Raises:
            InvalidArgument: when a field is at fault. The error names the task by its place, as in `tasks[3].id`. No
                task of its batch is scheduled. Tasks of other batches, not yielded yet, may be.
            AlreadyExists, CallError: as for schedule.
        """
        encoder = requests.TaskEncoder(options, encryption=self._settings.encryption)
        function = options.get("handler")
        return self._schedule_many(
            stepped(payloads, "payloads"), encoder, Functions(function if callable(function) else None)
        )

    @property
    def groups(self) -> AsyncGroups:
        """The calls about groups, which are tasks that run after their children."""
        return AsyncGroups(self, self._connection, self._calls)

    async def chain(
        self, tasks: Iterable[object] | AsyncIterable[object], **options: Unpack[TaskOptions]
    ) -> list[AsyncTaskHandle[Any]]:
        """Schedules tasks that run one after the other, and returns their handles in order.

        Each comes after the one before it, and is cancelled if that one does not complete. Its handler finds the id of
        that one in `ctx.after`.

        Args:
            tasks: each as for schedule_many, or `NewTask("pay") | NewTask("pack")`. What a task has in its own `after`
                counts, too.
            options: as for schedule_many. `after` is that of the first task.

        Raises:
            InvalidArgument, AlreadyExists, CallError: as for schedule_many.
        """

        async def linked() -> AsyncIterator[NewTask]:
            before: str | None = None
            async for item in stepped(tasks, "tasks"):
                task = item if isinstance(item, NewTask) else NewTask(item)
                id = new_task_id() if task.id is None else task.id
                if before is None:
                    yield replace(task, id=id)
                else:
                    yield replace(task, id=id, after=[before, *(task.after or ())])
                before = id

        handles: list[AsyncTaskHandle[Any]] = []
        async for handle in self.schedule_many(linked(), **cast("Any", options)):
            handles.append(handle)
        return handles

    def handle(self, id: str) -> AsyncTaskHandle:
        """Returns a handle for a task that was scheduled elsewhere. It makes no call."""
        return AsyncTaskHandle(self, arguments.text(id, "id"))

    async def get(self, id: str) -> TaskInfo:
        """Returns one task, with all its fields and attempts.

        Raises:
            NotFound: when no task has the id.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        response = await self._calls.call(
            self._connection.scheduler.GetTask, arguments.message(scheduler.GetTaskRequest, id=id)
        )
        return responses.task_info(response.task, self._settings.encryption)

    def tasks(
        self,
        filter: str = "",
        *,
        newest_first: bool = False,
        view: TaskView = TaskView.BASIC,
        page_size: int = 0,
        **terms: Unpack[TaskFilter],
    ) -> AsyncIterator[TaskInfo]:
        """Yields tasks in the order in which they were scheduled, fetched page by page as it is iterated.

        Args:
            filter: an expression such as `status = RUNNING AND labels.team = "web"`.
            newest_first: whether to reverse the order.
            view: how much of each task to fetch.
            page_size: how many tasks to fetch in one call, up to 10,000; 0 for 1,000.
            terms: status, handler, queue, priority, labels, id_prefix, joined to the filter by AND; see TaskFilter.

        Raises:
            InvalidArgument: when the filter does not parse.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(
            scheduler.ListTasksRequest,
            filter=filter_expression(filter, terms),
            newest_first=newest_first,
            view=requests.view_to_wire(view),
            page_size=page_size,
        )
        return self._tasks(request)

    async def wait(
        self,
        tasks: Iterable[AsyncTaskHandle | str] | AsyncIterable[AsyncTaskHandle | str],
        timeout: float | None = None,
    ) -> list[TaskInfo]:
        """Waits for all of these tasks. Returns them as they finished, in the given order.

        Args:
            tasks: handles or ids.
            timeout: how long to wait for all, in seconds; None for as long as it takes.

        Raises:
            TaskNotFinished: when the timeout ran out.
            NotFound: when an id is unknown.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        handles = [self._handle(task) async for task in stepped(tasks, "tasks")]
        # Several handles may be of one task. The first of its id is waited for, and answers for the others.
        first: dict[str, AsyncTaskHandle] = {}
        for handle in handles:
            first.setdefault(handle.id, handle)
        unfinished = [handle for handle in first.values() if not handle.done]
        end = end_of(timeout)
        if len(unfinished) == 1:
            await self._finish(unfinished[0], end)
        else:
            async for _ in self._as_completed(stepped(unfinished, "tasks"), end):
                pass
        return [task for handle in handles if (task := first[handle.id].task)]

    def as_completed(
        self,
        tasks: Iterable[AsyncTaskHandle | str] | AsyncIterable[AsyncTaskHandle | str],
        timeout: float | None = None,
    ) -> AsyncIterator[AsyncTaskHandle]:
        """Yields a handle for each task as it finishes.

        Args:
            tasks: handles or ids, such as the iterator of `schedule_many`. They are taken while others are waited for;
                at most 160,000 are waited for at once.
            timeout: how long to wait for all, in seconds; None for as long as it takes.

        Raises:
            TaskNotFinished, NotFound, CallError: as for wait.
        """
        return self._as_completed(stepped(tasks, "tasks"), end_of(timeout))

    async def cancel(self, id: str) -> None:
        """Cancels a task. A pending task ends at once, a running one when its worker has stopped it.

        Raises:
            NotFound: when no task has the id.
            FailedPrecondition: when the task has completed or failed already.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        await self._calls.call(
            self._connection.scheduler.CancelTask, arguments.message(scheduler.CancelTaskRequest, id=id)
        )

    def watch(
        self,
        filter: str = "",
        *,
        view: TaskView = TaskView.BASIC,
        token: str = "",
        on_removed: Callable[[str], object] | None = None,
        **terms: Unpack[TaskFilter],
    ) -> AsyncWatch:
        """Returns an endless iterator over the latest states of tasks, as they change. See AsyncWatch.

        Args:
            filter: as for tasks.
            view: how much of each task to fetch.
            token: the token of an earlier AsyncWatch, to go on where that ended; empty to begin now.
            on_removed: called, while the watch is iterated, with the id of each task that is removed, whether or not
                the filter selects it.
            terms: as for tasks.

        Raises:
            OutOfRange: when the token is too old.
            InvalidArgument, CallError: as for tasks.
        """
        expression = filter_expression(filter, terms)
        request = arguments.message(
            scheduler.WatchTasksRequest, filter=expression, view=requests.view_to_wire(view), token=token
        )
        return AsyncWatch(self._connection, self._settings, request, on_removed)

    async def _check_item(self, encoder: requests.TaskEncoder, item: object) -> None:
        handler, wanted, encoded = encoder.unencrypted(item)
        if handler and (warning := await self._check(handler, wanted, *encoded)):
            _log.warning("a task is sent all the same: %s", warning, extra={"handler": handler, "reason": warning})

    async def _send(self, task: scheduler.Task) -> str:
        """Schedules a task. Returns the id of the task that has its unique key; empty: it is scheduled."""
        request = scheduler.ScheduleTaskRequest(task=task)
        try:
            return (await self._calls.send(self._connection.schedule_task, request)).holder_id
        except AlreadyExists:
            # It may be the same task, encrypted with a key that was the first one then.
            encryption = self._settings.encryption
            if encryption is None:
                raise
            known = await self._calls.call(self._connection.scheduler.GetTask, scheduler.GetTaskRequest(id=task.id))
            if not encrypt_like(task, known.task, encryption):
                raise
            request = scheduler.ScheduleTaskRequest(task=task)
            return (await self._calls.send(self._connection.schedule_task, request)).holder_id

    async def _finish(self, handle: AsyncTaskHandle, end: float | None) -> None:
        """Waits for one task."""
        wait = Wait(self._settings, (handle,), end)
        request = scheduler.WaitTaskRequest(id=handle.id)
        with running.waiting():
            while wait:
                try:
                    wait.take(((await self._connection.wait_task(request, timeout=wait.timeout())).task,))
                    wait.check_ended()
                except grpc.RpcError as error:
                    try:
                        pause = wait.pause_after(error)
                    except LeaderTooOld:
                        raise await self._calls.too_old("WaitTask") from None
                    await asyncio.sleep(pause)

    async def _schedule_many(
        self, payloads: AsyncIterator[object], encoder: requests.TaskEncoder, functions: Functions
    ) -> AsyncIterator[AsyncTaskHandle[Any]]:
        if await self._calls.fit(lambda leader: encoder.fit(leader, self.address)) is THE_ORIGINAL:
            raise await self._calls.too_old("ScheduleTasks")
        with Flights(self._connection.schedule_tasks, self._settings) as flights:
            async for payload in payloads:
                if self._checks_all:
                    await self._check_item(encoder, payload)
                id, entry = encoder.entry(payload)
                if type(payload) is NewTask:
                    functions.note(id, payload)
                if flights.add(id, entry):
                    while batch := await flights.landed():
                        for each in zip(batch.ids, functions.of(batch.ids), batch.holders(), strict=True):
                            yield AsyncTaskHandle(self, *each)
            flights.send()
            while batch := await flights.next_landed():
                for each in zip(batch.ids, functions.of(batch.ids), batch.holders(), strict=True):
                    yield AsyncTaskHandle(self, *each)

    async def _tasks(self, request: scheduler.ListTasksRequest) -> AsyncIterator[TaskInfo]:
        while True:
            response = await self._calls.call(self._connection.scheduler.ListTasks, request)
            for task in response.tasks:
                yield responses.task_info(task, self._settings.encryption)
            request.page_token = response.next_page_token
            if not request.page_token:
                return

    def _handle(self, task: AsyncTaskHandle | str) -> AsyncTaskHandle:
        if isinstance(task, AsyncTaskHandle):
            return task
        return AsyncTaskHandle(self, arguments.text(task, "a task to wait for"))

    def _as_completed(
        self, tasks: AsyncIterator[AsyncTaskHandle | str], end: float | None
    ) -> AsyncIterator[AsyncTaskHandle]:
        async def handles() -> AsyncIterator[AsyncTaskHandle]:
            async for task in tasks:
                yield task if isinstance(task, AsyncTaskHandle) else self._handle(task)

        def stream(chunk: list[AsyncTaskHandle]) -> WaitStream[AsyncTaskHandle]:
            return finished(self._connection.scheduler.WaitTasks, Wait(self._settings, chunk, end))

        return merged(handles(), IDS_MAX, stream)
