"""The blocking client.

Owns one channel. Safe to use from several threads at once. It has stubs of its own rather than an event loop in a
thread: that loop would add two thread switches to every call.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from types import TracebackType
from typing import Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from gowork.base import running
from gowork.base.channels import open_blocking_channel
from gowork.base.telemetry import is_traced
from gowork.client import _arguments as arguments
from gowork.client import _mapping as mapping
from gowork.client._activity_models import Activity
from gowork.client._backups import BackupFile
from gowork.client._batches import BATCHES_IN_FLIGHT_MAX, batches
from gowork.client._calls import ADDRESS_VARIABLE, SCHEDULE_TASKS, CallSettings, Tries
from gowork.client._filters import filter_expression
from gowork.client._handles import TaskHandle
from gowork.client._leader_fields import THE_ORIGINAL, LeaderFields, Told, goes_beyond, needs_asking
from gowork.client._models import Duration, Member, Stats, TaskFilter, TaskInfo, TaskOptions, TaskView
from gowork.client._queue_models import Explanation, Queue
from gowork.client._sync_flights import Flight
from gowork.client._sync_streams import WaitStream, Watch, merged
from gowork.client._waits import IDS_MAX, Wait, end_of
from gowork.client.errors import CallError, LeaderTooOld, error_of
from gowork.proto.cluster.v1 import leader_pb2 as cluster
from gowork.proto.cluster.v1 import leader_pb2_grpc as cluster_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc as scheduler_grpc

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT")


class Client:
    """Schedules tasks on a cluster and waits for what comes of them.

        with Client() as client:
            print(client.schedule({"name": "Ada"}, handler="hello").result())

    Every call has a deadline and is tried again while no leader answers, within that deadline.
    Make it after a fork, not before: gRPC's connections do not survive one.
    """

    def __init__(self, address: str | None = None, *, timeout: float = 30.0, patience: float | None = None) -> None:
        """Connects at the first call.

        Args:
            address: HOST:PORT[,HOST:PORT]… of leaders; one is enough. Without it the environment's GOWORK_LEADER, else
                127.0.0.1:50052.
            timeout: the deadline of each call, in seconds.
            patience: how long a call is tried again while no leader answers, in seconds; None for its whole deadline.

        Raises:
            AddressError: when an address is not HOST:PORT.
            ValueError: when the timeout is not positive.
        """
        self._settings = CallSettings.of(address, os.environ.get(ADDRESS_VARIABLE), timeout, patience)
        self._told = Told()
        self._channel = open_blocking_channel(self._settings.addresses)
        self._scheduler = scheduler_grpc.SchedulerServiceStub(self._channel)
        self._cluster = cluster_grpc.LeaderServiceStub(self._channel)
        self._schedule_tasks: grpc.UnaryUnaryMultiCallable[bytes, scheduler.ScheduleTasksResponse] = (
            self._channel.unary_unary(SCHEDULE_TASKS, response_deserializer=scheduler.ScheduleTasksResponse.FromString)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; calls that are under way fail."""
        self._channel.close()

    @property
    def address(self) -> str:
        """Where it calls: HOST:PORT, several joined by commas."""
        return self._settings.address

    def schedule(
        self,
        payload: object = "",
        *,
        id: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> TaskHandle:
        """Schedules one task. When it returns, the task is on the leader's disk.

        Args:
            payload: text and bytes are sent as they are, everything else as JSON; at most 1 MiB. A NewTask brings its
                own options.
            id: the task's key, 1 to 256 bytes, printable; None for a new UUIDv7. The same task again under the same id
                changes nothing.
            options: the handler and how it is to be run; see TaskOptions.

        Raises:
            InvalidArgument: when a field is at fault.
            AlreadyExists: when the id is taken by another task.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        encoder = mapping.TaskEncoder(options)
        task = encoder.task(payload, id)
        if goes_beyond(task):
            self._fit(lambda leader: leader.fit(task, encoder.now_ms(), self.address))
        if is_traced():
            from gowork.client._spans import sending

            with sending(task, self._settings):
                self._send(self._scheduler.ScheduleTask, scheduler.ScheduleTaskRequest(task=task))
        else:
            self._send(self._scheduler.ScheduleTask, scheduler.ScheduleTaskRequest(task=task))
        return TaskHandle(self, task.id)

    def schedule_many(
        self,
        payloads: Iterable[object],
        **options: Unpack[TaskOptions],
    ) -> Iterator[TaskHandle]:
        """Schedules any number of tasks in batches, a few at a time, and yields a handle for each as it is
        acknowledged, in order.

        It works while it is iterated, no further ahead than those few batches, so that the payloads may be a generator
        without an end. A batch of a slow source is sent when its next payload comes.

        Args:
            payloads: each as for schedule, or a NewTask with options of its own.
            options: as for schedule, for all tasks that do not bring their own.

        Raises:
            InvalidArgument: when a field is at fault; tasks are named by their place, as in `tasks[3].id`. None of the
                tasks of its batch is scheduled; those of other batches that were not yielded yet may be.
            AlreadyExists, CallError: as for schedule.
        """
        encoder = mapping.TaskEncoder(options)
        return self._schedule_many(arguments.many(payloads, "payloads"), encoder)

    def handle(self, id: str) -> TaskHandle:
        """A handle for a task that was scheduled elsewhere. Calls nothing."""
        return TaskHandle(self, arguments.text(id, "id"))

    def get(self, id: str) -> TaskInfo:
        """All that is known of one task.

        Raises:
            NotFound: when there is none of that id.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        return mapping.task_info(
            self._call(self._scheduler.GetTask, arguments.message(scheduler.GetTaskRequest, id=id)).task
        )

    def tasks(
        self,
        filter: str = "",
        *,
        newest_first: bool = False,
        view: TaskView = TaskView.BASIC,
        page_size: int = 0,
        **terms: Unpack[TaskFilter],
    ) -> Iterator[TaskInfo]:
        """Tasks in the order in which they were scheduled, fetched page by page as it is iterated.

        Args:
            filter: an expression such as `status = RUNNING AND labels.team = "web"`.
            newest_first: the other way round.
            view: how much of each task to fetch.
            page_size: tasks in one call, up to 10,000; 0 for 1,000.
            terms: status, handler, queue, priority, labels, id_prefix, joined to the filter by AND; see TaskFilter.

        Raises:
            InvalidArgument: when the filter does not parse.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = scheduler.ListTasksRequest(
            filter=filter_expression(filter, terms),
            newest_first=newest_first,
            view=mapping.view_to_wire(view),
            page_size=page_size,
        )
        return self._tasks(request)

    def wait(self, tasks: Iterable[TaskHandle | str], timeout: float | None = None) -> list[TaskInfo]:
        """All of these tasks as they finished, in the given order.

        Args:
            tasks: handles or ids.
            timeout: how long to wait for all, in seconds; None for as long as it takes.

        Raises:
            TaskNotFinished: when the timeout ran out.
            NotFound: when an id is unknown.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        handles = [self._handle(task) for task in arguments.many(tasks, "tasks")]
        # Handles of one task may be several; each answers from the first of its id.
        first: dict[str, TaskHandle] = {}
        for handle in handles:
            first.setdefault(handle.id, handle)
        unfinished = [handle for handle in first.values() if not handle.done]
        if len(unfinished) == 1:
            self._finish(unfinished[0], end_of(timeout))
        else:
            for _ in self.as_completed(unfinished, timeout):
                pass
        return [task for handle in handles if (task := first[handle.id].task)]

    def as_completed(self, tasks: Iterable[TaskHandle | str], timeout: float | None = None) -> Iterator[TaskHandle]:
        """Yields a handle for each task as it finishes.

        Args:
            tasks: handles or ids; taken as they come, so that `schedule_many` may stand here itself. Up to 160,000 are
                waited for at once.
            timeout: how long to wait for all, in seconds; None for as long as it takes.

        Raises:
            As wait.
        """
        return self._as_completed(map(self._handle, arguments.many(tasks, "tasks")), end_of(timeout))

    def cancel(self, id: str) -> None:
        """Cancels a task: a pending one at once, a running one as soon as its worker has stopped it.

        Raises:
            NotFound: when there is none of that id.
            FailedPrecondition: when it has completed or failed already.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        self._call(self._scheduler.CancelTask, arguments.message(scheduler.CancelTaskRequest, id=id))

    def watch(
        self,
        filter: str = "",
        *,
        view: TaskView = TaskView.BASIC,
        token: str = "",
        on_removed: Callable[[str], object] | None = None,
        **terms: Unpack[TaskFilter],
    ) -> Watch:
        """Follows tasks: an iterator over their latest states as they change, without an end. See Watch.

        Args:
            filter: as for tasks, and so the terms.
            view: how much of each task to fetch.
            token: where an earlier Watch ended; empty to begin now.
            on_removed: called with the id of each task that is removed, whatever the filter selects, as it is iterated.

        Raises:
            As tasks; OutOfRange when the token is too old.
        """
        expression = filter_expression(filter, terms)
        request = scheduler.WatchTasksRequest(filter=expression, view=mapping.view_to_wire(view), token=token)
        return Watch(self._scheduler.WatchTasks, self._settings, request, on_removed)

    def members(self) -> list[Member]:
        """The members of the cluster, in the order of their ids.

        Raises:
            CallError: when the leader refused, or could not be reached.
        """
        request = cluster.MembersRequest(page_size=1000)
        members: list[Member] = []
        while True:
            response = self._call(self._cluster.Members, request)
            members += map(mapping.member, response.members)
            request.page_token = response.next_page_token
            if not request.page_token:
                return members

    def drain(self, id: str, budget: Duration | None = None) -> None:
        """Takes a worker out of service: it is given no more tasks from now on, finishes what it runs, and leaves.

        Returns when the leader has noted it, not when the worker has left. A member that is dialled ends what it holds
        and stays idle until it joins again.

        Args:
            id: the member's id.
            budget: how long the worker may go on with what it runs, in seconds or as timedelta, at most a day; what has
                not finished by then goes back to the queue. None for the worker's own setting.

        Raises:
            NotFound: when no live member has the id.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        self._call(self._cluster.Drain, mapping.drain_request(id, budget))

    def stats(self) -> Stats:
        """How many tasks and members there are, by queue, handler and condition.

        Raises:
            CallError: when the leader refused, or could not be reached.
        """
        return mapping.stats(self._call(self._scheduler.Stats, scheduler.StatsRequest()))

    def activity(self, *, failures: int = 0) -> Activity:
        """What the queues hold and wait for, and what has happened in them since the leader started.

        Made to be asked every second: unlike stats it costs the same however many finished tasks are kept.

        Args:
            failures: how many of the tasks that ended last with ERROR to tell of, up to 100.

        Raises:
            InvalidArgument: when that is out of bounds.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(scheduler.ActivityRequest, failures_max=failures)
        return mapping.activity(self._call(self._scheduler.Activity, request))

    def explain(self, id: str, *, verbose: bool = False) -> Explanation:
        """Why a task has not been started, or what has ended it.

        Args:
            id: the task's.
            verbose: also what each member says to it.

        Raises:
            NotFound: when there is none of that id.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(scheduler.ExplainTaskRequest, id=id, verbose=verbose)
        return mapping.explanation(self._call(self._scheduler.ExplainTask, request))

    def queues(self) -> list[Queue]:
        """The queues that have tasks waiting or running, or settings of their own, by name.

        Raises:
            CallError: when the leader refused, or could not be reached.
        """
        response = self._call(self._scheduler.ListQueues, scheduler.ListQueuesRequest())
        return [mapping.queue(queue) for queue in response.queues]

    def pause_queue(self, name: str) -> None:
        """Starts no more tasks of a queue until resume_queue; what runs goes on.

        Raises:
            InvalidArgument: when it can be no queue's name.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        self._call(self._scheduler.PauseQueue, arguments.message(scheduler.PauseQueueRequest, name=name))

    def resume_queue(self, name: str) -> None:
        """Ends a pause.

        Raises:
            As pause_queue.
        """
        self._call(self._scheduler.ResumeQueue, arguments.message(scheduler.ResumeQueueRequest, name=name))

    def configure_queue(
        self,
        name: str,
        *,
        weight: int | None = None,
        concurrency_limit: int | None = None,
        key_concurrency_limit: int | None = None,
        rate_limit: float | None = None,
        rate_burst: int | None = None,
    ) -> Queue:
        """Sets how a queue is served. What is None stays as it is; a limit of 0 is none.

        Args:
            name: the queue's; it need not have any task yet.
            weight: its share of the slots beside other queues that have work, 1 to 1,000.
            concurrency_limit: most tasks that run at once.
            key_concurrency_limit: most tasks of one concurrency key that run at once.
            rate_limit: most tasks that are started in a second, over time.
            rate_burst: most tasks that are started at once under the rate; 0 for what a second brings, at least 1.

        Raises:
            InvalidArgument: when a field is at fault.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        request = arguments.message(
            scheduler.ConfigureQueueRequest,
            name=name,
            weight=weight,
            concurrency_limit=concurrency_limit,
            key_concurrency_limit=key_concurrency_limit,
            rate_limit=rate_limit,
            rate_burst=rate_burst,
        )
        return mapping.queue(self._call(self._scheduler.ConfigureQueue, request).queue)

    def retry(self, id: str) -> None:
        """Runs a task again that has ended with ERROR or CANCELLED, as if it were new; its attempts stay on record.

        A pending or running task is left as it is.

        Raises:
            NotFound: when there is none of that id.
            FailedPrecondition: when it has completed, or its expiry is past.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        self._call(self._scheduler.RetryTask, arguments.message(scheduler.RetryTaskRequest, id=id))

    def purge(
        self,
        ids: Iterable[str] = (),
        *,
        filter: str = "",
        older_than: Duration = 0,
        **terms: Unpack[TaskFilter],
    ) -> int:
        """Removes finished tasks with their results, now rather than when their time is over. Answers how many.

        Args:
            ids: the tasks; unknown ones are left out. Without them the filter selects.
            filter: as for tasks, and so the terms; only finished tasks are removed.
            older_than: only tasks that finished at least so long ago, in seconds; with a filter.
            terms: as for tasks.

        Raises:
            InvalidArgument: when neither ids nor a filter are given, or the filter does not parse.
            FailedPrecondition: when one of the ids has not finished; then none of its 10,000 is removed.
            CallError: when the leader refused otherwise, or could not be reached.
        """
        purged = 0
        for request in mapping.purge_requests(ids, filter_expression(filter, terms), older_than):
            while True:
                response = self._call(self._scheduler.PurgeTasks, request)
                purged += response.purged
                if not response.more:
                    break
        return purged

    def backup(self, path: str | PathLike[str], progress: Callable[[int, int], object] | None = None) -> None:
        """Writes a copy of the leader's store, as it is at one moment, to a file that is not there yet.

        A leader is started from it with `gowork-leader --restore`.

        Args:
            path: the file; it appears when it is whole.
            progress: called with the bytes that have come and those that will.

        Raises:
            FileExistsError: when there is something at the path.
            CallError: when the leader refused, or could not be reached, or the copy broke off.
        """
        with BackupFile(path) as file:
            try:
                for response in self._scheduler.BackupStore(scheduler.BackupStoreRequest()):
                    file.take(response, progress)
                file.finish()
            except grpc.RpcError as error:
                raise error_of(error, self._settings.address) from error

    def _finish(self, handle: TaskHandle, end: float | None) -> None:
        """Waits for one task."""
        wait = Wait(self._settings, (handle,), end)
        request = scheduler.WaitTaskRequest(id=handle.id)
        with running.waiting():
            while wait:
                try:
                    wait.take((self._scheduler.WaitTask(request, timeout=wait.timeout()).task,))
                    wait.check_ended()
                except grpc.RpcError as error:
                    try:
                        pause = wait.pause_after(error)
                    except LeaderTooOld:
                        raise self._too_old("WaitTask") from None
                    time.sleep(pause)

    def _call(self, method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT) -> ResponseT:
        """Asks the leader first where it may be too old for the request."""
        if needs_asking(request):
            self._leader().check(request, self.address)
        return self._send(method, request)

    def _send(self, method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT) -> ResponseT:
        try:
            return self._try(method, request)
        except LeaderTooOld:
            raise self._too_old(type(request).__name__.removesuffix("Request")) from None

    def _try(self, method: grpc.UnaryUnaryMultiCallable[RequestT, ResponseT], request: RequestT) -> ResponseT:
        tries = Tries(self._settings)
        while True:
            try:
                return method(request, timeout=tries.left())
            except grpc.RpcError as error:
                pause = tries.pause_after(error)
                # Another leader may come.
                self._told.forget()
            time.sleep(pause)

    def _leader(self) -> LeaderFields:
        """Which fields the leader reads."""
        return self._told.get() or self._ask_leader()

    def _ask_leader(self) -> LeaderFields:
        try:
            told = LeaderFields.told(self._try(self._scheduler.GetLeader, scheduler.GetLeaderRequest()))
        except LeaderTooOld:
            try:
                activity = self._try(self._scheduler.Activity, scheduler.ActivityRequest())
                told = LeaderFields.before_0_2_0(activity.version)
            except LeaderTooOld:
                told = THE_ORIGINAL
        return self._told.put(told)

    def _fit(self, fit: Callable[[LeaderFields], None]) -> LeaderFields:
        """Has something made such as the leader reads it, and answers what that is."""
        try:
            fit(leader := self._leader())
        except LeaderTooOld:
            # It may have been upgraded since it was asked.
            fit(leader := self._ask_leader())
        return leader

    def _too_old(self, method: str) -> LeaderTooOld:
        """The error for a method that the leader lacks."""
        try:
            version = self._leader().version
        except CallError:
            return LeaderTooOld.without_method(method, None, self.address)
        return LeaderTooOld.without_method(method, version, self.address)

    def _schedule_many(self, payloads: Iterable[object], encoder: mapping.TaskEncoder) -> Iterator[TaskHandle]:
        if self._fit(lambda leader: encoder.fit(leader, self.address)) is THE_ORIGINAL:
            raise self._too_old("ScheduleTasks")
        flying: deque[Flight] = deque()
        try:
            for batch in batches(map(encoder.entry, payloads)):
                flying.append(Flight(self._schedule_tasks, self._settings, batch))
                while flying and (len(flying) >= BATCHES_IN_FLIGHT_MAX or flying[0].landed()):
                    yield from self._land(flying)
            while flying:
                yield from self._land(flying)
        finally:
            for flight in flying:
                flight.cancel()

    def _land(self, flying: deque[Flight]) -> Iterator[TaskHandle]:
        flight = flying[0]
        flight.wait()
        flying.popleft()
        for id in flight.batch.ids:
            yield TaskHandle(self, id)

    def _tasks(self, request: scheduler.ListTasksRequest) -> Iterator[TaskInfo]:
        while True:
            response = self._call(self._scheduler.ListTasks, request)
            yield from map(mapping.task_info, response.tasks)
            request.page_token = response.next_page_token
            if not request.page_token:
                return

    def _handle(self, task: TaskHandle | str) -> TaskHandle:
        return task if isinstance(task, TaskHandle) else TaskHandle(self, arguments.text(task, "a task to wait for"))

    def _as_completed(self, handles: Iterable[TaskHandle], end: float | None) -> Iterator[TaskHandle]:
        def stream(chunk: list[TaskHandle]) -> WaitStream[TaskHandle]:
            return WaitStream(self._scheduler.WaitTasks, Wait(self._settings, chunk, end))

        return merged(handles, IDS_MAX, stream)
