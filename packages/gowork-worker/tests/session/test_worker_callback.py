"""The worker as a callback worker, for a leader that knows nothing but the original contract."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from gowork.base.channels import open_channel
from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc
from gowork.proto.scheduler.v1 import scheduler_pb2, scheduler_pb2_grpc
from gowork.proto.worker.v1 import worker_pb2, worker_pb2_grpc
from gowork.worker import Cancel, Context, Retry, Snooze, handler
from gowork.worker._app import service as service_module
from gowork.worker._app.service import Service
from gowork.worker._core.options import Options
from gowork.worker._core.selection import Selection
from gowork.worker._session import callback
from gowork.worker._session.callback import CallbackWorker


class OriginalLeader(leader_pb2_grpc.LeaderServiceServicer, scheduler_pb2_grpc.SchedulerServiceServicer):
    """Its Heartbeat is unary, as on the original's main, or bidirectional, as in the code of its branch."""

    def __init__(self, *, streaming: bool) -> None:
        self.joined: asyncio.Queue[leader_pb2.JoinRequest] = asyncio.Queue()
        self.heartbeats: asyncio.Queue[leader_pb2.HeartbeatRequest] = asyncio.Queue()
        self.completed: asyncio.Queue[scheduler_pb2.TaskCompleteRequest] = asyncio.Queue()
        self.left: asyncio.Queue[str] = asyncio.Queue()
        #: What the next calls of TaskComplete, and of Heartbeat, end with.
        self.complete_errors: list[grpc.StatusCode] = []
        self.heartbeat_errors: list[grpc.StatusCode] = []
        #: The same of TaskProgress.
        self.progress_errors: list[grpc.StatusCode] = []
        #: Heartbeats are answered while it is set.
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        #: None: it knows no TaskProgress.
        self.progress: asyncio.Queue[scheduler_pb2.TaskProgressRequest] | None = None
        self._streaming = streaming
        self._server = grpc.aio.server()
        self.address = ""

    async def __aenter__(self) -> OriginalLeader:
        async def unary(request: Any, context: Any) -> Any:
            if self.heartbeat_errors:
                await context.abort(self.heartbeat_errors.pop(0), "no")
            self.heartbeats.put_nowait(request)
            await self.may_answer.wait()
            return leader_pb2.HeartbeatResponse()

        async def streaming(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            async for request in requests:
                self.heartbeats.put_nowait(request)
                yield leader_pb2.HeartbeatResponse()

        parse, serialize = leader_pb2.HeartbeatRequest.FromString, leader_pb2.HeartbeatResponse.SerializeToString
        heartbeat = (
            grpc.stream_stream_rpc_method_handler(streaming, parse, serialize)
            if self._streaming
            else grpc.unary_unary_rpc_method_handler(unary, parse, serialize)
        )
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
        if self.complete_errors:
            await context.abort(self.complete_errors.pop(0), "away")
        self.completed.put_nowait(request)
        return scheduler_pb2.TaskCompleteResponse()

    async def TaskProgress(self, request: Any, context: Any) -> Any:
        if self.progress_errors:
            await context.abort(self.progress_errors.pop(0), "away")
        if self.progress is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method")
        assert self.progress is not None
        if not request.id:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "id")
        self.progress.put_nowait(request)
        return scheduler_pb2.TaskProgressResponse()


async def soon(queue: asyncio.Queue[Any]) -> Any:
    async with asyncio.timeout(120):
        return await queue.get()


