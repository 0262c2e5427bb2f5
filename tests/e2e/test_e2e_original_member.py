"""A worker and a client that know only the original contract, with a real leader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import original
import pytest
from clusters import RunningLeader
from original import Caller, Worker

JOIN = "cluster.v1.LeaderService/Join"
LEAVE = "cluster.v1.LeaderService/Leave"
MEMBERS = "cluster.v1.LeaderService/Members"
HEARTBEAT = "cluster.v1.LeaderService/Heartbeat"
SCHEDULE = "scheduler.v1.SchedulerService/ScheduleTask"
CANCEL = "scheduler.v1.SchedulerService/CancelTask"
TASKS = "scheduler.v1.SchedulerService/GetTasks"
COMPLETE = "scheduler.v1.SchedulerService/TaskComplete"


def status(name: str) -> int:
    return original.value("scheduler.v1.TaskStatus", f"TASK_STATUS_{name}")


def heartbeat(name: str) -> int:
    return original.value("cluster.v1.HeartbeatStatus", f"HEARTBEAT_STATUS_{name}")


@pytest.fixture
async def cluster(leader: RunningLeader) -> AsyncIterator[Caller]:
    async with original.calling(leader.cluster) as caller:
        yield caller


@pytest.fixture
async def scheduler(leader: RunningLeader) -> AsyncIterator[Caller]:
    async with original.calling(leader.scheduler) as caller:
        yield caller


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with Worker().serving() as worker:
        yield worker


async def schedule(scheduler: Caller, id: str, payload: str = "work", **fields: Any) -> None:
    await scheduler(SCHEDULE, task=original.message("scheduler.v1.Task", id=id, payload=payload, **fields))


async def task(scheduler: Caller, id: str) -> Any:
    (found,) = [task for task in (await scheduler(TASKS)).tasks if task.id == id]
    return found


async def reaches(scheduler: Caller, id: str, name: str) -> None:
    """Asks until the task has this status; the original contract has no way to wait."""
    async with asyncio.timeout(original.CALL_SECONDS):
        while (await task(scheduler, id)).status != status(name):
            pass


async def started(worker: Worker) -> Any:
    return await asyncio.wait_for(worker.started.get(), original.CALL_SECONDS)


async def member_status(cluster: Caller, id: str) -> str:
    (member,) = [member for member in (await cluster(MEMBERS)).members if member.id == id]
    return member.status


async def refused(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return caught.value.code()


async def test_a_task_goes_to_the_member_and_its_completion_comes_back(
    cluster: Caller, scheduler: Caller, worker: Worker
) -> None:
    await cluster(JOIN, id="w1", address=worker.address)
    assert await member_status(cluster, "w1") == "alive, idle"
    await schedule(scheduler, "t1", "do some work")
    request = await started(worker)
    assert (request.id, request.payload) == ("t1", "do some work")
    assert await member_status(cluster, "w1") == "alive, busy"
    assert (await task(scheduler, "t1")).status == status("RUNNING")
    await scheduler(COMPLETE, id="t1")
    assert (await task(scheduler, "t1")).status == status("COMPLETED")
    assert await member_status(cluster, "w1") == "alive, idle"


async def test_a_reported_error_ends_the_task_in_error(cluster: Caller, scheduler: Caller, worker: Worker) -> None:
    await cluster(JOIN, id="w1", address=worker.address)
    await schedule(scheduler, "t1")
    await started(worker)
    await scheduler(COMPLETE, id="t1", error="the disk is gone")
    assert (await task(scheduler, "t1")).status == status("ERROR")


async def test_high_runs_before_medium_before_low_and_first_come_first_served_within_one(
    cluster: Caller, scheduler: Caller, worker: Worker
) -> None:
    for id, priority in [("a", None), ("b", "LOW"), ("c", "HIGH"), ("d", "MEDIUM"), ("e", "HIGH"), ("f", "MEDIUM")]:
        number = original.value("scheduler.v1.TaskPriority", f"TASK_PRIORITY_{priority}") if priority else None
        await schedule(scheduler, id, priority=number)
    await cluster(JOIN, id="w1", address=worker.address)
    order = []
    for _ in range(6):
        order.append((await started(worker)).id)
        assert worker.started.empty(), "a callback worker has one task at a time"
        await scheduler(COMPLETE, id=order[-1])
    assert order == ["c", "e", "d", "f", "a", "b"]


async def test_cancelling_a_running_task_stops_it_at_the_member(
    cluster: Caller, scheduler: Caller, worker: Worker
) -> None:
    await cluster(JOIN, id="w1", address=worker.address)
    await schedule(scheduler, "t1")
    await started(worker)
    await scheduler(CANCEL, id="t1")
    request = await asyncio.wait_for(worker.stopped.get(), original.CALL_SECONDS)
    assert request.id == "t1"
    await reaches(scheduler, "t1", "CANCELLED")


async def test_the_task_of_a_member_that_leaves_goes_to_another(
    cluster: Caller, scheduler: Caller, worker: Worker
) -> None:
    await cluster(JOIN, id="w1", address=worker.address)
    await schedule(scheduler, "t1")
    await started(worker)
    async with Worker().serving() as other:
        await cluster(JOIN, id="w2", address=other.address)
        await cluster(LEAVE, id="w1")
        assert (await started(other)).id == "t1"
        # Asked while the other serves: a worker that is gone before it has answered counts as one that refused.
        assert (await task(scheduler, "t1")).status == status("RUNNING")


async def test_a_member_that_refuses_or_is_not_there_loses_no_task(
    cluster: Caller, scheduler: Caller, worker: Worker
) -> None:
    async with Worker(takes=False).serving() as refusing:
        await cluster(JOIN, id="refusing", address=refusing.address)
        await schedule(scheduler, "t1")
        await started(refusing)
    await cluster(LEAVE, id="refusing")
    await cluster(JOIN, id="absent", address="127.0.0.1:1")
    await schedule(scheduler, "t2")
    await cluster(LEAVE, id="absent")
    await cluster(JOIN, id="w1", address=worker.address)
    ids = []
    for _ in range(2):
        ids.append((await started(worker)).id)
        await scheduler(COMPLETE, id=ids[-1])
    assert sorted(ids) == ["t1", "t2"]


async def test_a_member_that_reports_failed_gets_nothing_until_it_reports_idle(
    cluster: Caller, scheduler: Caller, worker: Worker
) -> None:
    await cluster(JOIN, id="w1", address=worker.address)
    await cluster(HEARTBEAT, id="w1", status=heartbeat("FAILED"))
    assert await member_status(cluster, "w1") == "alive, failed"
    await schedule(scheduler, "t1")
    assert (await task(scheduler, "t1")).status == status("PENDING")
    assert worker.started.empty()
    await cluster(HEARTBEAT, id="w1", status=heartbeat("IDLE"))
    assert (await started(worker)).id == "t1"


async def test_a_second_join_of_the_same_id_replaces_the_first(
    cluster: Caller, scheduler: Caller, worker: Worker
) -> None:
    await cluster(JOIN, id="w1", address="127.0.0.1:1")
    await cluster(JOIN, id="w1", address=worker.address)
    (member,) = (await cluster(MEMBERS)).members
    assert member.address == worker.address
    await schedule(scheduler, "t1")
    assert (await started(worker)).id == "t1"


async def test_what_the_contract_refuses_is_refused(cluster: Caller, scheduler: Caller, worker: Worker) -> None:
    invalid, unknown = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    assert await refused(cluster(JOIN, id="", address=worker.address)) is invalid
    assert await refused(cluster(JOIN, id="w1", address="")) is invalid
    assert await refused(cluster(LEAVE, id="")) is invalid
    assert await refused(cluster(LEAVE, id="nobody")) is unknown
    assert await refused(cluster(HEARTBEAT, id="nobody", status=heartbeat("IDLE"))) is unknown
    assert await refused(cluster(HEARTBEAT, id="nobody")) is invalid
    assert await refused(scheduler(SCHEDULE)) is invalid
    assert await refused(schedule(scheduler, "", "work")) is invalid
    assert await refused(schedule(scheduler, "t1", "")) is invalid
    assert await refused(scheduler(CANCEL, id="nothing")) is unknown
    assert await refused(scheduler(COMPLETE, id="nothing")) is unknown
    await schedule(scheduler, "t1")
    assert await refused(scheduler(COMPLETE, id="t1")) is grpc.StatusCode.FAILED_PRECONDITION
