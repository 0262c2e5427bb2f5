"""Tasks that come after others, as clients ask for them and are told of them."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader, refused

from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb


def task(id: str, *after: str, **fields: Any) -> pb.Task:
    return pb.Task(id=id, handler="h", payload="{}", after=after, **fields)


async def schedule(leader: ServedLeader, *tasks: pb.Task) -> None:
    await leader.scheduler.ScheduleTasks(pb.ScheduleTasksRequest(tasks=tasks), timeout=PATIENCE)


async def explain(leader: ServedLeader, id: str) -> pb.WaitReason:
    answer = await leader.scheduler.ExplainTask(pb.ExplainTaskRequest(id=id), timeout=PATIENCE)
    return answer.reasons[0]


async def test_why_names_what_a_task_waits_for_and_what_has_ended_it(leader: ServedLeader) -> None:
    await schedule(leader, task("c", "a", "b"), task("a"), task("b"), task("d", "c"))
    reason = await explain(leader, "c")
    assert reason.code == pb.WAIT_CODE_UPSTREAM
    assert reason.message == "it comes after 'a', 'b'; of these 2 have not ended"
    assert (await leader.get("c")).waiting_reason == reason.message
    async with leader.worker() as worker:
        a, b = await worker.grants(2)
        await worker.report(a)
        assert (await explain(leader, "c")).message.endswith("of these 1 have not ended")
        await worker.report(b, outcome=pb.ATTEMPT_OUTCOME_FAILED)
    await leader.finished("d")
    shown = await leader.get("d")
    assert (shown.status, shown.failure.kind) == (pb.TASK_STATUS_CANCELLED, pb.FAILURE_KIND_UPSTREAM)
    assert list(shown.after) == ["c"]
    reason = await explain(leader, "c")
    assert (reason.code, "'b' has not" in reason.message) == (pb.WAIT_CODE_UPSTREAM_FAILED, True)


@pytest.mark.parametrize(
    ("tasks", "code", "field"),
    [
        ([task("a", "x")], grpc.StatusCode.FAILED_PRECONDITION, "tasks[0].after[0]"),
        ([task("b"), task("a", "b", "x")], grpc.StatusCode.FAILED_PRECONDITION, "tasks[1].after[1]"),
        ([task("a", "b"), task("b", "a")], grpc.StatusCode.INVALID_ARGUMENT, "tasks[0].after"),
        ([task("a", "a")], grpc.StatusCode.INVALID_ARGUMENT, "tasks[0].after[0]"),
        ([task("a", "")], grpc.StatusCode.INVALID_ARGUMENT, "tasks[0].after[0]"),
        ([task("a", "b\n")], grpc.StatusCode.INVALID_ARGUMENT, "tasks[0].after[0]"),
        ([task("a", after_rule=2)], grpc.StatusCode.INVALID_ARGUMENT, "tasks[0].after_rule"),
        ([task("b"), task("a", "b", after_rule=9)], grpc.StatusCode.INVALID_ARGUMENT, "tasks[1].after_rule"),
        (
            [task("a", *map(str, range(limits.AFTER_MAX + 1)))],
            grpc.StatusCode.INVALID_ARGUMENT,
            "tasks[0].after",
        ),
    ],
    ids=["unknown", "second", "circle", "itself", "empty", "unprintable", "rule-alone", "rule", "many"],
)
async def test_bad_dependencies_are_refused_by_field(
    leader: ServedLeader, tasks: list[pb.Task], code: grpc.StatusCode, field: str
) -> None:
    call = leader.scheduler.ScheduleTasks(pb.ScheduleTasksRequest(tasks=tasks), timeout=PATIENCE)
    refusal = await refused(call)
    assert refusal.code is code
    assert field in [violation.field for violation in refusal.violations]
    assert not await leader.list()


async def test_a_task_is_not_removed_by_its_id_before_those_after_it_have_ended(leader: ServedLeader) -> None:
    await schedule(leader, task("a"), task("b", "a", run_at_ms=2_000_000_000_000))
    async with leader.worker() as worker:
        (grant,) = await worker.grants(1)
        await worker.report(grant)
    refusal = await refused(leader.scheduler.PurgeTasks(pb.PurgeTasksRequest(ids=["a"]), timeout=PATIENCE))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "HAS_DEPENDENTS")
    answer = await leader.scheduler.PurgeTasks(pb.PurgeTasksRequest(filter='id = "a"'), timeout=PATIENCE)
    assert (answer.purged, answer.more) == (0, False)


async def test_the_task_of_a_schedule_comes_after_no_other(leader: ServedLeader) -> None:
    schedule = pb.Schedule(name="s", every=pb.EveryTimes(every_ms=60_000), task=task("", "a"))
    refusal = await refused(leader.scheduler.AddSchedule(pb.AddScheduleRequest(schedule=schedule), timeout=PATIENCE))
    assert [violation.field for violation in refusal.violations] == ["schedule.task.after"]
