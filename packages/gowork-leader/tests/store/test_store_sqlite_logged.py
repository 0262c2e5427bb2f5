"""A store with a log: what SQLite keeps of it, when it is on disk, and the files beside it."""

# ruff: noqa: ASYNC240 - a test may block its own loop.

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import apsw
import msgspec
import pytest
from msgspec.structs import replace

from gowork.leader._core.model import LaneKey, Position, Priority, Standing, Status
from gowork.leader.store import _sqlite_digest, _sqlite_lanes, _sqlite_log, _sqlite_reserve
from gowork.leader.store._sqlite_entries import EntryWriter
from gowork.leader.store._sqlite_schema import FORMAT, FORMAT_LOGGED
from gowork.leader.store.batches import decode_batch, encode_batch
from gowork.leader.store.codec import encode_standing
from gowork.leader.store.conformance import HISTORY, new_task, standing
from gowork.leader.store.conformance.logged import (
    BASE,
    GENERATION,
    START,
    TERM,
    joined,
    led,
    position,
    position_of,
    seqs,
)
from gowork.leader.store.protocol import Batch, MovedTask, StoreBusyError, StoreError, StoreFullError, StoreLostError
from gowork.leader.store.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gowork.db"


async def logged(path: Path, batches: int = 0) -> SqliteStore:
    """An open store with a log that has the first batches of HISTORY."""
    store = SqliteStore(path)
    await led(await joined(store), HISTORY[:batches])
    return store


async def test_the_store_says_where_it_stands_when_what_was_cancelled_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await logged(path)
    begun, goes_on = threading.Event(), threading.Event()
    write = EntryWriter.apply

    def slow(self: EntryWriter, *given: Any) -> None:
        begun.set()
        assert goes_on.wait(60)
        write(self, *given)

    monkeypatch.setattr(EntryWriter, "apply", slow)
    applying = asyncio.ensure_future(store.apply([(HISTORY[0], position(BASE + 1), TERM)]))
    await asyncio.to_thread(begun.wait, 60)
    applying.cancel()
    await asyncio.wait({applying})
    asyncio.get_running_loop().call_later(0.1, goes_on.set)
    assert (await store.current()).position == position(BASE + 1)
    await store.close()


def longer(at: Standing) -> bytes:
    """The bytes of a standing from a version that knows one field more."""
    return msgspec.msgpack.encode([*msgspec.msgpack.decode(encode_standing(at)), "a field to come"])


def states(path: Path) -> list[bytes]:
    connection = apsw.Connection(str(path))
    found = [state for (state,) in connection.execute("SELECT state FROM standings ORDER BY seq")]
    connection.close()
    return found


async def test_a_follower_writes_the_bytes_that_the_leader_has_written(path: Path, tmp_path: Path) -> None:
    states_sent = [longer(standing(Status.RUNNING)), longer(standing(Status.PENDING)), longer(standing())]
    batches = [
        Batch([new_task(1), new_task(2)]),
        Batch(
            [replace(new_task(3, changed=2), state=states_sent[2])],
            [
                MovedTask(1, 2, standing(Status.RUNNING), state=states_sent[0]),
                MovedTask(2, 2, standing(), new_task(2).lane, state=states_sent[1]),
            ],
        ),
    ]
    leader, follower = await logged(path), await logged(tmp_path / "follower.db")
    await led(leader, batches)
    for index, batch in enumerate(batches, BASE + 1):
        await follower.apply([(decode_batch(encode_batch(batch)), position(index), TERM)])
    assert states(path) == states(follower.path) == states_sent
    assert await follower.digest() == await leader.digest()
    await leader.close()
    await follower.close()


async def test_with_a_log_commits_are_not_forced_one_by_one_and_merges_are(path: Path) -> None:
    store = SqliteStore(path)
    await store.open_logged(GENERATION)
    writer, merges = store._writer.connection, store._merges.connection
    assert writer is not None
    assert merges is not None
    statements: list[str] = []
    writer.trace_v2(apsw.SQLITE_TRACE_STMT, lambda event: statements.append(event["sql"]))
    await store.join_log(START, TERM)
    # It has joined durably.
    assert statements.index("COMMIT") < statements.index("PRAGMA synchronous = NORMAL")
    for _ in range(2):
        # 1 is NORMAL, 2 is FULL. Both force the log before it is merged, and the database after that.
        assert writer.execute("PRAGMA synchronous").fetchone() == (1,)
        assert merges.execute("PRAGMA synchronous").fetchone() == (2,)
        await store.close()
        await store.open_logged(GENERATION)
        writer, merges = store._writer.connection, store._merges.connection
        assert writer is not None
        assert merges is not None
    await store.close()
    await store.detach()
    await store.open()
    assert store._writer.connection is not None
    assert store._writer.connection.execute("PRAGMA synchronous").fetchone() == (2,)
    await store.close()


