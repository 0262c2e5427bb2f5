"""Lanes that nobody uses any more do not pile up."""

from pathlib import Path

import apsw
import pytest

from gowork.leader._core.model import LaneKey, Priority, Status
from gowork.leader.store import _sqlite_lanes
from gowork.leader.store.conformance import ALL_BYTES, new_task, standing
from gowork.leader.store.protocol import Batch, MovedTask
from gowork.leader.store.sqlite import SqliteStore


def lane(key: int) -> LaneKey:
    return LaneKey("default", Priority.LOW, "h", (), f"customer {key}")


def lanes_kept(path: Path) -> int:
    connection = apsw.Connection(str(path))
    try:
        return int(connection.execute("SELECT count(*) FROM lanes").get)
    finally:
        connection.close()


async def test_lanes_without_unfinished_tasks_go_at_opening_once_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gowork.db"
    at = [standing(), standing(Status.RUNNING), standing(not_before_ms=9), *[standing(Status.COMPLETED)] * 5]
    store = SqliteStore(path)
    await store.open()
    await store.commit(Batch([new_task(seq, lane=lane(seq), at=at[seq - 1]) for seq in range(1, 9)]))
    await store.close()
    # Few are left alone.
    await store.open()
    await store.close()
    assert lanes_kept(path) == 8
    monkeypatch.setattr(_sqlite_lanes, "_UNUSED_MAX", 7)
    await store.open()
    assert lanes_kept(path) == 3
    await store.commit(Batch(moves=[MovedTask(2, 2, standing()), MovedTask(3, 2, standing())]))
    await store.commit(Batch([new_task(9, lane=lane(8))], [MovedTask(4, 3, standing(), lane(4))]))
    for seq in (1, 2, 3, 4):
        assert [task.seq for task in await store.lane_page(lane(seq), 0, 10, ALL_BYTES)] == [seq]
    assert [task.seq for task in await store.lane_page(lane(8), 0, 10, ALL_BYTES)] == [9]
    await store.close()


async def test_more_lanes_than_are_remembered_keep_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_lanes, "_CACHED_MAX", 10)
    store = SqliteStore(tmp_path / "gowork.db")
    await store.open()
    for round_ in range(3):
        for first in range(0, 30, 7):
            changed = round_ * 10 + first // 7 + 1
            inserts = [
                new_task(1000 * round_ + key + 1, changed=changed, lane=lane(key)) for key in range(first, first + 7)
            ]
            await store.commit(Batch(inserts))
    assert dict(await store.waiting()) == {lane(key): 3 for key in range(35)}
    await store.close()
    assert lanes_kept(tmp_path / "gowork.db") == 35
