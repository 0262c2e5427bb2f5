"""Measures how much memory and processor time a cluster needs that has nothing to do."""

from __future__ import annotations

import time

from processes import cluster
from report import Bench, Measure

#: How long the cluster is measured, in seconds.
SECONDS = 20.0
#: How long the cluster may take to come to rest, in seconds.
_SETTLE = 3.0
TARGET_MB = 90.0
TARGET_CPU_PERCENT = 1.0


def run(bench: Bench) -> list[Measure]:
    shown = bench.progress.add_task("idle", total=SECONDS + _SETTLE)
    with cluster(bench.directory) as measured:
        time.sleep(_SETTLE)
        before, began = measured.cpu_seconds(), time.perf_counter()
        while (passed := time.perf_counter() - began) < SECONDS:
            time.sleep(min(1.0, SECONDS - passed))
            bench.progress.update(shown, completed=_SETTLE + passed)
        after, resident = measured.cpu_seconds(), measured.resident_mb()
        passed = time.perf_counter() - began
    bench.progress.update(shown, completed=SECONDS + _SETTLE)
    scenario = f"idle: a leader and one worker with 2 runner processes, for {SECONDS:.0f} s"
    measures = []
    for name in resident:
        of_leader = name == "leader"
        measures.append(
            Measure(scenario, f"{name}: resident", "MB", [resident[name]], TARGET_MB if of_leader else None, "at most")
        )
        percent = (after[name] - before[name]) / passed * 100
        target = TARGET_CPU_PERCENT if of_leader else None
        measures.append(Measure(scenario, f"{name}: CPU", "% of a core", [percent], target, "at most"))
    return measures