async def test_each_entry_is_forced_to_disk_from_the_next_one_on_if_that_is_asked_for(path: Path) -> None:
    store = await logged(path)
    connection = store._writer.connection
    assert connection is not None
    levels: list[object] = []
    for number, each in enumerate((True, True, False), 1):
        await store.prepare(Batch([new_task(number, changed=number)]), position(BASE + number), TERM)
        # In the open transaction SQLite would refuse it.
        await store.force_each(each)
        await store.settle()
        levels.append(connection.execute("PRAGMA synchronous").get)
    await store.apply([(None, position(BASE + 4), TERM)])
    levels.append(connection.execute("PRAGMA synchronous").get)
    # 1 is NORMAL, and 2 is FULL.
    assert levels == [1, 2, 2, 1]
    await store.force_each(True)
    await store.close()
    with pytest.raises(StoreError):
        await store.force_each(True)
    await store.open_logged(GENERATION)
    connection = store._writer.connection
    assert connection is not None
    await store.apply([(None, position(BASE + 5), TERM)])
    assert connection.execute("PRAGMA synchronous").fetchone() == (1,)
    await store.close()


async def test_versions_that_know_no_log_refuse_a_store_that_belongs_to_one(path: Path) -> None:
    def format_of_file() -> int:
        return int.from_bytes(path.read_bytes()[60:64], "big")

    store = SqliteStore(path)
    await store.open_logged(GENERATION)
    await store.close()
    assert format_of_file() == FORMAT
    await joined(store)
    await store.close()
    assert format_of_file() == FORMAT_LOGGED
    await store.detach()
    assert format_of_file() == FORMAT


async def test_what_is_forced_is_in_the_database_itself(path: Path, tmp_path: Path) -> None:
    store = await logged(path, batches=3)
    forced = await store.force()
    shutil.copy(path, tmp_path / "after.db")
    await led(store, HISTORY[3:])
    await store.close()
    after = SqliteStore(tmp_path / "after.db")
    await after.open_logged(GENERATION)
    assert await position_of(after) == forced == position(BASE + 3)
    await after.close()


async def test_what_is_settled_during_a_merge_is_not_forced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await logged(path, batches=1)
    loop = asyncio.get_running_loop()
    real = _sqlite_log.merge_all

    def merge_all(connection: apsw.Connection) -> bool:
        merged = real(connection)
        asyncio.run_coroutine_threadsafe(led(store, [HISTORY[1]]), loop).result(30)
        return merged

    monkeypatch.setattr("gowork.leader.store.sqlite.merge_all", merge_all)
    assert await store.force() == position(BASE + 1)
    assert await position_of(store) == position(BASE + 2)
    await store.close()


async def test_while_a_reader_holds_up_the_merge_nothing_is_forced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await logged(path, batches=1)
    tried = asyncio.Event()
    loop = asyncio.get_running_loop()
    real = _sqlite_log.merge_all

    def merge_all(connection: apsw.Connection) -> bool:
        merged = real(connection)
        loop.call_soon_threadsafe(tried.set)
        return merged

    monkeypatch.setattr("gowork.leader.store.sqlite.merge_all", merge_all)
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM meta").fetchone()
    await led(store, HISTORY[1:2])
    forcing = asyncio.ensure_future(store.force())
    for _ in range(2):
        await tried.wait()
        tried.clear()
        # Commits go on meanwhile.
        await led(store, [Batch()])
        assert not forcing.done()
    reader.close()
    assert (await forcing).index >= BASE + 3
    await store.close()


class Answering:
    """A connection whose merges end like this."""

    def __init__(self, *answer: int) -> None:
        self._answer = answer

    def execute(self, _: str) -> "Answering":
        return self

    @property
    def get(self) -> tuple[int, ...]:
        return self._answer


@pytest.mark.parametrize(
    ("answer", "merged"),
    [((0, 9, 9), True), ((0, 0, 0), True), ((0, 9, 8), False), ((1, -1, -1), False), ((0, -1, -1), False)],
)
def test_a_merge_that_was_not_tried_has_merged_nothing(answer: tuple[int, ...], merged: bool) -> None:
    assert _sqlite_log.merge_all(cast(apsw.Connection, Answering(*answer))) is merged


