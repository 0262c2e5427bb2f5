"""Adds the tasks of a file of JSON lines, with a progress bar, and waits for them when asked.

The file is read as tasks are sent, so that it may be larger than memory. Nothing of a line that is at fault is sent;
what came before it may have been.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from gowork.cli.group import EXIT_FAILED
from gowork.cli.output import console, harmless, write_records
from gowork.cli.parameters import duration_s, moment
from gowork.cli.records import task_record
from gowork.cli.settings import OutputFormat, Settings
from gowork.client import Client, NewTask, TaskHandle, TaskInfo, TaskOptions, TaskStatus, TaskView

#: How many failed tasks are named.
_FAILURES_SHOWN = 10
_FIELDS = {
    "payload",
    "id",
    "handler",
    "priority",
    "queue",
    "labels",
    "selector",
    "in",
    "at",
    "time_limit",
    "max_attempts",
    "expires_in",
    "concurrency_key",
}


def add_file(settings: Settings, file: BinaryIO, options: TaskOptions, *, wait: bool, timeout: float | None) -> None:
    """Schedules the tasks of a file.

    Args:
        settings: of the command.
        file: a JSON object on each line.
        options: of tasks that do not bring their own.
        wait: whether to wait until all have finished.
        timeout: how long, in seconds.

    Raises:
        click.ClickException: for a line at fault, with its number.
    """
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console(stderr=True),
        disable=not console(stderr=True).is_terminal,
    )
    with settings.patient_client() as client, bars:
        lines = bars.add_task("lines read", total=_count_lines(file))
        handles = client.schedule_many(_tasks(file, bars, lines), **options)
        if wait:
            _wait_for_all(settings, bars, client, handles, timeout)
        else:
            _print_ids(settings, handles)


def _print_ids(settings: Settings, handles: Iterable[TaskHandle]) -> None:
    if settings.output is OutputFormat.TABLE:
        click.echo(f"scheduled {sum(1 for _ in handles):,} tasks")
    else:
        write_records(({"id": handle.id} for handle in handles), settings.output)


def _wait_for_all(
    settings: Settings, bars: Progress, client: Client, handles: Iterable[TaskHandle], timeout: float | None
) -> None:
    bar = bars.add_task("finished", total=None)
    counts: Counter[TaskStatus] = Counter()
    failed: list[TaskInfo] = []

    def scheduled() -> Iterator[TaskHandle]:
        count = 0
        for handle in handles:
            count += 1
            yield handle
        bars.update(bar, total=count)

    def finished() -> Iterator[TaskInfo]:
        for handle in client.as_completed(scheduled(), timeout):
            if (task := handle.task) is not None:
                counts[task.status] += 1
                if task.status is not TaskStatus.COMPLETED and len(failed) < _FAILURES_SHOWN:
                    failed.append(task)
                bars.advance(bar)
                yield task

    if settings.output is OutputFormat.TABLE:
        deque(finished(), maxlen=0)
        click.echo(", ".join(f"{count:,} {status}" for status, count in sorted(counts.items())) or "no tasks")
    else:
        write_records((task_record(task, TaskView.RESULT) for task in finished()), settings.output)
    for task in failed:
        what = f": {task.failure.message}" if task.failure else ""
        click.echo(harmless(f"gowork: task {task.id} ended as {task.status}{what}"), err=True)
    if failed:
        click.get_current_context().exit(EXIT_FAILED)


def _tasks(file: Iterable[bytes], bars: Progress, bar: TaskID) -> Iterator[NewTask]:
    for number, text in enumerate(file, 1):
        bars.advance(bar)
        if not text.isspace():
            try:
                yield _task(text)
            except ValueError as error:
                raise click.ClickException(f"line {number}: {error}") from None


def _task(text: bytes) -> NewTask:
    """The task of one line.

    Raises:
        ValueError: when the line is at fault.
    """
    fields: Any = json.loads(text)
    if not isinstance(fields, dict) or "payload" not in fields:
        raise ValueError('not an object with a "payload", such as {"payload": "text"}')
    if unknown := fields.keys() - _FIELDS:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}; known are {', '.join(sorted(_FIELDS))}")
    delay, run_at, limit = fields.get("in"), fields.get("at"), fields.get("time_limit")
    expires_in = fields.get("expires_in")
    return NewTask(
        payload=fields["payload"],
        id=fields.get("id"),
        handler=fields.get("handler"),
        priority=fields.get("priority"),
        queue=fields.get("queue"),
        labels=fields.get("labels"),
        selector=fields.get("selector"),
        delay=None if delay is None else duration_s(str(delay)),
        run_at=None if run_at is None else moment(str(run_at)),
        time_limit=None if limit is None else duration_s(str(limit)),
        retry=fields.get("max_attempts"),
        expires_at=None if expires_in is None else time.time() + duration_s(str(expires_in)),
        concurrency_key=fields.get("concurrency_key"),
    )


def _count_lines(file: BinaryIO) -> int | None:
    """How many lines a regular file has; unknown for a pipe."""
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None
    except OSError:
        return None
    count = sum(1 for _ in file)
    file.seek(0)
    return count
