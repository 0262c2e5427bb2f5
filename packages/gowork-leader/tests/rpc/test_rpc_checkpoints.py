"""Checkpoints over a real connection: a worker tells them, and the next grant of the task carries the last one."""

from __future__ import annotations

from typing import Any

from leader_serving import ServedLeader

from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.worker.v1 import session_pb2 as spb

SNOOZED = pb.ATTEMPT_OUTCOME_SNOOZED
TOO_LONG = b"b" * (limits.CHECKPOINT_BYTES_MAX + 1)


def word(grant: spb.Grant, state: bytes, **fields: Any) -> spb.ProgressReport:
    return spb.ProgressReport(fence=grant.fence, id=grant.id, checkpoint=state, **fields)


async def test_the_next_grant_carries_the_last_checkpoint(leader: ServedLeader) -> None:
    await leader.submit("a")
    async with leader.worker() as session:
        first = await session.grant()
        assert first.checkpoint == b""
        await session.send(
            progress=[word(first, b"one", is_checkpoint_alone=True), word(first, b"two"), word(first, TOO_LONG)]
        )
        await session.report(first, outcome=SNOOZED)
        second = await session.grant()
        assert (second.attempt, second.checkpoint) == (2, b"two")
        await session.report(second, outcome=SNOOZED, checkpoint=b"three")
        third = await session.grant()
        assert third.checkpoint == b"three"
        await session.report(third, outcome=SNOOZED, checkpoint=TOO_LONG)
        fourth = await session.grant()
        assert fourth.checkpoint == b"three"
        await session.report(fourth)


async def test_a_checkpoint_alone_leaves_the_progress_as_it_is(leader: ServedLeader) -> None:
    await leader.submit("a")
    async with leader.worker() as session:
        grant = await session.grant()
        told = spb.ProgressReport(fence=grant.fence, id="a", fraction=0.5, message="half")
        await session.send(progress=[told, word(grant, b"one", is_checkpoint_alone=True)])
        await session.send(pongs=[1])
        while (await leader.get("a")).progress.message != "half":
            await session.send()
            await session.frame()
        assert (await leader.get("a")).progress.fraction == 0.5
        await session.report(grant)
