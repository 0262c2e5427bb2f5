"""A worker tells its leader which tasks must not run twice, and which of those that it hands back have not begun."""

from __future__ import annotations

from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker import Context, handler


@handler(on_lost="fail")
async def pay(ctx: Context) -> None:
    ctx.progress(0.1, "paying")


async def test_the_leader_is_told_what_handlers_declare(leader: Any, start_worker: Any) -> None:
    @handler
    async def look() -> None:
        """Looks, which may be done twice."""

    await start_worker([pay, look])
    scripted = await leader.session()
    told = {info.name: info.on_lost for info in scripted.hello.handlers}
    assert (told["pay"], told["look"]) == (tasks.ON_LOST_FAIL, tasks.ON_LOST_UNSPECIFIED)
    assert await scripted.until(lambda: scripted.credit)


async def test_a_leader_that_would_run_lost_tasks_again_is_given_no_credit(
    leader: Any, start_worker: Any, caplog: pytest.LogCaptureFixture, eventually: Any
) -> None:
    leader.heeds_on_lost = False
    await start_worker([pay])
    refused = await leader.session()
    told = """upgrade the leader, or take on_lost="fail" from the handlers 'pay'"""
    await eventually(lambda: any(told in str(vars(each).get("reason")) for each in caplog.records))
    assert refused.credit == 0
    leader.heeds_on_lost = True
    credit = 0
    while not credit:
        scripted = await leader.session()
        await eventually(lambda scripted=scripted: scripted.credit or scripted.closed.is_set())
        credit = scripted.credit


async def test_who_has_no_such_handler_works_for_an_older_leader(leader: Any, start_worker: Any) -> None:
    leader.heeds_on_lost = False
    await start_worker()
    scripted = await leader.session()
    assert await scripted.until(lambda: scripted.credit)
