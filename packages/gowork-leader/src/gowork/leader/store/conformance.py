"""What every store must do, as pytest classes; the protocol says it in words.

A store's own tests subclass them and tell how it is opened:

    class TestEtcd(StoreConformance, DurabilityConformance):
        @pytest.fixture
        def store_url(self, etcd):
            return f"etcd://{etcd.address}/{uuid4()}"

`store_url` names a place that no other test uses. A store that can't be named by a URL, a fake for instance, gives a
fixture `open_store` instead: a function that answers a store on the same data at each call, not opened yet.
DurabilityConformance starts real processes on the URL and kills them. Both need pytest-asyncio.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable

import pytest

from gowork.leader.core.model import Attempt, Failure, FailureKind, Outcome, Standing, Status
from gowork.leader.store import registry
from gowork.leader.store.protocol import (
    Batch,
    MemberRecord,
    MovedTask,
    NewTask,
    Opened,
    Query,
    Record,
    Store,
    StoreError,
    StoreLockedError,
    changed_number,
)

StoreFactory = Callable[[], Store]

ALL_BYTES = 1 << 40
#: A task that has been through a lot: no field has its default.
FULL_STANDING = Standing(
    status=Status.ERROR,
    created_ms=1_761_900_000_000,
    fence=(7 << 40) + 3,
    grants=4,
    attempts_used=3,
    worker="wörker",
    instance="0123456789abcdef",
    started_ms=1_761_900_000_001,
    finished_ms=1_761_900_000_002,
    result='{"text": "ünïcödé \\u0000"}',
    result_data=bytes(range(256)),
    failure=Failure(FailureKind.TIMEOUT, "it took too long", "TimeoutError", "Traceback …\n"),
    cancel_requested=True,
    not_before_ms=1_761_900_000_003,
    attempts=(
        Attempt(1, "a", 1, 2, Outcome.FAILED, "raised", 7 << 40),
        Attempt(2, "b", 3, 4, Outcome.LOST, "the process vanished: signal 9", (7 << 40) + 1),
    ),
    lost_alone=2,
    suspect=True,
)


def standing(status: Status = Status.PENDING, *, result: str = "", failure: Failure | None = None) -> Standing:
    """A standing with this status."""
    return Standing(status, 1_761_900_000_000, result=result, failure=failure)


def new_task(
    seq: int,
    task_id: str | None = None,
    *,
    changed: int = 1,
    body: bytes = b"body",
    at: Standing | None = None,
    queue: str = "default",
    handler: str = "",
    priority: int = 1,
    labels: dict[str, str] | None = None,
) -> NewTask:
    """A task with defaults for all that a test doesn't care about."""
    record = Record(seq, task_id if task_id is not None else f"task-{seq}", changed, body, at or standing())
    return NewTask(record, queue, handler, priority, tuple(sorted((labels or {}).items())))


async def seqs_of_page(store: Store, query: Query, after: int | None = None, limit: int = 1000) -> list[int]:
    """The seqs of a page without a limit in bytes."""
    return [record.seq for record in await store.page(query, after, limit, ALL_BYTES)]


async def all_unfinished(store: Store) -> list[Record]:
    """Every unfinished record, in the order in which the store gave them."""
    return [record async for records in store.unfinished() for record in records]


class Reopened:
    """Opens the same store again and again, and closes what is open in the end."""

    def __init__(self, factory: StoreFactory) -> None:
        self._factory = factory
        self._store: Store | None = None

    async def __call__(self) -> tuple[Store, Opened]:
        await self.close()
        self._store = self._factory()
        return self._store, await self._store.open()

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()
            self._store = None


class _Fixtures:
    @pytest.fixture
    def store_url(self) -> str:
        """The URL of an empty store; overridden."""
        raise NotImplementedError("override store_url or open_store")

    @pytest.fixture
    def open_store(self, store_url: str) -> StoreFactory:
        """Makes stores on the same data."""
        return lambda: registry.open_store(store_url)


