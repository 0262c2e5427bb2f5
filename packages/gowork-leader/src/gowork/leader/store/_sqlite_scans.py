"""Reads what the leader needs to go on: lanes page by page, timers, finished tasks and removals.

Each statement names the index that it uses, so it can't be prepared without that index. It gathers its rows into one
JSON text, as the statements of `_sqlite_query` do.
"""

# ruff: noqa: S608 - the texts are constant; values are bound.

from __future__ import annotations

from collections.abc import Mapping, Sequence

import apsw
import msgspec

from gowork.leader._core.model import FINISHED as FINISHED_STATUSES
from gowork.leader._core.model import Brief, LaneKey, Status
from gowork.leader.store._sqlite_ids import TaskIds
from gowork.leader.store._sqlite_lanes import key_text, lane_of
from gowork.leader.store._sqlite_query import SIZE, conditions_of, decode_sizes, seqs_of, snapshot, up_to
from gowork.leader.store.protocol import Finished, Query, Record, Timer

_decode_waiting = msgspec.json.Decoder(list[tuple[str, int]]).decode
_decode_rows = msgspec.json.Decoder(list[tuple[int, int, int]]).decode
_decode_timers = msgspec.json.Decoder(list[Timer]).decode
_decode_finished = msgspec.json.Decoder(list[tuple[int, str, int, int]]).decode
_decode_counts = msgspec.json.Decoder(list[int]).decode
_decode_removals = msgspec.json.Decoder(list[tuple[int, str]]).decode

WAITING = """
    SELECT json_group_array(json_array(lanes.key, tasks)) FROM (
        SELECT lane, count(*) AS tasks FROM standings INDEXED BY standings_waiting
        WHERE status = 1 AND at_ms = 0 GROUP BY lane
    ) JOIN lanes ON lanes.id = lane
"""
LANE_PAGE = f"""
    SELECT json_group_array(json_array(seq, size)) FROM (
        SELECT standings.seq AS seq, {SIZE} AS size
        FROM standings INDEXED BY standings_waiting CROSS JOIN specs ON specs.seq = standings.seq
        WHERE status = 1 AND at_ms = 0 AND lane = (SELECT id FROM lanes WHERE key = ?) AND standings.seq > ?
        ORDER BY standings.seq LIMIT ?
    )
"""
RUNNING = f"""
    SELECT json_group_array(json_array(changed, seq, size)) FROM (
        SELECT standings.changed AS changed, standings.seq AS seq, {SIZE} AS size
        FROM standings INDEXED BY standings_by_status CROSS JOIN specs ON specs.seq = standings.seq
        WHERE status = 2 AND changed = :changed AND standings.seq > :seq
        UNION ALL
        SELECT standings.changed AS changed, standings.seq AS seq, {SIZE} AS size
        FROM standings INDEXED BY standings_by_status CROSS JOIN specs ON specs.seq = standings.seq
        WHERE status = 2 AND changed > :changed
        ORDER BY changed, seq LIMIT :limit
    )
"""


def _timers_statement(column: str, index: str) -> str:
    # Two parts, because a comparison of pairs would go through all tasks with the first time, which may be a million.
    part = f"SELECT {column} AS at, seq FROM standings INDEXED BY {index} WHERE status = 1 AND {column} > 0"
    return f"""
        SELECT json_group_array(json_array(at, specs.seq, specs.id)) FROM (
            {part} AND {column} = :at AND seq > :seq UNION ALL {part} AND {column} > :at
            ORDER BY at, seq LIMIT :limit
        ) AS due CROSS JOIN specs ON specs.seq = due.seq
    """


DELAYED = _timers_statement("at_ms", "standings_delayed")
EXPIRING = _timers_statement("expires_ms", "standings_expiring")
DELAYED_COUNTS = """
    SELECT json_group_array(json_array(lanes.key, tasks)) FROM (
        SELECT lane, count(*) AS tasks FROM standings INDEXED BY standings_delayed
        WHERE status = 1 AND at_ms > 0 GROUP BY lane
    ) JOIN lanes ON lanes.id = lane
"""
FINISHED_COUNTS = """
    SELECT (SELECT count(*) FROM standings INDEXED BY standings_by_status WHERE status = 5),
    (SELECT count(*) FROM standings INDEXED BY standings_by_status WHERE status IN (3, 4))
"""


