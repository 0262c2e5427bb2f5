"""The command `gowork tasks` lists tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import cast

import click
from rich.console import Console
from rich.live import Live

from gowork.cli.completions import complete_handler
from gowork.cli.listing import print_rows
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import console, write_line, write_records
from gowork.cli.parameters import pairs
from gowork.cli.records import task_record
from gowork.cli.tables import TASK_COLUMNS, TASK_NUMBERS, task_row, tasks_table
from gowork.client import Client, Priority, TaskFilter, TaskInfo, TaskStatus, TaskView

#: How many rows a table has without --limit. JSON has all tasks.
_ROWS_DEFAULT = 100
#: How many tasks are fetched in one call.
_PAGE_TASKS = 1_000
#: How many times per second a live table is drawn.
_DRAWS_PER_S = 4

_STATUSES = [status for status in TaskStatus if status is not TaskStatus.UNSPECIFIED]
_PRIORITIES = [priority for priority in Priority if priority is not Priority.UNSPECIFIED]


@click.command(
    epilog="""\b
Examples:
  gowork tasks
  gowork tasks --status ERROR --handler resize
  gowork tasks --label team=web --filter 'priority = HIGH AND queue != "batch"'
  gowork tasks --status COMPLETED -o jsonl --view result | jq .result
  gowork tasks --watch"""
)
@click.option("--status", type=click.Choice(_STATUSES, case_sensitive=False), help="Only tasks with this status.")
@click.option("--handler", metavar="NAME", shell_complete=complete_handler, help="Only tasks of this handler.")
@click.option("--queue", metavar="NAME", help="Only tasks of this queue.")
@click.option("--priority", type=click.Choice(_PRIORITIES, case_sensitive=False), help="Only tasks of this priority.")
@click.option("--label", "labels", metavar="KEY=VALUE", multiple=True, help="Only tasks with this label. Repeatable.")
@click.option("--id-prefix", metavar="TEXT", help="Only tasks whose id begins with this.")
@click.option(
    "--filter",
    "expression",
    default="",
    metavar="EXPRESSION",
    help="""Only tasks that match, as in
              'status = RUNNING AND labels.team = "web"'. The other options are joined to it by AND.""",
)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=0),
    help=f"How many tasks to list at most; 0 lists all.  [default: {_ROWS_DEFAULT} in a table, all in JSON]",
)
@click.option("--oldest-first", is_flag=True, help="Begin with the oldest instead of the newest.")
@click.option(
    "--view",
    type=click.Choice(list(TaskView), case_sensitive=False),
    default=TaskView.BASIC,
    show_default=True,
    help="How much of each task JSON shows.",
)
@click.option(
    "-w",
    "--watch",
    is_flag=True,
    help="Show changes until interrupted: in a live table on a terminal, elsewhere in one line for each change.",
)
@common_options
@pass_common
def tasks(
    common: CommonOptions,
    /,
    labels: tuple[str, ...],
    expression: str,
    limit: int | None,
    oldest_first: bool,
    view: str,
    watch: bool,
    **terms: str | None,
) -> None:
    """List tasks, the newest first."""
    # The options have the names of the terms.
    wanted = cast("TaskFilter", {**terms, "labels": pairs(labels, "--label")})
    if limit is None:
        limit = _ROWS_DEFAULT if common.output is OutputFormat.TABLE else 0

    def listed(client: Client) -> Iterator[TaskInfo]:
        found = client.tasks(
            expression, newest_first=not oldest_first, view=TaskView(view), page_size=min(limit, _PAGE_TASKS), **wanted
        )
        return islice(found, limit or None)

    if watch:
        with common.patient_client() as client, client.watch(expression, view=TaskView(view), **wanted) as changes:
            # The tasks are listed after the watch has begun, so that no change is missed.
            _show_changes(common, list(listed(client)), changes, TaskView(view), limit)
        return
    with common.client() as client:
        if common.output is not OutputFormat.TABLE:
            write_records((task_record(task, TaskView(view)) for task in listed(client)), common.output)
            return
        out = console()
        count = print_rows(out, TASK_COLUMNS, map(task_row, listed(client)), TASK_NUMBERS)
    if not count:
        out.print("no tasks")
    if limit and count == limit:
        click.echo(f"only the first {limit:,} are shown; --limit 0 shows all", err=True)


def _show_changes(
    common: CommonOptions, known: list[TaskInfo], changes: Iterable[TaskInfo], view: TaskView, limit: int
) -> None:
    out = console()
    if common.output is not OutputFormat.TABLE:
        for task in chain(known, changes):
            write_line(task_record(task, view))
    elif not out.is_terminal:
        for task in chain(known, changes):
            click.echo("  ".join((task.id, task.status, task.handler or "(default)", task.worker)))
    else:
        _show_live(out, known, changes, limit or _ROWS_DEFAULT)


def _show_live(out: Console, known: list[TaskInfo], changes: Iterable[TaskInfo], rows_max: int) -> None:
    # Each change replaces the whole dict, because another thread draws the table.
    latest = {task.id: task for task in known[:rows_max]}
    with Live(console=out, refresh_per_second=_DRAWS_PER_S, get_renderable=lambda: tasks_table(latest.values())):
        for task in changes:
            if task.id in latest:
                latest = {**latest, task.id: task}
            else:
                latest = {task.id: task, **dict(islice(latest.items(), rows_max - 1))}
