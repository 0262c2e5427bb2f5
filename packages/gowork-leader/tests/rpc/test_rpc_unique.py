"""Who schedules a task whose unique key is taken is told which task has it, by each of the three ways."""

from __future__ import annotations

from typing import Any

import grpc
from leader_serving import PATIENCE, ServedLeader, refused
from submission_stream import Stream

from gowork.proto.scheduler.v1 import scheduler_pb2 as pb


def unique(id: str, key: str = "k", **fields: Any) -> pb.Task:
    return pb.Task(id=id, handler="h", payload="{}", unique_key=key, **fields)


async def schedule(leader: ServedLeader, task: pb.Task) -> str:
    answer = await leader.scheduler.ScheduleTask(pb.ScheduleTaskRequest(task=task), timeout=PATIENCE)
    return answer.holder_id


async def test_each_way_of_scheduling_names_the_task_that_has_the_key(leader: ServedLeader) -> None:
    assert await schedule(leader, unique("a")) == ""
    assert await schedule(leader, unique("b")) == "a"
    tasks = [unique("c"), unique("d", "l"), unique("e", "l"), unique("a")]
    answer = await leader.scheduler.ScheduleTasks(pb.ScheduleTasksRequest(tasks=tasks), timeout=PATIENCE)
    assert (answer.created, answer.existing, dict(answer.holder_ids)) == (1, 1, {0: "a", 2: "d"})
    stream = Stream(leader)
    await stream.send({1: unique("f"), 2: unique("g", "m"), 3: unique("a")})
    told: dict[int, str] = {}
    while len(told) < 3:
        told |= {each.number: each.holder_id for each in (await stream.read()).answers if not each.HasField("refusal")}
    assert told == {1: "a", 2: "", 3: ""}
    assert [task.id for task in await leader.list()] == ["a", "d", "g"]


async def test_a_task_shows_its_key_and_frees_it_at_its_end(leader: ServedLeader) -> None:
    await schedule(leader, unique("a"))
    await schedule(leader, unique("kept", "l", unique_for_ms=3_600_000))
    shown = await leader.get("kept")
    assert (shown.unique_key, shown.unique_for_ms) == ("l", 3_600_000)
    async with leader.worker() as worker:
        # By columns, as workers report most completions.
        await worker.complete(*await worker.grants(2), results=["", ""], result_data=[b"", b""], traceparents=["", ""])
    assert await schedule(leader, unique("b")) == ""
    assert await schedule(leader, unique("c", "l")) == "kept"
    await leader.scheduler.PurgeTasks(pb.PurgeTasksRequest(ids=["kept"]), timeout=PATIENCE)
    assert await schedule(leader, unique("c", "l")) == ""


async def test_a_task_whose_key_another_one_has_is_not_run_again(leader: ServedLeader) -> None:
    await schedule(leader, unique("a"))
    await leader.scheduler.CancelTask(pb.CancelTaskRequest(id="a"), timeout=PATIENCE)
    await schedule(leader, unique("b"))
    refusal = await refused(leader.scheduler.RetryTask(pb.RetryTaskRequest(id="a"), timeout=PATIENCE))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_TAKEN")
    assert "task 'b' has the unique_key 'k' of task 'a'" in refusal.message


async def test_workers_are_told_that_keys_of_follow_ups_are_heeded(leader: ServedLeader) -> None:
    session = leader.session()
    await session.hello("w")
    assert (await session.welcome()).heeds_unique_keys
    session.call.cancel()
