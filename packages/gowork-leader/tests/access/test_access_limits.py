"""What one caller may take, so that the others go on."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import grpc
import pytest
from access_callers import access_file, code_of, entry, known_by_tokens, with_token
from leader_serving import PATIENCE, ServedLeader, refused, stream_refused

from gowork.leader._access import loads
from gowork.leader._access.access_file import read_access_file
from gowork.leader._access.rights import Identity, Limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import Refusal

STATS = "scheduler.v1.SchedulerService/Stats"
SCHEDULE = "scheduler.v1.SchedulerService/ScheduleTasks"
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loads, "time", clock)
    return clock


def caller(name: str = "web", **limits: float) -> Identity:
    return Identity(name, frozenset(), limits=Limits(**limits))  # type: ignore[arg-type]


def passes(counted: loads.Loads, who: Identity, call: str = STATS, tasks: int = 0) -> bool:
    with contextlib.suppress(Refusal):
        counted.enter(who, call, pb.ScheduleTasksRequest(tasks=[pb.Task()] * tasks), streams=False)
        return True
    return False


def test_calls_pass_at_their_rate_and_a_burst_before(clock: Clock) -> None:
    counted, web, other = loads.Loads(), caller(calls_per_second=10), caller("other", calls_per_second=10)
    assert [passes(counted, web) for _ in range(21)] == [True] * 20 + [False]
    assert passes(counted, other)
    clock.now += 0.1
    assert [passes(counted, web) for _ in range(2)] == [True, False]
    clock.now += 100
    assert sum(passes(counted, web) for _ in range(50)) == 20


def test_a_slow_rate_lets_one_call_pass_at_a_time(clock: Clock) -> None:
    counted, slow = loads.Loads(), caller(calls_per_second=0.1)
    assert [passes(counted, slow) for _ in range(2)] == [True, False]
    clock.now += 9.9
    assert not passes(counted, slow)
    clock.now += 0.2
    assert passes(counted, slow)


def test_a_large_batch_passes_and_is_waited_for(clock: Clock) -> None:
    counted, web = loads.Loads(), caller(tasks_per_second=10)
    assert passes(counted, web, SCHEDULE, tasks=1000)
    assert not passes(counted, web, SCHEDULE, tasks=1)
    assert passes(counted, web)
    clock.now += 98
    assert not passes(counted, web, SCHEDULE, tasks=1)
    clock.now += 0.2
    assert passes(counted, web, SCHEDULE, tasks=1)


def test_callers_who_are_silent_are_forgotten(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    monkeypatch.setattr(loads, "CALLERS_MAX", 2)
    counted = loads.Loads()
    for number in range(5):
        passes(counted, caller(str(number), calls_per_second=1))
    assert list(counted._of) == ["3", "4"]


def test_limits_of_an_identity_stand_over_those_of_all(tmp_path: Path) -> None:
    found = read_access_file(
        access_file(tmp_path, "limits = {sessions = 1, streams = 2}", entry("a", "client") + "limits.streams = 3")
    )
    assert found.identity[0].limits.over(found.limits) == Limits(sessions=1, streams=3)


async def held(leader: ServedLeader) -> object:
    watch = leader.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
    await anext(aiter(watch))
    return watch


async def test_streams_and_sessions_of_one_caller_are_counted_while_they_are_open(tmp_path: Path) -> None:
    file = ("limits = {sessions = 1, streams = 2}", entry("web", "client"), entry("b", "client"), entry("w", "worker"))
    async with known_by_tokens(tmp_path, *file) as leader:
        web, worker = with_token(leader, "web"), with_token(leader, "w")
        first = [await held(web) for _ in range(2)]
        refusal = await stream_refused(web.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE))
        assert (refusal.code, refusal.reason) == (EXHAUSTED, "CALLER_LIMIT")
        assert "client web has 2 streams open" in refusal.message
        await held(with_token(leader, "b"))
        first[0].cancel()  # type: ignore[attr-defined]
        async with asyncio.timeout(PATIENCE):
            # The leader hears of the end a moment later.
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await held(web)
                    break
        async with worker.worker("a"):
            second = worker.session()
            assert (await second.refusal()).reason == "CALLER_LIMIT"


async def test_a_call_beyond_the_rate_is_refused_and_others_pass(tmp_path: Path) -> None:
    file = (entry("web", "client") + "limits.calls_per_second = 0.001", entry("b", "client"))
    async with known_by_tokens(tmp_path, *file) as leader:
        assert (await code_of(with_token(leader, "web"), STATS))[0] is grpc.StatusCode.OK
        refusal = await refused(with_token(leader, "web").get("x"))
        assert (refusal.code, refusal.reason) == (EXHAUSTED, "CALLER_LIMIT")
        assert (await code_of(with_token(leader, "b"), STATS))[0] is grpc.StatusCode.OK


async def test_a_caller_schedules_no_more_into_a_queue_that_is_full_for_it(tmp_path: Path) -> None:
    file = (entry("web", "client") + "limits.pending_tasks = 2", entry("b", "client"))
    async with known_by_tokens(tmp_path, *file) as leader:
        web = with_token(leader, "web")
        await web.submit("a", "b", queue="q")
        refusal = await refused(web.submit("c", queue="q"))
        assert (refusal.code, refusal.reason) == (EXHAUSTED, "CALLER_LIMIT")
        assert "2 tasks are pending in queue 'q' and the limit of its caller is 2" in refusal.message
        # What is there already is no new task, and other queues and callers have room.
        await web.submit("a", "b", queue="q")
        await web.submit("d", queue="other")
        await with_token(leader, "b").submit("c", queue="q")
        single = pb.ScheduleTaskRequest(task=pb.Task(id="e", payload="x", queue="q"))
        await web.scheduler.CancelTask(pb.CancelTaskRequest(id="d"), timeout=PATIENCE)
        await web.submit("f", "g", queue="other")
        retry = web.scheduler.RetryTask(pb.RetryTaskRequest(id="d"), timeout=PATIENCE)
        assert (await refused(retry)).reason == "CALLER_LIMIT"
        assert (await refused(web.scheduler.ScheduleTask(single, timeout=PATIENCE))).reason == "CALLER_LIMIT"
