"""The example of a log passes the suite of all logs, and fails as it is told to."""

import asyncio

import pytest
from memory_log import LEASE_SECONDS, Doubt, MemoryLog, MemoryPlace

from gowork.leader.log import LeadershipLostError, Log, LogEntry, LogUnreachableError, NotElectedError, Span
from gowork.leader.log.conformance import FIRST, LogConformance, LogFactory, Silence, candidate, follow, lead


class TestMemoryLog(LogConformance):
    @pytest.fixture
    def make_log(self) -> LogFactory:
        place = MemoryPlace()
        return lambda: MemoryLog(place)

    @pytest.fixture
    def silence(self) -> Silence:
        def silence(log: Log) -> None:
            assert isinstance(log, MemoryLog)
            log.is_silent = True

        return silence

    @pytest.fixture
    def lease_seconds(self) -> float:
        return LEASE_SECONDS


@pytest.fixture
async def logs() -> tuple[MemoryLog, MemoryLog]:
    place = MemoryPlace()
    first, second = MemoryLog(place), MemoryLog(place)
    await first.begin(FIRST, None)
    return first, second


@pytest.mark.parametrize("doubt", Doubt)
async def test_an_append_in_doubt_is_settled_by_the_successor(logs: tuple[MemoryLog, MemoryLog], doubt: Doubt) -> None:
    log, other = logs
    leadership = await lead(log)
    await leadership.append(1, b"1")
    log.doubt = doubt
    appending = asyncio.ensure_future(leadership.append(2, b"in doubt"))
    await asyncio.sleep(2 * LEASE_SECONDS)
    assert not appending.done()
    log.is_silent = True
    with pytest.raises(LeadershipLostError):
        await appending
    await asyncio.sleep(LEASE_SECONDS)
    await lead(other, applied=1)
    assert (await other.span()).last == (2 if doubt is Doubt.WRITTEN else 1)


async def test_who_is_cut_off_waits_for_its_lease_to_end_and_reaches_nothing(
    logs: tuple[MemoryLog, MemoryLog],
) -> None:
    log, other = logs
    leadership = await lead(log)
    log.is_cut = True
    for call in (log.span(), log.campaign(candidate()), log.notes()):
        with pytest.raises(LogUnreachableError):
            await call
    with pytest.raises(LeadershipLostError):
        await leadership.append(1, b"1")
    with pytest.raises(LeadershipLostError):
        await leadership.confirm()
    with pytest.raises(NotElectedError):
        await lead(other)
    await asyncio.sleep(LEASE_SECONDS)
    await lead(other)
    assert await other.span() == Span(1, 0)


async def test_a_cut_that_ends_in_time_is_a_delay(logs: tuple[MemoryLog, MemoryLog]) -> None:
    log, other = logs
    leadership = await lead(log)
    following = asyncio.ensure_future(follow(other, 0, 1))
    log.is_cut = other.is_cut = True
    appending = asyncio.ensure_future(leadership.append(1, b"1"))
    await asyncio.sleep(LEASE_SECONDS / 2)
    assert not appending.done()
    log.is_cut = False
    await appending
    await asyncio.sleep(LEASE_SECONDS)
    assert not following.done()
    other.is_cut = False
    assert await following == [LogEntry(1, b"1")]
    await leadership.confirm()


async def test_who_follows_gives_up_in_the_end(logs: tuple[MemoryLog, MemoryLog]) -> None:
    _, other = logs
    other.is_cut = True
    with pytest.raises(LogUnreachableError):
        await anext(other.follow(0))


async def test_a_lease_that_was_lost_lapses_for_the_others_later(logs: tuple[MemoryLog, MemoryLog]) -> None:
    log, other = logs
    leadership = await lead(log)
    log.lose_lease()
    assert leadership.lost.is_set()
    with pytest.raises(LeadershipLostError):
        await leadership.confirm()
    with pytest.raises(NotElectedError):
        await lead(other)
    await asyncio.sleep(LEASE_SECONDS)
    await lead(other)
