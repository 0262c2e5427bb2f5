"""Runs the simulator: `python run_sim.py --seeds 200`, or one seed with its history: `python run_sim.py --seed 17`."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import multiprocessing
import sys
import time
from collections import Counter
from pathlib import Path

from sim_plants import Plants
from sim_several import SeveralWorld
from sim_violation import Violation
from sim_world import World, run_seed

#: The file of seeds that have found a bug; every run includes them.
SEEDS_KEPT = Path(__file__).with_name("seeds_kept.txt")
#: From this seed on, worlds have several leaders.
SEVERAL = 1_000_000
PLANTS = [field.name for field in dataclasses.fields(Plants)]


def kept_seeds() -> list[int]:
    """The seeds of SEEDS_KEPT; what follows a # is a comment."""
    lines = SEEDS_KEPT.read_text().splitlines()
    return [int(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]


def world_of(seed: int, plants: Plants, *, reads_completions: bool = True) -> World:
    """Returns the world of a seed. Its leaders say that they read reports by columns, or that they do not."""
    kind = SeveralWorld if seed >= SEVERAL else World
    return kind(seed, plants, reads_completions=reads_completions)


def try_seed(seed: int, plant: str = "") -> tuple[str, Counter[str]]:
    """Runs a seed, and returns what went wrong ("" when nothing did), and {what occurred: how often}."""
    plants = Plants(**{plant: True}) if plant else Plants()
    world = world_of(seed, plants)
    try:
        with plants.planted():
            run_seed(world)
    except Violation as violation:
        return f"seed {seed}: {violation}", world.trace.seen
    except Exception as error:  # noqa: BLE001 - any exception is a finding of the seed
        return f"seed {seed}: {type(error).__name__}: {error}", world.trace.seen
    return "", world.trace.seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seeds",
        type=int,
        default=200,
        help="how many seeds to run of one leader, and how many of several, besides those in seeds_kept.txt",
    )
    parser.add_argument("--first", type=int, default=0, help="the first of these seeds; of several leaders, 1000000 on")
    parser.add_argument("--seed", type=int, help="run this seed alone and print its history")
    parser.add_argument("--plant", choices=PLANTS, default="", help="plant this bug, to see whether it is found")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="how many processes to use")
    options = parser.parse_args()
    if options.seed is not None:
        return replay(options.seed, options.plant)
    firsts = (options.first, SEVERAL + options.first)
    seeds = [*kept_seeds(), *(seed for first in firsts for seed in range(first, first + options.seeds))]
    started = time.monotonic()
    seen: Counter[str] = Counter()
    failed = 0
    with multiprocessing.get_context("spawn").Pool(options.jobs, initializer=logging.disable) as pool:
        # In order, so that a long run prints what it finds as it goes.
        for words, of_seed in pool.imap(_try_one, [(seed, options.plant) for seed in seeds], chunksize=5):
            seen += of_seed
            if words:
                failed += 1
                print(words, flush=True)
    print_exercised(seen)
    print(f"{len(seeds)} seeds, {failed} failed, {time.monotonic() - started:.0f} s")
    if failed:
        print("--seed N prints the history of seed N; add the seed to seeds_kept.txt when its bug is mended")
    return 1 if failed else 0


def _try_one(work: tuple[int, str]) -> tuple[str, Counter[str]]:
    return try_seed(*work)


def print_exercised(seen: Counter[str]) -> None:
    """Prints how often each thing has occurred."""
    for kind in sorted(seen):
        print(f"{seen[kind]:>9}  {kind}")


def replay(seed: int, plant: str) -> int:
    """Prints the history of one seed, what occurred in it, and what ended it."""
    logging.disable()
    plants = Plants(**{plant: True}) if plant else Plants()
    world = world_of(seed, plants)
    words = ""
    try:
        with plants.planted():
            run_seed(world)
    except Exception as error:  # noqa: BLE001 - any exception is a finding of the seed
        words = str(error) if isinstance(error, Violation) else f"{type(error).__name__}: {error}"
    print("\n".join(world.trace.lines()))
    print_exercised(world.trace.seen)
    print(words or "nothing was violated")
    return 1 if words else 0


if __name__ == "__main__":
    sys.exit(main())
