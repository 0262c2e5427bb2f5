"""Runs rounds of all cases, one after the other, for some minutes or until a fault is found; `nox -s soak` runs it."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to start rounds; the last one is finished")
    parser.add_argument("--tasks", type=int, default=200, help="tasks of each kind of handler and option in a round")
    given = parser.parse_args()
    sys.path[:0] = [str(HERE), str(HERE.parent / "e2e"), str(HERE.parents[1] / "packages/gowork-leader/tests/log")]
    from soak_cluster import ends_of_runners, run_round, soaked

    ends_at = time.monotonic() + given.minutes * 60
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ran, rounds, faults = 0, 0, list[str]()
        with soaked(folder) as client:
            while not faults and (not rounds or time.monotonic() < ends_at):
                rounds += 1
                number, faults = run_round(client, f"round-{rounds}", given.tasks)
                ran += number
                print(f"round {rounds}: {number:,} tasks, {len(faults)} at fault", flush=True)
                client.purge(filter=f'id = "round-{rounds}/*"')
        faults += ends_of_runners(folder)
    for fault in faults[:50]:
        print(fault)
    print(f"{ran:,} tasks in {rounds} rounds, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
