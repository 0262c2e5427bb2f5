"""The worker's slots by what they do, for metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gowork.worker._desk.runner import Runner, RunnerId


def slot_states(
    runners: Sequence[Runner], running: Callable[[RunnerId], int], slots: int, *, withheld: bool
) -> dict[str, int]:
    """All slots by what they do: `busy`, `free`, `withheld`, `blocked` in a runner whose loop does not answer, or
    `starting` in one that is not ready. May be asked from any thread.

    Args:
        runners: those of ordinary tasks.
        running: how many tasks a runner executes.
        slots: the worker's.
        withheld: nothing new is started, whatever is free.
    """
    states = {"busy": 0, "free": 0, "withheld": 0, "blocked": 0}
    for runner in list(runners):
        # What waits for other tasks has lent its slot. The one count may be newer than the other.
        busy = max(0, min(runner.slots, running(runner.id) - runner.waiting + runner.lent))
        states["busy"] += busy
        if runner.is_ready:
            state = "blocked" if runner.is_blocked else "withheld" if withheld else "free"
            states[state] += runner.slots - busy
    return {**states, "starting": max(0, slots - sum(states.values()))}
