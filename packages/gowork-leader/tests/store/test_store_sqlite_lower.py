"""A store goes from one format to the other and back, with all that it holds, and each version can use what is left."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from gowork.leader._core.model import Position
from gowork.leader.store import _sqlite_file, _sqlite_ids, _sqlite_lower, _sqlite_migrate
from gowork.leader.store._sqlite_schema import FORMAT, FORMAT_LOGGED, TABLES
from gowork.leader.store.conformance import new_task
from gowork.leader.store.conformance.logged import joined
from gowork.leader.store.protocol import Batch, StoreError, StoreLockedError
from gowork.leader.store.sqlite import SqliteStore

TASKS = 40


@pytest.fixture(params=[3, 1_000], ids=["ids in the table", "ids in memory"])
async def path(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a closed store of the present format with TASKS tasks."""
    monkeypatch.setattr(_sqlite_ids, "RECENT_MAX", request.param)
    monkeypatch.setattr(_sqlite_ids, "SLICE_IDS", 2)
    store = SqliteStore(tmp_path / "gowork.db")
    await store.open()
    for seq in range(1, TASKS + 1):
        await store.commit(Batch([new_task(seq, f"task-{seq * 7 % 41}")]))
    await store.close()
    return tmp_path / "gowork.db"


def format_of(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[60:64], "big")


def names_in(folder: Path, begin: str) -> list[str]:
    return sorted(file.name for file in folder.glob(f"{begin}*"))


