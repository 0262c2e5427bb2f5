"""A short soak: every kind of handler with every option. `nox -s soak` runs a long one."""

from __future__ import annotations

from pathlib import Path

import pytest
from otlp_receiver import receiving
from soak_cases import CASES, KINDS, fault_of, tasks_of
from soak_cluster import ends_of_runners, run_round, soaked

from gowork.client import Attempt, AttemptOutcome, TaskInfo, TaskStatus

#: The number of tasks of each kind of handler with each option.
TASKS = 6


def test_each_task_ends_as_it_should_in_the_attempts_that_it_should_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{receiver.address}")
        with soaked(tmp_path) as client:
            _, faults = run_round(client, "short", TASKS)
        assert faults == []
        assert ends_of_runners(tmp_path) == []
        assert receiver.spans


def test_every_kind_of_handler_meets_every_case() -> None:
    met = {(case.name, task.handler) for case, task in tasks_of("r", 2)}
    assert met == {(case.name, kind) for case in CASES for kind in KINDS}


@pytest.mark.parametrize(
    ("status", "outcomes", "is_fault"),
    [
        (TaskStatus.COMPLETED, [AttemptOutcome.COMPLETED], False),
        (TaskStatus.COMPLETED, [AttemptOutcome.TIMED_OUT, AttemptOutcome.COMPLETED], True),
        (TaskStatus.ERROR, [AttemptOutcome.TIMED_OUT], True),
        (TaskStatus.COMPLETED, [], True),
    ],
)
def test_attempts_that_were_not_called_for_are_a_fault(
    status: TaskStatus, outcomes: list[AttemptOutcome], is_fault: bool
) -> None:
    attempts = tuple(Attempt(n, "w", outcome, None, None, "", n) for n, outcome in enumerate(outcomes, 1))
    assert (fault_of(CASES[0], TaskInfo("t", status, attempts=attempts)) is not None) is is_fault
