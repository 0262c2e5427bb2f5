"""Measures the time from submit to result, one task at a time, beside the least it needs: two calls and two writes."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import grpc
from processes import Cluster, Processes, cluster
from raw import Disk, request
from report import Bench, Measure

from gowork.base.channels import open_blocking_channel, open_channel
from gowork.client import AsyncClient, Client
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc

SAMPLES = 300
#: How many samples of one kind are taken in a row. Turns are short, so that a disturbance hits both kinds.
BLOCK = 50
_WARM_UP = 50
TARGET_TIMES = 2.0
_PAYLOAD = "x" * 50

#: {"submit", "start", "result" or "raw": milliseconds of each sample}
Samples = dict[str, list[float]]


class Writes(Protocol):
    """What a task has to be written to, without gowork."""

    def sync(self) -> None:
        """Writes once, and returns when that is durable."""
        ...


def run(bench: Bench) -> list[Measure]:
    with Processes(bench.directory) as processes, cluster(bench.directory) as measured, Disk(bench.directory) as disk:
        echo = processes.start("echo", "raw.py")
        shown = bench.progress.add_task("sequential", total=2 * bench.rounds)
        rounds: list[tuple[Samples, Samples]] = []
        for _ in range(bench.rounds):
            awaited = asyncio.run(asynchronous(measured, echo, disk))
            bench.progress.advance(shown)
            rounds.append((awaited, _blocking(measured, echo, disk)))
            bench.progress.advance(shown)
    scenario = f"sequential: submit → result, one at a time, {SAMPLES} samples, fsync on"
    measures = []
    for place, style in enumerate(("asyncio client", "blocking client")):
        samples = [both[place] for both in rounds]

        def each(of: Callable[[Sequence[float]], float], what: str, samples: list[Samples] = samples) -> list[float]:
            return [of(sample[what]) for sample in samples]

        times = [ours / raw for ours, raw in zip(each(p50, "result"), each(p50, "raw"), strict=True)]
        measures += [
            Measure(scenario, f"{style}: p50", "ms", each(p50, "result")),
            Measure(scenario, f"{style}: p99", "ms", each(p99, "result")),
            Measure(scenario, f"{style}: submit → handler starts, p50", "ms", each(p50, "start")),
            Measure(scenario, f"{style}: submit → acknowledged, p50", "ms", each(p50, "submit")),
            Measure(scenario, f"{style}: 2 fdatasync + 2 calls, p50", "ms", each(p50, "raw"), raw=True),
            Measure(scenario, f"{style}: 2 fdatasync + 2 calls, p99", "ms", each(p99, "raw"), raw=True),
            Measure(scenario, f"{style}: p50 / raw p50", "times", times, TARGET_TIMES, "at most"),
        ]
    return measures


async def asynchronous(measured: Cluster, echo: str, disk: Writes) -> Samples:
    """Takes samples with the asyncio client, in turns with raw ones: two calls to `echo` and two writes to `disk`."""
    samples: Samples = defaultdict(list)
    async with open_channel([echo]) as channel, AsyncClient(measured.addresses["scheduler"]) as client:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        for count in _blocks(samples):
            for _ in range(count):
                began = time.monotonic_ns()
                handle = await client.schedule(_PAYLOAD, handler="bench.clock")
                acknowledged = time.monotonic_ns()
                started = await handle.result(int)
                _note(samples, began, acknowledged, started, time.monotonic_ns())
            for _ in range(count):
                began = time.monotonic_ns()
                for _ in range(2):
                    await stub.ScheduleTask(request(), timeout=30)
                    disk.sync()
                samples["raw"].append((time.monotonic_ns() - began) / 1e6)
    return samples


def _blocking(measured: Cluster, echo: str, disk: Disk) -> Samples:
    samples: Samples = defaultdict(list)
    channel: grpc.Channel
    with open_blocking_channel([echo]) as channel, Client(measured.addresses["scheduler"]) as client:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        for count in _blocks(samples):
            for _ in range(count):
                began = time.monotonic_ns()
                handle = client.schedule(_PAYLOAD, handler="bench.clock")
                acknowledged = time.monotonic_ns()
                started = handle.result(int)
                _note(samples, began, acknowledged, started, time.monotonic_ns())
            for _ in range(count):
                began = time.monotonic_ns()
                for _ in range(2):
                    stub.ScheduleTask(request(), timeout=30)
                    disk.sync()
                samples["raw"].append((time.monotonic_ns() - began) / 1e6)
    return samples


def _blocks(samples: Samples) -> Iterator[int]:
    """Yields how many samples to take next; clears the samples of the warm-up."""
    yield _WARM_UP
    samples.clear()
    yield from [BLOCK] * (SAMPLES // BLOCK)


def _note(samples: Samples, began: int, acknowledged: int, started: int, ended: int) -> None:
    samples["submit"].append((acknowledged - began) / 1e6)
    samples["start"].append((started - began) / 1e6)
    samples["result"].append((ended - began) / 1e6)


def p50(values: Sequence[float]) -> float:
    return statistics.median(values)


def p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]
