"""The committed figures: what 1,000 tasks may cost at most."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

PATH = Path(__file__).with_name("costs.toml")
#: The version of Python that calls and objects were counted with: other versions call and allocate otherwise.
PYTHON = (3, 11)
#: {first word of a cost: the share by which it may exceed its figure}. Other costs must not exceed theirs at all. The
#: calls and objects of runners vary by 3 % with which of two threads that wait takes the second of two tasks.
MARGINS = {"calls": 0.01, "objects": 0.01, "calls:": 0.05, "objects:": 0.05}
_HEAD = """\
# What 1,000 tasks cost; see docs/benchmarks.md. Written by `python tests/costs/count_costs.py --write`.
# A figure that rises is a decision, and the commit says why.
"""


def committed() -> dict[str, dict[str, int]]:
    """The committed figures: {scenario: {cost: figure}}."""
    return tomllib.loads(PATH.read_text())


def write(figures: Mapping[str, Mapping[str, int]]) -> None:
    """Replaces the committed figures."""
    parts = [_HEAD]
    for scenario, costs in figures.items():
        parts += [f'\n["{scenario}"]\n', *(f'"{cost}" = {costs[cost]}\n' for cost in sorted(costs))]
    PATH.write_text("".join(parts))


def risen(
    figures: Mapping[str, int], counted: Mapping[str, int], python: tuple[int, int] = sys.version_info[:2]
) -> list[str]:
    """A sentence for each cost that is above its figure by more than its margin, or has none."""
    sentences = []
    for cost in sorted(counted):
        margin = MARGINS.get(cost.split(" ")[0])
        if margin is not None and python != PYTHON:
            continue
        figure, now = figures.get(cost, 0), counted[cost]
        if now > figure * (1 + (margin or 0)):
            sentences.append(f"{cost}: {figure:,} for 1,000 tasks is the committed figure, {now:,} were counted")
    return sentences
