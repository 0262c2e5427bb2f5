"""A store returns records as they were written, and a batch is whole or not there."""

from __future__ import annotations

import asyncio

import pytest

from gowork.leader._core.kinds import KINDS
from gowork.leader._core.model import Status
from gowork.leader.store.conformance.kit import (
    ALL_BYTES,
    FULL_STANDING,
    Fixtures,
    Reopened,
    StoreFactory,
    all_unfinished,
    facts_of,
    new_task,
    seqs_of_page,
    standing,
)
from gowork.leader.store.protocol import (
    Batch,
    MovedTask,
    Query,
    Record,
    StoreError,
    StoreLockedError,
)


@pytest.mark.asyncio
class RecordConformance(Fixtures):
    """Opening, commits, and records by their ids."""

    async def test_a_new_store_is_empty(self, open_store: StoreFactory) -> None:
        store = open_store()
        opened = await store.open()
        assert opened.next_seq >= 1
        assert opened.term >= 1
        assert int(opened.identity, 16) > 0
        assert await all_unfinished(store) == []
        assert await facts_of(store, "any") == {}
        assert await store.load(["a"]) == []
        assert await seqs_of_page(store, Query()) == []
        assert await store.changed_since(0, 10) == []
        assert dict(await store.counts()) == {}
        assert await store.waiting() == []
        for kind in KINDS:
            assert await facts_of(store, kind.name) == {}
        assert await store.deleted_since(0, 10) == []
        assert await store.watch_floor() == 0
        await store.close()

    async def test_the_term_grows_with_every_opening_and_the_identity_stays(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        openings = [(await reopen())[1] for _ in range(3)]
        await reopen.close()
        assert openings[0].term < openings[1].term < openings[2].term
        assert len({opened.identity for opened in openings}) == 1

    async def test_next_seq_is_above_every_seq_that_is_stored(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, opened = await reopen()
        await store.commit(Batch([new_task(opened.next_seq + 41)]))
        _, again = await reopen()
        await reopen.close()
        assert again.next_seq > opened.next_seq + 41

    async def test_a_second_opening_is_refused_while_the_first_lasts(self, open_store: StoreFactory) -> None:
        first, second = open_store(), open_store()
        await first.open()
        with pytest.raises(StoreLockedError):
            await second.open()
        await first.commit(Batch([new_task(1)]))
        await first.close()
        await second.open()
        assert [record.id for record in await second.load(["task-1"])] == ["task-1"]
        await second.close()

    async def test_closing_is_harmless_when_repeated_or_never_opened(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.close()
        await store.open()
        await store.close()
        await store.close()

    async def test_a_closed_store_refuses_to_work(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        await store.close()
        with pytest.raises(StoreError):
            await store.commit(Batch([new_task(1)]))
        with pytest.raises(StoreError):
            await store.load(["task-1"])

    async def test_a_record_comes_back_as_it_was_written_also_after_reopening(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        written = [
            new_task(1, body=b"", at=standing()),
            new_task(2, "ïd-2 «ünïcödé» 任务 🙂", body=bytes(range(256)), at=FULL_STANDING),
            new_task(3, "i" * 256, body=b"x" * (1 << 20), queue="q", handler="h", priority=3, labels={"a": "b"}),
            new_task((1 << 62) + 1, '"quoted" \\ %_*?[x]', changed=(1 << 62) + 5),
        ]
        expected = [new.record for new in written]
        store, _ = await reopen()
        await store.commit(Batch(written))
        for _ in range(2):
            found = await store.load([new.record.id for new in written])
            assert sorted(found, key=lambda record: record.seq) == expected
            assert await store.page(Query(), None, 10, ALL_BYTES) == expected
            store, _ = await reopen()
        await reopen.close()

    async def test_load_leaves_out_unknown_ids_and_answers_known_ones_once(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch([new_task(seq) for seq in range(1, 4)]))
        found = await store.load(["task-3", "nobody", "task-1", "task-3", "TASK-2", ""])
        assert sorted(record.id for record in found) == ["task-1", "task-3"]
        assert await store.load([]) == []
        await store.close()

    async def test_standings_are_what_load_gives_without_the_bodies(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        large = standing(Status.COMPLETED, result="r" * (1 << 20))
        written = [new_task(1), new_task(2, "ïd-2 «ünïcödé» 任务 🙂", at=FULL_STANDING), new_task(3, at=large)]
        written += [new_task(seq, body=b"x" * 100_000) for seq in range(4, 30)]
        await store.commit(Batch(written))
        ids = [new.record.id for new in written]
        found = await store.standings([*ids, "nobody", ids[0], ""])
        assert sorted(found, key=lambda each: ids.index(each[0])) == [
            (new.record.id, new.record.standing) for new in written
        ]
        assert await store.standings([]) == []
        await store.close()

    async def test_large_records_are_read_as_small_ones_are(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        written = [new_task(seq, body=bytes([seq]) * (100_000 if seq % 2 else 10)) for seq in range(1, 120)]
        await store.commit(Batch(written))
        expected = [new.record for new in written]
        found = await store.load([record.id for record in expected])
        assert sorted(found, key=lambda record: record.seq) == expected
        assert await store.page(Query(newest_first=True), None, 200, ALL_BYTES) == expected[::-1]
        assert await store.page(Query(), 2, 1, ALL_BYTES) == expected[2:3]
        await store.close()

    async def test_load_takes_many_ids_at_once(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch([new_task(seq) for seq in range(1, 5001)]))
        found = await store.load([f"task-{seq}" for seq in range(1, 100_001)])
        assert sorted(record.seq for record in found) == list(range(1, 5001))
        await store.close()

    async def test_a_commit_that_has_returned_is_seen_by_every_reading(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        for number in range(1, 30):
            await store.commit(Batch([new_task(number, changed=number)]))
            assert len(await store.load([f"task-{number}"])) == 1
            assert len(await store.changed_since(number - 1, 10)) == 1
            assert await seqs_of_page(store, Query(newest_first=True), limit=1) == [number]
        await store.close()

    async def test_batches_of_every_size_are_written_whole(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        seq = 1
        for changed, size in enumerate((1, 2, 3, 7, 63, 64, 65, 100, 193, 511, 1000, 1025, 2049, 5001), 1):
            inserts = [new_task(seq + place, changed=changed) for place in range(size)]
            await store.commit(Batch(inserts))
            assert len(await store.changed_since(changed - 1, 1)) == size
            seq += size
        changed = 1000
        moves = [MovedTask(moved, changed, standing(Status.COMPLETED, result=str(moved))) for moved in range(1, seq)]
        await store.commit(Batch(moves=moves))
        assert dict(await store.counts()) == {("default", "", Status.COMPLETED): seq - 1}
        found = await store.changed_since(changed - 1, 1)
        assert [(record.seq, record.standing.result) for record in found] == [(n, str(n)) for n in range(1, seq)]
        await store.close()

    async def test_a_move_changes_standing_and_changed_and_nothing_else(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        task, neighbour = new_task(1, body=b"asked", labels={"a": "b"}), new_task(2)
        await store.commit(Batch([task, neighbour]))
        for changed, status in ((2, Status.RUNNING), (3, Status.PENDING), (4, Status.RUNNING)):
            await store.commit(Batch(moves=[MovedTask(1, changed, standing(status))]))
        await store.commit(Batch(moves=[MovedTask(1, 5, FULL_STANDING)]))
        store, _ = await reopen()
        found = await store.page(Query(), None, 10, ALL_BYTES)
        assert found == [Record(1, "task-1", 5, b"asked", FULL_STANDING), neighbour.record]
        assert await seqs_of_page(store, Query(labels=(("a", "b", True),))) == [1]
        await reopen.close()

    async def test_one_batch_inserts_and_moves(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch([new_task(1)]))
        await store.commit(Batch([new_task(2, changed=2)], [MovedTask(1, 2, standing(Status.RUNNING))]))
        assert [(r.seq, r.standing.status) for r in await all_unfinished(store)] == [
            (1, Status.RUNNING),
            (2, Status.PENDING),
        ]
        await store.close()

    async def test_an_empty_batch_changes_nothing(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch())
        assert await seqs_of_page(store, Query()) == []
        await store.close()

    @pytest.mark.parametrize(
        "contradiction",
        [
            Batch([new_task(10), new_task(11, "task-1")]),
            Batch([new_task(10), new_task(1, "another")]),
            Batch([new_task(10, "twice"), new_task(11, "twice")]),
            Batch([new_task(10)], [MovedTask(999, 2, standing())]),
            Batch(moves=[MovedTask(1, 2, standing(Status.RUNNING)), MovedTask(999, 2, standing())]),
        ],
        ids=["id exists", "seq exists", "id twice in the batch", "move of nothing after insert", "move of nothing"],
    )
    async def test_a_batch_that_contradicts_the_store_is_refused_whole(
        self, open_store: StoreFactory, contradiction: Batch
    ) -> None:
        store = open_store()
        await store.open()
        first = new_task(1)
        await store.commit(Batch([first]))
        with pytest.raises(StoreError):
            await store.commit(contradiction)
        assert await store.page(Query(), None, 10, ALL_BYTES) == [first.record]
        # The store goes on as if nothing had happened.
        await store.commit(Batch([new_task(2)], [MovedTask(1, 2, standing(Status.RUNNING))]))
        assert await seqs_of_page(store, Query()) == [1, 2]
        await store.close()

    async def test_a_commit_whose_caller_is_cancelled_is_whole_or_not_there(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        committing = asyncio.ensure_future(store.commit(Batch([new_task(seq) for seq in range(1, 101)])))
        await asyncio.sleep(0)
        committing.cancel()
        await asyncio.gather(committing, return_exceptions=True)
        store, _ = await reopen()
        assert len(await seqs_of_page(store, Query())) in (0, 100)
        await store.commit(Batch([new_task(1000)]))
        await reopen.close()
