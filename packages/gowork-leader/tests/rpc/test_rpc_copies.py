"""What a leader sends of its store to other leaders, and when it refuses."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from gowork.leader._rpc import copies
from gowork.leader._rpc.copies import Copies
from gowork.leader.store.protocol import Position, StoreError
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.cluster.v1 import leader_pb2 as pb
from gowork.proto.status import Refusal

GENERATION = "ab"


@pytest.fixture(autouse=True)
def parts_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "CHUNK_BYTES", 10_000)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "gowork.db")
    await store.open_logged(GENERATION)
    await store.join_log(Position(GENERATION, 40, bytes(32)), 7)
    yield store
    await store.close()


def request(
    copy_id: str = "", offset: int = 0, *, index_min: int = 40, format_max: int = 3, generation: str = GENERATION
) -> pb.CopyStoreRequest:
    return pb.CopyStoreRequest(
        copy_id=copy_id, offset=offset, index_min=index_min, format_max=format_max, generation=generation
    )


async def refused(sender: Copies, request: pb.CopyStoreRequest) -> str:
    with pytest.raises(Refusal) as caught:
        await anext(sender.parts(request, 40))
    return caught.value.reason


async def all_of(sender: Copies, request: pb.CopyStoreRequest) -> list[pb.CopyStoreResponse]:
    return [part async for part in sender.parts(request, 40)]


async def test_a_copy_has_all_bytes_their_number_and_their_hash_and_leaves_no_file(
    store: SqliteStore, tmp_path: Path
) -> None:
    before = set(os.listdir(tmp_path))
    sender = Copies(store)
    parts = await all_of(sender, request())
    data = b"".join(part.data for part in parts)
    assert {(part.total_bytes, part.sha256, part.copy_id) for part in parts} == {
        (len(data), copies.hashlib.sha256(data).digest(), parts[0].copy_id)
    }
    assert set(os.listdir(tmp_path)) == before
    (tmp_path / "copy").write_bytes(data)
    assert await store.check_copy(tmp_path / "copy") == (3, Position(GENERATION, 40, bytes(32)))
    # It can be gone on with from any byte, and by more than one who reads.
    again = await all_of(sender, request(parts[0].copy_id, 15_000))
    assert b"".join(part.data for part in again) == data[15_000:]
    assert await all_of(sender, request(parts[0].copy_id, len(data))) == []
    sender.drop()
    assert await refused(sender, request(parts[0].copy_id, 15_000)) == "COPY_GONE"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (request(generation="cd"), "COPY_GENERATION"),
        (request(format_max=2), "COPY_FORMAT"),
        (request(index_min=41), "COPY_TOO_OLD"),
        (request("none"), "COPY_GONE"),
    ],
)
async def test_what_the_caller_could_not_use_is_refused_before_anything_is_copied(
    store: SqliteStore, bad: pb.CopyStoreRequest, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(path: Path) -> None:
        raise AssertionError("it was copied")

    monkeypatch.setattr(store, "backup", fail)
    assert await refused(Copies(store), bad) == reason


@pytest.mark.parametrize("offset", [-1, 1 << 40])
async def test_an_offset_beyond_the_copy_is_refused(store: SqliteStore, offset: int) -> None:
    sender = Copies(store)
    (first, *_) = await all_of(sender, request())
    assert await refused(sender, request(first.copy_id, offset)) == "COPY_OFFSET"
    sender.drop()


async def test_one_copy_is_made_at_a_time_and_one_that_nobody_reads_gives_way(store: SqliteStore) -> None:
    sender = Copies(store)
    async with aclosing(sender.parts(request(), 40)) as parts:
        first = await anext(parts)
        assert await refused(sender, request()) == "COPY_RUNNING"
        # Who goes on with it is no other one.
        assert await all_of(sender, request(first.copy_id, 10_000))
    (second, *_) = await all_of(sender, request())
    assert second.copy_id != first.copy_id
    assert await refused(sender, request(first.copy_id)) == "COPY_GONE"
    sender.drop()


async def test_a_copy_is_kept_for_a_while_and_then_its_room_is_free(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = asyncio.Event()
    close = os.close
    sender = Copies(store)
    (first, *_) = await all_of(sender, request())
    copy = sender._copy
    assert copy is not None

    def noting(descriptor: int) -> None:
        close(descriptor)
        if descriptor == copy.descriptor:
            closed.set()

    monkeypatch.setattr(copies.os, "close", noting)
    monkeypatch.setattr(copies, "KEPT_SECONDS", 0.01)
    await all_of(sender, request(first.copy_id))
    await closed.wait()
    assert await refused(sender, request(first.copy_id)) == "COPY_GONE"


async def test_a_copy_is_kept_for_as_long_as_it_is_read(store: SqliteStore) -> None:
    sender = Copies(store)
    (first, *_) = await all_of(sender, request())
    copy = sender._copy
    assert copy is not None
    assert copy.timer is not None
    assert not copy.timer.cancelled()
    reading = sender.parts(request(first.copy_id), 40)
    await anext(reading)
    # Who reads slowly may have to go on with it.
    assert copy.timer.cancelled()
    await reading.aclose()
    assert not copy.timer.cancelled()
    sender.drop()
    assert copy.timer.cancelled()


async def test_a_copy_that_can_not_be_read_back_leaves_no_open_file(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    open_file = os.open

    def noting(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = open_file(path, flags, mode)
        if flags == os.O_RDONLY | os.O_CLOEXEC and str(path).endswith("-copy"):
            opened.append(descriptor)
        return descriptor

    def broken(descriptor: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(copies, "_sum", broken)
    with monkeypatch.context() as patched:
        patched.setattr(copies.os, "open", noting)
        with pytest.raises(StoreError, match="Input/output error"):
            await all_of(Copies(store), request())
    (descriptor,) = opened
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


async def test_a_copy_that_is_dropped_while_it_is_read_is_read_to_its_end(store: SqliteStore) -> None:
    sender = Copies(store)
    whole = b"".join([part.data for part in await all_of(sender, request())])
    got = b""
    async for part in sender.parts(request(), 40):
        sender.drop()
        got += part.data
    assert got == whole
    assert sender._copy is None


async def test_a_caller_that_hangs_up_while_the_copy_is_made_leaves_nothing(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = Copies(store)
    begun = asyncio.Event()
    backup = store.backup

    async def slow(path: Path) -> None:
        await backup(path)
        begun.set()
        await asyncio.Event().wait()

    before = set(os.listdir(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(store, "backup", slow)
        asking = asyncio.ensure_future(all_of(sender, request()))
        await begun.wait()
        asking.cancel()
        await asyncio.wait({asking})
    # A file that was left is removed when the next copy is made.
    assert await all_of(sender, request())
    assert set(os.listdir(tmp_path)) == before
    sender.drop()
