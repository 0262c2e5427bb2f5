"""Many calls at once are all served, or refused with the number that bounds them."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from leader_serving import PATIENCE, refused, serving, stream_refused

from gowork.base.outgoing import Outgoing
from gowork.leader._app import ports as app
from gowork.leader._rpc import admission, following
from gowork.leader._rpc.admission import HoldBack
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import Refusal, refusal_of


async def test_thousands_of_calls_at_once_are_all_served(tmp_path: Path) -> None:
    """Beyond 1,000 that wait to be taken, gRPC by itself ends some as CANCELLED, and beyond 3,000 all."""
    async with serving(tmp_path) as leader:
        await leader.submit("a")
        request = pb.GetTaskRequest(id="a")

        async def call() -> str:
            try:
                await leader.scheduler.GetTask(request, timeout=PATIENCE)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "OK"

        assert Counter(await asyncio.gather(*(call() for _ in range(3_500)))) == {"OK": 3_500}


@pytest.mark.parametrize(
    ("limits", "method", "request_", "words"),
    [
        ({"waits_max": 2}, "WaitTasks", pb.WaitTasksRequest(ids=["a"]), "2 calls that wait for tasks are open"),
        ({"watches_max": 2}, "WatchTasks", pb.WatchTasksRequest(), "2 watches are open"),
    ],
)
async def test_streams_beyond_their_number_are_refused_until_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int], method: str, request_: Any, words: str
) -> None:
    monkeypatch.setattr(app, "HoldBack", functools.partial(HoldBack, **limits))
    async with serving(tmp_path) as leader:
        await leader.submit("a")
        calls = [getattr(leader.scheduler, method)(request_, timeout=PATIENCE) for _ in range(2)]
        for call in calls:
            await call.initial_metadata() if method == "WatchTasks" else None
        await leader.scheduler.Stats(pb.StatsRequest(), timeout=PATIENCE)
        refusal = await stream_refused(getattr(leader.scheduler, method)(request_, timeout=PATIENCE))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        assert words in refusal.message
        # One that waits for a single task counts with them.
        if method == "WaitTasks":
            single = await refused(leader.scheduler.WaitTask(pb.WaitTaskRequest(id="a"), timeout=PATIENCE))
            assert single.reason == "TOO_MANY_CALLS"
        for call in calls:
            call.cancel()
        await leader.scheduler.CancelTask(pb.CancelTaskRequest(id="a"), timeout=PATIENCE)


async def test_calls_of_any_kind_are_bounded_and_leave_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "HoldBack", functools.partial(HoldBack, others_max=1))
    async with serving(tmp_path) as leader:
        for _ in range(3):
            await leader.scheduler.Stats(pb.StatsRequest(), timeout=PATIENCE)
        health: Any = health_pb2_grpc.HealthStub(leader.channel)
        held = health.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        await held.read()
        refusal = await refused(leader.scheduler.Stats(pb.StatsRequest(), timeout=PATIENCE))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS")
        assert "1 other calls are open, which is this leader's limit" in refusal.message
        held.cancel()


async def test_so_many_calls_are_held_back_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(admission.CALLS_MAX, "ScheduleTasks", 1)
    monkeypatch.setattr(admission, "CALLS_HELD_BACK_MAX", 2)
    hold_back, handler, ended = HoldBack(), object(), asyncio.Event()
    details: Any = SimpleNamespace(method="/scheduler.v1.SchedulerService/ScheduleTasks")

    async def served(_: object) -> object:
        return handler

    async def call() -> bool:
        is_let_in = await hold_back.intercept_service(served, details) is handler
        if is_let_in:
            await ended.wait()
        return is_let_in

    calls = [asyncio.create_task(call()) for _ in range(4)]
    done, _ = await asyncio.wait(calls, timeout=PATIENCE / 10, return_when=asyncio.FIRST_COMPLETED)
    assert done == {calls[-1]}
    ended.set()
    assert await asyncio.gather(*calls) == [True, True, True, False]


async def test_a_call_of_a_bounded_method_leaves_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(admission.CALLS_MAX, "ScheduleTasks", 1)
    hold_back = HoldBack()
    details: Any = SimpleNamespace(method="/scheduler.v1.SchedulerService/ScheduleTasks")

    async def serve(_: object) -> None: ...

    async with asyncio.timeout(30):
        for _ in range(3):
            await asyncio.create_task(hold_back.intercept_service(serve, details))
    # The end of the last one is told after it.
    await asyncio.sleep(0)
    assert hold_back.under_way == set()


async def test_tasks_waited_for_are_bounded_over_all_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "WAITED_IDS_MAX", 5)
    async with serving(tmp_path) as leader:
        await leader.submit("a", "b", "c", "d", "e")
        open_ = leader.scheduler.WaitTasks(pb.WaitTasksRequest(ids=["a", "b", "c"]), timeout=PATIENCE)
        watch = leader.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
        await watch.read()
        refusal = await stream_refused(
            leader.scheduler.WaitTasks(pb.WaitTasksRequest(ids=["c", "d", "e"]), timeout=PATIENCE)
        )
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_WAITS")
        assert "3 tasks are waited for and the limit is 5" in refusal.message
        await leader.scheduler.CancelTask(pb.CancelTaskRequest(id="a"), timeout=PATIENCE)
        for id in ("b", "c"):
            await leader.scheduler.CancelTask(pb.CancelTaskRequest(id=id), timeout=PATIENCE)
        finished = [task.id async for response in open_ for task in response.tasks]
        assert sorted(finished) == ["a", "b", "c"]
        # What has ended is counted no more.
        for id in ("d", "e"):
            await leader.scheduler.CancelTask(pb.CancelTaskRequest(id=id), timeout=PATIENCE)
        again = leader.scheduler.WaitTasks(pb.WaitTasksRequest(ids=["a", "b", "c", "d", "e"]), timeout=PATIENCE)
        assert len([task async for response in again for task in response.tasks]) == 5


async def test_answers_that_are_not_read_are_bounded_over_all_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outgoing = Outgoing(3 << 20, room_seconds=0.05)
    monkeypatch.setattr(app, "Outgoing", lambda: outgoing)
    async with serving(tmp_path) as leader:
        payload = "x" * 900_000
        request = pb.WatchTasksRequest(view=pb.TASK_VIEW_FULL)
        watching = [leader.scheduler.WatchTasks(request, timeout=PATIENCE) for _ in range(6)]
        for watch in watching:
            assert (await watch.read()).token
        # The first fill gRPC's windows, which grow on a busy machine.
        for number in range(40):
            await leader.submit(f"t{number}", payload=payload)
            assert outgoing.unread_bytes <= 3 << 20
        # No call is hurt that needs little.
        await leader.scheduler.Stats(pb.StatsRequest(), timeout=PATIENCE)
        ended = [end for watch in watching if (end := await read_until(watch, "t39")) is not None]
        assert ended
        assert {(end.code, end.reason) for end in ended} == {(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MUCH_UNREAD")}
        assert "the limit is 3145728" in ended[0].message


async def read_until(watch: Any, last: str) -> Refusal | None:
    """How the leader has ended it; None when it came to this task."""
    try:
        while last not in [task.id for task in (await watch.read()).tasks]:
            pass
    except grpc.aio.AioRpcError as error:
        return refusal_of(error)
    watch.cancel()
    return None
