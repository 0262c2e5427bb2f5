"""A leadership ends once, for all who hold it or look at it, and its own lease ends first."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from gowork.leader.log.conformance.kit import (
    PATIENCE_SECONDS,
    Fixtures,
    Opener,
    Silence,
    all_entries,
    append_all,
    candidate,
    lead,
    lead_in_time,
    next_of,
)
from gowork.leader.log.protocol import Leadership, LeadershipLostError, Log, LogEntry, Span


@pytest.mark.asyncio
class LeadershipConformance(Fixtures):
    """How leaderships go on and end."""

    async def test_a_leadership_that_is_kept_alive_goes_on(self, log: Log, lease_seconds: float) -> None:
        leadership = await lead(log)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(lease_seconds * 1.5):
                await leadership.lost.wait()
        assert leadership.holds()
        await leadership.append(1, b"after more than a lease")

    async def test_the_own_lease_ends_without_keepalives_before_another_is_elected(
        self, log: Log, open_log: Opener, silence: Silence
    ) -> None:
        other = await open_log()
        deposed = await lead(log)
        await deposed.append(1, b"1")
        silence(log)
        successor = await lead_in_time(other, applied=1)
        assert not deposed.holds()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await deposed.lost.wait()
        await _is_refused_everything(deposed, 2)
        await successor.append(2, b"of the successor")
        assert await all_entries(log) == [LogEntry(1, b"1"), LogEntry(2, b"of the successor")]

    async def test_all_see_that_a_lease_has_lapsed(self, log: Log, open_log: Opener, silence: Silence) -> None:
        leadership = await lead(log)
        async with aclosing((await open_log()).leaders()) as leaders:
            assert await next_of(leaders) == leadership.leader
            silence(log)
            assert await next_of(leaders) is None

    async def test_a_leadership_that_lapsed_does_not_come_back(self, log: Log, silence: Silence) -> None:
        leadership = await lead(log)
        silence(log)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await leadership.lost.wait()
        assert not leadership.holds()
        await _is_refused_everything(leadership, 1)
        assert not leadership.holds()
        assert leadership.lost.is_set()

    async def test_who_resigned_leads_no_more_and_another_is_elected_at_once(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        resigned = await lead(log)
        await resigned.append(1, b"1")
        await resigned.resign()
        assert not resigned.holds()
        assert resigned.lost.is_set()
        successor = await lead(other, applied=1)
        assert successor.leader.term == 2
        await _is_refused_everything(resigned, 2)
        assert await all_entries(log) == [LogEntry(1, b"1")]

    async def test_to_resign_again_or_when_it_is_over_ends_no_other_leadership(
        self, log: Log, open_log: Opener
    ) -> None:
        other = await open_log()
        resigned = await lead(log)
        await resigned.resign()
        await resigned.resign()
        deposed = await lead(other)
        assert await log.depose(deposed.leader)
        successor = await lead(log)
        for over in (resigned, deposed):
            await over.resign()
        await successor.confirm()
        await successor.append(1, b"1")

    async def test_a_closed_log_leads_no_more_and_another_is_elected_at_once(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        leadership = await lead(log)
        await log.close()
        assert not leadership.holds()
        assert leadership.lost.is_set()
        await lead(other)

    async def test_closing_is_harmless_when_repeated_and_without_a_leadership(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        leadership = await lead(log)
        await other.close()
        await other.close()
        await leadership.confirm()
        await log.close()
        await log.close()

    async def test_who_was_deposed_leads_no_more_and_another_is_elected_at_once(
        self, log: Log, open_log: Opener
    ) -> None:
        other = await open_log()
        deposed = await lead(log)
        await deposed.append(1, b"1")
        assert await other.depose(deposed.leader)
        successor = await lead(other, applied=1)
        await _is_refused_everything(deposed, 2)
        await successor.append(2, b"2")
        await _is_refused_everything(deposed, 3)
        assert await all_entries(other) == [LogEntry(1, b"1"), LogEntry(2, b"2")]

    async def test_who_was_deposed_finds_out_by_itself(self, log: Log, open_log: Opener) -> None:
        deposed = await lead(log)
        assert await (await open_log()).depose(deposed.leader)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await deposed.lost.wait()
        assert not deposed.holds()

    async def test_only_the_leadership_that_is_named_is_ended(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        first = await log.campaign(candidate(announcement=b"the same"))
        assert await other.depose(first.leader)
        assert not await other.depose(first.leader)
        second = await log.campaign(candidate(announcement=b"the same"))
        assert not await other.depose(first.leader)
        await second.confirm()
        await second.resign()
        assert not await other.depose(second.leader)

    async def test_of_several_that_depose_one_is_told_that_it_did(self, log: Log, open_log: Opener) -> None:
        leader = (await lead(log)).leader
        logs = [await open_log() for _ in range(3)]
        assert sorted(await asyncio.gather(*(each.depose(leader) for each in logs))) == [False, False, True]

    async def test_a_deposed_leader_prunes_nothing(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        deposed = await lead(log)
        await append_all(deposed, b"1", b"2", b"3")
        await other.depose(deposed.leader)
        with pytest.raises(LeadershipLostError):
            await deposed.prune(3)
        assert await other.span() == Span(1, 3)

    async def test_a_refusal_tells_that_the_leadership_is_over(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        for is_append in (True, False):
            deposed = await lead(log)
            await other.depose(deposed.leader)
            with pytest.raises(LeadershipLostError):
                await (deposed.append(1, b"1") if is_append else deposed.confirm())
            assert deposed.lost.is_set()
            assert not deposed.holds()

    async def test_all_see_who_leads_and_each_change(self, log: Log, open_log: Opener) -> None:
        other, third = await open_log(), await open_log()
        async with aclosing(other.leaders()) as early:
            assert await next_of(early) is None
            first = await log.campaign(candidate(announcement=b"first"))
            assert await next_of(early) == first.leader
            async with aclosing(log.leaders()) as late:
                assert await next_of(late) == first.leader
                await first.resign()
                assert await next_of(early) is None
                assert await next_of(late) is None
                second = await third.campaign(candidate(announcement=b"second"))
                assert await next_of(early) == await next_of(late) == second.leader
                await log.depose(second.leader)
                assert await next_of(early) is None

    async def test_who_watches_sees_the_newest_leader_at_last(self, log: Log, open_log: Opener) -> None:
        async with aclosing((await open_log()).leaders()) as leaders:
            assert await next_of(leaders) is None
            for _ in range(8):
                await (await lead(log)).resign()
            last = await lead(log)
            while await next_of(leaders) != last.leader:
                pass
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await anext(leaders)

    async def test_confirmations_overlap_each_other_and_appends(self, log: Log) -> None:
        leadership = await lead(log)
        for index in range(1, 6):
            await asyncio.gather(leadership.append(index, b"%d" % index), *(leadership.confirm() for _ in range(8)))
        assert (await log.span()).last == 5

    async def test_a_cancelled_confirmation_changes_nothing(self, log: Log) -> None:
        leadership = await lead(log)
        for wait in range(5):
            confirming = asyncio.ensure_future(leadership.confirm())
            for _ in range(wait):
                await asyncio.sleep(0)
            confirming.cancel()
            await asyncio.gather(confirming, return_exceptions=True)
            await leadership.confirm()
        await leadership.append(1, b"1")


async def _is_refused_everything(leadership: Leadership, index: int) -> None:
    """Checks that a leadership which is over can do nothing, whatever it tries first."""
    with pytest.raises(LeadershipLostError):
        await leadership.append(index, b"late")
    with pytest.raises(LeadershipLostError):
        await leadership.confirm()
    # Calls that come later fare no better.
    with pytest.raises(LeadershipLostError):
        await leadership.append(index, b"late")
    assert not leadership.holds()
