"""Which calls of who is bound go past its queues and handlers: none, by whatever way the call names tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from access_callers import ALL_CALLS, access_file, code_of, entry, known_by_tokens, with_token
from leader_serving import PATIENCE, ServedLeader, refused

from gowork.base.identities import Role
from gowork.leader._access.access import Access
from gowork.leader._access.rights import ADMINISTERS, CALLS, Identity
from gowork.leader._app import node
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

OK, DENIED = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED
CLUSTER, TASKS = "cluster.v1.LeaderService/", "scheduler.v1.SchedulerService/"
#: What who is bound may do without naming a task, a queue or a handler.
FREE = {
    f"{CLUSTER}Members",
    f"{CLUSTER}Leaders",
    f"{CLUSTER}ListHandlers",
    *(f"{TASKS}{name}" for name in ("GetLeader", "Stats", "Activity", "ListQueues", "ListSchedules")),
}
#: What names tasks by their ids, or has tasks of its own. An empty request of these is refused for what it lacks.
OF_TASKS = {
    f"{TASKS}{name}"
    for name in (
        "CancelTask", "RetryTask", "GetTask", "WaitTask", "WaitTasks", "ExplainTask", "TaskComplete", "TaskProgress",
        "ScheduleTasks", "SubmitTasks", "UpdateTask", "SealGroup", "GetGroup",
    )
}  # fmt: skip
#: What names a schedule. An empty request of these is refused for what it lacks.
OF_SCHEDULES = {
    f"{TASKS}{name}"
    for name in (
        "GetSchedule", "PauseSchedule", "ResumeSchedule", "TriggerSchedule", "RemoveSchedule", "BackfillSchedule",
    )
}  # fmt: skip
SESSION = "worker.v1.SessionService/Connect"
EVERYBODY = (
    entry("q", "client", "admin", queues=["web"]),
    entry("h", "client", "worker", "admin", handlers=["thumbnail"]),
    entry("default", "client", queues=["default"], handlers=[""]),
    entry("nothing", "client", handlers=[]),
    entry("free", "client", "worker", "admin"),
    entry("w1", "worker"),
)


@pytest.fixture
async def leader(tmp_path: Path) -> AsyncIterator[ServedLeader]:
    async with known_by_tokens(tmp_path, *EVERYBODY) as leader:
        yield leader


async def out_of_bounds(call: Any) -> None:
    refusal = await refused(call)
    assert (refusal.code, refusal.reason) == (DENIED, "OUT_OF_BOUNDS"), refusal


@pytest.mark.parametrize("name", ["q", "h"])
async def test_who_is_bound_and_names_nothing_is_denied_what_concerns_all(
    leader: ServedLeader, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caller = with_token(leader, name)
    roles = (Role.CLIENT, Role.ADMIN, *([Role.WORKER] if name == "h" else []))
    for call in frozenset().union(*(CALLS[role] for role in roles)) - OF_TASKS - OF_SCHEDULES - {SESSION}:
        code, said = await code_of(caller, call)
        assert (code is DENIED) is (call not in FREE), (call, said)
        assert "may not" in said or call in FREE, (call, said)
    assert "may not call StepDown: it concerns all queues and handlers" in {
        record.__dict__["reason"].partition(f" {name} ")[2] for record in caplog.records if record.msg == "denied"
    }


def test_every_call_is_one_of_these() -> None:
    """So that a new call is given thought to."""
    assert ALL_CALLS.keys() >= FREE | OF_TASKS | OF_SCHEDULES | ADMINISTERS | {SESSION}
    rest = ALL_CALLS.keys() - FREE - OF_TASKS - OF_SCHEDULES - ADMINISTERS - {SESSION}
    assert {call.partition("/")[2] for call in rest} == {
        "Join", "Leave", "Heartbeat", "CopyStore", "GetTasks", "ListGroups", "ListTasks", "WatchTasks", "ScheduleTask",
        "CancelTasks", "RetryTasks", "AddSchedule",
    }  # fmt: skip


async def test_who_is_bound_is_not_told_which_task_of_others_has_a_unique_key(leader: ServedLeader) -> None:
    async def schedule(name: str, queue: str, key: str) -> pb.ScheduleTaskResponse:
        task = pb.Task(id=f"{name}-{key}", handler="h", queue=queue, unique_key=key)
        request = pb.ScheduleTaskRequest(task=task)
        response: pb.ScheduleTaskResponse
        response = await with_token(leader, name).scheduler.ScheduleTask(request, timeout=PATIENCE)
        return response

    await schedule("free", "mail", "theirs")
    await schedule("free", "web", "own")
    refusal = await refused(schedule("q", "web", "theirs"))
    assert (refusal.code, refusal.reason) == (DENIED, "OUT_OF_BOUNDS")
    assert "'theirs'" in refusal.message
    assert "free-theirs" not in refusal.message
    assert (await schedule("q", "web", "own")).holder_id == "free-own"
    assert (await schedule("q", "web", "new")).holder_id == ""


async def test_who_is_bound_has_no_member_leave(leader: ServedLeader) -> None:
    await with_token(leader, "w1").cluster.Join(cpb.JoinRequest(id="m", address="127.0.0.1:9"), timeout=PATIENCE)
    for name in ("q", "h"):
        await out_of_bounds(with_token(leader, name).cluster.Leave(cpb.LeaveRequest(id="m"), timeout=PATIENCE))
        await out_of_bounds(with_token(leader, name).cluster.Drain(cpb.DrainRequest(id="m"), timeout=PATIENCE))
    await with_token(leader, "free").cluster.Leave(cpb.LeaveRequest(id="m"), timeout=PATIENCE)


async def test_who_is_bound_to_handlers_is_told_of_those_alone(leader: ServedLeader) -> None:
    async with with_token(leader, "w1").worker(handlers=["thumbnail", "shell"]):
        for name, told in (("h", ["thumbnail"]), ("nothing", []), ("q", ["shell", "thumbnail"])):
            for asked in ("", "shell"):
                request = cpb.ListHandlersRequest(name=asked)
                found = await with_token(leader, name).cluster.ListHandlers(request, timeout=PATIENCE)
                assert [each.name for each in found.handlers] == [each for each in told if asked in ("", each)]


async def test_who_is_bound_to_handlers_changes_no_queue(leader: ServedLeader) -> None:
    for method, request in (
        ("PauseQueue", pb.PauseQueueRequest(name="web")),
        ("ResumeQueue", pb.ResumeQueueRequest(name="web")),
        ("ConfigureQueue", pb.ConfigureQueueRequest(name="web")),
    ):
        await out_of_bounds(getattr(with_token(leader, "h").scheduler, method)(request, timeout=PATIENCE))
        await getattr(with_token(leader, "q").scheduler, method)(request, timeout=PATIENCE)


async def test_who_is_bound_has_the_schedules_of_its_tasks_alone(leader: ServedLeader) -> None:
    free, own = with_token(leader, "free").scheduler, with_token(leader, "q").scheduler

    def adding(name: str, queue: str, *, replace: bool = False) -> pb.AddScheduleRequest:
        every, task = pb.EveryTimes(every_ms=3_600_000), pb.Task(handler="h", queue=queue)
        return pb.AddScheduleRequest(schedule=pb.Schedule(name=name, every=every, task=task), replace=replace)

    await free.AddSchedule(adding("other", "mail"), timeout=PATIENCE)
    await own.AddSchedule(adding("mine", "web"), timeout=PATIENCE)
    await out_of_bounds(own.AddSchedule(adding("new", "mail"), timeout=PATIENCE))
    await out_of_bounds(own.AddSchedule(adding("new", ""), timeout=PATIENCE))
    # Else it would take the place of somebody else's.
    await out_of_bounds(own.AddSchedule(adding("other", "web", replace=True), timeout=PATIENCE))
    for method, request in (
        ("GetSchedule", pb.GetScheduleRequest()),
        ("PauseSchedule", pb.PauseScheduleRequest()),
        ("ResumeSchedule", pb.ResumeScheduleRequest()),
        ("TriggerSchedule", pb.TriggerScheduleRequest()),
        ("BackfillSchedule", pb.BackfillScheduleRequest(from_ms=1, until_ms=2)),
        ("RemoveSchedule", pb.RemoveScheduleRequest()),
    ):
        request.name = "other"
        await out_of_bounds(getattr(own, method)(request, timeout=PATIENCE))
        request.name = "mine"
        await getattr(own, method)(request, timeout=PATIENCE)
    await own.AddSchedule(adding("mine", "web"), timeout=PATIENCE)
    for caller, names in ((free, ["mine", "other"]), (own, ["mine"])):
        found = await caller.ListSchedules(pb.ListSchedulesRequest(), timeout=PATIENCE)
        assert [each.name for each in found.schedules] == names


async def test_who_is_bound_is_not_told_which_task_of_others_has_the_key_of_a_schedule(leader: ServedLeader) -> None:
    free, own = with_token(leader, "free").scheduler, with_token(leader, "q").scheduler
    task = pb.Task(handler="h", queue="web", unique_key="theirs")
    wanted = pb.Schedule(name="mine", every=pb.EveryTimes(every_ms=3_600_000), task=task)
    await own.AddSchedule(pb.AddScheduleRequest(schedule=wanted), timeout=PATIENCE)
    theirs = pb.Task(id="secret", handler="h", queue="mail", unique_key="theirs")
    await free.ScheduleTask(pb.ScheduleTaskRequest(task=theirs), timeout=PATIENCE)
    trigger = pb.TriggerScheduleRequest(name="mine")
    for call in (
        own.TriggerSchedule(trigger, timeout=PATIENCE),
        own.BackfillSchedule(pb.BackfillScheduleRequest(name="mine", from_ms=0, until_ms=1), timeout=PATIENCE),
    ):
        refusal = await refused(call)
        assert (refusal.code, refusal.reason) == (DENIED, "OUT_OF_BOUNDS")
        assert "secret" not in refusal.message
    assert (await free.TriggerSchedule(trigger, timeout=PATIENCE)).task_id == "secret"
    await free.CancelTask(pb.CancelTaskRequest(id="secret"), timeout=PATIENCE)
    assert not (await own.TriggerSchedule(trigger, timeout=PATIENCE)).existing


async def test_who_pauses_a_schedule_is_told(leader: ServedLeader) -> None:
    own = with_token(leader, "q").scheduler
    task = pb.Task(handler="h", queue="web")
    wanted = pb.Schedule(name="mine", every=pb.EveryTimes(every_ms=3_600_000), task=task, paused=True)
    added = await own.AddSchedule(pb.AddScheduleRequest(schedule=wanted), timeout=PATIENCE)
    assert added.schedule.paused_by == "q"
    await own.ResumeSchedule(pb.ResumeScheduleRequest(name="mine"), timeout=PATIENCE)
    await own.PauseSchedule(pb.PauseScheduleRequest(name="mine"), timeout=PATIENCE)
    found = await own.GetSchedule(pb.GetScheduleRequest(name="mine"), timeout=PATIENCE)
    assert found.schedule.paused_by == "q"


async def test_a_filter_that_leaves_one_s_own_queue_out_shows_no_others(leader: ServedLeader) -> None:
    for chosen in ("queue != web", "queue != web AND status = PENDING", "id = x", "labels.queue = web"):
        await out_of_bounds(with_token(leader, "q").list(filter=chosen))
    await with_token(leader, "free").submit("a", queue="other")
    await with_token(leader, "free").submit("b", queue="web")
    for chosen, found in (("queue = web AND queue != other", ["b"]), ("queue = other AND queue = web", [])):
        assert [task.id for task in await with_token(leader, "q").list(filter=chosen)] == found


async def test_a_filter_that_leaves_one_s_own_queue_out_cancels_and_retries_nothing(leader: ServedLeader) -> None:
    free, own = with_token(leader, "free").scheduler, with_token(leader, "q").scheduler
    for id, queue in (("a", "other"), ("b", "web")):
        await with_token(leader, "free").submit(id, queue=queue)
    for chosen in ("status = PENDING", "queue = other", "queue != web"):
        await out_of_bounds(own.CancelTasks(pb.CancelTasksRequest(filter=chosen), timeout=PATIENCE))
    assert (await own.CancelTasks(pb.CancelTasksRequest(filter="queue = web"), timeout=PATIENCE)).cancelled == 1
    await free.CancelTask(pb.CancelTaskRequest(id="a"), timeout=PATIENCE)
    await out_of_bounds(own.RetryTasks(pb.RetryTasksRequest(filter="status = CANCELLED"), timeout=PATIENCE))
    chosen = "status = CANCELLED AND queue = web"
    token = (await own.RetryTasks(pb.RetryTasksRequest(filter=chosen), timeout=PATIENCE)).next_page_token
    again = pb.RetryTasksRequest(filter=chosen, page_token=token)
    assert (await own.RetryTasks(again, timeout=PATIENCE)).retried == 1
    assert {task.id: task.status for task in await with_token(leader, "free").list()} == {
        "a": pb.TASK_STATUS_CANCELLED,
        "b": pb.TASK_STATUS_PENDING,
    }


async def test_who_is_bound_changes_own_tasks_and_moves_them_to_own_queues(leader: ServedLeader) -> None:
    for id, queue in (("a", "other"), ("b", "web")):
        await with_token(leader, "free").submit(id, queue=queue)

    def change(name: str, **fields: Any) -> Any:
        return with_token(leader, name).scheduler.UpdateTask(pb.UpdateTaskRequest(**fields), timeout=PATIENCE)

    await out_of_bounds(change("q", id="a", queue="web"))
    await out_of_bounds(change("q", id="a", priority=pb.TASK_PRIORITY_HIGH))
    await out_of_bounds(change("q", id="b", queue="other"))
    await out_of_bounds(change("q", id="b", queue=""))
    await out_of_bounds(change("h", id="b", priority=pb.TASK_PRIORITY_HIGH))
    await change("q", id="b", queue="web", priority=pb.TASK_PRIORITY_HIGH)
    await with_token(leader, "free").submit("c", handler="thumbnail")
    for id, handler in (("c", "shell"), ("b", "thumbnail")):
        retried = pb.RetryTaskRequest(id=id, handler=handler)
        await out_of_bounds(with_token(leader, "h").scheduler.RetryTask(retried, timeout=PATIENCE))
    await with_token(leader, "free").scheduler.CancelTask(pb.CancelTaskRequest(id="c"), timeout=PATIENCE)
    own = pb.RetryTaskRequest(id="c", handler="thumbnail", payload="x")
    await with_token(leader, "h").scheduler.RetryTask(own, timeout=PATIENCE)
    tasks = {task.id: (task.queue, task.priority) for task in await with_token(leader, "free").list()}
    del tasks["c"]
    assert tasks == {"a": ("other", pb.TASK_PRIORITY_LOW), "b": ("web", pb.TASK_PRIORITY_HIGH)}


async def test_tasks_of_others_are_not_purged_by_their_ids(leader: ServedLeader) -> None:
    free, own = with_token(leader, "free"), with_token(leader, "q")
    for id, queue in (("a", "other"), ("b", "web")):
        await free.submit(id, queue=queue)
        await free.scheduler.CancelTask(pb.CancelTaskRequest(id=id), timeout=PATIENCE)
    await out_of_bounds(own.scheduler.PurgeTasks(pb.PurgeTasksRequest(ids=["b", "a"]), timeout=PATIENCE))
    assert (await free.get("b")).id == "b"
    await own.scheduler.PurgeTasks(pb.PurgeTasksRequest(ids=["b"]), timeout=PATIENCE)
    assert (await refused(free.get("b"))).code is grpc.StatusCode.NOT_FOUND


async def test_of_many_tasks_the_last_is_looked_at_too(leader: ServedLeader) -> None:
    free, own = with_token(leader, "free"), with_token(leader, "q")
    ids = [f"t{number:02}" for number in range(40)]
    await free.submit(*ids, queue="web")
    await free.submit("other", queue="other")
    for id in (*ids, "other"):
        await free.scheduler.CancelTask(pb.CancelTaskRequest(id=id), timeout=PATIENCE)
    assert len(await own.finished(*ids)) == 40
    await out_of_bounds(own.finished(*ids, "other"))


async def test_a_bound_worker_reports_on_no_task_of_others(leader: ServedLeader) -> None:
    await with_token(leader, "free").submit("a", handler="shell")
    worker = with_token(leader, "h").scheduler
    await out_of_bounds(worker.TaskComplete(pb.TaskCompleteRequest(id="a"), timeout=PATIENCE))
    await out_of_bounds(worker.TaskProgress(pb.TaskProgressRequest(id="a"), timeout=PATIENCE))


async def test_tasks_without_a_queue_are_of_the_default_one(leader: ServedLeader) -> None:
    caller = with_token(leader, "default")
    await caller.scheduler.ScheduleTask(pb.ScheduleTaskRequest(task=pb.Task(id="a", payload="x")), timeout=PATIENCE)
    assert (await caller.get("a")).id == "a"


async def test_who_is_bound_to_no_handler_has_none(leader: ServedLeader) -> None:
    caller = with_token(leader, "nothing")
    for handler in ("", "h"):
        await out_of_bounds(caller.submit("a", handler=handler, payload="x"))


def test_no_patterns_match_nothing() -> None:
    nobody = Identity("a", frozenset({Role.CLIENT}), (), ())
    assert not any((nobody.may_queue(""), nobody.may_handler(""), nobody.may_queue("q"), nobody.may_handler("h")))


# What a certificate's bounds do to a member that has joined with it.


@pytest.mark.parametrize(
    ("text", "stays"),
    [
        ("# nobody", True),
        (entry("w", token=False), True),
        (entry("w", "worker", token=False), True),
        (entry("w", "client", token=False), False),
        (entry("w", token=False, queues=["q"]), False),
        (entry("w", token=False, handlers=["h"]), False),
        ("revoked = ['w']", False),
        ("revoked = ['serial:1', 'w1']", True),
    ],
)
def test_a_member_stays_as_long_as_its_owner_may_join(tmp_path: Path, text: str, stays: bool) -> None:
    assert Access(access_file(tmp_path, text)).may_stay("w", "10.0.0.1") is stays


async def test_a_member_that_a_new_term_finds_leaves_when_its_owner_s_rights_have_ended_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(node, "REFRESH_SECONDS", 0.01)
    workers = [entry(name, "worker") for name in ("gone", "stays")]
    async with known_by_tokens(tmp_path, *workers) as leader:
        for name in ("gone", "stays"):
            request = cpb.JoinRequest(id=name, address="127.0.0.1:9")
            await with_token(leader, name).cluster.Join(request, timeout=PATIENCE)
    async with known_by_tokens(tmp_path, "revoked = ['gone']", *workers) as leader:
        caller = with_token(leader, "stays").cluster
        async with asyncio.timeout(PATIENCE):
            while True:
                found = (await caller.Members(cpb.MembersRequest(), timeout=PATIENCE)).members
                liveness = {member.id: member.liveness for member in found}
                if liveness["gone"] == cpb.MEMBER_LIVENESS_LEFT:
                    break
        assert liveness["stays"] == cpb.MEMBER_LIVENESS_LIVE
    dismissed = [record.__dict__ for record in caplog.records if record.msg == "member dismissed"]
    assert [(line["member"], line["owner"]) for line in dismissed] == [("gone", "gone")]


async def test_who_is_bound_has_the_groups_of_its_tasks_alone(leader: ServedLeader) -> None:
    free, own = with_token(leader, "free").scheduler, with_token(leader, "q").scheduler

    def scheduling(*tasks: pb.Task) -> pb.ScheduleTasksRequest:
        return pb.ScheduleTasksRequest(tasks=tasks)

    groups = [pb.Task(id=queue, queue=queue, group=pb.GroupOptions()) for queue in ("web", "mail")]
    await free.ScheduleTasks(scheduling(*groups), timeout=PATIENCE)
    child = pb.Task(handler="h", queue="web")
    child.id = "mail/0"
    await out_of_bounds(own.ScheduleTasks(scheduling(child), timeout=PATIENCE))
    child.id = "web/0"
    await own.ScheduleTasks(scheduling(child), timeout=PATIENCE)
    # It is no group.
    child.id = "web/0/0"
    await own.ScheduleTasks(scheduling(child), timeout=PATIENCE)
    for method, request in (("GetGroup", pb.GetGroupRequest()), ("SealGroup", pb.SealGroupRequest())):
        request.id = "mail"
        await out_of_bounds(getattr(own, method)(request, timeout=PATIENCE))
        request.id = "web"
        await getattr(own, method)(request, timeout=PATIENCE)