@contextlib.asynccontextmanager
async def worker_for(
    leader: OriginalLeader, *handlers: Any, default: str = "echo", other: OriginalLeader | None = None, **options: Any
) -> Any:
    selection = Selection(plugins=("echo",), default_handler=default)
    settings = Options(
        **{"name": "dialled", "slots": 1, "runners": 0, "selection": selection, "functions": handlers, **options}
    )
    addresses = [each.address for each in (leader, other) if each is not None]
    service = Service(settings, addresses)
    service.link = CallbackWorker(
        service.supervisor, addresses, listen="127.0.0.1:0", advertise=None, scheduler=addresses
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(service.run())
        join = await soon(leader.joined)
        async with open_channel([join.address]) as channel:
            yield worker_pb2_grpc.WorkerServiceStub(channel), join, service
        service.stop()
        async with asyncio.timeout(120):
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
        # A full store passes, as an absence does.
        leader.complete_errors = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
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


async def test_a_fence_is_taken_once_until_the_leader_has_heard_of_its_end() -> None:
    told = asyncio.Event()

    class SlowLeader(OriginalLeader):
        async def TaskComplete(self, request: Any, context: Any) -> Any:
            self.completed.put_nowait(request)
            await told.wait()
            return scheduler_pb2.TaskCompleteResponse()

    gate = asyncio.Event()

    @handler
    async def waits(text: str) -> None:
        await gate.wait()

    fence = 1 << 40
    async with SlowLeader(streaming=False) as leader, worker_for(leader, waits, default="waits", slots=4) as given:
        stub = given[0]

        async def taken(id: str, fence: int) -> bool:
            answer = await stub.StartWork(worker_pb2.StartWorkRequest(id=id, payload="x", fence=fence))
            return bool(answer.success)

        assert await taken("t1", fence)
        assert not await taken("t2", fence), "it runs"
        gate.set()
        assert (await soon(leader.completed)).id == "t1"
        assert not await taken("t3", fence), "its end is still to be told"
        # The numbers that the worker gives by itself are low, and so may those of a stranger be.
        assert await taken("t4", 1)
        assert (await soon(leader.completed)).id == "t4"
        assert await taken("t5", 0), "its number is not that of t4, whose end is still to be told"
        assert (await soon(leader.completed)).id == "t5"
        gate.clear()
        assert [await taken("t6", 3), await taken("t7", 0)] == [True, True]
        told.set()
        gate.set()
        assert {(await soon(leader.completed)).id for _ in range(2)} == {"t6", "t7"}


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
        leader.heartbeat_errors = [grpc.StatusCode.NOT_FOUND]
        async with worker_for(leader):
            assert (await soon(leader.joined)).id == "dialled"


async def test_member_that_is_not_answered_stays_one_and_does_not_join_again() -> None:
    # A leader takes back what a member holds that joins again.
    async with OriginalLeader(streaming=False) as leader:
        leader.heartbeat_errors = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL]
        async with worker_for(leader):
            await soon(leader.heartbeats)
            assert leader.joined.empty()


async def test_member_whose_leader_is_silent_goes_to_the_next_one_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "_HEARTBEAT_INTERVAL", 0.01)
    monkeypatch.setattr(callback, "CALL_TIMEOUT", 3_600.0)
    monkeypatch.setattr(callback, "CALL_TIMEOUT_AMONG_SEVERAL", 0.2)
    async with OriginalLeader(streaming=False) as silent, OriginalLeader(streaming=False) as other:
        silent.joined = other.joined
        async with worker_for(silent, other=other):
            await soon(silent.heartbeats)
            silent.may_answer.clear()
            for _ in range(2):
                silent.heartbeats, other.heartbeats = asyncio.Queue(), asyncio.Queue()
                await soon(silent.heartbeats)
                await soon(other.heartbeats)
            silent.may_answer.set()


async def test_member_is_busy_until_the_leader_has_heard_of_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "_HEARTBEAT_INTERVAL", 0.01)
    async with OriginalLeader(streaming=False) as leader, worker_for(leader) as (stub, _, _):
        leader.complete_errors = [grpc.StatusCode.UNAVAILABLE] * 3
        await stub.StartWork(worker_pb2.StartWorkRequest(id="t1", payload="hi"))
        beats = []
        while leader.complete_errors:
            beats.append((await soon(leader.heartbeats)).status)
        # The first ones may have been under way before the task came.
        first_busy = beats.index(leader_pb2.HEARTBEAT_STATUS_BUSY)
        assert set(beats[first_busy:]) == {leader_pb2.HEARTBEAT_STATUS_BUSY}
        again = await stub.StartWork(worker_pb2.StartWorkRequest(id="t1", payload="hi"))
        assert not again.success, "its end is still to be told"
        await soon(leader.completed)
        while (await soon(leader.heartbeats)).status != leader_pb2.HEARTBEAT_STATUS_IDLE:
            pass


@handler(max_attempts=3)
def steers(text: str) -> None:
    raise {
        "cancel": Cancel("no need"),
        "snooze": Snooze(delay=7, reason="not yet"),
        "retry": Retry("flaky", delay=0.5),
        "fail": ValueError("broken"),
    }[text]