async def test_the_log_of_sqlite_stays_short_while_entries_come(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_log, "_MERGE_PAGES", 50)
    monkeypatch.setattr(_sqlite_log, "_LOG_PAGES_MAX", 100)
    leader, follower = await logged(path), await logged(path.with_name("follower.db"))
    tasks, rounds = 100, 400
    first = Batch([new_task(seq) for seq in range(1, tasks + 1)])
    moves = [
        Batch(moves=[MovedTask(seq, changed, standing(Status.RUNNING)) for seq in range(1, tasks + 1)])
        for changed in range(2, rounds)
    ]
    for index, batch in enumerate([first, *moves], BASE + 1):
        await leader.prepare(batch, position(index), TERM)
        await leader.settle()
        await follower.apply([(batch, position(index), TERM)])
        for store in (leader, follower):
            # On a busy machine the thread that merges may come late, and the log is longer meanwhile.
            while store._log._merging:  # noqa: ASYNC110 - nothing tells when a merge has ended
                await asyncio.sleep(0)
    for store in (leader, follower):
        assert Path(f"{store.path}-wal").stat().st_size // 4096 < rounds * 2
        await store.close()


async def test_nothing_is_prepared_in_a_store_that_is_no_longer_at_its_place(path: Path) -> None:
    store = await logged(path)
    path.rename(path.with_suffix(".away"))
    for _ in range(2):
        with pytest.raises(StoreLostError, match="moved, deleted or replaced"):
            await store.prepare(Batch([new_task(1)]), position(BASE + 1), TERM)
    with pytest.raises(StoreLostError, match="moved, deleted or replaced"):
        await store.apply([(None, position(BASE + 1), TERM)])
    await store.close()


async def test_a_foreign_write_lock_blocks_entries_until_it_is_released(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gowork.leader.store.sqlite._BUSY_MS", 1)
    store = await logged(path)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusyError):
        await store.prepare(HISTORY[0], position(BASE + 1), TERM)
    with pytest.raises(StoreBusyError):
        await store.apply([(HISTORY[0], position(BASE + 1), TERM)])
    other.close()
    await led(store, HISTORY)
    await store.close()


async def test_a_crash_leaves_a_store_that_is_set_aside_with_its_log(path: Path, tmp_path: Path) -> None:
    store = await logged(path, batches=2)
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(f"{path}{suffix}", crashed)
    await store.close()
    aside = await SqliteStore(crashed / path.name).set_aside()
    assert aside.name.startswith("gowork.db.aside-")
    assert sorted(file.name for file in crashed.iterdir()) == sorted(
        [aside.name, f"{aside.name}-shm", f"{aside.name}-wal", "gowork.db.lock"]
    )
    store = SqliteStore(aside)
    await store.open_logged(GENERATION)
    assert await position_of(store) == position(BASE + 2)
    await store.close()


async def test_a_rename_that_was_cut_short_is_ended_by_the_next_one(path: Path) -> None:
    store = await logged(path)
    Path(f"{path}.lock").unlink()
    path.rename(path.with_suffix(".away"))
    assert Path(f"{path}-wal").exists()
    second = SqliteStore(path)
    with pytest.raises(StoreError, match="its log"):
        await second.open_logged(GENERATION)
    await second.set_aside()
    await second.open_logged(GENERATION)
    await second.close()
    await store.close()


