"""Bytes that are not protobuf are the caller's fault, and are told so, for every shape of method."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
import pytest

from gowork.base import decoding
from gowork.base.channels import open_channel
from gowork.base.decoding import _Codec, _stream_stream, _unary, _unary_stream, refusing_garbage
from gowork.base.outgoing import COUNTED_BYTES_MIN, Later, Outgoing
from gowork.proto.cluster.v1 import leader_pb2 as cluster
from gowork.proto.cluster.v1 import leader_pb2_grpc as cluster_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc as scheduler_grpc
from gowork.proto.status import Refusal, abort, refusal_of

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
    stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
    call = stream(iter(requests), timeout=120)
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


@pytest.mark.parametrize("method", [METHODS[0], METHODS[2]])
async def test_a_call_whose_request_does_not_come_ends(
    channel: grpc.aio.Channel, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    monkeypatch.setattr(decoding, "REQUEST_SECONDS", 0.01)
    stream: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
    with pytest.raises(grpc.RpcError) as caught:
        await stream(never(), timeout=30).read()
    refusal = refusal_of(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "REQUEST_LATE")
    with pytest.raises(grpc.RpcError) as caught:
        await send(channel, method)
    refusal = refusal_of(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "NO_REQUEST")


LARGE = bytes(COUNTED_BYTES_MIN)


@contextmanager
def untimed(_: object) -> Iterator[Any]:
    yield


async def these(*requests: bytes) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


class Context:
    """The context of a call with one request."""

    def __init__(self, request: bytes) -> None:
        self._request = request

    async def read(self) -> bytes:
        return self._request


UNTIMED: Any = untimed
AS_IS = _Codec(bytes, bytes, lambda: False)


async def test_a_large_answer_of_a_unary_call_is_counted_until_the_call_is_over() -> None:
    outgoing = Outgoing()

    async def method(request: bytes, context: object) -> bytes:
        return request

    call = _unary(method, UNTIMED, AS_IS, outgoing)

    async def counted(request: bytes) -> int:
        await call(None, Context(request))
        # Here gRPC sends it.
        return outgoing.unread_bytes

    assert await asyncio.create_task(counted(LARGE)) == len(LARGE)
    assert await asyncio.create_task(counted(LARGE[1:])) == 0
    await asyncio.sleep(0)
    assert outgoing.unread_bytes == 0


@pytest.mark.parametrize("shape", [_unary_stream, _stream_stream])
async def test_a_large_answer_of_a_stream_is_counted_until_the_next_is_asked_for(shape: Callable[..., Any]) -> None:
    outgoing = Outgoing()

    async def method(request: object, context: object) -> AsyncIterator[bytes]:
        for response in (LARGE, LARGE[1:], LARGE):
            yield response

    async with aclosing(shape(method, untimed, AS_IS, outgoing)(these(), Context(b""))) as responses:
        counted = [outgoing.unread_bytes async for _ in responses]
    assert counted == [len(LARGE), 0, len(LARGE)]
    assert outgoing.unread_bytes == 0


async def test_an_answer_that_is_made_later_is_counted_as_a_whole() -> None:
    outgoing = Outgoing()

    async def method(request: object, context: object) -> AsyncIterator[Later]:
        yield Later(70_000, lambda: [b"a", b"b"])

    async with aclosing(_unary_stream(method, UNTIMED, AS_IS, outgoing)(None, Context(b""))) as responses:
        counted = [(data, outgoing.unread_bytes) async for data in responses]
    assert counted == [(b"a", 70_000), (b"b", 70_000)]
    assert outgoing.unread_bytes == 0


@pytest.mark.parametrize("shape", [_unary, _unary_stream, _stream_stream])
async def test_a_call_is_passed_on_as_bytes_to_its_end_whatever_becomes_of_later_calls(
    shape: Callable[..., Any],
) -> None:
    passed_on = True

    def never(_: object) -> bytes:
        raise AssertionError("bytes that are passed on are neither read nor written")

    async def answer(request: Any, context: object) -> bytes:
        nonlocal passed_on
        passed_on = False
        return request if shape is _unary else b"".join([data async for data in request])

    async def answers(request: Any, context: object) -> AsyncIterator[bytes]:
        yield await answer(request if shape is _stream_stream else these(request), context)

    method = answer if shape is _unary else answers
    call = shape(method, UNTIMED, _Codec(never, never, lambda: passed_on), Outgoing())
    if shape is _unary:
        assert await call(None, Context(GARBAGE)) == GARBAGE
    else:
        assert [data async for data in call(these(GARBAGE), Context(GARBAGE))] == [GARBAGE]
    assert not passed_on
