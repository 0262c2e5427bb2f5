"""Measures what a million kept tasks cost: those that have finished, and that lists and results still show."""

from __future__ import annotations

import time
from itertools import islice

import psutil
from processes import cluster, cpu_seconds
from producer import SHOW_EVERY, produce
from report import Bench, Measure

from gowork.client import Client

#: The number of finished tasks that are kept.
KEPT = 1_000_000
#: The number of tasks that are measured, before those and after them.
TASKS = 50_000
_WARM_UP = 2_000
PAGE_TASKS = 100
PAGES = 50
TARGET_RATIO = 1.1
TARGET_PAGE_MS = 50.0


def run(bench: Bench) -> list[Measure]:
    shown = bench.progress.add_task("kept", total=KEPT + 2 * TASKS)
    with cluster(bench.directory) as measured, Client(measured.addresses["scheduler"], timeout=60) as client:

        def micros() -> float:
            """The processor time that a task takes in all processes, in µs."""
            me = psutil.Process()
            before = sum(measured.cpu_seconds().values()) + cpu_seconds(me)
            produce(client, "bench.thread", TASKS, lambda: bench.progress.advance(shown, SHOW_EVERY))
            return (sum(measured.cpu_seconds().values()) + cpu_seconds(me) - before) / TASKS * 1e6

        produce(client, "bench.thread", _WARM_UP)
        empty = micros()
        produce(client, "bench.thread", KEPT - TASKS, lambda: bench.progress.advance(shown, SHOW_EVERY))
        kept = micros()
        pages = [_page_ms(client) for _ in range(PAGES)]
        resident = measured.resident_mb()["leader"]
    scenario = f"kept: {KEPT:,} tasks have finished and are kept"
    return [
        Measure(scenario, "CPU of all without them", "µs/task", [empty]),
        Measure(scenario, "CPU of all with them, of that", "", [kept / empty], TARGET_RATIO, "at most"),
        Measure(scenario, f"the first page of {PAGE_TASKS} tasks", "ms", pages, TARGET_PAGE_MS, "at most"),
        Measure(scenario, "leader: resident", "MB", [resident]),
    ]


def _page_ms(client: Client) -> float:
    began = time.perf_counter()
    assert len(list(islice(client.tasks(page_size=PAGE_TASKS), PAGE_TASKS))) == PAGE_TASKS
    return (time.perf_counter() - began) * 1e3
