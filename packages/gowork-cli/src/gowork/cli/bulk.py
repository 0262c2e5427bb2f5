"""Adds the tasks of a file of JSON lines, with a progress bar, and waits for them when asked.

The file is read as tasks are sent, so that it may be larger than memory. The first wrong line ends the command: the
tasks of the lines before it are scheduled, those of later lines are not. The error says which.
"""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from typing import BinaryIO

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gowork.cli.group import EXIT_FAILED
from gowork.cli.lines import Lines
from gowork.cli.options import CommonOptions, OutputFormat
from gowork.cli.output import console, harmless, write_records
from gowork.cli.payload_checks import PayloadChecks
from gowork.cli.records import Record, task_record
from gowork.cli.waiting import telling
from gowork.client import Client, TaskHandle, TaskInfo, TaskOptions, TaskStatus, TaskView

#: How many tasks that did not complete are named at most.
_FAILURES_SHOWN = 10
#: How many bytes of ids of scheduled tasks are kept in memory. If there are more, they are kept in a file.
_IDS_BYTES_MAX = 1 << 20


def add_file(
    common: CommonOptions, file: BinaryIO, options: TaskOptions, *, wait: bool, timeout: float | None, checks: bool
) -> None:
    """Schedules the tasks of a file.

    Args:
        common: the command's common options.
        file: a JSON object on each line.
        options: options for all tasks; a line may have other ones.
        wait: whether to wait until all have finished.
        timeout: how long to wait, in seconds; None for as long as it takes.
        checks: whether payloads are checked by what workers say of their handlers.

    Raises:
        click.ClickException: when a line is wrong. The error has the line's number.
        CallError: when the leader refused a call, or could not be reached.
    """
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console(stderr=True),
        disable=not console(stderr=True).is_terminal,
    )
    with common.patient_client() as client, bars, _kept_ids() as ids:
        bar = bars.add_task("lines read", total=_count_lines(file))
        lines = Lines(file, lambda: bars.advance(bar), PayloadChecks(client).check if checks else None)
        handles = _noting(lines.scheduled(client, options), ids)
        all_well = True
        try:
            if wait:
                all_well = _wait_for_all(common, bars, client, handles, timeout)
            else:
                _print_ids(common, handles, lines)
        except KeyboardInterrupt as error:
            lines.fault = error
        if lines.fault is not None and common.output is OutputFormat.TABLE:
            _copy_ids(ids)
        lines.raise_fault()
    if not all_well:
        click.get_current_context().exit(EXIT_FAILED)


def _print_ids(common: CommonOptions, handles: Iterable[TaskHandle], lines: Lines) -> None:
    if common.output is OutputFormat.TABLE:
        news = Counter(handle.is_new for handle in handles)
        if lines.fault is None:
            held = f"; for {news[False]:,} lines another task has the unique key" if news[False] else ""
            click.echo(f"scheduled {news[True]:,} tasks{held}")
    else:
        write_records(({"id": handle.id} for handle in handles), common.output)


def _wait_for_all(
    common: CommonOptions, bars: Progress, client: Client, handles: Iterable[TaskHandle], timeout: float | None
) -> bool:
    """Waits for the scheduled tasks, and returns whether all of them completed."""
    bar = bars.add_task("finished", total=None)
    counts: Counter[TaskStatus] = Counter()
    failed: list[TaskInfo] = []
    first: list[str] = []

    def scheduled() -> Iterator[TaskHandle]:
        count = 0
        for handle in handles:
            count += 1
            if not first:
                first.append(handle.id)
            yield handle
        bars.update(bar, total=count)

    def finished() -> Iterator[Record]:
        for handle in client.as_completed(scheduled(), timeout):
            if (task := handle.task) is not None:
                counts[task.status] += 1
                if task.status is not TaskStatus.COMPLETED and len(failed) < _FAILURES_SHOWN:
                    failed.append(task)
                bars.advance(bar)
                yield task_record(task, TaskView.RESULT)

    # As long as no task has finished, the reason why the first one waits is shown for all.
    with telling(client, lambda: "" if counts or not first else first[0]):
        if common.output is OutputFormat.TABLE:
            deque(finished(), maxlen=0)
            click.echo(", ".join(f"{count:,} {status}" for status, count in sorted(counts.items())) or "no tasks")
        else:
            write_records(finished(), common.output)
    for task in failed:
        what = f": {task.failure.message}" if task.failure else ""
        click.echo(harmless(f"gowork: task {task.id} ended as {task.status}{what}"), err=True)
    return not failed


def _noting(handles: Iterable[TaskHandle], ids: SpooledTemporaryFile[bytes]) -> Iterator[TaskHandle]:
    for handle in handles:
        ids.write(handle.id.encode() + b"\n")
        yield handle


@contextmanager
def _kept_ids() -> Iterator[SpooledTemporaryFile[bytes]]:
    """Returns a file for the ids of scheduled tasks, which are printed if the command ends before the file does."""
    with SpooledTemporaryFile(_IDS_BYTES_MAX) as kept:
        yield kept


def _copy_ids(ids: SpooledTemporaryFile[bytes]) -> None:
    ids.seek(0)
    for line in ids:
        click.echo(line, nl=False)


def _count_lines(file: BinaryIO) -> int | None:
    """Counts the lines of a regular file; None for a pipe."""
    try:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None
    except OSError:
        return None
    count = sum(1 for _ in file)
    file.seek(0)
    return count
