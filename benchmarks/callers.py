"""Measures 64 callers at once, each of which schedules one task after the other, beside calls that do nothing."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable

import psutil
from processes import Cluster, Processes, cluster, cpu_seconds
from raw import request
from report import Bench, Measure

from gowork.base.channels import open_channel
from gowork.client import AsyncClient
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc

CALLERS = 64
CALLS = 6_400
_WARM_UP = 640
TARGET_SHARE = 0.9
_PAYLOAD = "x" * 50


def run(bench: Bench) -> list[Measure]:
    with Processes(bench.directory) as processes, cluster(bench.directory) as measured:
        echo = processes.start("echo", "raw.py")
        return asyncio.run(_measure(bench, measured, echo, psutil.Process(processes.pid("echo"))))


async def _measure(bench: Bench, measured: Cluster, echo: str, echo_process: psutil.Process) -> list[Measure]:
    shown = bench.progress.add_task("64 callers", total=2 * bench.rounds)
    figures: dict[str, list[float]] = defaultdict(list)
    me = psutil.Process()
    async with open_channel([echo]) as channel, AsyncClient(measured.addresses["scheduler"]) as client:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        message = request()

        async def bare() -> None:
            await stub.ScheduleTask(message, timeout=30)

        ids: list[str] = []

        async def schedule() -> None:
            ids.append((await client.schedule(_PAYLOAD, handler="bench.thread")).id)

        await call_from_all(bare, _WARM_UP)
        await call_from_all(schedule, _WARM_UP)
        await client.wait(ids)
        for _ in range(bench.rounds):
            client_before, server_before = cpu_seconds(me), cpu_seconds(echo_process)
            took = await call_from_all(bare, CALLS)
            figures["raw"].append(CALLS / took)
            figures["raw CPU of client"].append((cpu_seconds(me) - client_before) / CALLS * 1e6)
            figures["raw CPU of server"].append((cpu_seconds(echo_process) - server_before) / CALLS * 1e6)
            bench.progress.advance(shown)
            ids.clear()
            before, commits = {**measured.cpu_seconds(), "client": cpu_seconds(me)}, measured.commits()
            began = time.perf_counter()
            took = await call_from_all(schedule, CALLS)
            after = {**measured.cpu_seconds(), "client": cpu_seconds(me)}
            await client.wait(ids)
            figures["all done"].append(CALLS / (time.perf_counter() - began))
            figures["acknowledged"].append(CALLS / took)
            figures["commits"].append(measured.commits() - commits)
            figures["share"].append(figures["acknowledged"][-1] / figures["raw"][-1])
            for name, seconds in after.items():
                figures[f"CPU of {name}"].append((seconds - before[name]) / CALLS * 1e6)
            bench.progress.advance(shown)
    scenario = f"callers: tasks scheduled one by one, {CALLERS} callers on asyncio, fsync on, a worker running them"
    return [
        Measure(scenario, "acknowledged", "tasks/s", figures["acknowledged"]),
        Measure(scenario, "all of them completed", "tasks/s", figures["all done"]),
        Measure(scenario, "bare grpc.aio, the same messages", "calls/s", figures["raw"], raw=True),
        Measure(scenario, "acknowledged / bare", "", figures["share"], TARGET_SHARE),
        Measure(scenario, "commits", "commits", figures["commits"]),
        *(Measure(scenario, name, "µs/task", figures[name]) for name in figures if name.startswith("CPU of ")),
        Measure(scenario, "CPU of client", "µs/call", figures["raw CPU of client"], raw=True),
        Measure(scenario, "CPU of server", "µs/call", figures["raw CPU of server"], raw=True),
    ]


async def call_from_all(call: Callable[[], Awaitable[None]], calls: int) -> float:
    """Makes `calls` calls from 64 callers, and returns how many seconds that took."""

    async def caller() -> None:
        for _ in range(calls // CALLERS):
            await call()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
    return time.perf_counter() - began
