"""Tables are printed as their rows come."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console
from rich.text import Text

from gowork.cli.listing import PAGE_ROWS, print_rows


def test_a_page_is_printed_before_the_next_row_is_asked_for() -> None:
    kept = io.StringIO()

    def rows() -> Iterator[list[Text]]:
        for number in range(3 * PAGE_ROWS + 1):
            if number and number % PAGE_ROWS == 0:
                # Its heading, and all rows of the pages before.
                seen.append(kept.getvalue().count("\n"))
            yield [Text(str(number)), Text("x")]

    seen: list[int] = []
    assert print_rows(Console(file=kept, width=100_000), ("ID", ""), rows()) == 3 * PAGE_ROWS + 1
    # A page is known to be whole when its last row has come, so that none waits for the next page.
    assert seen == [PAGE_ROWS + 1, 2 * PAGE_ROWS + 1, 3 * PAGE_ROWS + 1]


def test_columns_stand_where_the_first_page_has_put_them_and_nothing_is_cut() -> None:
    kept = io.StringIO()
    rows = [[Text("a" * 5), Text("1"), Text("end")]] * PAGE_ROWS + [[Text("b" * 50), Text("12345"), Text("end")]]
    print_rows(Console(file=kept, width=100_000), ("ID", "N", ""), rows, ("N",))
    lines = kept.getvalue().splitlines()
    assert lines[0] == "ID     N"
    assert lines[1] == "aaaaa  1  end"
    assert lines[-1] == "b" * 50 + "  12345  end"


@pytest.mark.parametrize("width", [10, 20, 40, 80])
def test_a_terminal_is_never_too_narrow(width: int) -> None:
    kept = io.StringIO()
    out = Console(file=kept, width=width, force_terminal=True, color_system=None)
    rows = [[Text("日本" * 30), Text("1"), Text("y" * 30)]] * (PAGE_ROWS + 1)
    assert print_rows(out, ("ID", "N", "TEXT"), rows, ("N",)) == PAGE_ROWS + 1
    assert max(Text(line).cell_len for line in kept.getvalue().splitlines()) <= width


@pytest.mark.parametrize("terminal", [False, True])
def test_the_heading_stands_once_above_all_pages(terminal: bool) -> None:
    kept = io.StringIO()
    out = Console(file=kept, width=80, force_terminal=terminal, color_system=None)
    print_rows(out, ("ID",), [[Text("x")]] * (2 * PAGE_ROWS + 1))
    lines = kept.getvalue().splitlines()
    assert [number for number, line in enumerate(lines) if "ID" in line] == [0]
    assert sum(line.strip() == "x" for line in lines) == 2 * PAGE_ROWS + 1


def test_without_rows_nothing_is_printed() -> None:
    kept = io.StringIO()
    assert print_rows(Console(file=kept), ("ID",), []) == 0
    assert kept.getvalue() == ""
