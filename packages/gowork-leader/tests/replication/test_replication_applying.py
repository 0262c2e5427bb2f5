"""How a store goes on that has no room for some entries, and which entries it never applies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from memory_store import MemoryStore, Shelf
from replication_leader import VALUE_BYTES, LoneLeader

from gowork.leader._replication import replica as replicas
from gowork.leader._replication import weight as weights
from gowork.leader._replication.replica import Replica
from gowork.leader._replication.weight import Weight
from gowork.leader.log import LogEntry
from gowork.leader.log.entries import NO_HASH, ChainError, Kind, seal
from gowork.leader.store import Batch, Position, StoreBlockedError, StoreFullError
from gowork.leader.store.batches import encode_batch


class NarrowStore(MemoryStore):
    """A store that has room for some entries only."""

    def __init__(self) -> None:
        super().__init__(Shelf(), "two")
        self.room = 0
        self.applied: list[int] = []

    async def apply(self, entries: Sequence[tuple[Batch | None, Position, int]]) -> None:
        if entries[-1][1].index > self.room:
            raise StoreFullError("full")
        await super().apply(entries)
        self.applied += [position.index for _, position, _ in entries]


async def follower(leader: LoneLeader) -> tuple[NarrowStore, Replica]:
    """A store that stands where the log of this leader begins."""
    store = NarrowStore()
    generation = await leader.log.generation()
    assert generation is not None
    await store.open_logged(generation.id)
    await store.join_log(Position(generation.id, 0, NO_HASH), 0)
    return store, Replica(store, await store.current())


@pytest.fixture
async def leader() -> LoneLeader:
    leader = LoneLeader()
    await leader.lead()
    return leader


async def test_entries_that_there_was_no_room_for_are_applied_once_when_there_is(
    leader: LoneLeader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "BLOCK_BYTES", 1)
    await leader.write(1)
    # A check ends a transaction. So some entries of a page are applied, and those after it are not.
    check = await leader.journal.check()
    await leader.write(2)
    store, replica = await follower(leader)
    store.room = check
    told: list[StoreBlockedError | None] = []
    following = asyncio.ensure_future(replica.follow(leader.log, told_blocked=told.append))
    await asyncio.sleep(2.5 * replicas.BLOCKED_RETRY_SECONDS)
    assert isinstance(replica.blocked, StoreFullError)
    assert (store.applied, replica.position.index) == ([1, 2, 3], check)
    # What was not applied does not count: nothing would be forced, and the log could be pruned of it.
    assert VALUE_BYTES < replica._weight.passed < 2 * VALUE_BYTES
    assert None not in told
    store.room = leader.span.last
    await asyncio.sleep(replicas.BLOCKED_RETRY_SECONDS)
    assert store.applied == [1, 2, 3, 4, 5]
    # It stands for election again, and is ready.
    assert replica.blocked is None
    assert told[-1] is None
    following.cancel()
    await asyncio.wait({following})


async def test_an_entry_of_an_earlier_term_than_the_one_before_is_refused(leader: LoneLeader) -> None:
    store, replica = await follower(leader)
    store.room = 10
    first, position = seal(replica.position, 2, Kind.BATCH, encode_batch(Batch()), b"12345678")
    second, _ = seal(position, 1, Kind.BATCH, encode_batch(Batch()), b"12345678")
    await replica.apply([LogEntry(1, first)])
    with pytest.raises(ChainError, match="entry 2 of the log has term 1, after one of term 2"):
        await replica.apply([LogEntry(2, second)])
    assert replica.position.index == 1


async def test_what_a_leader_appends_counts_like_what_it_has_followed(leader: LoneLeader) -> None:
    counted: Weight = leader.weight
    before = counted.passed
    await leader.write(2)
    assert counted.last == leader.span.last
    assert 2 * VALUE_BYTES < counted.passed - before < 3 * VALUE_BYTES
