"""Measures a leader with many workers: what their heartbeats cost, and how long tasks queue while most workers idle.

Beside the leader, a bare grpc.aio server answers as many heartbeats, and does nothing else.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time

import psutil
from processes import Processes, cpu_seconds, leader
from report import Bench, Measure

from gowork.client import AsyncClient

WORKERS = (10, 1_000)
#: How long heartbeats are watched, in seconds; and how long tasks are scheduled, how many of them in a second.
BEATS_SECONDS = 20.0
TASKS_SECONDS = 20.0
TASKS_PER_SECOND = 100
#: The tasks of the first seconds warm up.
_WARM_UP = 200
TARGET_CPU_PERCENT = 10.0
TARGET_P99_MS = 20.0


def run(bench: Bench) -> list[Measure]:
    shown = bench.progress.add_task("fleet", total=len(WORKERS) * (2 * BEATS_SECONDS + TASKS_SECONDS))
    scenario = f"fleet: a leader of many workers, {TASKS_PER_SECOND} tasks/s scheduled one by one, fsync on"
    measures = []
    for workers in WORKERS:
        with Processes(bench.directory) as processes:
            bare = _heartbeats(processes, "bare", processes.start("bare", "raw.py"), workers)
            bench.progress.advance(shown, BEATS_SECONDS)
        with Processes(bench.directory) as processes:
            addresses = leader(processes)
            process = psutil.Process(processes.pid("leader"))
            percent = _heartbeats(processes, "leader", addresses["cluster"], workers)
            bench.progress.advance(shown, BEATS_SECONDS)
            waits = sorted(asyncio.run(_queueing(addresses["scheduler"])))
            bench.progress.advance(shown, TASKS_SECONDS)
            resident = process.memory_info().rss / 1e6
        cpu_most, p99_most = (TARGET_CPU_PERCENT, TARGET_P99_MS) if workers == max(WORKERS) else (None, None)
        p99 = waits[len(waits) * 99 // 100]
        name = f"{workers:,} workers"
        measures += [
            Measure(scenario, f"{name}: CPU, heartbeats alone", "% of a core", [percent], cpu_most, "at most"),
            Measure(scenario, f"{name}: CPU, a bare server that answers them", "% of a core", [bare], raw=True),
            Measure(scenario, f"{name}: CPU / raw CPU, heartbeats alone", "times", [percent / bare]),
            Measure(scenario, f"{name}: submit → grant, p50", "ms", [statistics.median(waits)]),
            Measure(scenario, f"{name}: submit → grant, p99", "ms", [p99], p99_most, "at most"),
            Measure(scenario, f"{name}: resident", "MB", [resident]),
        ]
    return measures


def _heartbeats(processes: Processes, name: str, address: str, workers: int) -> float:
    """Returns what share of a core the process `name` takes, in percent, while workers send it heartbeats."""
    process = psutil.Process(processes.pid(name))
    processes.start("workers", "fleet_sessions.py", address, str(workers))
    before, began = cpu_seconds(process), time.perf_counter()
    time.sleep(BEATS_SECONDS)
    return (cpu_seconds(process) - before) / (time.perf_counter() - began) * 100


async def _queueing(address: str) -> list[float]:
    """Schedules tasks at random moments. Returns how long each took to reach its worker, in milliseconds."""
    waits: list[float] = []
    chance = random.Random(13)

    async def one(client: AsyncClient) -> None:
        began = time.monotonic_ns()
        handle = await client.schedule("x", handler="bench.clock")
        waits.append((await handle.result() - began) / 1e6)

    async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
        ends = time.monotonic() + TASKS_SECONDS
        while time.monotonic() < ends:
            group.create_task(one(client))
            await asyncio.sleep(chance.expovariate(TASKS_PER_SECOND))
    return waits[_WARM_UP:]
