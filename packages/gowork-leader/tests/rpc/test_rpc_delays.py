"""What a leader tells of itself, and of moments that it has reckoned from lengths of time."""

from __future__ import annotations

from pathlib import Path

from leader_serving import PATIENCE, ServedLeader, serving

from gowork.leader import __version__
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

HOUR_MS = 3_600_000


async def test_moments_that_were_reckoned_are_told_and_survive_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        await leader.submit("t", delay_ms=HOUR_MS, expires_in_ms=2 * HOUR_MS)
        before = await leader.get("t")
    assert before.run_at_ms == before.created_at_ms + HOUR_MS
    assert before.expires_at_ms == before.created_at_ms + 2 * HOUR_MS
    assert (before.delay_ms, before.expires_in_ms) == (HOUR_MS, 2 * HOUR_MS)
    async with serving(tmp_path) as leader:
        after = await leader.get("t")
        # It counts down.
        after.waiting_reason = before.waiting_reason
        assert after == before
        assert [task.run_at_ms for task in await leader.list()] == [before.run_at_ms]
        # The same task again.
        assert (await leader.submit("t", delay_ms=HOUR_MS, expires_in_ms=2 * HOUR_MS)).existing == 1


async def test_a_leader_tells_its_version_and_the_fields_that_it_reads(leader: ServedLeader) -> None:
    told = await leader.scheduler.GetLeader(pb.GetLeaderRequest(), timeout=PATIENCE)
    assert told.version == __version__
    assert list(told.request_fields) == sorted(set(told.request_fields))
    assert {
        "scheduler.v1.Task.delay_ms",
        "scheduler.v1.RetryPolicy.jitter",
        "scheduler.v1.PurgeTasksRequest.filter",
        "cluster.v1.DrainRequest.budget_ms",
    } <= set(told.request_fields)
    # What only answers carry is no field of a request.
    assert "scheduler.v1.StatsResponse.term" not in told.request_fields


async def test_the_delay_of_a_follow_up_is_reckoned_by_the_leader_whatever_the_worker_reckoned(
    leader: ServedLeader,
) -> None:
    await leader.submit("a", "b")
    async with leader.worker() as session:
        for number, grant in enumerate(await session.grants(2)):
            # What two workers, or two attempts, schedule under one id is one task, though their clocks differ.
            follow_up = pb.Task(id="next", handler="h", delay_ms=HOUR_MS, run_at_ms=1_000 + number)
            follow_up.expires_in_ms, follow_up.expires_at_ms = 2 * HOUR_MS, 2_000 + number
            await session.report(grant, follow_ups=[follow_up])
    assert [(await leader.get(id)).status for id in "ab"] == [pb.TASK_STATUS_COMPLETED] * 2
    told = await leader.get("next")
    assert (told.run_at_ms, told.delay_ms) == (told.created_at_ms + HOUR_MS, HOUR_MS)
    assert (told.expires_at_ms, told.expires_in_ms) == (told.created_at_ms + 2 * HOUR_MS, 2 * HOUR_MS)
