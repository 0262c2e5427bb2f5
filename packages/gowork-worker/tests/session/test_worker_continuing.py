"""A worker has no leader lose the wait of a handler that it does not know."""

from __future__ import annotations

from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker import Context, WaitFor, handler


@handler
def waits(ctx: Context, number: int) -> int:
    return WaitFor([ctx.schedule(number, handler="part")], then="next")


@pytest.mark.parametrize("heeds", [True, False])
async def test_a_leader_that_heeds_no_continuations_is_told_that_the_attempt_failed(
    leader: Any, start_worker: Any, heeds: bool
) -> None:
    leader.heeds_continuations = heeds
    await start_worker([waits], slots=2)
    scripted = await leader.session()
    scripted.grant(1, "waits", payload="7")
    report = await scripted.report(1)
    if heeds:
        assert report.outcome == tasks.ATTEMPT_OUTCOME_WAITING
        assert (report.continuation.handler, report.continuation.payload) == ("next", "7")
        assert list(report.continuation.after) == [task.id for task in report.follow_ups]
    else:
        assert (report.outcome, report.failure.kind) == (tasks.ATTEMPT_OUTCOME_FAILED, tasks.FAILURE_KIND_REJECTED)
        assert "waits for other tasks (WaitFor), which this leader is too old to know" in report.failure.message
        assert not report.follow_ups
