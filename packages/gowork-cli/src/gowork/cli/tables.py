"""Makes tables of tasks."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from gowork.cli.output import ago, plain, span, styled, table
from gowork.client import TaskInfo, TaskStatus

#: The headings of a table of tasks, and those of its columns that hold numbers.
TASK_COLUMNS = ("ID", "STATUS", "HANDLER", "QUEUE", "PRIORITY", "SCHEDULED", "TOOK", "WORKER", "")
TASK_NUMBERS = ("TOOK",)


def tasks_table(tasks: Iterable[TaskInfo]) -> Table:
    """Makes a table of tasks and their status, with a row for each task."""
    rows = table(*TASK_COLUMNS, numbers=TASK_NUMBERS)
    for task in tasks:
        rows.add_row(*task_row(task))
    return rows


def task_row(task: TaskInfo) -> list[Text]:
    """Makes the row of a task, with a cell for each of TASK_COLUMNS."""
    took = span(task.finished_at - task.started_at) if task.started_at and task.finished_at else ""
    return [
        plain(task.id),
        status_of(task),
        plain(task.handler or "(default)"),
        plain(task.queue),
        plain(task.priority),
        plain(ago(task.created_at)),
        plain(took),
        plain(task.worker),
        _remark(task),
    ]


def status_of(task: TaskInfo) -> Text:
    """Returns the status of a task. A pending one that waits for others is WAITING."""
    return styled("WAITING" if task.is_waiting else task.status)


def finished_table(tasks: Iterable[TaskInfo]) -> Table:
    """Makes a table of finished tasks and their results, with a row for each task."""
    rows = table("ID", "STATUS", "RESULT")
    for task in tasks:
        rows.add_row(plain(task.id), status_of(task), outcome(task))
    return rows


def outcome(task: TaskInfo) -> Text:
    """Returns the result of a task, or its failure, on one line."""
    if "result" in task.encrypted:
        return plain(f"({task.encrypted['result']})", "dim")
    if task.status is TaskStatus.COMPLETED:
        return plain(task.result or (f"{len(task.result_data):,} bytes of data" if task.result_data else ""))
    if task.failure is None:
        return Text()
    name = f"{task.failure.type}: " if task.failure.type else ""
    return plain(f"{task.failure.kind} {name}{task.failure.message}", "red")


def _remark(task: TaskInfo) -> Text:
    if task.cancel_requested and not task.status.finished:
        return Text("asked to stop", style="yellow")
    if task.status is TaskStatus.RUNNING and task.progress:
        return plain(f"{task.progress.fraction:.0%} {task.progress.message}")
    if task.failure:
        return plain(f"{task.failure.kind} {task.failure.message}", "red")
    if task.run_at and task.status is TaskStatus.PENDING:
        return plain(f"starts {ago(task.run_at)}")
    return Text()
