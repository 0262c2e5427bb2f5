"""Writes one batch in as few statements as can be.

Python gives up its lock for every step of a statement and must wait for it afterwards, each time for some milliseconds
while the main thread computes. With a statement for every row a batch of 1,000 would take seconds then. So a statement
carries many rows, padded with empty ones to one of few sizes, so that each size is prepared once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from gowork.leader.store.codec import encode_standing
from gowork.leader.store.protocol import Batch, StoreError

_encode_json = msgspec.json.Encoder().encode
#: Rows of one statement. An empty row costs about a fifth of a full one. With seven columns the last size stays below
#: SQLite's 32,766 parameters.
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


class RowsStatement:
    """An INSERT of many rows, prepared for each of a few sizes.

    Args:
        table: where to.
        columns: its columns; the first is never NULL.
        conflict: what to do about rows that are there already; by default an error.
    """

    def __init__(self, table: str, columns: Sequence[str], conflict: str = "") -> None:
        self._width = len(columns)
        row = f"({', '.join('?' * self._width)})"
        # Only names from this module get into the text: values are bound.
        self._by_size = {
            size: f"INSERT INTO {table} ({', '.join(columns)}) "  # noqa: S608
            f"SELECT * FROM (VALUES {', '.join([row] * size)}) WHERE column1 IS NOT NULL {conflict}"
            for size in _SIZES
        }

    def run(self, connection: sqlite3.Connection, values: list[object]) -> None:
        """Inserts the rows whose values stand one after another."""
        width = self._width
        for start in range(0, len(values), _SIZES[-1] * width):
            chunk = values[start : start + _SIZES[-1] * width]
            rows = len(chunk) // width
            size = next(size for size in _SIZES if size >= rows)
            chunk += [None] * ((size - rows) * width)
            connection.execute(self._by_size[size], chunk)


_SPECS = RowsStatement("specs", ("seq", "id", "queue", "handler", "priority", "labels", "body"))
_STANDINGS = RowsStatement(
    "standings",
    ("seq", "changed", "status", "state"),
    "ON CONFLICT (seq) DO UPDATE SET changed = excluded.changed, status = excluded.status, state = excluded.state",
)
_MEMBERS = RowsStatement(
    "members",
    ("id", "address", "joined_ms"),
    "ON CONFLICT (id) DO UPDATE SET address = excluded.address, joined_ms = excluded.joined_ms",
)


def write_batch(connection: sqlite3.Connection, batch: Batch) -> None:
    """Writes the batch in a transaction of its own; when it raises, nothing of it is left.

    Raises:
        sqlite3.Error: as SQLite tells it.
        StoreError: the batch contradicts itself or what is stored.
    """
    specs, standings = _rows_of(batch)
    # Takes no lock yet, so that it is over before another thread can ask for Python's. Nobody else writes.
    connection.execute("BEGIN")
    try:
        if specs:
            _SPECS.run(connection, specs)
        if standings:
            _STANDINGS.run(connection, standings)
        if batch.members_gone:
            connection.execute(
                "DELETE FROM members WHERE id IN (SELECT value FROM json_each(?))",
                (_encode_json(list(batch.members_gone)).decode(),),
            )
        if batch.members:
            _MEMBERS.run(connection, [value for m in batch.members for value in (m.id, m.address, m.joined_ms)])
        connection.execute("COMMIT")
    except sqlite3.IntegrityError as error:
        raise StoreError(f"The batch contradicts the store, and nothing of it was written: {error}.") from error
    finally:
        # SQLite has rolled back by itself after some errors, and not after others.
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _rows_of(batch: Batch) -> tuple[list[object], list[object]]:
    specs: list[object] = []
    standings: list[object] = []
    encode = encode_standing
    for new in batch.inserts:
        record = new.record
        labels = _encode_json(dict(new.labels)).decode() if new.labels else None
        specs += (record.seq, record.id, new.queue, new.handler, int(new.priority), labels, record.body)
        standings += (record.seq, record.changed, int(record.standing.status), encode(record.standing))
    for moved in batch.moves:
        standings += (moved.seq, moved.changed, int(moved.standing.status), encode(moved.standing))
    return specs, standings