def _finished_statement(*statuses: int) -> str:
    parts = (
        f"""
            SELECT changed, seq FROM standings INDEXED BY standings_by_status
            WHERE status = {status} AND (changed, seq) > (:changed, :seq)
        """
        for status in statuses
    )
    return f"""
        SELECT json_group_array(json_array(specs.seq, specs.id, first.changed, standings.at_ms)) FROM (
            {" UNION ALL ".join(parts)} ORDER BY changed, seq LIMIT :limit
        ) AS first CROSS JOIN standings ON standings.seq = first.seq CROSS JOIN specs ON specs.seq = first.seq
    """


#: {status is ERROR: statement}
FINISHED = {True: _finished_statement(5), False: _finished_statement(3, 4)}
LAST_FAILED = f"""
    SELECT json_group_array(json_array(changed, seq, size)) FROM (
        SELECT standings.changed AS changed, standings.seq AS seq, {SIZE} AS size
        FROM standings INDEXED BY standings_by_status CROSS JOIN specs ON specs.seq = standings.seq
        WHERE status = 5 ORDER BY standings.changed DESC, standings.seq DESC LIMIT ?
    )
"""
BRIEFS = """
    SELECT json_group_array(json_array(specs.seq, specs.id, standings.status, standings.at_ms))
    FROM json_each(?) AS wanted
    CROSS JOIN specs ON specs.seq = wanted.value
    CROSS JOIN standings ON standings.seq = specs.seq
"""
#: How many have each status, from 1 to 5. The second select has the tasks whose ids are not in `ids` yet. The ids of
#: children begin with the group's id and a slash, and `0` is the character after the slash.
CHILDREN = """
    SELECT json_array(
        count(*) FILTER (WHERE status = 1), count(*) FILTER (WHERE status = 2), count(*) FILTER (WHERE status = 3),
        count(*) FILTER (WHERE status = 4), count(*) FILTER (WHERE status = 5)
    )
    FROM (
        SELECT seq, id FROM ids WHERE id >= :first AND id < :last AND seq > :above
        UNION ALL
        SELECT seq, id FROM specs
        WHERE seq > :above AND seq >= (SELECT value FROM meta WHERE key = 'ids_from')
            AND id >= :first AND id < :last AND NOT EXISTS (SELECT 1 FROM ids WHERE ids.id = specs.id)
    ) AS found
    CROSS JOIN standings ON standings.seq = found.seq
    WHERE instr(substr(found.id, length(:first) + 1), '/') = 0
"""
DELETED_SINCE = """
    SELECT json_group_array(json_array(changed, id)) FROM (
        SELECT changed, id FROM tombstones WHERE changed > :changed AND changed <= (
            SELECT max(changed) FROM (
                SELECT changed FROM tombstones WHERE changed > :changed ORDER BY changed LIMIT :limit
            )
        ) ORDER BY changed, id
    )
"""


def waiting(connection: apsw.Connection) -> list[tuple[LaneKey, int]]:
    """See Store.waiting."""
    return [(lane_of(key), tasks) for key, tasks in _decode_waiting(_text(connection, WAITING))]


def lane_page(connection: apsw.Connection, lane: LaneKey, after: int, limit: int, bytes_max: int) -> list[Record]:
    """See Store.lane_page."""
    with snapshot(connection):
        sizes = sorted(decode_sizes(_text(connection, LANE_PAGE, (key_text(lane), after, limit))))
        return up_to(connection, sizes, bytes_max)


def running_page(connection: apsw.Connection, after: tuple[int, int], limit: int, bytes_max: int) -> list[Record]:
    """Returns the next running tasks after this (changed, seq)."""
    values = {"changed": after[0], "seq": after[1], "limit": limit}
    with snapshot(connection):
        rows = sorted(_decode_rows(_text(connection, RUNNING, values)))
        return up_to(connection, [(seq, size) for _, seq, size in rows], bytes_max)


def delayed(connection: apsw.Connection, after: tuple[int, int] | None, limit: int) -> list[Timer]:
    """See Store.delayed."""
    return _timers(connection, DELAYED, after, limit)


