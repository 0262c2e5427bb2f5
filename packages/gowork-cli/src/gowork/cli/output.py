"""How answers are written: JSON in one document or in lines, or tables.

Tables have colour on a terminal (not with NO_COLOR) and the terminal's width; into a pipe they are plain, and as wide
as they need to be, so that nothing is cut off for grep and awk.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gowork.cli.records import Record, line
from gowork.cli.settings import OutputFormat

#: Wide enough for any row, for output that is not a terminal.
_PIPE_COLUMNS = 100_000
#: Columns whose cells are folded where there is no room: half of them is of no use to anybody.
_WHOLE = ("ID", "TRACE")
#: {control character: what stands for it}
_CONTROLS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")

STYLES = {
    "PENDING": "yellow",
    "RUNNING": "cyan",
    "COMPLETED": "green",
    "CANCELLED": "magenta",
    "ERROR": "bold red",
    # Attempts.
    "FAILED": "red",
    "TIMED_OUT": "red",
    "LOST": "red",
    "INTERRUPTED": "yellow",
    "SNOOZED": "yellow",
    # Members.
    "LIVE": "green",
    "BLOCKED": "yellow",
    "DRAINING": "yellow",
    "LEFT": "dim",
}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(*, stderr: bool = False) -> Console:
    """A console for this moment's standard output or error."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _PIPE_COLUMNS
    return _Console(file=stream, width=width, highlight=False, soft_wrap=False)


def write_records(records: Iterable[Record], output: OutputFormat) -> None:
    """Writes records as they come: a JSON array, or a line of JSON each."""
    if output is OutputFormat.JSONL:
        for record in records:
            click.echo(line(record))
        return
    separator = "[\n"
    for record in records:
        click.echo(separator + line(record), nl=False)
        separator = ",\n"
    click.echo("[]" if separator == "[\n" else "\n]")


def write_record(record: Record, output: OutputFormat) -> None:
    """Writes one record: over several lines as json, on one as jsonl."""
    click.echo(line(record) if output is OutputFormat.JSONL else json.dumps(record, ensure_ascii=False, indent=2))


def table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    """An empty table.

    Args:
        columns: the headings.
        numbers: those of them that hold numbers.
    """
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    right = set(numbers)
    for column in columns:
        made.add_column(
            column, justify="right" if column in right else "left", overflow="fold" if column in _WHOLE else "ellipsis"
        )
    return made


def styled(word: str) -> Text:
    """A status, outcome or liveness in its colour."""
    return Text(word, STYLES.get(word, ""))


def plain(text: object, style: str = "") -> Text:
    """A cell whose text is no markup, on one line, and does nothing to the terminal: a task's words are anybody's."""
    return Text(str(text).translate(_CONTROLS), style)


def ago(moment: datetime | None) -> str:
    """How long ago, or in how long, in words of a few characters; empty when never."""
    if moment is None:
        return ""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return f"in {span(-seconds)}" if seconds <= -1 else f"{span(max(seconds, 0))} ago"


def span(seconds: float | timedelta | None) -> str:
    """A length of time in at most two units; empty when unknown."""
    if seconds is None:
        return ""
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} m"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02} h"


def local(moment: datetime | None) -> str:
    """Date and time in local time; empty when never."""
    return moment.astimezone().isoformat(sep=" ", timespec="milliseconds") if moment else ""
