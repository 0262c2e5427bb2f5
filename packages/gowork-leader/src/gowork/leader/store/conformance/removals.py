"""A store returns finished tasks in the order in which they finished, and keeps removals for watchers."""

from __future__ import annotations

import pytest

from gowork.leader._core.model import FINISHED, Brief, Status
from gowork.leader.store.conformance.kit import (
    ALL_BYTES,
    FULL_LANE,
    Fixtures,
    Reopened,
    StoreFactory,
    all_unfinished,
    new_task,
    seqs_of_page,
    standing,
)
from gowork.leader.store.protocol import (
    Batch,
    DeletedTask,
    Finished,
    MovedTask,
    Query,
    StoreError,
    Timer,
)


@pytest.mark.asyncio
class RemovalConformance(Fixtures):
    """Retention, deletes and tombstones."""

    async def test_finished_tasks_come_in_the_order_in_which_they_finished(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        await store.commit(Batch([new_task(seq) for seq in range(1, 9)]))
        ends = (
            (4, Status.COMPLETED),
            (1, Status.ERROR),
            (7, Status.CANCELLED),
            (2, Status.COMPLETED),
            (6, Status.ERROR),
        )
        for changed, (seq, status) in enumerate(ends, 2):
            await store.commit(Batch(moves=[MovedTask(seq, changed, standing(status, finished_ms=1000 + changed))]))
        await store.commit(Batch(moves=[MovedTask(8, 7, standing(Status.RUNNING))]))
        others = [Finished(4, "task-4", 2, 1002), Finished(7, "task-7", 4, 1004), Finished(2, "task-2", 5, 1005)]
        failed = [Finished(1, "task-1", 3, 1003), Finished(6, "task-6", 6, 1006)]
        for _ in range(2):
            assert await store.finished(False, 10) == others
            assert await store.finished(False, 2) == others[:2]
            assert await store.finished(False, 10, (2, 3)) == others
            assert await store.finished(False, 10, (2, 4)) == others[1:]
            assert await store.finished(False, 1, (4, 7)) == others[2:]
            assert await store.finished(True, 10) == failed
            assert await store.finished(True, 1) == failed[:1]
            assert await store.finished_counts() == (2, 3)
            store, _ = await reopen()
        await reopen.close()

    async def test_a_task_that_is_pending_again_is_not_finished(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        ended = standing(Status.ERROR, finished_ms=5)
        await store.commit(Batch([new_task(1, at=ended), new_task(2, at=ended)]))
        await store.commit(Batch(moves=[MovedTask(1, 2, standing(), FULL_LANE, 0)]))
        assert await store.finished_counts() == (1, 0)
        assert [task.seq for task in await store.finished(True, 10)] == [2]
        await store.close()

    async def test_what_is_deleted_is_gone_from_every_reading(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        ended = standing(Status.COMPLETED, finished_ms=5)
        tasks = [new_task(seq, at=ended, labels={"a": "b"}, queue="q", expires_ms=9) for seq in (1, 2, 3)]
        await store.commit(Batch([*tasks, new_task(4, lane=FULL_LANE), new_task(5, at=standing(not_before_ms=7))]))
        # A store deletes unfinished tasks too. Only its caller must not ask for it.
        gone = [DeletedTask(seq, f"task-{seq}", 2) for seq in (1, 3, 4, 5)]
        await store.commit(Batch(deletes=gone))
        for _ in range(2):
            assert await store.load([f"task-{seq}" for seq in range(1, 6)]) == [tasks[1].record]
            assert await seqs_of_page(store, Query()) == [2]
            assert [task.seq for task in await store.finished(False, 10)] == [2]
            assert dict(await store.counts()) == {("q", "", Status.COMPLETED): 1}
            assert [record.seq for record in await store.changed_since(0, 100)] == [2]
            assert await store.waiting() == []
            assert await store.delayed_counts() == []
            assert await all_unfinished(store) == []
            store, _ = await reopen()
        await reopen.close()

    async def test_the_id_of_a_deleted_task_can_be_taken_again_also_in_the_same_batch(
        self, open_store: StoreFactory
    ) -> None:
        store = open_store()
        await store.open()
        ended = standing(Status.COMPLETED)
        await store.commit(Batch([new_task(1, "a", at=ended), new_task(2, "b", at=ended)]))
        await store.commit(
            Batch([new_task(3, "a", changed=2)], deletes=[DeletedTask(1, "a", 2), DeletedTask(2, "b", 2)])
        )
        await store.commit(Batch([new_task(4, "b", changed=3)]))
        assert sorted((record.seq, record.id) for record in await store.load(["a", "b"])) == [(3, "a"), (4, "b")]
        assert await store.deleted_since(0, 10) == [(2, "a"), (2, "b")]
        await store.close()

    async def test_a_pending_task_is_deleted_and_written_anew_in_one_batch_into_another_lane(
        self, open_store: StoreFactory
    ) -> None:
        store = open_store()
        await store.open()
        waiting, delayed = standing(Status.PENDING), standing(Status.PENDING, not_before_ms=50)
        await store.commit(
            Batch(
                [new_task(1, "a", at=waiting, expires_ms=9), new_task(2, "b", at=delayed, queue="q"), new_task(3, "c")]
            )
        )
        again = [
            new_task(4, "a", at=delayed, queue="q", changed=2, expires_ms=0),
            new_task(5, "b", at=waiting, queue="q", changed=2),
        ]
        await store.commit(Batch(again, deletes=[DeletedTask(1, "a", 2), DeletedTask(2, "b", 2)]))
        assert await store.load(["a", "b"]) == [new.record for new in again]
        assert await store.delayed(None, 10) == [Timer(50, 4, "a")]
        assert await store.expiring(None, 10) == []
        lanes = {lane.queue: tasks for lane, tasks in await store.waiting()}
        assert lanes == {new_task(3).lane.queue: 1, "q": 1}
        assert [record.id for record in await store.lane_page(again[1].lane, 0, 10, 1 << 20)] == ["b"]
        assert await seqs_of_page(store, Query(terms=(("queue", "q", True),))) == [4, 5]
        assert [record.seq for record in await store.changed_since(1, 10)] == [4, 5]
        await store.close()

    @pytest.mark.parametrize(
        "contradiction",
        [
            DeletedTask(999, "task-999", 2),
            DeletedTask(2, "task-1", 2),
            DeletedTask(999, "task-2", 2),
        ],
        ids=["nothing there", "another's id", "another's seq"],
    )
    async def test_a_delete_of_what_is_not_there_is_refused_whole(
        self, open_store: StoreFactory, contradiction: DeletedTask
    ) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch([new_task(1), new_task(2)]))
        with pytest.raises(StoreError):
            await store.commit(Batch([new_task(3)], deletes=[DeletedTask(1, "task-1", 2), contradiction]))
        assert await seqs_of_page(store, Query()) == [1, 2]
        assert await store.deleted_since(0, 10) == []
        await store.commit(Batch(deletes=[DeletedTask(1, "task-1", 2)]))
        assert await seqs_of_page(store, Query()) == [2]
        await store.close()

    async def test_deleted_since_gives_whole_batches_in_their_order(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        await store.commit(Batch([new_task(seq) for seq in range(1, 8)]))
        for changed, seqs in ((2, (5, 1, 3)), (3, (2,)), (9, (7, 6))):
            await store.commit(Batch(deletes=[DeletedTask(seq, f"task-{seq}", changed) for seq in seqs]))
        everything = [(2, "task-1"), (2, "task-3"), (2, "task-5"), (3, "task-2"), (9, "task-6"), (9, "task-7")]
        for _ in range(2):
            assert sorted(await store.deleted_since(0, 100)) == everything
            assert sorted(await store.deleted_since(0, 1)) == everything[:3]
            assert sorted(await store.deleted_since(0, 4)) == everything[:4]
            assert [changed for changed, _ in await store.deleted_since(0, 5)] == [2, 2, 2, 3, 9, 9]
            assert sorted(await store.deleted_since(2, 1)) == everything[3:4]
            assert await store.deleted_since(9, 1) == []
            store, _ = await reopen()
        await reopen.close()

    async def test_tombstones_that_are_dropped_raise_the_floor(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        await store.commit(Batch([new_task(seq) for seq in range(1, 5)]))
        for changed in (2, 4, 6):
            await store.commit(Batch(deletes=[DeletedTask(changed // 2, f"task-{changed // 2}", changed)]))
        assert await store.watch_floor() == 0
        # Nothing is dropped, so nothing can have been missed.
        await store.commit(Batch(tombstones_before=2))
        assert await store.watch_floor() == 0
        await store.commit(Batch([new_task(9, changed=7)], tombstones_before=6))
        for _ in range(2):
            assert await store.deleted_since(0, 10) == [(6, "task-3")]
            # A watcher that knows all up to 4 has missed nothing.
            assert await store.watch_floor() == 4
            assert await seqs_of_page(store, Query()) == [4, 9]
            store, _ = await reopen()
        # The floor never sinks.
        await store.commit(Batch(tombstones_before=3))
        assert await store.watch_floor() == 4
        await reopen.close()

    async def test_a_thousand_tasks_are_deleted_at_once(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch([new_task(seq, at=standing(Status.COMPLETED)) for seq in range(1, 3001)]))
        oldest = await store.finished(False, 1000)
        await store.commit(Batch(deletes=[DeletedTask(task.seq, task.id, 2) for task in oldest]))
        assert await store.finished_counts() == (0, 2000)
        assert len(await store.deleted_since(0, 1)) == 1000
        assert (await store.finished(False, 1))[0].seq == 1001
        await store.close()

    async def test_the_tasks_that_failed_last_come_first(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        await store.commit(Batch([new_task(seq, body=b"x" * 10) for seq in range(1, 8)]))
        ends = ((5, 2), (1, 3), (7, 3), (4, 4), (2, 5))
        for changed in (2, 3, 4, 5):
            moves = [MovedTask(seq, at, standing(Status.ERROR)) for seq, at in ends if at == changed]
            await store.commit(Batch(moves=moves))
        await store.commit(Batch(moves=[MovedTask(6, 6, standing(Status.COMPLETED))]))
        # One of them runs again.
        await store.commit(Batch(moves=[MovedTask(4, 7, standing(), FULL_LANE)]))
        for _ in range(2):
            for limit, bytes_max, seqs in (
                (10, ALL_BYTES, [2, 7, 1, 5]),
                (2, ALL_BYTES, [2, 7]),
                (10, 1, [2]),
                (10, 11, [2, 7]),
            ):
                assert [record.seq for record in await store.last_failed(limit, bytes_max)] == seqs
            (latest,) = await store.last_failed(1, ALL_BYTES)
            assert (latest.id, latest.body, latest.standing.status) == ("task-2", b"x" * 10, Status.ERROR)
            store, _ = await reopen()
        await reopen.close()

    async def test_briefs_tell_what_a_removal_must_know(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        ended = [standing(status, finished_ms=7) for status in Status if status in FINISHED]
        tasks = [new_task(seq, at=at) for seq, at in enumerate(ended, 1)]
        await store.commit(Batch([*tasks, new_task(4), new_task(5, at=standing(Status.RUNNING)), new_task(6)]))
        found = await store.briefs([f"task-{seq}" for seq in (5, 1, 2, 99, 3, 4, 1)])
        assert sorted(found, key=lambda brief: brief.seq) == [
            *(Brief(seq, f"task-{seq}", at.status, 7) for seq, at in enumerate(ended, 1)),
            Brief(4, "task-4", Status.PENDING, 0),
            Brief(5, "task-5", Status.RUNNING, 0),
        ]
        assert await store.briefs([]) == []
        await store.close()

    async def test_finished_tasks_are_selected_by_a_query_and_by_their_time(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        ended = [standing(Status.COMPLETED, finished_ms=ms) for ms in (30, 10, 20)]
        await store.commit(
            Batch(
                [
                    *(new_task(seq, at=at, queue="a", labels={"n": str(seq)}) for seq, at in enumerate(ended, 1)),
                    new_task(4, queue="a"),
                    new_task(5, at=standing(Status.RUNNING), queue="a"),
                    new_task(6, at=standing(Status.ERROR, finished_ms=10), queue="b"),
                ]
            )
        )

        async def seqs(query: Query, before_ms: int | None = None, limit: int = 100) -> list[int]:
            return [task.seq for task in await store.select_finished(query, before_ms, limit)]

        assert await store.select_finished(Query(), 20, 1) == [Brief(2, "task-2", Status.COMPLETED, 10)]
        assert await seqs(Query()) == [1, 2, 3, 6]
        assert await seqs(Query(), limit=2) == [1, 2]
        assert await seqs(Query(), before_ms=20) == [2, 6]
        assert await seqs(Query(terms=(("queue", "a", True),)), before_ms=21) == [2, 3]
        assert await seqs(Query(labels=(("n", "3", True),))) == [3]
        assert await seqs(Query(id_prefixes=(("task-", True),), statuses=frozenset({Status.ERROR}))) == [6]
        assert await seqs(Query(statuses=frozenset({Status.PENDING, Status.RUNNING}))) == []
        assert await seqs(Query(statuses=frozenset({Status.PENDING, Status.ERROR}))) == [6]
        await store.close()
