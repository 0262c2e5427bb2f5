"""Each task is found by its id, whether the table has the id or memory has, and however the store was opened."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import apsw
import pytest

from gowork.leader._core.model import Status
from gowork.leader.store import _sqlite_file, _sqlite_ids
from gowork.leader.store._sqlite_ids import TaskIds
from gowork.leader.store._sqlite_lanes import LaneIds
from gowork.leader.store._sqlite_write import write_batch, write_rows
from gowork.leader.store.conformance import LoggedConformance, StoreConformance, new_task
from gowork.leader.store.protocol import Batch, DeletedTask, Query, StoreError
from gowork.leader.store.sqlite import SqliteStore


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a few tasks reach."""
    monkeypatch.setattr(_sqlite_ids, "RECENT_MAX", 8)
    monkeypatch.setattr(_sqlite_ids, "SLICE_IDS", 4)


@pytest.mark.usefixtures("small")
class TestSqliteStoreOfSmallBounds(StoreConformance):
    @pytest.fixture
    def store_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/data/gowork.db"


@pytest.mark.usefixtures("small")
class TestLoggedSqliteStoreOfSmallBounds(LoggedConformance):
    @pytest.fixture
    def store_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/data/gowork.db"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gowork.db"
    _sqlite_file.create(path)
    return path


@pytest.fixture
def connection(path: Path) -> Iterator[apsw.Connection]:
    with closing(_sqlite_file.connect(path)) as connection:
        yield connection


def loaded(connection: apsw.Connection) -> TaskIds:
    ids = TaskIds()
    ids.load(connection)
    return ids


def write(connection: apsw.Connection, ids: TaskIds, batch: Batch) -> None:
    write_batch(connection, batch, LaneIds(), ids, 0)


def in_table(connection: apsw.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT id, seq FROM ids"))


def begins_at(connection: apsw.Connection) -> int:
    return int(connection.execute("SELECT value FROM meta WHERE key = 'ids_from'").get)


def in_no_order(rng: Random, seq: int) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128)))


def in_order(rng: Random, seq: int) -> str:
    return f"task-{seq:06d}"


def mixed(rng: Random, seq: int) -> str:
    return rng.choice((in_no_order, in_order))(rng, seq)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("make", [in_no_order, in_order, mixed])
@pytest.mark.parametrize("seed", range(4))
def test_each_task_is_found_whatever_was_written_rolled_back_and_opened_before(
    path: Path, seed: int, make: Callable[[Random, int], str]
) -> None:
    rng = Random(seed)
    connection = _sqlite_file.connect(path)
    ids, there, purged, seq = loaded(connection), dict[str, int](), ["never there"], 0
    for turn in range(1, 121):
        first, step = seq, rng.random()
        # An id that was purged may come again.
        names = list(dict.fromkeys(make(rng, first + number + 1) for number in range(rng.randrange(7))))
        if rng.random() < 0.2 and purged[-1] not in there:
            names = list(dict.fromkeys([purged[-1], *names]))
        new = {name: first + number for number, name in enumerate(names, 1) if name not in there}
        gone = rng.sample(sorted(there.items()), min(len(there), rng.choice((0, 0, 0, 3))))
        batch = Batch(
            [new_task(number, name) for name, number in new.items()],
            deletes=[DeletedTask(number, name, turn) for name, number in gone],
        )
        if step < 0.2:
            # Two batches of one transaction, which is rolled back.
            connection.execute("BEGIN")
            write_rows(connection, batch, LaneIds(), ids, 0)
            write_rows(connection, Batch([new_task(10_000 + number) for number in range(3)]), LaneIds(), ids, 0)
            connection.execute("ROLLBACK")
            ids.forget()
        else:
            write(connection, ids, batch)
            seq = max([seq, *new.values()])
            there = {name: number for name, number in {**there, **new}.items() if (name, number) not in gone}
            purged += [name for name, _ in gone]
        if rng.random() < 0.1:
            connection.close()
            connection = _sqlite_file.connect(path)
            ids = loaded(connection)
            seq = max(there.values(), default=0)
        wanted = [*there, *purged]
        assert sorted(ids.find(connection, wanted)) == sorted(there.values())
        assert not any(ids.are_above_all([name]) for name in there)
        for name in rng.sample(sorted(there), min(2, len(there))):
            with pytest.raises(StoreError, match="contradicts"):
                write(connection, ids, Batch([new_task(seq + 50, name)]))
        assert in_table(connection).items() <= there.items()
        # No more is read again when the store is opened than came in two generations.
        assert connection.execute("SELECT count(*) FROM specs WHERE seq >= ?", (begins_at(connection),)).get <= 40
    assert connection.execute("PRAGMA integrity_check").get == "ok"
    connection.close()


@pytest.mark.usefixtures("small")
def test_a_crash_at_any_time_loses_no_id(path: Path, connection: apsw.Connection, tmp_path: Path) -> None:
    ids, rng, there = loaded(connection), Random(5), dict[str, int]()
    for seq in range(1, 60):
        name = in_no_order(rng, seq)
        there[name] = seq
        write(connection, ids, Batch([new_task(seq, name)]))
        # What a process leaves behind that ends now.
        copy = tmp_path / f"left-{seq}"
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
        with closing(_sqlite_file.connect(copy)) as left:
            assert sorted(loaded(left).find(left, there)) == sorted(there.values())


