"""Tables that fit a given room: the least needed columns go first, and rows that are cut off are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

#: Between two columns.
_GAP = 2
#: The first column, and those that give way, are not made narrower than this while another can go.
_NARROW = 16


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and how much it is needed."""

    heading: str
    #: Of two columns the one with the higher number goes first when there is no room.
    goes: int = 0
    number: bool = False
    #: Is cut rather than that another column goes.
    gives_way: bool = False


def fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[Text]], total: int, width: int, height: int
) -> RenderableType:
    """A table of at most `width` cells and `height` lines.

    Args:
        columns: the first is always shown.
        rows: a cell for each column; none is needed that is beyond the height.
        total: how many rows there are.
        width: in cells, at least 1.
        height: in lines, its heading and the line that counts what is cut off included; at least 2.
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
    """Shares lines fairly: what one does not want is left to the others.

    Args:
        lines: how many there are.
        wants: how many each would like.
        least: with less than that, or than it wants, one gets nothing; the last ones first.
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
    """The columns that are shown, by place, with their widths."""
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
        # A column that says nothing goes before another is made narrower for it.
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
        # The first column alone, and that does not fit.
        widths[0] = max(width, 1)
    return widths


def _room(widths: Sequence[int], places: Sequence[int]) -> int:
    return sum(widths[place] for place in places) + _GAP * (len(places) - 1)
