"""What lies at a backup's path decides whether a store is made from it."""

# ruff: noqa: ASYNC240 - a test may block its own loop.

from pathlib import Path

import pytest
from store_format_1 import TERM, write_store

from gowork.leader.store.conformance import all_unfinished, new_task
from gowork.leader.store.protocol import RESTORE_TERMS, TERM_SHIFT, Batch, StoreFormatError, changed_number
from gowork.leader.store.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gowork.db"


async def fill(path: Path, tasks: int = 500) -> None:
    store = SqliteStore(path)
    opened = await store.open()
    await store.commit(Batch([new_task(opened.next_seq + n, body=b"x" * 200) for n in range(tasks)]))
    await store.close()


async def backed_up(path: Path, target: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.backup(target)
    await store.close()


async def test_a_damaged_backup_is_refused_however_large_and_nothing_is_made(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gowork.leader.store._sqlite_file._CHECKED_BYTES_MAX", 0)
    await fill(path)
    backup = tmp_path / "copy"
    await backed_up(path, backup)
    content = bytearray(backup.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4096] = bytes(4096)
    backup.write_bytes(content)
    with pytest.raises(StoreFormatError, match="copy is damaged"):
        await SqliteStore(tmp_path / "restored.db").restore(backup)
    assert not list(tmp_path.glob("restored.db?*[!k]"))
    assert not (tmp_path / "restored.db").exists()


async def test_a_copy_of_a_store_in_use_is_no_backup(path: Path, tmp_path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit(Batch([new_task(1)]))
    # The log has what was committed: a copy of the database alone would lack it.
    with pytest.raises(StoreFormatError, match="is a store and not a backup"):
        await SqliteStore(tmp_path / "restored.db").restore(path)
    await store.close()


async def test_a_backup_on_a_read_only_medium_can_be_restored(path: Path, tmp_path: Path) -> None:
    await fill(path, tasks=3)
    backup = tmp_path / "medium" / "copy"
    backup.parent.mkdir()
    await backed_up(path, backup)
    backup.chmod(0o444)
    backup.parent.chmod(0o555)
    before = backup.read_bytes()
    store = SqliteStore(tmp_path / "restored.db")
    await store.restore(backup)
    await store.open()
    assert len(await all_unfinished(store)) == 3
    await store.close()
    backup.parent.chmod(0o755)
    assert [file.name for file in backup.parent.iterdir()] == ["copy"]
    assert backup.read_bytes() == before


async def test_a_store_that_was_restored_says_which_tasks_came_with_the_backup(path: Path, tmp_path: Path) -> None:
    await fill(path, tasks=3)
    await backed_up(path, tmp_path / "copy")
    for copy in (1, 2):
        store = SqliteStore(tmp_path / f"restored-{copy}.db")
        await store.restore(tmp_path / "copy")
        opened = await store.open()
        assert opened.restored is not None
        assert opened.restored.seq_below == opened.next_seq == 4
        assert opened.restored.fence_below < opened.term << TERM_SHIFT
        await store.close()
        again = await store.open()
        assert again.restored == opened.restored
        await store.commit(Batch([new_task(again.next_seq, "new", changed=changed_number(again.term, 1))]))
        await store.close()
    store = SqliteStore(path)
    assert (await store.open()).restored is None
    await store.close()


async def test_a_backup_of_format_1_is_migrated_once_it_is_restored(tmp_path: Path) -> None:
    write_store(tmp_path / "copy", [])
    store = SqliteStore(tmp_path / "restored.db")
    await store.restore(tmp_path / "copy")
    opened = await store.open()
    assert opened.term == TERM + RESTORE_TERMS + 1
    assert await store.watch_floor() == changed_number(TERM + RESTORE_TERMS, 0)
    await store.close()
