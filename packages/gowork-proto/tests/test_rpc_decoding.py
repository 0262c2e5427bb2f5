"""Bytes that are not protobuf are the caller's fault, and are told so, for every shape of method."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest

from gowork.proto.cluster.v1 import leader_pb2 as cluster
from gowork.proto.cluster.v1 import leader_pb2_grpc as cluster_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc as scheduler_grpc
from gowork.rpc.channels import open_channel
from gowork.rpc.decoding import refusing_garbage
from gowork.rpc.status import Refusal, abort, refusal_of

#: A field of length 127 that isn't there.
GARBAGE = b"\x0a\x7f"


class Cluster(cluster_grpc.LeaderServiceServicer):
    async def Join(self, request, context):
        return cluster.JoinResponse()

    async def Heartbeat(self, requests, context):
        try:
            async for _ in requests:
                yield cluster.HeartbeatResponse()
        except Refusal as refusal:
            await abort(context, refusal)


class Scheduler(scheduler_grpc.SchedulerServiceServicer):
    async def WaitTasks(self, request, context):
        yield scheduler.WaitTasksResponse(tasks=[scheduler.Task(id=id) for id in request.ids])


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    cluster_grpc.add_LeaderServiceServicer_to_server(Cluster(), refusing_garbage(server))
    scheduler_grpc.add_SchedulerServiceServicer_to_server(Scheduler(), refusing_garbage(server))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel([f"127.0.0.1:{port}"]) as channel:
        yield channel
    await server.stop(0)


async def send(channel: grpc.aio.Channel, method: str, *requests: bytes) -> list[bytes]:
    call = channel.stream_stream(method)(requests, timeout=120)
    return [response async for response in call]


METHODS = [
    "/cluster.v1.LeaderService/Join",
    "/cluster.v1.LeaderService/Heartbeat",
    "/scheduler.v1.SchedulerService/WaitTasks",
]


@pytest.mark.parametrize("method", METHODS)
async def test_garbage_is_an_invalid_argument(channel: grpc.aio.Channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await send(channel, method, GARBAGE)
    refusal = refusal_of(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "NOT_PROTOBUF")


async def test_messages_pass_as_they_are(channel: grpc.aio.Channel) -> None:
    request = scheduler.WaitTasksRequest(ids=["a", "b"]).SerializeToString()
    (response,) = await send(channel, METHODS[2], request)
    assert [task.id for task in scheduler.WaitTasksResponse.FromString(response).tasks] == ["a", "b"]
    assert await send(channel, METHODS[0], b"") == [b""]
    assert await send(channel, METHODS[1], b"", b"") == [b"", b""]