async def test_a_rename_that_is_cut_short_leaves_no_database_without_its_log(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await logged(path, batches=2)
    crashed = path.parent / "crashed" / path.name
    crashed.parent.mkdir()
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
    await store.close()
    renamed: list[Path] = []
    real = os.rename

    def rename(source: str, target: str) -> None:
        if renamed:
            raise OSError(errno.EIO, "Input/output error")
        renamed.append(Path(target))
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(StoreError, match="Input/output error"):
        await SqliteStore(crashed).set_aside()
    monkeypatch.undo()
    with pytest.raises(StoreError, match="its log"):
        await SqliteStore(crashed).open_logged(GENERATION)


async def test_the_new_names_are_forced_to_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await (await logged(path)).close()
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    await SqliteStore(path).set_aside()
    assert synced == [str(path.parent)]


async def test_a_store_keeps_room_while_it_has_a_log(path: Path) -> None:
    reserve = Path(f"{path}.reserve")
    store = SqliteStore(path)
    await store.open_logged(GENERATION)
    assert not reserve.exists()
    await store.join_log(START, TERM)
    look = reserve.stat()
    assert look.st_size == _sqlite_reserve.RESERVE_BYTES
    # It takes its room now.
    assert look.st_blocks * 512 >= _sqlite_reserve.RESERVE_BYTES
    assert look.st_mode & 0o077 == 0
    await store.close()
    assert reserve.exists()
    # One that was cut short is made anew.
    os.truncate(reserve, 4096)
    await store.open_logged(GENERATION)
    assert reserve.stat().st_size == _sqlite_reserve.RESERVE_BYTES
    await store.close()
    await store.detach()
    assert not reserve.exists()


async def test_without_room_for_the_reserve_nothing_is_prepared_and_what_the_log_has_is_applied(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_reserve, "RESERVE_BYTES", 1 << 60)
    store = await logged(path)
    for _ in range(2):
        with pytest.raises(StoreFullError, match=r"gowork\.db\.reserve"):
            await store.prepare(HISTORY[0], position(BASE + 1), TERM)
    await store.apply([(HISTORY[0], position(BASE + 1), TERM)])
    assert not Path(f"{path}.reserve").exists()
    monkeypatch.setattr(_sqlite_reserve, "RESERVE_BYTES", 1 << 20)
    await led(store, HISTORY[1:])
    assert Path(f"{path}.reserve").stat().st_size == 1 << 20
    await store.close()


async def test_a_reserve_that_cannot_be_made_is_told(path: Path) -> None:
    reserve = Path(f"{path}.reserve")
    reserve.mkdir()
    store = await logged(path)
    with pytest.raises(StoreFullError, match="Is a directory"):
        await store.prepare(HISTORY[0], position(BASE + 1), TERM)
    reserve.rmdir()
    await led(store, HISTORY)
    await store.close()


async def close(store: SqliteStore, _: "asyncio.Task[bytes]") -> None:
    await store.close()


async def cancel(_: SqliteStore, digesting: "asyncio.Task[bytes]") -> None:
    digesting.cancel()
    await asyncio.wait({digesting})


@pytest.mark.parametrize("end", [close, cancel])
async def test_a_digest_is_given_up_when_nobody_waits_for_it(
    path: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[[SqliteStore, "asyncio.Task[bytes]"], object]
) -> None:
    store = await logged(path, batches=3)
    go_on = threading.Event()
    rows: list[object] = []
    real = _sqlite_digest._encode

    def encode(value: object) -> bytes:
        if isinstance(value, tuple):
            go_on.wait(60)
            rows.append(value)
        return real(value)

    monkeypatch.setattr(_sqlite_digest, "_encode", encode)
    begun = asyncio.Event()
    digesting = asyncio.create_task(store.digest(begun))
    await begun.wait()
    ending = asyncio.ensure_future(end(store, digesting))  # type: ignore[call-overload]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(ending, digesting, return_exceptions=True)
    assert digesting.cancelled() or isinstance(digesting.exception(), StoreError)
    # It stops with the rows of the first table.
    assert len(rows) <= 5
    await store.close()


async def test_a_store_of_a_version_that_gave_no_id_gets_one_and_keeps_it(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()
    connection = apsw.Connection(str(path))
    connection.execute("DELETE FROM meta WHERE key = 'store_id'")
    connection.close()
    opened = await store.open()
    await store.close()
    assert opened.store_id
    assert (await store.open()).store_id == opened.store_id
    await store.close()


async def test_the_numbers_of_lanes_are_no_part_of_the_digest(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = [LaneKey("q", Priority.LOW, "h", (), f"key {number}") for number in range(3)]
    batches = [
        Batch([new_task(1, lane=lanes[0])]),
        Batch(moves=[MovedTask(1, 2, standing(Status.COMPLETED))]),
        Batch([new_task(2, changed=3, lane=lanes[1])]),
        Batch([new_task(3, changed=4, lane=lanes[0]), new_task(4, changed=4, lane=lanes[2])]),
    ]
    store, other = await logged(path), await logged(path.with_name("other.db"))
    await led(store, batches[:2])
    await led(other, batches)
    await store.close()
    # The lane of a task that has finished is dropped, and its number is given to another one.
    monkeypatch.setattr(_sqlite_lanes, "_UNUSED_MAX", 0)
    await store.open_logged(GENERATION)
    await led(store, batches[2:])
    assert lanes_of(path) != lanes_of(other.path)
    assert await store.digest() == await other.digest()
    await store.close()
    await other.close()


def lanes_of(path: Path) -> dict[int, str]:
    connection = apsw.Connection(str(path))
    rows: Any = connection.execute("SELECT id, key FROM lanes").fetchall()
    found = dict(rows)
    connection.close()
    return found


async def test_two_stores_have_two_ids(path: Path, tmp_path: Path) -> None:
    stores = [SqliteStore(path), SqliteStore(tmp_path / "other.db")]
    assert len({(await store.open()).store_id for store in stores}) == 2
    for store in stores:
        await store.close()


async def test_a_position_is_kept_as_it_is(path: Path) -> None:
    store = SqliteStore(path)
    await store.open_logged("g")
    last = Position("g", (1 << 62) - 1, bytes(range(32)))
    await store.join_log(last, (1 << 23) - 1)
    await store.close()
    await store.open_logged("g")
    assert (await store.current()).position == last
    assert (await store.current()).term == (1 << 23) - 1
    assert await seqs(store) == []
    await store.close()
