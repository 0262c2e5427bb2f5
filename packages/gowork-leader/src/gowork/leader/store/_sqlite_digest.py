"""A digest of what a store holds, however SQLite has laid it out.

It reads logical rows: a lane is its key, not its number, which each store gives by itself. What is different in each
store is left out: the names of the store, and what it keeps of lanes and expiries of finished tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from gowork.leader.store._sqlite_errors import reported
from gowork.leader.store._sqlite_file import connect
from gowork.leader.store._sqlite_query import snapshot
from gowork.leader.store.protocol import StoreError

#: Changes when other rows, or other columns, are read: digests are equal only between stores that read the same.
_VERSION = 1
_ROWS = (
    """
    SELECT key, value FROM meta WHERE key IN ('generation', 'log_hash', 'log_index', 'term', 'watch_floor') ORDER BY key
    """,
    """
    SELECT specs.seq, specs.id, queue, handler, priority, labels, body, changed, status, at_ms,
    CASE WHEN status <= 2 THEN lanes.key END, CASE WHEN status <= 2 THEN expires_ms END, state
    FROM specs LEFT JOIN standings ON standings.seq = specs.seq LEFT JOIN lanes ON lanes.id = standings.lane
    ORDER BY specs.seq
    """,
    "SELECT kind, key, value FROM facts ORDER BY kind, key",
    "SELECT id, address, joined_ms FROM members ORDER BY id",
    "SELECT name, settings FROM queues ORDER BY name",
    "SELECT changed, id FROM tombstones ORDER BY changed, id",
)
#: After how many rows it is asked whether to stop.
_STEP_ROWS = 1_000

_encode = msgspec.msgpack.Encoder().encode


def digest(path: Path, stopped: Callable[[], bool], begun: Callable[[], object]) -> bytes:
    """Returns a SHA-256 over what the store at `path` holds at one moment. The store may be in use.

    Args:
        path: the path of a store.
        stopped: is called now and then; when it returns True, the digest is given up.
        begun: is called when the moment has come: what is committed later is not in the digest.

    Raises:
        StoreError: the store can't be read, or the digest was given up.
    """
    hashed = hashlib.sha256(_encode(_VERSION))
    with reported(str(path)):
        connection = connect(path, read_only=True)
        try:
            with snapshot(connection):
                # The transaction begins with the first read.
                connection.execute("SELECT count(*) FROM meta").fetchone()
                begun()
                for place, statement in enumerate(_ROWS):
                    # Between two tables, so that a row counts for its own. A row is an array, and this is a number.
                    hashed.update(_encode(place))
                    for number, row in enumerate(connection.execute(statement)):
                        hashed.update(_encode(row))
                        if number % _STEP_ROWS == 0 and stopped():
                            raise StoreError("The store closes: the digest was given up.")
        finally:
            connection.close()
    return hashed.digest()
