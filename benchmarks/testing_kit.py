"""Measures what tests wait for: the start and the end of a cluster in one process, and one run of a handler.

    python benchmarks/testing_kit.py [--rounds 30]

It fails when a cluster takes longer to start than 100 ms, by the median. The first one, which imports what it needs,
stands by itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter

from gowork.testing import Cluster
from gowork.worker import Context, handler

START_MS_MAX = 100.0


@handler
def double(number: int) -> int:
    return 2 * number


@handler(time_limit=3600)
def sweep(ctx: Context, rooms: int) -> int:
    for _ in range(rooms):
        ctx.cancelled.wait(60)
    return rooms


@handler(time_limit=3600)
async def double_later(number: int) -> int:
    return 2 * number


def main() -> int:
    parser = argparse.ArgumentParser(description="Measures what tests wait for.")
    parser.add_argument("--rounds", type=int, default=30, help="how often each is measured [30]")
    rounds = parser.parse_args().rounds
    figures: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        cluster = Cluster(handlers=[double])
        took = {
            "start": timed(cluster.__enter__),
            "task": timed(partial(one_task, cluster)),
            "end": timed(partial(leave, cluster)),
        }
        if number:
            for name, ms in took.items():
                figures.setdefault(f"cluster: {name}", []).append(ms)
        else:
            print(f"first cluster, with its imports: {took['start']:.0f} ms")
    from gowork.worker.testing import run_handler

    for name, function in (("plain, 10 waits", sweep), ("async", double_later)):
        figures[f"run: {name}"] = [timed(partial(run_handler, function, 10)) for _ in range(rounds)]
    for name, found in figures.items():
        print(f"{name:<22} median {median(found):6.1f} ms   slowest {max(found):6.1f} ms")
    return int(median(figures["cluster: start"]) > START_MS_MAX)


def timed(work: Callable[[], object]) -> float:
    began = perf_counter()
    work()
    return (perf_counter() - began) * 1000


def one_task(cluster: Cluster) -> None:
    assert cluster.client.schedule(21, handler=double).result() == 42


def leave(cluster: Cluster) -> None:
    cluster.__exit__(None, None, None)


if __name__ == "__main__":
    sys.exit(main())
