"""Brings a store to format 4, and back to format 2, so that an older version can use it; with a log, 5 and 3.

The table `ids` of format 4 has the same rows, in the same order and the same bytes, as the index that the unique ids of
format 2 have. Only the schema says which of both it is. So both ways take no time and no room, however large the store
is. https://www.sqlite.org/fileformat2.html §2.4 and §2.5
"""

# ruff: noqa: S608 - the texts are constant; values are bound.

from __future__ import annotations

from pathlib import Path

import apsw

from gowork.leader.store._sqlite_errors import reported
from gowork.leader.store._sqlite_file import FileLock, connect, format_at
from gowork.leader.store._sqlite_ids import complete
from gowork.leader.store._sqlite_schema import IDS, LOWER, SPECS, SPECS_OF_1
from gowork.leader.store.protocol import StoreError

#: The name that SQLite gives to the index of the first unique column.
_INDEX = "sqlite_autoindex_specs_1"
_TO_TABLE = f"UPDATE sqlite_schema SET type = 'table', name = 'ids', tbl_name = 'ids', sql = ? WHERE name = '{_INDEX}'"
_TO_INDEX = f"""
    UPDATE sqlite_schema SET type = 'index', name = '{_INDEX}', tbl_name = 'specs', sql = NULL
    WHERE type = 'table' AND name = 'ids'
"""
_SPECS = "UPDATE sqlite_schema SET sql = ? WHERE type = 'table' AND name = 'specs'"


def raise_format(connection: apsw.Connection) -> None:
    """Brings a store of format 2 or 3 to 4 or 5, in the transaction that is open."""
    version = connection.execute("PRAGMA user_version").get
    _rewrite(connection, [(_SPECS, (SPECS,)), (_TO_TABLE, (IDS,))])
    complete(connection)
    connection.execute(f"PRAGMA user_version = {next(new for new, old in LOWER.items() if old == version)}")


def lower(connection: apsw.Connection) -> None:
    """Brings a store of format 4 or 5 to 2 or 3, in the transaction that is open. One of these is left as it is."""
    version = connection.execute("PRAGMA user_version").get
    if version not in LOWER:
        return
    complete(connection)
    connection.execute("DELETE FROM meta WHERE key = 'ids_from'")
    _rewrite(connection, [(_SPECS, (SPECS_OF_1,)), (_TO_INDEX, ())])
    connection.execute(f"PRAGMA user_version = {LOWER[version]}")


def downgrade(path: Path) -> int:
    """Brings the closed store at this path to the format that older versions use, durably. Returns that format.

    Raises:
        StoreFormatError: there is something that this version can't use.
        StoreLockedError: a leader uses it.
        StoreError: there is none, it has that format already, or it can't be written.
    """
    if not path.is_file():
        # Told before the lock is taken, because that makes a file beside it.
        raise StoreError(f"{path} is not there, or is no file, so it was left as it is.")
    lock = FileLock(path)
    try:
        version = format_at(path)
        if version not in LOWER:
            what = f"has format {version} already" if version else "is not there"
            raise StoreError(f"{path} {what}, so it was left as it is.")
        with reported(str(path)):
            connection = connect(path)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("BEGIN IMMEDIATE")
                lower(connection)
                connection.execute("COMMIT")
            finally:
                connection.close()
    finally:
        lock.release()
    return LOWER[version]


def _rewrite(connection: apsw.Connection, statements: list[tuple[str, tuple[str, ...]]]) -> None:
    """Changes what the schema says.

    https://www.sqlite.org/pragma.html#pragma_writable_schema
    """
    number = connection.execute("PRAGMA schema_version").get
    connection.execute("PRAGMA writable_schema = ON")
    try:
        for statement, values in statements:
            connection.execute(statement, values)
            if connection.changes() != 1:
                raise StoreError("The schema of the store is not what it should be, so it was left as it is.")
        # Tells all connections to read the schema again.
        connection.execute(f"PRAGMA schema_version = {number + 1}")
    finally:
        connection.execute("PRAGMA writable_schema = RESET")
