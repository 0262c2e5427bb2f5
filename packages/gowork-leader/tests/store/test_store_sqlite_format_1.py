"""A store of format 1 is brought to the present format when it is opened, with all that it holds."""

# ruff: noqa: ASYNC240 - a test may block its own loop.

import logging
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec.structs import replace
from store_format_1 import IDENTITY, TABLES, TERM, write_store

from gowork.leader._core.kinds import MEMBERS, Member
from gowork.leader._core.model import LaneKey, Priority, Standing, Status
from gowork.leader.store import _sqlite_migrate
from gowork.leader.store._sqlite_schema import FORMAT
from gowork.leader.store.conformance import ALL_BYTES, FULL_STANDING, facts_of, new_task, seqs_of_page, standing
from gowork.leader.store.protocol import (
    Batch,
    Finished,
    MovedTask,
    Query,
    Record,
    StoreFormatError,
    Timer,
)
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.scheduler.v1.scheduler_pb2 import Task

PLAIN = LaneKey("default", Priority.LOW, "", ())
FULL = LaneKey("q", Priority.HIGH, "h", (("arch", "arm64"), ("zone", "a")))
RUNNING = Standing(Status.RUNNING, 1, 7 << 40, 1, worker="w", instance="i", started_ms=2)


def record(seq: int, at: Standing, body: bytes | None = None, **fields: Any) -> Record:
    if body is None:
        body = Task(id=f"task-{seq}", payload="p", **fields).SerializeToString()
    return Record(seq, f"task-{seq}", 100 + seq, body, at)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gowork.db"


FULL_FIELDS: dict[str, Any] = {"queue": "q", "priority": 3, "handler": "h", "selector": {"zone": "a", "arch": "arm64"}}


async def test_every_task_stays_and_unfinished_ones_are_found_in_lanes_and_by_their_times(path: Path) -> None:
    records = [
        record(1, standing()),
        record(2, standing(), **FULL_FIELDS),
        record(3, RUNNING, **FULL_FIELDS, expires_at_ms=800),
        record(4, standing(not_before_ms=900), expires_at_ms=700),
        record(5, standing(), run_at_ms=850),
        # It has run before: run_at holds for its first attempt only.
        record(6, replace(standing(), grants=1), run_at_ms=850),
        record(7, replace(standing(), grants=1, not_before_ms=860), run_at_ms=850),
        record(8, FULL_STANDING, b"bodies of finished tasks are not looked at"),
        record(9, standing(Status.COMPLETED, finished_ms=44)),
        record(10, standing(Status.CANCELLED, finished_ms=45)),
    ]
    write_store(path, records)
    store = SqliteStore(path)
    for opening in (1, 2):
        opened = await store.open()
        assert (opened.term, opened.identity, opened.next_seq) == (TERM + opening, IDENTITY, 11)
        # run_at is in the standing from here on.
        expected = [*records]
        expected[4] = Record(5, "task-5", 105, records[4].body, standing(not_before_ms=850))
        assert await store.page(Query(), None, 100, ALL_BYTES) == expected
        assert await store.page(Query(labels=(("a", "b", True),)), None, 100, ALL_BYTES) == expected
        assert sorted(await store.waiting()) == [(PLAIN, 2), (FULL, 1)]
        assert [found.seq for found in await store.lane_page(PLAIN, 0, 10, ALL_BYTES)] == [1, 6]
        assert [found async for found in store.running()] == [[records[2]]]
        assert await store.delayed(None, 10) == [
            Timer(850, 5, "task-5"),
            Timer(860, 7, "task-7"),
            Timer(900, 4, "task-4"),
        ]
        assert await store.expiring(None, 10) == [Timer(700, 4, "task-4")]
        assert await store.finished(True, 10) == [Finished(8, "task-8", 108, FULL_STANDING.finished_ms)]
        completed = Finished(9, "task-9", 109, 44)
        cancelled = Finished(10, "task-10", 110, 45)
        assert await store.finished(False, 10) == [completed, cancelled]
        assert [found.seq for found in await store.changed_since(105, 2)] == [6, 7]
        assert await facts_of(store, MEMBERS.name) == {"m": MEMBERS.encode(Member("a:1", 5))}
        assert await store.watch_floor() == 0
        await store.close()
    await store.open()
    await store.commit(
        Batch([new_task(11, lane=FULL)], [MovedTask(3, 200, standing()), MovedTask(8, 200, standing(), PLAIN, 600)])
    )
    assert [found.seq for found in await store.lane_page(FULL, 0, 10, ALL_BYTES)] == [2, 3, 11]
    assert [found.seq for found in await store.lane_page(PLAIN, 0, 10, ALL_BYTES)] == [1, 6, 8]
    assert await store.expiring(None, 10) == [Timer(600, 8, "task-8"), Timer(700, 4, "task-4"), Timer(800, 3, "task-3")]
    await store.close()