@pytest.mark.usefixtures("small")
def test_new_ids_wait_in_memory_and_reach_the_table_a_slice_at_a_time(connection: apsw.Connection) -> None:
    ids, sizes = loaded(connection), []
    for seq in range(1, 25):
        write(connection, ids, Batch([new_task(seq, f"task-{100 - seq}")]))
        sizes.append(len(in_table(connection)))
        assert begins_at(connection) == (1 if seq < 12 else 9 if seq < 20 else 17)
    # Of eight that came, four are written with each second one that comes next.
    assert sizes == [0] * 9 + [4, 4] + [8] * 6 + [12, 12] + [16] * 5


@pytest.mark.usefixtures("small")
def test_ids_above_all_of_the_generations_before_go_straight_to_the_table(connection: apsw.Connection) -> None:
    ids = loaded(connection)
    for seq in range(1, 40):
        write(connection, ids, Batch([new_task(seq, in_order(Random(0), seq))]))
    assert in_table(connection)["task-000039"] == 39
    # The table has all of them, so no more than the last generation is read again.
    assert begins_at(connection) > 24
    with pytest.raises(StoreError, match="contradicts"):
        write(connection, ids, Batch([new_task(40, "task-000039")]))


@pytest.mark.usefixtures("small")
def test_an_id_that_a_look_up_has_missed_is_refused_all_the_same_once_it_is_there(connection: apsw.Connection) -> None:
    ids = loaded(connection)
    for seq in range(1, 10):
        write(connection, ids, Batch([new_task(seq, in_order(Random(0), seq))]))
    write(connection, ids, Batch(deletes=[DeletedTask(5, "task-000005", 1)]))
    # The first two go straight to the table, because of the id and because of the seq, and the third to memory.
    for name, seq in (("task-1", 101), ("b", 5), ("a", 102)):
        assert ids.find(connection, [name]) == []
        write(connection, ids, Batch([new_task(seq, name)]))
        with pytest.raises(StoreError, match=f"contradicts.*{name}|contradicts"):
            write(connection, ids, Batch([new_task(200, name)]))
        assert ids.find(connection, [name]) == [seq]


@pytest.mark.usefixtures("small")
def test_an_id_that_memory_has_and_the_table_lacks_is_refused_after_a_start(connection: apsw.Connection) -> None:
    ids = loaded(connection)
    for seq in range(1, 11):
        write(connection, ids, Batch([new_task(seq, f"task-{100 - seq}")]))
    assert sorted(in_table(connection)) == ["task-92", "task-93", "task-94", "task-95"]
    ids = loaded(connection)
    with pytest.raises(StoreError, match="contradicts"):
        write(connection, ids, Batch([new_task(11, "task-99")]))
    write(connection, ids, Batch([new_task(11, "task-991")]))
    assert ids.find(connection, ["task-99", "task-991"]) == [1, 11]


@pytest.mark.usefixtures("small")
def test_ids_in_order_whose_seqs_are_not_beside_each_other_are_written_alone(connection: apsw.Connection) -> None:
    ids = loaded(connection)
    for seq in (*range(1, 20), 21):
        write(connection, ids, Batch([new_task(seq, in_order(Random(0), seq))]))
    write(connection, ids, Batch([new_task(20, "task-000022"), new_task(22, "task-000023")]))
    assert ids.find(connection, ["task-000021", "task-000022", "task-000023"]) == [21, 20, 22]


@pytest.mark.usefixtures("small")
def test_what_a_look_up_has_missed_is_not_looked_for_again_by_the_writer(connection: apsw.Connection) -> None:
    ids = loaded(connection)
    ids.find(connection, ["new"])
    statements: list[str] = []
    connection.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: statements.append(event["sql"]))
    write(connection, ids, Batch([new_task(1, "new")]))
    assert _sqlite_ids.FOUND not in statements
    write(connection, ids, Batch([new_task(2, "newer")]))
    assert _sqlite_ids.FOUND in statements


@pytest.mark.usefixtures("small")
def test_many_ids_that_the_table_lacks_are_written_when_the_store_is_opened(connection: apsw.Connection) -> None:
    ids = loaded(connection)
    write(connection, ids, Batch([new_task(seq, f"task-{100 - seq}") for seq in range(1, 18)]))
    assert in_table(connection) == {}
    ids = loaded(connection)
    assert (len(in_table(connection)), begins_at(connection), ids._generations[0].ids) == (17, 18, {})
    assert sorted(ids.find(connection, ["task-99", "task-83"])) == [1, 17]