@pytest.mark.asyncio
class StoreConformance(_Fixtures):
    """The protocol, by one process."""

    async def test_a_new_store_is_empty(self, open_store: StoreFactory) -> None:
        store = open_store()
        opened = await store.open()
        assert opened.next_seq >= 1
        assert opened.term >= 1
        assert int(opened.identity, 16) > 0
        assert await all_unfinished(store) == []
        assert await store.members() == []
        assert await store.load(["a"]) == []
        assert await seqs_of_page(store, Query()) == []
        assert await store.changed_since(0, 10) == []
        assert dict(await store.counts()) == {}
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

    async def test_one_batch_inserts_moves_and_keeps_members(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch([new_task(1)], members=[MemberRecord("m1", "a:1", 5)]))
        await store.commit(
            Batch(
                [new_task(2, changed=2)],
                [MovedTask(1, 2, standing(Status.RUNNING))],
                [MemberRecord("m2", "b:2", 6)],
                ["m1"],
            )
        )
        assert [(r.seq, r.standing.status) for r in await all_unfinished(store)] == [
            (1, Status.RUNNING),
            (2, Status.PENDING),
        ]
        assert await store.members() == [MemberRecord("m2", "b:2", 6)]
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
        # The store goes on as if nothing had been.
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

    async def test_members_come_by_id_and_a_second_join_replaces_the_first(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        joined = [MemberRecord(name, f"{name}:1", 1) for name in ("c", "a", "b", "ünï 'x'")]
        await store.commit(Batch(members=joined))
        await store.commit(Batch(members=[MemberRecord("a", "a:2", 2)]))
        await store.commit(Batch(members_gone=["b", "nobody", "ünï 'x'"]))
        expected = [MemberRecord("a", "a:2", 2), MemberRecord("c", "c:1", 1)]
        assert await store.members() == expected
        store, _ = await reopen()
        assert await store.members() == expected
        await reopen.close()

    async def test_unfinished_gives_pending_and_running_tasks_in_order(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        statuses = list(Status)
        # Written out of order, so that the order is the store's doing.
        await store.commit(Batch([new_task(seq, at=standing(statuses[seq % 5])) for seq in range(200, 100, -1)]))
        await store.commit(Batch([new_task(seq, at=standing(statuses[seq % 5])) for seq in range(1, 101)]))
        await store.commit(Batch(moves=[MovedTask(5, 2, standing(Status.COMPLETED))]))
        store, _ = await reopen()
        found = await all_unfinished(store)
        assert [record.seq for record in found] == [seq for seq in range(1, 201) if seq % 5 in (0, 1) and seq != 5]
        await reopen.close()

    async def test_unfinished_comes_in_chunks(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch([new_task(seq) for seq in range(1, 12_001)]))
        chunks = [len(records) async for records in store.unfinished()]
        assert sum(chunks) == 12_000
        assert len(chunks) > 1
        await store.close()

    async def test_pages_follow_one_another_both_ways(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch([new_task(seq) for seq in range(2, 21, 2)]))
        assert await seqs_of_page(store, Query(), None, 3) == [2, 4, 6]
        assert await seqs_of_page(store, Query(), 6, 3) == [8, 10, 12]
        assert await seqs_of_page(store, Query(), 7, 3) == [8, 10, 12]
        assert await seqs_of_page(store, Query(), 18, 3) == [20]
        assert await seqs_of_page(store, Query(), 20, 3) == []
        backwards = Query(newest_first=True)
        assert await seqs_of_page(store, backwards, None, 3) == [20, 18, 16]
        assert await seqs_of_page(store, backwards, 16, 3) == [14, 12, 10]
        assert await seqs_of_page(store, backwards, 2, 3) == []
        await store.close()

    async def test_a_page_ends_after_the_record_that_reaches_its_bytes(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        large = [
            new_task(1, body=b"b" * 1000),
            new_task(2, body=b"", at=standing(Status.COMPLETED, result="r" * 1000)),
            new_task(3, body=b"", at=standing(Status.ERROR, failure=Failure(FailureKind.HANDLER, "m" * 1000))),
            new_task(4, body=b"b" * 1000),
        ]
        await store.commit(Batch(large))

        async def seqs(bytes_max: int, after: int | None = None) -> list[int]:
            return [record.seq for record in await store.page(Query(), after, 1000, bytes_max)]

        assert await seqs(1) == [1]
        assert await seqs(1000) == [1]
        assert await seqs(1001) == [1, 2]
        assert await seqs(3000) == [1, 2, 3]
        assert await seqs(1 << 20) == [1, 2, 3, 4]
        assert await seqs(1, after=1) == [2]
        assert await seqs(1, after=3) == [4]
        await store.close()

    async def test_a_page_of_short_bodies_is_not_cut_by_what_does_not_count(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        # Attempts are no part of the sum.
        await store.commit(Batch([new_task(seq, body=b"x", at=standing()) for seq in range(1, 101)]))
        assert len(await store.page(Query(), None, 1000, 100)) == 100
        assert len(await store.page(Query(), None, 1000, 50)) == 50
        await store.close()

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            (Query(), {1, 2, 3, 4, 5}),
            (Query(statuses=frozenset({Status.PENDING})), {1, 5}),
            (Query(statuses=frozenset({Status.PENDING, Status.RUNNING})), {1, 2, 5}),
            (Query(statuses=frozenset({Status.RUNNING, Status.COMPLETED})), {2, 3}),
            (Query(statuses=frozenset({Status.CANCELLED})), set()),
            (Query(statuses=frozenset(Status)), {1, 2, 3, 4, 5}),
            (Query(terms=(("id", "a.1", True),)), {1}),
            (Query(terms=(("id", "a.1", False),)), {2, 3, 4, 5}),
            (Query(terms=(("id", "A.1", True),)), set()),
            (Query(terms=(("queue", "fast", True),)), {1, 2}),
            (Query(terms=(("queue", "fast", False),)), {3, 4, 5}),
            (Query(terms=(("handler", "", True),)), {1, 4, 5}),
            (Query(terms=(("handler", "", False),)), {2, 3}),
            (Query(terms=(("priority", 3, True),)), {3}),
            (Query(terms=(("priority", 1, False),)), {2, 3}),
            (Query(terms=(("queue", "fast", True), ("handler", "resize", True))), {2}),
            (Query(terms=(("queue", "fast", True), ("queue", "slow", True))), set()),
            (Query(labels=(("team", "web", True),)), {1, 2}),
            (Query(labels=(("team", "web", False),)), {3, 4, 5}),
            (Query(labels=(("team", "", True),)), {3}),
            (Query(labels=(("team", "", False),)), {1, 2, 4, 5}),
            (Query(labels=(("unheard", "of", True),)), set()),
            (Query(labels=(("unheard", "of", False),)), {1, 2, 3, 4, 5}),
            (Query(labels=(("app.kubernetes.io/name", "x", True),)), {2}),
            (Query(labels=(('it\'s "quoted" $[0]', "\\", True),)), {4}),
            (Query(labels=(("team", "web", True), ("number", "1", True))), {1}),
            (Query(labels=(("number", "1", False), ("team", "web", True))), {2}),
            (Query(labels=(("number", "01", True),)), set()),
            (Query(id_prefixes=(("a.", True),)), {1, 2}),
            (Query(id_prefixes=(("a.", False),)), {3, 4, 5}),
            (Query(id_prefixes=(("A.", True),)), set()),
            (Query(id_prefixes=(("%", True),)), set()),
            (Query(id_prefixes=(("_", True),)), set()),
            (Query(id_prefixes=(("a*", True),)), set()),
            (Query(id_prefixes=(("b%_", True),)), {3}),
            (Query(id_prefixes=(("b[*?]", True),)), {4}),
            (Query(id_prefixes=(("ünï", True),)), {5}),
            (Query(id_prefixes=(("", True),)), {1, 2, 3, 4, 5}),
            (Query(id_prefixes=(("a.", True), ("a.1", False))), {2}),
            (
                Query(
                    frozenset({Status.PENDING}), (("queue", "fast", True),), (("team", "web", True),), (("a", True),)
                ),
                {1},
            ),
            (Query(terms=(("id", "x' OR '1'='1", True),)), set()),
        ],
        ids=lambda value: None,
    )
    async def test_a_page_has_what_every_condition_selects(
        self, open_store: StoreFactory, query: Query, expected: set[int]
    ) -> None:
        store = open_store()
        await store.open()
        await store.commit(
            Batch(
                [
                    new_task(1, "a.1", queue="fast", labels={"team": "web", "number": "1"}),
                    new_task(
                        2,
                        "a.2",
                        queue="fast",
                        handler="resize",
                        priority=2,
                        at=standing(Status.RUNNING),
                        labels={"team": "web", "app.kubernetes.io/name": "x"},
                    ),
                    new_task(
                        3,
                        "b%_3",
                        queue="slow",
                        handler="mail",
                        priority=3,
                        at=standing(Status.COMPLETED),
                        labels={"team": ""},
                    ),
                    new_task(
                        4, "b[*?]4", queue="slow", at=standing(Status.ERROR), labels={'it\'s "quoted" $[0]': "\\"}
                    ),
                    new_task(5, "ünïcödé 5", queue="slow"),
                ]
            )
        )
        found = await seqs_of_page(store, query)
        assert found == sorted(expected)
        newest_first = Query(query.statuses, query.terms, query.labels, query.id_prefixes, newest_first=True)
        assert await seqs_of_page(store, newest_first) == sorted(expected, reverse=True)
        assert await seqs_of_page(store, query, after=2) == sorted(seq for seq in expected if seq > 2)
        assert await seqs_of_page(store, query, limit=1) == sorted(expected)[:1]
        await store.close()

    async def test_a_page_follows_moves(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch([new_task(1), new_task(2)]))
        await store.commit(Batch(moves=[MovedTask(1, 2, standing(Status.COMPLETED))]))
        assert await seqs_of_page(store, Query(statuses=frozenset({Status.PENDING}))) == [2]
        assert await seqs_of_page(store, Query(statuses=frozenset({Status.COMPLETED}))) == [1]
        await store.close()

    async def test_changed_since_gives_whole_batches_in_their_order(self, open_store: StoreFactory) -> None:
        store = open_store()
        _, term = store, (await store.open()).term
        numbers = [changed_number(term, batch) for batch in range(1, 5)]
        await store.commit(Batch([new_task(seq, changed=numbers[0]) for seq in (3, 1, 2)]))
        await store.commit(
            Batch([new_task(4, changed=numbers[1])], [MovedTask(2, numbers[1], standing(Status.RUNNING))])
        )
        await store.commit(Batch([new_task(5, changed=numbers[2])]))
        await store.commit(Batch(moves=[MovedTask(1, numbers[3], FULL_STANDING)]))

        async def since(changed: int, limit: int) -> list[tuple[int, int]]:
            return [(record.changed, record.seq) for record in await store.changed_since(changed, limit)]

        everything = [(numbers[0], 3), (numbers[1], 2), (numbers[1], 4), (numbers[2], 5), (numbers[3], 1)]
        assert await since(0, 100) == everything
        assert await since(0, 1) == everything[:1]
        assert await since(numbers[0], 1) == everything[1:3]
        assert await since(0, 2) == everything[:3]
        assert await since(numbers[1], 2) == everything[3:]
        assert await since(numbers[3], 100) == []
        await store.close()

    async def test_counts_are_by_queue_handler_and_status(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        await store.commit(
            Batch(
                [new_task(seq, queue="q", handler="h") for seq in range(1, 4)]
                + [new_task(4, queue="q", handler='h"2'), new_task(5, queue="p", handler="h")]
            )
        )
        await store.commit(Batch(moves=[MovedTask(1, 2, standing(Status.COMPLETED))]))
        assert dict(await store.counts()) == {
            ("q", "h", Status.PENDING): 2,
            ("q", "h", Status.COMPLETED): 1,
            ("q", 'h"2', Status.PENDING): 1,
            ("p", "h", Status.PENDING): 1,
        }
        await store.close()

    async def test_readings_go_on_beside_commits(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch([new_task(seq) for seq in range(1, 101)]))

        async def commits() -> None:
            for changed in range(2, 30):
                moves = [
                    MovedTask(seq, changed, standing(Status.RUNNING, result=str(changed))) for seq in range(1, 101)
                ]
                await store.commit(Batch(moves=moves))

        async def readings(committing: asyncio.Task[None]) -> None:
            while not committing.done():
                for found in (
                    await store.page(Query(), None, 1000, ALL_BYTES),
                    await store.changed_since(0, 1),
                ):
                    # One moment's view: a batch is seen whole or not at all.
                    assert len(found) == 100
                    assert len({record.changed for record in found}) == 1
                assert len(await store.load([f"task-{seq}" for seq in range(1, 101)])) == 100

        async with asyncio.TaskGroup() as group:
            group.create_task(readings(group.create_task(commits())))
        await store.close()


#: Tasks of each batch that the killed process commits.
_KILLED_BATCH_TASKS = 40


def commit_until_killed(url: str) -> None:
    """Commits batches for ever and prints each one's number after it has returned. Runs in a process that is killed."""

    async def run() -> None:
        store = registry.open_store(url)
        opened = await store.open()
        print(f"term {opened.term}", flush=True)  # noqa: T201 - this is how the test hears of it.
        number, first, before = 0, opened.next_seq, 0
        while True:
            number += 1
            changed = changed_number(opened.term, number)
            inserts = [
                new_task(first + place, f"{opened.term}-{number}-{place}", changed=changed)
                for place in range(_KILLED_BATCH_TASKS)
            ]
            moves = [
                MovedTask(before + place, changed, standing(Status.COMPLETED))
                for place in range(_KILLED_BATCH_TASKS if before else 0)
            ]
            await store.commit(Batch(inserts, moves))
            print(number, flush=True)  # noqa: T201
            before, first = first, first + _KILLED_BATCH_TASKS

    asyncio.run(run())


@pytest.mark.asyncio
class DurabilityConformance(_Fixtures):
    """What a process has been told is there after it was killed."""

    async def test_every_commit_that_returned_survives_sigkill_and_none_is_half_there(
        self, store_url: str, open_store: StoreFactory
    ) -> None:
        terms: list[int] = []
        #: The last batch of each term that has returned.
        returned: dict[int, int] = {}
        for batches in (1, 25, 60):
            term, last = _kill_after(store_url, batches)
            terms.append(term)
            returned[term] = last
        store = open_store()
        opened = await store.open()
        assert sorted({*terms, opened.term}) == [*terms, opened.term]
        for term, last in returned.items():
            found = await store.page(Query(id_prefixes=((f"{term}-", True),)), None, 1_000_000, ALL_BYTES)
            tasks = {record.id: record for record in found}
            batches_found = len(tasks) // _KILLED_BATCH_TASKS
            # The one that was in flight may be there or not.
            assert last <= batches_found <= last + 1
            expected = {
                f"{term}-{n}-{place}" for n in range(1, batches_found + 1) for place in range(_KILLED_BATCH_TASKS)
            }
            assert set(tasks) == expected
            for task_id, record in tasks.items():
                newest = int(task_id.split("-")[1]) == batches_found
                assert record.standing.status is (Status.PENDING if newest else Status.COMPLETED), task_id
        assert opened.next_seq > max(record.seq for record in await store.page(Query(newest_first=True), None, 1, 1))
        await store.close()

    async def test_another_process_is_refused_and_let_in_once_the_first_was_killed(
        self, store_url: str, open_store: StoreFactory
    ) -> None:
        with _committing(store_url) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("term ")
            with pytest.raises(StoreLockedError, match=str(process.pid)):
                await open_store().open()
            process.kill()
            process.wait()
        store = open_store()
        await store.open()
        await store.close()


def _committing(url: str) -> subprocess.Popen[str]:
    code = f"from {__name__} import commit_until_killed; commit_until_killed({url!r})"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def _kill_after(url: str, batches: int) -> tuple[int, int]:
    """Kills a committing process after so many batches; answers its term and the last batch that it has told of."""
    with _committing(url) as process:
        assert process.stdout is not None
        term = int(process.stdout.readline().removeprefix("term "))
        for _ in range(batches):
            assert process.stdout.readline()
        process.kill()
        # What it printed before it died counts too; a line without its end does not.
        told = [line for line in process.stdout.readlines() if line.endswith("\n")]
        return term, int(told[-1]) if told else batches
