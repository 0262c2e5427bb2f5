"""Visits all states that can be reached, the nearest ones first, each once."""

from __future__ import annotations

import random
import secrets
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple
from unittest import mock

from explore_checks import Violation
from explore_successors import Successors
from explore_world import World

#: After how many states to look at the clock.
_LOOK_AT = 1_000


class Found(Exception):
    """A violation, and a way to it with the fewest changes of state.

    Args:
        violation: what does not hold.
        trace: what has happened, in order.
        states: how many states were visited before it was found.
    """

    def __init__(self, violation: Violation, trace: list[str], states: int) -> None:
        super().__init__(f"{violation}; after {states} states; " + "; ".join(trace))
        self.violation, self.trace, self.states = violation, trace, states


class Counts(NamedTuple):
    """What a search has seen."""

    #: Whether it has visited all states.
    is_whole: bool
    states: int
    #: How many things happened from one state to another.
    changes: int
    #: How many changes the farthest state is away.
    depth: int
    #: How many states had nothing left that must happen.
    ends: int
    #: How many states etcd and a process had.
    etcds: int
    locals: int
    #: How many steps processes have taken, how many of them again to get there, and how many were compared.
    steps: int
    repeated: int
    compared: int
    #: Seconds of processor time.
    seconds: float

    def __str__(self) -> str:
        return (
            f"{'all' if self.is_whole else 'not all'} of {self.states:,} states, {self.changes:,} changes, "
            f"depth {self.depth}, {self.ends:,} ends; {self.etcds:,} states of etcd, {self.locals:,} of a leader, "
            f"{self.steps:,} steps of leaders ({self.repeated:,} repeated, {self.compared:,} compared); "
            f"{self.seconds:.0f} s of processor time"
        )


def explore(world: World, states_max: int | None = None, told: float = 0.0, *, leads: bool = False) -> Counts:
    """Visits all states, or as many as may be.

    Args:
        world: what is explored.
        leads: whether one machine leads before anything is chosen. Otherwise both start.
        states_max: how many states to visit at most; None: all.
        told: after how many seconds to print how far it is, again and again; 0: never.

    Raises:
        Found: a rule is broken.
        DifferError: the digest of processes does not say all.
    """
    began, said = time.process_time(), time.monotonic()
    successors = Successors(world)
    with _repeatable(world):
        first = successors.pack(world.first_with_a_leader() if leads else world.first())
        #: {state: None}, in the order in which they were found.
        seen = {first: None}
        #: For each of them, the place of the one before it.
        before = array("Q", [0])
        ends: set[int] = set()
        layer, depth, changes, visited = [first], 0, 0, 0
        while layer and (states_max is None or len(seen) < states_max):
            following: list[int] = []
            for state in layer:
                try:
                    after, at_end = successors.following(state)
                    for each_end in at_end:
                        world.check_end(each_end)
                except Violation as violation:
                    trace = _trace(successors, seen, before, visited)
                    raise Found(violation, [*trace, *map(world.words, violation.last)], len(seen)) from violation
                changes += len(after)
                ends.update(map(successors.pack, at_end))
                for each in after:
                    if each not in seen:
                        seen[each] = None
                        before.append(visited)
                        following.append(each)
                visited += 1
                if told and not visited % _LOOK_AT and time.monotonic() - said > told:
                    said = time.monotonic()
                    print(f"  depth {depth}: {len(seen):,} states, {len(world.locals):,} of a leader", flush=True)
            layer, depth = following, depth + 1
        found = world.locals
        return Counts(
            not layer,
            len(seen),
            changes,
            depth - 1,
            len(ends),
            len(world.etcds),
            len(found),
            found.steps,
            found.repeated,
            found.compared,
            time.process_time() - began,
        )


def _trace(successors: Successors, seen: dict[int, None], before: array[int], number: int) -> list[str]:
    """Returns what leads to a state."""
    numbers = [number]
    while numbers[-1]:
        numbers.append(before[numbers[-1]])
    wanted = set(numbers)
    states = {place: state for place, state in enumerate(islice(seen, max(wanted) + 1)) if place in wanted}
    ways = zip(reversed(numbers), list(reversed(numbers))[1:], strict=False)
    return [word for one, other in ways for word in successors.words(states[one], states[other])]


@contextmanager
def _repeatable(world: World) -> Iterator[None]:
    """Within, a process that is told the same does the same."""

    def nonce(size: int) -> bytes:
        assert world.locals.running is not None
        return world.locals.running.nonce(size)

    hook = sys.unraisablehook
    # What a discarded process leaves behind says so when it is collected.
    sys.unraisablehook = lambda _: None
    try:
        with (
            mock.patch.object(secrets, "token_bytes", nonce),
            mock.patch.object(random, "uniform", lambda least, most: least),
        ):
            yield
    finally:
        sys.unraisablehook = hook
        world.locals.close()
