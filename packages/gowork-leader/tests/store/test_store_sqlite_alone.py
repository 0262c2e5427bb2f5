"""ALONE and DURABLE: one process uses a store, only while it is where it was, and what is in it is on disk."""

# ruff: noqa: ASYNC240 - a test may block its own loop.

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from gowork.leader._core.model import Fact, Status
from gowork.leader.store import _sqlite_file
from gowork.leader.store.conformance import FULL_LANE, new_task, standing
from gowork.leader.store.protocol import (
    Batch,
    MovedTask,
    StoreBusyError,
    StoreError,
    StoreLockedError,
    StoreLostError,
)
from gowork.leader.store.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "gowork.db"


def rows_of(connection: apsw.Connection) -> dict[str, list[tuple[object, ...]]]:
    """All that a database holds: {table: its rows}."""
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {str(name): list(connection.execute(f"SELECT * FROM {name}")) for name in tables}


async def refuses_another(path: Path) -> str:
    with pytest.raises(StoreLockedError) as caught:
        await SqliteStore(path).open()
    return str(caught.value)


async def test_a_process_of_its_own_is_refused_where_the_lock_file_was_removed(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    Path(f"{path}.lock").unlink()
    code = "import asyncio, sys, gowork.leader.store.sqlite as s; asyncio.run(s.SqliteStore(sys.argv[1]).open())"
    ended = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)  # noqa: ASYNC221
    assert ended.returncode == 1
    assert "is in use by another leader" in ended.stderr
    await store.close()


async def test_a_store_whose_lock_file_was_removed_is_still_in_use(path: Path) -> None:
    store = SqliteStore(path)
    opened = await store.open()
    Path(f"{path}.lock").unlink()
    assert "is in use" in await refuses_another(path)
    # The refusal has cost the first one none of its locks.
    code = "import apsw, sys; apsw.Connection(sys.argv[1]).execute('SELECT count(*) FROM meta')"
    subprocess.run([sys.executable, "-c", code, path], check=True)  # noqa: ASYNC221
    await store.commit(Batch([new_task(opened.next_seq)]))
    await store.close()


async def test_a_store_that_never_had_a_file_is_held_from_its_making(path: Path) -> None:
    path.parent.mkdir()
    # An empty file is replaced by the store that is made.
    path.touch()
    store = SqliteStore(path)
    await store.open()
    Path(f"{path}.lock").unlink()
    await refuses_another(path)
    await store.close()
    again = SqliteStore(path)
    await again.open()
    await again.close()


async def test_a_store_with_two_names_is_refused_under_both(path: Path, tmp_path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    other = tmp_path / "other.db"
    other.hardlink_to(path)
    with pytest.raises(StoreError, match=r"2 names \(hard links\)"):
        await SqliteStore(other).open()
    await store.close()
    with pytest.raises(StoreError, match=r"2 names \(hard links\)"):
        await SqliteStore(path).open()


async def test_a_link_in_place_of_the_lock_file_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    Path(f"{path}.lock").symlink_to(victim)
    with pytest.raises(StoreError, match="can't be written"):
        await SqliteStore(path).open()
    assert victim.read_text() == "precious"


def delete(path: Path) -> None:
    path.unlink()


def move_away(path: Path) -> None:
    path.rename(path.with_suffix(".away"))


def replace(path: Path) -> None:
    path.with_suffix(".copy").write_bytes(path.read_bytes())
    path.with_suffix(".copy").replace(path)


def delete_its_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


@pytest.mark.parametrize("harm", [delete, move_away, replace, delete_its_log])
async def test_nothing_is_accepted_by_a_store_that_is_no_longer_at_its_place(
    path: Path, harm: Callable[[Path], None]
) -> None:
    store = SqliteStore(path)
    opened = await store.open()
    await store.commit(Batch([new_task(opened.next_seq)]))
    harm(path)
    with pytest.raises(StoreLostError, match="moved, deleted or replaced"):
        await store.commit(Batch([new_task(opened.next_seq + 1)]))
    await store.close()


BATCHES = {
    "a new task": Batch([new_task(2)]),
    "a move, which is one statement": Batch(moves=[MovedTask(1, 2, standing(Status.RUNNING))]),
    "a move into a lane": Batch(moves=[MovedTask(1, 2, standing(Status.PENDING), FULL_LANE)]),
    "no task": Batch(facts=[Fact("k", "m", b"v")]),
}


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
async def test_a_batch_under_an_old_term_is_refused_and_leaves_nothing(path: Path, batch: Batch) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit(Batch([new_task(1)]))
    other = apsw.Connection(str(path))
    other.execute("UPDATE meta SET value = value + 1 WHERE key = 'term'")
    before = rows_of(other)
    with pytest.raises(StoreLostError, match="Another leader has opened the store"):
        await store.commit(batch)
    assert rows_of(other) == before
    other.close()
    await store.close()


async def test_a_foreign_write_lock_is_told_as_such_and_the_batch_may_be_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gowork.leader.store.sqlite._BUSY_MS", 1)
    store = SqliteStore(path)
    opened = await store.open()
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    batch = Batch([new_task(opened.next_seq)])
    with pytest.raises(StoreBusyError, match="locked by another program"):
        await store.commit(batch)
    other.execute("ROLLBACK")
    other.close()
    await store.commit(batch)
    assert len(await store.load([batch.inserts[0].record.id])) == 1
    await store.close()


async def test_a_store_is_readable_by_its_owner_alone(path: Path) -> None:
    store = SqliteStore(path)
    opened = await store.open()
    await store.commit(Batch([new_task(opened.next_seq)]))
    await store.backup(path.with_name("backup.db"))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}, modes
    await store.close()


