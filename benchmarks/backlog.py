"""Measures a large backlog: how fast the leader takes it, how much memory it needs, and how soon it serves again.

A million tasks wait for a handler that no worker has, while tasks of another lane run beside them.
"""

from __future__ import annotations

import time

from processes import Cluster, Processes
from report import Bench, Measure
from rich.progress import TaskID

from gowork.client import Client

PAYLOAD = "x" * 50
TASKS = 1_000_000
#: The number of tasks that run beside the backlog.
RUNNING = 20_000
#: The number of tasks that wait in a paused queue, most of them in the store alone, until it is resumed.
PAUSED = 100_000
TARGET_MB = 300.0
_SHOW_EVERY = 10_000


def run(bench: Bench) -> list[Measure]:
    shown = bench.progress.add_task("backlog", total=TASKS + 2 * RUNNING + PAUSED)
    with Processes(bench.directory) as processes:
        measured = Cluster(processes)
        with Client(measured.addresses["scheduler"], timeout=60) as client:
            before = measured.resident_mb()["leader"]
            began = time.perf_counter()
            for place, _ in enumerate(client.schedule_many((PAYLOAD for _ in range(TASKS)), handler="nobody"), 1):
                if place % _SHOW_EVERY == 0:
                    bench.progress.advance(shown, _SHOW_EVERY)
            taken = TASKS / (time.perf_counter() - began)
            resident = measured.resident_mb()["leader"]
            beside = _run(bench, shown, client, "bench.thread")
        processes.stop("leader")
        began = time.perf_counter()
        measured.start_leader()
        restart = time.perf_counter() - began
        with Client(measured.addresses["scheduler"], timeout=60) as client:
            after = _run(bench, shown, client, "bench.thread")
            again = measured.resident_mb()["leader"]
            paged = _resume(bench, shown, client)
    scenario = f"backlog: {TASKS:,} tasks wait for a handler that nobody has"
    return [
        Measure(scenario, "submitted in batches", "tasks/s", [taken]),
        Measure(scenario, "leader: resident before", "MB", [before]),
        Measure(scenario, "leader: resident with the backlog", "MB", [resident], TARGET_MB, "at most"),
        Measure(scenario, "leader: resident with the backlog, after a restart", "MB", [again], TARGET_MB, "at most"),
        Measure(scenario, f"{RUNNING:,} tasks beside it", "tasks/s", [beside]),
        Measure(scenario, f"{RUNNING:,} tasks beside it, after the restart", "tasks/s", [after]),
        Measure(scenario, f"{PAUSED:,} tasks of a queue that was paused, when it is resumed", "tasks/s", [paged]),
        Measure(scenario, "from the start of a leader until it serves", "s", [restart]),
    ]


def _run(bench: Bench, shown: TaskID, client: Client, handler: str) -> float:
    """Schedules tasks that can run, waits until all complete, and returns how many did so a second."""
    began = time.perf_counter()
    done = sum(1 for _ in client.as_completed(client.schedule_many((PAYLOAD for _ in range(RUNNING)), handler=handler)))
    bench.progress.advance(shown, done)
    return done / (time.perf_counter() - began)


def _resume(bench: Bench, shown: TaskID, client: Client) -> float:
    """Resumes a paused queue, and returns how many of its tasks come out of the store and complete a second."""
    client.pause_queue("paused")
    tasks = list(client.schedule_many((PAYLOAD for _ in range(PAUSED)), handler="bench.thread", queue="paused"))
    began = time.perf_counter()
    client.resume_queue("paused")
    for place, _ in enumerate(client.as_completed(tasks), 1):
        if place % _SHOW_EVERY == 0:
            bench.progress.advance(shown, _SHOW_EVERY)
    return PAUSED / (time.perf_counter() - began)
