"""What Activity tells, after the things that it tells of have happened."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader, refused, serving

from gowork.leader._engine.counts import QUEUES_MAX, START_SECONDS
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

FAILED, CANCELLED = pb.ATTEMPT_OUTCOME_FAILED, pb.ATTEMPT_OUTCOME_CANCELLED
FAILURE = pb.Failure(kind=pb.FAILURE_KIND_HANDLER, message="no", type="ValueError", traceback="line 1")


async def activity(leader: ServedLeader, failures_max: int = 0) -> pb.ActivityResponse:
    return await leader.scheduler.Activity(pb.ActivityRequest(failures_max=failures_max), timeout=PATIENCE)


def queue_of(response: pb.ActivityResponse, name: str) -> pb.QueueActivity:
    (found,) = [queue for queue in response.queues if queue.queue.name == name]
    return found


async def test_what_has_happened_in_a_queue_is_counted_since_the_leader_started(leader: ServedLeader) -> None:
    async with leader.worker() as session:
        await leader.submit("a", "b", "c", queue="mail")
        # These are no new tasks.
        await leader.submit("a", queue="mail")
        a, b, c = await session.grants(3)
        await session.report(a)
        await session.report(b, outcome=FAILED, failure=FAILURE)
        await session.report(c, outcome=pb.ATTEMPT_OUTCOME_INTERRUPTED)
        again = await session.grant()
        await leader.scheduler.CancelTask(pb.CancelTaskRequest(id="c"), timeout=PATIENCE)
        await session.report(again, outcome=CANCELLED)
        told = await activity(leader)
    # It holds nothing any more, and is told of all the same.
    mail = queue_of(told, "mail")
    assert (mail.queue.waiting, mail.queue.running, mail.oldest_waiting_ms, list(mail.waiting)) == (0, 0, 0, [])
    counts = mail.counts
    assert (counts.submitted, counts.completed, counts.cancelled, counts.failed) == (3, 1, 1, 1)
    # The second grant of a task is no first start.
    assert sum(counts.start_counts) == 3
    assert len(counts.start_counts) == len(told.start_bounds) + 1
    assert tuple(told.start_bounds) == START_SECONDS
    assert (told.finished_tasks, told.failed_tasks) == (3, 1)


async def test_what_stands_in_a_queue_is_told_with_its_limits_and_reasons(leader: ServedLeader) -> None:
    await leader.scheduler.ConfigureQueue(pb.ConfigureQueueRequest(name="idle", weight=7), timeout=PATIENCE)
    async with leader.worker(credit=1, slots=1):
        await leader.submit("a", "b", "c", queue="q")
        await leader.submit("later", queue="q", run_at_ms=4_000_000_000_000)
        await leader.submit("nobody", queue="q", handler="unheard-of")
        await leader.scheduler.PauseQueue(pb.PauseQueueRequest(name="held"), timeout=PATIENCE)
        await leader.submit("d", queue="held")
        told = await activity(leader)
    q, held, idle = (queue_of(told, name) for name in ("q", "held", "idle"))
    assert (q.queue.waiting, q.queue.delayed, q.queue.running) == (3, 1, 1)
    assert {row.code: row.tasks for row in q.waiting} == {
        pb.WAIT_CODE_NO_SLOT: 2,
        pb.WAIT_CODE_NO_HANDLER: 1,
        pb.WAIT_CODE_DELAYED: 1,
    }
    assert q.oldest_waiting_ms >= 1
    assert held.queue.paused
    assert {row.code: row.tasks for row in held.waiting} == {pb.WAIT_CODE_QUEUE_PAUSED: 1}
    assert (idle.queue.weight, idle.HasField("counts")) == (7, False)
    assert [queue.queue.name for queue in told.queues] == ["held", "idle", "q"]
    assert told.queues_total == 3
    assert [(row.liveness, row.members, row.slots, row.running) for row in told.members] == [("LIVE", 1, 1, 1)]


async def test_what_failed_last_comes_first_whatever_was_submitted_first(leader: ServedLeader) -> None:
    async with leader.worker() as session:
        await leader.submit("a", "b", "c", "fine", payload="large")
        grants = {grant.id: grant for grant in await session.grants(4)}
        for id in ("c", "a", "b"):
            await session.report(grants[id], outcome=FAILED, failure=FAILURE)
        await session.report(grants["fine"])
        failures = (await activity(leader, 2)).failures
        assert [(task.id, task.worker) for task in failures] == [("b", "w"), ("a", "w")]
        assert (failures[0].failure.message, failures[0].failure.traceback, failures[0].payload) == ("no", "", "")
        # What runs again has not failed.
        await leader.scheduler.RetryTask(pb.RetryTaskRequest(id="b"), timeout=PATIENCE)
        assert [task.id for task in (await activity(leader, 100)).failures] == ["a", "c"]
        assert not (await activity(leader)).failures


async def test_another_term_counts_from_zero_and_still_knows_the_failures(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        async with leader.worker() as session:
            await leader.submit("a")
            await session.report(await session.grant(), outcome=FAILED, failure=FAILURE)
        before = await activity(leader)
        assert before.uptime_ms <= (await activity(leader)).uptime_ms
    async with serving(tmp_path) as leader:
        after = await activity(leader, 1)
        assert after.term == before.term + 1
        assert not after.queues
        assert (after.finished_tasks, after.failed_tasks) == (1, 1)
        assert [task.id for task in after.failures] == ["a"]


async def test_queues_beyond_those_that_are_counted_are_counted_together(leader: ServedLeader) -> None:
    names = [f"q{number:03}" for number in range(QUEUES_MAX)]
    tasks = [pb.Task(id=name, queue=name, handler="h") for name in [*names, "past the limit", "other"]]
    await leader.scheduler.ScheduleTasks(pb.ScheduleTasksRequest(tasks=tasks), timeout=PATIENCE)
    told = await activity(leader)
    assert [queue.queue.name for queue in told.queues] == sorted([*names, "past the limit", "other"])
    assert {name: queue_of(told, name).counts.submitted for name in names} == dict.fromkeys(names, 1)
    for name in ("past the limit", "other"):
        assert (queue_of(told, name).queue.waiting, queue_of(told, name).HasField("counts")) == (1, False)
    assert told.other_counts.submitted == 2


@pytest.mark.parametrize("number", [-1, 101])
async def test_more_failures_than_the_limit_are_refused(leader: ServedLeader, number: int) -> None:
    refusal = await refused(activity(leader, number))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [(violation.field, "0 to 100" in violation.description) for violation in refusal.violations] == [
        ("failures_max", True)
    ]
