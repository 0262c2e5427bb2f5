"""Writes one batch in as few statements as possible; `_sqlite_rows` says why."""

from __future__ import annotations

from typing import cast

import apsw
import msgspec

from gowork.leader._core.model import LaneKey
from gowork.leader.store._sqlite_facts import write_facts
from gowork.leader.store._sqlite_ids import TaskIds
from gowork.leader.store._sqlite_lanes import LaneIds
from gowork.leader.store._sqlite_rows import ROWS_MAX, RowsStatement
from gowork.leader.store._sqlite_schema import STANDING_COLUMNS
from gowork.leader.store.codec import at_ms, encode_standing
from gowork.leader.store.protocol import Batch, StoreError, StoreLostError

_encode_json = msgspec.json.Encoder().encode

_SPECS = RowsStatement("specs", ("seq", "id", "queue", "handler", "priority", "labels", "body"))
_MOVED = "changed = excluded.changed, status = excluded.status, at_ms = excluded.at_ms, state = excluded.state"
#: The term is compared in the statement itself, because the statement may be a whole transaction.
_IN_TERM = "? = (SELECT value FROM meta WHERE key = 'term')"
#: A move does not write the columns that it does not name, neither in the row nor in an index.
_STANDINGS = RowsStatement("standings", STANDING_COLUMNS, f"ON CONFLICT (seq) DO UPDATE SET {_MOVED}", _IN_TERM)
_STANDINGS_IN_LANES = RowsStatement(
    "standings",
    STANDING_COLUMNS,
    f"ON CONFLICT (seq) DO UPDATE SET {_MOVED}, lane = excluded.lane, expires_ms = excluded.expires_ms",
    _IN_TERM,
)
_TOMBSTONES = RowsStatement("tombstones", ("changed", "id"))
_DELETE_STANDINGS = """
    DELETE FROM standings WHERE seq IN (
        SELECT specs.seq FROM json_each(?) AS gone
        CROSS JOIN specs ON specs.seq = json_extract(gone.value, '$[0]') AND specs.id = json_extract(gone.value, '$[1]')
    )
"""
_DELETE_SPECS = "DELETE FROM specs WHERE seq IN (SELECT json_extract(value, '$[0]') FROM json_each(?))"


def write_batch(connection: apsw.Connection, batch: Batch, lanes: LaneIds, ids: TaskIds, term: int) -> None:
    """Writes the batch in a transaction of its own, if the store still has this term. When it raises, nothing is left.

    Raises:
        apsw.Error: an error of SQLite.
        StoreLostError: the store has another term, because another leader has opened it.
        StoreError: the batch contradicts itself or what is stored.
    """
    single = _is_one_statement(batch)
    try:
        if not single:
            # This takes no lock of the database, so it ends before another thread can ask for Python's lock. That is
            # safe, because nobody else writes.
            connection.execute("BEGIN")
        write_rows(connection, batch, lanes, ids, term)
        if not single:
            connection.execute("COMMIT")
            ids.settle()
    except BaseException as error:
        lanes.forget()
        ids.forget()
        if not isinstance(error, apsw.ConstraintError):
            raise
        raise StoreError(f"The batch contradicts the store, and nothing of it was written: {error}.") from error
    finally:
        # After some errors SQLite has rolled back by itself, and after others it has not.
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def write_rows(connection: apsw.Connection, batch: Batch, lanes: LaneIds, ids: TaskIds, term: int) -> None:
    """Writes the batch in the transaction that is open. After its commit, `ids` must settle.

    After an error the transaction must be rolled back, and lanes and ids forgotten.

    Raises:
        apsw.ConstraintError: the batch contradicts what is stored.
        apsw.Error, StoreLostError, StoreError: see write_batch.
    """
    if batch.deletes:
        _delete(connection, batch, ids)
    if batch.inserts or batch.moves:
        _write_tasks(connection, batch, lanes, ids, term)
    else:
        _compare_term(connection, term)
    if batch.facts or batch.facts_gone:
        write_facts(connection, batch.facts, batch.facts_gone)
    if batch.tombstones_before:
        _forget_removals(connection, batch.tombstones_before)


