"""What lies at a store's path decides whether it opens, and a file that is refused stays as it was."""

# ruff: noqa: ASYNC240 - a test may block its own loop.

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from gowork.leader.store._sqlite_schema import FORMAT, FORMAT_LOGGED
from gowork.leader.store.conformance import all_unfinished, new_task
from gowork.leader.store.protocol import Batch, StoreError, StoreFormatError
from gowork.leader.store.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gowork.db"


async def fill(path: Path, tasks: int = 500) -> None:
    store = SqliteStore(path)
    opened = await store.open()
    await store.commit(Batch([new_task(opened.next_seq + n, body=b"x" * 200) for n in range(tasks)]))
    await store.close()


def files(directory: Path) -> dict[str, bytes]:
    """Every file but the lock, which any opening makes, and SQLite's shared memory, which holds nothing to keep."""
    return {file.name: file.read_bytes() for file in directory.iterdir() if not file.name.endswith((".lock", "-shm"))}


async def refused(path: Path) -> str:
    """The message of a refusal that has left every file as it was."""
    before = files(path.parent)
    with pytest.raises(StoreFormatError) as caught:
        await SqliteStore(path).open()
    assert files(path.parent) == before
    assert str(path) in str(caught.value)
    return str(caught.value)


async def test_closing_leaves_the_database_alone_with_its_lock(path: Path) -> None:
    await fill(path)
    assert sorted(file.name for file in path.parent.iterdir()) == ["gowork.db", "gowork.db.lock"]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are UTF-8")
async def test_a_path_need_not_be_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.db"))
    await fill(path)
    assert os.fsencode(path.name) in os.listdir(os.fsencode(tmp_path))


async def test_directories_are_made(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "a" / "b" / "gowork.db")
    await store.open()
    await store.close()
    assert (tmp_path / "a" / "b" / "gowork.db").exists()


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    store = SqliteStore(path)
    assert (await store.open()).term == 1
    await store.close()


async def test_a_creation_that_was_cut_short_is_started_over(path: Path) -> None:
    Path(f"{path}.new").write_bytes(b"SQLite format 3\0 and then the power went")
    Path(f"{path}.new-journal").write_bytes(b"x")
    store = SqliteStore(path)
    assert (await store.open()).term == 1
    await store.close()
    assert sorted(file.name for file in path.parent.iterdir()) == ["gowork.db", "gowork.db.lock"]


