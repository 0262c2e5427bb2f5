"""A full disk refuses batches whole, and the same batch is taken once there is room."""

# ruff: noqa: ASYNC240 - a test may block its own loop.

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gowork.leader._core.model import Status
from gowork.leader.store import _sqlite_entries
from gowork.leader.store.conformance import ALL_BYTES, new_task, standing
from gowork.leader.store.conformance.logged import BASE, GENERATION, TERM, joined, position, position_of
from gowork.leader.store.protocol import Batch, MovedTask, Query, StoreFullError
from gowork.leader.store.sqlite import SqliteStore

FILESYSTEM_BYTES = 4 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root mounts file systems")
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={FILESYSTEM_BYTES}", "gowork-test", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this system mounts no tmpfs here")
    yield place
    # Lazily: after a failure the store may still have it open.
    subprocess.run(["umount", "--lazy", place], check=True)


def take_the_rest(ballast: Path) -> None:
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        while os.write(descriptor, bytes(4096)):
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(descriptor)


async def ids_of(store: SqliteStore) -> set[str]:
    return {record.id for record in await store.page(Query(), None, 1_000_000, ALL_BYTES)}


async def fill_up(store: SqliteStore, body_bytes: int) -> tuple[Batch, set[str]]:
    """Commits until there is no room; answers the batch that was refused, and the ids of those that were not."""
    stored = await ids_of(store)
    seq = len(stored) + 1
    for _ in range(1000):
        inserts = [new_task(seq + place, body=os.urandom(body_bytes)) for place in range(20)]
        moves = [MovedTask(seq - 1, seq, standing(Status.COMPLETED))] if seq > 1 else []
        batch = Batch(inserts, moves)
        try:
            await store.commit(batch)
        except StoreFullError:
            return batch, stored
        stored |= {new.record.id for new in inserts}
        seq += len(inserts)
    raise AssertionError("the disk does not fill up")


