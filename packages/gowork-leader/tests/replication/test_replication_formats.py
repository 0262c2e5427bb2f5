"""The format of a log is raised when all leaders read it, and who can't read it stops."""

from __future__ import annotations

import asyncio

import pytest
from memory_log import MemoryLeadership, MemoryLog
from memory_store import MemoryStore
from msgspec.structs import replace
from replication_leader import LoneLeader, announcement

from gowork.leader._core.model import Position
from gowork.leader._replication import formats
from gowork.leader._replication.candidacy import Candidacy, join
from gowork.leader._replication.formats import Formats
from gowork.leader._replication.registers import Registration, encode
from gowork.leader._replication.replica import Replica
from gowork.leader.log import Candidate, LogFullError, LogRefusedError, LogUnreachableError, entries
from gowork.leader.log.entries import NO_HASH, NewerFormatError, format_of
from gowork.leader.store import StoreFullError

pytestmark = pytest.mark.timeout(60)


async def register(leader: LoneLeader, store_id: str, reads: int) -> None:
    store_id = leader.store_id if store_id == "own" else store_id
    registration = replace(Registration(announcement(store_id), 0, 0, 0, 1), format=reads)
    await leader.log.put_note(registration.key(), encode(registration))


def found(leader: LoneLeader) -> list[int]:
    """The formats of the entries."""
    return [format_of(index, data) for index, data in sorted(leader.log.place.entries.items())]


async def leading() -> LoneLeader:
    leader = LoneLeader()
    await leader.lead()
    return leader


async def test_the_format_is_raised_when_all_registered_leaders_read_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    leader = await leading()
    monkeypatch.setattr(entries, "FORMAT", 3)
    raising = asyncio.create_task(Formats(leader.log, leader.journal).run(asyncio.Event()))
    await asyncio.sleep(2.5 * formats.LOOK_SECONDS)
    # Nobody is registered, so nobody is known to read it.
    assert found(leader) == [1]
    await register(leader, "own", 3)
    await register(leader, "other", 1)
    with caplog.at_level("INFO"):
        await asyncio.sleep(2.5 * formats.LOOK_SECONDS)
    await leader.write(1, 1)
    assert found(leader) == [1, 1]
    assert [each.leaders for each in caplog.records if hasattr(each, "leaders")] == [["leader of other"]]
    await register(leader, "other", 2)
    await asyncio.sleep(2.5 * formats.LOOK_SECONDS)
    await leader.write(1, 1)
    assert found(leader) == [1, 1, 2, 2]
    # Not higher than this version itself reads.
    await register(leader, "other", 9)
    await register(leader, "own", 9)
    await asyncio.wait({raising}, timeout=2.5 * formats.LOOK_SECONDS)
    assert raising.done()
    await leader.write(1, 1)
    assert found(leader) == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    "error", [LogFullError("no room"), LogRefusedError("no"), LogUnreachableError("silent"), StoreFullError("full")]
)
async def test_a_format_that_can_not_be_raised_now_is_raised_later(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = await leading()
    monkeypatch.setattr(entries, "FORMAT", 2)
    await register(leader, "own", 2)

    async def refuse(raised: int) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(leader.journal, "raise_format", refuse)
        raising = asyncio.create_task(Formats(leader.log, leader.journal).run(asyncio.Event()))
        await asyncio.sleep(2.5 * formats.LOOK_SECONDS)
        # Else the term would have ended.
        assert not raising.done()
    await asyncio.wait({raising}, timeout=2.5 * formats.LOOK_SECONDS)
    assert raising.done()
    assert leader.journal.format == 2


async def test_the_duty_ends_at_once_when_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    leader = await leading()
    monkeypatch.setattr(entries, "FORMAT", 2)
    stopped = asyncio.Event()
    raising = asyncio.create_task(Formats(leader.log, leader.journal).run(stopped))
    await asyncio.sleep(formats.LOOK_SECONDS / 2)
    began = asyncio.get_running_loop().time()
    stopped.set()
    await raising
    assert asyncio.get_running_loop().time() - began < 1


async def test_who_cannot_read_the_format_stops_before_it_and_names_what_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leader = await leading()
    follower = await copied(leader)
    monkeypatch.setattr(entries, "FORMAT", 2)
    await leader.write(1, 1)
    await leader.journal.raise_format(2)
    monkeypatch.setattr(entries, "FORMAT", 1)
    replica = Replica(follower, await follower.current())
    with pytest.raises(NewerFormatError, match="entries of format 2, and this version of gowork-leader reads"):
        await replica.follow(leader.log)
    assert replica.position.index == 0
    leader.log.place.depose(leader.leadership.leader.token)

    class Standing(MemoryLog):
        async def campaign(self, candidate: Candidate) -> MemoryLeadership:
            raise AssertionError("it stands for election")

    with pytest.raises(NewerFormatError):
        await Candidacy(follower, Standing(leader.log.place), lambda _: b"two", "1.0", lambda: 7)._campaign(replica)
    with pytest.raises(NewerFormatError):
        await Candidacy(follower, MemoryLog(leader.log.place), lambda _: b"two", "1.0", lambda: 7).elected()


async def test_the_next_leader_goes_on_with_the_format_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "FORMAT", 2)
    leader = await leading()
    follower = await copied(leader)
    await leader.journal.raise_format(2)
    assert found(leader) == [1, 2]
    await leader.journal.resign()
    first, again = (
        Candidacy(follower, MemoryLog(leader.log.place), lambda _: b"two", "1.0", lambda: 7) for _ in range(2)
    )
    # The second time it has applied nothing since its process started.
    for candidacy in (first, again):
        journal, leadership = await candidacy.elected()
        assert journal.format == 2
        await leadership.resign()
    journal, leadership = await again.elected()
    await journal.open()
    assert found(leader) == [1, 2, 2]


async def test_a_leader_that_is_elected_again_goes_on_with_what_it_has_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "FORMAT", 2)
    leader = await leading()
    follower = await copied(leader)
    await leader.journal.resign()
    candidacy = Candidacy(follower, MemoryLog(leader.log.place), lambda _: b"two", "1.0", lambda: 7)
    journal, leadership = await candidacy.elected()
    await journal.open()
    await journal.raise_format(2)
    await leadership.resign()
    await journal.close()
    journal, _ = await candidacy.elected()
    assert journal.format == 2


async def copied(leader: LoneLeader) -> MemoryStore:
    """A store that stands where the log begins, as one that has lagged since then."""
    store = MemoryStore(leader.store._shelf, "two")
    place = leader.log.place
    assert place.generation is not None
    opened = await store.open_logged(place.generation.id)
    assert await join(store, opened, leader.log) is None
    await store.join_log(Position(place.generation.id, place.generation.base, NO_HASH), opened.term)
    return store
