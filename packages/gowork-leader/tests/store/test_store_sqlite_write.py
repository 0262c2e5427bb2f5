"""A batch is written as a whole, in however many statements."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from gowork.leader._core.model import Fact, FactKey, LaneKey, Priority, Status
from gowork.leader.store import _sqlite_file
from gowork.leader.store._sqlite_ids import TaskIds
from gowork.leader.store._sqlite_lanes import LaneIds
from gowork.leader.store._sqlite_rows import ROWS_MAX
from gowork.leader.store._sqlite_write import write_batch
from gowork.leader.store.conformance import new_task, standing
from gowork.leader.store.protocol import Batch, DeletedTask, MovedTask, StoreError

LANE = LaneKey("default", Priority.LOW, "h", (), "customer")
TASKS = ROWS_MAX + 2


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[apsw.Connection]:
    path = tmp_path / "gowork.db"
    _sqlite_file.create(path)
    connection = _sqlite_file.connect(path)
    write_batch(
        connection, Batch([new_task(seq) for seq in range(1, TASKS + 1)]), LaneIds(), TaskIds(), term_of(connection)
    )
    yield connection
    connection.close()


def term_of(connection: apsw.Connection) -> int:
    return int(connection.execute("SELECT value FROM meta WHERE key = 'term'").get)


def moved(seq: int, lane: LaneKey | None = None) -> MovedTask:
    return MovedTask(seq, 2, standing(Status.PENDING if lane else Status.RUNNING), lane)


@pytest.mark.parametrize(
    "batch",
    [
        Batch([new_task(TASKS + 1)], [moved(1)]),
        Batch(moves=[moved(seq) for seq in range(1, ROWS_MAX + 2)]),
        Batch(moves=[moved(1), moved(2, LANE)]),
        Batch(moves=[moved(1)], facts=[Fact("k", "m", b"v")]),
        Batch(moves=[moved(1)], facts_gone=[FactKey("k", "m")]),
        Batch(moves=[moved(1)], deletes=[DeletedTask(2, new_task(2).record.id, 2)]),
        Batch(moves=[moved(1)], tombstones_before=2),
    ],
    ids=["insert", "many", "lane", "fact", "fact gone", "delete", "tombstones"],
)
def test_a_batch_of_several_statements_is_one_transaction(connection: apsw.Connection, batch: Batch) -> None:
    statements: list[str] = []
    connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: statements.append(event["sql"]))
    write_batch(connection, batch, LaneIds(), TaskIds(), 0)
    assert (statements[0], statements[-1]) == ("BEGIN", "COMMIT")
    assert statements.count("COMMIT") == 1


def test_moves_alone_are_one_statement(connection: apsw.Connection) -> None:
    statements: list[str] = []
    connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: statements.append(event["sql"]))
    write_batch(connection, Batch(moves=[moved(seq) for seq in range(1, 9)]), LaneIds(), TaskIds(), 0)
    assert len(statements) == 1


def test_a_lane_of_a_batch_that_was_not_written_is_given_its_number_anew(connection: apsw.Connection) -> None:
    lanes = LaneIds()
    with pytest.raises(StoreError, match="contradicts the store"):
        # The second has the place of a task that is there.
        write_batch(connection, Batch([new_task(TASKS + 1, lane=LANE), new_task(1)]), lanes, TaskIds(), 0)
    assert not connection.in_transaction
    write_batch(connection, Batch([new_task(TASKS + 1, lane=LANE)]), lanes, TaskIds(), 0)
    kept = connection.execute(
        "SELECT count(*) FROM standings JOIN lanes ON lanes.id = standings.lane WHERE standings.seq = ?", (TASKS + 1,)
    )
    assert kept.fetchone() == (1,)
