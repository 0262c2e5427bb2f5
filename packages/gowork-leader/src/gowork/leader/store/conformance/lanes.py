"""A store returns the tasks to run, page by page."""

from __future__ import annotations

import pytest

from gowork.leader._core.model import LaneKey, Priority, Status
from gowork.leader.store.conformance.kit import (
    ALL_BYTES,
    FULL_LANE,
    Fixtures,
    Reopened,
    StoreFactory,
    all_unfinished,
    new_task,
    standing,
)
from gowork.leader.store.protocol import (
    Batch,
    MovedTask,
    Store,
    StoreError,
    Timer,
)

RUNNING = standing(Status.RUNNING)
PLAIN_LANE = LaneKey("default", Priority.LOW, "", ())


async def seqs_of_lane(store: Store, lane: LaneKey, after: int = 0, limit: int = 1000) -> list[int]:
    """Returns the seqs of a page of a lane, without a limit in bytes."""
    return [record.seq for record in await store.lane_page(lane, after, limit, ALL_BYTES)]


@pytest.mark.asyncio
class LaneConformance(Fixtures):
    """Pending tasks by lane and by time, and running tasks."""

    async def test_a_page_of_unfinished_tasks_is_in_order(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        statuses = list(Status)
        # Written out of order, so that the store must put them in order.
        await store.commit(Batch([new_task(seq, at=standing(statuses[seq % 5])) for seq in range(200, 100, -1)]))
        await store.commit(Batch([new_task(seq, at=standing(statuses[seq % 5])) for seq in range(1, 101)]))
        await store.commit(Batch(moves=[MovedTask(5, 2, standing(Status.COMPLETED))]))
        store, _ = await reopen()
        found = await all_unfinished(store)
        assert [record.seq for record in found] == [seq for seq in range(1, 201) if seq % 5 in (0, 1) and seq != 5]
        await reopen.close()

    async def test_running_gives_the_running_tasks_and_no_others(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        statuses = list(Status)
        for changed, first in enumerate((1, 101), 1):
            tasks = [
                new_task(seq, changed=changed, at=standing(statuses[seq % 5])) for seq in range(first, first + 100)
            ]
            await store.commit(Batch(tasks))
        await store.commit(Batch(moves=[MovedTask(1, 3, standing(Status.COMPLETED)), MovedTask(5, 3, RUNNING)]))
        store, _ = await reopen()
        found = [record async for records in store.running() for record in records]
        expected = {seq for seq in range(1, 201) if seq % 5 == 1} - {1} | {5}
        assert sorted(record.seq for record in found) == sorted(expected)
        assert {record.standing.status for record in found} == {Status.RUNNING}
        await reopen.close()

    async def test_running_comes_in_chunks_also_when_all_changed_at_once(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch([new_task(seq, at=RUNNING) for seq in range(1, 12_001)]))
        chunks = [[record.seq for record in records] async for records in store.running()]
        assert len(chunks) > 1
        assert sorted(seq for chunk in chunks for seq in chunk) == list(range(1, 12_001))
        await store.close()

    async def test_waiting_counts_by_lane_what_may_run_now(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        await store.commit(
            Batch(
                [new_task(seq, lane=FULL_LANE) for seq in (1, 2, 3)]
                + [new_task(4, lane=PLAIN_LANE), new_task(5, lane=PLAIN_LANE, at=RUNNING)]
                + [new_task(6, lane=PLAIN_LANE, at=standing(not_before_ms=10))]
                + [new_task(7, queue="finished", at=standing(Status.COMPLETED))]
            )
        )
        for _ in range(2):
            assert sorted(await store.waiting()) == [(PLAIN_LANE, 1), (FULL_LANE, 3)]
            store, _ = await reopen()
        moves = [MovedTask(seq, 2, RUNNING) for seq in (1, 2, 3)] + [MovedTask(6, 2, standing())]
        await store.commit(Batch(moves=moves))
        assert await store.waiting() == [(PLAIN_LANE, 2)]
        await reopen.close()

    @pytest.mark.parametrize(
        "other",
        [
            FULL_LANE._replace(queue="q"),
            FULL_LANE._replace(priority=Priority.LOW),
            FULL_LANE._replace(handler=""),
            FULL_LANE._replace(selector=()),
            FULL_LANE._replace(selector=FULL_LANE.selector[:1]),
            FULL_LANE._replace(concurrency_key=""),
        ],
        ids=["queue", "priority", "handler", "no selector", "another selector", "key"],
    )
    async def test_lanes_differ_in_each_of_their_parts(self, open_store: StoreFactory, other: LaneKey) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch([new_task(1, lane=FULL_LANE), new_task(2, lane=other), new_task(3, lane=FULL_LANE)]))
        assert await seqs_of_lane(store, FULL_LANE) == [1, 3]
        assert await seqs_of_lane(store, other) == [2]
        assert dict(await store.waiting()) == {FULL_LANE: 2, other: 1}
        await store.close()

    async def test_a_lane_comes_page_by_page_in_the_order_of_submission(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        # Written out of order, so that the store must put them in order. Every second one is of another lane.
        await store.commit(Batch([new_task(seq, lane=FULL_LANE) for seq in (19, 11, 3)]))
        await store.commit(Batch([new_task(seq, changed=2, lane=FULL_LANE) for seq in (7, 15)]))
        await store.commit(Batch([new_task(seq, changed=3) for seq in range(2, 20, 2)]))
        assert await seqs_of_lane(store, FULL_LANE) == [3, 7, 11, 15, 19]
        assert await seqs_of_lane(store, FULL_LANE, limit=2) == [3, 7]
        assert await seqs_of_lane(store, FULL_LANE, after=7, limit=2) == [11, 15]
        assert await seqs_of_lane(store, FULL_LANE, after=8, limit=2) == [11, 15]
        assert await seqs_of_lane(store, FULL_LANE, after=19) == []
        assert await seqs_of_lane(store, FULL_LANE._replace(queue="nobody's")) == []
        await store.close()

    async def test_a_page_of_a_lane_has_whole_records_and_ends_where_its_bytes_are_reached(
        self, open_store: StoreFactory
    ) -> None:
        store = open_store()
        await store.open()
        tasks = [new_task(seq, body=b"b" * 1000, labels={"a": "b"}, lane=FULL_LANE) for seq in (1, 2, 3, 4)]
        await store.commit(Batch(tasks))
        for bytes_max, count in ((1, 1), (1000, 1), (1001, 2), (3000, 3), (1 << 20, 4)):
            page = await store.lane_page(FULL_LANE, 0, 1000, bytes_max)
            assert page == [task.record for task in tasks[:count]]
        await store.close()

    async def test_a_lane_has_no_task_that_is_delayed_running_or_finished(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        others = [standing(status) for status in Status if status is not Status.PENDING]
        await store.commit(
            Batch(
                [new_task(1, lane=FULL_LANE), new_task(2, lane=FULL_LANE, at=standing(not_before_ms=5))]
                + [new_task(seq, lane=FULL_LANE, at=at) for seq, at in enumerate(others, 3)]
            )
        )
        assert await seqs_of_lane(store, FULL_LANE) == [1]
        await store.close()

    async def test_a_task_is_in_its_lane_again_when_it_may_run_again(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        await store.commit(Batch([new_task(1, lane=FULL_LANE), new_task(2, lane=FULL_LANE), new_task(3)]))
        await store.commit(Batch(moves=[MovedTask(1, 2, RUNNING)]))
        assert await seqs_of_lane(store, FULL_LANE) == [2]
        # Tried again later: delayed, then due.
        await store.commit(Batch(moves=[MovedTask(1, 3, standing(not_before_ms=99))]))
        assert await seqs_of_lane(store, FULL_LANE) == [2]
        assert await store.delayed(None, 10) == [Timer(99, 1, "task-1")]
        store, _ = await reopen()
        await store.commit(Batch(moves=[MovedTask(1, 4, standing())]))
        assert await seqs_of_lane(store, FULL_LANE) == [1, 2]
        assert await store.delayed(None, 10) == []
        await reopen.close()

    async def test_a_finished_task_that_is_pending_again_is_in_the_lane_that_comes_with_it(
        self, open_store: StoreFactory
    ) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        await store.commit(Batch([new_task(1, lane=FULL_LANE, expires_ms=500), new_task(2, lane=FULL_LANE)]))
        await store.commit(
            Batch(moves=[MovedTask(1, 2, standing(Status.ERROR)), MovedTask(2, 2, standing(Status.ERROR))])
        )
        store, _ = await reopen()
        await store.commit(
            Batch(
                [new_task(3, changed=3, lane=FULL_LANE)],
                [MovedTask(1, 3, standing(), FULL_LANE, 500), MovedTask(2, 3, standing(), PLAIN_LANE)],
            )
        )
        assert await seqs_of_lane(store, FULL_LANE) == [1, 3]
        assert await seqs_of_lane(store, PLAIN_LANE) == [2]
        assert await store.expiring(None, 10) == [Timer(500, 1, "task-1")]
        await reopen.close()

    async def test_delayed_tasks_come_by_their_time_also_when_many_share_one(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        times = {1: 30, 2: 10, 3: 20, 4: 20, 5: 20, 6: 1_761_900_000_000}
        await store.commit(Batch([new_task(seq, at=standing(not_before_ms=at)) for seq, at in times.items()]))
        await store.commit(Batch([new_task(7, changed=2), new_task(8, changed=2, at=RUNNING)]))
        expected = [Timer(times[seq], seq, f"task-{seq}") for seq in (2, 3, 4, 5, 1, 6)]
        assert await store.delayed(None, 100) == expected
        assert await store.delayed(None, 2) == expected[:2]
        assert await store.delayed((10, 2), 2) == expected[1:3]
        assert await store.delayed((20, 3), 2) == expected[2:4]
        assert await store.delayed((20, 5), 2) == expected[4:]
        assert await store.delayed((25, 0), 1) == expected[4:5]
        assert await store.delayed((1_761_900_000_000, 6), 2) == []
        await store.close()

    async def test_expiring_tasks_are_pending_ones_delayed_or_not(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        await store.commit(
            Batch(
                [
                    new_task(1, expires_ms=300),
                    new_task(2, expires_ms=100, at=standing(not_before_ms=50)),
                    new_task(3, expires_ms=200, at=RUNNING),
                    new_task(4),
                    new_task(5, expires_ms=100),
                    new_task(6, expires_ms=100, at=standing(Status.COMPLETED)),
                ]
            )
        )
        expected = [Timer(100, 2, "task-2"), Timer(100, 5, "task-5"), Timer(300, 1, "task-1")]
        assert await store.expiring(None, 100) == expected
        assert await store.expiring((100, 2), 1) == expected[1:2]
        # Neither a grant nor the way back loses the expiry.
        await store.commit(Batch(moves=[MovedTask(3, 2, standing()), MovedTask(5, 2, RUNNING)]))
        store, _ = await reopen()
        assert await store.expiring(None, 100) == [expected[0], Timer(200, 3, "task-3"), expected[2]]
        await reopen.close()

    async def test_delayed_counts_counts_by_the_lane_that_tasks_will_wait_in(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        assert await store.delayed_counts() == []
        delayed = standing(not_before_ms=7)
        await store.commit(
            Batch(
                [
                    new_task(1, at=delayed),
                    new_task(2, at=delayed, expires_ms=9),
                    new_task(3, at=delayed, lane=FULL_LANE),
                    new_task(4),
                    new_task(5, at=RUNNING),
                ]
            )
        )
        assert dict(await store.delayed_counts()) == {new_task(1).lane: 2, FULL_LANE: 1}
        await store.commit(Batch(moves=[MovedTask(2, 2, standing()), MovedTask(3, 2, RUNNING)]))
        assert await store.delayed_counts() == [(new_task(1).lane, 1)]
        await store.commit(Batch(moves=[MovedTask(1, 3, RUNNING)]))
        assert await store.delayed_counts() == []
        await store.close()

    async def test_many_lanes_in_one_batch_are_kept_apart(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        lanes = [PLAIN_LANE._replace(concurrency_key=f"customer {number}") for number in range(3000)]
        await store.commit(Batch([new_task(seq, lane=lane) for seq, lane in enumerate(lanes, 1)]))
        store, _ = await reopen()
        await store.commit(Batch([new_task(5000 + seq, changed=2, lane=lane) for seq, lane in enumerate(lanes, 1)]))
        assert dict(await store.waiting()) == dict.fromkeys(lanes, 2)
        assert await seqs_of_lane(store, lanes[1234]) == [1235, 6235]
        await reopen.close()

    async def test_a_refused_batch_leaves_no_lane_behind_that_later_ones_trip_over(
        self, open_store: StoreFactory
    ) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch([new_task(1)]))
        with pytest.raises(StoreError):
            await store.commit(Batch([new_task(2, "task-1", lane=FULL_LANE)]))
        await store.commit(Batch([new_task(3, lane=PLAIN_LANE), new_task(4, lane=FULL_LANE)]))
        assert await seqs_of_lane(store, FULL_LANE) == [4]
        assert await seqs_of_lane(store, PLAIN_LANE) == [1, 3]
        await store.close()
