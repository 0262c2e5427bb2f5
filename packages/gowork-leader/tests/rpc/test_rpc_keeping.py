"""Retries, removals and backups over real connections."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import apsw
import grpc
import pytest
from leader_serving import PATIENCE, ServedLeader, refused, serving, stream_refused

from gowork.leader._core.model import Status
from gowork.leader._engine.retention import Kept
from gowork.leader._rpc import backups
from gowork.leader._rpc.keeping import PURGE_BATCHES_MAX, PURGE_TASKS_MAX
from gowork.leader.store.conformance import new_task, standing
from gowork.leader.store.protocol import Batch, NewTask, StoreError, StoreFormatError, StoreFullError
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import Refusal, refusal_of


async def fail(leader: ServedLeader, *ids: str) -> None:
    await leader.submit(*ids)
    async with leader.worker() as session:
        for _ in ids:
            await session.report(await session.grant(), outcome=pb.ATTEMPT_OUTCOME_FAILED)
    await leader.finished(*ids)


async def purge(leader: ServedLeader, **fields: Any) -> pb.PurgeTasksResponse:
    return await leader.scheduler.PurgeTasks(pb.PurgeTasksRequest(**fields), timeout=PATIENCE)


async def purge_refused(leader: ServedLeader, **fields: Any) -> Refusal:
    return await refused(leader.scheduler.PurgeTasks(pb.PurgeTasksRequest(**fields), timeout=PATIENCE))


async def test_a_failed_task_runs_again(leader: ServedLeader) -> None:
    await fail(leader, "a")
    await leader.scheduler.RetryTask(pb.RetryTaskRequest(id="a"), timeout=PATIENCE)
    task = await leader.get("a")
    assert (task.status, task.attempts_used, len(task.attempts)) == (pb.TASK_STATUS_PENDING, 0, 1)
    async with leader.worker() as session:
        await session.report(await session.grant())
        assert (await leader.finished("a"))["a"].status == pb.TASK_STATUS_COMPLETED
    refusal = await refused(leader.scheduler.RetryTask(pb.RetryTaskRequest(id="a"), timeout=PATIENCE))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TASK_FINISHED")


async def test_removed_tasks_are_gone_and_their_ids_free(leader: ServedLeader) -> None:
    await fail(leader, "a", "b")
    assert (await purge(leader, ids=["a", "nobody"])).purged == 1
    assert [task.id for task in await leader.list()] == ["b"]
    refusal = await refused(leader.scheduler.GetTask(pb.GetTaskRequest(id="a"), timeout=PATIENCE))
    assert refusal.code is grpc.StatusCode.NOT_FOUND
    refusal = await refused(leader.scheduler.WaitTask(pb.WaitTaskRequest(id="a"), timeout=PATIENCE))
    assert refusal.code is grpc.StatusCode.NOT_FOUND
    assert (await leader.submit("a", payload="another")).created == 1


async def test_a_filter_removes_only_finished_ones_that_it_selects(leader: ServedLeader) -> None:
    await fail(leader, "a", "b")
    await leader.submit("c")
    assert (await purge(leader, filter='id = "b"', finished_before_ms=1)).purged == 0
    assert (await purge(leader, filter='id = "b"')).purged == 1
    assert (await purge(leader, filter="status = PENDING")).purged == 0
    assert (await purge(leader, filter="status != PENDING")).purged == 1
    assert [task.id for task in await leader.list()] == ["c"]


async def test_bad_removals_name_what_is_wrong(leader: ServedLeader) -> None:
    await leader.submit("a")
    refusal = await purge_refused(leader, ids=["a"])
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_FINISHED")
    assert [v.field for v in (await purge_refused(leader)).violations] == ["ids"]
    both = await purge_refused(leader, ids=["a"], filter="status = ERROR", finished_before_ms=-1)
    assert [v.field for v in both.violations] == ["filter", "finished_before_ms"]
    assert [v.field for v in (await purge_refused(leader, filter="nonsense")).violations] == ["filter"]
    too_many = await purge_refused(leader, ids=[str(n) for n in range(10_001)])
    assert "10001 ids; the limit is 10000" in too_many.violations[0].description


async def test_a_watcher_is_told_of_removals_now_and_after_a_break(leader: ServedLeader) -> None:
    await fail(leader, "a", "b")
    watch = leader.scheduler.WatchTasks(pb.WatchTasksRequest(filter='handler = "x"'), timeout=PATIENCE)
    token = (await watch.read()).token
    await purge(leader, ids=["a"])
    assert list((await watch.read()).deleted) == ["a"]
    watch.cancel()
    await purge(leader, ids=["b"])
    again = leader.scheduler.WatchTasks(pb.WatchTasksRequest(filter='handler = "x"', token=token), timeout=PATIENCE)
    await again.read()
    assert list((await again.read()).deleted) == ["a", "b"]
    again.cancel()


async def test_a_token_from_before_what_is_forgotten_is_out_of_range(tmp_path: Path) -> None:
    async with serving(tmp_path) as leader:
        watch = leader.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
        token = (await watch.read()).token
        watch.cancel()
        await fail(leader, "a")
        await purge(leader, ids=["a"])
    store = SqliteStore(tmp_path / "leader.db")
    opened = await store.open()
    await store.commit(Batch(tombstones_before=opened.term << 40))
    await store.close()
    async with serving(tmp_path) as leader:
        refusal = await stream_refused(leader.scheduler.WatchTasks(pb.WatchTasksRequest(token=token), timeout=PATIENCE))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "TOKEN_TOO_OLD")


async def test_a_token_that_is_ahead_of_the_leader_is_out_of_range_and_not_taken_for_nothing_new(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as leader:
        await fail(leader, "a")
        watch = leader.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
        token = (await watch.read()).token
        watch.cancel()
    with apsw.Connection(str(tmp_path / "leader.db")) as store:
        # As in an older copy of the store.
        store.execute("UPDATE meta SET value = 0 WHERE key = 'term'")
    store.close()
    async with serving(tmp_path) as leader:
        refusal = await stream_refused(leader.scheduler.WatchTasks(pb.WatchTasksRequest(token=token), timeout=PATIENCE))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "TOKEN_UNKNOWN")


async def test_a_watch_ends_when_removals_are_forgotten_while_it_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as leader:
        watch = leader.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
        token = (await watch.read()).token
        watch.cancel()
        await fail(leader, "a")
        await purge(leader, ids=["a"])
        floors = iter([0, 1 << 62])

        async def watch_floor(store: SqliteStore) -> int:
            return next(floors)

        monkeypatch.setattr(SqliteStore, "watch_floor", watch_floor)
        refusal = await stream_refused(leader.scheduler.WatchTasks(pb.WatchTasksRequest(token=token), timeout=PATIENCE))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "TOKEN_TOO_OLD")


async def test_a_backup_is_a_store_with_all_that_was_acknowledged(leader: ServedLeader, tmp_path: Path) -> None:
    await fail(leader, "a")
    await leader.submit("b", "c")
    fence = (await leader.get("a")).fence
    parts = [part async for part in leader.scheduler.BackupStore(pb.BackupStoreRequest(), timeout=PATIENCE)]
    data = b"".join(part.data for part in parts)
    assert {part.total_bytes for part in parts} == {len(data)}
    backup = tmp_path / "backup"
    backup.write_bytes(data)
    backup.chmod(0o400)
    folder = tmp_path / "restored"
    folder.mkdir()
    await SqliteStore(folder / "leader.db").restore(backup)
    assert backup.read_bytes() == data
    async with serving(folder) as restored:
        assert [task.id for task in await restored.list()] == ["a", "b", "c"]
        async with restored.worker() as session:
            grant = await session.grant()
            assert grant.id == "b"
            assert grant.fence >> 40 > (fence >> 40) + 65_000


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(200)])
async def test_what_is_no_backup_is_not_restored(tmp_path: Path, content: bytes) -> None:
    backup = tmp_path / "backup"
    backup.write_bytes(content)
    store = SqliteStore(tmp_path / "new" / "leader.db")
    with pytest.raises(StoreFormatError, match=str(backup)):
        await store.restore(backup)
    assert not [path for path in (tmp_path / "new").iterdir() if path.suffix != ".lock"]


async def test_a_store_that_is_there_is_not_overwritten(leader: ServedLeader, tmp_path: Path) -> None:
    other = SqliteStore(tmp_path / "other.db")
    await other.open()
    await other.backup(tmp_path / "backup")
    await other.close()
    with pytest.raises(StoreError, match=r"is there already: it was left as it is"):
        await SqliteStore(tmp_path / "other.db").restore(tmp_path / "backup")


def stored(seq: int, finished_ms: int) -> NewTask:
    """A completed task as a leader has written it."""
    at = standing(Status.COMPLETED, finished_ms=finished_ms)
    return new_task(seq, at=at, body=pb.Task(id=f"task-{seq}", handler="h").SerializeToString())


async def test_what_is_too_young_to_be_removed_is_passed_over_however_much_it_is(tmp_path: Path) -> None:
    # More than all batches of one call together look at.
    tasks, now_ms = PURGE_BATCHES_MAX * PURGE_TASKS_MAX + 1, int(time.time() * 1000)
    store = SqliteStore(tmp_path / "leader.db")
    await store.open()
    await store.commit(Batch([stored(seq, finished_ms=now_ms) for seq in range(1, tasks + 1)]))
    await store.commit(Batch([stored(tasks + 1, finished_ms=now_ms - 1)]))
    await store.close()
    every = "status != PENDING"
    async with serving(tmp_path) as leader:
        for purged in (1, 0):
            response = await purge(leader, filter=every, finished_before_ms=now_ms)
            assert (response.purged, response.more) == (purged, False)
        first = await purge(leader, filter=every, finished_before_ms=now_ms + 1)
        assert (first.purged, first.more) == (tasks - 1, True)
        rest = await purge(leader, filter=every)
        assert (rest.purged, rest.more) == (1, False)


async def take_backup(leader: ServedLeader) -> bytes:
    parts = [part.data async for part in leader.scheduler.BackupStore(pb.BackupStoreRequest(), timeout=PATIENCE)]
    return b"".join(parts)


async def backup_refusal(leader: ServedLeader) -> str:
    """Takes a backup, or tells why it is refused."""
    try:
        assert await take_backup(leader)
    except grpc.aio.AioRpcError as error:
        return refusal_of(error).reason
    return ""


async def test_one_backup_is_made_at_a_time_and_one_that_is_given_up_leaves_nothing(
    leader: ServedLeader, tmp_path: Path
) -> None:
    # More than what a call lets wait for its reader.
    for n in range(40):
        await leader.submit(f"t{n}", payload="x" * limits.PAYLOAD_BYTES_MAX)
    before = sorted(os.listdir(tmp_path))
    first = leader.scheduler.BackupStore(pb.BackupStoreRequest(), timeout=PATIENCE)
    assert (await first.read()).data
    # Whatever becomes of the leader now, its copy has no name any more.
    assert sorted(os.listdir(tmp_path)) == before
    refusal = await stream_refused(leader.scheduler.BackupStore(pb.BackupStoreRequest(), timeout=PATIENCE))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BACKUP_RUNNING")
    first.cancel()
    async with asyncio.timeout(PATIENCE):
        # The leader may not have heard of it yet.
        while await backup_refusal(leader) == "BACKUP_RUNNING":
            pass
    assert sorted(os.listdir(tmp_path)) == before


async def test_a_backup_that_is_not_read_makes_place_for_the_next_one(
    leader: ServedLeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(40):
        await leader.submit(f"t{n}", payload="x" * limits.PAYLOAD_BYTES_MAX)
    monkeypatch.setattr(backups, "UNREAD_SECONDS", 0.2)
    stalled = leader.scheduler.BackupStore(pb.BackupStoreRequest(), timeout=PATIENCE)
    parts = aiter(stalled)
    assert (await anext(parts)).data
    try:
        async with asyncio.timeout(30):
            while await backup_refusal(leader) == "BACKUP_RUNNING":
                pass
    except TimeoutError:
        # The leader would wait for it at its end.
        stalled.cancel()
        raise
    # Whoever reads on is told what has become of it.
    assert (await stream_refused(parts)).reason == "BACKUP_UNREAD"


async def test_what_a_killed_leader_left_of_a_backup_goes_at_the_next_start(tmp_path: Path) -> None:
    for name in ("leader.db.backup", "leader.db.backup.part"):
        (tmp_path / name).write_bytes(b"left over")
    async with serving(tmp_path) as leader:
        assert not [name for name in os.listdir(tmp_path) if ".backup" in name]
        assert await take_backup(leader)


async def test_a_backup_that_finds_no_room_is_told_as_that(
    leader: ServedLeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def backup(self: SqliteStore, path: Path) -> None:
        raise StoreFullError("There is no space left.")

    monkeypatch.setattr(SqliteStore, "backup", backup)
    refusal = await stream_refused(leader.scheduler.BackupStore(pb.BackupStoreRequest(), timeout=PATIENCE))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")


async def test_who_watched_the_store_that_a_backup_replaces_lists_anew(leader: ServedLeader, tmp_path: Path) -> None:
    data = await take_backup(leader)
    (tmp_path / "backup").write_bytes(data)
    await leader.submit("taken back by the restore")
    watch = leader.scheduler.WatchTasks(pb.WatchTasksRequest(), timeout=PATIENCE)
    token = (await watch.read()).token
    watch.cancel()
    folder = tmp_path / "restored"
    folder.mkdir()
    await SqliteStore(folder / "leader.db").restore(tmp_path / "backup")
    async with serving(folder) as restored:
        refusal = await stream_refused(
            restored.scheduler.WatchTasks(pb.WatchTasksRequest(token=token), timeout=PATIENCE)
        )
        assert refusal.reason == "TOKEN_TOO_OLD"


async def test_a_leader_that_keeps_no_finished_task_takes_new_ones(tmp_path: Path) -> None:
    async with serving(tmp_path, kept=Kept(tasks=0, failed_tasks=0)) as leader:
        # It is kept all the same, being young.
        await fail(leader, "a")
        assert (await leader.submit("b")).created == 1
