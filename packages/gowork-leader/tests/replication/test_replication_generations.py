"""What a generation of the log begins with."""

from __future__ import annotations

import pytest
from memory_store import MemoryStore, Shelf
from replication_leader import LoneLeader

from gowork.leader._replication.candidacy import join
from gowork.leader._replication.generations import begin_after, last_term
from gowork.leader.log import Generation, GenerationError
from gowork.leader.store.protocol import RESTORE_TERMS


async def test_the_last_term_is_that_of_the_last_entry_also_when_the_log_has_one_alone() -> None:
    leader = LoneLeader()
    await join(leader.store, await leader.store.open_logged(None), leader.log)
    assert await last_term(leader.log, leader.span) == 0
    await leader.store.close()
    await leader.lead()
    assert leader.span.first == leader.span.last
    # Fences of its term are not given again.
    assert await last_term(leader.log, leader.span) == leader.leadership.leader.term == 1


async def test_a_generation_begins_only_in_the_place_of_the_one_that_was_looked_at() -> None:
    leader = LoneLeader()
    await leader.lead()
    old = await leader.log.generation()
    assert old is not None
    store = MemoryStore(Shelf(), "restored")
    between = Generation("between", leader.span.last, 3)
    await leader.log.begin(between, old.id)
    with pytest.raises(GenerationError, match="between"):
        await begin_after(leader.log, store, old, leader.span, 1)
    assert await leader.log.generation() == between


async def test_terms_of_a_generation_are_above_the_floor_of_the_one_before_that_has_no_entry() -> None:
    leader = LoneLeader()
    await leader.lead()
    first = await leader.log.generation()
    assert first is not None
    old = Generation("old", leader.span.last, 70_000)
    await leader.log.begin(old, first.id)
    begun = await begin_after(leader.log, MemoryStore(Shelf(), "restored"), old, leader.span, 0)
    assert begun.term_floor == old.term_floor + RESTORE_TERMS
    assert begun.base == old.base
