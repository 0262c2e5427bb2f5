"""What a person is told before a store is forced to lead, or goes past an entry, and when neither is done."""

from __future__ import annotations

import pytest
from replication_leader import LoneLeader

from gowork.leader._core.model import Position
from gowork.leader._replication.overrides import OverrideError, Skip, forceable
from gowork.leader.log import Span
from gowork.leader.log.entries import NO_HASH, Entry, Kind
from gowork.leader.store import Batch, Fact, FactKey


@pytest.fixture
async def leader() -> LoneLeader:
    """One that has led, and whose log has entries 4 to 6."""
    leader = LoneLeader()
    await leader.lead()
    await leader.write(5)
    await leader.leadership.prune(4)
    await leader.leadership.resign()
    assert leader.span == Span(4, 6)
    return leader


async def test_a_store_that_can_lead_by_itself_is_not_forced_and_one_that_lacks_an_entry_is(leader: LoneLeader) -> None:
    generation = await leader.log.generation()
    assert generation is not None
    for index in (3, 4, 6):
        with pytest.raises(OverrideError, match="still has all that the store lacks"):
            await forceable(leader.log, Position(generation.id, index, NO_HASH))
    found = await forceable(leader.log, Position(generation.id, 2, NO_HASH))
    assert found.loss.startswith("4 entries, 3 to 6, and all tasks")


async def test_a_store_of_another_generation_is_not_forced_and_both_are_named(leader: LoneLeader) -> None:
    generation = await leader.log.generation()
    assert generation is not None
    with pytest.raises(OverrideError, match=f"generation another of a log, .* at generation {generation.id}"):
        await forceable(leader.log, Position("another", 1, NO_HASH))


def test_what_is_lost_with_an_entry_has_its_settings_and_members_those_that_are_removed_too() -> None:
    batch = Batch(facts=[Fact("notes", "a", b"1")], facts_gone=[FactKey("notes", "b"), FactKey("notes", "c")])
    entry = Entry(1, "generation", 7, 1, NO_HASH, b"nonce", Kind.BATCH, b"")
    assert Skip(entry, Position("generation", 7, NO_HASH), "why", batch).loss == "3 settings and members"