@pytest.mark.usefixtures("small")
def test_the_seqs_of_removed_tasks_may_come_again_after_a_start(connection: apsw.Connection) -> None:
    ids = loaded(connection)
    for seq in range(1, 25):
        write(connection, ids, Batch([new_task(seq, f"task-{100 - seq}")]))
    assert begins_at(connection) == 17
    gone = [DeletedTask(seq, f"task-{100 - seq}", 1) for seq in range(2, 25)]
    write(connection, ids, Batch(deletes=gone))
    ids, there = loaded(connection), dict[str, int]()
    # More than a generation, and not so many that they reach the seqs from before.
    for seq in range(2, 12):
        there[f"again-{seq:02d}"] = seq
        write(connection, ids, Batch([new_task(seq, f"again-{seq:02d}")]))
        assert sorted(loaded(connection).find(connection, there)) == sorted(there.values())


@pytest.mark.usefixtures("small")
def test_an_id_whose_seq_is_from_before_the_generation_is_found_after_a_start(connection: apsw.Connection) -> None:
    ids = loaded(connection)
    for seq in range(1, 25):
        write(connection, ids, Batch([new_task(seq, f"task-{100 - seq}")]))
    write(connection, ids, Batch(deletes=[DeletedTask(5, "task-95", 1)]))
    write(connection, ids, Batch([new_task(5, "a")]))
    assert loaded(connection).find(connection, ["a"]) == [5]


def test_a_task_that_comes_again_with_its_seq_in_one_transaction_is_found(connection: apsw.Connection) -> None:
    ids = loaded(connection)
    write(connection, ids, Batch([new_task(1, "y"), new_task(2, "x")]))
    connection.execute("BEGIN")
    again = Batch([new_task(2, "x")])
    for batch in (Batch(deletes=[DeletedTask(2, "x", 1)]), again, Batch(deletes=[DeletedTask(1, "y", 2)])):
        write_rows(connection, batch, LaneIds(), ids, 0)
    with pytest.raises(StoreError, match="contradicts"):
        ids.insert(connection, ["x"], [3])
    connection.execute("COMMIT")
    ids.settle()
    assert ids.find(connection, ["x", "y"]) == [2]


def test_an_id_may_come_and_go_and_come_again_in_one_transaction(connection: apsw.Connection) -> None:
    ids = loaded(connection)
    write(connection, ids, Batch([new_task(1, "y")]))
    write(connection, ids, Batch([new_task(2, "y")], deletes=[DeletedTask(1, "y", 1)]))
    connection.execute("BEGIN")
    for batch in (Batch([new_task(3, "x")]), Batch(deletes=[DeletedTask(3, "x", 2)])):
        write_rows(connection, batch, LaneIds(), ids, 0)
    connection.execute("COMMIT")
    ids.settle()
    assert ids.find(connection, ["x", "y"]) == [2]
    write(connection, ids, Batch([new_task(4, "x")]))
    assert sorted(ids.find(connection, ["x", "y"])) == [2, 4]


def test_a_bounded_number_of_missed_ids_is_kept(connection: apsw.Connection, small: None) -> None:
    ids = loaded(connection)
    for number in range(40):
        ids.find(connection, [f"missed-{number}"])
    assert len(ids._generations[0].missed) == 8


def test_ids_above_those_of_all_tasks_need_not_be_looked_up(connection: apsw.Connection) -> None:
    ids = loaded(connection)
    assert ids.are_above_all(["a"])
    write(connection, ids, Batch([new_task(1, "f")]))
    for name, above, below in (("m", ["n", "z"], ["a", "z"]), ("g", ["n"], ["h", "z"]), ("q", ["r", "s"], ["p"])):
        write(connection, ids, Batch([new_task(ord(name), name)]))
        assert ids.are_above_all(above)
        assert not ids.are_above_all(below)
        assert not ids.are_above_all([name])
    again = loaded(connection)
    assert (again.are_above_all(["r"]), again.are_above_all(["q"]), again.are_above_all(["p"])) == (True, False, False)


async def test_many_ids_above_those_of_all_tasks_are_not_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    await store.commit(Batch([new_task(seq, f"task-{seq:03}") for seq in range(1, 100)]))
    looked_up: list[list[str]] = []
    find = TaskIds.find

    def noted(ids: TaskIds, connection: apsw.Connection, wanted: list[str]) -> list[int]:
        looked_up.append(wanted)
        return find(ids, connection, wanted)

    monkeypatch.setattr(TaskIds, "find", noted)
    assert await store.load([f"task-{number}" for number in range(100, 900)]) == []
    assert await store.standings([f"task-{number}" for number in range(100, 900)]) == []
    assert looked_up == []
    assert len(await store.load([f"task-{number:03}" for number in range(99, 900)])) == 1
    await store.close()


@pytest.mark.usefixtures("small")
async def test_a_query_for_an_id_finds_it_in_memory_and_in_the_table(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    for seq in range(1, 30):
        await store.commit(Batch([new_task(seq)]))
    for seq in (1, 29):
        query = Query(terms=(("id", f"task-{seq}", True),))
        assert [record.seq for record in await store.page(query, None, 10, 1 << 20)] == [seq]
        others = Query(frozenset({Status.PENDING}), (("id", f"task-{seq}", False),))
        assert len(await store.page(others, None, 100, 1 << 20)) == 28
    assert await store.page(Query(terms=(("id", "none", True),)), None, 10, 1 << 20) == []
    await store.close()
