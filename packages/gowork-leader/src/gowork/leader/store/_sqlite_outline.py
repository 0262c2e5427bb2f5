"""Says what a store's file is, without changing it or putting files beside it."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from gowork.leader._core.model import Position
from gowork.leader.store._sqlite_errors import reported
from gowork.leader.store._sqlite_file import connect, format_at
from gowork.leader.store._sqlite_meta import read_position, read_values
from gowork.leader.store.protocol import StoreError


class Outline(Struct, frozen=True):
    """What a store says of itself."""

    #: Of its tables; see _sqlite_schema.
    format: int
    #: Empty for a store that no version with store ids has opened yet.
    store_id: str
    term: int
    #: Where it stands in the log that it belongs to; None: it belongs to none.
    position: Position | None
    #: The size of the file, without SQLite's own log.
    size: int


def outline(path: Path) -> Outline:
    """Returns what the store at this path says of itself. A leader may use it meanwhile.

    Raises:
        StoreFormatError: there is something that this version can't use.
        StoreError: there is none, or it can't be read.
    """
    version = format_at(path, writable=False)
    if not version:
        raise StoreError(f"{path} is not there.")
    log = Path(f"{path}-wal")
    with reported(str(path)):
        # Without SQLite's log the file is whole, and then SQLite need not put files beside it.
        has_log = log.exists() and log.stat().st_size > 0
        connection = connect(path, read_only=True, immutable=not has_log)
        try:
            values = read_values(connection)
            position = read_position(connection)
        finally:
            connection.close()
    return Outline(version, values.get("store_id", ""), values["term"], position, path.stat().st_size)
