"""Brings a store of an older format to the present one, in one transaction, and adds tables that came later."""

from __future__ import annotations

import logging
from pathlib import Path

import apsw
import msgspec
from msgspec.structs import replace

from gowork.leader._core.model import PENDING
from gowork.leader.store._sqlite_errors import damaged, reported
from gowork.leader.store._sqlite_file import connect
from gowork.leader.store._sqlite_lanes import LaneIds
from gowork.leader.store._sqlite_lower import raise_format
from gowork.leader.store._sqlite_rows import RowsStatement
from gowork.leader.store._sqlite_schema import (
    ADDED_TO_2,
    FORMAT,
    FORMAT_LOGGED,
    LOGGED,
    META,
    STANDING_COLUMNS,
    TABLES_OF_2,
)
from gowork.leader.store.codec import at_ms, decode_standing, encode_standing, restore
from gowork.leader.store.protocol import Record, StoreFormatError

logger = logging.getLogger(__name__)

#: How many rows, and how many bytes of standings, one statement writes at most.
_ROWS_MAX = 500
_BYTES_MAX = 4 << 20

_STANDINGS = RowsStatement("standings", STANDING_COLUMNS)
#: The bodies of finished tasks are not read.
_OLD_STANDINGS = """
    SELECT old.seq, specs.id, old.changed, old.state, CASE WHEN old.status <= 2 THEN specs.body END
    FROM standings_1 AS old CROSS JOIN specs ON specs.seq = old.seq ORDER BY old.seq
"""


def migrate(path: Path, version: int) -> None:
    """Brings the store at this path from format `version` to FORMAT. When it raises, the store is as it was.

    One that belongs to a log is brought to FORMAT_LOGGED. Only format 1 takes time and room.

    Raises:
        StoreFormatError: a task in it can't be read.
        StoreFullError: there is no room. For a while the store takes up to twice its size.
    """
    to = FORMAT_LOGGED if version in LOGGED.values() else FORMAT
    logger.info("store is brought to a new format", extra={"store": str(path), "from": version, "to": to})
    with reported(str(path)):
        connection = connect(path)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            if version == 1:
                _from_1_to_2(connection)
                connection.execute("PRAGMA user_version = 2")
            raise_format(connection)
            connection.execute("COMMIT")
            # The log may be as long as the database now. It is merged, so that the leader starts with a short one.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except (msgspec.MsgspecError, ValueError, StoreFormatError) as error:
            raise damaged(str(path), f"a task can't be read ({error})") from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            connection.close()
    logger.info("store has the new format", extra={"store": str(path), "format": to})


def add_missing(connection: apsw.Connection) -> None:
    """Adds the tables that format 2 got later, if the store lacks them."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for name, statement in ADDED_TO_2.items():
        if name not in tables:
            connection.execute(statement)


def _from_1_to_2(connection: apsw.Connection) -> None:
    """Writes lanes and times of unfinished tasks to columns, because format 1 has them only in the bodies."""
    for index in ("standings_by_changed", "standings_unfinished"):
        connection.execute(f"DROP INDEX {index}")
    connection.execute("ALTER TABLE standings RENAME TO standings_1")
    # Indexes are made later, because that is quickest when the rows are there.
    for statement in (sql for sql in TABLES_OF_2 if sql.startswith("CREATE TABLE")):
        connection.execute(statement)
    lanes = LaneIds()
    rows: list[object] = []
    row_bytes = 0
    for seq, id, changed, state, body in connection.execute(_OLD_STANDINGS):
        standing = decode_standing(state)
        lane_number = expires_ms = 0
        if body is not None:
            task = restore(Record(seq, id, changed, body, standing))
            (lane_number,) = lanes.numbers(connection, [task.spec.lane])
            expires_ms = task.spec.expires_at_ms
            run_at_ms = 0 if standing.grants else task.spec.run_at_ms
            if standing.status is PENDING and run_at_ms > standing.not_before_ms:
                standing = replace(standing, not_before_ms=run_at_ms)
                state = encode_standing(standing)
        rows += (seq, changed, int(standing.status), at_ms(standing), lane_number, expires_ms, state)
        row_bytes += len(state)
        if len(rows) >= _ROWS_MAX * len(STANDING_COLUMNS) or row_bytes >= _BYTES_MAX:
            _STANDINGS.run(connection, rows)
            rows, row_bytes = [], 0
    _STANDINGS.run(connection, rows)
    connection.execute("DROP TABLE standings_1")
    for statement in (sql for sql in TABLES_OF_2 if not sql.startswith("CREATE TABLE")):
        connection.execute(statement)
    connection.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", META.items())
