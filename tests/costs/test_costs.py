"""What 1,000 tasks cost, compared with the committed figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from costs_house import SCENARIOS, Scenario, count
from costs_table import PYTHON, committed, risen


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_tasks_cost_no_more_than_the_committed_figures(scenario: Scenario, tmp_path: Path) -> None:
    figures, costs = committed()[scenario.name], count(scenario, tmp_path).costs
    assert set(costs) >= set(figures), "some costs are no longer counted"
    above = risen(figures, costs)
    hint = "`python tests/costs/count_costs.py --functions 40` shows what is called; if the rise is intended: --write"
    assert not above, "\n".join([f"{scenario.name}:", *above, hint])


def test_a_risen_cost_is_named_with_both_figures() -> None:
    assert risen({"commits": 20}, {"commits": 21}, PYTHON) == [
        "commits: 20 for 1,000 tasks is the committed figure, 21 were counted"
    ]


def test_a_cost_without_a_figure_has_risen() -> None:
    assert risen({}, {"commits": 1}, PYTHON)


def test_calls_and_objects_have_a_small_margin_and_all_else_has_none() -> None:
    figures = {"calls": 1000, "objects: leader": 1000, "SQL statements": 1000}
    within = {"calls": 1010, "objects: leader": 1050, "SQL statements": 1000}
    assert not risen(figures, within, PYTHON)
    assert len(risen(figures, {cost: number + 1 for cost, number in within.items()}, PYTHON)) == 3


def test_calls_and_objects_are_compared_on_the_python_that_they_were_counted_with() -> None:
    assert not risen({"calls": 1}, {"calls": 2}, (3, 14))
    assert risen({"commits": 1}, {"commits": 2}, (3, 14))