async def test_a_store_that_0_1_0_made_for_all_to_read_is_made_private(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()
    path.chmod(0o644)
    await store.open()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await store.close()


async def test_a_foreign_file_that_is_refused_keeps_its_permissions(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all")
    path.chmod(0o644)
    with pytest.raises(StoreError):
        await SqliteStore(path).open()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


async def test_a_backup_follows_no_link(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    store = SqliteStore(path)
    await store.open()
    (tmp_path / "backup.db.part").symlink_to(victim)
    await store.backup(tmp_path / "backup.db")
    (tmp_path / "dangling.db").symlink_to(tmp_path / "nothing")
    with pytest.raises(StoreError, match="there already"):
        await store.backup(tmp_path / "dangling.db")
    assert victim.read_text() == "precious"
    await store.close()


class Opens:
    """Which files Python itself opens. An audit hook can't be taken back, so that there is one for all tests."""

    def __init__(self) -> None:
        self.names: list[str] | None = None
        self._thread = threading.get_ident()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[object, ...]) -> None:
        if event == "open" and self.names is not None:
            self.names.append(os.fsdecode(args[0]) if isinstance(args[0], (str, bytes)) else str(args[0]))


@pytest.fixture(scope="module")
def opens() -> Opens:
    return Opens()


async def test_nothing_but_sqlite_opens_the_database_while_it_is_in_use(path: Path, opens: Opens) -> None:
    store = SqliteStore(path)
    opened = await store.open()
    opens.names = []
    await store.commit(Batch([new_task(opened.next_seq)]))
    await store.backup(path.with_name("backup.db"))
    await refuses_another(path)
    with pytest.raises(StoreError):
        await SqliteStore(path).restore(path.with_name("backup.db"))
    await store.counts()
    names, opens.names = opens.names, None
    assert f"{path}.lock" in names
    assert str(path) not in names
    await store.close()


async def test_a_commit_is_forced_to_disk_before_it_returns(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    for thread in (store._writer, store._merges):
        assert thread.connection is not None
        # 2 is FULL: https://www.sqlite.org/pragma.html#pragma_synchronous
        assert thread.connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert thread.connection.execute("PRAGMA fullfsync").fetchone() == (1,)
    await store.close()


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of what is forced to disk by Python itself, in order."""
    paths: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


async def test_the_names_of_a_new_store_and_of_its_directories_are_forced_to_disk(
    path: Path, tmp_path: Path, synced: list[str]
) -> None:
    store = SqliteStore(path)
    await store.open()
    assert synced == [str(tmp_path), str(path.parent)]
    await store.close()


async def test_a_backup_and_its_name_are_forced_to_disk(path: Path, tmp_path: Path, synced: list[str]) -> None:
    store = SqliteStore(path)
    await store.open()
    synced.clear()
    await store.backup(tmp_path / "backup.db")
    assert synced == [f"{tmp_path}/backup.db.part", str(tmp_path)]
    await store.close()
    synced.clear()
    await SqliteStore(tmp_path / "restored.db").restore(tmp_path / "backup.db")
    assert synced == [f"{tmp_path}/restored.db.new", str(tmp_path)]


def test_a_lock_is_held_on_the_database_until_it_is_released(path: Path) -> None:
    path.parent.mkdir()
    _sqlite_file.create(path)
    lock = _sqlite_file.FileLock(path)
    with pytest.raises(StoreLockedError):
        _sqlite_file.FileLock(path)
    Path(f"{path}.lock").unlink()
    with pytest.raises(StoreLockedError, match="by another name"):
        _sqlite_file.FileLock(path)
    lock.release()
    _sqlite_file.FileLock(path).release()


async def test_the_lock_is_let_go_once_sqlite_has_closed_the_database(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs: list[bool] = []
    release = _sqlite_file.FileLock.release

    def released(lock: _sqlite_file.FileLock) -> None:
        # The last connection to be closed merges the log and removes it.
        logs.append(Path(f"{path}-wal").exists())
        release(lock)

    monkeypatch.setattr(_sqlite_file.FileLock, "release", released)
    store = SqliteStore(path)
    opened = await store.open()
    await store.commit(Batch([new_task(opened.next_seq)]))
    await store.close()
    assert logs == [False]
