"""One leads at a time, and only who can apply all that the log has."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from gowork.leader.log.conformance.kit import (
    FIRST,
    PATIENCE_SECONDS,
    Fixtures,
    Opener,
    all_entries,
    append_all,
    candidate,
    lead,
    lead_in_time,
)
from gowork.leader.log.protocol import (
    TERM_BITS,
    Generation,
    GenerationError,
    Leader,
    Leadership,
    LeadershipLostError,
    Log,
    LogDamagedError,
    LogEntry,
    LogError,
    NotElectedError,
)


@pytest.mark.asyncio
class ElectionConformance(Fixtures):
    """Who may lead, and with which term."""

    async def test_the_leader_is_as_it_said_it_would_be(self, log: Log) -> None:
        announcement = bytes(range(256)) * 4
        leadership = await log.campaign(candidate(announcement=announcement))
        assert leadership.leader == Leader(1, leadership.leader.token, announcement)
        assert leadership.holds()
        assert not leadership.lost.is_set()
        await leadership.confirm()

    async def test_nobody_is_elected_while_another_leads_not_even_by_the_same_process(
        self, log: Log, open_log: Opener
    ) -> None:
        leadership = await lead(log)
        for rival in (await open_log(), log):
            with pytest.raises(NotElectedError):
                await lead(rival)
        await leadership.confirm()
        await leadership.append(1, b"still leads")

    async def test_of_several_candidates_one_is_elected(self, log: Log, open_log: Opener) -> None:
        logs = [log, *[await open_log() for _ in range(3)]]
        for term in range(1, 6):
            answers = await asyncio.gather(*(lead(each) for each in logs), return_exceptions=True)
            (elected,) = [answer for answer in answers if not isinstance(answer, BaseException)]
            assert [type(answer) for answer in answers if isinstance(answer, BaseException)] == [NotElectedError] * 3
            assert elected.leader.term == term
            await elected.confirm()
            await elected.resign()

    async def test_a_failed_campaign_uses_no_term(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        leadership = await lead(log)
        await append_all(leadership, b"1", b"2", b"3")
        await leadership.prune(3)
        with pytest.raises(NotElectedError):
            await lead(other, applied=3)
        await leadership.resign()
        for refused in (
            candidate(applied=3, generation="another", term=50),
            candidate(applied=1, term=60),
            candidate(applied=4, term=70),
        ):
            with pytest.raises((NotElectedError, LogDamagedError)):
                await other.campaign(refused)
        assert (await lead(other, applied=3)).leader.term == 2

    async def test_terms_are_above_all_that_were_given_and_above_the_candidates(
        self, log: Log, open_log: Opener
    ) -> None:
        other = await open_log()
        given = []
        for each, known in ((log, 0), (other, 0), (log, 1), (other, 90), (log, 0), (other, 92), (log, 3)):
            leadership = await each.campaign(candidate(term=known))
            given.append(leadership.leader.term)
            await leadership.resign()
        assert given == [1, 2, 3, 91, 92, 93, 94]

    async def test_terms_are_above_the_floor_of_the_generation(self, open_log: Opener) -> None:
        log = await open_log()
        await log.begin(Generation("g", term_floor=10), None)
        for term in (11, 12):
            leadership = await lead(log, generation="g")
            assert leadership.leader.term == term
            await leadership.resign()

    async def test_the_last_term_is_given_and_none_after_it(self, log: Log) -> None:
        last = (1 << TERM_BITS) - 1
        leadership = await log.campaign(candidate(term=last - 1))
        assert leadership.leader.term == last
        await leadership.resign()
        with pytest.raises(NotElectedError, match="terms"):
            await log.campaign(candidate())

    async def test_no_two_leaderships_have_the_same_token(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        tokens = set()
        for each in (log, other, log, other):
            leadership = await lead(each)
            tokens.add(leadership.leader.token)
            await leadership.resign()
        assert len(tokens) == 4

    async def test_no_token_comes_back_in_another_generation(self, log: Log) -> None:
        first = await lead(log)
        await log.begin(Generation("second"), FIRST.id)
        second = await lead(log, generation="second")
        assert first.leader.token != second.leader.token
        assert not await log.depose(first.leader)
        await second.confirm()

    async def test_a_candidate_of_another_generation_is_refused(self, log: Log) -> None:
        for generation in ("another", "", FIRST.id.upper()):
            with pytest.raises(GenerationError):
                await lead(log, generation=generation)

    @pytest.mark.parametrize(("applied", "is_elected"), [(0, False), (1, False), (2, True), (3, True), (4, True)])
    async def test_a_candidate_must_have_applied_the_entry_before_the_first_at_least(
        self, log: Log, open_log: Opener, applied: int, is_elected: bool
    ) -> None:
        leadership = await lead(log)
        await append_all(leadership, b"1", b"2", b"3", b"4")
        await leadership.prune(3)
        await leadership.resign()
        other = await open_log()
        if is_elected:
            await (await lead(other, applied=applied)).append(5, b"5")
        else:
            with pytest.raises(NotElectedError):
                await lead(other, applied=applied)

    @pytest.mark.parametrize("applied", [3, 4, 1 << 40])
    async def test_a_candidate_that_has_applied_more_than_the_log_has_is_told(self, log: Log, applied: int) -> None:
        leadership = await lead(log)
        await append_all(leadership, b"1", b"2")
        await leadership.resign()
        # It would wait forever for a copy that goes on where the log ends.
        with pytest.raises(LogDamagedError, match=f"ends at entry 2, before entry {applied}"):
            await lead(log, applied=applied)

    @pytest.mark.parametrize(
        ("applied", "error"), [(0, NotElectedError), (4, NotElectedError), (5, None), (6, LogDamagedError)]
    )
    async def test_without_entries_a_candidate_must_have_applied_the_base(
        self, open_log: Opener, applied: int, error: type[LogError] | None
    ) -> None:
        log = await open_log()
        await log.begin(Generation("g", base=5), None)
        if error is None:
            await (await lead(log, applied=applied, generation="g")).append(6, b"6")
        else:
            with pytest.raises(error):
                await lead(log, applied=applied, generation="g")

    async def test_a_cancelled_campaign_keeps_nobody_out_for_long(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        for wait in range(6):
            campaign = asyncio.ensure_future(lead(log))
            for _ in range(wait * wait):
                await asyncio.sleep(0)
            campaign.cancel()
            (answer,) = await asyncio.gather(campaign, return_exceptions=True)
            if not isinstance(answer, BaseException):
                await answer.resign()
            await (await lead_in_time(other)).resign()

    async def test_what_was_acknowledged_outlives_leaders_that_are_deposed_while_they_append(
        self, log: Log, open_log: Opener
    ) -> None:
        logs = [log, *[await open_log() for _ in range(2)]]
        acknowledged: list[LogEntry] = []
        for term in range(1, 13):
            own, other = logs[term % 3], logs[(term + 1) % 3]
            last = (await own.span()).last
            leadership = await lead(own, applied=last)
            appended: asyncio.Queue[LogEntry] = asyncio.Queue()
            appending = asyncio.ensure_future(_append_until_lost(leadership, last, appended))
            async with asyncio.timeout(PATIENCE_SECONDS):
                # It is deposed after a few appends, in the middle of one.
                acknowledged += [await appended.get() for _ in range(term % 3 + 1)]
                assert await other.depose(leadership.leader)
                await appending
            acknowledged += [appended.get_nowait() for _ in range(appended.qsize())]
        found = await all_entries(log)
        assert [entry.index for entry in found] == list(range(1, len(found) + 1))
        assert [found[entry.index - 1] for entry in acknowledged] == acknowledged


async def _append_until_lost(leadership: Leadership, after: int, appended: asyncio.Queue[LogEntry]) -> None:
    entry = LogEntry(after, b"")
    with suppress(LeadershipLostError):
        while True:
            entry = LogEntry(entry.index + 1, b"in term %d" % leadership.leader.term)
            await leadership.append(entry.index, entry.data)
            appended.put_nowait(entry)
