"""A worker never has a leader schedule a follow-up without the unique key that the handler gave it."""

from __future__ import annotations

from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker import Context, handler


@handler
def schedules(ctx: Context, has_key: bool) -> str:
    ctx.schedule("text", unique="k" if has_key else None)
    return "done"


@pytest.mark.parametrize(("heeds", "has_key"), [(True, True), (False, True), (False, False)])
async def test_a_leader_that_heeds_no_unique_keys_is_told_that_the_attempt_failed(
    leader: Any, start_worker: Any, heeds: bool, has_key: bool
) -> None:
    leader.heeds_unique_keys = heeds
    await start_worker([schedules], slots=2)
    scripted = await leader.session()
    scripted.grant(1, "schedules", payload="true" if has_key else "false")
    report = await scripted.report(1)
    if heeds or not has_key:
        assert report.outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
        assert [task.unique_key for task in report.follow_ups] == ["k" if has_key else ""]
    else:
        assert (report.outcome, report.failure.kind) == (
            tasks.ATTEMPT_OUTCOME_FAILED,
            tasks.FAILURE_KIND_REJECTED,
        )
        assert "a follow-up asks for unique_key, which this leader is too old to know" in report.failure.message
        assert not report.follow_ups
