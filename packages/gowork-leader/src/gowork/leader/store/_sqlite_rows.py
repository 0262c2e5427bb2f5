"""Inserts many rows in one statement.

Python gives up its lock for every step of a statement and must wait for it afterwards, each time for some milliseconds
while the main thread computes. With a statement for every row a batch of 1,000 would take seconds then. So a statement
carries many rows, padded with empty ones to one of few sizes, so that each size is prepared once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

#: Rows of one statement. An empty row costs about a fifth of a full one. With seven columns the last size stays below
#: SQLite's 32,766 parameters.
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
#: Rows that one statement carries at most.
ROWS_MAX = _SIZES[-1]


class RowsStatement:
    """An INSERT of many rows, prepared for each of a few sizes.

    Args:
        table: where to.
        columns: its columns; the first is never NULL.
        conflict: what to do about rows that are there already; by default an error.
        condition: what must hold for any row to be inserted; its parameters come to `run` last.
    """

    def __init__(self, table: str, columns: Sequence[str], conflict: str = "", condition: str = "TRUE") -> None:
        self._width = len(columns)
        row = f"({', '.join('?' * self._width)})"
        # Only names from this module get into the text: values are bound.
        self._by_size = {
            size: f"INSERT INTO {table} ({', '.join(columns)}) "  # noqa: S608
            f"SELECT * FROM (VALUES {', '.join([row] * size)}) WHERE column1 IS NOT NULL AND {condition} {conflict}"
            for size in _SIZES
        }

    def run(self, connection: sqlite3.Connection, values: list[object], *condition: object) -> int:
        """Inserts the rows whose values stand one after another, and answers how many were written."""
        width, written = self._width, 0
        for start in range(0, len(values), _SIZES[-1] * width):
            chunk = values[start : start + _SIZES[-1] * width]
            rows = len(chunk) // width
            size = next(size for size in _SIZES if size >= rows)
            chunk += [None] * ((size - rows) * width)
            written += connection.execute(self._by_size[size], [*chunk, *condition]).rowcount
        return written
