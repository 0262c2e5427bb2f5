"""Prints tables of any number of rows as the rows come. The first page sets the widths of the columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, islice

import click
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from gowork.cli.output import table

#: How many rows make a page. The rows of the first page are measured before they are printed.
PAGE_ROWS = 200
#: The space between two columns, in cells.
_GAP = 2
#: The least width of a column that is made narrower for others, in cells.
_NARROW = 4


def print_rows(
    out: Console, columns: Sequence[str], rows: Iterable[Sequence[Text]], numbers: Iterable[str] = ()
) -> int:
    """Prints a table, and returns how many rows it has. Without rows it prints nothing.

    On a terminal, cells that are wider than their column are folded or cut. Elsewhere they are not cut, so that such a
    row is longer than the others.

    Args:
        out: the console to print to.
        columns: the headings.
        rows: a cell for each column. At most a page of them is in memory.
        numbers: the headings of columns that hold numbers.
    """
    coming = iter(rows)
    page = list(islice(coming, PAGE_ROWS))
    if not page:
        return 0
    right = [column in set(numbers) for column in columns]
    widths = [max(cell_len(heading), *(row[place].cell_len for row in page)) for place, heading in enumerate(columns)]
    count = 0
    if out.is_terminal or out.color_system is not None:
        widths = _fitted(widths, out.width)
    while page:
        if out.is_terminal or out.color_system is not None:
            _print_drawn(out, columns, page, widths, right, heading=not count)
        else:
            headings = [[Text(column) for column in columns]] if not count else []
            click.echo("".join(_line(row, widths, right) for row in chain(headings, page)), nl=False, file=out.file)
        count += len(page)
        page = list(islice(coming, PAGE_ROWS))
    return count


def _print_drawn(
    out: Console,
    columns: Sequence[str],
    page: Iterable[Sequence[Text]],
    widths: Sequence[int],
    right: Sequence[bool],
    *,
    heading: bool,
) -> None:
    drawn = table(*columns, numbers=[column for column, number in zip(columns, right, strict=True) if number])
    drawn.show_header = heading
    for column, width in zip(drawn.columns, widths, strict=True):
        column.width = width
    for row in page:
        drawn.add_row(*row)
    out.print(drawn)


def _line(row: Sequence[Text], widths: Sequence[int], right: Sequence[bool]) -> str:
    cells = []
    for cell, width, number in zip(row, widths, right, strict=True):
        room = " " * (width - cell.cell_len)
        cells.append(room + cell.plain if number else cell.plain + room)
    return (" " * _GAP).join(cells).rstrip() + "\n"


def _fitted(widths: Sequence[int], room: int) -> list[int]:
    """Returns the widths, with the widest column made narrower until all fit into `room` cells."""
    fitted = list(widths)
    over = sum(fitted) + _GAP * (len(fitted) - 1) - room
    while over > 0 and (widest := max(fitted)) > _NARROW:
        fitted[fitted.index(widest)] -= 1
        over -= 1
    return fitted
