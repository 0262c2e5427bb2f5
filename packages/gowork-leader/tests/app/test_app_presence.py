"""What a leader among several does after it has stepped down."""

from __future__ import annotations

import asyncio

from memory_log import MemoryLog, MemoryPlace
from memory_store import MemoryStore, Shelf

from gowork.leader._app.presence import Presence
from gowork.leader._replication import candidacy
from gowork.leader._replication.candidacy import Candidacy, join
from gowork.leader._replication.log_watch import LogWatch
from gowork.leader._replication.weight import Weight
from gowork.leader.log import Candidate


class Office:
    """A leader whose time jumps, and the place of its log."""

    def __init__(self, place: MemoryPlace, candidacy: Candidacy, presence: Presence) -> None:
        self.place = place
        self.candidacy = candidacy
        self.presence = presence


async def office() -> Office:
    place = MemoryPlace()
    log = MemoryLog(place)
    store = MemoryStore(Shelf(), "one")
    opened = await join(store, await store.open_logged(None), log)
    assert opened is not None
    standing = Candidacy(store, log, lambda _: b"one", "1.0", lambda: 7)
    watch = LogWatch(log, place.span, asyncio.get_running_loop().time)
    return Office(place, standing, Presence(standing, opened.store_id, Weight(0), watch, set()))


async def test_who_has_stepped_down_stands_for_election_when_nobody_else_has_for_a_while() -> None:
    here = await office()
    loop = asyncio.get_running_loop()
    here.presence.step_down()
    began = loop.time()
    _, leadership = await here.candidacy.elected()
    assert loop.time() - began >= candidacy.GIVE_WAY_SECONDS
    await leadership.resign()
    # It gives way once.
    began = loop.time()
    await here.candidacy.elected()
    assert loop.time() - began < candidacy.GIVE_WAY_SECONDS


async def test_who_has_stepped_down_follows_the_one_that_takes_over() -> None:
    here = await office()
    here.presence.step_down()
    electing = asyncio.ensure_future(here.candidacy.elected())
    await asyncio.sleep(candidacy.GIVE_WAY_SECONDS / 2)
    assert here.place.generation is not None
    other = here.place.elect(Candidate(here.place.generation.id, 0, 0, b"two"))
    for _ in range(20):
        await asyncio.sleep(candidacy.GIVE_WAY_SECONDS / 10)
        assert here.place.renew(other.token)
    assert not electing.done()
    electing.cancel()


async def test_a_term_that_leads_here_is_told_to_end_and_the_next_one_is_not() -> None:
    here = await office()
    _, leadership = await here.candidacy.elected()
    with here.presence.leading(leadership) as ends:
        assert here.presence.led == leadership.leader.term
        here.presence.step_down()
        assert ends.is_set()
    assert here.presence.led == 0
    with here.presence.leading(leadership) as ends:
        assert not ends.is_set()
