"""Real runner processes that are replaced because they have run many tasks, or have grown."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.worker._core.options import RUNNER_MEMORY_MIB_MAX, RUNNER_TASKS_MAX, Options
from gowork.worker.errors import ConfigurationError


async def test_runners_are_replaced_after_their_number_of_tasks_and_none_is_lost(
    leader: Any, start_worker: Any
) -> None:
    service = await start_worker(slots=2, runners=2, runner_tasks_max=3)
    scripted = await leader.session()
    pids: set[int] = set()
    for fence in itertools.count(1):
        scripted.grant(fence, "pid")
        report = await scripted.report(fence)
        assert report.outcome == tasks.ATTEMPT_OUTCOME_COMPLETED
        pids.add(json.loads(report.result))
        if len(pids) > 4:
            break
    assert service.supervisor.measures.runners_lost == 0


async def test_a_runner_that_leaks_is_replaced_and_another_task_runs_on(
    leader: Any, start_worker: Any, eventually: Any
) -> None:
    service = await start_worker(slots=2, runners=1, runner_memory_max=400)
    scripted = await leader.session()
    scripted.grant(1, "until_cancelled")
    first = int(await scripted.started(1))
    scripted.grant(2, "leak", "500")
    assert json.loads((await scripted.report(2)).result) == first
    await eventually(lambda: any(runner.is_retiring for runner in service.supervisor.desk.roster.ordinary))
    scripted.grant(3, "pid")
    assert 1 not in scripted.reports
    scripted.send(cancelled=[1])
    assert (await scripted.report(1)).outcome == tasks.ATTEMPT_OUTCOME_CANCELLED
    assert json.loads((await scripted.report(3)).result) != first


@pytest.mark.parametrize(
    ("field", "most"), [("runner_tasks_max", RUNNER_TASKS_MAX), ("runner_memory_max", RUNNER_MEMORY_MIB_MAX)]
)
def test_the_bounds_of_runners_are_bounded(field: str, most: int) -> None:
    for value in (-1, most + 1, 1.5):
        wrong: dict[str, Any] = {field: value}
        with pytest.raises(ConfigurationError, match=field):
            Options(**wrong)
    for value in (0, 1, most):
        right: dict[str, Any] = {field: value}
        assert getattr(Options(**right), field) == value
