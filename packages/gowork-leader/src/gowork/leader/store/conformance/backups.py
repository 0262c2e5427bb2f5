"""A backup is a copy of the store at one moment, made while commits go on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gowork.leader._core.kinds import MEMBERS, QUEUES, Member
from gowork.leader._core.model import Fact, QueueSettings, Status
from gowork.leader.store.conformance.kit import (
    ALL_BYTES,
    FULL_LANE,
    FULL_STANDING,
    Fixtures,
    StoreFactory,
    facts_of,
    new_task,
    seqs_of_page,
    standing,
)
from gowork.leader.store.protocol import (
    RESTORE_TERMS,
    Batch,
    DeletedTask,
    MovedTask,
    Query,
    Store,
    StoreError,
    Timer,
    changed_number,
)

MEMBER = Fact(MEMBERS.name, "m", MEMBERS.encode(Member("a:1", 1)))
SETTINGS = Fact(QUEUES.name, "q", QUEUES.encode(QueueSettings(weight=2)))


@pytest.mark.asyncio
class BackupConformance(Fixtures):
    """Online backups."""

    async def test_a_backup_opens_with_all_that_the_store_had(
        self, open_store: StoreFactory, open_backup: Callable[[Path], Store], tmp_path: Path
    ) -> None:
        store = open_store()
        opened = await store.open()
        tasks = [
            new_task(1, at=FULL_STANDING, labels={"a": "b"}),
            new_task(2, lane=FULL_LANE, expires_ms=9),
            new_task(3),
        ]
        await store.commit(Batch(tasks, facts=[MEMBER, SETTINGS, Fact("a-kind-to-come", "k", b"v")]))
        await store.commit(Batch(deletes=[DeletedTask(3, "task-3", 2)]))
        await store.backup(tmp_path / "copy")
        # Later batches are not in the backup.
        await store.commit(Batch([new_task(4, changed=3)], [MovedTask(2, 3, standing(Status.RUNNING))]))
        await store.close()
        copy = open_backup(tmp_path / "copy")
        reopened = await copy.open()
        assert reopened.identity == opened.identity
        assert reopened.term > opened.term
        assert await copy.page(Query(), None, 10, ALL_BYTES) == [tasks[0].record, tasks[1].record]
        assert await copy.waiting() == [(FULL_LANE, 1)]
        assert await copy.expiring(None, 10) == [Timer(9, 2, "task-2")]
        assert await facts_of(copy, MEMBERS.name) == {"m": MEMBER.value}
        assert await facts_of(copy, QUEUES.name) == {"q": SETTINGS.value}
        assert await facts_of(copy, "a-kind-to-come") == {"k": b"v"}
        assert await copy.deleted_since(0, 10) == [(2, "task-3")]
        await copy.commit(Batch([new_task(reopened.next_seq, "new", changed=9)]))
        await copy.close()

    async def test_a_backup_taken_under_load_holds_whole_batches_up_to_one(
        self, open_store: StoreFactory, open_backup: Callable[[Path], Store], tmp_path: Path
    ) -> None:
        store = open_store()
        await store.open()
        # The bodies are long enough that commits come while the store is copied.
        body = bytes(range(256)) * 64
        for changed in range(1, 11):
            await store.commit(Batch([new_task(changed * 100 + n, changed=changed, body=body) for n in range(100)]))
        number = 10

        async def commits(copying: asyncio.Task[None]) -> None:
            nonlocal number
            while not copying.done():
                number += 1
                inserts = [new_task(number * 100 + place, changed=number) for place in range(100)]
                moves = [MovedTask(100 + place, number, standing(Status.RUNNING)) for place in range(100)]
                await store.commit(Batch(inserts, moves))

        async with asyncio.TaskGroup() as group:
            group.create_task(commits(group.create_task(store.backup(tmp_path / "copy"))))
        assert len(await seqs_of_page(store, Query(), limit=1_000_000)) == number * 100
        await store.close()
        copy = open_backup(tmp_path / "copy")
        await copy.open()
        records = await copy.page(Query(), None, 1_000_000, ALL_BYTES)
        last = max(record.changed for record in records)
        assert [record.seq for record in records] == list(range(100, (last + 1) * 100))
        assert {record.changed for record in records[:100]} == {1 if last == 10 else last}
        await copy.close()

    async def test_a_backup_does_not_replace_what_is_there(self, open_store: StoreFactory, tmp_path: Path) -> None:
        store = open_store()
        await store.open()
        there = tmp_path / "there"
        there.write_text("precious")
        with pytest.raises(StoreError, match="there already"):
            await store.backup(there)
        assert there.read_text() == "precious"
        await store.close()

    async def test_a_backup_that_cannot_be_written_leaves_nothing_and_the_store_goes_on(
        self, open_store: StoreFactory, tmp_path: Path
    ) -> None:
        store = open_store()
        await store.open()
        with pytest.raises(StoreError, match="can't be written"):
            await store.backup(tmp_path / "no such directory" / "copy")
        await store.commit(Batch([new_task(1)]))
        await store.backup(tmp_path / "copy")
        await store.close()
        assert [name for name in os.listdir(tmp_path) if name.startswith("copy")] == ["copy"]

    async def test_a_backup_that_is_given_up_leaves_nothing(self, open_store: StoreFactory, tmp_path: Path) -> None:
        store = open_store()
        await store.open()
        body = bytes(range(256)) * 64
        for changed in range(1, 21):
            await store.commit(Batch([new_task(changed * 100 + n, changed=changed, body=body) for n in range(100)]))
        copying = asyncio.ensure_future(store.backup(tmp_path / "copy"))
        await asyncio.sleep(0)
        copying.cancel()
        await asyncio.gather(copying, return_exceptions=True)
        assert copying.cancelled()
        assert not [name for name in os.listdir(tmp_path) if name.startswith("copy")]
        await store.backup(tmp_path / "copy")
        await store.close()

    async def test_a_store_is_made_from_a_backup_in_a_term_that_is_far_higher(
        self, open_store: StoreFactory, open_restored: StoreFactory, tmp_path: Path
    ) -> None:
        store = open_store()
        opened = await store.open()
        tasks = [new_task(1, at=FULL_STANDING), new_task(2, lane=FULL_LANE), new_task(3)]
        await store.commit(Batch(tasks))
        await store.commit(Batch(deletes=[DeletedTask(3, "task-3", 2)]))
        await store.backup(tmp_path / "copy")
        # Fences that were granted after the backup must be below all later ones.
        await store.close()
        later = await store.open()
        await store.close()
        restored = open_restored()
        await restored.restore(tmp_path / "copy")
        again = await restored.open()
        assert again.identity == opened.identity
        assert again.term > opened.term + RESTORE_TERMS > later.term
        assert await restored.page(Query(), None, 10, ALL_BYTES) == [tasks[0].record, tasks[1].record]
        assert await restored.waiting() == [(FULL_LANE, 1)]
        # Watchers of the store that is gone know tasks that never were in this one.
        floor = await restored.watch_floor()
        assert changed_number(later.term, 1 << 30) < floor < changed_number(again.term, 1)
        await restored.commit(Batch([new_task(again.next_seq, "new", changed=changed_number(again.term, 1))]))
        await restored.close()

    @pytest.mark.parametrize("above", [0, 1, 1_000_000])
    async def test_a_store_is_made_above_a_term_that_is_known_to_have_been_given(
        self, open_store: StoreFactory, open_restored: StoreFactory, tmp_path: Path, above: int
    ) -> None:
        store = open_store()
        term = (await store.open()).term
        await store.backup(tmp_path / "copy")
        await store.close()
        restored = open_restored()
        await restored.restore(tmp_path / "copy", above)
        assert (await restored.open()).term == max(term, above) + RESTORE_TERMS + 1
        # Tokens of that term are no longer valid either.
        assert await restored.watch_floor() == changed_number(max(term, above) + RESTORE_TERMS, 0)
        await restored.close()

    async def test_a_store_that_is_there_is_not_replaced_by_a_backup(
        self, open_store: StoreFactory, tmp_path: Path
    ) -> None:
        store = open_store()
        await store.open()
        await store.backup(tmp_path / "copy")
        await store.commit(Batch([new_task(1)]))
        for close in (False, True):
            if close:
                await store.close()
            with pytest.raises(StoreError):
                await open_store().restore(tmp_path / "copy")
        store = open_store()
        await store.open()
        assert await seqs_of_page(store, Query()) == [1]
        await store.close()

    @pytest.mark.parametrize("content", [None, b"", b"no backup"])
    async def test_what_is_no_backup_is_refused_and_no_store_is_made(
        self, open_restored: StoreFactory, tmp_path: Path, content: bytes | None
    ) -> None:
        copy = tmp_path / "copy"
        if content is not None:
            copy.write_bytes(content)
        with pytest.raises(StoreError, match="copy"):
            await open_restored().restore(copy)
        store = open_restored()
        assert (await store.open()).term == 1
        await store.close()
