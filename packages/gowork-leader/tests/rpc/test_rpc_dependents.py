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


# Groups.


def group(id: str, children: int | None = None, **fields: Any) -> pb.Task:
    return pb.Task(id=id, group=pb.GroupOptions(children=children), **fields)


async def get(leader: ServedLeader, id: str) -> pb.Group:
    return (await leader.scheduler.GetGroup(pb.GetGroupRequest(id=id), timeout=PATIENCE)).group


async def test_a_group_is_answered_as_its_children_stand_also_when_it_has_ended(leader: ServedLeader) -> None:
    await schedule(leader, group("g", after_rule=2), *(task(f"g/{number}") for number in range(4)))
    await leader.scheduler.CancelTask(pb.CancelTaskRequest(id="g/3"), timeout=PATIENCE)
    async with leader.worker() as worker:
        first, second, _ = await worker.grants(3)
        await worker.report(first)
        await worker.report(second, outcome=pb.ATTEMPT_OUTCOME_FAILED)
    found = await get(leader, "g")
    assert (found.id, found.status, found.after_rule) == ("g", pb.TASK_STATUS_PENDING, 2)
    assert not found.HasField("expected")
    assert (found.unfinished, found.completed, found.failed, found.cancelled) == (1, 1, 1, 1)
    assert found.created_at_ms == (await leader.get("g")).created_at_ms
    sealed = await leader.scheduler.SealGroup(pb.SealGroupRequest(id="g"), timeout=PATIENCE)
    assert sealed.group.expected == 4
    await leader.scheduler.CancelTask(pb.CancelTaskRequest(id="g/2"), timeout=PATIENCE)
    await leader.finished("g")
    assert (await leader.get("g")).result == '{"children":4,"completed":1,"failed":1,"cancelled":2}'
    ended = await get(leader, "g")
    assert (ended.status, ended.after_rule, ended.expected) == (pb.TASK_STATUS_COMPLETED, 2, 4)
    assert (ended.unfinished, ended.completed, ended.failed, ended.cancelled) == (0, 1, 1, 2)
    for request in (pb.SealGroupRequest(id="g"), pb.SealGroupRequest(id="g", children=4)):
        assert (await leader.scheduler.SealGroup(request, timeout=PATIENCE)).group == ended
    refusal = await refused(leader.scheduler.SealGroup(pb.SealGroupRequest(id="g", children=5), timeout=PATIENCE))
    assert refusal.reason == "GROUP_ENDED"


async def test_groups_are_listed_by_id_page_by_page(leader: ServedLeader) -> None:
    await schedule(leader, *(group(id) for id in "cab"), task("z"))
    token, ids = "", []
    for _ in range(3):
        request = pb.ListGroupsRequest(page_size=1, page_token=token)
        page = await leader.scheduler.ListGroups(request, timeout=PATIENCE)
        ids += [each.id for each in page.groups]
        token = page.next_page_token
    assert (ids, token) == (["a", "b", "c"], "")
    refusal = await refused(leader.scheduler.ListGroups(pb.ListGroupsRequest(page_token="x"), timeout=PATIENCE))
    assert refusal.violations[0].field == "page_token"
    refusal = await refused(leader.scheduler.ListGroups(pb.ListGroupsRequest(page_size=-1), timeout=PATIENCE))
    assert refusal.violations[0].field == "page_size"


async def test_why_tells_what_a_group_waits_for(leader: ServedLeader) -> None:
    await schedule(leader, task("a"), group("g", after=["a"]), task("g/0"))
    reason = await explain(leader, "g")
    assert reason.message == "it is an open group; children so far: 1, unfinished: 1"
    assert reason.advice == "when it has all of its children, `gowork groups seal g`"
    await leader.scheduler.SealGroup(pb.SealGroupRequest(id="g", children=3), timeout=PATIENCE)
    reason = await explain(leader, "g")
    assert reason.message == "it is a group; children: 3, unfinished: 1, still to come: 2"
    await schedule(leader, task("g/1"), task("g/2"))
    for number in range(3):
        await leader.scheduler.CancelTask(pb.CancelTaskRequest(id=f"g/{number}"), timeout=PATIENCE)
    await schedule(leader, group("h", 0, after=["a"]))
    assert (await explain(leader, "h")).message == "it comes after 'a'; of these 1 have not ended"


@pytest.mark.parametrize(
    ("tasks", "code", "reason", "field"),
    [
        ([group("g", -1)], "INVALID_ARGUMENT", "INVALID_ARGUMENT", "tasks[0].group.children"),
        ([group("g", limits.CHILDREN_MAX + 1)], "INVALID_ARGUMENT", "INVALID_ARGUMENT", "tasks[0].group.children"),
        ([group("g", payload="p")], "INVALID_ARGUMENT", "INVALID_ARGUMENT", "tasks[0].payload"),
        ([group("g", data=b"p")], "INVALID_ARGUMENT", "INVALID_ARGUMENT", "tasks[0].data"),
        ([group("g", 1), task("g/0"), task("g/1")], "FAILED_PRECONDITION", "GROUP_SEALED", "tasks[1].id"),
        ([task("g/0"), group("g")], "FAILED_PRECONDITION", "NO_CHILD", "tasks[0].id"),
        ([group("g"), task("g/0", "g")], "INVALID_ARGUMENT", "UPSTREAM_IN_CIRCLE", "tasks[1].after"),
    ],
)
async def test_bad_groups_and_children_are_refused_by_field(
    leader: ServedLeader, tasks: list[pb.Task], code: str, reason: str, field: str
) -> None:
    call = leader.scheduler.ScheduleTasks(pb.ScheduleTasksRequest(tasks=tasks), timeout=PATIENCE)
    refusal = await refused(call)
    assert (refusal.code.name, refusal.reason) == (code, reason)
    assert field in [violation.field for violation in refusal.violations]
    assert not await leader.list()


@pytest.mark.parametrize("request_", [pb.SealGroupRequest(), pb.SealGroupRequest(id="g", children=-1)])
async def test_bad_seals_are_refused_by_field(leader: ServedLeader, request_: pb.SealGroupRequest) -> None:
    refusal = await refused(leader.scheduler.SealGroup(request_, timeout=PATIENCE))
    assert refusal.violations[0].field == ("children" if request_.id else "id")


async def test_what_is_no_group_is_not_found(leader: ServedLeader) -> None:
    await schedule(leader, task("a"))
    for id in ("a", "b"):
        for call in (
            leader.scheduler.GetGroup(pb.GetGroupRequest(id=id), timeout=PATIENCE),
            leader.scheduler.SealGroup(pb.SealGroupRequest(id=id), timeout=PATIENCE),
        ):
            refusal = await refused(call)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "GROUP_UNKNOWN")


async def test_a_group_that_was_changed_tells_of_its_children_when_it_has_ended(leader: ServedLeader) -> None:
    await schedule(leader, group("g"), task("g/0"))
    await leader.scheduler.UpdateTask(pb.UpdateTaskRequest(id="g", priority=pb.TASK_PRIORITY_HIGH), timeout=PATIENCE)
    await leader.scheduler.SealGroup(pb.SealGroupRequest(id="g"), timeout=PATIENCE)
    async with leader.worker() as worker:
        (grant,) = await worker.grants(1)
        await worker.report(grant)
    await leader.finished("g")
    assert (await get(leader, "g")).completed == 1
