"""Reads records, many in one step of one statement.

Python gives up its lock for every row that it fetches, and then has to wait for it while the main thread computes. So
SQLite gathers rows into one: first the seqs and sizes of what is asked for, as a JSON text, then the records
themselves. Blobs of many rows are one blob, and the JSON text says how long each is.
"""

# ruff: noqa: S608 - values from users are bound, and none of them gets into the text of a statement.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import apsw
import msgspec

from gowork.leader._core.model import Standing, Status
from gowork.leader.store._sqlite_ids import TaskIds
from gowork.leader.store.codec import decode_standing
from gowork.leader.store.protocol import Query, Record

#: About how many bytes of records one statement fetches. For a moment they take about four times as much memory.
_FETCH_BYTES_MAX = 4 << 20
_UNFINISHED = frozenset({Status.PENDING, Status.RUNNING})

_encode_json = msgspec.json.Encoder().encode
decode_sizes = msgspec.json.Decoder(list[tuple[int, int]]).decode
_decode_records = msgspec.json.Decoder(list[tuple[int, str, int, int, int]]).decode
_decode_states = msgspec.json.Decoder(list[tuple[str, int]]).decode
_decode_counts = msgspec.json.Decoder(list[tuple[str, str, int, int]]).decode

# CROSS JOIN keeps SQLite from changing the order of the joins.
# All three go through the rows in the same order. group_concat takes the bytes of a blob as they are.
_RECORDS = """
    SELECT
        json_group_array(
            json_array(specs.seq, specs.id, standings.changed, length(specs.body), length(standings.state))
        ),
        CAST(group_concat(specs.body, '') AS BLOB),
        CAST(group_concat(standings.state, '') AS BLOB)
    FROM json_each(?) AS wanted
    CROSS JOIN specs ON specs.seq = wanted.value
    CROSS JOIN standings ON standings.seq = wanted.value
"""
SIZE = "length(specs.body) + length(standings.state)"
SIZES = f"""
    SELECT json_group_array(json_array(specs.seq, {SIZE}))
    FROM json_each(?) AS wanted
    CROSS JOIN specs ON specs.seq = wanted.value
    CROSS JOIN standings ON standings.seq = specs.seq
"""
STATE_SIZES = """
    SELECT json_group_array(json_array(standings.seq, length(standings.state)))
    FROM json_each(?) AS wanted
    CROSS JOIN standings ON standings.seq = wanted.value
"""
_STATES = """
    SELECT
        json_group_array(json_array(specs.id, length(standings.state))),
        CAST(group_concat(standings.state, '') AS BLOB)
    FROM json_each(?) AS wanted
    CROSS JOIN specs ON specs.seq = wanted.value
    CROSS JOIN standings ON standings.seq = wanted.value
"""
#: The five statuses are merged, because the index starts with the status.
_CHANGED = " UNION ALL ".join(
    f"SELECT changed FROM standings WHERE status = {int(status)} AND changed > :changed" for status in Status
)
CHANGED_SINCE = f"""
    SELECT json_group_array(json_array(seq, size)) FROM (
        SELECT standings.seq AS seq, {SIZE} AS size
        FROM standings INDEXED BY standings_by_status JOIN specs ON specs.seq = standings.seq
        WHERE standings.status IN (1, 2, 3, 4, 5) AND standings.changed > :changed AND standings.changed <= (
            SELECT max(changed) FROM ({_CHANGED} ORDER BY changed LIMIT :limit)
        )
    )
"""
_COUNTS = """
    SELECT json_group_array(json_array(queue, handler, status, tasks)) FROM (
        SELECT queue, handler, status, count(*) AS tasks
        FROM standings JOIN specs ON specs.seq = standings.seq GROUP BY queue, handler, status
    )
"""