def expiring(connection: apsw.Connection, after: tuple[int, int] | None, limit: int) -> list[Timer]:
    """See Store.expiring."""
    return _timers(connection, EXPIRING, after, limit)


def delayed_counts(connection: apsw.Connection) -> list[tuple[LaneKey, int]]:
    """See Store.delayed_counts."""
    return [(lane_of(key), tasks) for key, tasks in _decode_waiting(_text(connection, DELAYED_COUNTS))]


def finished_counts(connection: apsw.Connection) -> tuple[int, int]:
    """See Store.finished_counts."""
    failed, others = connection.execute(FINISHED_COUNTS).get
    return failed, others


def select_finished(
    connection: apsw.Connection, query: Query, before_ms: int | None, limit: int, known: TaskIds
) -> list[Brief]:
    """See Store.select_finished."""
    statuses = FINISHED_STATUSES & query.statuses if query.statuses else FINISHED_STATUSES
    if not statuses:
        return []
    conditions, values = conditions_of(query, seqs_of(connection, query, known))
    conditions.append(f"+standings.status IN ({', '.join(str(int(status)) for status in sorted(statuses))})")
    if before_ms is not None:
        conditions.append("standings.at_ms < ?")
        values.append(before_ms)
    statement = f"""
        SELECT json_group_array(json_array(seq, id, status, at_ms)) FROM (
            SELECT standings.seq, specs.id, standings.status, standings.at_ms
            FROM standings JOIN specs ON specs.seq = standings.seq
            WHERE {" AND ".join(conditions)} ORDER BY standings.seq LIMIT ?
        )
    """
    rows = sorted(_decode_finished(_text(connection, statement, [*values, limit])))
    return [Brief(seq, id, Status(status), at_ms) for seq, id, status, at_ms in rows]


def briefs(connection: apsw.Connection, ids: Sequence[str], known: TaskIds) -> list[Brief]:
    """See Store.briefs."""
    wanted = msgspec.json.encode(known.find(connection, ids)).decode()
    rows = _decode_finished(_text(connection, BRIEFS, (wanted,)))
    return [Brief(seq, id, Status(status), at_ms) for seq, id, status, at_ms in rows]


def finished(connection: apsw.Connection, failed: bool, limit: int, after: tuple[int, int]) -> list[Finished]:
    """See Store.finished."""
    values = {"limit": limit, "changed": after[0], "seq": after[1]}
    return [Finished(*row) for row in _decode_finished(_text(connection, FINISHED[failed], values))]


def last_failed(connection: apsw.Connection, limit: int, bytes_max: int) -> list[Record]:
    """See Store.last_failed."""
    with snapshot(connection):
        rows = sorted(_decode_rows(_text(connection, LAST_FAILED, (limit,))), reverse=True)
        return up_to(connection, [(seq, size) for _, seq, size in rows], bytes_max)


def children(connection: apsw.Connection, groups: Sequence[tuple[str, int]]) -> list[Mapping[Status, int]]:
    """See Store.children."""
    counted: list[Mapping[Status, int]] = []
    for id, above in groups:
        values = {"first": f"{id}/", "last": f"{id}0", "above": above}
        counts = _decode_counts(_text(connection, CHILDREN, values))
        counted.append({Status(status): tasks for status, tasks in enumerate(counts, 1) if tasks})
    return counted


def deleted_since(connection: apsw.Connection, changed: int, limit: int) -> list[tuple[int, str]]:
    """See Store.deleted_since."""
    return _decode_removals(_text(connection, DELETED_SINCE, {"changed": changed, "limit": limit}))


def watch_floor(connection: apsw.Connection) -> int:
    """See Store.watch_floor."""
    floor = connection.execute("SELECT value FROM meta WHERE key = 'watch_floor'").get
    return int(floor)


def _timers(connection: apsw.Connection, statement: str, after: tuple[int, int] | None, limit: int) -> list[Timer]:
    at, seq = after or (0, 0)
    return sorted(_decode_timers(_text(connection, statement, {"at": at, "seq": seq, "limit": limit})))


def _text(connection: apsw.Connection, statement: str, values: Sequence[object] | Mapping[str, object] = ()) -> str:
    text: str = connection.execute(statement, values).get
    return text
