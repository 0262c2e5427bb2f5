"""Callback workers: joined by address, dialled, and found again after a restart."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader, refused, serving

from gowork.leader._core.state import Settings
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.worker.v1 import worker_pb2 as wpb
from gowork.proto.worker.v1 import worker_pb2_grpc

PENDING, RUNNING = pb.TASK_STATUS_PENDING, pb.TASK_STATUS_RUNNING
IDLE, BUSY, FAILED = cpb.HEARTBEAT_STATUS_IDLE, cpb.HEARTBEAT_STATUS_BUSY, cpb.HEARTBEAT_STATUS_FAILED


class CallbackWorker(worker_pb2_grpc.WorkerServiceServicer):
    """A callback worker; tests decide what becomes of the tasks that it was given."""

    def __init__(self) -> None:
        self.takes = True
        self.started: asyncio.Queue[wpb.StartWorkRequest] = asyncio.Queue()
        self.stopped: asyncio.Queue[str] = asyncio.Queue()
        self.address = ""

    async def StartWork(self, request: wpb.StartWorkRequest, context: object) -> wpb.StartWorkResponse:
        self.started.put_nowait(request)
        return wpb.StartWorkResponse(success=self.takes)

    async def StopWork(self, request: wpb.StopWorkRequest, context: object) -> wpb.StopWorkResponse:
        self.stopped.put_nowait(request.id)
        return wpb.StopWorkResponse(success=True)


@asynccontextmanager
async def callback_worker() -> AsyncIterator[CallbackWorker]:
    worker, server = CallbackWorker(), grpc.aio.server()
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)
    worker.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield worker
    finally:
        await server.stop(0)


async def join(leader: ServedLeader, id: str, address: str) -> None:
    await leader.cluster.Join(cpb.JoinRequest(id=id, address=address), timeout=PATIENCE)


async def beat(leader: ServedLeader, id: str, status: cpb.HeartbeatStatus.ValueType = IDLE) -> None:
    requests: Iterable[cpb.HeartbeatRequest] = [cpb.HeartbeatRequest(id=id, status=status)]
    responses = [response async for response in leader.cluster.Heartbeat(iter(requests), timeout=PATIENCE)]
    assert len(responses) == 1


async def drain(leader: ServedLeader, id: str, budget_ms: int = 0) -> None:
    await leader.cluster.Drain(cpb.DrainRequest(id=id, budget_ms=budget_ms), timeout=PATIENCE)


async def complete(leader: ServedLeader, id: str, error: str | None = None) -> None:
    await leader.scheduler.TaskComplete(pb.TaskCompleteRequest(id=id, error=error), timeout=PATIENCE)


async def statuses(leader: ServedLeader) -> dict[str, str]:
    members = (await leader.cluster.Members(cpb.MembersRequest(), timeout=PATIENCE)).members
    return {member.id: member.status for member in members}


async def test_a_member_is_dialled_with_one_task_at_a_time(leader: ServedLeader) -> None:
    async with callback_worker() as worker:
        await join(leader, "m", worker.address)
        await leader.submit("a", "b", handler="", payload="work")
        await leader.submit("typed", handler="h", payload="{}")
        await leader.submit("binary", handler="", data=b"work")
        first = await worker.started.get()
        assert (first.id, first.payload) == ("a", "work")
        assert await statuses(leader) == {"m": "alive, busy"}
        assert (await leader.get("b")).status == PENDING
        await complete(leader, "a")
        assert (await worker.started.get()).id == "b"
        await complete(leader, "b", "it broke")
        assert (await leader.get("a")).status == pb.TASK_STATUS_COMPLETED
        failed = await leader.get("b")
        assert (failed.status, failed.failure.message) == (pb.TASK_STATUS_ERROR, "it broke")
        # It knows no handlers and no bytes.
        assert (await leader.get("typed")).status == PENDING
        assert (await leader.get("binary")).status == PENDING
        assert worker.started.empty()


async def test_task_complete_is_refused_for_a_task_that_no_callback_worker_holds(leader: ServedLeader) -> None:
    await leader.submit("pending", "held")
    await leader.submit("done", priority=pb.TASK_PRIORITY_HIGH)
    async with leader.worker(credit=1) as session:
        await session.report(await session.grant())
        await session.send(credit=[2])
        assert (await session.grant()).id == "pending"
        for id in ("pending", "held", "done"):
            refusal = await refused(complete(leader, id))
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_HELD")
            assert f"'{id}'" in refusal.message
        assert (await leader.get("pending")).status == RUNNING


async def test_a_member_that_does_not_take_a_task_gets_none_until_it_is_heard_of(leader: ServedLeader) -> None:
    async with callback_worker() as worker:
        worker.takes = False
        await join(leader, "m", worker.address)
        await leader.submit("a", handler="", payload="x")
        await worker.started.get()
        while await statuses(leader) != {"m": "alive, failed"}:
            pass
        task = await leader.get("a")
        assert (task.status, task.attempts[0].reason) == (PENDING, "the worker did not take it")
        worker.takes = True
        await beat(leader, "m")
        assert (await worker.started.get()).id == "a"
        assert (await leader.get("a")).attempts_used == 0


async def test_a_member_that_cannot_be_dialled_gives_its_task_back(leader: ServedLeader) -> None:
    async with callback_worker() as worker:
        address = worker.address
    await join(leader, "gone", address)
    await leader.submit("a", handler="", payload="x")
    while await statuses(leader) != {"gone": "alive, failed"}:
        pass
    assert f"could not be dialled at {address}: UNAVAILABLE" in (await leader.get("a")).attempts[0].reason
    async with callback_worker() as worker:
        await join(leader, "here", worker.address)
        assert (await worker.started.get()).id == "a"


async def test_a_member_that_is_busy_or_failed_gets_nothing(leader: ServedLeader) -> None:
    async with callback_worker() as worker:
        await join(leader, "m", worker.address)
        for status, shown in ((BUSY, "alive, busy"), (FAILED, "alive, failed")):
            await beat(leader, "m", status)
            assert await statuses(leader) == {"m": shown}
        await leader.submit("a", handler="", payload="x")
        assert (await leader.get("a")).status == PENDING
        await beat(leader, "m", IDLE)
        assert (await worker.started.get()).id == "a"


async def test_a_heartbeat_without_a_status_is_refused_and_changes_nothing(leader: ServedLeader) -> None:
    await join(leader, "m", "127.0.0.1:1")
    for status, shown in ((BUSY, "alive, busy"), (FAILED, "alive, failed")):
        await beat(leader, "m", status)
        unknown: Any = 7
        for wrong in (cpb.HEARTBEAT_STATUS_UNSPECIFIED, unknown):
            refusal = await refused(beat(leader, "m", wrong))
            assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
            assert [violation.field for violation in refusal.violations] == ["status"]
        assert await statuses(leader) == {"m": shown}


async def test_a_member_that_is_not_free_for_a_moment_is_dialled_again_without_a_heartbeat(
    leader: ServedLeader,
) -> None:
    async with callback_worker() as worker:
        worker.takes = False
        await join(leader, "m", worker.address)
        await leader.submit("a", handler="", payload="x")
        first = await worker.started.get()
        worker.takes = True
        again = await worker.started.get()
        assert (again.id, again.fence, again.attempt) == ("a", first.fence, 1)
        await complete(leader, "a")
        task = await leader.get("a")
        assert (task.status, task.fence, len(task.attempts)) == (pb.TASK_STATUS_COMPLETED, first.fence, 1)


async def test_a_member_that_says_that_its_task_waits_has_failed_it(leader: ServedLeader) -> None:
    # It has no way to say for what, so this outcome counts as one that is not known.
    async with callback_worker() as worker:
        await join(leader, "m", worker.address)
        await leader.submit("a", handler="", payload="x")
        fence = (await worker.started.get()).fence
        request = pb.TaskCompleteRequest(id="a", fence=fence, outcome=pb.ATTEMPT_OUTCOME_WAITING, error="waits")
        await leader.scheduler.TaskComplete(request, timeout=PATIENCE)
        assert (await leader.get("a")).status == pb.TASK_STATUS_ERROR


async def test_past_its_time_limit_a_task_is_stopped_at_its_member(leader: ServedLeader) -> None:
    async with callback_worker() as worker:
        await join(leader, "m", worker.address)
        await leader.submit("a", handler="", payload="x", time_limit_ms=50)
        assert await worker.stopped.get() == "a"
        task = (await leader.finished("a"))["a"]
        assert (task.status, task.failure.kind) == (pb.TASK_STATUS_ERROR, pb.FAILURE_KIND_TIMEOUT)


async def test_a_completion_says_under_which_fence_and_how_an_attempt_ended(leader: ServedLeader) -> None:
    async with callback_worker() as worker:
        await join(leader, "m", worker.address)
        await leader.submit("a", handler="", payload="x")
        fence = (await worker.started.get()).fence

        async def end(**fields: Any) -> None:
            await leader.scheduler.TaskComplete(pb.TaskCompleteRequest(id="a", **fields), timeout=PATIENCE)

        stale = await refused(end(fence=fence - 1))
        assert (stale.code, stale.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "STALE_FENCE")
        for fields in (
            {"outcome": pb.ATTEMPT_OUTCOME_COMPLETED, "error": "no"},
            {"outcome": pb.ATTEMPT_OUTCOME_INTERRUPTED},
        ):
            refusal = await refused(end(fence=fence, **fields))
            assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
            assert [violation.field for violation in refusal.violations] == ["error"]
        await end(fence=fence, outcome=pb.ATTEMPT_OUTCOME_SNOOZED, error="later", retry_delay_ms=3_600_000)
        task = await leader.get("a")
        assert (task.status, task.attempts_used, task.attempts[0].reason) == (PENDING, 0, "later")
        assert (await leader.get("a")).waiting_reason.startswith("its last attempt was snoozed")


async def test_a_cancel_is_dialled_and_confirmed(leader: ServedLeader) -> None:
    async with callback_worker() as worker:
        await join(leader, "m", worker.address)
        await leader.submit("a", handler="", payload="x")
        await worker.started.get()
        await leader.scheduler.CancelTask(pb.CancelTaskRequest(id="a"), timeout=PATIENCE)
        assert await worker.stopped.get() == "a"
        assert (await leader.finished("a"))["a"].status == pb.TASK_STATUS_CANCELLED


async def test_what_a_member_held_goes_on_when_it_leaves_or_joins_again(leader: ServedLeader) -> None:
    async with callback_worker() as worker:
        await join(leader, "m", worker.address)
        await leader.submit("a", handler="", payload="x")
        await worker.started.get()
        await join(leader, "m", worker.address)
        assert (await worker.started.get()).id == "a"
        await leader.cluster.Leave(cpb.LeaveRequest(id="m"), timeout=PATIENCE)
        assert await statuses(leader) == {"m": "left, unknown"}
        task = await leader.get("a")
        assert (task.status, task.attempts_used, len(task.attempts)) == (PENDING, 0, 2)


async def test_a_silent_member_is_lost_and_its_task_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path, settings=Settings(callback_lease=0.3)) as leader, callback_worker() as worker:
        await join(leader, "m", worker.address)
        await leader.submit("a", handler="", payload="x")
        await worker.started.get()
        async with leader.worker(handlers=["default"]) as session:
            assert (await session.grant()).id == "a"
        assert (await statuses(leader))["m"] == "unknown, unknown"
        assert (await leader.get("a")).attempts[0].outcome == pb.ATTEMPT_OUTCOME_LOST
        await beat(leader, "m", BUSY)
        assert (await statuses(leader))["m"] == "alive, busy"
        await leader.cluster.Leave(cpb.LeaveRequest(id="m"), timeout=PATIENCE)
        refusal = await refused(beat(leader, "m"))
        assert (refusal.code, refusal.message) == (grpc.StatusCode.NOT_FOUND, "no member has the id 'm'; join first")


async def test_members_and_what_they_run_are_there_again_after_a_restart(tmp_path: Path) -> None:
    async with callback_worker() as worker:
        async with serving(tmp_path) as leader:
            await join(leader, "m", worker.address)
            await join(leader, "left", worker.address)
            await leader.cluster.Leave(cpb.LeaveRequest(id="left"), timeout=PATIENCE)
            await leader.submit("a", handler="", payload="x")
            await worker.started.get()
        async with serving(tmp_path) as leader:
            assert await statuses(leader) == {"m": "alive, busy"}
            await beat(leader, "m", BUSY)
            await complete(leader, "a")
            task = await leader.get("a")
            assert (task.status, len(task.attempts)) == (pb.TASK_STATUS_COMPLETED, 1)
        assert worker.started.empty()


async def test_a_drained_member_is_not_dialled_until_it_joins_again(leader: ServedLeader) -> None:
    async with callback_worker() as worker:
        await join(leader, "m", worker.address)
        await drain(leader, "m")
        await drain(leader, "m")
        await leader.submit("a", handler="", payload="p")
        await beat(leader, "m")
        assert (await leader.get("a")).waiting_reason == "every worker that could run it is draining"
        assert worker.started.empty()
        await join(leader, "m", worker.address)
        async with asyncio.timeout(PATIENCE):
            assert (await worker.started.get()).id == "a"


async def test_a_member_that_is_not_there_or_a_bad_budget_is_refused(leader: ServedLeader) -> None:
    unknown = await refused(drain(leader, "nobody"))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "MEMBER_UNKNOWN")
    for budget in (-1, 24 * 3600 * 1000 + 1):
        refusal = await refused(drain(leader, "nobody", budget))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [violation.field for violation in refusal.violations] == ["budget_ms"]


async def tell_progress(leader: ServedLeader, id: str, **fields: Any) -> None:
    await leader.scheduler.TaskProgress(pb.TaskProgressRequest(id=id, **fields), timeout=PATIENCE)


async def test_a_member_tells_how_far_it_has_come(leader: ServedLeader) -> None:
    async with callback_worker() as worker:
        await join(leader, "m", worker.address)
        watch = leader.scheduler.WatchTasks(pb.WatchTasksRequest(filter='id = "a"', view=pb.TASK_VIEW_FULL))
        await watch.read()
        await leader.submit("a", handler="", payload="p")
        async with asyncio.timeout(PATIENCE):
            await worker.started.get()
        await tell_progress(leader, "a", fraction=0.25, message="x" * 2000)
        task = await leader.get("a")
        assert (task.progress.fraction, task.progress.message) == (0.25, "x" * 1024)
        assert task.progress.updated_at_ms >= task.started_at_ms
        await tell_progress(leader, "a", fraction=0.5, fence=task.fence)
        async with asyncio.timeout(PATIENCE):
            while 0.5 not in {task.progress.fraction for task in (await watch.read()).tasks}:
                pass
        watch.cancel()


async def test_progress_on_what_no_member_holds_is_refused(leader: ServedLeader) -> None:
    unknown = await refused(tell_progress(leader, "no"))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "TASK_UNKNOWN")
    async with callback_worker() as worker, leader.worker("w") as session:
        await join(leader, "m", worker.address)
        await leader.submit("mine", handler="", payload="p")
        async with asyncio.timeout(PATIENCE):
            await worker.started.get()
        await leader.submit("session's")
        await session.grant()
        await leader.submit("waiting", handler="nobody has this")
        for id, fields, reason in (
            ("session's", {}, "NOT_HELD"),
            ("waiting", {}, "NOT_HELD"),
            ("mine", {"fence": 1}, "STALE_FENCE"),
        ):
            refusal = await refused(tell_progress(leader, id, **fields))
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
        await complete(leader, "mine")
        # It is read from the store again for this.
        refusal = await refused(tell_progress(leader, "mine", fraction=1.0))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_HELD")


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan"), float("inf")])
async def test_a_fraction_out_of_bounds_is_refused(leader: ServedLeader, fraction: float) -> None:
    refusal = await refused(tell_progress(leader, "a", fraction=fraction))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in refusal.violations] == ["fraction"]


def stale_reports(leader: ServedLeader) -> float:
    with urllib.request.urlopen(f"http://{leader.addresses.http}/metrics", timeout=PATIENCE) as page:
        lines = page.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("gowork_stale_reports_total "))


async def test_stale_reports_are_counted(leader: ServedLeader) -> None:
    assert await asyncio.to_thread(stale_reports, leader) == 0
    async with leader.worker("w") as session:
        await leader.submit("a", "b", "c")
        grants = await session.grants(3)
        for grant in grants[:2]:
            grant.fence -= 1000
        await session.report(*grants)
        # One that was accepted before and comes again is no stale one.
        await session.report(grants[2])
    assert await asyncio.to_thread(stale_reports, leader) == 2
    assert (await refused(complete(leader, "c"))).reason == "NOT_HELD"
    assert await asyncio.to_thread(stale_reports, leader) == 3
