"""Makes tables that fit a given width and height: the least needed columns are left out, and cut rows are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

#: The space between two columns, in cells.
_GAP = 2
#: The first column, and those that give way, keep this width, in cells, as long as another column can be left out.
_NARROW = 16


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and how much it is needed."""

    heading: str
    #: When there is no room, the column with the highest number is left out first.
    goes: int = 0
    #: Whether its cells are numbers, which are aligned to the right.
    number: bool = False
    #: Whether it is made narrower before another column is left out.
    gives_way: bool = False


def fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[Text]], total: int, width: int, height: int
) -> RenderableType:
    """Makes a table of at most `width` cells and `height` lines.

    Args:
        columns: the columns; the first is always shown.
        rows: a cell for each column. Rows that are beyond the height may be left out.
        total: how many rows there are.
        width: in cells, at least 1.
        height: in lines, at least 2, with the heading and the line that counts the cut rows.
    """
    shown = rows if total < height else rows[: height - 2]
    widths = _widths(columns, shown, width)
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    for place, cells in widths.items():
        column = columns[place]
        table.add_column(
            column.heading,
            justify="right" if column.number else "left",
            width=cells,
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in shown:
        table.add_row(*(row[place] for place in widths))
    if len(shown) == total:
        return table
    more = Text(f"… and {total - len(shown):,} more", style="dim", no_wrap=True, overflow="ellipsis")
    return Group(table, more) if shown else more


def shared(lines: int, wants: Sequence[int], least: int) -> list[int]:
    """Shares lines among several tables evenly. Lines that one table does not want go to the others.

    Args:
        lines: how many lines there are.
        wants: how many lines each table would like.
        least: how many lines a table needs, unless it wants fewer. If there are not enough for all, the last tables get
            none.

    Returns:
        How many lines each table gets.
    """
    served = list(range(len(wants)))
    while served and sum(min(least, wants[place]) for place in served) > lines:
        served.pop()
    given = [0] * len(wants)
    for done, place in enumerate(sorted(served, key=lambda place: wants[place])):
        given[place] = min(wants[place], lines // (len(served) - done))
        lines -= given[place]
    return given


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> dict[int, int]:
    """Returns {place: width} of the columns that are shown."""
    wanted = [
        max(cell_len(column.heading), *(row[place].cell_len for row in rows), 1) if rows else cell_len(column.heading)
        for place, column in enumerate(columns)
    ]
    least = [
        min(wanted[place], _NARROW) if place == 0 or column.gives_way else wanted[place]
        for place, column in enumerate(columns)
    ]
    places = list(range(len(columns)))
    for place in range(len(columns) - 1, 0, -1):
        # An empty column is left out before another is made narrower.
        if _room(wanted, places) > width and not any(row[place] for row in rows):
            places.remove(place)
    while len(places) > 1 and _room(least, places) > width:
        places.remove(max(places[1:], key=lambda place: (columns[place].goes, place)))
    left = width - _room(least, places)
    widths: dict[int, int] = {}
    for place in places:
        more = min(max(left, 0), wanted[place] - least[place])
        widths[place] = least[place] + more
        left -= more
    if _room(least, places) > width:
        # Only the first column is left, and it does not fit.
        widths[0] = max(width, 1)
    return widths


def _room(widths: Sequence[int], places: Sequence[int]) -> int:
    return sum(widths[place] for place in places) + _GAP * (len(places) - 1)
