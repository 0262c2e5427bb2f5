"""The worker as a callback member, for a leader that knows nothing but the original contract."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from gowork.proto.worker.v1 import worker_pb2, worker_pb2_grpc
from gowork.rpc.channels import open_channel
from gowork.worker import Context, handler
from gowork.worker._app.service import Service
from gowork.worker._core.plugins import Selection
from gowork.worker._session.callback import CallbackMember
from gowork.worker._supervisor.options import Options


class OriginalLeader(leader_pb2_grpc.LeaderServiceServicer, scheduler_pb2_grpc.SchedulerServiceServicer):
    """Its Heartbeat is unary, as on the original's main, or bidirectional, as in the code of its branch."""

    def __init__(self, *, streaming: bool) -> None:
        self.joined: asyncio.Queue[leader_pb2.JoinRequest] = asyncio.Queue()
        self.heartbeats: asyncio.Queue[leader_pb2.HeartbeatRequest] = asyncio.Queue()
        self.completed: asyncio.Queue[scheduler_pb2.TaskCompleteRequest] = asyncio.Queue()
        self.left: asyncio.Queue[str] = asyncio.Queue()
        self.unavailable = 0
        self.unknown = 0
        self._streaming = streaming
        self._server = grpc.aio.server()
        self.address = ""

    async def __aenter__(self) -> OriginalLeader:
        async def unary(request: Any, context: Any) -> Any:
            if self.unknown:
                self.unknown -= 1
                await context.abort(grpc.StatusCode.NOT_FOUND, "unknown member")
            self.heartbeats.put_nowait(request)
            return leader_pb2.HeartbeatResponse()

        async def streaming(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            async for request in requests:
                self.heartbeats.put_nowait(request)
                yield leader_pb2.HeartbeatResponse()

        make = grpc.stream_stream_rpc_method_handler if self._streaming else grpc.unary_unary_rpc_method_handler
        coders = {
            "request_deserializer": leader_pb2.HeartbeatRequest.FromString,
            "response_serializer": leader_pb2.HeartbeatResponse.SerializeToString,
        }
        heartbeat = make(streaming if self._streaming else unary, **coders)
        name = "cluster.v1.LeaderService"
        # The first handler of a method wins.
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, {"Heartbeat": heartbeat, **self._unary_methods()}),)
        )
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    def _unary_methods(self) -> dict[str, Any]:
        async def join(request: Any, context: Any) -> Any:
            self.joined.put_nowait(request)
            return leader_pb2.JoinResponse()

        async def leave(request: Any, context: Any) -> Any:
            self.left.put_nowait(request.id)
            return leader_pb2.LeaveResponse()

        return {
            "Join": grpc.unary_unary_rpc_method_handler(
                join,
                request_deserializer=leader_pb2.JoinRequest.FromString,
                response_serializer=leader_pb2.JoinResponse.SerializeToString,
            ),
            "Leave": grpc.unary_unary_rpc_method_handler(
                leave,
                request_deserializer=leader_pb2.LeaveRequest.FromString,
                response_serializer=leader_pb2.LeaveResponse.SerializeToString,
            ),
        }

    async def TaskComplete(self, request: Any, context: Any) -> Any:
        if self.unavailable:
            self.unavailable -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        self.completed.put_nowait(request)
        return scheduler_pb2.TaskCompleteResponse()


async def soon(queue: asyncio.Queue[Any]) -> Any:
    async with asyncio.timeout(15):
        return await queue.get()


@contextlib.asynccontextmanager
async def worker_for(leader: OriginalLeader, *handlers: Any, default: str = "echo", **options: Any) -> Any:
    selection = Selection(plugins=("echo",), default_handler=default)
    settings = Options(name="dialled", slots=1, runners=0, selection=selection, functions=handlers, **options)
    service = Service(settings, [leader.address])
    service.link = CallbackMember(
        service.supervisor, [leader.address], listen="127.0.0.1:0", advertise=None, scheduler=[leader.address]
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(service.run())
        join = await soon(leader.joined)
        async with open_channel([join.address]) as channel:
            yield worker_pb2_grpc.WorkerServiceStub(channel), join, service
        service.stop()
        async with asyncio.timeout(15):
            await running


@pytest.fixture(params=[False, True], ids=["unary", "streaming"])
async def leader(request: pytest.FixtureRequest) -> AsyncIterator[OriginalLeader]:
    async with OriginalLeader(streaming=request.param) as original:
        yield original


async def test_it_joins_beats_works_and_leaves(leader: OriginalLeader) -> None:
    async with worker_for(leader) as (stub, join, _):
        assert join.id == "dialled"
        beat = await soon(leader.heartbeats)
        assert (beat.id, beat.status) == ("dialled", leader_pb2.HEARTBEAT_STATUS_IDLE)
        answer = await stub.StartWork(worker_pb2.StartWorkRequest(id="t1", payload="hi"))
        assert answer.success
        done = await soon(leader.completed)
        assert (done.id, done.HasField("error")) == ("t1", False)
    assert await soon(leader.left) == "dialled"


async def test_failure_is_told_as_the_error() -> None:
    @handler
    def fails(text: str) -> None:
        raise ValueError(f"no {text}")

    async with OriginalLeader(streaming=False) as leader, worker_for(leader, fails, default="fails") as (stub, _, _):
        await stub.StartWork(worker_pb2.StartWorkRequest(id="t1", payload="way"))
        assert (await soon(leader.completed)).error == "no way"


async def test_completion_is_told_again_until_it_is_taken() -> None:
    async with OriginalLeader(streaming=False) as leader, worker_for(leader) as (stub, _, _):
        leader.unavailable = 2
        await stub.StartWork(worker_pb2.StartWorkRequest(id="t1", payload="hi"))
        assert (await soon(leader.completed)).id == "t1"


async def test_full_worker_takes_no_more_and_stop_work_frees_it() -> None:
    started = asyncio.Event()

    @handler
    async def endless(ctx: Context) -> None:
        started.set()
        await asyncio.Event().wait()

    async with OriginalLeader(streaming=False) as leader, worker_for(leader, endless, default="endless") as given:
        stub = given[0]
        assert (await stub.StartWork(worker_pb2.StartWorkRequest(id="t1", payload="x"))).success
        await started.wait()
        assert not (await stub.StartWork(worker_pb2.StartWorkRequest(id="t2", payload="x"))).success
        assert not (await stub.StopWork(worker_pb2.StopWorkRequest(id="t2"))).success
        assert (await stub.StopWork(worker_pb2.StopWorkRequest(id="t1"))).success
        assert (await stub.StartWork(worker_pb2.StartWorkRequest(id="t3", payload="x"))).success
        assert (await stub.StopWork(worker_pb2.StopWorkRequest(id="t3"))).success
        assert leader.completed.empty()


async def test_empty_id_is_refused() -> None:
    async with OriginalLeader(streaming=False) as leader, worker_for(leader) as (stub, _, _):
        for call, request in (
            (stub.StartWork, worker_pb2.StartWorkRequest(payload="x")),
            (stub.StopWork, worker_pb2.StopWorkRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(request)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_member_that_is_not_known_any_more_joins_again() -> None:
    async with OriginalLeader(streaming=False) as leader:
        leader.unknown = 1
        async with worker_for(leader):
            assert (await soon(leader.joined)).id == "dialled"
