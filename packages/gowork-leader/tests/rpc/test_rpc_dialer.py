"""Calls to callback workers: in order for each task, bounded in time, and without a way to end the leader."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from leader_core import spec

from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._rpc import dialer as dialling
from gowork.leader._rpc.dialer import Dialer
from gowork.proto.scheduler.v1 import scheduler_pb2
from gowork.proto.worker.v1 import worker_pb2 as pb
from gowork.proto.worker.v1 import worker_pb2_grpc

SPEC = spec("a", handler="", body=scheduler_pb2.Task(id="a", payload="work").SerializeToString())


class Member(worker_pb2_grpc.WorkerServiceServicer):
    """Answers when and how the test says."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.start_called = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.error: tuple[grpc.StatusCode, str] | None = None
        self.address = ""

    async def StartWork(self, request: pb.StartWorkRequest, context: Any) -> pb.StartWorkResponse:
        self.called.append(f"start {request.id}")
        self.start_called.set()
        await self.may_answer.wait()
        if self.error is not None:
            await context.abort(*self.error)
        return pb.StartWorkResponse(success=True)

    async def StopWork(self, request: pb.StopWorkRequest, context: Any) -> pb.StopWorkResponse:
        self.called.append(f"stop {request.id}")
        if self.error is not None:
            await context.abort(*self.error)
        return pb.StopWorkResponse(success=False)


class Posted(asyncio.Queue[cmd.AnyCommand]):
    """Stands in for the engine."""

    #: Whether the leader that dials leads.
    leads = True

    def post(self, command: cmd.AnyCommand) -> None:
        self.put_nowait(command)


@asynccontextmanager
async def member() -> AsyncIterator[Member]:
    made, server = Member(), grpc.aio.server()
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(made, server)
    made.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield made
    finally:
        await server.stop(0)


@asynccontextmanager
async def dialer() -> AsyncIterator[tuple[Dialer, Posted]]:
    made, posted, stopped = Dialer(), Posted(), asyncio.Event()
    made.attach(posted)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as group:
        group.create_task(made.run(stopped))
        await asyncio.sleep(0)
        yield made, posted
        stopped.set()


def start(address: str, fence: int = 1) -> ef.StartWork:
    return ef.StartWork("m", address, fence, SPEC, 1)


def stop(address: str, fence: int = 1, id: str = "a") -> ef.StopWork:
    return ef.StopWork("m", address, fence, id)


async def test_a_stop_is_called_after_the_start_of_the_same_grant_has_been_answered() -> None:
    async with member() as worker, dialer() as (calls, posted):
        calls.deliver(start(worker.address))
        calls.deliver(stop(worker.address))
        await worker.start_called.wait()
        # Over the same connection: whatever was called before it is there when it is answered.
        calls.deliver(stop(worker.address, 2, "b"))
        assert await posted.get() == cmd.DenyStop("b", 2)
        worker.may_answer.set()
        assert await posted.get() == cmd.DenyStop("a", 1)
        assert worker.called == ["start a", "stop b", "stop a"]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNKNOWN, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_an_error_of_the_member_itself_is_an_answer(code: grpc.StatusCode) -> None:
    async with member() as worker, dialer() as (calls, posted):
        worker.may_answer.set()
        worker.error = (code, "already working" * 100)
        calls.deliver(start(worker.address))
        refused = await posted.get()
        assert isinstance(refused, cmd.RefuseStart)
        assert refused.answered
        assert refused.reason.startswith(f"the worker answered {code.name}: already working")
        assert len(refused.reason) < 300


async def test_a_stop_of_what_the_member_does_not_find_is_denied() -> None:
    async with member() as worker, dialer() as (calls, posted):
        worker.error = (grpc.StatusCode.NOT_FOUND, "no such task")
        calls.deliver(stop(worker.address))
        assert await posted.get() == cmd.DenyStop("a", 1)


async def test_a_member_that_never_answers_has_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "DIAL_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with dialer() as (calls, posted):
            calls.deliver(start(address))
            refused = await posted.get()
            assert isinstance(refused, cmd.RefuseStart)
            assert not refused.answered
            assert refused.reason.startswith(f"the worker could not be dialled at {address}: DEADLINE_EXCEEDED")
            assert not calls.channels, "nothing tries to connect to it from here on"


@pytest.mark.parametrize("address", ["no-such-host.invalid:1", "127.0.0.1:1", "a b:1", "%:1", "[::1%nope]:1"])
async def test_an_address_that_leads_nowhere_is_refused_with_its_reason(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialling, "DIAL_SECONDS", 1.0)
    async with dialer() as (calls, posted):
        calls.deliver(start(address))
        refused = await posted.get()
        assert isinstance(refused, cmd.RefuseStart)
        assert not refused.answered
        assert address in refused.reason


async def test_a_call_that_fails_in_an_unforeseen_way_gives_the_task_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(addresses: list[str], *_: object, **__: object) -> None:
        raise OverflowError("gRPC does not like it")

    monkeypatch.setattr(dialling, "open_channel", raises)
    async with dialer() as (calls, posted):
        calls.deliver(start("127.0.0.1:1"))
        refused = await posted.get()
        assert isinstance(refused, cmd.RefuseStart)
        assert refused.reason == "the worker could not be dialled at 127.0.0.1:1: OverflowError"


async def test_channels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "CHANNELS_MAX", 2)
    async with member() as first, member() as second, member() as third, dialer() as (calls, posted):
        for place, worker in enumerate((first, second, first, third)):
            worker.may_answer.set()
            worker.error = (grpc.StatusCode.UNKNOWN, "busy")
            calls.deliver(start(worker.address, place))
            await posted.get()
        assert calls.channels == [first.address, third.address]