def has_the_tables_of(path: Path, version: int) -> bool:
    """Whether it is whole, and older versions, which look at the text of each table, find all of theirs."""
    with closing(_sqlite_file.connect(path)) as connection:
        found = {row[0] for row in connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")}
        return connection.execute("PRAGMA integrity_check").get == "ok" and found >= set(TABLES[version])


async def content_of(path: Path) -> list[tuple[int, str]]:
    store = SqliteStore(path)
    await store.open()
    found = await store.load([f"task-{number}" for number in range(1, 41)])
    await store.close()
    return sorted((record.seq, record.id) for record in found)


async def test_a_store_goes_to_the_older_format_and_back(path: Path) -> None:
    before = await content_of(path)
    assert (len(before), format_of(path)) == (TASKS, FORMAT)
    for _ in range(2):
        assert _sqlite_lower.downgrade(path) == 2
        assert format_of(path) == 2
        assert has_the_tables_of(path, 2)
        assert await content_of(path) == before
        assert format_of(path) == FORMAT
        assert has_the_tables_of(path, FORMAT)


async def test_the_older_format_keeps_ids_unique_by_itself(path: Path) -> None:
    _sqlite_lower.downgrade(path)
    # Another SQLite than the store's own.
    with closing(sqlite3.connect(path)) as connection:
        insert = "INSERT INTO specs SELECT 1000, id, queue, handler, priority, labels, body FROM specs WHERE seq = ?"
        for seq in (1, TASKS):
            with pytest.raises(sqlite3.IntegrityError, match=r"specs\.id"):
                connection.execute(insert, (seq,))
        ((steps),) = connection.execute("EXPLAIN QUERY PLAN SELECT seq FROM specs WHERE id = 'a'").fetchall()
        assert "sqlite_autoindex_specs_1 (id=?)" in steps[3]


async def test_what_an_older_version_wrote_is_found(path: Path) -> None:
    _sqlite_lower.downgrade(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "INSERT INTO specs SELECT 41, 'older', queue, handler, priority, labels, body FROM specs WHERE seq = 1"
        )
        connection.execute(
            "INSERT INTO standings SELECT 41, changed, status, at_ms, lane, expires_ms, state FROM standings "
            "WHERE seq = 1"
        )
        connection.commit()
    store = SqliteStore(path)
    opened = await store.open()
    assert [record.seq for record in await store.load(["older", "none"])] == [41]
    await store.commit(Batch([new_task(opened.next_seq, "newer")]))
    with pytest.raises(StoreError, match="'older'|contradicts"):
        await store.commit(Batch([new_task(50, "older")]))
    await store.close()


async def test_copies_have_the_older_format_and_the_same_content(path: Path, tmp_path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit(Batch([new_task(41, "last")]))
    await store.backup(tmp_path / "copy")
    await store.close()
    assert format_of(tmp_path / "copy") == 2
    assert names_in(tmp_path, "copy") == ["copy"]
    other = SqliteStore(tmp_path / "other.db")
    await other.restore(tmp_path / "copy")
    await other.open()
    assert [record.seq for record in await other.load(["last", "task-7"])] == [41, 1]
    await other.close()
    assert format_of(tmp_path / "other.db") == FORMAT


async def test_a_store_of_a_log_stays_in_its_log_and_its_digest_is_the_same_in_each_format(tmp_path: Path) -> None:
    path = tmp_path / "gowork.db"
    store = SqliteStore(path)
    await joined(store)
    at = (await store.current()).position
    assert at is not None
    await store.apply([(Batch([new_task(1)]), Position(at.generation, at.index + 1, bytes(32)), 9)])
    before, position = await store.digest(), (await store.current()).position
    await store.backup(tmp_path / "copy")
    assert await store.check_copy(tmp_path / "copy") == (store.copy_format, position)
    await store.close()
    assert (format_of(path), format_of(tmp_path / "copy")) == (FORMAT_LOGGED, 3)
    assert _sqlite_lower.downgrade(path) == 3
    lone = SqliteStore(path)
    with pytest.raises(StoreError, match="--log"):
        await lone.open()
    assert format_of(path) == 3, "what is refused is left as it is"
    again = SqliteStore(path)
    opened = await again.open_logged(at.generation)
    assert (opened.position, await again.digest()) == (position, before)
    await again.close()
    assert format_of(path) == FORMAT_LOGGED


async def test_only_a_closed_store_of_the_newer_format_is_brought_to_the_older_one(path: Path, tmp_path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    with pytest.raises(StoreLockedError):
        _sqlite_lower.downgrade(path)
    await store.close()
    with pytest.raises(StoreError, match="is not there"):
        _sqlite_lower.downgrade(tmp_path / "none.db")
    _sqlite_lower.downgrade(path)
    with pytest.raises(StoreError, match="has format 2 already"):
        _sqlite_lower.downgrade(path)


@pytest.mark.parametrize("name", ["none.db", "folder"])
def test_nothing_is_left_where_no_store_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="is not there"):
        _sqlite_lower.downgrade(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("way", ["down", "up"])
def test_a_process_that_is_killed_anywhere_between_leaves_a_whole_store(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gowork.db"

    async def write() -> None:
        store = SqliteStore(path)
        await store.open()
        await store.commit(Batch([new_task(seq, f"task-{seq}") for seq in range(1, TASKS + 1)]))
        await store.close()

    asyncio.run(write())
    if way == "up":
        _sqlite_lower.downgrade(path)
    left: list[Path] = []

    def keep(_: object) -> None:
        """Keeps what a process leaves behind that ends now."""
        left.append(tmp_path / f"left-{len(left)}")
        for suffix in ("", "-wal"):
            if Path(f"{path}{suffix}").exists():
                shutil.copy(f"{path}{suffix}", f"{left[-1]}{suffix}")

    def connect(path: Path) -> apsw.Connection:
        connection = _sqlite_file.connect(path)
        connection.trace_v2(apsw.SQLITE_TRACE_STMT | apsw.SQLITE_TRACE_CLOSE, keep)
        return connection

    with monkeypatch.context() as patched:
        patched.setattr(_sqlite_lower, "connect", connect)
        patched.setattr(_sqlite_migrate, "connect", connect)
        if way == "down":
            _sqlite_lower.downgrade(path)
        else:
            _sqlite_migrate.migrate(path, 2)
    assert len(left) > 8
    formats = []
    for copy in left:
        formats.append(_sqlite_file.format_at(copy, check_all=True))
        assert has_the_tables_of(copy, formats[-1])
        assert len(asyncio.run(content_of(copy))) == TASKS
    assert (formats[0], formats[-1]) == ((FORMAT, 2) if way == "down" else (2, FORMAT))
