"""The connection of a Client, with its stubs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, cast

import grpc

from gowork.client._calls import SCHEDULE_TASKS, CallSettings
from gowork.client._sync.routes import Routes
from gowork.proto.cluster.v1 import leader_pb2_grpc as cluster_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc as scheduler_grpc

if TYPE_CHECKING:
    from grpc import _CallFuture

#: Starts ScheduleTasks. Its arguments are the serialized request, and `timeout`.
StartsBatch: TypeAlias = "Callable[..., _CallFuture[pb.ScheduleTasksResponse]]"


class Connection:
    """Connects at the first call. Threads may share it.

    The stubs are gRPC's blocking ones. Those of an event loop in a thread would add two thread switches to every call.
    """

    def __init__(self, settings: CallSettings) -> None:
        self._settings = settings
        self._routes = Routes(settings.rotation, settings.tls)
        channel = cast("grpc.Channel", self._routes)
        #: The methods about tasks and queues.
        self.scheduler = scheduler_grpc.SchedulerServiceStub(channel)
        #: The methods about members.
        self.cluster = cluster_grpc.LeaderServiceStub(channel)
        submitting = self._routes.submitting(self.scheduler.ScheduleTask, self.scheduler.WaitTask)
        #: Makes ScheduleTask, over a stream where several are made.
        self.schedule_task = cast(
            "grpc.UnaryUnaryMultiCallable[pb.ScheduleTaskRequest, pb.ScheduleTaskResponse]", submitting
        )
        #: Makes WaitTask, over the stream of `schedule_task` if there is one.
        self.wait_task = submitting.wait
        #: Starts ScheduleTasks, with a request that is serialized already.
        self.schedule_tasks: StartsBatch = self._routes.started(
            SCHEDULE_TASKS, response_deserializer=pb.ScheduleTasksResponse.FromString
        )

    def close(self) -> None:
        """Ends the connection for good. Calls that are under way fail."""
        self._settings.closed = True
        # In a forked process, the parent goes on using what would be closed, and gRPC may wait for ever.
        if not self._settings.is_forked:
            self._routes.close()