@contextmanager
def snapshot(connection: apsw.Connection) -> Iterator[None]:
    """Has all reads inside see the same moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")


def load(connection: apsw.Connection, ids: Sequence[str], known: TaskIds) -> list[Record]:
    """See Store.load."""
    seqs = known.find(connection, ids)
    # Most ids are unknown, because each submit asks whether its ids are taken.
    if not seqs:
        return []
    text = connection.execute(SIZES, (_encode_json(seqs).decode(),)).get
    return [record for records in _fetched(connection, decode_sizes(text)) for record in records]


def standings(connection: apsw.Connection, ids: Sequence[str], known: TaskIds) -> list[tuple[str, Standing]]:
    """See Store.standings."""
    wanted = _encode_json(known.find(connection, ids)).decode()
    sizes = decode_sizes(connection.execute(STATE_SIZES, (wanted,)).get)
    found: list[tuple[str, Standing]] = []
    for seqs in _groups(sizes, _FETCH_BYTES_MAX):
        text, states = connection.execute(_STATES, (_encode_json(seqs).decode(),)).get
        end = 0
        for id, size in _decode_states(text):
            begin, end = end, end + size
            found.append((id, decode_standing(states[begin:end])))
    return found


def page(
    connection: apsw.Connection, query: Query, after: int | None, limit: int, bytes_max: int, known: TaskIds
) -> list[Record]:
    """See Store.page."""
    statement, values = page_statement(query, after, limit, seqs_of(connection, query, known))
    with snapshot(connection):
        sizes = decode_sizes(connection.execute(statement, values).get)
        sizes.sort(reverse=query.newest_first)
        return up_to(connection, sizes, bytes_max)


def up_to(connection: apsw.Connection, sizes: Sequence[tuple[int, int]], bytes_max: int) -> list[Record]:
    """Returns the first of these records, up to the one that brings the sum of their counted bytes to `bytes_max`."""
    found: list[Record] = []
    bytes_left = bytes_max
    for records in _fetched(connection, sizes, bytes_max):
        for record in records:
            found.append(record)
            bytes_left -= _counted_bytes(record)
            if bytes_left <= 0:
                return found
    return found


def changed_since(connection: apsw.Connection, changed: int, limit: int) -> list[Record]:
    """See Store.changed_since."""
    with snapshot(connection):
        sizes = decode_sizes(connection.execute(CHANGED_SINCE, {"changed": changed, "limit": limit}).get)
        found = [record for records in _fetched(connection, sizes) for record in records]
    found.sort(key=lambda record: (record.changed, record.seq))
    return found


def counts(connection: apsw.Connection) -> dict[tuple[str, str, Status], int]:
    """See Store.counts."""
    rows = _decode_counts(connection.execute(_COUNTS).get)
    return {(queue, handler, Status(status)): tasks for queue, handler, status, tasks in rows}


def _fetched(
    connection: apsw.Connection, sizes: Sequence[tuple[int, int]], bytes_max: int = _FETCH_BYTES_MAX
) -> Iterator[list[Record]]:
    """Yields the records with these seqs that are there, in this order, a few MiB at a time."""
    for seqs in _groups(sizes, min(bytes_max, _FETCH_BYTES_MAX)):
        text, bodies, states = connection.execute(_RECORDS, (_encode_json(seqs).decode(),)).get
        by_seq = {}
        body_end = state_end = 0
        for seq, task_id, changed, body_size, state_size in _decode_records(text):
            body_begin, state_begin = body_end, state_end
            body_end, state_end = body_begin + body_size, state_begin + state_size
            standing = decode_standing(states[state_begin:state_end])
            by_seq[seq] = Record(seq, task_id, changed, bodies[body_begin:body_end], standing)
        # One that was removed since its size was read is left out.
        yield [by_seq[seq] for seq in seqs if seq in by_seq]


def _groups(sizes: Sequence[tuple[int, int]], bytes_max: int) -> Iterator[list[int]]:
    """Yields some of these seqs, each time up to the one that brings the sum of their sizes to bytes_max."""
    seqs: list[int] = []
    size = 0
    for position, (seq, bytes_) in enumerate(sizes, 1):
        seqs.append(seq)
        size += bytes_
        if size >= bytes_max or position == len(sizes):
            yield seqs
            seqs, size = [], 0


def _counted_bytes(record: Record) -> int:
    standing: Standing = record.standing
    failure = standing.failure
    failure_bytes = len(failure.message) + len(failure.type) + len(failure.traceback) if failure is not None else 0
    return len(record.body) + len(standing.result) + len(standing.result_data) + failure_bytes


def seqs_of(connection: apsw.Connection, query: Query, known: TaskIds) -> list[int] | None:
    """Returns the seqs that a query's id leaves; None if it names no id."""
    id = next((value for column, value, equal in query.terms if column == "id" and equal), None)
    return None if id is None else known.find(connection, [str(id)])


