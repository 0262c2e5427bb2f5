"""Measures a large backlog: how fast the leader takes it, how much memory it needs, and how soon it serves again.

A million tasks, or as many as `--pending` says, wait for a handler that no worker has, while tasks of another lane run
beside them.
"""

from __future__ import annotations

import time

from processes import Cluster, Processes
from report import Bench, Measure
from rich.progress import TaskID

from gowork.client import Client

PAYLOAD = "x" * 50
TASKS = 1_000_000
#: The number of tasks at the beginning of the backlog, and at its end, whose rates are compared.
ENDS = 100_000
#: The number of tasks that run beside the backlog.
RUNNING = 20_000
#: The number of tasks that wait in a paused queue, most of them in the store alone, until it is resumed.
PAUSED = 100_000
#: {tasks that wait: the most that the leader may take, in MB}
TARGETS_MB = {1_000_000: 300.0, 10_000_000: 500.0}
#: How much of the rates without a backlog there must be with one.
TARGET_RATIO = 0.8
TARGET_FIRST_SECONDS = 3.0
#: How many tasks are between two looks at the clock.
STEP = 10_000


def run(bench: Bench) -> list[Measure]:
    tasks = bench.pending or TASKS
    shown = bench.progress.add_task("backlog", total=tasks + 3 * RUNNING + PAUSED)
    with Processes(bench.directory) as processes:
        measured = Cluster(processes)
        with Client(measured.addresses["scheduler"], timeout=60) as client:
            _run(bench, shown, client, "bench.thread")
            before = measured.resident_mb()["leader"]
            alone = _run(bench, shown, client, "bench.thread")
            #: When how many tasks had been taken.
            taken = {0: time.perf_counter()}
            for place, _ in enumerate(client.schedule_many((PAYLOAD for _ in range(tasks)), handler="nobody"), 1):
                if place % STEP == 0:
                    bench.progress.advance(shown, STEP)
                    taken[place] = time.perf_counter()
            resident = measured.resident_mb()["leader"]
            beside = _run(bench, shown, client, "bench.thread")
        processes.stop("leader")
        began = time.perf_counter()
        measured.start_leader()
        restart = time.perf_counter() - began
        with Client(measured.addresses["scheduler"], timeout=60) as client:
            client.schedule(PAYLOAD, handler="bench.thread").result()
            first = time.perf_counter() - began
            after = _run(bench, shown, client, "bench.thread")
            again = measured.resident_mb()["leader"]
            paged = _resume(bench, shown, client)
    ends = min(ENDS, tasks // 2)
    at_first = ends / (taken[ends] - taken[0])
    at_last = ends / (taken[tasks] - taken[tasks - ends])
    most_mb = next((most for number, most in TARGETS_MB.items() if tasks <= number), None)
    scenario = f"backlog: {tasks:,} tasks wait for a handler that nobody has"
    ratio = "of the rate without it"
    return [
        Measure(scenario, "submitted in batches", "tasks/s", [tasks / (taken[tasks] - taken[0])]),
        Measure(
            scenario, f"the last {ends:,} of them, of the rate of the first", "", [at_last / at_first], TARGET_RATIO
        ),
        Measure(scenario, "leader: resident before", "MB", [before]),
        Measure(scenario, "leader: resident with the backlog", "MB", [resident], most_mb, "at most"),
        Measure(scenario, "leader: resident with the backlog, after a restart", "MB", [again], most_mb, "at most"),
        Measure(scenario, f"{RUNNING:,} tasks without it", "tasks/s", [alone]),
        Measure(scenario, f"{RUNNING:,} tasks beside it, {ratio}", "", [beside / alone], TARGET_RATIO),
        Measure(scenario, f"{RUNNING:,} tasks after the restart, {ratio}", "", [after / alone], TARGET_RATIO),
        Measure(scenario, f"{PAUSED:,} tasks of a queue that was paused, when it is resumed", "tasks/s", [paged]),
        Measure(scenario, "from the start of a leader until it serves", "s", [restart]),
        Measure(
            scenario,
            "from the start of a leader to the first result",
            "s",
            [first],
            TARGET_FIRST_SECONDS,
            "at most",
        ),
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
        if place % STEP == 0:
            bench.progress.advance(shown, STEP)
    return PAUSED / (time.perf_counter() - began)
