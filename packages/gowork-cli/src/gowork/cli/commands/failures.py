"""The command `gowork failures` counts failed tasks by what went wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import click
from rich.text import Text

from gowork.cli.completions import complete_handler
from gowork.cli.listing import print_rows
from gowork.cli.options import CommonOptions, OutputFormat, common_options, pass_common
from gowork.cli.output import ago, console, plain, write_records
from gowork.cli.records import Record, failures_record
from gowork.client import TaskInfo

#: By what failed tasks are grouped.
_PARTS = ("handler", "kind", "message")
#: How many groups are kept. Tasks of further ones are counted together.
_GROUPS_MAX = 1_000
#: How many characters of a message are told.
_MESSAGE_CHARACTERS_MAX = 200
#: How many rows a table has without --limit. JSON has all groups.
_ROWS_DEFAULT = 20


@dataclass(slots=True)
class _Group:
    """Failed tasks that have these parts alike. A part by which they were not grouped is None."""

    handler: str | None
    kind: str | None
    message: str | None
    #: Whether it stands for all groups beyond _GROUPS_MAX.
    is_rest: bool = False
    tasks: int = 0
    first: datetime | None = None
    last: datetime | None = None
    #: The id of the one that failed last.
    example: str = ""

    def add(self, task: TaskInfo) -> None:
        self.tasks += 1
        moment = task.finished_at
        if moment is None:
            return
        if self.first is None or moment < self.first:
            self.first = moment
        if self.last is None or moment >= self.last:
            self.last, self.example = moment, task.id

    def record(self) -> Record:
        named = {"handler": self.handler, "kind": self.kind, "message": self.message, "is_rest": self.is_rest}
        return named | failures_record(self.tasks, self.first, self.last, self.example)


@click.command(
    epilog="""\b
Examples:
  gowork failures
  gowork failures --by handler,kind
  gowork failures --filter 'queue = "mail"' -o jsonl | jq -r .message
  gowork retry --filter 'handler = "resize"'    # when the cause is mended"""
)
@click.option("--handler", metavar="NAME", shell_complete=complete_handler, help="Only tasks of this handler.")
@click.option("--queue", metavar="NAME", help="Only tasks of this queue.")
@click.option("--filter", "expression", default="", metavar="EXPRESSION", help="Only tasks that match, as for tasks.")
@click.option(
    "--by",
    default=",".join(_PARTS),
    show_default=True,
    metavar="PARTS",
    help="What tasks of a group have alike: some of handler, kind, message.",
)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=0),
    help=f"How many groups to list at most; 0 lists all.  [default: {_ROWS_DEFAULT} in a table, all in JSON]",
)
@common_options
@pass_common
def failures(
    common: CommonOptions, handler: str | None, queue: str | None, expression: str, by: str, limit: int | None
) -> None:
    """Count the failed tasks that are kept, by what went wrong, the largest group first.

    A group has the tasks of one handler with the same kind of failure and the same first line of its message. EXAMPLE
    is the id of the one that failed last.
    """
    parts = _parts_of(by)
    if limit is None:
        limit = _ROWS_DEFAULT if common.output is OutputFormat.TABLE else 0
    with common.client() as client:
        found = client.tasks(expression, status="ERROR", handler=handler, queue=queue, page_size=1_000)
        groups = _grouped(found, parts)
    shown = groups[: limit or None]
    if common.output is not OutputFormat.TABLE:
        write_records((group.record() for group in shown), common.output)
        return
    out = console()
    if not groups:
        out.print("no failed tasks")
        return
    headings = [part.upper() for part in parts]
    rows = (_row(group, parts) for group in shown)
    print_rows(out, ("TASKS", *headings, "FIRST", "LAST", "EXAMPLE"), rows, ("TASKS",))
    if len(shown) < len(groups):
        click.echo(f"only {len(shown):,} of {len(groups):,} groups are shown; --limit 0 shows all", err=True)


def _parts_of(by: str) -> tuple[str, ...]:
    """Reads --by. The parts are in the order of _PARTS."""
    given = [part.strip().lower() for part in by.split(",") if part.strip()]
    unknown = [part for part in given if part not in _PARTS]
    if unknown or not given:
        raise click.BadParameter(f"{by!r} is not a list of {', '.join(_PARTS)}", param_hint="--by")
    return tuple(part for part in _PARTS if part in given)


def _grouped(tasks: Iterable[TaskInfo], parts: tuple[str, ...]) -> list[_Group]:
    """Returns the groups, the largest first, and of equal ones that which failed last; at the end all others."""
    groups: dict[tuple[str | None, ...], _Group] = {}
    rest = _Group(None, None, None, is_rest=True)
    for task in tasks:
        key = _key(task, parts)
        group = groups.get(key)
        if group is None:
            group = groups.setdefault(key, _Group(*key)) if len(groups) < _GROUPS_MAX else rest
        group.add(task)
    ordered = sorted(groups.values(), key=_latest, reverse=True)
    ordered.sort(key=lambda group: -group.tasks)
    return ordered + [rest] * (rest.tasks > 0)


def _key(task: TaskInfo, parts: tuple[str, ...]) -> tuple[str | None, str | None, str | None]:
    kind = message = ""
    if task.failure is not None:
        kind = task.failure.kind
        first_line = next(iter(task.failure.message.strip().splitlines()), "")
        message = ": ".join(filter(None, (task.failure.type, first_line)))[:_MESSAGE_CHARACTERS_MAX]
    return (
        task.handler if "handler" in parts else None,
        kind if "kind" in parts else None,
        message if "message" in parts else None,
    )


def _latest(group: _Group) -> float:
    return group.last.timestamp() if group.last is not None else 0.0


def _row(group: _Group, parts: tuple[str, ...]) -> list[Text]:
    told = {"handler": group.handler or "(default)", "kind": group.kind, "message": group.message}
    cells = ["(others)" if group.is_rest else told[part] for part in parts]
    return [plain(cell) for cell in (f"{group.tasks:,}", *cells, ago(group.first), ago(group.last), group.example)]
