"""Visits the states that can be reached, the nearest ones first, each once."""

from __future__ import annotations

import random
import secrets
import sys
import time
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple
from unittest import mock

from explore_checks import Violation
from explore_order import OrderedSuccessors
from explore_successors import Successors
from explore_world import World

#: After how many states to look at the clock.
_LOOK_AT = 1_000


class Found(Exception):
    """A violation, and a way to it with the fewest changes of state, or with the fewest deviations.

    Args:
        violation: what does not hold.
        trace: what has happened, in order.
        states: how many states were visited before it was found.
        deviations: how many deviations it takes; see explore_order.
    """

    def __init__(self, violation: Violation, trace: list[str], states: int, deviations: int) -> None:
        super().__init__(f"{violation}; after {states} states; " + "; ".join(trace))
        self.violation, self.trace, self.states, self.deviations = violation, trace, states, deviations


class Counts(NamedTuple):
    """What a search has seen."""

    #: Whether it has visited all states.
    is_whole: bool
    states: int
    #: How many of them take no deviation, how many take one, and so on; see explore_order. Empty without an order.
    deviating: tuple[int, ...]
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


def explore(
    world: World,
    states_max: int | None = None,
    told: float = 0.0,
    *,
    leads: bool = False,
    deviations_max: int | None = None,
) -> Counts:
    """Visits all states, or as many as may be.

    Args:
        world: what is explored.
        leads: whether one machine leads before anything is chosen. Otherwise both start.
        states_max: how many states to visit at most; None: all.
        told: after how many seconds to print how far it is, again and again; 0: never.
        deviations_max: how many deviations from the order a way to a state may take; see explore_order. None: there
            is no order. States with fewer deviations are visited first.

    Raises:
        Found: a rule is broken.
        DifferError: the digest of processes does not say all.
    """
    began, said = time.process_time(), time.monotonic()
    successors = Successors(world) if deviations_max is None else OrderedSuccessors(world)
    with _repeatable(world):
        first = successors.pack(world.first_with_a_leader() if leads else world.first())
        ways = _Ways(first)
        ends: set[int] = set()
        #: {a state that one more deviation leads to: the place of the one before it}
        beyond: dict[int, int] = {}
        deviating: list[int] = []
        layer, depth, changes, visited = [first], 0, 0, 0
        while layer and (states_max is None or len(ways.seen) < states_max):
            following: list[int] = []
            for state in layer:
                try:
                    after = successors.following(state)
                    for each_end in after.ends:
                        world.check_end(each_end)
                except Violation as violation:
                    trace = [*ways.trace(successors, visited), *map(world.words, violation.last)]
                    raise Found(violation, trace, len(ways.seen), len(deviating)) from violation
                changes += len(after.states) + len(after.deviating)
                ends.update(map(successors.pack, after.ends))
                following += ways.new(after.states, visited)
                for each in after.deviating:
                    if each not in ways.seen:
                        beyond.setdefault(each, visited)
                visited += 1
                if told and not visited % _LOOK_AT and time.monotonic() - said > told:
                    said = time.monotonic()
                    print(f"  depth {depth}: {len(ways.seen):,} states, {len(world.locals):,} of a leader", flush=True)
            if not following and deviations_max is not None:
                deviating.append(len(ways.seen) - sum(deviating))
                if told:
                    spent = time.process_time() - began
                    print(f"  {len(deviating) - 1} deviations: {len(ways.seen):,} states, {spent:.0f} s", flush=True)
                if len(deviating) <= deviations_max:
                    following = [each for state, before in beyond.items() for each in ways.new([state], before)]
                    beyond.clear()
            layer, depth = following, depth + 1
        found = world.locals
        return Counts(
            not layer and all(each in ways.seen for each in beyond),
            len(ways.seen),
            tuple(deviating),
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


class _Ways:
    """The states that were found, and a way to each."""

    def __init__(self, first: int) -> None:
        #: {state: None}, in the order in which they were found.
        self.seen: dict[int, None] = {first: None}
        #: For each of them, the place of the one before it.
        self._before = array("Q", [0])

    def new(self, states: Iterable[int], before: int) -> list[int]:
        """Returns those that were not found yet. They are found now, from the state at this place."""
        new = []
        for state in states:
            if state not in self.seen:
                self.seen[state] = None
                self._before.append(before)
                new.append(state)
        return new

    def trace(self, successors: Successors, number: int) -> list[str]:
        """Returns what leads to the state at a place."""
        numbers = [number]
        while numbers[-1]:
            numbers.append(self._before[numbers[-1]])
        wanted = set(numbers)
        states = {place: state for place, state in enumerate(islice(self.seen, max(wanted) + 1)) if place in wanted}
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
