"""Runs the cases on a cluster of real processes, and looks at each task that has ended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clusters import start_leader, start_worker, stopped_cleanly
from soak_cases import CASES, Case, fault_of, tasks_of

from gowork.client import Client, TaskView

_HANDLERS = Path(__file__).with_name("soak_handlers.py")
#: Seconds that a round may take: far more than it does on a busy machine.
ROUND_SECONDS = 600.0


@contextmanager
def soaked(folder: Path) -> Iterator[Client]:
    """A leader and a worker with all handlers; a client of theirs."""
    shutil.copy(_HANDLERS, folder)
    leader = start_leader(folder)
    with stopped_cleanly(leader.process):
        options = ("--import", "soak_handlers", "--slots", "16", "--runners", "2", "--log-failures", "message")
        with stopped_cleanly(start_worker(folder, leader, *options)), Client(leader.scheduler, timeout=120) as client:
            yield client


def run_round(client: Client, name: str, number: int) -> tuple[int, list[str]]:
    """Runs all cases, `number` of each; answers how many tasks there were, and what was wrong."""
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
    # Those are there once their parents are completed.
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
    """What the worker's log tells of runners that ended, and of code of gowork's own that failed:
    there is no reason for any of these.
    """
    words = ("runner ended", "reached a runner's own code", "broken off")
    log = (folder / "gowork-worker.log").read_text()
    # Handlers' tracebacks are left out of it: these are of others.
    traces = [trace[:1000] for trace in log.split("Traceback (most recent call last):")[1:]]
    return [line for line in log.splitlines() if any(word in line for word in words)] + traces