async def test_the_new_format_is_told_and_written_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_store(path, [record(1, standing())])
    with caplog.at_level(logging.INFO, "gowork.leader.store"):
        for _ in range(2):
            store = SqliteStore(path)
            await store.open()
            await store.close()
    (told,) = [entry for entry in caplog.records if entry.message == "store is brought to a new format"]
    assert (vars(told)["from"], vars(told)["to"], vars(told)["store"]) == (1, FORMAT, str(path))
    assert [vars(entry)["format"] for entry in caplog.records if entry.message == "store has the new format"] == [
        FORMAT
    ]
    assert path.read_bytes()[60:64] == FORMAT.to_bytes(4, "big")
    assert sorted(file.name for file in path.parent.iterdir()) == ["gowork.db", "gowork.db.lock"]


async def test_many_tasks_are_brought_over_in_their_order(path: Path) -> None:
    statuses = list(Status)
    # More than one statement holds, by rows and by bytes.
    records = [record(seq, standing(statuses[seq % 5], result="r" * (1 << 20) * (seq == 77))) for seq in range(1, 1702)]
    write_store(path, records)
    store = SqliteStore(path)
    await store.open()
    assert await seqs_of_page(store, Query(), limit=10_000) == list(range(1, 1702))
    assert await store.waiting() == [(PLAIN, 340)]
    assert (await store.load(["task-77"]))[0].standing.result == "r" * (1 << 20)
    await store.close()


@pytest.mark.parametrize("damage", ["body", "state"])
async def test_a_task_that_cannot_be_read_leaves_the_store_as_it_was(path: Path, damage: str) -> None:
    write_store(path, [record(1, standing()), record(2, standing(), b"\xff\xff" if damage == "body" else None)])
    if damage == "state":
        connection = apsw.Connection(str(path))
        connection.execute("UPDATE standings SET state = x'c1' WHERE seq = 2")
        connection.close()
    with pytest.raises(StoreFormatError, match="is damaged: a task can't be read"):
        await SqliteStore(path).open()
    assert format_1_is_whole(path)


def format_1_is_whole(path: Path) -> bool:
    connection = apsw.Connection(str(path))
    try:
        texts = {row[0] for row in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
        version = connection.execute("PRAGMA user_version").get
        tasks = connection.execute("SELECT count(*) FROM standings").get
        return texts == set(TABLES) and bool(version == 1 and tasks == 2)
    finally:
        connection.close()


async def test_a_migration_that_is_cut_short_starts_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(path, [record(1, standing()), record(2, standing())])

    def fails(*_: object) -> int:
        raise apsw.Error("the power went")

    with monkeypatch.context() as patched:
        patched.setattr(_sqlite_migrate, "at_ms", fails)
        with pytest.raises(Exception, match="the power went"):
            await SqliteStore(path).open()
    assert format_1_is_whole(path)
    store = SqliteStore(path)
    await store.open()
    assert await store.waiting() == [(PLAIN, 2)]
    await store.close()


async def test_a_store_of_format_1_that_is_not_sound_is_refused_and_stays(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if it were too large to be read through at every start.
    monkeypatch.setattr("gowork.leader.store._sqlite_file._CHECKED_BYTES_MAX", 0)
    write_store(path, [record(seq, standing(), b"x" * 200) for seq in range(1, 501)])
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4096] = bytes(4096)
    path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(StoreFormatError, match="is damaged"):
        await SqliteStore(path).open()
    assert path.read_bytes() == before
