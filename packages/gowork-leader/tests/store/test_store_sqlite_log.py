"""The log is merged beside the commits and does not grow without end."""

# ruff: noqa: ASYNC240 - a test may block its own loop.

import asyncio
from pathlib import Path

import apsw
import pytest

from gowork.leader._core.model import Status
from gowork.leader.store import _sqlite_log
from gowork.leader.store.conformance import ALL_BYTES, new_task, standing
from gowork.leader.store.protocol import Batch, MovedTask, Query
from gowork.leader.store.sqlite import SqliteStore

PAGE_BYTES = 4096


async def test_the_log_stays_short_under_steady_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_log, "_MERGE_PAGES", 50)
    monkeypatch.setattr(_sqlite_log, "_LOG_PAGES_MAX", 100)
    path = tmp_path / "gowork.db"
    store = SqliteStore(path)
    await store.open()
    tasks, rounds = 100, 300
    await store.commit(Batch([new_task(seq) for seq in range(1, tasks + 1)]))
    for changed in range(2, rounds):
        await store.commit(
            Batch(moves=[MovedTask(seq, changed, standing(Status.RUNNING)) for seq in range(1, tasks + 1)])
        )
    log_pages = Path(f"{path}-wal").stat().st_size // PAGE_BYTES
    # Each commit writes at least the page of standings and that of their index.
    assert log_pages < rounds * 2
    assert len(await store.page(Query(), None, 1000, ALL_BYTES)) == tasks
    await store.close()


async def test_a_log_that_cannot_be_merged_now_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_log, "_MERGE_PAGES", 1)
    monkeypatch.setattr(_sqlite_log, "_LOG_PAGES_MAX", 1)
    path = tmp_path / "gowork.db"
    store = SqliteStore(path)
    await store.open()
    await store.commit(Batch([new_task(1)]))
    # Somebody looks at the database for long.
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM specs").fetchone() == (1,)
    for seq in range(2, 50):
        await asyncio.wait_for(store.commit(Batch([new_task(seq)])), 10)
    assert reader.execute("SELECT count(*) FROM specs").fetchone() == (1,)
    reader.close()
    await store.close()
    again = SqliteStore(path)
    await again.open()
    assert len(await again.page(Query(), None, 1000, ALL_BYTES)) == 49
    await again.close()
