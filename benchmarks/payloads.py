"""Measures how the cost of a task grows with its payload, beside SQLite and gRPC that carry the same bytes."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

import psutil
from callers import call_from_all
from processes import Processes, cluster, cpu_seconds
from producer import produce
from raw import request, sqlite_tasks_per_second
from report import Bench, Measure

from gowork.base.channels import open_channel
from gowork.client import Client
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc

#: {bytes of a payload: tasks of a round}
SIZES = {50: 20_000, 1 << 10: 20_000, 10 << 10: 5_000, 100 << 10: 1_000}
LARGE = 100 << 10
#: Of the byte rate of bare SQLite and bare gRPC, one after the other.
TARGET_SHARE = 0.5
_WARM_UP = 200
_CALLS = 640


def run(bench: Bench) -> list[Measure]:
    shown = bench.progress.add_task("payloads", total=bench.rounds * (len(SIZES) + 1))
    figures: dict[str, list[float]] = defaultdict(list)
    for _ in range(bench.rounds):
        for size, tasks in SIZES.items():
            commits = _measure(bench, size, tasks, figures)
            bench.progress.advance(shown)
            if size == LARGE:
                commit_tasks = max(1, round(tasks / commits))
                figures["raw SQLite"].append(sqlite_tasks_per_second(bench.directory, tasks, commit_tasks, size))
        figures["raw gRPC"].append(_bare_calls(bench))
        bench.progress.advance(shown)
        raw = 1 / (1 / figures["raw SQLite"][-1] + 1 / figures["raw gRPC"][-1])
        figures["share"].append(figures[f"{LARGE} rate"][-1] / raw)
    scenario = "payloads: no-op tasks in batches, plain handler in threads, fsync on, 1 worker with 2 runner processes"
    measures = []
    for size in SIZES:
        measures += [
            Measure(scenario, f"{size:,} bytes", "tasks/s", figures[f"{size} rate"]),
            Measure(scenario, f"{size:,} bytes: CPU of leader", "µs/task", figures[f"{size} leader"]),
            Measure(scenario, f"{size:,} bytes: CPU of all", "µs/task", figures[f"{size} all"]),
        ]
    return [
        *measures,
        Measure(scenario, f"SQLite, {LARGE:,} bytes, as many commits", "tasks/s", figures["raw SQLite"], raw=True),
        Measure(scenario, f"bare grpc.aio, {LARGE:,} bytes, 64 callers", "calls/s", figures["raw gRPC"], raw=True),
        Measure(scenario, f"{LARGE:,} bytes / the two one after the other", "", figures["share"], TARGET_SHARE),
    ]


def _measure(bench: Bench, size: int, tasks: int, figures: dict[str, list[float]]) -> float:
    """Runs tasks with payloads of this size. Returns how many commits they took."""
    payload, me = "x" * size, psutil.Process()
    with cluster(bench.directory) as measured, Client(measured.addresses["scheduler"]) as client:
        produce(client, "bench.thread", _WARM_UP, payload=payload)
        before, commits = {**measured.cpu_seconds(), "client": cpu_seconds(me)}, measured.commits()
        began = time.perf_counter()
        produce(client, "bench.thread", tasks, payload=payload)
        figures[f"{size} rate"].append(tasks / (time.perf_counter() - began))
        after = {**measured.cpu_seconds(), "client": cpu_seconds(me)}
        used = {name: (seconds - before[name]) / tasks * 1e6 for name, seconds in after.items()}
        figures[f"{size} leader"].append(used["leader"])
        figures[f"{size} all"].append(sum(used.values()))
        return measured.commits() - commits


def _bare_calls(bench: Bench) -> float:
    with Processes(bench.directory) as processes:
        return asyncio.run(_call(processes.start("echo", "raw.py")))


async def _call(echo: str) -> float:
    async with open_channel([echo]) as channel:
        stub, message = scheduler_pb2_grpc.SchedulerServiceStub(channel), request(LARGE)

        async def call() -> None:
            await stub.ScheduleTask(message, timeout=30)

        await call_from_all(call, _WARM_UP)
        return _CALLS / await call_from_all(call, _CALLS)
