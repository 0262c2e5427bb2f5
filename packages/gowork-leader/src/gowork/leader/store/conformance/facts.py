"""A store returns facts by kind and key as they were last put, and writes them with the rest of their batch."""

from __future__ import annotations

import pytest

from gowork.leader._core.kinds import KINDS, MEMBERS, QUEUES, Member
from gowork.leader._core.model import Fact, FactKey, QueueSettings, Status
from gowork.leader.store.conformance.kit import (
    ALL_BYTES,
    Fixtures,
    Reopened,
    StoreFactory,
    facts_of,
    new_task,
    seqs_of_page,
    standing,
)
from gowork.leader.store.protocol import (
    FACT_KEY_BYTES_MAX,
    FACT_VALUE_BYTES_MAX,
    Batch,
    DeletedTask,
    MovedTask,
    Query,
    StoreError,
)

_FULL_SETTINGS = QueueSettings(
    paused=True, weight=3, concurrency_limit=4, key_concurrency_limit=5, rate_limit=0.5, rate_burst=6
)
#: {kind: two values}, for a kind that no leader has and for every kind that this leader has.
VALUES = {
    "a-kind-to-come": (b"", bytes(range(256))),
    MEMBERS.name: (MEMBERS.encode(Member("a:1", 1)), MEMBERS.encode(Member("[::1]:40041", 1_761_900_000_000))),
    QUEUES.name: (QUEUES.encode(QueueSettings(weight=2)), QUEUES.encode(_FULL_SETTINGS)),
}


