"""Explores all interleavings of two leaders and one log: `python run_explore.py --batches 1 --faults 2`.

It prints how many states there are, or a short way to a broken rule.
"""

from __future__ import annotations

import argparse
import gc
import logging
import sys

from explore_plants import PLANTS, Plant
from explore_search import Found, explore
from explore_world import USUAL, Fault, World

#: How often it says how far it is, in seconds.
_SAY_SECONDS = 30.0
#: How many new objects call for a look for garbage. A search keeps nearly all that it makes.
_COLLECT_OBJECTS = 500_000
#: How many deviations find each planted bug at the latest.
_DEVIATIONS_MAX = 4


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
    parser.add_argument(
        "--deviations", type=int, help="explore only what deviates so often from one order: see explore_order.py"
    )
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
    reduces = not options.whole and options.deviations is None
    world = World(options.batches, faults, options.faults, in_order=options.in_order, reduces=reduces)
    return try_world(world, options.states, options.deviations, leads=options.leads)


def try_world(world: World, states_max: int | None, deviations_max: int | None, *, leads: bool) -> int:
    """Explores, and prints what it has seen. Returns the exit code."""
    try:
        counts = explore(world, states_max, _SAY_SECONDS, leads=leads, deviations_max=deviations_max)
    except Found as found:
        print(f"{found.violation}\nafter {found.states:,} states, by this way:")
        print("\n".join(f"  {step}" for step in found.trace))
        return 1
    print(counts)
    return 0


def find_plants() -> int:
    """Plants each bug. Returns the exit code: whether one was missed."""
    return sum([_find(plant) + _find(plant, _DEVIATIONS_MAX) for plant in PLANTS]) and 1


def _find(plant: Plant, deviations_max: int | None = None) -> bool:
    """Plants a bug. Returns whether it is missed.

    Args:
        plant: the bug.
        deviations_max: see explore.
    """
    with plant.planted(reduces=deviations_max is None) as world:
        try:
            print(f"{plant.name}: not found in {explore(world, leads=plant.leads, deviations_max=deviations_max)}")
        except Found as found:
            # A bug may break several rules. In order, another one may be seen first.
            is_right = found.violation.rule == plant.rule or deviations_max is not None
            order = "" if deviations_max is None else f" in order, {found.deviations} deviations"
            by = "" if found.violation.rule == plant.rule else ", by another rule"
            print(f"{plant.name}: {found.states:,} states{order}{by}; {found.violation}")
            return not is_right
    return True


if __name__ == "__main__":
    sys.exit(main())
