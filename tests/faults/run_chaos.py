"""Runs a cluster of real processes, kills and stops them at random under load, and checks the history:
`python run_chaos.py --minutes 5 [--seed 7]`.

The seed decides on the faults and on the tasks. Their order on the machine differs from run to run.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.append(str(Path(__file__).parents[2] / "packages/gowork-leader/tests/log"))

from chaos_faults import Event, Faults, Kind, plan
from chaos_history import History, read_executions
from chaos_load import Load
from fault_cluster import running_cluster

from gowork.client import CallError, Client, TaskInfo, TaskStatus, TaskView

#: {worker: its options}
WORKERS: dict[str, Sequence[str]] = {
    "w1": ("--runners", "2", "--slots", "8"),
    "w2": ("--runners", "1", "--slots", "8"),
    "w3": ("--runners", "2", "--slots", "6"),
}
#: Seconds between two steps of the plan, and between two counts of the tasks.
_LOOK_SECONDS = 0.1
_COUNT_SECONDS = 0.5
#: A cluster is stuck when no task has ended for this many seconds after the last fault.
STUCK_SECONDS = 60.0
#: How many findings of one run are printed.
_FOUND_MAX = 30


@dataclass(frozen=True)
class Result:
    """The findings of a run, and what they were found in."""

    found: Sequence[str]
    history: History
    events: Sequence[Event]
    skipped: int
    #: Monotonic seconds: when the first client began, when the faults stopped, when the last task had ended.
    began: float
    calm: float
    ended: float


Tell = Callable[[float, int, int], None]


def run(folder: Path, seconds: float, seed: int, tell: Tell = lambda seconds, finished, faults: None) -> Result:
    """Runs a cluster, does faults to it, waits for the last task and checks the history.

    Args:
        folder: the working directory of its processes.
        seconds: how long faults are done.
        seed: decides on the faults and the tasks.
        tell: is called with the age of the run in seconds, the number of finished tasks, and the number of faults.
    """
    wall_offset = time.time() - time.monotonic()
    with running_cluster(folder, "chaos_handlers") as cluster:
        for name, options in WORKERS.items():
            cluster.start_worker(name, *options)
        faults = Faults(cluster, WORKERS, plan(seed, seconds))
        load = Load(cluster.client, seed)
        with cluster.client(timeout=2.0) as client:
            counts = _Counts(client)
            began = time.monotonic()
            load.start()
            try:
                # The whole plan is carried out, so a slow machine takes longer.
                while (age := time.monotonic() - began) < seconds or faults.planned:
                    faults.step(age)
                    if counts.look():
                        load.count(counts.unfinished)
                    tell(age, counts.finished, len(faults.events))
                    # The plan goes by real time.
                    time.sleep(_LOOK_SECONDS)
            finally:
                # Even when this fails, because clients call again for as long as no leader answers.
                faults.end()
                calm = time.monotonic()
                load.stop()
            stuck = _wait_for_the_end(
                counts, lambda: tell(time.monotonic() - began, counts.finished, len(faults.events))
            )
            ended = time.monotonic()
        with cluster.client() as client:
            tasks = {task.id: task for task in client.tasks(view=TaskView.FULL, page_size=10_000)}
        history = History(
            tasks, read_executions(folder.glob("*.chaos")), load.ledger, tuple(faults.events), wall_offset
        )
    found = [f"it gets going again: {stuck}"] if stuck else []
    return Result([*found, *history.found()], history, faults.events, faults.skipped, began, calm, ended)


class _Counts:
    """How many tasks have finished and have not, asked of the leader every _COUNT_SECONDS."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._next = 0.0
        self.finished = self.unfinished = 0

    def look(self) -> bool:
        """Asks if it is time to; whether the leader has answered. Otherwise the numbers stay as they were."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + _COUNT_SECONDS
        try:
            queues = self._client.stats().queues
        except CallError:
            return False
        self.finished = sum(queue.tasks for queue in queues if queue.status.finished)
        self.unfinished = sum(queue.tasks for queue in queues) - self.finished
        return True


def _wait_for_the_end(counts: _Counts, tell: Callable[[], None]) -> str:
    """Returns "" when every task has ended, and a sentence when none has ended for STUCK_SECONDS."""
    finished, since = -1, time.monotonic()
    while True:
        if counts.look():
            tell()
            if counts.unfinished == 0:
                return ""
            if counts.finished > finished:
                finished, since = counts.finished, time.monotonic()
        if time.monotonic() - since > STUCK_SECONDS:
            return f"{counts.unfinished} tasks have not ended, and none has for {STUCK_SECONDS:g} s"
        # Between two counts. To wait for the tasks themselves would need a leader that answers.
        time.sleep(_LOOK_SECONDS)


def show(console: Console, result: Result, seed: int) -> None:
    """Prints the summary, and the findings."""
    history = result.history
    statuses = Counter(task.status for task in history.tasks.values())
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("seed", str(seed))
    table.add_row("tasks", f"{len(history.tasks):,} ({len(history.ledger.acknowledged):,} acknowledged to clients)")
    table.add_row(
        "ended as", ", ".join(f"{status.value} {statuses[status]:,}" for status in TaskStatus if statuses[status])
    )
    table.add_row(
        "attempts", ", ".join(f"{outcome} {number:,}" for outcome, number in _outcomes(history).most_common())
    )
    table.add_row(
        "attempts of one task", f"at most {max((len(t.attempts) for t in history.tasks.values()), default=0)}"
    )
    table.add_row("executions", f"{len(history.executions):,}")
    done = Counter(event.kind for event in result.events)
    for kind in Kind:
        table.add_row(kind.value, f"{done[kind]}")
    table.add_row("no victim left", f"{result.skipped}")
    silence = history.longest_silence(result.began, result.calm)
    table.add_row("longest time without an end", f"{silence:.1f} s")
    table.add_row("from the last fault to the last end", f"{result.ended - result.calm:.1f} s")
    for kind in (Kind.KILL_RUNNER, Kind.KILL_WORKER):
        seconds = history.rerun_seconds(kind)
        if seconds:
            told = f"p50 {seconds[len(seconds) // 2]:.2f} s, at most {seconds[-1]:.2f} s ({len(seconds)} tasks)"
            table.add_row(f"rerun after {kind.value}", told)
    console.print(table)
    for line in result.found[:_FOUND_MAX]:
        console.print(line, style="red", markup=False, highlight=False)
    if len(result.found) > _FOUND_MAX:
        console.print(f"and {len(result.found) - _FOUND_MAX} more", style="red")


def _outcomes(history: History) -> Counter[str]:
    def all_attempts(tasks: Iterator[TaskInfo]) -> Iterator[str]:
        for task in tasks:
            for attempt in task.attempts:
                yield attempt.outcome.value

    return Counter(all_attempts(iter(history.tasks.values())))


def main() -> int:
    parser = argparse.ArgumentParser(description="Kills and stops a cluster's processes under load, and checks.")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long faults are done [5]")
    parser.add_argument("--seed", type=int, default=None, help="decides on the faults and the tasks [a random one]")
    parser.add_argument("--directory", type=Path, default=None, help="work below this one [that of temporary files]")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 16) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix=f"gowork-chaos-{seed}-", dir=options.directory))
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(f"seed {seed}, in {folder}", highlight=False)
    with _progress(options.minutes * 60) as tell:
        result = run(folder, options.minutes * 60, seed, tell)
    show(console, result, seed)
    if result.found:
        console.print(f"{len(result.found)} findings; its folder is kept: {folder}", style="bold red", highlight=False)
        return 1
    shutil.rmtree(folder)
    console.print("nothing is wrong", style="bold green")
    return 0


@contextlib.contextmanager
def _progress(seconds: float) -> Iterator[Tell]:
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("it starts", total=seconds)

        def tell(age: float, finished: int, faults: int) -> None:
            words = f"{finished:,} tasks ended, {faults} faults{'' if age < seconds else '; waits for the last'}"
            progress.update(bar, completed=min(age, seconds), description=words)

        yield tell


if __name__ == "__main__":
    sys.exit(main())
