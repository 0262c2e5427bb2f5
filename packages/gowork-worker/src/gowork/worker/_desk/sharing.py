"""Shares tasks out among runners: first into free slots, then so that equally many wait for each slot."""

from __future__ import annotations

from collections.abc import Sequence

from gowork.worker._desk.runner import Runner
from gowork.worker._desk.tasks import HeldTask


def share_out(tasks: list[HeldTask], runners: Sequence[Runner]) -> list[tuple[Runner, list[HeldTask]]]:
    """Returns which runner gets which tasks, in the order of the tasks.

    Args:
        tasks: what must run.
        runners: at least one.

    Returns:
        (runner, its tasks) for each runner that gets any.
    """
    # In a runner whose slots are all left to isolated tasks they would have to wait.
    runners = [runner for runner in runners if runner.usable_slots > 0] or runners
    if len(runners) == 1:
        return [(runners[0], tasks)] if tasks else []
    loads = [len(runner.tasks) for runner in runners]
    counts = [0] * len(runners)
    rest = len(tasks)
    for index in sorted(range(len(runners)), key=lambda index: loads[index] - runners[index].usable_slots):
        count = min(rest, max(0, runners[index].usable_slots - loads[index]))
        counts[index] += count
        loads[index] += count
        rest -= count
    if rest:
        slots = [max(1, runner.usable_slots) for runner in runners]
        # How many tasks each slot has when all have equally many. Counts are rounded up, so that nothing is left over.
        level = (sum(loads) + rest) / sum(slots)
        for index in sorted(range(len(runners)), key=lambda index: loads[index] / slots[index]):
            count = min(rest, max(0, -int(-(level * slots[index] - loads[index]) // 1)))
            counts[index] += count
            rest -= count
        counts[0] += rest
    parts, start = [], 0
    for runner, count in zip(runners, counts, strict=True):
        if count:
            parts.append((runner, tasks[start : start + count]))
            start += count
    return parts
