"""Counts what 1,000 tasks cost, and shows the committed figures beside.

python tests/costs/count_costs.py                  counts all scenarios
python tests/costs/count_costs.py --write          writes what it counted into costs.toml
python tests/costs/count_costs.py --functions 40   also names the functions that each part calls most
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from costs_house import SCENARIOS, count
from costs_table import PYTHON, committed, write


def main() -> int:
    parser = argparse.ArgumentParser(description="Counts what 1,000 tasks cost, and shows the committed figures too.")
    parser.add_argument("--functions", type=int, default=0, help="how many functions of each part to name [0]")
    parser.add_argument("--write", action="store_true", help="replace the committed figures")
    options = parser.parse_args()
    if options.write and sys.version_info[:2] != PYTHON:
        parser.error(f"the figures are those of Python {PYTHON[0]}.{PYTHON[1]}: run --write with that version")
    before, now = committed(), {}
    for scenario in SCENARIOS:
        with tempfile.TemporaryDirectory() as folder:
            counted = count(scenario, Path(folder))
        now[scenario.name] = dict(counted.costs)
        print(scenario.name)
        for cost in sorted(counted.costs):
            figure = before.get(scenario.name, {}).get(cost, 0)
            print(f"  {cost:<26}{figure:>10,} committed{counted.costs[cost]:>10,} counted")
        if options.functions:
            show(counted.work.functions, options.functions)
    if options.write:
        write(now)
    return 0


def show(functions: Mapping[tuple[str, str], int], most: int) -> None:
    """Prints the functions that each part calls most."""
    for part in sorted({part for part, _ in functions}):
        print(f"    {part}")
        calls = sorted(((number, name) for (of, name), number in functions.items() if of == part), reverse=True)
        for number, name in calls[:most]:
            print(f"      {number:>8,} {name}")


if __name__ == "__main__":
    sys.exit(main())
