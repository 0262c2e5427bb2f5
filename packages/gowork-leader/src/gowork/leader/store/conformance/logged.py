"""A store that follows a log is always exactly what the entries up to its position make."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace

from gowork.leader._core.model import Fact, FactKey, Position, Status
from gowork.leader.store.conformance.kit import (
    FULL_LANE,
    FULL_STANDING,
    Fixtures,
    facts_of,
    new_task,
    seqs_of_page,
    standing,
)
from gowork.leader.store.protocol import (
    RESTORE_TERMS,
    Batch,
    DeletedTask,
    LoggedStore,
    MovedTask,
    Query,
    StoreEntryError,
    StoreError,
    StoreFormatError,
    StoreGenerationError,
    StoreLockedError,
    StoreLostError,
    changed_number,
)

LoggedFactory = Callable[[], LoggedStore]

GENERATION = "0123456789abcdef"
BASE = 40
START = Position(GENERATION, BASE, bytes(32))
TERM = 7


def position(index: int, generation: str = GENERATION) -> Position:
    """Returns the position after the entry with this index."""
    return Position(generation, index, index.to_bytes(32, "big"))


#: Batches that write, one after the other, all that there is to write.
HISTORY = (
    Batch([new_task(1, at=FULL_STANDING, labels={"a": "b", "c": "ü"}), new_task(2, lane=FULL_LANE, expires_ms=9)]),
    Batch([new_task(3, changed=2)], [MovedTask(2, 2, standing(Status.RUNNING))], facts=[Fact("k", "a", b"\0v")]),
    Batch([new_task(4, changed=3)], [MovedTask(1, 3, standing(not_before_ms=5), FULL_LANE, 11)]),
    Batch(
        [new_task(5, "task-3", changed=4, lane=FULL_LANE)],
        [MovedTask(2, 4, standing(Status.COMPLETED, result="1", finished_ms=8))],
        [DeletedTask(3, "task-3", 4)],
        [Fact("k", "b", b""), Fact("l", "a", b"w")],
        [FactKey("k", "a"), FactKey("k", "none")],
    ),
    Batch(),
    Batch(deletes=[DeletedTask(2, "task-2", 6)], tombstones_before=5),
)


async def joined(store: LoggedStore, term: int = TERM) -> LoggedStore:
    """Opens an empty store, and has it join a log at START."""
    await store.open_logged(GENERATION)
    await store.join_log(START, term)
    return store


async def led(store: LoggedStore, batches: Sequence[Batch]) -> LoggedStore:
    """Writes batches as a leader does."""
    index = (await position_of(store)).index
    for number, batch in enumerate(batches, index + 1):
        await store.prepare(batch, position(number), TERM)
        await store.settle()
    return store


async def position_of(store: LoggedStore) -> Position:
    """Returns where the store stands."""
    found = (await store.current()).position
    assert found is not None
    return found


async def seqs(store: LoggedStore) -> list[int]:
    """Returns the seqs of all tasks."""
    return await seqs_of_page(store, Query())


@pytest.mark.asyncio
class LoggedConformance(Fixtures):
    """Stores that can follow a log."""

    async def test_an_empty_store_is_opened_for_any_log_and_belongs_to_none(self, open_store: LoggedFactory) -> None:
        opened = []
        for generation in (GENERATION, None):
            store = open_store()
            opened.append(await store.open_logged(generation))
            assert await store.current() == opened[-1]
            await store.close()
        assert opened[0] == opened[1]
        assert (opened[0].position, opened[0].next_seq, opened[0].term) == (None, 1, 0)
        assert opened[0].store_id

    async def test_neither_opening_nor_copying_raises_the_term_of_a_store_with_a_log(
        self, open_store: LoggedFactory, open_restored: LoggedFactory, tmp_path: Path
    ) -> None:
        store = await led(await joined(open_store()), HISTORY)
        before = await store.current()
        assert (before.term, before.next_seq, before.position) == (TERM, 6, position(BASE + len(HISTORY)))
        digest = await store.digest()
        await store.backup(tmp_path / "copy")
        await store.close()
        store = open_store()
        assert await store.open_logged(GENERATION) == before
        assert await store.digest() == digest
        await store.close()
        copy = open_restored()
        await copy.install_copy(tmp_path / "copy")
        opened = await copy.open_logged(GENERATION)
        assert (opened.term, opened.next_seq, opened.position) == (before.term, before.next_seq, before.position)
        assert await copy.digest() == digest
        # The leaders register by this id.
        assert opened.store_id not in ("", before.store_id)
        await copy.close()

    async def test_a_backup_is_checked_without_a_store_and_says_where_it_stands(
        self, open_store: LoggedFactory, tmp_path: Path
    ) -> None:
        store = await led(await joined(open_store()), HISTORY)
        await store.backup(tmp_path / "copy")
        found = await store.check_copy(tmp_path / "copy")
        assert found == (store.copy_format, position(BASE + len(HISTORY)))
        await store.close()
        assert await open_store().check_copy(tmp_path / "copy") == found
        data = (tmp_path / "copy").read_bytes()
        for damaged in (b"", b"x" * 100, data[: len(data) // 2]):
            (tmp_path / "damaged").write_bytes(damaged)
            with pytest.raises(StoreFormatError):
                await open_store().check_copy(tmp_path / "damaged")
            assert (tmp_path / "damaged").read_bytes() == damaged

    async def test_a_backup_that_belongs_to_no_log_is_said_to(self, open_store: LoggedFactory, tmp_path: Path) -> None:
        store = open_store()
        await store.open_logged(GENERATION)
        await store.backup(tmp_path / "copy")
        with pytest.raises(StoreFormatError, match="belongs to no log"):
            await store.check_copy(tmp_path / "copy")
        await store.close()

    async def test_a_backup_has_the_position_of_what_it_holds(
        self, open_store: LoggedFactory, open_restored: LoggedFactory, tmp_path: Path
    ) -> None:
        store = await led(await joined(open_store()), HISTORY[:3])
        await store.prepare(HISTORY[3], position(BASE + 4), TERM)
        await store.backup(tmp_path / "copy")
        await store.settle()
        await store.close()
        copy = open_restored()
        await copy.install_copy(tmp_path / "copy")
        await copy.open_logged(GENERATION)
        assert await position_of(copy) == position(BASE + 3)
        assert await seqs(copy) == [1, 2, 3, 4]
        await led(copy, HISTORY[3:])
        await copy.close()

    async def test_a_store_with_a_log_is_not_opened_without_it(self, open_store: LoggedFactory) -> None:
        store = await joined(open_store())
        await store.close()
        with pytest.raises(StoreError, match=r"--log.*gowork store detach"):
            await open_store().open()
        store = open_store()
        assert (await store.open_logged(GENERATION)).term == TERM
        await store.close()

    async def test_a_store_of_another_generation_is_refused_and_both_are_named(self, open_store: LoggedFactory) -> None:
        store = await led(await joined(open_store()), HISTORY[:1])
        await store.close()
        with pytest.raises(StoreGenerationError, match=f"{GENERATION}.*other") as caught:
            await open_store().open_logged("other")
        assert caught.value.generation == GENERATION
        # A log that has not begun, after the store has applied an entry of one.
        with pytest.raises(StoreError, match=rf"index {BASE + 1} of generation {GENERATION}.*has not begun"):
            await open_store().open_logged(None)
        store = open_store()
        await store.open_logged(GENERATION)
        await store.close()

    async def test_a_generation_that_could_not_be_begun_is_begun_at_the_next_start(
        self, open_store: LoggedFactory
    ) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch([new_task(1)]))
        await store.close()
        assert (await store.open_logged(None)).position is None
        await store.join_log(START, TERM)
        await store.close()
        assert (await store.open_logged(None)).position == START
        assert await seqs(store) == [1]
        await store.close()

    @pytest.mark.parametrize(
        "batches",
        [
            [Batch([new_task(1)])],
            [Batch(facts=[Fact("k", "a", b"v")])],
            [Batch([new_task(1)]), Batch(deletes=[DeletedTask(1, "task-1", 2)])],
            [Batch([new_task(1)]), Batch(deletes=[DeletedTask(1, "task-1", 2)]), Batch(tombstones_before=3)],
        ],
        ids=["task", "fact", "tombstone", "floor"],
    )
    async def test_a_store_that_is_not_empty_does_not_join_a_log_that_has_begun(
        self, open_store: LoggedFactory, batches: list[Batch]
    ) -> None:
        store = open_store()
        await store.open()
        for batch in batches:
            await store.commit(batch)
        await store.close()
        with pytest.raises(StoreError, match=f"not empty.*{GENERATION}"):
            await open_store().open_logged(GENERATION)

    async def test_a_store_that_has_begun_a_generation_under_its_own_id_knows_that_it_has(
        self, open_store: LoggedFactory
    ) -> None:
        store = open_store()
        opened = await store.open()
        await store.commit(Batch([new_task(1)]))
        await store.close()
        # Its leader ended after it had begun the log, and before the store had joined it.
        found = await store.open_logged(opened.store_id)
        assert (found.position, found.store_id) == (None, opened.store_id)
        await store.join_log(replace(START, generation=opened.store_id), TERM)
        assert await seqs(store) == [1]
        await store.close()

    async def test_a_lone_store_is_moved_onto_a_log_as_it_is(self, open_store: LoggedFactory) -> None:
        store = open_store()
        lone = await store.open()
        for batch in HISTORY:
            await store.commit(batch)
        tasks = await store.page(Query(), None, 100, 1 << 30)
        await store.close()
        opened = await store.open_logged(None)
        assert (opened.term, opened.position, opened.store_id) == (lone.term, None, lone.store_id)
        # Its own term is below that of the log.
        with pytest.raises(StoreLostError, match=f"term {lone.term}"):
            await store.join_log(START, lone.term - 1)
        await store.join_log(START, TERM)
        with pytest.raises(StoreError, match="already"):
            await store.join_log(START, TERM)
        moved = await store.current()
        assert (moved.term, moved.position, moved.next_seq) == (TERM, START, opened.next_seq)
        assert await store.page(Query(), None, 100, 1 << 30) == tasks
        await store.prepare(Batch([new_task(moved.next_seq)]), position(BASE + 1), TERM)
        await store.settle()
        await store.close()

    async def test_what_is_prepared_is_seen_when_it_is_settled(self, open_store: LoggedFactory) -> None:
        store = await joined(open_store())
        await store.prepare(Batch([new_task(1)], facts=[Fact("k", "a", b"v")]), position(BASE + 1), TERM + 1)
        digest = await store.digest()
        for _ in range(2):
            assert await store.load(["task-1"]) == []
            assert await seqs(store) == []
            assert await facts_of(store, "k") == {}
            found = await store.current()
            assert (found.term, found.position, found.next_seq) == (TERM, START, 1)
        await store.settle()
        assert [record.seq for record in await store.load(["task-1"])] == [1]
        assert await facts_of(store, "k") == {"a": b"v"}
        found = await store.current()
        assert (found.term, found.position, found.next_seq) == (TERM + 1, position(BASE + 1), 2)
        assert await store.digest() != digest
        await store.close()

    async def test_what_is_given_up_was_never_there(self, open_store: LoggedFactory) -> None:
        store = await joined(open_store())
        await store.give_up()
        digest = await store.digest()
        for _ in range(2):
            # A new lane is part of what is taken back.
            await store.prepare(Batch([new_task(1, lane=FULL_LANE)]), position(BASE + 1), TERM + 1)
            await store.give_up()
            await store.give_up()
        with pytest.raises(StoreError, match="othing is prepared"):
            await store.settle()
        assert await store.digest() == digest
        await led(store, [Batch([new_task(1, lane=FULL_LANE)])])
        assert await store.waiting() == [(FULL_LANE, 1)]
        await store.close()

    async def test_closing_gives_up_what_is_prepared(self, open_store: LoggedFactory) -> None:
        store = await joined(open_store())
        digest = await store.digest()
        await store.prepare(Batch([new_task(1)]), position(BASE + 1), TERM)
        await store.close()
        store = open_store()
        await store.open_logged(GENERATION)
        assert await store.digest() == digest
        await led(store, HISTORY)
        await store.close()

    async def test_one_batch_at_a_time_is_prepared(self, open_store: LoggedFactory) -> None:
        store = await joined(open_store())
        await store.prepare(Batch([new_task(1)]), position(BASE + 1), TERM)
        with pytest.raises(StoreError, match=f"{BASE + 1} is prepared"):
            await store.prepare(Batch([new_task(2)]), position(BASE + 2), TERM)
        with pytest.raises(StoreError, match=f"{BASE + 1} is prepared"):
            await store.apply([(None, position(BASE + 1), TERM)])
        await store.settle()
        assert await seqs(store) == [1]
        await store.close()

    @pytest.mark.parametrize("index", [BASE - 1, BASE, BASE + 2])
    async def test_an_entry_that_is_not_the_next_is_refused_and_both_places_are_named(
        self, open_store: LoggedFactory, index: int
    ) -> None:
        store = await joined(open_store())
        digest = await store.digest()
        named = rf"index {BASE} of generation {GENERATION}.*index {index} of generation {GENERATION}"
        with pytest.raises(StoreError, match=named):
            await store.prepare(Batch([new_task(1)]), position(index), TERM)
        with pytest.raises(StoreError, match=named):
            await store.apply([(Batch([new_task(1)]), position(index), TERM)])
        with pytest.raises(StoreError, match="generation other"):
            await store.apply([(Batch([new_task(1)]), position(BASE + 1, "other"), TERM)])
        with pytest.raises(StoreError, match=rf"index {BASE + 1} .*index {BASE + 3} "):
            await store.apply([(None, position(BASE + 1), TERM), (None, position(BASE + 3), TERM)])
        assert await store.digest() == digest
        await led(store, HISTORY)
        await store.close()

    async def test_an_entry_of_an_older_term_is_refused(self, open_store: LoggedFactory) -> None:
        store = await joined(open_store())
        with pytest.raises(StoreLostError, match=f"term {TERM}.*term {TERM - 1}"):
            await store.prepare(Batch([new_task(1)]), position(BASE + 1), TERM - 1)
        with pytest.raises(StoreLostError, match=f"term {TERM + 3}.*term {TERM + 2}"):
            await store.apply([(None, position(BASE + 1), TERM + 3), (None, position(BASE + 2), TERM + 2)])
        assert (await store.current()).term == TERM
        await led(store, HISTORY)
        await store.close()

    @pytest.mark.parametrize(
        "contradiction",
        [
            Batch([new_task(5, changed=2), new_task(1, "another", changed=2)]),
            Batch([new_task(5, changed=2)], deletes=[DeletedTask(9, "task-9", 2)]),
            Batch([new_task(5, changed=2)], [MovedTask(9, 2, standing(Status.RUNNING))]),
        ],
        ids=["a task that is there", "a removal of nothing", "a move of nothing"],
    )
    async def test_an_entry_that_contradicts_the_store_is_named_and_nothing_of_it_is_written(
        self, open_store: LoggedFactory, contradiction: Batch
    ) -> None:
        store = await led(await joined(open_store()), [Batch([new_task(1)])])
        digest = await store.digest()
        with pytest.raises(StoreEntryError, match=f"Entry {BASE + 2} ") as told:
            await store.prepare(contradiction, position(BASE + 2), TERM)
        assert told.value.index == BASE + 2
        with pytest.raises(StoreEntryError, match=f"Entry {BASE + 3} ") as told:
            await store.apply(
                [
                    (Batch([new_task(2, changed=2)]), position(BASE + 2), TERM),
                    (contradiction, position(BASE + 3), TERM),
                    (None, position(BASE + 4), TERM),
                ]
            )
        assert told.value.index == BASE + 3
        assert await store.digest() == digest
        # A person may decide to go past it.
        await store.apply([(None, position(BASE + 2), TERM)])
        assert await position_of(store) == position(BASE + 2)
        await store.close()

    async def test_a_follower_has_what_the_leader_has(
        self, open_store: LoggedFactory, open_restored: LoggedFactory
    ) -> None:
        leader, follower = await joined(open_store()), await joined(open_restored())
        digests = [await leader.digest()]
        for batch in HISTORY:
            await led(leader, [batch])
            digests.append(await leader.digest())
        # Each entry makes a difference, if only by its index.
        assert len(set(digests)) == len(digests)
        entries = [(batch, position(index), TERM) for index, batch in enumerate(HISTORY, BASE + 1)]
        assert await follower.digest() == digests[0]
        await follower.apply(entries[:2])
        assert await follower.digest() == digests[2]
        await follower.apply([])
        await follower.apply(entries[2:])
        assert await follower.digest() == digests[-1]
        assert await follower.page(Query(), None, 100, 1 << 30) == await leader.page(Query(), None, 100, 1 << 30)
        assert await follower.waiting() == await leader.waiting()
        await leader.close()
        await follower.close()

    async def test_a_digest_is_of_the_moment_at_which_it_has_begun(self, open_store: LoggedFactory) -> None:
        store = await led(await joined(open_store()), HISTORY[:1])
        expected = await store.digest()
        begun = asyncio.Event()
        digesting = asyncio.ensure_future(store.digest(begun))
        await begun.wait()
        await led(store, HISTORY[1:])
        assert await digesting == expected
        await store.close()
        with pytest.raises(StoreError):
            await store.digest()

    @pytest.mark.parametrize(
        "other",
        [
            ([Batch([new_task(2)])], 1),
            ([Batch([new_task(1, "another")])], 1),
            ([Batch([new_task(1, body=b"")])], 1),
            ([Batch([new_task(1, changed=2)])], 1),
            ([Batch([new_task(1, lane=FULL_LANE)])], 1),
            ([Batch([new_task(1, labels={"a": "b"})])], 1),
            ([Batch([new_task(1, expires_ms=1)])], 1),
            ([Batch([new_task(1, at=standing(not_before_ms=1))])], 1),
            ([Batch([new_task(1)], facts=[Fact("k", "a", b"v")])], 1),
            ([Batch([new_task(1), new_task(2)]), Batch(deletes=[DeletedTask(2, "task-2", 2)])], 2),
            ([Batch([new_task(1)]), Batch()], 2),
        ],
        ids=["seq", "id", "body", "changed", "lane", "labels", "expiry", "time", "fact", "tombstone", "position"],
    )
    async def test_stores_that_differ_have_other_digests(
        self, open_store: LoggedFactory, open_restored: LoggedFactory, other: tuple[list[Batch], int]
    ) -> None:
        batches, index = other
        store, another = await joined(open_store()), await joined(open_restored())
        await store.apply([(Batch([new_task(1)]), position(BASE + 1), TERM)])
        await another.apply([(batch, position(number), TERM) for number, batch in enumerate(batches, BASE + 1)])
        if len(batches) == index and index > 1 and batches[1] != Batch():
            await store.apply([(None, position(BASE + 2), TERM)])
        assert await store.digest() != await another.digest()
        await store.close()
        await another.close()

    async def test_an_entry_without_a_batch_moves_position_and_term(self, open_store: LoggedFactory) -> None:
        store = await led(await joined(open_store()), HISTORY)
        before = await store.page(Query(), None, 100, 1 << 30)
        index = BASE + len(HISTORY) + 1
        await store.apply([(None, position(index), TERM + 9)])
        found = await store.current()
        assert (found.term, found.position) == (TERM + 9, position(index))
        assert await store.page(Query(), None, 100, 1 << 30) == before
        await store.close()

    async def test_nothing_is_written_past_the_log(self, open_store: LoggedFactory) -> None:
        store = open_store()
        await store.open_logged(GENERATION)
        for _ in range(2):
            with pytest.raises(StoreError):
                await store.commit(Batch([new_task(1)]))
            with pytest.raises(StoreError):
                await store.force()
            with pytest.raises(StoreError, match="belongs to no log"):
                await store.prepare(Batch([new_task(1)]), position(BASE + 1), TERM)
        await store.join_log(START, TERM)
        with pytest.raises(StoreError):
            await store.commit(Batch([new_task(1)]))
        assert await seqs(store) == []
        await store.close()
        lone = open_store()
        await lone.detach()
        await lone.open()
        with pytest.raises(StoreError):
            await lone.prepare(Batch([new_task(1)]), position(BASE + 1), TERM)
        with pytest.raises(StoreError):
            await lone.apply([(None, position(BASE + 1), TERM)])
        await lone.commit(Batch([new_task(1)]))
        await lone.close()

    async def test_what_is_forced_is_what_is_settled(self, open_store: LoggedFactory) -> None:
        store = await joined(open_store())
        assert await store.force() == START
        await led(store, HISTORY[:2])
        await store.prepare(HISTORY[2], position(BASE + 3), TERM)
        assert await store.force() == position(BASE + 2)
        await store.settle()
        assert await store.force() == position(BASE + 3)
        await store.close()

    async def test_a_store_that_forces_each_entry_is_the_same_store(self, open_store: LoggedFactory) -> None:
        store = await joined(open_store())
        digests = []
        for each in (True, False):
            await store.force_each(each)
            await store.prepare(HISTORY[0], position(BASE + 1), TERM)
            await store.force_each(not each)
            await store.give_up()
            digests.append(await store.digest())
        assert digests[0] == digests[1]
        await led(store, HISTORY[:1])
        await store.force_each(True)
        await store.apply([(HISTORY[1], position(BASE + 2), TERM)])
        assert await store.force() == position(BASE + 2)
        await store.close()

    async def test_a_store_says_whether_it_has_room(self, open_store: LoggedFactory) -> None:
        store = await joined(open_store())
        assert await store.has_room() is True
        await store.close()

    async def test_a_restored_store_belongs_to_no_log(
        self, open_store: LoggedFactory, open_restored: LoggedFactory, tmp_path: Path
    ) -> None:
        store = await led(await joined(open_store()), HISTORY)
        before = await store.current()
        await store.backup(tmp_path / "copy")
        await store.close()
        restored = open_restored()
        await restored.restore(tmp_path / "copy")
        opened = await restored.open_logged(None)
        assert (opened.position, opened.term) == (None, TERM + RESTORE_TERMS)
        assert opened.store_id != before.store_id
        assert await restored.watch_floor() == changed_number(opened.term, 0)
        await restored.close()
        assert (await restored.open()).term == TERM + RESTORE_TERMS + 1
        assert await seqs(restored) == [1, 4, 5]
        await restored.close()

    async def test_a_detached_store_goes_on_alone_above_all_that_the_log_may_have_had_since(
        self, open_store: LoggedFactory
    ) -> None:
        store = await led(await joined(open_store()), HISTORY)
        before = await store.current()
        with pytest.raises(StoreLockedError):
            await open_store().detach()
        await store.close()
        store = open_store()
        await store.detach()
        opened = await store.open()
        assert (opened.position, opened.term) == (None, TERM + RESTORE_TERMS + 1)
        assert opened.store_id != before.store_id
        assert await store.watch_floor() == changed_number(opened.term - 1, 0)
        assert await seqs(store) == [1, 4, 5]
        await store.close()
        with pytest.raises(StoreError, match="belongs to no log"):
            await store.detach()

    async def test_a_copy_of_a_store_without_a_log_is_refused(
        self, open_store: LoggedFactory, open_restored: LoggedFactory, tmp_path: Path
    ) -> None:
        store = open_store()
        await store.open()
        await store.backup(tmp_path / "copy")
        await store.close()
        copy = open_restored()
        with pytest.raises(StoreFormatError, match="belongs to no log"):
            await copy.install_copy(tmp_path / "copy")
        assert (await copy.open()).term == 1
        await copy.close()

    async def test_a_store_is_set_aside_and_a_copy_takes_its_place(
        self, open_store: LoggedFactory, open_restored: LoggedFactory, tmp_path: Path
    ) -> None:
        source = await led(await joined(open_restored()), HISTORY)
        digest = await source.digest()
        await source.backup(tmp_path / "copy")
        await source.close()
        store = await led(await joined(open_store()), HISTORY[:2])
        before = await store.current()
        with pytest.raises(StoreError):
            await store.set_aside()
        with pytest.raises(StoreLockedError):
            await open_store().set_aside()
        await store.close()
        with pytest.raises(StoreError, match="there already"):
            await store.install_copy(tmp_path / "copy")
        names = [await store.set_aside()]
        await joined(store)
        await store.close()
        names.append(await store.set_aside())
        with pytest.raises(StoreError, match="not there"):
            await store.set_aside()
        await store.install_copy(tmp_path / "copy")
        opened = await store.open_logged(GENERATION)
        assert await store.digest() == digest
        assert opened.store_id not in ("", before.store_id)
        assert len(set(names)) == 2
        await store.close()
