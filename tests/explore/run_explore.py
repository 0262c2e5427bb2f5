"""Explores all interleavings of two leaders and one log: `python run_explore.py --batches 1 --faults 2`.

It prints how many states there are, or a short way to a broken rule.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys

from explore_plants import PLANTS
from explore_search import Found, explore
from explore_world import USUAL, Fault, World

#: How often it says how far it is, in seconds.
_SAY_SECONDS = 30.0
#: How many new objects call for a look for garbage. A search keeps nearly all that it makes.
_COLLECT_OBJECTS = 500_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=1, help="how many batches are committed (default: 1)")
    parser.add_argument("--faults", type=int, default=1, help="how often something may go wrong (default: 1)")
    parser.add_argument(
        "--kinds",
        default=",".join(fault.value for fault in USUAL),
        help=f"what may go wrong, of: {', '.join(fault.value for fault in Fault)} (default: %(default)s)",
    )
    parser.add_argument(
        "--in-order",
        action="store_true",
        help="after the last fault, tell each process what it waits for in one order: far fewer states",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="visit also the states that make no difference: three to six times as many",
    )
    parser.add_argument("--leads", action="store_true", help="begin when one leader leads, not when both start")
    parser.add_argument("--states", type=int, help="visit no more states than about this")
    parser.add_argument("--plants", action="store_true", help="plant each bug, and say how many states find it")
    options = parser.parse_args()
    logging.disable()
    gc.set_threshold(_COLLECT_OBJECTS)
    if options.plants:
        return find_plants()
    try:
        faults = [Fault(kind) for kind in options.kinds.split(",")]
    except ValueError as error:
        parser.error(f"--kinds: {error}")
    world = World(options.batches, faults, options.faults, in_order=options.in_order, reduces=not options.whole)
    return try_world(world, options.states, leads=options.leads)


def try_world(world: World, states_max: int | None, *, leads: bool) -> int:
    """Explores, and prints what it has seen. Returns the exit code."""
    try:
        counts = explore(world, states_max, _SAY_SECONDS, leads=leads)
    except Found as found:
        print(f"{found.violation}\nafter {found.states:,} states, by this way:")
        print("\n".join(f"  {step}" for step in found.trace))
        return 1
    print(counts)
    return 0


def find_plants() -> int:
    """Plants each bug. Returns the exit code: whether one was not found by its rule."""
    missed = 0
    for plant in PLANTS:
        with plant.planted() as world:
            try:
                print(f"{plant.name}: not found in {explore(world, leads=plant.leads)}")
                missed += 1
            except Found as found:
                is_right = found.violation.rule == plant.rule
                missed += not is_right
                print(
                    f"{plant.name}: {found.states:,} states{'' if is_right else ', by another rule'}; {found.violation}"
                )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
