"""What a leader commits is in the log first and then in its store, and what it lets out is confirmed (LOG-FIRST)."""

from __future__ import annotations

import asyncio

import pytest
from memory_log import LEASE_SECONDS, Doubt, MemoryLeadership, MemoryLog, MemoryPlace
from memory_store import MemoryStore, Shelf

from gowork.leader._core.model import Position
from gowork.leader._replication.candidacy import join
from gowork.leader._replication.journal import LogBlockedError, LoggedJournal
from gowork.leader._replication.replica import Replica, TermBegun, encode_term
from gowork.leader.log import Candidate, LeadershipLostError, LogError, LogFullError, LogRefusedError
from gowork.leader.log.entries import Kind, unseal
from gowork.leader.store import Batch, Fact, StoreError, StoreFullError
from gowork.leader.store.batches import encode_batch

BEGUN = encode_term(TermBegun(b"one", 5, "1.0"))


class Place:
    """A leader on a store in memory and a log in memory, before its term has begun."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.store = MemoryStore(self.shelf, "one")
        self.log = MemoryLog(MemoryPlace())

    async def lead(self) -> LoggedJournal:
        opened = await join(self.store, await self.store.open_logged(None), self.log)
        assert opened is not None
        assert opened.position is not None
        self.replica = Replica(self.store, opened)
        candidate = Candidate(opened.position.generation, opened.position.index, opened.term, b"one")
        self.leadership = await self.log.campaign(candidate)
        return LoggedJournal(self.store, self.replica, self.leadership, BEGUN)

    async def facts(self) -> list[str]:
        return [fact.key for fact in await self.store.facts("notes", "", 100, 1 << 20)]

    async def position(self) -> Position:
        position = (await self.store.current()).position
        assert position is not None
        return position

    @property
    def entries(self) -> dict[int, bytes]:
        return self.log.place.entries


def batch(key: str) -> Batch:
    return Batch(facts=[Fact("notes", key, b"value")])


@pytest.fixture
def place() -> Place:
    return Place()


async def test_a_term_begins_with_an_entry_that_names_who_leads_and_the_store_gets_the_term(place: Place) -> None:
    journal = await place.lead()
    before = place.replica.position
    opened = await journal.open()
    assert opened.term == place.leadership.leader.term == 1
    entry, position = unseal(before, 1, place.entries[1])
    assert (entry.kind, entry.term, entry.body) == (Kind.TERM, 1, BEGUN)
    assert opened.position == position == await place.position()


async def test_a_batch_is_an_entry_with_the_same_batch(place: Place) -> None:
    journal = await place.lead()
    after_term = (await journal.open()).position
    assert after_term is not None
    await journal.commit(batch("a"))
    entry, position = unseal(after_term, 2, place.entries[2])
    assert (entry.kind, entry.term, entry.body) == (Kind.BATCH, 1, encode_batch(batch("a")))
    assert await place.position() == position
    assert await place.facts() == ["a"]


async def test_the_store_has_nothing_that_the_log_has_not_yet(place: Place) -> None:
    journal = await place.lead()
    await journal.open()
    place.log.is_cut = True
    committing = asyncio.ensure_future(journal.commit(batch("a")))
    await asyncio.sleep(LEASE_SECONDS / 3)
    assert not committing.done()
    assert await place.facts() == []
    place.log.is_cut = False
    await committing
    assert await place.facts() == ["a"]


@pytest.mark.parametrize("doubt", Doubt)
async def test_after_a_lost_append_the_store_is_as_it_was_and_follows_the_log(place: Place, doubt: Doubt) -> None:
    journal = await place.lead()
    await journal.open()
    before = await place.position()
    place.log.doubt, place.log.is_silent = doubt, True
    with pytest.raises(LeadershipLostError):
        await journal.commit(batch("a"))
    assert not journal.leads()
    assert await place.position() == before
    assert await place.facts() == []
    await journal.close()
    await place.replica.follow(place.log, place.log.place.span.last)
    assert await place.facts() == (["a"] if doubt is Doubt.WRITTEN else [])


async def test_nothing_is_committed_or_confirmed_after_the_leadership(place: Place) -> None:
    journal = await place.lead()
    await journal.open()
    await journal.resign()
    assert not journal.leads()
    for call in (journal.commit(batch("a")), journal.confirm()):
        with pytest.raises(LeadershipLostError):
            await call
    assert await place.facts() == []
    assert place.log.place.leader()[0] is None


async def test_what_the_store_refuses_never_gets_into_the_log(place: Place) -> None:
    journal = await place.lead()
    await journal.open()

    async def refuse(*_: object) -> None:
        raise StoreError("it contradicts the store")

    place.store.prepare = refuse  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreError, match="contradicts"):
        await journal.commit(batch("a"))
    assert list(place.entries) == [1]


@pytest.mark.parametrize("error", [LogFullError, LogRefusedError])
async def test_a_log_that_is_full_or_refuses_takes_the_same_batch_later(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: type[LogError]
) -> None:
    journal = await place.lead()
    await journal.open()
    append = MemoryLeadership.append

    async def full(*_: object) -> None:
        raise error("etcd has used up its quota")

    monkeypatch.setattr(MemoryLeadership, "append", full)
    with pytest.raises(LogBlockedError, match="used up its quota"):
        await journal.commit(batch("a"))
    assert journal.leads()
    assert await place.facts() == []
    monkeypatch.setattr(MemoryLeadership, "append", append)
    await journal.commit(batch("a"))
    assert await place.facts() == ["a"]


async def test_a_batch_that_became_durable_after_the_own_lease_counts_and_is_told_to_nobody(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await place.lead()
    await journal.open()
    append = MemoryLeadership.append

    async def slow(self: MemoryLeadership, index: int, data: bytes) -> None:
        await append(self, index, data)
        place.log.lose_lease()

    monkeypatch.setattr(MemoryLeadership, "append", slow)
    with pytest.raises(LeadershipLostError, match="while its last batch became durable"):
        await journal.commit(batch("a"))
    assert await place.facts() == ["a"]
    assert place.replica.position == await place.position()


async def test_a_cancelled_commit_leaves_nothing_prepared(place: Place) -> None:
    journal = await place.lead()
    await journal.open()
    place.log.is_cut = True
    committing = asyncio.ensure_future(journal.commit(batch("a")))
    await asyncio.sleep(LEASE_SECONDS / 3)
    committing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await committing
    await journal.close()
    place.log.is_cut = False
    await place.store.apply([])
    assert await place.facts() == []


async def test_a_batch_that_the_store_has_no_room_for_after_the_log_has_it_counts_and_ends_the_term(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await place.lead()
    await journal.open()
    before = await place.position()

    async def full() -> None:
        await place.store.give_up()
        raise StoreFullError("There is no space left.")

    with monkeypatch.context() as patched:
        patched.setattr(place.store, "settle", full)
        # A batch that may be tried again would be in the log twice.
        with pytest.raises(LeadershipLostError, match="entry, 2, is in the log alone"):
            await journal.commit(batch("a"))
    assert await place.position() == before == place.replica.position
    await place.replica.follow(place.log, 2)
    assert await place.facts() == ["a"]