async def test_leader_that_gives_a_fence_is_told_how_an_attempt_ended() -> None:
    told = {
        "cancel": (scheduler_pb2.ATTEMPT_OUTCOME_CANCELLED, "no need", None),
        "snooze": (scheduler_pb2.ATTEMPT_OUTCOME_SNOOZED, "not yet", 7000),
        "retry": (scheduler_pb2.ATTEMPT_OUTCOME_FAILED, "flaky", 500),
        "fail": (scheduler_pb2.ATTEMPT_OUTCOME_FAILED, "broken", None),
    }
    async with OriginalLeader(streaming=False) as leader, worker_for(leader, steers, default="steers") as (stub, _, _):
        done: Any = None
        for number, (payload, expected) in enumerate(told.items()):
            fence = (1 << 41) + number
            await stub.StartWork(worker_pb2.StartWorkRequest(id=payload, payload=payload, fence=fence, attempt=2))
            done = await soon(leader.completed)
            delay = done.retry_delay_ms if done.HasField("retry_delay_ms") else None
            assert (done.outcome, done.error, delay) == expected
            assert (done.id, done.fence, done.retry.max_attempts) == (payload, fence, 3)
        assert (done.failure.type, done.failure.kind) == ("ValueError", scheduler_pb2.FAILURE_KIND_HANDLER)


async def test_attempt_has_the_leaders_fence_and_number() -> None:
    seen: list[tuple[int, int]] = []

    @handler
    async def looks(ctx: Context) -> None:
        seen.append((ctx.fence, ctx.attempt))

    async with OriginalLeader(streaming=False) as leader, worker_for(leader, looks, default="looks") as (stub, _, _):
        await stub.StartWork(worker_pb2.StartWorkRequest(id="t1", payload="x", fence=1 << 41, attempt=5))
        assert (await soon(leader.completed)).outcome == scheduler_pb2.ATTEMPT_OUTCOME_COMPLETED
    assert seen == [(1 << 41, 5)]


async def test_old_leader_of_gowork_is_made_to_take_a_snoozed_task_back_and_the_original_ends_it() -> None:
    @handler
    def snoozes(text: str) -> None:
        raise Snooze(delay=0.01, reason="not yet")

    for is_gowork in (True, False):
        async with OriginalLeader(streaming=False) as leader:
            leader.progress = asyncio.Queue() if is_gowork else None
            async with worker_for(leader, snoozes, default="snoozes") as (stub, _, _):
                await stub.StartWork(worker_pb2.StartWorkRequest(id="t1", payload="x"))
                if is_gowork:
                    assert (await soon(leader.joined)).id == "dialled"
                    assert leader.completed.empty()
                else:
                    done = await soon(leader.completed)
                    assert done.error == "not yet"
                    # It has no fields for more.
                    assert {field.name for field, _ in done.ListFields()} == {"id", "error"}


async def test_what_a_draining_worker_still_runs_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    # However slow the machine is: what is told is looked at, not how fast.
    monkeypatch.setattr(service_module, "_ACKNOWLEDGE_TIMEOUT", 60.0)
    monkeypatch.setattr(service_module, "_GOODBYE_TIMEOUT", 60.0)

    @handler
    async def endless(ctx: Context) -> None:
        await asyncio.Event().wait()

    for fence in (1 << 41, 0):
        async with OriginalLeader(streaming=False) as leader:
            leader.progress = asyncio.Queue()
            options: dict[str, Any] = {"default": "endless", "drain_timeout": 0.0}
            async with worker_for(leader, endless, **options) as (stub, _, _):
                await stub.StartWork(worker_pb2.StartWorkRequest(id="t1", payload="x", fence=fence))
            assert await soon(leader.left) == "dialled"
            if fence:
                assert (await soon(leader.completed)).outcome == scheduler_pb2.ATTEMPT_OUTCOME_INTERRUPTED
            else:
                assert leader.completed.empty(), "to leave gives the task back: said as an error, it would be one"
                assert leader.joined.empty()


async def test_worker_that_stops_before_its_first_heartbeat_is_answered_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "_GOODBYE_TIMEOUT", 60.0)

    @handler
    async def unused(ctx: Context) -> None: ...

    async with OriginalLeader(streaming=False) as leader:
        leader.may_answer.clear()
        async with worker_for(leader, unused, default="unused"):
            await soon(leader.heartbeats)
        # It has gone: what it has said is there, or on its way.
        async with asyncio.timeout(30):
            assert await leader.left.get() == "dialled"


