"""Which leaders are listed, and which of them is said to lead."""

from __future__ import annotations

import logging

import pytest
from memory_log import MemoryLog, MemoryPlace

from gowork.leader._replication.announcement import Announcement, encode
from gowork.leader._replication.census import SUCCESSOR_MS, take_census, unfit
from gowork.leader._replication.registers import PREFIX, Registration
from gowork.leader._replication.registers import encode as encode_registration
from gowork.leader.log import Candidate, Generation

NOW_MS = 1_000_000


def announced(name: str, store_id: str) -> Announcement:
    return Announcement(name, "c:1", "s:2", "h:3", store_id, "1.0")


@pytest.fixture
def place() -> MemoryPlace:
    place = MemoryPlace()
    place.begin(Generation("g"), None)
    return place


def register(place: MemoryPlace, own: Announcement, applied: int, forced: int) -> None:
    registration = Registration(own, applied, forced, NOW_MS - 5_000, 1)
    place.put_note(registration.key(), encode_registration(registration), float("inf"))


async def test_of_leaders_with_one_name_the_store_tells_which_one_leads(place: MemoryPlace) -> None:
    register(place, announced("twin", "a"), 0, 0)
    register(place, announced("twin", "b"), 0, 0)
    leader = place.elect(Candidate("g", 0, 0, encode(announced("twin", "b"))))
    place.append(leader.token, 1, b"entry")
    census = await take_census(MemoryLog(place), announced("other", "c"), 1, NOW_MS)
    assert [(view.announcement.store_id, view.term) for view in census.leaders] == [("b", 1), ("c", 0), ("a", 0)]
    assert [view.lag for view in census.leaders] == [0, 0, 1]
    assert census.leading == census.leaders[0]
    assert (census.generation, census.span) == ("g", (1, 1))


async def test_who_asks_is_listed_as_it_is_now(place: MemoryPlace) -> None:
    own = announced("own", "o")
    register(place, own, 3, 2)
    place.span = place.span._replace(last=7)
    (view,) = (await take_census(MemoryLog(place), own, 6, NOW_MS)).leaders
    assert (view.applied, view.forced, view.lag, view.seen_ms, view.term) == (6, 2, 1, NOW_MS, 0)


async def test_without_a_leader_none_leads(place: MemoryPlace) -> None:
    census = await take_census(MemoryLog(place), announced("own", "o"), 0, NOW_MS)
    assert census.leading is None


async def test_a_leader_that_is_not_registered_yet_is_listed_and_so_is_one_that_can_not_be_read(
    place: MemoryPlace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    leader = place.elect(Candidate("g", 0, 0, encode(announced("new", "n"))))
    own = announced("own", "o")
    first, _ = (await take_census(MemoryLog(place), own, 0, NOW_MS)).leaders
    assert (first.announcement.name, first.term, first.seen_ms) == ("new", 1, 0)
    place.depose(leader.token)
    place.elect(Candidate("g", 0, 0, b"?"))
    place.put_note(f"{PREFIX}x", b"?", float("inf"))
    first, second = (await take_census(MemoryLog(place), own, 0, NOW_MS)).leaders
    assert (first.announcement.name, first.term) == ("unreadable", 2)
    assert second.announcement == own
    assert len(caplog.records) == 3


async def test_a_leader_takes_over_only_if_it_was_seen_lately_can_follow_and_has_room(place: MemoryPlace) -> None:
    own, other = announced("own", "o"), announced("other", "b")
    place.put_note(f"{PREFIX}b", encode_registration(Registration(other, 3, 3, NOW_MS, 1)), float("inf"))
    place.span = place.span._replace(first=4, last=7)
    census = await take_census(MemoryLog(place), own, 7, NOW_MS)
    (view,) = [each for each in census.leaders if each.announcement == other]
    assert unfit(view, census, SUCCESSOR_MS / 1000) == ""
    assert "was last seen 31 s ago" in unfit(view, census, SUCCESSOR_MS / 1000 + 1)
    place.span = place.span._replace(first=5)
    assert "lacks entries" in unfit(view, await take_census(MemoryLog(place), own, 7, NOW_MS), 0)
    full = Registration(other, 7, 7, NOW_MS, 1, has_room=False)
    place.put_note(f"{PREFIX}b", encode_registration(full), float("inf"))
    census = await take_census(MemoryLog(place), own, 7, NOW_MS)
    (view,) = [each for each in census.leaders if each.announcement == other]
    assert unfit(view, census, 0) == "other has no room on its disk"
