"""A backup is restored with a log that has begun: it begins a generation, and the other stores are replaced."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from etcd_members import EtcdCluster
from leader_process import RunningLeader, refused_start, running
from leader_serving import PATIENCE
from memory_log import MemoryLog
from sharing_leaders import AGAIN_SECONDS, Sharing, sharing

from gowork.base.channels import open_blocking_channel
from gowork.leader._replication import candidacy, generations, upkeep
from gowork.leader.log import Candidate, Generation, LogUnreachableError
from gowork.leader.log.entries import Kind, seal
from gowork.leader.store import RESTORE_TERMS, StoreError, changed_number
from gowork.leader.store._sqlite_backup import back_up
from gowork.leader.store._sqlite_outline import outline
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.scheduler.v1 import scheduler_pb2_grpc


@pytest.fixture(autouse=True)
def all_goes_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "REGISTER_SECONDS", 0.2)
    monkeypatch.setattr(upkeep, "FORCE_SECONDS", 0.2)
    monkeypatch.setattr(candidacy, "AGAIN_SECONDS", 0.05)


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Sharing]:
    async with asyncio.timeout(PATIENCE), sharing(tmp_path) as crew:
        yield crew


async def backed_up(crew: Sharing, folder: Path) -> Path:
    """Has a lead and b follow, with the task `kept` in a backup, and `later` in the log alone. Returns the backup."""
    await crew.start("a")
    await crew.says("a", 200, "ready")
    await crew.start("b")
    await crew.says("b", 200, "follows")
    await crew.submitted("a", "kept")
    backup = folder / "backup"
    await asyncio.to_thread(back_up, crew.store_path("a"), backup, lambda: False)
    await crew.submitted("a", "later")
    return backup


def moved_away(crew: Sharing) -> SqliteStore:
    """The store of a, which is not there any more."""
    path = crew.store_path("a")
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()
    return SqliteStore(path)


async def test_a_backup_begins_a_generation_and_other_stores_are_replaced_by_themselves(
    crew: Sharing, tmp_path: Path
) -> None:
    backup = await backed_up(crew, tmp_path)
    await crew.stop("b")
    await crew.stop("a")
    old, last = crew.place.generation, crew.place.span.last
    assert old is not None
    await crew.logs["a"].open()
    begun = await generations.restore(crew.logs["a"], moved_away(crew), backup)
    assert begun == crew.place.generation
    assert begun is not None
    assert (begun.base, begun.replaces) == (last, old.id)
    assert begun.term_floor >= outline(backup).term + RESTORE_TERMS
    # One that starts before the restored one leads waits for it, and keeps its store.
    await crew.start("b")
    words = await crew.says("b", 503, "takes a copy")
    assert f"belongs to generation {old.id}" in words
    assert begun.id in words
    assert crew.asides("b") == []
    served = await crew.start("a")
    await crew.says("a", 200, "ready")
    await crew.replaced("b")
    assert len(crew.asides("b")) == 1
    assert {task.id for task in await served.list()} == {"kept"}
    await crew.submitted("b", "after")
    leader, _ = crew.place.leader()
    assert leader is not None
    assert leader.term > begun.term_floor


async def test_a_store_of_any_other_generation_is_left_alone_and_both_are_named(crew: Sharing, tmp_path: Path) -> None:
    backup = await backed_up(crew, tmp_path)
    await crew.stop("b")
    await crew.stop("a")
    old = crew.place.generation
    assert old is not None
    await crew.logs["a"].open()
    begun = await generations.restore(crew.logs["a"], moved_away(crew), backup)
    assert begun is not None
    # Another one comes after it.
    crew.place.begin(Generation("third", replaces=begun.id), begun.id)
    await crew.start("b")
    with pytest.raises(StoreError, match=rf"{old.id}.*third"):
        await crew.running["b"]
    assert crew.asides("b") == []


async def test_nothing_is_restored_while_a_leader_leads_or_where_a_store_is(crew: Sharing, tmp_path: Path) -> None:
    backup = await backed_up(crew, tmp_path)
    elsewhere = SqliteStore(tmp_path / "elsewhere.db")
    with pytest.raises(StoreError, match=r"^a leads .*stop all leaders first"):
        await generations.restore(crew.logs["a"], elsewhere, backup)
    assert not (tmp_path / "elsewhere.db").exists()
    await crew.stop("b")
    await crew.stop("a")
    before = crew.place.generation
    await crew.logs["a"].open()
    with pytest.raises(StoreError, match=r"is there already.*without --restore"):
        await generations.restore(crew.logs["a"], SqliteStore(crew.store_path("a")), backup)
    assert crew.place.generation == before
    assert crew.place.span.last > 0


async def test_a_backup_is_restored_once_also_when_the_store_is_lost_later(crew: Sharing, tmp_path: Path) -> None:
    backup = await backed_up(crew, tmp_path)
    await crew.stop("b")
    await crew.stop("a")
    await crew.logs["a"].open()
    begun = await generations.restore(crew.logs["a"], moved_away(crew), backup)
    with pytest.raises(StoreError, match="leave --restore out"):
        await generations.restore(crew.logs["a"], moved_away(crew), backup)
    assert crew.place.generation == begun
    assert not crew.store_path("a").exists()


async def test_a_log_that_has_not_begun_is_begun_by_the_restored_store_as_by_any(crew: Sharing, tmp_path: Path) -> None:
    backup = await backed_up(crew, tmp_path)
    await crew.stop("b")
    await crew.stop("a")
    crew.place.generation = None
    await crew.logs["a"].open()
    assert await generations.restore(crew.logs["a"], moved_away(crew), backup) is None
    assert crew.place.generation is None
    assert outline(crew.store_path("a")).position is None


async def test_terms_are_above_those_of_the_log_that_the_backup_lacks(crew: Sharing, tmp_path: Path) -> None:
    backup = await backed_up(crew, tmp_path)
    await crew.stop("b")
    await crew.stop("a")
    at = outline(crew.store_path("a")).position
    assert at is not None
    leadership = await MemoryLog(crew.place).campaign(Candidate(at.generation, at.index, 1_000_000, b"far ahead"))
    data, _ = seal(at, leadership.leader.term, Kind.CHECK, b"", b"nonce")
    await leadership.append(at.index + 1, data)
    await leadership.resign()
    await crew.logs["a"].open()
    store = moved_away(crew)
    begun = await generations.restore(crew.logs["a"], store, backup)
    assert begun is not None
    assert begun.term_floor == leadership.leader.term + RESTORE_TERMS + 1
    # Who watched what is lost lists anew.
    await store.open_logged(begun.id)
    assert await store.watch_floor() > changed_number(leadership.leader.term + 1, 0)
    await store.close()


async def test_an_older_backup_comes_above_all_that_a_newer_one_gave(crew: Sharing, tmp_path: Path) -> None:
    newer = await backed_up(crew, tmp_path)
    await crew.stop("b")
    await crew.stop("a")
    older = SqliteStore(tmp_path / "older.db")
    await older.open()
    await older.backup(tmp_path / "older")
    await older.close()
    await crew.logs["a"].open()
    first = await generations.restore(crew.logs["a"], moved_away(crew), newer)
    assert first is not None
    # No entry says which terms there were, because nobody has led since.
    store = moved_away(crew)
    second = await generations.restore(crew.logs["a"], store, tmp_path / "older")
    assert second is not None
    assert second.term_floor >= first.term_floor + RESTORE_TERMS
    await store.open_logged(second.id)
    assert await store.watch_floor() > changed_number(first.term_floor + 1, 0)
    await store.close()


async def test_a_restore_that_was_cut_short_says_how_to_go_on(
    crew: Sharing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = await backed_up(crew, tmp_path)
    await crew.stop("b")
    await crew.stop("a")
    log = crew.logs["a"]
    await log.open()
    begin = log.begin

    async def answers_nothing(generation: Generation, replaces: str | None) -> None:
        await begin(generation, replaces)
        raise LogUnreachableError("no answer")

    monkeypatch.setattr(log, "begin", answers_nothing)
    with pytest.raises(StoreError, match=r"may not have begun.*no answer.*without --restore"):
        await generations.restore(log, moved_away(crew), backup)
    served = await crew.start("a")
    await crew.says("a", 200, "ready")
    assert {task.id for task in await served.list()} == {"kept"}


@pytest.mark.tool("etcd")
def test_the_command_restores_with_a_real_etcd_and_not_twice(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir(mode=0o700)
    a, b, c = folders
    backup = tmp_path / "backup"
    with EtcdCluster(tmp_path, 1) as cluster, ExitStack() as stack:
        log = f"--log={cluster.url('restored')}"
        with running(a, log, "--name=a") as leader:
            until_ready(leader)
            submit(leader.scheduler, "kept")
            back_up(a / "gowork.db", backup, lambda: False)
            submit(leader.scheduler, "later")
            code, error = refused_start(c, log, f"--restore={backup}")
            assert code == 1
            assert "a leads with this log" in error
            assert not (c / "gowork.db").exists()
            assert leader.stop()[0] == 0
        restored = stack.enter_context(running(b, log, "--name=b", f"--restore={backup}"))
        until_ready(restored)
        assert listed(restored.scheduler) == {"kept"}
        # It has a store of the old generation, and takes a copy by itself.
        with running(a, log, "--name=a") as other:
            until_ready(other)
            assert listed(other.scheduler) == {"kept"}
            assert len(list(a.glob("gowork.db.aside-*"))) >= 1
            assert other.stop()[0] == 0
        restored.process.send_signal(signal.SIGTERM)
        restored.process.communicate()
        # Neither where the store is, nor where it was lost.
        for folder in (b, c):
            code, error = refused_start(folder, log, f"--restore={backup}")
            assert code == 1
            assert "leave --restore out" in error


def until_ready(leader: RunningLeader) -> None:
    while leader.page("/readyz")[0] != 200:
        time.sleep(AGAIN_SECONDS)


def submit(address: str, name: str) -> None:
    with open_blocking_channel([address]) as channel:
        request = pb.ScheduleTaskRequest(task=pb.Task(id=name, payload="x"))
        scheduler_pb2_grpc.SchedulerServiceStub(channel).ScheduleTask(request)


def listed(address: str) -> set[str]:
    with open_blocking_channel([address]) as channel:
        answer = scheduler_pb2_grpc.SchedulerServiceStub(channel).ListTasks(pb.ListTasksRequest())
        return {task.id for task in answer.tasks}
