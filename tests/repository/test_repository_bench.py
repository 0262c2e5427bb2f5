"""The benchmark `against`, which compares this tree with an earlier version."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def against(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module("against")
    for name in ("against", "processes", "report"):
        sys.modules.pop(name, None)


def verdict(against: Any, tree: float) -> bool | None:
    earlier = [{"leader": 50.0, "client": 50.0}] * 3
    (verdict,) = (
        measure.met
        for measure in against.compared("threads", "0.1.0", earlier, [{"leader": tree, "client": 50.0}] * 3)
        if measure.target is not None
    )
    return verdict


def test_the_sum_of_processor_times_may_rise_by_three_in_a_hundred(against: Any) -> None:
    assert verdict(against, 52.9) is True
    assert verdict(against, 53.1) is False


def test_one_slow_pair_is_no_verdict(against: Any) -> None:
    earlier, tree = [{"leader": 50.0}] * 3, [{"leader": 51.0}, {"leader": 90.0}, {"leader": 50.0}]
    assert all(measure.met is not False for measure in against.compared("threads", "0.1.0", earlier, tree))


def test_the_wheels_of_an_earlier_version_are_at_hand(against: Any) -> None:
    assert "0.1.0" in against.versions()
