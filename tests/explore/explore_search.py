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

import msgspec
from explore_checks import Violation
from explore_draft import Draft, State
from explore_world import World

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(State).decode


class Found(Exception):
    """A violation, and the shortest way to it.

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
    with _repeatable(world):
        first = world.first_with_a_leader() if leads else world.first()
        #: {state: None}, in the order in which they were found.
        seen = {_pack(first): None}
        before = array("Q", [0])
        layer, depth, changes, ends, visited = [first], 0, 0, 0, 0
        while layer and (states_max is None or len(seen) < states_max):
            following: list[State] = []
            for state in layer:
                try:
                    if world.is_over(state):
                        ends += 1
                        world.check_end(state)
                except Violation as violation:
                    raise Found(violation, _trace(world, seen, before, visited), len(seen)) from violation
                for choice, happen in world.following(state):
                    changes += 1
                    draft = Draft(world, state)
                    try:
                        happen(draft)
                    except Violation as violation:
                        trace = [*_trace(world, seen, before, visited), world.words(choice)]
                        raise Found(violation, trace, len(seen)) from violation
                    after = draft.state()
                    packed = _pack(after)
                    if packed not in seen:
                        seen[packed] = None
                        before.append(visited)
                        following.append(after)
                visited += 1
                if told and time.monotonic() - said > told:
                    said = time.monotonic()
                    print(f"  depth {depth}: {len(seen):,} states, {len(world.locals):,} of a leader", flush=True)
            layer, depth = following, depth + 1
        found = world.locals
        return Counts(
            not layer,
            len(seen),
            changes,
            depth - 1,
            ends,
            len(world.etcds),
            len(found),
            found.steps,
            found.repeated,
            found.compared,
            time.process_time() - began,
        )


def _trace(world: World, seen: dict[bytes, None], before: array[int], number: int) -> list[str]:
    """Returns what leads to a state."""
    numbers = [number]
    while numbers[-1]:
        numbers.append(before[numbers[-1]])
    wanted = set(numbers)
    states = {place: _unpack(packed) for place, packed in enumerate(islice(seen, max(wanted) + 1)) if place in wanted}
    trace = []
    for one, other in zip(reversed(numbers), list(reversed(numbers))[1:], strict=False):
        for choice, happen in world.following(states[one]):
            draft = Draft(world, states[one])
            try:
                happen(draft)
            except Violation:
                continue
            if draft.state() == states[other]:
                trace.append(world.words(choice))
                break
    return trace


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
