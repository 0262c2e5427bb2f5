"""Measures gowork beside what the machine can do without it, in the same run.

    python benchmarks/run.py [SCENARIO]... [--json FILE]
    python benchmarks/run.py ha --pending 100000 [--running 10000]
    python benchmarks/run.py --against 0.1.0 [--pairs 5]

docs/benchmarks.md tells what each scenario does and how to read its figures.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

import against
import backlog
import callers
import fleet
import ha
import idle
import kept
import killed_worker
import payloads
import peers
import sequential
import throughput
import watched
from processes import StartError
from report import Bench, is_on_disk, machine, progress_on, show, show_rest, write_json
from rich.console import Console

SCENARIOS = {
    "throughput": throughput.run,
    "callers": callers.run,
    "sequential": sequential.run,
    "idle": idle.run,
    "fleet": fleet.run,
    "backlog": backlog.run,
    "kept": kept.run,
    "killed": killed_worker.run,
    "payloads": payloads.run,
    "watched": watched.run,
    "ha": ha.run,
    "peers": peers.run,
}
#: The scenarios that need what pip does not install here, and so are not among `all`: etcd, other systems and servers.
_NOT_OF_ALL = frozenset({"ha", "peers"})


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures gowork beside what the machine can do without it.")
    parser.add_argument(
        "scenarios",
        nargs="*",
        default=["all"],
        metavar="SCENARIO",
        help=f"{', '.join(SCENARIOS)}, or all except {' and '.join(sorted(_NOT_OF_ALL))}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    parser.add_argument("--against", metavar="VERSION", help="measure the processor time of a task beside that version")
    parser.add_argument("--pairs", type=int, default=5, help="how often --against measures each of the two [5]")
    parser.add_argument("--rounds", type=int, default=3, help="how often each figure is measured [3]")
    parser.add_argument(
        "--tasks", type=int, default=100_000, help="tasks of a round of throughput, and at most of peers [100,000]"
    )
    parser.add_argument(
        "--pending",
        type=int,
        metavar="N",
        help="with ha: kill leaders while N tasks wait; with backlog: let N tasks wait [1,000,000]",
    )
    parser.add_argument(
        "--running", type=int, default=0, metavar="N", help="with ha --pending: and while N tasks run [0]"
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="write on the disk of this directory [that of temporary files]",
    )
    options = parser.parse_args()
    if options.against not in (None, *against.versions()):
        parser.error(f"no wheels of {options.against!r} are kept; there are {', '.join(against.versions())}")
    unknown = [name for name in options.scenarios if name not in SCENARIOS and name != "all"]
    if unknown:
        parser.error(f"no scenario {unknown[0]!r}; there are {', '.join(SCENARIOS)} and all")
    if options.pending is not None and options.scenarios not in (["ha"], ["backlog"]):
        parser.error("--pending is an option of ha and of backlog alone; name one of these and no other scenario")
    if options.running and (options.pending is None or options.scenarios != ["ha"]):
        parser.error("--running is an option of ha --pending alone")
    least = 2 * backlog.STEP
    if options.scenarios == ["backlog"] and options.pending is not None and options.pending % least:
        parser.error(f"--pending of backlog must be a multiple of {least:,}")
    if not is_on_disk(options.directory):
        parser.error(
            f"{options.directory} is kept in memory, where nothing is forced to disk: name another --directory"
        )
    every = "all" in options.scenarios
    chosen = [name for name in SCENARIOS if name in options.scenarios or (every and name not in _NOT_OF_ALL)]
    # A file or a pipe has no width, so it gets one.
    console, errors = Console(width=None if sys.stdout.isatty() else 140), Console(stderr=True)
    facts = machine(options.directory)
    measures = []
    progress = progress_on(errors)
    bench = Bench(options.directory, options.rounds, options.tasks, progress, options.pending, options.running)
    try:
        with progress:
            if options.against:
                measures += against.run(bench, options.against, options.pairs)
            else:
                for name in chosen:
                    measures += SCENARIOS[name](bench)
    except StartError as error:
        errors.print(f"[red]{error}[/]")
        return 1
    except KeyboardInterrupt:
        return 130
    show(console, facts, measures)
    show_rest(console, bench)
    if options.json:
        write_json(options.json, facts, measures, bench.left_out)
    return 1 if options.against and any(measure.met is False for measure in measures) else 0


if __name__ == "__main__":
    # Ends what was started, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
