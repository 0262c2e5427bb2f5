"""Leaders that share snapshots lose nothing when all their disks are lost, and copies survive what breaks them."""

# ruff: noqa: ASYNC110, ASYNC240 - nothing announces what is waited for, and a test may block its own loop.

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader, serving
from postgresql_server import PostgresqlServer
from sharing_leaders import Sharing, sharing

from gowork.leader._replication import candidacy, pins, pruning, snapshots, upkeep
from gowork.leader._rpc import copies, copying
from gowork.leader._rpc.copies import Copies
from gowork.leader._snapshots.folder import Folder
from gowork.leader._snapshots.names import Snapshot, named
from gowork.leader._snapshots.places import SnapshotPlace, place_at
from gowork.leader.log.postgresql import postgresql_log
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.cluster.v1 import leader_pb2 as pb
from gowork.proto.status import Refusal


@pytest.fixture(autouse=True)
def all_goes_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "FORCE_SECONDS", 0.05)
    monkeypatch.setattr(upkeep, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(pruning, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(pins, "PIN_SECONDS", 0.5)
    monkeypatch.setattr(pins, "AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(candidacy, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(copying, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(snapshots, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(snapshots, "SNAPSHOT_SECONDS", 0.1)
    monkeypatch.setattr(snapshots, "TIMES_APART", 0)
    monkeypatch.setattr(snapshots, "AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(snapshots, "RANK_SECONDS", 0.05)


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Sharing]:
    async with asyncio.timeout(PATIENCE), sharing(tmp_path) as crew:
        yield crew


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    return folder


def there(folder: Path) -> list[Snapshot]:
    found = (named(path.name) for path in folder.iterdir())
    return sorted((each for each in found if each is not None), key=lambda each: each.position.index)


async def has_all(crew: Sharing, folder: Path) -> None:
    """Waits until a snapshot has all that the log has, and the log has no more than what follows it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = there(folder)
            if found and found[-1].position.index == crew.place.span.last == crew.place.span.first:
                return
            await asyncio.sleep(0.02)


async def got(crew: Sharing, name: str, id: str) -> None:
    """Has a leader say that a task is there, as soon as one leads."""
    while True:
        try:
            await crew._served[name].get(id)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(0.02)
        else:
            return


async def metrics(leader: ServedLeader) -> dict[str, float]:
    def page() -> str:
        with urllib.request.urlopen(f"http://{leader.addresses.http}/metrics", timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    rows = (line.rpartition(" ") for line in (await asyncio.to_thread(page)).splitlines() if line[:1] != "#")
    return {name: float(value) for name, _, value in rows}


async def test_when_all_disks_are_lost_nothing_is_lost(crew: Sharing, folder: Path, tmp_path: Path) -> None:
    for name in "abc":
        await crew.start(name, snapshots=Folder(folder))
        await crew.says(name, 200, "ready" if name == "a" else "follows")
    await crew.submitted("a", "one", "two")
    await has_all(crew, folder)
    await crew.submitted("b", "three")
    for name in "abc":
        await crew.stop(name)
    for path in tmp_path.glob("*.db*"):
        path.unlink()
    for name in "cba":
        await crew.start(name, snapshots=Folder(folder))
    for name in "abc":
        await crew.says(name, 200)
    for id in ("one", "two", "three"):
        await got(crew, "b", id)
    names = {name: (await crew.ready(name))[1] for name in "abc"}
    assert sum(text == "ready" for text in names.values()) == 1
    seen = await metrics(crew._served["a"])
    assert seen["gowork_log_snapshot_index"] > 0
    assert seen["gowork_log_snapshot_age_seconds"] < PATIENCE


@pytest.mark.tool("postgres", "initdb")
async def test_leaders_with_log_and_snapshots_in_one_database_need_no_disk_that_lasts(tmp_path: Path) -> None:
    with PostgresqlServer() as server:
        url = server.url("gowork")
        async with asyncio.timeout(PATIENCE), sharing(tmp_path, lambda: postgresql_log(url)) as crew:
            first = await crew.start("a", snapshots=place_at(url))
            await crew.says("a", 200, "ready")
            await crew.submitted("a", "one")
            while (await metrics(first))["gowork_log_snapshot_index"] < 2:
                await asyncio.sleep(0.02)
            await crew.submitted("a", "two")
            await crew.stop("a")
            for path in tmp_path.glob("*.db*"):
                path.unlink()
            for name in "ab":
                await crew.start(name, snapshots=place_at(url))
            for name in "ab":
                await crew.says(name, 200)
            for id in ("one", "two"):
                await got(crew, "b", id)


async def test_a_new_leader_takes_a_snapshot_and_asks_no_leader_for_a_copy(
    crew: Sharing, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(copies: Copies, request: object, applied: int) -> AsyncGenerator[pb.CopyStoreResponse, None]:
        raise AssertionError("a leader was asked")
        yield

    monkeypatch.setattr(Copies, "parts", refuse)
    await crew.start("a", snapshots=Folder(folder))
    await crew.says("a", 200, "ready")
    await crew.submitted("a", "one")
    await has_all(crew, folder)
    await crew.submitted("a", "two")
    await crew.start("b", snapshots=Folder(folder))
    await crew.says("b", 200, "follows")
    await crew.stop("a")
    await crew.says("b", 200, "ready")
    for id in ("one", "two"):
        await crew._served["b"].get(id)


async def test_a_damaged_snapshot_is_passed_over_and_a_leader_is_asked(crew: Sharing, folder: Path) -> None:
    await crew.start("a", snapshots=Folder(folder))
    await crew.says("a", 200, "ready")
    await crew.submitted("a", "one")
    await has_all(crew, folder)
    for each in there(folder):
        path = folder / each.name
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    await crew.start("b", snapshots=Folder(folder))
    await crew.says("b", 200, "follows")
    await crew.stop("a")
    await crew.says("b", 200, "ready")
    await crew._served["b"].get("one")


async def test_a_folder_that_is_missing_is_told_and_holds_nothing_up(crew: Sharing, folder: Path) -> None:
    folder.rmdir()
    served = await crew.start("a", snapshots=Folder(folder))
    text = await crew.says("a", 200, "no shared snapshots")
    assert f"{folder} is no folder here; make it, or mount it" in text
    await crew.submitted("a", "one")
    seen = await metrics(served)
    assert seen["gowork_log_snapshot_index"] == 0
    assert seen["gowork_log_snapshot_age_seconds"] > 0
    assert crew.place.span.first == 1
    folder.mkdir()
    await has_all(crew, folder)
    while (await crew.ready("a"))[1] != "ready":
        await asyncio.sleep(0.02)


async def test_two_clusters_share_a_folder_and_each_sees_its_own(folder: Path, tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    async with asyncio.timeout(PATIENCE), sharing(tmp_path / "x") as one, sharing(tmp_path / "y") as two:
        for crew, id in ((one, "one"), (two, "two")):
            await crew.start("a", snapshots=Folder(folder))
            await crew.says("a", 200, "ready")
            await crew.submitted("a", id)
            generation = crew.place.generation
            assert generation is not None
            while not [each for each in there(folder) if each.position.generation == generation.id]:
                await asyncio.sleep(0.02)
        await two.stop("a")
        two.store_path("a").unlink()
        await two.start("a", snapshots=Folder(folder))
        await two.says("a", 200, "ready")
        await two._served["a"].get("two")
        with pytest.raises(grpc.aio.AioRpcError):
            await two._served["a"].get("one")


async def test_a_store_that_can_not_apply_an_entry_is_not_made_from_a_snapshot_that_lacks_it(
    crew: Sharing, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    async def noting(place: SnapshotPlace, store: object, log: object, least: int, target: Path) -> Any:
        asked.append(least)
        return await snapshots.fetch_newest(place, store, log, least, target)  # type: ignore[arg-type]

    monkeypatch.setattr(copying, "fetch_newest", noting)
    await crew.start("a", snapshots=Folder(folder))
    await crew.says("a", 200, "ready")
    await crew.submitted("a", "one")
    await has_all(crew, folder)
    monkeypatch.setattr(snapshots, "SNAPSHOT_SECONDS", 3600.0)
    before = crew.place.span.last
    await crew.start("b", snapshots=Folder(folder))
    await crew.says("b", 200, "follows")
    await crew.stop("b")
    _forget(crew.store_path("b"), "one")
    await crew._served["a"].scheduler.CancelTask(_cancel("one"), timeout=PATIENCE)
    await crew.stop("a")
    await crew.start("b", snapshots=Folder(folder))
    await crew.says("b", 503, f"Entry {before + 1} of the log can't be applied")
    while asked[-1] != before + 1:
        await asyncio.sleep(0.02)
    assert crew.asides("b") == []


def _forget(path: Path, id: str) -> None:
    import apsw

    with apsw.Connection(str(path)) as connection:
        connection.execute("DELETE FROM standings WHERE seq IN (SELECT seq FROM specs WHERE id = ?)", (id,))
        connection.execute("DELETE FROM specs WHERE id = ?", (id,))
    connection.close()


def _cancel(id: str) -> object:
    from gowork.proto.scheduler.v1 import scheduler_pb2 as spb

    return spb.CancelTaskRequest(id=id)


async def pair(crew: Sharing) -> None:
    """Has a lead and b follow, with two tasks in both stores."""
    await crew.start("a")
    await crew.says("a", 200, "ready")
    await crew.start("b")
    await crew.says("b", 200, "follows")
    await crew.submitted("a", "one", "two")
    await crew.forced("a", "b")


def copied_from(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.__dict__["address"]
        for record in caplog.records
        if record.message == "has a copy of another leader's store"
    ]


async def test_a_copy_is_taken_from_a_follower_rather_than_from_the_leader(
    crew: Sharing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await pair(crew)
    caplog.clear()
    await crew.start("c")
    await crew.says("c", 200, "follows")
    assert copied_from(caplog) == [crew._served["b"].addresses.scheduler]
    await crew.stop("b")
    await crew.stop("a")
    await crew.says("c", 200, "ready")
    await crew._served["c"].get("two")


async def test_a_copy_that_breaks_off_goes_on_where_it_was(crew: Sharing, monkeypatch: pytest.MonkeyPatch) -> None:
    await pair(crew)
    monkeypatch.setattr(copies, "CHUNK_BYTES", 10_000)
    parts = Copies.parts
    asked: list[tuple[str, int]] = []

    async def breaking(
        copies: Copies, request: pb.CopyStoreRequest, applied: int
    ) -> AsyncGenerator[pb.CopyStoreResponse, None]:
        asked.append((request.copy_id, request.offset))
        left = 2 if len(asked) <= 3 else 1_000
        async for part in parts(copies, request, applied):
            if not left:
                raise Refusal(grpc.StatusCode.UNAVAILABLE, "BROKEN", "the stream broke")
            left -= 1
            yield part

    monkeypatch.setattr(Copies, "parts", breaking)
    await crew.start("c")
    await crew.says("c", 200, "follows")
    (first, *others) = asked
    assert first == ("", 0)
    (name,) = {copy_id for copy_id, _ in others}
    assert name
    assert [offset for _, offset in others] == [20_000, 40_000, 60_000]
    for each in "ba":
        await crew.stop(each)
    await crew.says("c", 200, "ready")
    await crew._served["c"].get("one")


async def test_a_copy_that_is_there_no_more_is_begun_anew(crew: Sharing, monkeypatch: pytest.MonkeyPatch) -> None:
    await pair(crew)
    monkeypatch.setattr(copies, "CHUNK_BYTES", 10_000)
    parts = Copies.parts
    asked: list[str] = []

    async def dropping(
        copies: Copies, request: pb.CopyStoreRequest, applied: int
    ) -> AsyncGenerator[pb.CopyStoreResponse, None]:
        asked.append(request.copy_id)
        async for part in parts(copies, request, applied):
            yield part
            if len(asked) == 1:
                copies.drop()
                raise Refusal(grpc.StatusCode.UNAVAILABLE, "BROKEN", "the stream broke")

    monkeypatch.setattr(Copies, "parts", dropping)
    await crew.start("c")
    await crew.says("c", 200, "follows")
    assert [bool(each) for each in asked] == [False, True, False]


async def test_a_copy_with_other_bytes_than_were_sent_is_not_used(
    crew: Sharing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await pair(crew)
    parts = Copies.parts
    calls: list[int] = []

    async def changing(
        copies: Copies, request: pb.CopyStoreRequest, applied: int
    ) -> AsyncGenerator[pb.CopyStoreResponse, None]:
        calls.append(1)
        async for part in parts(copies, request, applied):
            if len(calls) <= 2:
                part.data = part.data[:-1] + bytes([part.data[-1] ^ 1])
            yield part

    monkeypatch.setattr(Copies, "parts", changing)
    await crew.start("c")
    await crew.says("c", 200, "follows")
    (record,) = [each for each in caplog.records if each.message == "no copy of another leader's store yet"]
    # From b and from a.
    assert record.__dict__["reason"].count("the copy has other bytes than were sent") == 2
    assert len(calls) == 3


async def test_a_leader_that_can_not_read_the_format_of_the_others_takes_no_copy_and_names_it(
    crew: Sharing, caplog: pytest.LogCaptureFixture
) -> None:
    class OlderStore(SqliteStore):
        copy_format = 2

    await pair(crew)
    await crew.start("c", OlderStore)
    async with asyncio.timeout(PATIENCE):
        while not [each for each in caplog.records if "has format 3" in each.__dict__.get("reason", "")]:
            await asyncio.sleep(0.02)
    await crew.says("c", 503, "takes a copy")


async def test_a_leader_without_a_log_sends_no_copies(tmp_path: Path) -> None:
    async with serving(tmp_path / "gowork.db") as leader:
        call = leader.cluster.CopyStore(pb.CopyStoreRequest(), timeout=PATIENCE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_snapshots_are_taken_by_default_often_enough_for_the_log() -> None:
    most = snapshots.SNAPSHOT_BYTES + snapshots.RANKS_MAX * snapshots.RANK_BYTES
    assert 2 * most <= pruning.LOG_BYTES_MAX