def _is_one_statement(batch: Batch) -> bool:
    """Whether the whole batch is one statement.

    A single statement is a transaction by itself, so Python's lock need not be given up and waited for twice more.
    """
    if batch.inserts or batch.deletes or batch.facts or batch.facts_gone:
        return False
    if batch.tombstones_before or len(batch.moves) > ROWS_MAX:
        return False
    return all(moved.lane is None for moved in batch.moves)


def _write_tasks(connection: apsw.Connection, batch: Batch, lanes: LaneIds, ids: TaskIds, term: int) -> None:
    # Keyed by identity, which is quicker, because most tasks of a batch share their lane's object.
    wanted: dict[int, LaneKey] = {id(new.lane): new.lane for new in batch.inserts}
    for moved in batch.moves:
        if moved.lane is not None:
            wanted[id(moved.lane)] = moved.lane
    numbers = dict(zip(wanted, lanes.numbers(connection, wanted.values()), strict=True)) if wanted else {}
    specs: list[object] = []
    standings: list[object] = []
    in_lanes: list[object] = []
    encode, at = encode_standing, at_ms
    for new in batch.inserts:
        record, lane = new.record, new.lane
        labels = _encode_json(dict(new.labels)).decode() if new.labels else None
        specs += (record.seq, record.id, lane.queue, lane.handler, int(lane.priority), labels, record.body)
        standing = record.standing
        standings += (
            record.seq,
            record.changed,
            int(standing.status),
            at(standing),
            numbers[id(lane)],
            new.expires_ms,
            new.state or encode(standing),
        )
    for moved in batch.moves:
        standing = moved.standing
        row = (moved.seq, moved.changed, int(standing.status), at(standing))
        state = moved.state or encode(standing)
        if moved.lane is None:
            standings += (*row, 0, 0, state)
        else:
            in_lanes += (*row, numbers[id(moved.lane)], moved.expires_ms, state)
    if specs:
        _SPECS.run(connection, specs)
        # To read the records again would take longer.
        new_seqs, new_ids = cast("list[int]", specs[:: _SPECS.width]), cast("list[str]", specs[1 :: _SPECS.width])
        ids.insert(connection, new_ids, new_seqs)
    written = 0
    if standings:
        written += _STANDINGS.run(connection, standings, term)
    if in_lanes:
        written += _STANDINGS_IN_LANES.run(connection, in_lanes, term)
    if written != len(batch.inserts) + len(batch.moves):
        raise _lost()


def _compare_term(connection: apsw.Connection, term: int) -> None:
    if connection.execute("SELECT value FROM meta WHERE key = 'term'").fetchone() != (term,):
        raise _lost()


def _lost() -> StoreLostError:
    return StoreLostError(
        "Another leader has opened the store, so this one accepts nothing more. Use a store with one leader at a time, "
        "and keep its file on a local disk, where locks work."
    )


def _delete(connection: apsw.Connection, batch: Batch, ids: TaskIds) -> None:
    gone = _encode_json([(deleted.seq, deleted.id) for deleted in batch.deletes]).decode()
    connection.execute(_DELETE_STANDINGS, (gone,))
    found = connection.changes()
    if found != len(batch.deletes):
        raise StoreError(
            f"The batch contradicts the store, and nothing of it was written: of {len(batch.deletes)} tasks to be "
            f"removed {found} are there."
        )
    connection.execute(_DELETE_SPECS, (gone,))
    ids.delete(connection, gone, [(deleted.id, deleted.seq) for deleted in batch.deletes])
    _TOMBSTONES.run(connection, [value for deleted in batch.deletes for value in (deleted.changed, deleted.id)])


def _forget_removals(connection: apsw.Connection, before: int) -> None:
    highest = connection.execute("SELECT max(changed) FROM tombstones WHERE changed < ?", (before,)).get
    if highest is not None:
        connection.execute("DELETE FROM tombstones WHERE changed < ?", (before,))
        connection.execute("UPDATE meta SET value = max(value, ?) WHERE key = 'watch_floor'", (highest,))
