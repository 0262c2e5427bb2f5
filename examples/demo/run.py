"""The demo: a leader, three workers, 1,000 real tasks, and a SIGKILL in the middle.

`python3 -m nox -s demo` runs it. It compares every result with one that was computed without gowork. It exits with 0
only if all tasks completed and all results are right.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from demo_cluster import DemoCluster, StartError
from demo_work import HANDLERS, Job, make_jobs, squares_server
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gowork.client import AttemptOutcome, Client, GoworkError, TaskInfo, TaskStatus, TaskView

WORKERS = ["ada", "grace", "edsger"]
#: The share of tasks that are completed when a worker is killed.
KILL_AFTER = 0.4
#: How long to wait for all tasks, in seconds.
PATIENCE = 80
KEPT = Path("demo-cluster")


def main() -> int:
    """Runs the demo, and returns its exit code."""
    parser = argparse.ArgumentParser(prog="nox -s demo --", description="A gowork cluster at work.")
    parser.add_argument("--keep", action="store_true", help=f"leave the cluster running, its files in ./{KEPT}")
    keep = parser.parse_args().keep
    console = Console()
    if keep:
        shutil.rmtree(KEPT, ignore_errors=True)
        KEPT.mkdir()
    folder = KEPT.absolute() if keep else Path(tempfile.mkdtemp(prefix="gowork-demo-"))
    cluster = DemoCluster(folder)
    good = False
    try:
        good = show(console, cluster)
        return 0 if good else 1
    except (GoworkError, StartError) as error:
        console.print(f"[red]{type(error).__name__}: {error}[/]\nThe logs are in {folder}.")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if keep and good:
            tell_kept(console, cluster)
        else:
            cluster.stop()
            if good:
                shutil.rmtree(folder)
                tell_next(console)


def show(console: Console, cluster: DemoCluster) -> bool:
    """Starts the cluster, runs the tasks, and returns whether all results are right."""
    begin = time.monotonic()
    cluster.start_leader()
    cluster.start_workers(WORKERS, HANDLERS)
    files = cluster.folder / "files"
    files.mkdir()
    with squares_server() as port, Client(cluster.addresses["scheduler"]) as client:
        console.print(
            f"A leader (pid {cluster.processes['leader'].pid}) and {len(WORKERS)} workers are up "
            f"after {time.monotonic() - begin:.1f} s."
        )
        jobs = make_jobs(files, port)
        victim = run(console, client, cluster, jobs)
        tasks = {task.id: task for task in client.tasks(view=TaskView.FULL)}
        wrong = [job for job in jobs if not right(job, tasks[str(job.task.id)])]
        console.print(members_table(client, tasks), tasks_table(jobs, wrong, tasks, victim))
    for job in wrong[:3]:
        console.print(f"[red]wrong[/]: {tasks[str(job.task.id)]}")
    return not wrong


def run(console: Console, client: Client, cluster: DemoCluster, jobs: list[Job]) -> str:
    """Schedules the jobs and waits for all. Meanwhile it kills the busiest worker, whose name it returns."""
    kinds = {str(job.task.id): job.kind for job in jobs}
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bars = {kind: progress.add_task(kind, total=count) for kind, count in Counter(kinds.values()).items()}
        handles = client.schedule_many(job.task for job in jobs)
        victim = ""
        for done, handle in enumerate(client.as_completed(handles, timeout=PATIENCE), 1):
            progress.advance(bars[kinds[handle.id]])
            if not victim and done >= KILL_AFTER * len(jobs):
                busiest = max(client.members(), key=lambda member: member.running)
                victim = busiest.id
                pid = cluster.kill(victim)
                progress.console.print(
                    f"SIGKILL for worker [bold]{victim}[/] (pid {pid}), which held {busiest.running} tasks."
                )
    return victim


def right(job: Job, task: TaskInfo) -> bool:
    """Whether the task completed exactly once, with the right result."""
    completions = [attempt for attempt in task.attempts if attempt.outcome is AttemptOutcome.COMPLETED]
    if task.status is not TaskStatus.COMPLETED or len(completions) != 1:
        return False
    result = task.value()
    return all(result[field] == value for field, value in job.answer.items())


def members_table(client: Client, tasks: dict[str, TaskInfo]) -> Table:
    """Makes a table of the members, with how many tasks each has completed."""
    completed = Counter(task.worker for task in tasks.values() if task.status is TaskStatus.COMPLETED)
    table = Table("member", "liveness", "slots", "tasks completed", title="Members", title_justify="left")
    for member in client.members():
        table.add_row(member.id, member.liveness, str(member.slots), str(completed[member.id]))
    return table


def tasks_table(jobs: list[Job], wrong: list[Job], tasks: dict[str, TaskInfo], victim: str) -> Table:
    """Makes a table of the tasks by kind."""
    table = Table("kind", "tasks", "completed", "right", f"taken from {victim}", "median", title="Tasks")
    table.title_justify = "left"
    for kind in sorted({job.kind for job in jobs}):
        of_kind = [job for job in jobs if job.kind == kind]
        infos = [tasks[str(job.task.id)] for job in of_kind]
        completed = [info for info in infos if info.status is TaskStatus.COMPLETED]
        table.add_row(
            kind,
            str(len(of_kind)),
            str(len(completed)),
            str(len(of_kind) - sum(job.kind == kind for job in wrong)),
            str(sum(info.worker != victim and any(try_.worker == victim for try_ in info.attempts) for info in infos)),
            f"{median_ms(completed):.0f} ms",
        )
    return table


def median_ms(tasks: list[TaskInfo]) -> float:
    """Returns the median duration of the tasks' last attempts, in milliseconds."""
    times = sorted(
        (attempt.ended_at - attempt.started_at).total_seconds() * 1000
        for task in tasks
        for attempt in task.attempts[-1:]
        if attempt.started_at and attempt.ended_at
    )
    return times[len(times) // 2] if times else 0.0


def tell_next(console: Console) -> None:
    """Prints what to try after a demo that has cleaned up."""
    console.print("\nAll 1,000 tasks completed with the right result; everything is stopped. Next:\n")
    for command, purpose in [
        ("python3 -m nox -s demo -- --keep", "the same, and leaves the cluster running for you to look at"),
        (f"{gowork()} up", "a cluster of your own; the first ten minutes in README go on from here"),
    ]:
        console.print(f"  {command:<34}  [dim]# {purpose}[/]", highlight=False, soft_wrap=True)


def tell_kept(console: Console, cluster: DemoCluster) -> None:
    """Prints what to try with the cluster that was kept."""
    console.print("\nAll 1,000 tasks completed with the right result. The cluster is still up. Try:\n")
    pids = " ".join(str(process.pid) for process in cluster.processes.values())
    for command, purpose in [
        (f"export GOWORK_LEADER={cluster.addresses['scheduler']}", "the leader's address, for the commands"),
        (f"{gowork()} members", "one of the three workers is lost"),
        (f"{gowork()} tasks --handler shell", "the tasks that ran commands"),
        (f"{gowork()} show sort-007", "one task, with its attempts"),
        (f"{gowork()} add 'do some work' --wait", "one more task, for the default handler"),
        (f"curl {cluster.addresses['http']}/metrics", "what Prometheus sees"),
        (f"kill {pids}", f"stops the cluster; its files stay in {KEPT}/"),
    ]:
        console.print(f"  {command:<54}  [dim]# {purpose}[/]", highlight=False, soft_wrap=True)


def gowork() -> str:
    """Returns the path of the command `gowork`, as it can be typed in this directory."""
    command = Path(sys.executable).parent / "gowork"
    near = command.is_relative_to(Path.cwd())
    return shlex.quote(str(command.relative_to(Path.cwd()) if near else command))


if __name__ == "__main__":
    sys.exit(main())
