"""The trace context of a task: kept with it, given to whoever runs it, no part of what makes two submits the same."""

from __future__ import annotations

from pathlib import Path

from leader_serving import PATIENCE, ServedLeader, refused, serving

from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

FIRST = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECOND = "00-11111111111111111111111111111111-2222222222222222-01"
ATTEMPT = "00-33333333333333333333333333333333-4444444444444444-01"


async def test_a_task_keeps_the_context_that_it_was_scheduled_with(leader: ServedLeader) -> None:
    await leader.submit("a", payload="x", traceparent=FIRST, tracestate="vendor=1")
    for task in (await leader.get("a"), *await leader.list()):
        assert (task.traceparent, task.tracestate) == (FIRST, "vendor=1")
    async with leader.worker() as session:
        grant = await session.grant()
        task = pb.Task.FromString(grant.task)
        assert (task.payload, task.traceparent, task.tracestate) == ("x", FIRST, "vendor=1")
        assert grant.previous_traceparent == ""
        await session.report(grant)
    finished = (await leader.finished("a", view=pb.TASK_VIEW_FULL))["a"]
    assert (finished.payload, finished.traceparent) == ("x", FIRST)


async def test_a_repeated_submit_with_another_context_is_the_same_task_and_the_first_context_stays(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as leader:
        await leader.submit("a", payload="x", traceparent=FIRST)
        for context in ({"traceparent": SECOND, "tracestate": "vendor=2"}, {}):
            assert (await leader.submit("a", payload="x", **context)).existing == 1
        assert (await leader.get("a")).traceparent == FIRST
    async with serving(tmp_path) as leader:
        assert (await leader.submit("a", payload="x", traceparent=SECOND)).existing == 1
        assert (await leader.get("a")).traceparent == FIRST
        await refused(leader.submit("a", payload="y", traceparent=FIRST))
        async with leader.worker() as session:
            assert pb.Task.FromString((await session.grant()).task).traceparent == FIRST


async def test_a_task_that_was_scheduled_without_a_context_gets_none_by_a_repetition(leader: ServedLeader) -> None:
    await leader.submit("a")
    assert (await leader.submit("a", traceparent=FIRST)).existing == 1
    assert (await leader.get("a")).traceparent == ""


async def test_a_batchs_context_is_that_of_its_tasks_but_of_those_with_one_of_their_own(leader: ServedLeader) -> None:
    tasks = [pb.Task(id="a", handler="h"), pb.Task(id="b", handler="h", traceparent=SECOND)]
    batch = pb.ScheduleTasksRequest(tasks=tasks, traceparent=FIRST, tracestate="vendor=1")
    await leader.scheduler.ScheduleTasks(batch, timeout=PATIENCE)
    told = {task.id: (task.traceparent, task.tracestate) for task in await leader.list()}
    assert told == {"a": (FIRST, "vendor=1"), "b": (SECOND, "")}


async def test_a_batch_with_a_bad_context_is_refused(leader: ServedLeader) -> None:
    batch = pb.ScheduleTasksRequest(tasks=[pb.Task(id="a", handler="h")], traceparent="00-1-2-3")
    refusal = await refused(leader.scheduler.ScheduleTasks(batch, timeout=PATIENCE))
    assert [violation.field for violation in refusal.violations] == ["traceparent"]


async def test_the_next_attempt_is_told_of_the_last_one_that_was_traced(leader: ServedLeader) -> None:
    await leader.submit("a", retry=pb.RetryPolicy(max_attempts=3, initial_delay_ms=1))
    async with leader.worker() as session:
        outcome = pb.ATTEMPT_OUTCOME_FAILED
        await session.report(await session.grant(), outcome=outcome, traceparent=ATTEMPT)
        second = await session.grant()
        assert second.previous_traceparent == ATTEMPT
        await session.report(second, outcome=outcome)
        third = await session.grant()
        assert third.previous_traceparent == ATTEMPT
        await session.report(third, traceparent=SECOND)
    assert [attempt.traceparent for attempt in (await leader.get("a")).attempts] == [ATTEMPT, "", SECOND]


async def test_a_report_whose_context_is_none_counts_without_it(leader: ServedLeader) -> None:
    await leader.submit("a")
    async with leader.worker() as session:
        await session.report(await session.grant(), traceparent="of my own making")
    task = await leader.get("a")
    assert task.status == pb.TASK_STATUS_COMPLETED
    assert task.attempts[0].traceparent == ""


async def test_a_follow_up_keeps_the_context_of_its_attempt(leader: ServedLeader) -> None:
    await leader.submit("a", traceparent=FIRST)
    async with leader.worker() as session:
        follow_up = pb.Task(id="b", handler="h", traceparent=ATTEMPT)
        await session.report(await session.grant(), traceparent=ATTEMPT, follow_ups=[follow_up])
        assert pb.Task.FromString((await session.grant()).task).traceparent == ATTEMPT