async def test_two_names_of_one_file_share_the_lock(path: Path, tmp_path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    other = tmp_path / "other.db"
    other.symlink_to(path)
    with pytest.raises(StoreError, match="in use by another leader"):
        await SqliteStore(other).open()
    await store.close()


async def test_a_store_that_is_open_is_not_opened_again_and_stays_open(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    with pytest.raises(StoreError, match="open already"):
        await store.open()
    await store.commit(Batch([new_task(1)]))
    await store.close()


@pytest.mark.parametrize("content", [b"hello", b"SQLite format 3\0", b"\0" * 5000, b"[section]\nkey = 1\n" * 100])
async def test_a_file_that_is_no_database_is_refused_and_stays(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "no SQLite database" in await refused(path)


async def test_the_database_of_another_program_is_refused_and_stays(path: Path) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE tasks (id)")
    connection.close()
    assert "another program" in await refused(path)


def set_format(path: Path, version: int) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


async def test_a_newer_format_is_refused_and_stays(path: Path) -> None:
    await fill(path)
    set_format(path, FORMAT_LOGGED + 1)
    message = await refused(path)
    assert f"format {FORMAT_LOGGED + 1}" in message
    assert "Install the version that wrote it" in message


async def test_a_newer_format_that_only_the_log_tells_of_is_refused_and_stays(path: Path, tmp_path: Path) -> None:
    await fill(path)
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA user_version = {FORMAT_LOGGED + 1}")
    # Copied while it is open, as a crash would leave it: the header of the database itself still has the old format.
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", crashed)
    connection.close()
    assert (crashed / path.name).read_bytes()[60:64] == FORMAT.to_bytes(4, "big")
    assert f"format {FORMAT_LOGGED + 1}" in await refused(crashed / path.name)


def cut(content: bytearray) -> bytearray:
    return content[: len(content) // 2]


def blank_a_page(content: bytearray) -> bytearray:
    content[3 * 4096 : 4 * 4096] = bytes(4096)
    return content


def scramble_the_schema(content: bytearray) -> bytearray:
    content[100:4096] = b"\xa5" * 3996
    return content


def forget_the_format(content: bytearray) -> bytearray:
    content[60:64] = bytes(4)
    return content


@pytest.mark.parametrize("damage", [cut, blank_a_page, scramble_the_schema, forget_the_format])
async def test_a_damaged_store_is_refused_and_stays(path: Path, damage: Callable[[bytearray], bytearray]) -> None:
    await fill(path)
    path.write_bytes(damage(bytearray(path.read_bytes())))
    message = await refused(path)
    assert "is damaged" in message
    assert "Restore a backup" in message


@pytest.mark.parametrize("statement", ["DROP TABLE members", "DROP INDEX standings_waiting", "DELETE FROM meta"])
async def test_a_store_without_its_tables_is_refused_and_stays(path: Path, statement: str) -> None:
    await fill(path)
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    connection.close()
    assert "is damaged" in await refused(path)


async def test_damage_that_is_met_later_is_told_as_damage(path: Path) -> None:
    await fill(path)
    store = SqliteStore(path)
    await store.open()
    # Behind the store's back, as a failing disk does it: every page but the first.
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    with pytest.raises(StoreFormatError, match="is damaged"):
        await all_unfinished(store)
    await store.close()


async def test_a_log_without_its_database_is_refused_and_stays(path: Path) -> None:
    Path(f"{path}-wal").write_bytes(b"x" * 100)
    assert "log" in await refused(path)


async def test_a_directory_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreError, match="Is a directory"):
        await SqliteStore(path).open()


async def test_a_file_in_the_place_of_its_directory_is_refused(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="can't be written"):
        await SqliteStore(path / "gowork.db").open()


async def test_a_library_that_is_too_old_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.34.1")
    with pytest.raises(StoreError, match=r"SQLite 3\.35\.0 or newer is needed"):
        await SqliteStore(path).open()


#: Root may write everywhere, so that it becomes nobody once everything is imported.
OPEN_AS_NOBODY = """
import asyncio, os, sys
from gowork.leader.store.sqlite import SqliteStore
async def attempt():
    store = SqliteStore(sys.argv[1])
    await asyncio.to_thread(int)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresuid(65534, 65534, 65534)
    try:
        await store.open()
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
asyncio.run(attempt())
"""


def open_as_nobody(path: Path) -> str:
    done = subprocess.run([sys.executable, "-c", OPEN_AS_NOBODY, path], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A place that anyone can reach: pytest closes its own temporary directories to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name) / "gowork.db"


async def test_a_directory_that_is_read_only_is_refused(reachable: Path) -> None:
    await fill(reachable)
    Path(f"{reachable}.lock").unlink()
    reachable.parent.chmod(0o555)
    try:
        message = open_as_nobody(reachable)
    finally:
        reachable.parent.chmod(0o755)
    assert message.startswith(f"StoreError: {reachable} can't be written: Permission denied")
    assert "must be able to write the file and its directory" in message


async def test_a_database_that_is_read_only_is_refused_and_stays(reachable: Path) -> None:
    await fill(reachable)
    before = files(reachable.parent)
    reachable.chmod(0o444)
    Path(f"{reachable}.lock").chmod(0o666)
    reachable.parent.chmod(0o777)
    message = open_as_nobody(reachable)
    assert message.startswith(f"StoreError: {reachable} can't be written")
    assert files(reachable.parent) == before
