"""The connection of an AsyncClient, with its stubs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeAlias, cast

import grpc

from gowork.client._async.routes import Routes
from gowork.client._async.submitting import Submitting
from gowork.client._calls import SCHEDULE_TASKS, CallSettings
from gowork.client.errors import WrongEventLoop
from gowork.proto.cluster.v1 import leader_pb2_grpc as cluster_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc as scheduler_grpc

#: Starts ScheduleTasks. Its arguments are the serialized request, and `timeout`.
StartsBatch: TypeAlias = "Callable[..., grpc.aio.UnaryUnaryCall[bytes, pb.ScheduleTasksResponse]]"


class _Open(NamedTuple):
    loop: asyncio.AbstractEventLoop
    routes: Routes
    scheduler: scheduler_grpc.SchedulerServiceAsyncStub
    cluster: cluster_grpc.LeaderServiceAsyncStub
    schedule_task: Submitting
    schedule_tasks: StartsBatch


class Connection:
    """Opens at the first use of a stub, and belongs to the event loop of that use, because gRPC's channels do."""

    def __init__(self, settings: CallSettings) -> None:
        self._settings = settings
        self._open: _Open | None = None

    @property
    def scheduler(self) -> scheduler_grpc.SchedulerServiceAsyncStub:
        """The methods about tasks and queues."""
        return self._opened().scheduler

    @property
    def cluster(self) -> cluster_grpc.LeaderServiceAsyncStub:
        """The methods about members."""
        return self._opened().cluster

    @property
    def schedule_task(self) -> grpc.aio.UnaryUnaryMultiCallable[pb.ScheduleTaskRequest, pb.ScheduleTaskResponse]:
        """Makes ScheduleTask, over a stream where several are made."""
        return cast(
            "grpc.aio.UnaryUnaryMultiCallable[pb.ScheduleTaskRequest, pb.ScheduleTaskResponse]",
            self._opened().schedule_task,
        )

    @property
    def wait_task(self) -> Callable[..., Awaitable[pb.WaitTaskResponse]]:
        """Makes WaitTask, over the stream of `schedule_task` if there is one."""
        return self._opened().schedule_task.wait

    @property
    def schedule_tasks(self) -> StartsBatch:
        """Starts ScheduleTasks, with a request that is serialized already."""
        return self._opened().schedule_tasks

    async def close(self) -> None:
        """Ends the connection for good. Calls that are under way are cancelled.

        Raises:
            WrongEventLoop: when it belongs to another event loop, which is not closed.
        """
        opened = self._open
        # The channels of a closed loop are gone. They could be closed only in that loop. Those of a forked process are
        # its parent's.
        lives = opened is not None and not (opened.loop.is_closed() or self._settings.is_forked)
        if opened is not None and lives and opened.loop is not asyncio.get_running_loop():
            raise WrongEventLoop
        self._settings.closed, self._open = True, None
        if opened is not None and lives:
            await opened.routes.close()

    def _opened(self) -> _Open:
        loop = asyncio.get_running_loop()
        if self._open is None or self._settings.is_forked:
            self._settings.check_open()
            routes = Routes(self._settings.rotation, self._settings.tls)
            channel = cast("grpc.aio.Channel", routes)
            scheduler = scheduler_grpc.SchedulerServiceStub(channel)
            self._open = _Open(
                loop,
                routes,
                scheduler,
                cluster_grpc.LeaderServiceStub(channel),
                routes.submitting(scheduler.ScheduleTask, scheduler.WaitTask),
                routes.started(SCHEDULE_TASKS, response_deserializer=pb.ScheduleTasksResponse.FromString),
            )
        elif self._open.loop is not loop:
            raise WrongEventLoop
        return self._open
