"""What a filter selects, before something is done to all of it: tasks are counted and named, and somebody is asked.

Without a terminal to ask on, nothing is done to what a filter selects unless `--yes` is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gowork.cli import questions
from gowork.cli.options import CommonOptions, OutputFormat
from gowork.cli.output import console, plain, write_record
from gowork.client import TaskInfo

#: How many tasks are counted before the question is asked. If there are more, the question says "at least".
COUNTED_MAX = 100_000
#: Up to how many tasks nobody is asked, where what is done to them can be undone.
UNASKED_MAX = 10
#: How many of them are named.
_EXAMPLES = 5
#: What a filter has in quotes, and its terms for the status.
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_OF_STATUS = re.compile(r"(?<![\w.])status\s*!?=")


@dataclass(frozen=True, slots=True)
class Selection:
    """The tasks to which something would be done."""

    #: As in "finished".
    kind: str
    tasks: int
    #: Whether there may be more than were counted.
    more: bool
    examples: tuple[str, ...]

    def __str__(self) -> str:
        tasks = f"1 {self.kind} task" if self.tasks == 1 else f"{self.tasks:,} {self.kind} tasks"
        others = ", …" if self.more or self.tasks > len(self.examples) else ""
        named = f": {plain(', '.join(self.examples))}{others}" if self.examples else ""
        return f"{'at least ' if self.more else ''}{tasks}{named}"

    def write(self, common: CommonOptions, verb: str) -> None:
        """Says to which tasks it would be done: `verb` is as in "remove"."""
        if common.output is not OutputFormat.TABLE:
            record = {"matched": self.tasks, "more": self.more, "examples": list(self.examples)}
            write_record(record, common.output)
        else:
            console().print(plain(f"would {verb} {self}"))


def counted(kind: str, tasks: Iterable[TaskInfo], among: Callable[[TaskInfo], bool] = lambda task: True) -> Selection:
    """Counts tasks, and keeps the first ids.

    Args:
        kind: as in "finished".
        tasks: at most COUNTED_MAX of them are looked at.
        among: which of them count.
    """
    seen = count = 0
    examples: list[str] = []
    for task in islice(tasks, COUNTED_MAX):
        seen += 1
        if not among(task):
            continue
        count += 1
        if len(examples) < _EXAMPLES:
            examples.append(task.id)
    return Selection(kind, count, seen == COUNTED_MAX, tuple(examples))


def check_choice(
    ids: tuple[str, ...], expression: str | None, *, yes: bool, dry_run: bool, verb: str, example: str
) -> None:
    """Checks that a command was given ids or a filter, and that somebody can be asked before a filter is applied.

    Args:
        ids: the ids that were given.
        expression: the filter; None when there is none.
        yes: whether nobody is to be asked.
        dry_run: whether tasks are only counted.
        verb: what is done, as in "cancel".
        example: the filter that selects all.

    Raises:
        click.UsageError: what is wrong.
    """
    if bool(ids) == (expression is not None):
        raise click.UsageError("give IDs, or --filter, not both")
    if expression is None:
        if dry_run:
            raise click.UsageError("--dry-run is for --filter")
        return
    if not expression.strip():
        raise click.UsageError(f"--filter is empty; {example!r} selects all")
    if not (yes or dry_run or questions.can_ask()):
        # This refuses before anything is counted.
        questions.confirm("", f"give --yes to {verb} the tasks, or --dry-run to see how many they are")


def names_status(expression: str) -> bool:
    """Whether a filter has a term for the status."""
    return _OF_STATUS.search(_QUOTED.sub('""', expression)) is not None


@contextmanager
def progress_bar(words: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows on a terminal how many tasks were dealt with. Yields what to call with their number so far."""
    out = console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=out,
        disable=not out.is_terminal,
    ) as bars:
        bar = bars.add_task(words, total=total)

        def show(number: int) -> None:
            bars.update(bar, completed=number)

        yield show
