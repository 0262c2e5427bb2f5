"""Measures durable tasks a second: a client submits them in batches, two runners run them, the client sees the ends."""

from __future__ import annotations

import time
from collections import defaultdict

import psutil
from processes import Cluster, cluster, cpu_seconds, main_thread_seconds
from producer import PAYLOAD, SHOW_EVERY, produce
from raw import sqlite_tasks_per_second, syncs_per_second
from report import Bench, Measure

from gowork.client import Client

#: The number of tasks that run before the measurement, so that connections are open and credit has grown.
_WARM_UP = 2_000
TARGET_PER_SECOND = 20_000
#: A part of the leader's time.
_LOOP = "the leader's loop alone"


def run(bench: Bench) -> list[Measure]:
    handlers = {"plain handler in threads": "bench.thread", "async handler": "bench.async"}
    rates: dict[str, list[float]] = defaultdict(list)
    cpu: dict[tuple[str, str], list[float]] = defaultdict(list)
    commits: dict[str, list[float]] = defaultdict(list)
    syncs, rows = [], []
    total = bench.rounds * len(handlers) * bench.tasks
    shown = bench.progress.add_task("throughput", total=total)
    for _ in range(bench.rounds):
        syncs.append(syncs_per_second(bench.directory))
        for variant, handler in handlers.items():
            with cluster(bench.directory) as measured, Client(measured.addresses["scheduler"]) as client:
                produce(client, handler, _WARM_UP)
                cpu_before = _cpu_seconds(measured)
                commits_before = measured.commits()
                began = time.perf_counter()
                produce(client, handler, bench.tasks, lambda: bench.progress.advance(shown, SHOW_EVERY))
                took = time.perf_counter() - began
                commits[variant].append(measured.commits() - commits_before)
                cpu_after = _cpu_seconds(measured)
            rates[variant].append(bench.tasks / took)
            for name, seconds in cpu_after.items():
                cpu[variant, name].append((seconds - cpu_before[name]) / bench.tasks * 1e6)
            if handler == "bench.thread":
                # A task is in two commits: that of its start and that of its end.
                commit_tasks = max(1, round(bench.tasks / commits[variant][-1]))
                rows.append(sqlite_tasks_per_second(bench.directory, bench.tasks, commit_tasks, len(PAYLOAD) + 60))
    scenario = f"throughput: {bench.tasks:,} no-op tasks of 50 bytes, fsync on, 1 worker with 2 runner processes"
    measures = []
    for variant, handler in handlers.items():
        target = TARGET_PER_SECOND if handler == "bench.thread" else None
        measures.append(Measure(scenario, variant, "tasks/s", rates[variant], target))
    measures += [
        Measure(scenario, "fdatasync of 4 KiB", "1/s", syncs, raw=True),
        Measure(scenario, "SQLite, 3 rows a task, as many commits", "tasks/s", rows, raw=True),
    ]
    for variant in handlers:
        measures.append(Measure(scenario, f"{variant}: commits", "commits", commits[variant]))
        for (of, name), micros in cpu.items():
            if of == variant:
                measures.append(Measure(scenario, f"{variant}: CPU of {name}", "µs/task", micros))
        parts = [of for key, of in cpu.items() if key[0] == variant and key[1] != _LOOP]
        total_micros = [sum(each) for each in zip(*parts, strict=True)]
        measures.append(Measure(scenario, f"{variant}: CPU of all", "µs/task", total_micros))
    return measures


def _cpu_seconds(measured: Cluster) -> dict[str, float]:
    """The processor time of each process so far, and of the leader's loop, in seconds."""
    loop = main_thread_seconds(measured.processes["leader"])
    return {**measured.cpu_seconds(), "client": cpu_seconds(psutil.Process()), _LOOP: loop}
