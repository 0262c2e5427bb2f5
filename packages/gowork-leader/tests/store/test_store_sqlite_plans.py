"""No statement that the leader goes by reads more than it needs: each scan has its index, and nothing is sorted."""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import apsw
import pytest

from gowork.leader._core.model import Status
from gowork.leader.store import _sqlite_facts, _sqlite_ids, _sqlite_lanes, _sqlite_query, _sqlite_scans
from gowork.leader.store.conformance import new_task
from gowork.leader.store.protocol import Batch, Query
from gowork.leader.store.sqlite import SqliteStore

NAMED = {"changed": 0, "seq": 0, "limit": 1, "at": 0}
CHILDREN = {"first": "g/", "last": "g0", "above": 0}
FACTS = {"kind": "k", "after": "", "limit": 1}


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[apsw.Connection]:
    store = SqliteStore(tmp_path / "gowork.db")
    await store.open()
    await store.commit(Batch([new_task(1)]))
    await store.close()
    connection = apsw.Connection(str(tmp_path / "gowork.db"))
    yield connection
    connection.close()


def plan(connection: apsw.Connection, statement: str, values: Sequence[object] | Mapping[str, object]) -> list[str]:
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


SCANS = [
    ("ids", _sqlite_ids.FOUND, ("[]",), "ids USING PRIMARY KEY (id=?)"),
    ("sizes", _sqlite_query.SIZES, ("[]",), "specs USING INTEGER PRIMARY KEY (rowid=?)"),
    ("sizes of states", _sqlite_query.STATE_SIZES, ("[]",), "standings USING INTEGER PRIMARY KEY (rowid=?)"),
    ("waiting", _sqlite_scans.WAITING, (), "INDEX standings_waiting"),
    (
        "lane_page",
        _sqlite_scans.LANE_PAGE,
        ("", 0, 1),
        "standings_waiting (lane=? AND rowid>?)",
    ),
    ("delayed", _sqlite_scans.DELAYED, NAMED, "standings_delayed (at_ms=? AND rowid>?)"),
    (
        "expiring",
        _sqlite_scans.EXPIRING,
        NAMED,
        "standings_expiring (expires_ms=? AND rowid>?)",
    ),
    ("running", _sqlite_scans.RUNNING, NAMED, "standings_by_status (status=? AND changed=? AND rowid>?)"),
    ("finished_counts", _sqlite_scans.FINISHED_COUNTS, (), "COVERING INDEX standings_by_status (status=?)"),
    ("failed", _sqlite_scans.FINISHED[True], NAMED, "standings_by_status (status=? AND changed>?)"),
    ("finished", _sqlite_scans.FINISHED[False], NAMED, "standings_by_status (status=? AND changed>?)"),
    ("last_failed", _sqlite_scans.LAST_FAILED, (1,), "standings_by_status (status=?)"),
    ("changed_since", _sqlite_query.CHANGED_SINCE, NAMED, "standings_by_status (status=? AND changed>?)"),
    ("children", _sqlite_scans.CHILDREN, CHILDREN, "ids USING PRIMARY KEY (id>? AND id<?)"),
    ("deleted_since", _sqlite_scans.DELETED_SINCE, NAMED, "PRIMARY KEY (changed>? AND changed<?)"),
    ("facts", _sqlite_facts._FACTS._page, FACTS, "PRIMARY KEY (kind=? AND key>?)"),
    ("unused lanes", _sqlite_lanes.DROP_UNUSED, (), "standings_by_status (status=?)"),
]


@pytest.mark.parametrize(
    ("statement", "values", "index"), [scan[1:] for scan in SCANS], ids=[scan[0] for scan in SCANS]
)
async def test_a_scan_goes_by_its_index_and_sorts_nothing(
    connection: apsw.Connection, statement: str, values: Sequence[object] | Mapping[str, object], index: str
) -> None:
    steps = plan(connection, statement, values)
    assert any(index in step for step in steps), steps
    assert not [step for step in steps if "TEMP B-TREE" in step], steps
    # What is scanned rather than searched is what another step has selected, or an index that has no more than that.
    scanned = [step for step in steps if step.startswith(("SCAN standings", "SCAN specs", "SCAN tombstones"))]
    assert all("USING" in step and "INDEX" in step for step in scanned), steps


async def test_a_page_that_asks_for_an_id_looks_it_up(connection: apsw.Connection) -> None:
    query = Query(frozenset({Status.PENDING}), (("id", "a", True),))
    steps = plan(connection, *_sqlite_query.page_statement(query, None, 10, [1]))
    assert any("INTEGER PRIMARY KEY (rowid=?)" in step for step in steps), steps
    assert not [step for step in steps if step.startswith(("SCAN standings", "SCAN specs"))], steps


@pytest.mark.parametrize(
    ("query", "after", "indexes"),
    [
        (Query(), 5, ["INTEGER PRIMARY KEY (rowid>?)"]),
        (Query(newest_first=True), 5, ["INTEGER PRIMARY KEY (rowid<?)"]),
        (Query(frozenset({Status.PENDING})), 5, ["standings_pending (status=? AND rowid>?)"]),
        (Query(frozenset({Status.PENDING}), newest_first=True), None, ["standings_pending (status=?)"]),
        (
            Query(frozenset({Status.PENDING, Status.RUNNING}), (("queue", "q", True),)),
            None,
            ["standings_pending (status=?)", "standings_by_status (status=?)"],
        ),
        (Query(frozenset({Status.RUNNING})), 5, ["standings_by_status (status=?)"]),
        (Query(frozenset({Status.ERROR})), 5, ["standings USING INTEGER PRIMARY KEY (rowid>?)"]),
    ],
    ids=["all", "newest", "pending", "newest pending", "unfinished", "running", "failed"],
)
async def test_a_page_goes_by_the_index_that_serves_it_and_sorts_at_most_the_running(
    connection: apsw.Connection, query: Query, after: int | None, indexes: list[str]
) -> None:
    statement, values = _sqlite_query.page_statement(query, after, 10)
    steps = plan(connection, statement, values)
    for index in indexes:
        assert any(index in step for step in steps), steps
    # Of those the slots of all workers are a bound.
    sorting = [step for step in steps if "TEMP B-TREE" in step]
    assert len(sorting) <= (1 if Status.RUNNING in query.statuses else 0), steps