@pytest.mark.asyncio
class FactConformance(Fixtures):
    """Small records beside the tasks."""

    @pytest.fixture(params=[*VALUES, *(kind.name for kind in KINDS if kind.name not in VALUES)])
    def kind(self, request: pytest.FixtureRequest) -> str:
        """Kinds of facts."""
        return str(request.param)

    @pytest.fixture
    def values(self, kind: str) -> tuple[bytes, bytes]:
        """Two values of this kind."""
        return VALUES.get(kind, VALUES["a-kind-to-come"])

    async def test_a_fact_comes_back_as_it_was_put_last_also_after_reopening(
        self, open_store: StoreFactory, kind: str, values: tuple[bytes, bytes]
    ) -> None:
        first, second = values
        reopen = Reopened(open_store)
        store, _ = await reopen()
        await store.commit(Batch(facts=[Fact(kind, key, first) for key in ("c", "a", "b")]))
        await store.commit(Batch(facts=[Fact(kind, "a", second), Fact(kind, "d", second)]))
        for _ in range(2):
            assert await facts_of(store, kind) == {"a": second, "b": first, "c": first, "d": second}
            store, _ = await reopen()
        await reopen.close()

    async def test_a_removed_fact_is_gone_and_unknown_ones_are_left_out(
        self, open_store: StoreFactory, kind: str, values: tuple[bytes, bytes]
    ) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        await store.commit(Batch(facts=[Fact(kind, key, values[0]) for key in ("a", "b", "ünï 'x'")]))
        await store.commit(Batch(facts_gone=[FactKey(kind, key) for key in ("b", "nobody", "ünï 'x'")]))
        for _ in range(2):
            assert await facts_of(store, kind) == {"a": values[0]}
            store, _ = await reopen()
        await reopen.close()

    async def test_what_goes_and_comes_in_one_batch_is_there(
        self, open_store: StoreFactory, kind: str, values: tuple[bytes, bytes]
    ) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch(facts=[Fact(kind, "a", values[0])]))
        await store.commit(Batch(facts=[Fact(kind, "a", values[1])], facts_gone=[FactKey(kind, "a")]))
        assert await facts_of(store, kind) == {"a": values[1]}
        await store.close()

    async def test_facts_come_in_the_order_of_their_keys_page_by_page(
        self, open_store: StoreFactory, kind: str, values: tuple[bytes, bytes]
    ) -> None:
        store = open_store()
        await store.open()
        keys = ["Z", "a", "a b", "a1", "a10", "a2", "ab", "é", "任务", "🙂"]
        await store.commit(Batch(facts=[Fact(kind, key, values[0]) for key in reversed(keys)]))
        found: list[str] = []
        while page := await store.facts(kind, found[-1] if found else "", 3, ALL_BYTES):
            assert len(page) <= 3
            found += [fact.key for fact in page]
        assert found == keys
        assert [fact.key for fact in await store.facts(kind, "a1", 2, ALL_BYTES)] == ["a10", "a2"]
        # A key that is not there has its place in the order too.
        assert [fact.key for fact in await store.facts(kind, "aa", 2, ALL_BYTES)] == ["ab", "é"]
        await store.close()

    async def test_a_page_of_facts_ends_with_the_one_that_takes_it_to_its_bytes(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        await store.commit(Batch(facts=[Fact("k", f"{n}", b"x" * 100) for n in range(9)]))
        for bytes_max, count in ((0, 1), (1, 1), (100, 1), (101, 2), (250, 3), (10_000, 9)):
            assert len(await store.facts("k", "", 10, bytes_max)) == count
        # A page that ended at its bytes holds up no commit.
        await store.commit(Batch(facts=[Fact("k", "9", b"")]))
        assert len(await facts_of(store, "k")) == 10
        await store.close()

    async def test_kinds_are_apart(self, open_store: StoreFactory) -> None:
        store = open_store()
        await store.open()
        for kind, (first, _) in VALUES.items():
            await store.commit(Batch(facts=[Fact(kind, "same", first), Fact(kind, kind, first)]))
        await store.commit(Batch(facts_gone=[FactKey("a-kind-to-come", "same")]))
        for kind, (first, _) in VALUES.items():
            kept = {kind: first} if kind == "a-kind-to-come" else {"same": first, kind: first}
            assert await facts_of(store, kind) == kept
        assert await store.facts("unheard of", "", 10, ALL_BYTES) == []
        await store.close()

    async def test_keys_and_values_may_be_as_large_as_their_bounds(self, open_store: StoreFactory) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        keys = ["k" * FACT_KEY_BYTES_MAX, "ü" * (FACT_KEY_BYTES_MAX // 2), '"quoted" \\ %_*?[x]']
        value = bytes(range(256)) * (FACT_VALUE_BYTES_MAX // 256)
        await store.commit(Batch(facts=[Fact("k", key, value) for key in keys]))
        store, _ = await reopen()
        assert await facts_of(store, "k") == dict.fromkeys(keys, value)
        await store.commit(Batch(facts_gone=[FactKey("k", key) for key in keys]))
        assert await facts_of(store, "k") == {}
        await reopen.close()

    async def test_many_facts_are_put_and_removed_in_one_batch(
        self, open_store: StoreFactory, kind: str, values: tuple[bytes, bytes]
    ) -> None:
        store = open_store()
        await store.open()
        keys = [f"key-{number:05}" for number in range(10_000)]
        await store.commit(Batch(facts=[Fact(kind, key, values[0]) for key in keys]))
        await store.commit(
            Batch(
                facts=[Fact(kind, key, values[1]) for key in keys[5_000:]],
                facts_gone=[FactKey(kind, key) for key in keys[:5_000]],
            )
        )
        assert await facts_of(store, kind) == dict.fromkeys(keys[5_000:], values[1])
        await store.close()

    async def test_facts_and_tasks_of_one_batch_are_there_together(
        self, open_store: StoreFactory, kind: str, values: tuple[bytes, bytes]
    ) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        await store.commit(Batch([new_task(1), new_task(2)], facts=[Fact(kind, "m1", values[0])]))
        await store.commit(
            Batch(
                [new_task(3, changed=2)],
                [MovedTask(1, 2, standing(Status.RUNNING))],
                deletes=[DeletedTask(2, "task-2", 2)],
                facts=[Fact(kind, "m2", values[1])],
                facts_gone=[FactKey(kind, "m1")],
            )
        )
        for _ in range(2):
            assert await seqs_of_page(store, Query(statuses=frozenset({Status.RUNNING}))) == [1]
            assert await seqs_of_page(store, Query()) == [1, 3]
            assert await facts_of(store, kind) == {"m2": values[1]}
            store, _ = await reopen()
        await reopen.close()

    async def test_facts_of_a_batch_that_is_refused_are_not_there(
        self, open_store: StoreFactory, kind: str, values: tuple[bytes, bytes]
    ) -> None:
        reopen = Reopened(open_store)
        store, _ = await reopen()
        await store.commit(Batch([new_task(1)], facts=[Fact(kind, "a", values[0])]))
        for contradiction in (
            Batch([new_task(1, "another")], facts=[Fact(kind, "b", values[1])], facts_gone=[FactKey(kind, "a")]),
            Batch(deletes=[DeletedTask(9, "task-9", 2)], facts=[Fact(kind, "a", values[1])]),
        ):
            with pytest.raises(StoreError):
                await store.commit(contradiction)
        for _ in range(2):
            assert await facts_of(store, kind) == {"a": values[0]}
            store, _ = await reopen()
        await reopen.close()
