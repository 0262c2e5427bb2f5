"""A store lists the tasks that a query selects."""

from __future__ import annotations

import asyncio

import pytest

from gowork.leader._core.model import Failure, FailureKind, Status
from gowork.leader.store.conformance.kit import (
    ALL_BYTES,
    FULL_STANDING,
    Fixtures,
    StoreFactory,
    new_task,
    seqs_of_page,
    standing,
)
from gowork.leader.store.protocol import (
    Batch,
    DeletedTask,
    MovedTask,
    Query,
    changed_number,
)


@pytest.mark.asyncio
class QueryConformance(Fixtures):
    """Pages, changes and counts."""

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
        # Attempts do not count for the sum.
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

    async def test_children_of_a_group_are_counted_by_their_ids_and_seqs(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        ids = ["g/old", "g", "g/0", "g/1", "g/0/0", "g0", "g/", "gg/0", "/g/0", "g/%_ü", "g/2"]
        await store.commit(Batch([new_task(seq, id) for seq, id in enumerate(ids, 1)]))
        await store.commit(
            Batch(
                moves=[
                    MovedTask(3, 2, standing(Status.COMPLETED)),
                    MovedTask(4, 2, standing(Status.ERROR)),
                    MovedTask(5, 2, standing(Status.COMPLETED)),
                ]
            )
        )
        assert await store.children([("g", 2)]) == [{Status.COMPLETED: 1, Status.ERROR: 1, Status.PENDING: 3}]
        assert await store.children([("g", 0)]) == [{Status.COMPLETED: 1, Status.ERROR: 1, Status.PENDING: 4}]
        assert await store.children([("g/0", 3)]) == [{Status.COMPLETED: 1}]
        assert await store.children([("g", 11)]) == [{}]
        assert await store.children([("x", 0), ("g/0", 3)]) == [{}, {Status.COMPLETED: 1}]
        assert await store.children([]) == []
        assert await store.children([("x", 0)]) == [{}]
        await store.commit(Batch(deletes=[DeletedTask(3, "g/0", 3)]))
        assert await store.children([("g", 2)]) == [{Status.ERROR: 1, Status.PENDING: 3}]
        await store.close()

    async def test_children_are_counted_wherever_their_ids_are(self, open_store: StoreFactory) -> None:
        """Many tasks, because a store may keep the ids of the latest ones elsewhere."""
        store = open_store()
        await store.open()
        count = 0
        for batch in range(30):
            seqs = range(1 + 5_000 * batch, 5_001 + 5_000 * batch)
            # In no order, so that they can't be appended to an index.
            ids = [f"{'gh'[seq % 2]}/{seq * 7919 % 200_003}" for seq in seqs]
            count += sum(id.startswith("g/") for id in ids)
            await store.commit(Batch([new_task(seq, id) for seq, id in zip(seqs, ids, strict=True)]))
        assert await store.children([("g", 0)]) == [{Status.PENDING: count}]
        assert await store.children([("g", 75_000)]) == [{Status.PENDING: count // 2}]
        await store.close()
        store = open_store()
        await store.open()
        assert await store.children([("g", 0)]) == [{Status.PENDING: count}]
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
                    # A read sees one moment: each batch whole or not at all.
                    assert len(found) == 100
                    assert len({record.changed for record in found}) == 1
                assert len(await store.load([f"task-{seq}" for seq in range(1, 101)])) == 100

        async with asyncio.TaskGroup() as group:
            group.create_task(readings(group.create_task(commits())))
        await store.close()
