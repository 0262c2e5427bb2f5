"""Inserts many rows in one statement.

Python gives up its lock for every step of a statement, and then waits for it, each time for some milliseconds while the
main thread computes. With a statement for every row, a batch of 1,000 rows could take seconds. So a statement has many
rows. It is padded with empty rows to one of a few sizes, so that each size is prepared once.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

#: How many rows a statement may have. An empty row costs about a fifth of a full one. With seven columns the text of
#: the last size stays below 16,384 bytes: apsw keeps no longer statement for the next time.
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 384, 512, 768)
#: How many rows one statement has at most.
ROWS_MAX = _SIZES[-1]


class RowsStatement:
    """An INSERT of many rows, prepared for each of a few sizes.

    Args:
        table: the table to insert into.
        columns: its columns; the first is never NULL.
        conflict: the clause for rows that are there already; without one they are an error.
        condition: must hold for any row to be inserted; `run` takes its parameters last.
    """

    def __init__(self, table: str, columns: Sequence[str], conflict: str = "", condition: str = "TRUE") -> None:
        #: How many columns it has.
        self.width = len(columns)
        row = f"({','.join('?' * self.width)})"
        # Only constant names get into the text. Values are bound.
        self._by_size = {
            size: f"INSERT INTO {table} ({', '.join(columns)}) "  # noqa: S608
            f"SELECT * FROM (VALUES {','.join([row] * size)}) WHERE column1 IS NOT NULL AND {condition} {conflict}"
            for size in _SIZES
        }

    def run(self, connection: apsw.Connection, values: list[object], *condition: object) -> int:
        """Inserts the rows whose values follow one another in `values`. Returns how many were written."""
        width, written = self.width, 0
        for start in range(0, len(values), _SIZES[-1] * width):
            chunk = values[start : start + _SIZES[-1] * width]
            rows = len(chunk) // width
            size = next(size for size in _SIZES if size >= rows)
            chunk += [None] * ((size - rows) * width)
            connection.execute(self._by_size[size], [*chunk, *condition])
            written += connection.changes()
        return written
