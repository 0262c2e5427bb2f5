"""A worker tells its leader of the schedules that its handlers declare."""

from __future__ import annotations

from typing import Any

import pytest

from gowork.worker import Cron, Every, Schedule, handler


@handler(schedule=Cron("0 3 * * *"))
async def nightly() -> None:
    """Has nothing to do."""


@handler(schedule=[Schedule(Every(60), "a", name="a"), Schedule(Every(60), name="b")])
async def often() -> None:
    """Has nothing to do, and does it often."""


async def test_the_leader_is_told_of_all_schedules(leader: Any, start_worker: Any) -> None:
    await start_worker([nightly, often])
    scripted = await leader.session()
    told = {info.name: [schedule.name for schedule in info.schedules] for info in scripted.hello.handlers}
    assert (told["nightly"], told["often"]) == (["nightly"], ["a", "b"])


async def test_a_leader_that_does_not_heed_them_is_worked_for_and_named_in_the_log(
    leader: Any, start_worker: Any, caplog: pytest.LogCaptureFixture, eventually: Any
) -> None:
    leader.heeds_schedules = False
    await start_worker([nightly])
    scripted = await leader.session()
    assert await scripted.until(lambda: scripted.credit)
    (line,) = [each for each in caplog.records if each.message == "schedules in code are not heeded"]
    assert vars(line)["handlers"] == "'nightly'"
