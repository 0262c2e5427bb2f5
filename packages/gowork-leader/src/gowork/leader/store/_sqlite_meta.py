"""The rows of `meta`: the store's names, its term, and where it stands in the log that it belongs to.

The format tells whether it belongs to one, so that versions that know no log refuse it.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import apsw

from gowork.leader._core.model import Position, Restored
from gowork.leader.store._sqlite_schema import LOGGED
from gowork.leader.store.protocol import (
    RESTORE_TERMS,
    TERM_MAX,
    Opened,
    StoreError,
    StoreGenerationError,
    changed_number,
)

_PUT = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
_HOLDS_ANYTHING = """
    SELECT EXISTS (SELECT 1 FROM specs) OR EXISTS (SELECT 1 FROM facts) OR EXISTS (SELECT 1 FROM members)
    OR EXISTS (SELECT 1 FROM queues) OR EXISTS (SELECT 1 FROM tombstones)
    OR EXISTS (SELECT 1 FROM meta WHERE key = 'watch_floor' AND value > 0)
"""


def read_values(connection: apsw.Connection) -> dict[str, Any]:
    """Returns all rows: {key: value}."""
    return {str(key): value for key, value in connection.execute("SELECT key, value FROM meta")}


def read_opened(connection: apsw.Connection) -> Opened:
    """Returns what the store says of itself."""
    values = read_values(connection)
    highest = connection.execute("SELECT coalesce(max(seq), 0) FROM specs").get
    restored = Restored(values["restored_seq"], values["restored_fence"]) if "restored_seq" in values else None
    return Opened(
        values["term"], values["identity"], highest + 1, read_position(connection), values["store_id"], restored
    )


def read_position(connection: apsw.Connection) -> Position | None:
    """Returns where it stands in its log; None when it belongs to none."""
    values = read_values(connection)
    if "generation" not in values:
        return None
    return Position(values["generation"], values["log_index"], values["log_hash"])


def check_generation(connection: apsw.Connection, path: Path, generation: str | None) -> None:
    """Checks that the store may be used with a log of this generation; see LoggedStore.open_logged.

    Raises:
        StoreError: it may not.
    """
    position = read_position(connection)
    if position is None:
        # It has begun the generation that has its own id, and ended before it could note that.
        own = connection.execute("SELECT value FROM meta WHERE key = 'store_id'").fetchone()
        if generation is not None and own != (generation,) and _holds_anything(connection):
            raise StoreError(
                f"{path} belongs to no log and is not empty, and the log has begun already: it is at generation "
                f"{generation}. Move the store away, and this leader takes a copy from the others."
            )
    elif generation is None:
        # With a hash of zeros it has applied no entry: the leader ended before it could begin the generation.
        if any(position.hash):
            raise StoreError(
                f"{path} is at index {position.index} of generation {position.generation} of a log, and the log here "
                f"has not begun. Name the right log. If the store's log is lost, run `gowork store detach`. Then a "
                f"leader begins this log with the store, or uses it without a log."
            )
    elif position.generation != generation:
        raise StoreGenerationError(
            position.generation,
            f"{path} belongs to generation {position.generation} of a log, and the log here is at generation "
            f"{generation}. Name the right log, or move the store away, and this leader takes a copy from the others.",
        )


def check_next_term(connection: apsw.Connection, path: Path) -> None:
    """Checks that the store has a term left.

    Raises:
        StoreError: it has none.
    """
    term = connection.execute("SELECT value FROM meta WHERE key = 'term'").get
    if term >= TERM_MAX:
        raise StoreError(
            f"{path} has used up all {TERM_MAX:,} terms, so no leader can use it any more. Export the tasks into a new "
            f"store."
        )


def name(connection: apsw.Connection) -> None:
    """Gives the store an id, unless it has one."""
    if connection.execute("SELECT 1 FROM meta WHERE key = 'store_id'").fetchone() is None:
        connection.execute(_PUT, ("store_id", secrets.token_hex(16)))


def rename(connection: apsw.Connection) -> None:
    """Gives the store an id of its own, because it was made from another one."""
    connection.execute(_PUT, ("store_id", secrets.token_hex(16)))


def join(connection: apsw.Connection, position: Position, term: int) -> None:
    """Makes it belong to a log, in the transaction that is open."""
    rows = (
        ("generation", position.generation),
        ("log_hash", position.hash),
        ("log_index", position.index),
        ("term", term),
    )
    connection.executemany(_PUT, rows)
    version = connection.execute("PRAGMA user_version").get
    connection.execute(f"PRAGMA user_version = {LOGGED[version]}")


def begin_anew(connection: apsw.Connection, above: int = 0) -> None:
    """Makes it belong to no log, above all that was written after it was copied, in the transaction that is open.

    Args:
        connection: the store.
        above: a term that is known to have been given.
    """
    rename(connection)
    connection.execute("DELETE FROM meta WHERE key IN ('generation', 'log_hash', 'log_index')")
    connection.execute("UPDATE meta SET value = max(value, ?) + ? WHERE key = 'term'", (above, RESTORE_TERMS))
    term = connection.execute("SELECT value FROM meta WHERE key = 'term'").get
    # Watchers know tasks that came later and are not here, so their tokens must not be valid.
    connection.execute(_PUT, ("watch_floor", changed_number(term, 0)))
    # Its tasks may have run after the backup was made. Older versions ignore these rows.
    highest = connection.execute("SELECT coalesce(max(seq), 0) FROM specs").get
    connection.execute(_PUT, ("restored_seq", highest + 1))
    connection.execute(_PUT, ("restored_fence", changed_number(term, 0)))
    version = connection.execute("PRAGMA user_version").get
    for lone, logged in LOGGED.items():
        if version == logged:
            connection.execute(f"PRAGMA user_version = {lone}")


def _holds_anything(connection: apsw.Connection) -> bool:
    """Whether it holds, or has held, any task or fact."""
    return bool(connection.execute(_HOLDS_ANYTHING).get)
