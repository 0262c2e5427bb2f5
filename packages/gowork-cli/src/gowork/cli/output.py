"""Writes answers: as JSON in one document, as lines of JSON, or as tables.

On a terminal, tables have colour (not with NO_COLOR) and the terminal's width. In a pipe they have no colour, and are
as wide as they need to be, so that nothing is cut off for grep and awk. FORCE_COLOR adds colour in a pipe, and changes
nothing else.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Literal, TextIO, cast

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gowork.cli.options import OutputFormat
from gowork.cli.records import Record, document, line

#: The width of output that is not a terminal, enough for any row.
_PIPE_COLUMNS = 100_000
#: Columns whose cells are folded, not cut, where there is no room, because half an id is of no use.
_WHOLE = ("ID", "TRACE", "EXAMPLE")
#: Characters that move the cursor, or change the direction or the line in which others are shown.
_CONTROLS = [
    *range(0x20),
    *range(0x7F, 0xA0),
    0x061C,
    *range(0x200E, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
]
#: {control character: its replacement in a cell}
_BLANKED = dict.fromkeys(_CONTROLS, " ")
#: {control character: its replacement in a text of several lines}
_ESCAPED = {code: ascii(chr(code))[1:-1] for code in _CONTROLS if chr(code) not in "\n\t"}
#: {drawn character: its replacement where the encoding does not have it}
_DRAWN = {"━": "=", "▶": ">", "…": "~"}
#: Names of the codecs' error handlers for text and for JSON.
_DEGRADING = "gowork-degrade"
_JSON_ESCAPING = "gowork-json"
_ColourSystem = Literal["auto", "standard", "256", "truecolor", "windows"]

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
    "WAITING": "yellow",
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
    """Makes a console for standard output, or standard error, as it is now."""
    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        return _Console(file=stream, highlight=False, soft_wrap=False)
    # With FORCE_COLOR, Rich assumes a terminal. The user asks only for colour: nothing is redrawn or waits for keys.
    forced = Console(file=stream).color_system
    return _Console(
        file=stream,
        width=_PIPE_COLUMNS,
        highlight=False,
        soft_wrap=False,
        force_terminal=False,
        force_interactive=False,
        color_system=cast("_ColourSystem | None", forced),
    )


def never_refuse(stream: TextIO) -> None:
    """Makes a stream write a replacement for characters that its encoding lacks, so that they do not end a listing."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and getattr(stream, "errors", None) in ("strict", "surrogateescape"):
        reconfigure(errors=_DEGRADING)


def write_line(record: Record) -> None:
    """Writes one record as a line of JSON."""
    _write_json(line(record) + "\n")


def write_records(records: Iterable[Record], output: OutputFormat) -> None:
    """Writes records as they come: as a JSON array, or as a line of JSON for each."""
    if output is OutputFormat.JSONL:
        for record in records:
            write_line(record)
        return
    separator = "[\n"
    for record in records:
        _write_json(separator + line(record))
        separator = ",\n"
    _write_json("[]\n" if separator == "[\n" else "\n]\n")


def write_record(record: Record, output: OutputFormat) -> None:
    """Writes one record: in several lines for json, in one line for jsonl."""
    _write_json((line(record) if output is OutputFormat.JSONL else document(record)) + "\n")


def _write_json(text: str) -> None:
    """Writes JSON as UTF-8; as ASCII if standard output has another encoding, which readers of JSON do not expect."""
    encoding = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name
    click.echo(text.encode("utf-8" if encoding == "utf-8" else "ascii", _JSON_ESCAPING), nl=False)


def table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    """Makes an empty table.

    Args:
        columns: the headings.
        numbers: the headings of columns that hold numbers.
    """
    made = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    right = set(numbers)
    for column in columns:
        made.add_column(
            column, justify="right" if column in right else "left", overflow="fold" if column in _WHOLE else "ellipsis"
        )
    return made


def styled(word: str) -> Text:
    """Returns a status, outcome or liveness in its colour."""
    return Text(word, STYLES.get(word, ""))


def plain(text: object, style: str = "") -> Text:
    """Returns a cell on one line, without markup and control characters, because anybody may write a task's texts."""
    return Text(str(text).translate(_BLANKED), style)


def harmless(text: str) -> str:
    """Returns a text of several lines with its control characters as escapes."""
    return text.translate(_ESCAPED)


def ago(moment: datetime | None) -> str:
    """Returns how long ago a moment was, or how long it is until then, in a few characters; empty for None."""
    if moment is None:
        return ""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return f"in {span(-seconds)}" if seconds <= -1 else f"{span(max(seconds, 0))} ago"


def span(seconds: float | timedelta | None) -> str:
    """Returns a length of time in at most two units; empty for None."""
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
    """Returns a moment's date and local time, or its time in UTC if local time has no such year; empty for None."""
    if moment is None:
        return ""
    try:
        moment = moment.astimezone()
    except (ValueError, OverflowError):
        # In this zone the year is not in 1 to 9999.
        moment = moment.astimezone(UTC)
    return moment.isoformat(sep=" ", timespec="milliseconds")


def _degrade(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replaces characters that an encoding lacks: drawn ones by plain ones, others by escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_DRAWN.get(character) or ascii(character)[1:-1] for character in lacking), error.end


def _escape_json(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replaces characters that an encoding lacks by JSON's escapes. They occur only within JSON's strings."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return json.dumps(lacking)[1:-1], error.end


codecs.register_error(_DEGRADING, _degrade)
codecs.register_error(_JSON_ESCAPING, _escape_json)
