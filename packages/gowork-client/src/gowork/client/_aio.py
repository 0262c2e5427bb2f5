"""The asyncio client: the same methods as the blocking one, to be awaited.

Owns one channel, of the event loop in which it is first used. Calls that are under way are gRPC's own, so that nothing
here needs tasks of its own but the readers of several waits side by side.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from functools import cached_property
from os import PathLike
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from gowork.base import running
from gowork.base.channels import open_channel
from gowork.base.telemetry import is_traced
from gowork.client import _arguments as arguments
from gowork.client import _mapping as mapping
from gowork.client._activity_models import Activity
from gowork.client._aio_outbox import Outbox
from gowork.client._aio_streams import AsyncWatch, finished, merged, stepped
from gowork.client._backups import BackupFile
from gowork.client._calls import ADDRESS_VARIABLE, SCHEDULE_TASKS, CallSettings, Tries
from gowork.client._filters import filter_expression
from gowork.client._handles import AsyncTaskHandle
from gowork.client._leader_fields import THE_ORIGINAL, LeaderFields, Told, goes_beyond, needs_asking
from gowork.client._models import Duration, Member, Stats, TaskFilter, TaskInfo, TaskOptions, TaskView
from gowork.client._queue_models import Explanation, Queue
from gowork.client._waits import IDS_MAX, Wait, end_of
from gowork.client.errors import CallError, LeaderTooOld, error_of
from gowork.proto.cluster.v1 import leader_pb2 as cluster
from gowork.proto.cluster.v1 import leader_pb2_grpc as cluster_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc as scheduler_grpc

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT")


class AsyncClient:
    """Schedules tasks on a cluster and waits for what comes of them.

        async with AsyncClient() as client:
            handle = await client.schedule({"name": "Ada"}, handler="hello")
            print(await handle.result())

    Every call has a deadline and is tried again while no leader answers, within that deadline.
    """

    def __init__(self, address: str | None = None, *, timeout: float = 30.0, patience: float | None = None) -> None:
        """As Client. Connects at the first call, in the event loop that makes it, and stays with that loop."""
        self._settings = CallSettings.of(address, os.environ.get(ADDRESS_VARIABLE), timeout, patience)
        self._told = Told()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection; calls that are under way are cancelled."""
        if "_channel" in self.__dict__:
            await self._channel.close()

    @property
    def address(self) -> str:
        """Where it calls: HOST:PORT, several joined by commas."""
        return self._settings.address

    async def schedule(
        self,
        payload: object = "",
        *,
        id: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> AsyncTaskHandle:
        """As Client.schedule."""
        encoder = mapping.TaskEncoder(options)
        task = encoder.task(payload, id)
        if goes_beyond(task):
            await self._fit(lambda leader: leader.fit(task, encoder.now_ms(), self.address))
        if is_traced():
            from gowork.client._spans import sending

            with sending(task, self._settings):
                await self._send(self._scheduler.ScheduleTask, scheduler.ScheduleTaskRequest(task=task))
        else:
            await self._send(self._scheduler.ScheduleTask, scheduler.ScheduleTaskRequest(task=task))
        return AsyncTaskHandle(self, task.id)

    def schedule_many(
        self,
        payloads: Iterable[object] | AsyncIterable[object],
        **options: Unpack[TaskOptions],
    ) -> AsyncIterator[AsyncTaskHandle]:
        """As Client.schedule_many; the payloads may come from an asynchronous iterable too.

        A batch of a slow asynchronous source is sent after 20 ms, full or not; its handles are yielded when the next
        payload comes.
        """
        encoder = mapping.TaskEncoder(options)
        if not isinstance(payloads, AsyncIterable):
            arguments.many(payloads, "payloads")
        return self._schedule_many(payloads, encoder)

    def handle(self, id: str) -> AsyncTaskHandle:
        """A handle for a task that was scheduled elsewhere. Calls nothing."""
        return AsyncTaskHandle(self, arguments.text(id, "id"))

    async def get(self, id: str) -> TaskInfo:
        """As Client.get."""
        response = await self._call(self._scheduler.GetTask, arguments.message(scheduler.GetTaskRequest, id=id))
        return mapping.task_info(response.task)

    def tasks(
        self,
        filter: str = "",
        *,
        newest_first: bool = False,
        view: TaskView = TaskView.BASIC,
        page_size: int = 0,
        **terms: Unpack[TaskFilter],
    ) -> AsyncIterator[TaskInfo]:
        """As Client.tasks."""
        request = scheduler.ListTasksRequest(
            filter=filter_expression(filter, terms),
            newest_first=newest_first,
            view=mapping.view_to_wire(view),
            page_size=page_size,
        )
        return self._tasks(request)

    async def wait(
        self,
        tasks: Iterable[AsyncTaskHandle | str] | AsyncIterable[AsyncTaskHandle | str],
        timeout: float | None = None,
    ) -> list[TaskInfo]:
        """As Client.wait."""
        end = end_of(timeout)
        handles = [self._handle(task) async for task in stepped(tasks, "tasks")]
        # Handles of one task may be several; each answers from the first of its id.
        first: dict[str, AsyncTaskHandle] = {}
        for handle in handles:
            first.setdefault(handle.id, handle)
        unfinished = [handle for handle in first.values() if not handle.done]
        if len(unfinished) == 1:
            await self._finish(unfinished[0], end)
        else:
            async for _ in self._as_completed(unfinished, end):
                pass
        return [task for handle in handles if (task := first[handle.id].task)]

    def as_completed(
        self,
        tasks: Iterable[AsyncTaskHandle | str] | AsyncIterable[AsyncTaskHandle | str],
        timeout: float | None = None,
    ) -> AsyncIterator[AsyncTaskHandle]:
        """As Client.as_completed."""
        return self._as_completed(tasks, end_of(timeout))

    async def cancel(self, id: str) -> None:
        """As Client.cancel."""
        await self._call(self._scheduler.CancelTask, arguments.message(scheduler.CancelTaskRequest, id=id))

    def watch(
        self,
        filter: str = "",
        *,
        view: TaskView = TaskView.BASIC,
        token: str = "",
        on_removed: Callable[[str], object] | None = None,
        **terms: Unpack[TaskFilter],
    ) -> AsyncWatch:
        """As Client.watch; it begins when it is entered, or at the first step of its iteration."""
        expression = filter_expression(filter, terms)
        request = scheduler.WatchTasksRequest(filter=expression, view=mapping.view_to_wire(view), token=token)
        return AsyncWatch(self._scheduler.WatchTasks, self._settings, request, on_removed)

    async def members(self) -> list[Member]:
        """As Client.members."""
        request = cluster.MembersRequest(page_size=1000)
        members: list[Member] = []
        while True:
            response = await self._call(self._cluster.Members, request)
            members += map(mapping.member, response.members)
            request.page_token = response.next_page_token
            if not request.page_token:
                return members

    async def drain(self, id: str, budget: Duration | None = None) -> None:
        """As Client.drain."""
        await self._call(self._cluster.Drain, mapping.drain_request(id, budget))

    async def stats(self) -> Stats:
        """As Client.stats."""
        return mapping.stats(await self._call(self._scheduler.Stats, scheduler.StatsRequest()))

    async def activity(self, *, failures: int = 0) -> Activity:
        """As Client.activity."""
        request = arguments.message(scheduler.ActivityRequest, failures_max=failures)
        return mapping.activity(await self._call(self._scheduler.Activity, request))

    async def explain(self, id: str, *, verbose: bool = False) -> Explanation:
        """As Client.explain."""
        request = arguments.message(scheduler.ExplainTaskRequest, id=id, verbose=verbose)
        return mapping.explanation(await self._call(self._scheduler.ExplainTask, request))

    async def queues(self) -> list[Queue]:
        """As Client.queues."""
        response = await self._call(self._scheduler.ListQueues, scheduler.ListQueuesRequest())
        return [mapping.queue(queue) for queue in response.queues]

    async def pause_queue(self, name: str) -> None:
        """As Client.pause_queue."""
        await self._call(self._scheduler.PauseQueue, arguments.message(scheduler.PauseQueueRequest, name=name))

    async def resume_queue(self, name: str) -> None:
        """As Client.resume_queue."""
        await self._call(self._scheduler.ResumeQueue, arguments.message(scheduler.ResumeQueueRequest, name=name))

    async def configure_queue(
        self,
        name: str,
        *,
        weight: int | None = None,
        concurrency_limit: int | None = None,
        key_concurrency_limit: int | None = None,
        rate_limit: float | None = None,
        rate_burst: int | None = None,
    ) -> Queue:
        """As Client.configure_queue."""
        request = arguments.message(
            scheduler.ConfigureQueueRequest,
            name=name,
            weight=weight,
            concurrency_limit=concurrency_limit,
            key_concurrency_limit=key_concurrency_limit,
            rate_limit=rate_limit,
            rate_burst=rate_burst,
        )
        return mapping.queue((await self._call(self._scheduler.ConfigureQueue, request)).queue)

    async def retry(self, id: str) -> None:
        """As Client.retry."""
        await self._call(self._scheduler.RetryTask, arguments.message(scheduler.RetryTaskRequest, id=id))

    async def purge(
        self,
        ids: Iterable[str] = (),
        *,
        filter: str = "",
        older_than: Duration = 0,
        **terms: Unpack[TaskFilter],
    ) -> int:
        """As Client.purge."""
        purged = 0
        for request in mapping.purge_requests(ids, filter_expression(filter, terms), older_than):
            while True:
                response = await self._call(self._scheduler.PurgeTasks, request)
                purged += response.purged
                if not response.more:
                    break
        return purged

    async def backup(self, path: str | PathLike[str], progress: Callable[[int, int], object] | None = None) -> None:
        """As Client.backup; a thread writes, for to make much durable takes seconds. It calls `progress`, too."""
        with await asyncio.to_thread(BackupFile, path) as file:
            try:
                async for response in self._scheduler.BackupStore(scheduler.BackupStoreRequest()):
                    await asyncio.to_thread(file.take, response, progress)
                await asyncio.to_thread(file.finish)
            except grpc.RpcError as error:
                raise error_of(error, self._settings.address) from error

    @cached_property
    def _channel(self) -> grpc.aio.Channel:
        return open_channel(self._settings.addresses)

    @cached_property
    def _scheduler(self) -> scheduler_grpc.SchedulerServiceAsyncStub:
        return scheduler_grpc.SchedulerServiceStub(self._channel)

    @cached_property
    def _cluster(self) -> cluster_grpc.LeaderServiceAsyncStub:
        return cluster_grpc.LeaderServiceStub(self._channel)

    @cached_property
    def _schedule_tasks(self) -> grpc.aio.UnaryUnaryMultiCallable[bytes, scheduler.ScheduleTasksResponse]:
        return self._channel.unary_unary(
            SCHEDULE_TASKS, response_deserializer=scheduler.ScheduleTasksResponse.FromString
        )

    async def _finish(self, handle: AsyncTaskHandle, end: float | None) -> None:
        """Waits for one task."""
        wait = Wait(self._settings, (handle,), end)
        request = scheduler.WaitTaskRequest(id=handle.id)
        with running.waiting():
            while wait:
                try:
                    wait.take(((await self._scheduler.WaitTask(request, timeout=wait.timeout())).task,))
                    wait.check_ended()
                except grpc.RpcError as error:
                    try:
                        pause = wait.pause_after(error)
                    except LeaderTooOld:
                        raise await self._too_old("WaitTask") from None
                    await asyncio.sleep(pause)

    async def _call(
        self, method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT
    ) -> ResponseT:
        """Asks the leader first where it may be too old for the request."""
        if needs_asking(request):
            (await self._leader()).check(request, self.address)
        return await self._send(method, request)

    async def _send(
        self, method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT
    ) -> ResponseT:
        try:
            return await self._try(method, request)
        except LeaderTooOld:
            raise await self._too_old(type(request).__name__.removesuffix("Request")) from None

    async def _try(self, method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT) -> ResponseT:
        tries = Tries(self._settings)
        while True:
            try:
                return await method(request, timeout=tries.left())
            except grpc.RpcError as error:
                pause = tries.pause_after(error)
                # Another leader may come.
                self._told.forget()
            await asyncio.sleep(pause)

    async def _leader(self) -> LeaderFields:
        """Which fields the leader reads."""
        return self._told.get() or await self._ask_leader()

    async def _ask_leader(self) -> LeaderFields:
        try:
            told = LeaderFields.told(await self._try(self._scheduler.GetLeader, scheduler.GetLeaderRequest()))
        except LeaderTooOld:
            try:
                activity = await self._try(self._scheduler.Activity, scheduler.ActivityRequest())
                told = LeaderFields.before_0_2_0(activity.version)
            except LeaderTooOld:
                told = THE_ORIGINAL
        return self._told.put(told)

    async def _fit(self, fit: Callable[[LeaderFields], None]) -> LeaderFields:
        """Has something made such as the leader reads it, and answers what that is."""
        try:
            fit(leader := await self._leader())
        except LeaderTooOld:
            # It may have been upgraded since it was asked.
            fit(leader := await self._ask_leader())
        return leader

    async def _too_old(self, method: str) -> LeaderTooOld:
        """The error for a method that the leader lacks."""
        try:
            version = (await self._leader()).version
        except CallError:
            return LeaderTooOld.without_method(method, None, self.address)
        return LeaderTooOld.without_method(method, version, self.address)

    async def _schedule_many(
        self, payloads: Iterable[object] | AsyncIterable[object], encoder: mapping.TaskEncoder
    ) -> AsyncIterator[AsyncTaskHandle]:
        if await self._fit(lambda leader: encoder.fit(leader, self.address)) is THE_ORIGINAL:
            raise await self._too_old("ScheduleTasks")
        with Outbox(self._schedule_tasks, self._settings) as outbox:
            async for payload in stepped(payloads, "payloads"):
                if outbox.add(*encoder.entry(payload)):
                    # The calls need the loop to get under way; a plain iterable never gives it up by itself.
                    await asyncio.sleep(0)
                    for id in await outbox.landed():
                        yield AsyncTaskHandle(self, id)
            outbox.send()
            while ids := await outbox.next_landed():
                for id in ids:
                    yield AsyncTaskHandle(self, id)

    async def _tasks(self, request: scheduler.ListTasksRequest) -> AsyncIterator[TaskInfo]:
        while True:
            response = await self._call(self._scheduler.ListTasks, request)
            for task in response.tasks:
                yield mapping.task_info(task)
            request.page_token = response.next_page_token
            if not request.page_token:
                return

    def _handle(self, task: AsyncTaskHandle | str) -> AsyncTaskHandle:
        return (
            task
            if isinstance(task, AsyncTaskHandle)
            else AsyncTaskHandle(self, arguments.text(task, "a task to wait for"))
        )

    def _as_completed(
        self, tasks: Iterable[AsyncTaskHandle | str] | AsyncIterable[AsyncTaskHandle | str], end: float | None
    ) -> AsyncIterator[AsyncTaskHandle]:
        async def handles() -> AsyncIterator[AsyncTaskHandle]:
            async for task in stepped(tasks, "tasks"):
                yield self._handle(task)

        def stream(chunk: list[AsyncTaskHandle]) -> AsyncIterator[list[AsyncTaskHandle]]:
            return finished(self._scheduler.WaitTasks, Wait(self._settings, chunk, end))

        return merged(handles(), IDS_MAX, stream)
