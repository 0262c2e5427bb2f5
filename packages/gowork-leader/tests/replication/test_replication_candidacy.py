"""Who joins a log, who is elected, and what a leader has applied before it leads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from memory_log import LEASE_SECONDS, MemoryLog, MemoryPlace
from memory_store import MemoryStore, Shelf

from gowork.leader._core.model import Position
from gowork.leader._replication.candidacy import LAG_FULL, LAG_WAIT_SECONDS, Candidacy, join
from gowork.leader._replication.gathering import GATHER_SECONDS
from gowork.leader._replication.journal import LoggedJournal
from gowork.leader.log import (
    Candidate,
    Generation,
    Leader,
    Leadership,
    LogDamagedError,
    LogEntry,
    LogRefusedError,
    LogUnreachableError,
    Span,
)
from gowork.leader.log.entries import NO_HASH, ChainError
from gowork.leader.store import Batch, Fact, Opened, StoreBlockedError, StoreEntryError, StoreError, StoreFullError
from gowork.leader.store.conformance.kit import new_task

PATIENCE = 1_000.0


def batch(key: str) -> Batch:
    return Batch(facts=[Fact("notes", key, b"value")])


class House:
    """Leaders that share a log, each with a store of its own."""

    def __init__(self) -> None:
        self.place = MemoryPlace()
        self.shelf = Shelf()
        self.logs: dict[str, MemoryLog] = {}
        self.stores: dict[str, MemoryStore] = {}

    async def opened(self, name: str) -> Opened:
        """Opens the store of this name with the log."""
        self.logs[name] = MemoryLog(self.place)
        self.stores[name] = MemoryStore(self.shelf, name)
        generation = self.place.generation
        return await self.stores[name].open_logged(generation.id if generation else None)

    async def joined(self, name: str) -> Opened | None:
        opened = await self.opened(name)
        return await join(self.stores[name], opened, self.logs[name])

    async def copied(self, name: str, source: str) -> None:
        """Makes a store as a copy of another one, and opens it."""
        content = self.shelf.contents[source]
        opened = await self.opened(name)
        await self.stores[name].join_log(content.position or Position("", 0, NO_HASH), opened.term)
        self.shelf.contents[name] = self.shelf.contents[source]

    def candidacy(
        self,
        name: str,
        told: list[Leader | None] | None = None,
        told_blocked: Callable[[StoreBlockedError | None], None] = lambda blocked: None,
    ) -> Candidacy:
        known: list[Leader | None] = [] if told is None else told

        def tell(leader: Leader | None, because: str) -> None:
            known.append(leader)

        return Candidacy(
            self.stores[name],
            self.logs[name],
            lambda _: name.encode(),
            "1.0",
            lambda: 7,
            tell,
            told_blocked=told_blocked,
        )

    def leads(self, name: str) -> bool:
        leader, _ = self.place.leader()
        return leader is not None and leader.announcement == name.encode()

    async def gathering(self, name: str, candidacy: Candidacy, journal: LoggedJournal) -> asyncio.Task[object]:
        """Has a candidate stand for election while it gathers entries, so that it applies them when it is elected."""
        electing = asyncio.ensure_future(candidacy.elected())
        await asyncio.sleep(2 * GATHER_SECONDS)
        for key in ("a", "b"):
            await journal.commit(batch(key))
            await asyncio.sleep(GATHER_SECONDS / 4)
        assert await self.facts(name) == ["a"]
        await journal.resign()
        await journal.close()
        return electing

    async def facts(self, name: str) -> list[str]:
        return [fact.key for fact in await self.stores[name].facts("notes", "", 100, 1 << 20)]


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with asyncio.timeout(PATIENCE):
        yield House()


async def elected(house: House, name: str) -> tuple[LoggedJournal, Leadership]:
    journal, leadership = await house.candidacy(name).elected()
    await journal.open()
    return journal, leadership


async def test_the_first_leader_begins_the_log_under_the_id_of_its_store(house: House) -> None:
    opened = await house.joined("one")
    assert opened is not None
    assert house.place.generation == Generation(opened.store_id, 0, 0)
    assert opened.position == Position(opened.store_id, 0, NO_HASH)


async def test_who_began_the_log_and_ended_before_it_noted_that_is_the_one_after_all(house: House) -> None:
    opened = await house.opened("one")
    await house.logs["one"].begin(Generation(opened.store_id, 0, opened.term), None)
    await house.stores["one"].close()
    joined = await house.joined("one")
    assert joined is not None
    assert joined.position == Position(opened.store_id, 0, NO_HASH)


async def test_a_store_with_tasks_of_its_own_moves_onto_a_new_log(house: House) -> None:
    store = MemoryStore(house.shelf, "one")
    opened = await store.open()
    await store.commit(batch("old"))
    await store.close()
    joined = await house.joined("one")
    assert joined is not None
    assert joined.term == opened.term
    assert house.place.generation == Generation(joined.store_id, 0, opened.term)
    assert await house.facts("one") == ["old"]
    _, leadership = await elected(house, "one")
    assert leadership.leader.term > opened.term


async def test_why_it_is_not_elected_is_not_logged_each_time(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await house.joined("one")
    candidacy = house.candidacy("one")
    for because in ("another leads", "another leads", "another leads", "it lags", "it lags"):
        candidacy._say_not_elected(because)
    told = [record.reason for record in caplog.records if record.message == "not elected"]  # type: ignore[attr-defined]
    assert told == ["another leads", "it lags"]


async def test_a_new_store_needs_a_copy_and_does_not_lead(house: House) -> None:
    await house.joined("one")
    assert await house.joined("two") is None


async def test_of_two_that_begin_a_log_at_once_one_needs_a_copy(house: House) -> None:
    opened = {name: await house.opened(name) for name in ("one", "two")}
    joined = await asyncio.gather(*(join(house.stores[name], opened[name], house.logs[name]) for name in opened))
    assert [each is None for each in joined].count(True) == 1


@pytest.mark.parametrize("content", [batch("old"), Batch([new_task(1)])], ids=["facts alone", "tasks"])
async def test_who_loses_the_race_to_begin_a_log_keeps_what_its_store_holds(house: House, content: Batch) -> None:
    store = MemoryStore(house.shelf, "two")
    await store.open()
    await store.commit(content)
    await store.close()
    before = house.shelf.contents["two"]
    opened = await house.opened("two")
    await house.joined("one")
    with pytest.raises(StoreError, match="is not empty"):
        await join(house.stores["two"], opened, house.logs["two"])
    assert house.shelf.contents["two"] is before


async def test_a_store_of_another_log_is_refused_and_both_are_named(house: House) -> None:
    joined = await house.joined("one")
    assert joined is not None
    await house.stores["one"].close()
    house.place.begin(Generation("another"), joined.store_id)
    with pytest.raises(StoreError, match=f"{joined.store_id}.*another"):
        await house.joined("one")


async def test_a_store_of_a_log_that_is_gone_is_refused(house: House) -> None:
    await house.joined("one")
    await elected(house, "one")
    await house.stores["one"].close()
    house.place = MemoryPlace()
    with pytest.raises(StoreError, match="has not begun"):
        await house.joined("one")


async def test_a_candidate_does_not_wait_because_of_entries_that_it_gathers(house: House) -> None:
    await house.joined("one")
    journal, leadership = await elected(house, "one")
    await house.copied("two", "one")
    candidacy = house.candidacy("two")
    electing = asyncio.ensure_future(candidacy.elected())
    await asyncio.sleep(2 * GATHER_SECONDS)
    keys = [str(number) for number in range(LAG_FULL)]
    for key in keys:
        await journal.commit(batch(key))
    await asyncio.sleep(GATHER_SECONDS / 4)
    assert candidacy.replica is not None
    assert candidacy.replica.come == house.place.span.last > candidacy.replica.position.index + LAG_FULL / 2
    loop = asyncio.get_running_loop()
    began = loop.time()
    await leadership.resign()
    journal, leadership = await electing
    assert loop.time() - began < LAG_WAIT_SECONDS / 2
    assert sorted(await house.facts("two")) == sorted(keys)


async def test_a_follower_applies_entries_as_they_come_and_is_told_who_leads(house: House) -> None:
    await house.joined("one")
    journal, leadership = await elected(house, "one")
    await house.copied("two", "one")
    told: list[Leader | None] = []
    following = asyncio.ensure_future(house.candidacy("two", told).elected())
    await journal.commit(batch("a"))
    await asyncio.sleep(LEASE_SECONDS / 3)
    assert await house.facts("two") == ["a"]
    assert told == [leadership.leader]
    assert not following.done()
    following.cancel()


async def test_who_takes_over_has_applied_all_of_the_log_before_it_leads(house: House) -> None:
    await house.joined("one")
    journal, first = await elected(house, "one")
    await house.copied("two", "one")
    for key in ("a", "b", "c"):
        await journal.commit(batch(key))
    await journal.resign()
    await journal.close()
    taking_over, leadership = await house.candidacy("two").elected()
    assert await house.facts("two") == ["a", "b", "c"]
    opened = await taking_over.open()
    assert opened.term == leadership.leader.term == first.leader.term + 1
    await taking_over.commit(batch("d"))
    assert await house.facts("two") == ["a", "b", "c", "d"]


async def test_an_entry_in_doubt_that_was_written_is_applied_by_its_own_author_when_that_leads_again(
    house: House,
) -> None:
    await house.joined("one")
    journal, _ = await elected(house, "one")
    committing = asyncio.ensure_future(journal.commit(batch("a")))
    # The entry is in the log, and the leader ends before its store has it.
    while len(house.place.entries) < 2:
        await house.place.change(LEASE_SECONDS)
    house.logs["one"].lose_lease()
    committing.cancel()
    await asyncio.wait({committing})
    await journal.close()
    again, _ = await elected(house, "one")
    assert await house.facts("one") == ["a"]
    await again.commit(batch("b"))
    assert await house.facts("one") == ["a", "b"]


async def test_who_loses_its_lease_before_it_has_read_the_end_of_the_log_follows_again(house: House) -> None:
    await house.joined("one")
    journal, _ = await elected(house, "one")
    await house.copied("two", "one")
    await journal.resign()
    await journal.close()
    span = house.logs["two"].span
    others: list[LoggedJournal] = []

    async def late_span() -> Span:
        if house.place.leader()[0] is None or others:
            return await span()
        # Its lease ends, and another leader is elected and appends before this one has its answer.
        house.logs["two"].lose_lease()
        await asyncio.sleep(LEASE_SECONDS)
        others.append((await elected(house, "one"))[0])
        await others[0].commit(batch("a"))
        return await span()

    house.logs["two"].span = late_span  # type: ignore[method-assign]
    candidate = asyncio.ensure_future(house.candidacy("two").elected())
    await asyncio.sleep(4 * LEASE_SECONDS)
    assert len(others) == 1
    assert not candidate.done()
    assert await house.facts("two") == ["a"]
    await others[0].resign()
    taking_over, leadership = await candidate
    await taking_over.open()
    assert leadership.leader.term == 4


async def test_who_is_elected_and_can_not_reach_the_log_stands_again(house: House) -> None:
    await house.joined("one")
    span = house.logs["one"].span
    failed: list[int] = []

    async def unreachable_once() -> Span:
        if house.place.leader()[0] is not None and not failed:
            failed.append(1)
            raise LogUnreachableError("no answer")
        return await span()

    house.logs["one"].span = unreachable_once  # type: ignore[method-assign]
    _, leadership = await elected(house, "one")
    assert failed
    assert leadership.leader.term == 2


async def test_a_candidate_that_looked_at_the_log_too_long_ago_looks_again(house: House) -> None:
    await house.joined("one")
    journal, _ = await elected(house, "one")
    await house.copied("two", "one")
    await journal.commit(batch("a"))
    await journal.commit(batch("b"))
    await journal.resign()
    await journal.close()
    follow = house.logs["two"].follow
    others: list[LoggedJournal] = []
    led_again = asyncio.Event()

    async def late(after: int) -> AsyncIterator[Sequence[LogEntry]]:
        if after == 1:
            # So it lags when it looks at the end of the log.
            await led_again.wait()
        elif not others:
            # Before it has read the last entry, another one leads, and all entries are applied and removed.
            again, leadership = await elected(house, "one")
            await again.commit(batch("c"))
            others.append(again)
            led_again.set()
            await asyncio.sleep(LEASE_SECONDS)
            assert await house.facts("two") == ["a", "b", "c"]
            await leadership.prune(house.place.span.last)
        async for page in follow(after):
            yield page

    house.logs["two"].follow = late  # type: ignore[assignment, method-assign]
    candidate = asyncio.ensure_future(house.candidacy("two").elected())
    await asyncio.sleep(4 * LEASE_SECONDS)
    assert others
    assert not candidate.done()
    await others[0].resign()
    await candidate


async def test_who_is_elected_and_has_no_room_resigns_says_so_and_stands_again_when_it_has(house: House) -> None:
    await house.joined("one")
    journal, _ = await elected(house, "one")
    await house.copied("two", "one")
    told: list[StoreBlockedError | None] = []
    apply, full = house.stores["two"].apply, StoreFullError("full")

    async def full_when_elected(entries: Sequence[tuple[Batch | None, Position, int]]) -> None:
        if house.leads("two") and not told:
            raise full
        await apply(entries)

    house.stores["two"].apply = full_when_elected  # type: ignore[method-assign]
    electing = await house.gathering("two", house.candidacy("two", told_blocked=told.append), journal)
    while not told:
        await house.place.change(LEASE_SECONDS)
    # At once, and not only when the lease has run out.
    assert house.place.leader()[0] is None
    assert told == [full]
    await electing
    assert told == [full, None]
    assert await house.facts("two") == ["a", "b"]


async def test_who_is_elected_and_can_not_apply_the_end_of_the_log_resigns(house: House) -> None:
    await house.joined("one")
    journal, _ = await elected(house, "one")
    await house.copied("two", "one")
    apply = house.stores["two"].apply

    async def unfit_when_elected(entries: Sequence[tuple[Batch | None, Position, int]]) -> None:
        if house.leads("two"):
            raise StoreEntryError(entries[0][1].index, "unfit")
        await apply(entries)

    house.stores["two"].apply = unfit_when_elected  # type: ignore[method-assign]
    electing = await house.gathering("two", house.candidacy("two"), journal)
    with pytest.raises(StoreEntryError, match="unfit"):
        await electing
    # Its keepalives would go on while it takes a copy of another leader's store.
    assert house.place.leader()[0] is None


@pytest.mark.parametrize("turns", range(8))
async def test_who_is_elected_while_its_store_can_follow_no_more_resigns(house: House, turns: int) -> None:
    await house.joined("one")
    campaign, won = house.logs["one"].campaign, asyncio.Event()

    async def campaign_and_tell(candidate: Candidate) -> Leadership:
        leadership = await campaign(candidate)
        won.set()
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            await leadership.resign()
            raise
        return leadership

    async def damaged(after: int) -> AsyncIterator[Sequence[LogEntry]]:
        await won.wait()
        raise LogDamagedError("damaged")
        yield []

    house.logs["one"].campaign = campaign_and_tell  # type: ignore[assignment, method-assign]
    house.logs["one"].follow = damaged  # type: ignore[assignment, method-assign]
    try:
        await house.candidacy("one").elected()
    except LogDamagedError:
        assert house.place.leader()[0] is None
    else:
        assert house.leads("one")


async def test_of_several_candidates_one_leads_and_the_others_follow_it(house: House) -> None:
    await house.joined("one")
    journal, _ = await elected(house, "one")
    for name in ("two", "three"):
        await house.copied(name, "one")
    await journal.resign()
    candidates = [asyncio.ensure_future(house.candidacy(name).elected()) for name in ("two", "three")]
    done, waiting = await asyncio.wait(candidates, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    await asyncio.sleep(2 * LEASE_SECONDS)
    assert not any(each.done() for each in waiting)
    for each in waiting:
        each.cancel()


async def test_a_candidate_that_can_not_reach_the_log_goes_on_when_it_can(house: House) -> None:
    await house.joined("one")
    house.logs["one"].is_cut = True
    campaigning = asyncio.ensure_future(house.candidacy("one").elected())
    await asyncio.sleep(60)
    assert not campaigning.done()
    house.logs["one"].is_cut = False
    await campaigning


async def test_a_candidate_whose_log_refuses_it_for_a_while_goes_on_when_it_is_let_in_again(house: House) -> None:
    await house.joined("one")
    journal, _ = await elected(house, "one")
    await house.copied("two", "one")
    log, told = house.logs["two"], [""]
    candidacy = Candidacy(
        house.stores["two"], log, lambda _: b"two", "1.0", lambda: 7, lambda leader, because: told.append(because)
    )
    campaigning = asyncio.ensure_future(candidacy.elected())
    await asyncio.sleep(GATHER_SECONDS)
    reach = log._reach

    async def refused() -> None:
        # As an etcd in which authentication was switched on.
        raise LogRefusedError("user name is empty")

    log._reach = refused  # type: ignore[method-assign]
    await journal.commit(batch("a"))
    await journal.resign()
    await asyncio.sleep(60)
    assert not campaigning.done()
    assert told[-1] == "the log refuses: user name is empty"
    log._reach = reach  # type: ignore[method-assign]
    await campaigning
    assert await house.facts("two") == ["a"]


async def test_a_store_that_does_not_fit_the_log_neither_follows_nor_leads(house: House) -> None:
    await house.joined("one")
    journal, _ = await elected(house, "one")
    await house.copied("two", "one")
    await journal.commit(batch("a"))
    content = house.shelf.contents["two"]
    assert content.position is not None
    content.position = Position(content.position.generation, 1, b"x" * 32)
    before = house.place.span
    with pytest.raises(ChainError, match="hash"):
        await house.candidacy("two").elected()
    assert house.place.span == before
