"""The worker's slots by what they do, for metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gowork.worker._desk.runner import Runner, RunnerId


def slot_states(
    runners: Sequence[Runner], running: Callable[[RunnerId], int], slots: int, *, withheld: bool
) -> dict[str, int]:
    """Counts all slots by what they do. Any thread may call this.

    Args:
        runners: the runners of ordinary tasks.
        running: returns how many tasks a runner executes.
        slots: how many slots the worker has.
        withheld: whether nothing new is started, even in free slots.

    Returns:
        {state: slots}, where the state is `busy`, `free`, `withheld`, `blocked` (in a runner whose loop does not
        answer) or `starting` (in a runner that is not ready).
    """
    states = {"busy": 0, "free": 0, "withheld": 0, "blocked": 0}
    for runner in list(runners):
        # A task that waits for others has lent its slot. The counts may be of different moments, hence the bounds.
        busy = max(0, min(runner.slots, running(runner.id) - runner.waiting + runner.lent))
        states["busy"] += busy
        if runner.is_ready:
            state = "blocked" if runner.is_blocked else "withheld" if withheld else "free"
            states[state] += runner.slots - busy
    return {**states, "starting": max(0, slots - sum(states.values()))}
