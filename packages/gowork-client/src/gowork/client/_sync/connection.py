"""The channel of a Client, with its stubs."""

from __future__ import annotations

import grpc

from gowork.base.channels import open_blocking_channel
from gowork.client._calls import SCHEDULE_TASKS, CallSettings
from gowork.proto.cluster.v1 import leader_pb2_grpc as cluster_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc as scheduler_grpc


class Connection:
    """Connects at the first call. Threads may share it.

    The stubs are gRPC's blocking ones. Those of an event loop in a thread would add two thread switches to every call.
    """

    def __init__(self, settings: CallSettings) -> None:
        self._settings = settings
        self._channel = open_blocking_channel(settings.addresses)
        #: The methods about tasks and queues.
        self.scheduler = scheduler_grpc.SchedulerServiceStub(self._channel)
        #: The methods about members.
        self.cluster = cluster_grpc.LeaderServiceStub(self._channel)
        #: ScheduleTasks, for requests that are serialized already.
        self.schedule_tasks: grpc.UnaryUnaryMultiCallable[bytes, pb.ScheduleTasksResponse] = self._channel.unary_unary(
            SCHEDULE_TASKS, response_deserializer=pb.ScheduleTasksResponse.FromString
        )

    def close(self) -> None:
        """Ends the connection for good. Calls that are under way fail."""
        self._settings.closed = True
        self._channel.close()