async def test_a_full_disk_refuses_a_batch_whole_and_takes_it_once_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(FILESYSTEM_BYTES // 2))
    store = SqliteStore(small_disk / "gowork.db")
    await store.open()
    batch, stored = await fill_up(store, 5000)
    assert stored
    for _ in range(3):
        with pytest.raises(StoreFullError, match="Nothing was written"):
            await store.commit(batch)
    assert await ids_of(store) == stored
    ballast.unlink()
    await store.commit(batch)
    stored |= {new.record.id for new in batch.inserts}
    assert await ids_of(store) == stored
    await store.close()
    again = SqliteStore(small_disk / "gowork.db")
    assert (await again.open()).term == 2
    assert await ids_of(again) == stored
    await again.close()


async def test_a_store_on_a_full_disk_closes_and_has_all_that_it_had(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(FILESYSTEM_BYTES // 2))
    path = small_disk / "gowork.db"
    store = SqliteStore(path)
    await store.open()
    _, stored = await fill_up(store, 5000)
    take_the_rest(ballast)
    await store.close()
    # The log can't be merged. Most often the place of the refused batch at its end is room enough for the new term;
    # where there is none, that is told, and nothing is lost by trying.
    try:
        again = SqliteStore(path)
        await again.open()
        assert await ids_of(again) == stored
        await again.close()
    except StoreFullError:
        pass
    ballast.unlink()
    again = SqliteStore(path)
    await again.open()
    assert await ids_of(again) == stored
    await again.close()
    assert not Path(f"{path}-wal").exists()


async def test_a_disk_too_small_for_a_new_store_is_told(small_disk: Path) -> None:
    take_the_rest(small_disk / "ballast")
    with pytest.raises(StoreFullError):
        await SqliteStore(small_disk / "gowork.db").open()
    (small_disk / "ballast").unlink()
    store = SqliteStore(small_disk / "gowork.db")
    await store.open()
    await store.close()


def large_batch(seq: int) -> Batch:
    """Takes some 200 KiB: less than the reserve, and more than what is free in SQLite's files."""
    return Batch([new_task(seq * 100 + place, changed=seq, body=os.urandom(20_000)) for place in range(10)])


async def test_what_the_log_has_is_settled_on_a_full_disk_and_then_nothing_is_prepared(small_disk: Path) -> None:
    path, ballast = small_disk / "gowork.db", small_disk / "ballast"
    store = SqliteStore(path)
    await joined(store)
    reserve = Path(f"{path}.reserve")
    await store.prepare(large_batch(1), position(BASE + 1), TERM)
    # The log has the batch now, and the disk becomes full.
    take_the_rest(ballast)
    await store.settle()
    assert not reserve.exists()
    assert await position_of(store) == position(BASE + 1)
    ids = {new.record.id for new in large_batch(1).inserts}
    assert await ids_of(store) == ids
    for _ in range(2):
        with pytest.raises(StoreFullError, match=r"gowork\.db\.reserve"):
            await store.prepare(large_batch(2), position(BASE + 2), TERM)
    ballast.unlink()
    await store.prepare(large_batch(2), position(BASE + 2), TERM)
    assert reserve.exists()
    await store.settle()
    await store.close()
    again = SqliteStore(path)
    await again.open_logged(GENERATION)
    assert await position_of(again) == position(BASE + 2)
    assert await ids_of(again) == ids | {new.record.id for new in large_batch(2).inserts}
    await again.close()


async def test_a_store_has_room_when_it_keeps_room_and_the_disk_has_more(small_disk: Path) -> None:
    path, ballast = small_disk / "gowork.db", small_disk / "ballast"
    store = SqliteStore(path)
    await joined(store)
    assert await store.has_room()
    take_the_rest(ballast)
    # What it keeps is for what the log has already.
    assert Path(f"{path}.reserve").exists()
    assert not await store.has_room()
    Path(f"{path}.reserve").unlink()
    take_the_rest(ballast)
    await store.close()
    await store.open_logged(GENERATION)
    assert not await store.has_room()
    ballast.unlink()
    assert await store.has_room()
    await store.close()


async def test_the_reserve_goes_to_what_the_log_has_before_older_entries_are_merged(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older ones might take all of it, and then the term would end."""
    store = SqliteStore(small_disk / "gowork.db")
    await joined(store)
    merges: list[bool] = []
    monkeypatch.setattr(_sqlite_entries, "merge", lambda connection: merges.append(True))
    await store.prepare(large_batch(1), position(BASE + 1), TERM)
    take_the_rest(small_disk / "ballast")
    await store.settle()
    assert not merges
    assert await position_of(store) == position(BASE + 1)
    await store.close()


async def is_applied(store: SqliteStore, number: int) -> bool:
    try:
        await store.apply([(large_batch(number), position(BASE + number), TERM)])
    except StoreFullError:
        return False
    return True


async def test_a_follower_applies_on_a_full_disk_while_the_reserve_lasts_and_goes_on_once_there_is_room(
    small_disk: Path,
) -> None:
    path, ballast = small_disk / "gowork.db", small_disk / "ballast"
    store = SqliteStore(path)
    await joined(store)
    take_the_rest(ballast)
    number = 1
    while await is_applied(store, number):
        number += 1
    # The reserve has had room for more than one.
    assert number > 2
    assert not Path(f"{path}.reserve").exists()
    assert await position_of(store) == position(BASE + number - 1)
    assert len(await ids_of(store)) == 10 * (number - 1)
    ballast.unlink()
    await store.apply([(large_batch(number), position(BASE + number), TERM)])
    # It is made again with the next entry.
    await store.apply([(None, position(BASE + number + 1), TERM)])
    assert Path(f"{path}.reserve").exists()
    assert len(await ids_of(store)) == 10 * number
    await store.close()


#: Runs everywhere: the process itself may write no file beyond a megabyte, until it may again.
WITH_A_FILE_SIZE_LIMIT = """
import asyncio, importlib.util, resource, sys
from gowork.leader.store.sqlite import SqliteStore
spec = importlib.util.spec_from_file_location("full", sys.argv[2])
full = importlib.util.module_from_spec(spec)
spec.loader.exec_module(full)
async def run():
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    store = SqliteStore(sys.argv[1])
    await store.open()
    batch, stored = await full.fill_up(store, 500)
    assert stored
    assert await full.ids_of(store) == stored
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await store.commit(batch)
    await store.close()
    again = SqliteStore(sys.argv[1])
    await again.open()
    assert await full.ids_of(again) == stored | {new.record.id for new in batch.inserts}
    await again.close()
    print("done", len(stored))
asyncio.run(run())
"""


def test_a_file_size_limit_is_told_as_a_full_disk(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITH_A_FILE_SIZE_LIMIT, tmp_path / "gowork.db", __file__],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("done"), done.stderr
