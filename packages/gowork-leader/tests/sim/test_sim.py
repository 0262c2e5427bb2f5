"""A few seeds with every test run; `nox -s sim -- --seeds N` runs any number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from run_sim import PLANTS, kept_seeds, try_seed

HERE = Path(__file__).parent


@pytest.mark.parametrize("seed", [*kept_seeds(), *range(10)])
def test_no_history_breaks_a_rule(seed: int):
    assert try_seed(seed) == ""


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_bug_is_found(plant: str):
    assert any("Violation" in try_seed(seed, plant) for seed in range(20))


def test_a_seed_has_one_history_whatever_the_hashes():
    histories = [
        subprocess.run(
            [sys.executable, HERE / "run_sim.py", "--seed", "3"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert histories[0] == histories[1]
    assert "calm" in histories[0]
