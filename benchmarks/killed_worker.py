"""Kills a worker with SIGKILL while it runs four of twenty tasks of 5 s, and starts a fresh one at once."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import Processes, leader
from report import Bench, Measure

from gowork.client import Client, TaskStatus

TASKS = 20
TASK_SECONDS = 5.0
#: The number of tasks that run when the worker dies.
SLOTS = 4
#: How long to wait for all tasks, in seconds.
_WATCHED = 120.0
_SCENARIO = f"killed worker: {TASKS} tasks of {TASK_SECONDS:g} s, {SLOTS} running when it dies, a fresh worker at once"
#: {variant: the fresh worker's name}. A worker that is started again under its name on its machine proves that its
#: predecessor's runners have ended, and gets their tasks before all others. For a worker of another name the leader
#: waits for the reconnect grace of 1 s, in which tasks that wait fill the new worker's slots.
_FRESH = {"same name": "first", "another name": "fresh"}
#: The target for the same name: the time that a worker takes to start on a busy machine.
TARGET_SECONDS = 2.0


@dataclass
class _Round:
    #: The seconds from the kill until each interrupted task's handler began again.
    again: list[float]
    #: The seconds from the kill until the last of these tasks, and the last of all, had completed.
    interrupted_done: float
    all_done: float
    lost: int
    twice: int


def run(bench: Bench) -> list[Measure]:
    shown = bench.progress.add_task("killed worker", total=bench.rounds * len(_FRESH))
    measures = []
    for words, name in _FRESH.items():
        rounds = []
        for _ in range(bench.rounds):
            rounds.append(_round(bench.directory, name))
            bench.progress.advance(shown)
        measures += _measures(words, rounds, TARGET_SECONDS if name == "first" else None)
    return measures


def _measures(words: str, rounds: list[_Round], again: float | None) -> list[Measure]:
    def measure(name: str, unit: str, values: list[float], target: float | None = None) -> Measure:
        return Measure(_SCENARIO, f"{words}: {name}", unit, values, target, "at most")

    return [
        measure("kill → first interrupted task runs again", "s", [min(each.again) for each in rounds]),
        measure("kill → last interrupted task runs again", "s", [max(each.again) for each in rounds], again),
        measure("kill → all interrupted tasks complete", "s", [each.interrupted_done for each in rounds]),
        measure("kill → all tasks complete", "s", [each.all_done for each in rounds]),
        measure("tasks lost", "tasks", [each.lost for each in rounds], 0.0),
        measure("tasks that ran to their end twice", "tasks", [each.twice for each in rounds], 0.0),
    ]


def _round(directory: Path, fresh: str) -> _Round:
    with Processes(directory) as processes:
        addresses = leader(processes)
        record = processes.folder / "record"
        record.touch()
        _start_worker(processes, "first", addresses["cluster"])
        with Client(addresses["scheduler"]) as client:
            payload = {"record": str(record), "seconds": TASK_SECONDS}
            handles = list(client.schedule_many([payload] * TASKS, handler="bench.sleep"))
            while len(_events(record)) < SLOTS:
                time.sleep(0.01)
            processes.kill("first")
            killed = time.monotonic()
            running = {id for event, id, _ in _events(record) if event == "start"}
            _start_worker(processes, fresh, addresses["cluster"])
            done: dict[str, float] = {}
            for handle in client.as_completed(handles, timeout=_WATCHED):
                if handle.task is not None and handle.task.status is TaskStatus.COMPLETED:
                    done[handle.id] = time.monotonic() - killed
        events = _events(record)
    ends = Counter(id for event, id, _ in events if event == "end")
    again = [at - killed for event, id, at in events if event == "start" and id in running and at > killed]
    return _Round(
        again=again,
        interrupted_done=max(done[id] for id in running),
        all_done=max(done.values()),
        lost=TASKS - len(done),
        twice=sum(number > 1 for number in ends.values()),
    )


def _start_worker(processes: Processes, name: str, address: str) -> None:
    processes.start(
        name, "-m", "gowork.worker", "--leader", address, "--name", name, "--slots", str(SLOTS),
        "--state-dir", str(processes.folder / "state"),
        "--import", "handlers", "--print-ready",
    )  # fmt: skip


def _events(record: Path) -> list[Any]:
    """The records that handlers have written: ["start" or "end", id, monotonic seconds]."""
    return [json.loads(line) for line in record.read_text().splitlines()]
