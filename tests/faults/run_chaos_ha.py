"""Runs three leaders that share a log, does faults to them under load, and checks what came of it:
`python run_chaos_ha.py --minutes 5 [--seed 17] [--json FILE]`.

The log is in three members of the `etcd` on PATH, or of another one, or in a PostgreSQL. With `--namespaces` each of
them, and each leader, has a network namespace of its own, so that whole machines can be lost.

The seed decides on the faults and on the tasks. Their order on the machine differs from run to run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

HERE = Path(__file__).parent


def main() -> int:
    sys.path[:0] = [str(HERE), str(HERE.parents[1] / "packages/gowork-leader/tests/log")]
    import ha_namespaces
    from ha_faults import Kind, deck_of
    from ha_plants import PLANTS
    from ha_result import show, write
    from ha_run import run

    parser = argparse.ArgumentParser(description="Does faults to several leaders and their log, and checks.")
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="how long faults are done, if not each was by then [5]"
    )
    parser.add_argument("--seed", type=int, default=None, help="decides on the faults and the tasks [a random one]")
    parser.add_argument("--short", action="store_true", help="do the few faults that the tests do")
    parser.add_argument(
        "--only", nargs="+", choices=list(Kind.__members__), metavar="NAME", help="do these faults alone, 3 of each"
    )
    parser.add_argument(
        "--log", choices=("etcd", "postgresql"), default="etcd", metavar="KIND", help="etcd or postgresql [etcd]"
    )
    parser.add_argument("--etcd", type=Path, default=None, metavar="PATH", help="this etcd [the one on PATH]")
    parser.add_argument(
        "--namespaces", action="store_true", help="give each a network namespace, and lose machines too; needs root"
    )
    parser.add_argument(
        "--plants", nargs="*", choices=PLANTS, metavar="NAME", help="plant these bugs, or all; each must be found"
    )
    parser.add_argument("--json", type=Path, default=None, help="write the figures to this file")
    parser.add_argument("--directory", type=Path, default=None, help="work below this one [that of temporary files]")
    options = parser.parse_args()
    if options.namespaces:
        if why := ha_namespaces.missing():
            parser.error(f"--namespaces can't be had: {why}")
        ha_namespaces.enter()
    if options.etcd is not None:
        os.environ["PATH"] = os.pathsep.join([str(options.etcd.resolve().parent), os.environ["PATH"]])
    seed = random.SystemRandom().randrange(1 << 16) if options.seed is None else options.seed
    if options.plants is not None:
        return _plant_each(options.plants or list(PLANTS), seed, options.directory)
    possible = deck_of(options.log, loses_machines=options.namespaces)
    if impossible := [name for name in options.only or () if Kind[name] not in possible]:
        parser.error(f"{', '.join(impossible)}: that needs another --log, or --namespaces")
    folder = Path(tempfile.mkdtemp(prefix=f"gowork-chaos-ha-{seed}-", dir=options.directory))
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(f"seed {seed}, in {folder}", highlight=False)
    deck = deck_of(options.log, short=options.short, loses_machines=options.namespaces)
    if options.only:
        deck = {Kind[name]: 3 for name in options.only}
    if not options.namespaces:
        console.print("no machine is lost: that needs --namespaces", highlight=False)
    seconds = 0.0 if options.short else options.minutes * 60
    network = ha_namespaces.Namespaces() if options.namespaces else None
    tell = Console(stderr=True, highlight=False).print
    result = asyncio.run(run(folder, seed, deck, seconds, log=options.log, network=network, tell=tell))
    show(console, result)
    if options.json is not None:
        write(options.json, result, seed)
    if result.found:
        console.print(f"{len(result.found)} findings; its folder is kept: {folder}", style="bold red", highlight=False)
        return 1
    shutil.rmtree(folder)
    console.print("nothing is wrong", style="bold green")
    return 0


def _plant_each(names: Sequence[str], seed: int, directory: Path | None) -> int:
    """Runs once with each of these bugs. Returns 1 if one was not found by the rule that it breaks."""
    from ha_plants import PLANTS
    from ha_run import run

    missed = 0
    for name in names:
        plant = PLANTS[name]
        with tempfile.TemporaryDirectory(prefix=f"gowork-chaos-ha-{name}-", dir=directory) as folder:
            result = asyncio.run(run(Path(folder), seed, plant.deck, planted=name))
        fitting = [found for found in result.found if found.startswith(plant.rule)]
        told = f"found {len(fitting)} times" if fitting else f"NOT FOUND, but {result.found[:3]}"
        print(f"{name}: {told}: {plant.rule}", flush=True)
        missed += not fitting
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
