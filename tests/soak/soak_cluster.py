"""Runs the cases on a cluster of real processes, and checks each task that has ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clusters import start_leader, start_worker, stopped_cleanly
from soak_cases import CASES, Case, fault_of, tasks_of

from gowork.client import Client, TaskView

_HANDLERS = Path(__file__).with_name("soak_handlers.py")
#: How many seconds a round may take: far more than it takes on a busy machine.
ROUND_SECONDS = 600.0


@contextmanager
def soaked(folder: Path) -> Iterator[Client]:
    """Runs a leader and a worker with all handlers, and yields a client of them."""
    shutil.copy(_HANDLERS, folder)
    leader = start_leader(folder)
    with stopped_cleanly(leader.process):
        options = ("--import", "soak_handlers", "--slots", "16", "--runners", "2", "--log-failures", "message")
        with stopped_cleanly(start_worker(folder, leader, *options)), Client(leader.scheduler, timeout=120) as client:
            yield client


def run_round(client: Client, name: str, number: int) -> tuple[int, list[str]]:
    """Runs all cases, `number` tasks of each; returns the number of tasks, and a sentence for each fault."""
    cases: dict[str, Case] = {}

    def scheduled() -> Iterator[object]:
        for case, task in tasks_of(name, number):
            assert task.id is not None
            cases[task.id] = case
            yield task

    for handle in client.schedule_many(scheduled()):
        if cases[handle.id].is_cancelled:
            client.cancel(handle.id)
    leaves = {f"{id}/leaf" for id, case in cases.items() if "follow" in case.plan}
    ran = len(cases) + len(leaves)
    client.wait(cases, timeout=ROUND_SECONDS)
    # The leaves exist now, because their parents have completed.
    client.wait(leaves, timeout=ROUND_SECONDS)
    faults = []
    for task in client.tasks(id_prefix=f"{name}/", view=TaskView.FULL):
        case = cases.pop(task.id, None)
        if case is None:
            leaves.remove(task.id)
        fault = fault_of(case or CASES[0], task)
        if fault is not None:
            faults.append(fault)
    return ran, [*faults, *(f"{id}: it is gone" for id in (*cases, *leaves))]


def ends_of_runners(folder: Path) -> list[str]:
    """The worker's log lines of runners that ended and of gowork's own code that failed; a soak should cause none."""
    words = ("runner ended", "reached a runner's own code", "broken off")
    log = (folder / "gowork-worker.log").read_text()
    # The log has no tracebacks of handlers, so every traceback is a fault.
    traces = [trace[:1000] for trace in log.split("Traceback (most recent call last):")[1:]]
    return [line for line in log.splitlines() if any(word in line for word in words)] + traces