def page_statement(
    query: Query, after: int | None, limit: int, seqs: Sequence[int] | None = None
) -> tuple[str, list[object]]:
    """Returns the statement that selects a page's seqs with their sizes, and the values that are bound to it.

    Args:
        query: what is selected.
        after: the page begins after this seq; None: it is the first.
        limit: how many tasks there are at most.
        seqs: see seqs_of.
    """
    conditions, values = conditions_of(query, seqs)
    if after is not None:
        conditions.append(f"standings.seq {'<' if query.newest_first else '>'} ?")
        values.append(after)
    direction = "DESC" if query.newest_first else "ASC"
    select = f"SELECT standings.seq AS seq, {SIZE} AS size FROM standings JOIN specs ON specs.seq = standings.seq"
    parts = [" AND ".join([*statuses, *conditions]) for statuses in _status_conditions(query)]
    selects = " UNION ALL ".join(f"{select} WHERE {part}" if part else select for part in parts)
    statement = f"""
        SELECT json_group_array(json_array(seq, size)) FROM ({selects} ORDER BY seq {direction} LIMIT ?)
    """
    return statement, [*values * len(parts), limit]


def conditions_of(query: Query, seqs: Sequence[int] | None = None) -> tuple[list[str], list[object]]:
    """Returns the conditions of a query, except the one on the status, and the values that are bound to them."""
    conditions: list[str] = []
    values: list[object] = []

    def require(condition: str, *given: object) -> None:
        conditions.append(condition)
        values.extend(given)

    if seqs is not None:
        require("standings.seq IN (SELECT value FROM json_each(?))", _encode_json(seqs).decode())
    for column, value, equal in query.terms:
        require(f"specs.{_COLUMNS[column]} {'=' if equal else '<>'} ?", value)
    for prefix, wanted in query.id_prefixes:
        # Not LIKE or GLOB, because some characters have a meaning in them.
        require(f"substr(specs.id, 1, ?) {'=' if wanted else '<>'} ?", len(prefix), prefix)
    for key, value, equal in query.labels:
        carried = "EXISTS (SELECT 1 FROM json_each(specs.labels) AS label WHERE label.key = ? AND label.value = ?)"
        require(carried if equal else f"NOT {carried}", key, value)
    return conditions, values


def _status_conditions(query: Query) -> list[list[str]]:
    """Returns the conditions on the status, a list for each of the selects that are merged."""
    if not query.statuses:
        return [[]]
    if query.statuses <= _UNFINISHED:
        # In these words SQLite sees that it can use the partial index, which has the pending tasks in order. It sorts
        # the running tasks, which are few.
        return [[f"standings.status = {int(status)}"] for status in sorted(query.statuses)]
    # The plus keeps SQLite from using an index with another order: it would sort all of the tasks for each page.
    return [[f"+standings.status IN ({', '.join(str(int(status)) for status in sorted(query.statuses))})"]]


#: {a name in a term: its column}. Another name is a mistake of the caller. Nothing else of a term gets into the text of
#: a statement.
_COLUMNS = {"id": "id", "queue": "queue", "handler": "handler", "priority": "priority"}