async def test_leader_hears_at_once_that_a_worker_drains() -> None:
    may_end = asyncio.Event()

    @handler
    async def waits(ctx: Context) -> None:
        await may_end.wait()

    async with OriginalLeader(streaming=False) as leader, worker_for(leader, waits, default="waits") as given:
        stub, _, service = given
        await stub.StartWork(worker_pb2.StartWorkRequest(id="t1", payload="x"))
        service.stop()
        while (await soon(leader.heartbeats)).status != leader_pb2.HEARTBEAT_STATUS_FAILED:
            pass
        may_end.set()
        assert not (await soon(leader.completed)).HasField("error")


async def test_progress_is_told_under_the_leaders_fence() -> None:
    may_end = asyncio.Event()

    @handler
    async def counts(ctx: Context) -> None:
        ctx.progress(0.25, "a quarter")
        await may_end.wait()

    async with OriginalLeader(streaming=False) as leader:
        leader.progress = asyncio.Queue()
        async with worker_for(leader, counts, default="counts") as (stub, _, _):
            await stub.StartWork(worker_pb2.StartWorkRequest(id="t1", payload="x", fence=1 << 41))
            told = await soon(leader.progress)
            assert (told.id, told.fence, told.fraction, told.message) == ("t1", 1 << 41, 0.25, "a quarter")
            may_end.set()
            await soon(leader.completed)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
async def test_progress_that_a_leader_did_not_take_is_told_again(
    monkeypatch: pytest.MonkeyPatch, code: grpc.StatusCode
) -> None:
    monkeypatch.setattr(callback, "RETRY_MAX", 0.01)
    may_end = asyncio.Event()

    @handler
    async def counts(ctx: Context) -> None:
        ctx.progress(0.25, "a quarter")
        await may_end.wait()

    async with OriginalLeader(streaming=False) as leader:
        leader.progress = asyncio.Queue()
        leader.progress_errors = [code] * 3
        async with worker_for(leader, counts, default="counts") as (stub, _, _):
            await stub.StartWork(worker_pb2.StartWorkRequest(id="t1", payload="x", fence=1 << 41))
            assert (await soon(leader.progress)).message == "a quarter"
            may_end.set()
            await soon(leader.completed)


async def test_progress_does_no_harm_where_the_leader_does_not_know_it() -> None:
    @handler
    async def counts(ctx: Context) -> None:
        for step in range(3):
            ctx.progress(step / 3, "")

    async with OriginalLeader(streaming=False) as leader, worker_for(leader, counts, default="counts") as (stub, _, _):
        await stub.StartWork(worker_pb2.StartWorkRequest(id="t1", payload="x"))
        assert not (await soon(leader.completed)).HasField("error")


async def test_end_of_a_task_whose_stop_nobody_waits_for_any_more_is_reported() -> None:
    stopping, may_end = asyncio.Event(), asyncio.Event()

    @handler
    async def lingers(ctx: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopping.set()
            await may_end.wait()

    async with OriginalLeader(streaming=False) as leader, worker_for(leader, lingers, default="lingers") as given:
        stub, _, service = given
        await stub.StartWork(worker_pb2.StartWorkRequest(id="t1", payload="x", fence=1 << 41))
        # As gRPC does for a call whose caller has given up.
        call = asyncio.create_task(service.link.stop("t1"))
        await stopping.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        may_end.set()
        assert (await soon(leader.completed)).outcome == scheduler_pb2.ATTEMPT_OUTCOME_CANCELLED


async def test_task_that_does_not_stop_in_time_is_not_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback, "_STOP_TIMEOUT", 0.01)
    may_end = asyncio.Event()

    @handler
    async def lingers(ctx: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await may_end.wait()

    async with (
        OriginalLeader(streaming=False) as leader,
        worker_for(leader, lingers, default="lingers") as (stub, _, _),
    ):
        await stub.StartWork(worker_pb2.StartWorkRequest(id="t1", payload="x"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.StopWork(worker_pb2.StopWorkRequest(id="t1"))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        may_end.set()
        await soon(leader.completed)
