"""Tasks over RPC: submits that may be repeated, priorities, cancels, and what a task that waits says."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader, refused, serving

from gowork.leader._core.state import Settings
from gowork.proto import limits
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.worker.v1 import session_pb2 as spb

PENDING, RUNNING = pb.TASK_STATUS_PENDING, pb.TASK_STATUS_RUNNING
COMPLETED, CANCELLED, ERROR = pb.TASK_STATUS_COMPLETED, pb.TASK_STATUS_CANCELLED, pb.TASK_STATUS_ERROR


async def schedule(leader: ServedLeader, *tasks: pb.Task) -> pb.ScheduleTasksResponse:
    return await leader.scheduler.ScheduleTasks(pb.ScheduleTasksRequest(tasks=tasks), timeout=PATIENCE)


async def cancel(leader: ServedLeader, id: str) -> None:
    await leader.scheduler.CancelTask(pb.CancelTaskRequest(id=id), timeout=PATIENCE)


async def test_the_same_task_again_changes_nothing(leader: ServedLeader) -> None:
    task = pb.Task(id="a", handler="h", payload="x", labels={"b": "1", "a": "2"}, retry=pb.RetryPolicy(max_attempts=2))
    first = await schedule(leader, task)
    again = await schedule(leader, task, task, pb.Task(id="b", handler="h"))
    assert (first.created, first.existing) == (1, 0)
    assert (again.created, again.existing) == (1, 2)
    await leader.scheduler.ScheduleTask(pb.ScheduleTaskRequest(task=task), timeout=PATIENCE)
    assert [task.id for task in await leader.list()] == ["a", "b"]


@pytest.mark.parametrize(
    "change",
    [
        {"payload": "y"},
        {"priority": pb.TASK_PRIORITY_HIGH},
        {"queue": "q"},
        {"handler": "other"},
        {"labels": {"k": "v"}},
        {"time_limit_ms": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("state", ["pending", "running", "finished", "finished before a restart"])
async def test_another_task_under_a_taken_id_is_refused_and_names_its_place(
    tmp_path: Path, change: dict[str, Any], state: str
) -> None:
    fields: dict[str, Any] = {"id": "taken", "handler": "h", "payload": "x"}
    async with serving(tmp_path) as leader:
        await schedule(leader, pb.Task(**fields))
        if state != "pending":
            async with leader.worker() as session:
                grant = await session.grant()
                if state != "running":
                    await session.report(grant)
                if state != "finished before a restart":
                    await _assert_taken(leader, fields, change)
        else:
            await _assert_taken(leader, fields, change)
    if state == "finished before a restart":
        async with serving(tmp_path) as leader:
            await _assert_taken(leader, fields, change)


async def _assert_taken(leader: ServedLeader, fields: dict[str, Any], change: dict[str, Any]) -> None:
    other = pb.Task(**fields | change)
    tasks = [pb.Task(id="new", handler="h"), pb.Task(**fields), other]
    among = await refused(schedule(leader, *tasks))
    alone = await refused(leader.scheduler.ScheduleTask(pb.ScheduleTaskRequest(task=other), timeout=PATIENCE))
    for refusal, field in ((among, "tasks[2].id"), (alone, "task.id")):
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "TASK_EXISTS")
        assert [violation.field for violation in refusal.violations] == [field]
        assert refusal.message.startswith(f"{field}: 'taken' is already scheduled with other content")
    assert [task.id for task in await leader.list()] == ["taken"]
    assert (await schedule(leader, pb.Task(**fields))).existing == 1


async def test_another_task_under_an_id_of_the_same_batch_is_refused(leader: ServedLeader) -> None:
    tasks = [pb.Task(id="a", handler="h", payload=payload) for payload in ("x", "x", "y")]
    refusal = await refused(schedule(leader, *tasks))
    assert refusal.code is grpc.StatusCode.ALREADY_EXISTS
    assert [violation.field for violation in refusal.violations] == ["tasks[2].id"]
    assert "earlier in this batch" in refusal.message
    assert await leader.list() == []


async def test_the_most_that_a_batch_may_hold_is_taken(leader: ServedLeader) -> None:
    ids = [str(n) for n in range(limits.BATCH_TASKS_MAX)]
    assert (await leader.submit(*ids)).created == len(ids)
    assert (await leader.submit(*ids)).existing == len(ids)


async def test_high_runs_before_medium_before_low_and_first_come_first_served_within_one(leader: ServedLeader) -> None:
    low, medium, high = pb.TASK_PRIORITY_LOW, pb.TASK_PRIORITY_MEDIUM, pb.TASK_PRIORITY_HIGH
    await leader.submit("low1", "low2", priority=low)
    await leader.submit("none")
    await leader.submit("medium", priority=medium)
    await leader.submit("high1", "high2", priority=high)
    await leader.submit("zero", priority=pb.TASK_PRIORITY_UNSPECIFIED)
    async with leader.worker() as session:
        granted = [grant.id for grant in await session.grants(7)]
    assert granted == ["high1", "high2", "medium", "low1", "low2", "none", "zero"]
    assert (await leader.get("none")).priority == low


async def test_a_pending_task_is_cancelled_at_once_and_a_second_cancel_changes_nothing(leader: ServedLeader) -> None:
    await leader.submit("a", "b")
    await cancel(leader, "a")
    first = await leader.get("a")
    await cancel(leader, "a")
    assert first.status == CANCELLED
    assert first.finished_at_ms > 0
    assert await leader.get("a") == first
    async with leader.worker() as session:
        assert (await session.grant()).id == "b"


async def test_a_running_task_is_cancelled_when_its_worker_has_stopped_it(leader: ServedLeader) -> None:
    await leader.submit("a")
    async with leader.worker() as session:
        grant = await session.grant()
        await cancel(leader, "a")
        await cancel(leader, "a")
        while grant.fence not in session.cancelled:
            await session.frame()
        asked = await leader.get("a")
        assert (asked.status, asked.cancel_requested) == (RUNNING, True)
        await session.report(grant, outcome=pb.ATTEMPT_OUTCOME_CANCELLED, reason="stopped")
    done = (await leader.finished("a", view=pb.TASK_VIEW_FULL))["a"]
    assert (done.status, done.attempts[0].reason) == (CANCELLED, "stopped")


async def test_a_completion_that_comes_before_the_cancel_counts(leader: ServedLeader) -> None:
    await leader.submit("a")
    async with leader.worker() as session:
        grant = await session.grant()
        await cancel(leader, "a")
        await session.report(grant, result="1")
    done = (await leader.finished("a"))["a"]
    assert (done.status, done.result) == (COMPLETED, "1")


async def test_a_cancelled_task_whose_worker_is_lost_does_not_run_again(tmp_path: Path) -> None:
    async with serving(tmp_path, settings=Settings(reconnect_grace=0.05)) as leader:
        await leader.submit("a")
        async with leader.worker() as session:
            await session.grant()
            await cancel(leader, "a")
        assert (await leader.finished("a"))["a"].status == CANCELLED


@pytest.mark.parametrize("outcome", [pb.ATTEMPT_OUTCOME_COMPLETED, pb.ATTEMPT_OUTCOME_FAILED])
async def test_a_finished_task_cannot_be_cancelled(tmp_path: Path, outcome: pb.AttemptOutcome.ValueType) -> None:
    async with serving(tmp_path) as leader:
        await leader.submit("a")
        async with leader.worker() as session:
            await session.report(await session.grant(), outcome=outcome)
        before = await refused(cancel(leader, "a"))
    async with serving(tmp_path) as leader:
        after = await refused(cancel(leader, "a"))
    for refusal in (before, after):
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TASK_FINISHED")
        assert "'a' has finished with" in refusal.message


async def test_a_task_that_waits_says_why(leader: ServedLeader) -> None:
    await leader.submit("unknown", handler="nobody")
    await leader.submit("default", handler="", payload="x")
    await leader.submit("selective", selector={"disk": "ssd"})
    await leader.submit("later", run_at_ms=int(time.time() * 1000) + 3_600_000)
    await leader.submit("first", "second")

    async def reason(id: str) -> str:
        return (await leader.get(id)).waiting_reason

    assert await reason("first") == "no worker is connected"
    async with leader.worker(credit=1) as session:
        assert (await session.grant()).id == "first"
        assert await reason("unknown") == "no worker has the handler 'nobody'"
        assert await reason("default") == "no worker has a default handler"
        assert await reason("selective") == "none of the 1 worker(s) that have the handler carries the labels disk=ssd"
        assert (await reason("later")).startswith("it may start in 3")
        assert (await reason("second")).startswith(
            "no free slot on the 1 member(s) that could run it: 100 slots are held by h x1, the oldest for "
        )
        assert await reason("first") == ""


async def test_a_task_of_an_unknown_handler_waits_and_runs_when_a_worker_brings_it(leader: ServedLeader) -> None:
    await leader.submit("a", handler="late")
    async with leader.worker("without"):
        async with leader.worker("with", handlers=["late"]) as session:
            assert (await session.grant()).id == "a"


async def test_a_task_is_not_started_before_its_time(leader: ServedLeader) -> None:
    at = int(time.time() * 1000) + 300
    await leader.submit("later", run_at_ms=at)
    await leader.submit("now")
    async with leader.worker() as session:
        assert [grant.id for grant in await session.grants(2)] == ["now", "later"]
        assert time.time() * 1000 >= at
    assert (await leader.get("later")).started_at_ms >= at


async def test_a_task_that_was_not_started_by_its_expiry_ends_with_an_error(leader: ServedLeader) -> None:
    await leader.submit("a", expires_at_ms=int(time.time() * 1000) + 100)
    task = (await leader.finished("a"))["a"]
    assert (task.status, task.failure.kind) == (ERROR, pb.FAILURE_KIND_EXPIRED)


async def test_a_failure_is_tried_again_as_its_policy_says_and_then_ends_in_error(leader: ServedLeader) -> None:
    await leader.submit("a", retry=pb.RetryPolicy(max_attempts=3, initial_delay_ms=1))
    failure = pb.Failure(kind=pb.FAILURE_KIND_HANDLER, message="no", type="ValueError")
    async with leader.worker() as session:
        for number in (1, 2, 3):
            grant = await session.grant()
            assert grant.attempt == number
            await session.report(grant, outcome=pb.ATTEMPT_OUTCOME_FAILED, failure=failure)
    task = (await leader.finished("a", view=pb.TASK_VIEW_FULL))["a"]
    assert (task.status, task.attempts_used, task.failure.type) == (ERROR, 3, "ValueError")
    assert [attempt.outcome for attempt in task.attempts] == [pb.ATTEMPT_OUTCOME_FAILED] * 3


async def test_only_the_last_twenty_attempts_are_kept(leader: ServedLeader) -> None:
    await leader.submit("a", retry=pb.RetryPolicy(max_attempts=30))
    async with leader.worker() as session:
        for _ in range(25):
            await session.report(await session.grant(), outcome=pb.ATTEMPT_OUTCOME_FAILED, retry_delay_ms=0)
    task = await leader.get("a")
    finished = [attempt.number for attempt in task.attempts if attempt.outcome]
    assert finished == list(range(6, 26))
    assert task.attempts_used == 25


async def test_a_result_comes_back_as_it_was_given(leader: ServedLeader) -> None:
    await leader.submit("text", "bytes", payload="{}")
    async with leader.worker() as session:
        text, data = await session.grants(2)
        await session.report(text, result='{"ü": 1}', execution_us=5)
        await session.report(data, result_data=bytes(range(256)))
    assert (await leader.get("text")).result == '{"ü": 1}'
    assert (await leader.get("bytes")).result_data == bytes(range(256))


async def test_pending_tasks_past_the_limit_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, settings=Settings(pending_max=3)) as leader:
        await leader.submit("a", "b")
        refusal = await refused(leader.submit("c", "d"))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_TASKS")
        assert "the limit is 3" in refusal.message
        assert (await leader.submit("c", "a")).created == 1


async def test_everything_is_there_again_after_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        await leader.submit("done", "failed", "held", "waiting", "cancelled", labels={"k": "v"}, payload="p")
        await cancel(leader, "cancelled")
        async with leader.worker(credit=3) as session:
            done, failed, held = await session.grants(3)
            await session.report(done, result="1")
            await session.report(failed, outcome=pb.ATTEMPT_OUTCOME_FAILED, failure=pb.Failure(message="m"))
            before = {task.id: task for task in await leader.list(view=pb.TASK_VIEW_FULL)}
            term = (await leader.scheduler.Stats(pb.StatsRequest(), timeout=PATIENCE)).term
            leader.stopped.set()
            assert (await session.refusal()).code is grpc.StatusCode.UNAVAILABLE
    async with serving(tmp_path) as leader:
        assert {task.id: task for task in await leader.list(view=pb.TASK_VIEW_FULL)} == before
        assert (await leader.scheduler.Stats(pb.StatsRequest(), timeout=PATIENCE)).term == term + 1
        claim = [spb.Held(id="held", fence=held.fence, state=spb.HELD_STATE_RUNNING)]
        async with leader.worker("w", held=claim, credit=0) as session:
            await session.report(held, result="2")
            assert not session.refused
            assert not session.released
        task = await leader.get("held")
        assert (task.status, task.result, len(task.attempts)) == (COMPLETED, "2", 1)


async def test_stats_count_tasks_and_members(leader: ServedLeader) -> None:
    await leader.submit("a", "b", "c", queue="q")
    await leader.submit("d", handler="other")
    async with leader.worker(slots=4, credit=2) as session:
        await session.report((await session.grants(2))[0])
        stats = await leader.scheduler.Stats(pb.StatsRequest(), timeout=PATIENCE)
    rows = [(queue.queue, queue.handler, queue.status, queue.tasks) for queue in stats.queues]
    assert rows == [
        ("default", "other", PENDING, 1),
        ("q", "h", PENDING, 1),
        ("q", "h", RUNNING, 1),
        ("q", "h", COMPLETED, 1),
    ]
    members = [(row.liveness, row.members, row.slots, row.running) for row in stats.members]
    assert members == [(cpb.MemberLiveness.Name(cpb.MEMBER_LIVENESS_LIVE).removeprefix("MEMBER_LIVENESS_"), 1, 4, 1)]
    assert stats.version
    assert stats.term == 1
    assert abs(stats.started_at_ms / 1000 - time.time()) < 60
