"""A log begins once, and anew only for those who know what was there before."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from gowork.leader.log.conformance.kit import (
    FIRST,
    PATIENCE_SECONDS,
    Fixtures,
    LogFactory,
    Opener,
    all_entries,
    append_all,
    candidate,
    lead,
    next_of,
)
from gowork.leader.log.protocol import (
    Generation,
    GenerationError,
    LeadershipLostError,
    Log,
    LogDamagedError,
    LogEntry,
    PrunedError,
    Span,
)

_SECOND = Generation("second", base=40, term_floor=700)


@pytest.mark.asyncio
class GenerationConformance(Fixtures):
    """The lives of a log."""

    async def test_a_log_that_has_not_begun_has_no_generation_span_entries_or_leader(self, open_log: Opener) -> None:
        log = await open_log()
        assert await log.generation() is None
        with pytest.raises(GenerationError):
            await log.span()
        with pytest.raises(GenerationError):
            await log.campaign(candidate())
        with pytest.raises(GenerationError):
            await anext(log.follow(0))
        async with aclosing(log.leaders()) as leaders:
            assert await next_of(leaders) is None
        assert await log.notes() == {}

    async def test_all_processes_see_at_once_that_a_log_has_begun(self, open_log: Opener) -> None:
        log, other = await open_log(), await open_log()
        begun = Generation("a" * 32, base=12, term_floor=34, replaces="b" * 32, backup="c" * 64)
        await log.begin(begun, None)
        assert await other.generation() == begun
        assert await other.span() == Span(13, 12)
        assert await (await open_log()).generation() == begun

    @pytest.mark.parametrize("replaces", [None, "another", "second", FIRST.id.upper(), FIRST.id[:-1]])
    async def test_a_generation_begins_only_in_place_of_the_one_that_is_there(
        self, log: Log, replaces: str | None
    ) -> None:
        leadership = await lead(log)
        await leadership.append(1, b"kept")
        await log.put_note("note", b"kept")
        with pytest.raises(GenerationError):
            await log.begin(_SECOND, replaces)
        assert await log.generation() == FIRST
        assert await all_entries(log) == [LogEntry(1, b"kept")]
        assert await log.notes() == {"note": b"kept"}
        await leadership.append(2, b"still leads")

    async def test_a_log_that_has_not_begun_takes_none_in_place_of_another(self, open_log: Opener) -> None:
        log = await open_log()
        with pytest.raises(GenerationError):
            await log.begin(_SECOND, FIRST.id)
        assert await log.generation() is None

    async def test_a_new_generation_removes_entries_leadership_and_notes(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        deposed = await lead(log)
        await append_all(deposed, b"1", b"2", b"3")
        await log.put_note("lasting", b"1")
        await log.put_note("passing", b"1", 60)
        await other.begin(_SECOND, FIRST.id)
        assert await log.generation() == _SECOND
        assert await log.span() == Span(41, 40)
        assert await log.notes() == {}
        async with aclosing(log.leaders()) as leaders:
            assert await next_of(leaders) is None
        with pytest.raises(LeadershipLostError):
            await deposed.append(4, b"late")
        with pytest.raises(LeadershipLostError):
            await deposed.append(41, b"late")
        with pytest.raises(LeadershipLostError):
            await deposed.confirm()
        assert await log.span() == Span(41, 40)

    async def test_a_leader_finds_out_by_itself_that_another_generation_has_begun(
        self, log: Log, open_log: Opener
    ) -> None:
        deposed = await lead(log)
        await (await open_log()).begin(_SECOND, FIRST.id)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await deposed.lost.wait()
        assert not deposed.holds()

    async def test_a_new_generation_goes_on_after_its_base_with_terms_above_its_floor(
        self, log: Log, open_log: Opener
    ) -> None:
        await append_all(await lead(log), b"1", b"2")
        other = await open_log()
        await other.begin(_SECOND, FIRST.id)
        with pytest.raises(GenerationError):
            await other.campaign(candidate(applied=40))
        leadership = await other.campaign(candidate(generation="second", applied=40, term=3))
        assert leadership.leader.term == 701
        await leadership.append(41, b"41")
        assert await all_entries(log) == [LogEntry(41, b"41")]

    @pytest.mark.parametrize("replaces", [None, FIRST.id])
    async def test_of_several_that_begin_at_once_one_succeeds(self, make_log: LogFactory, replaces: str | None) -> None:
        logs = [make_log() for _ in range(4)]
        for log in logs:
            await log.open()
        if replaces:
            await logs[0].begin(FIRST, None)
        wanted = [Generation(f"generation {number}", base=number) for number in range(len(logs))]
        answers = await asyncio.gather(
            *(log.begin(generation, replaces) for log, generation in zip(logs, wanted, strict=True)),
            return_exceptions=True,
        )
        (won,) = [generation for generation, answer in zip(wanted, answers, strict=True) if answer is None]
        assert [type(answer) for answer in answers if answer is not None] == [GenerationError] * 3
        for log in logs:
            assert await log.generation() == won
            assert await log.span() == Span(won.base + 1, won.base)
            await log.close()

    async def test_a_generation_that_begins_while_a_leader_appends_has_none_of_its_entries(
        self, log: Log, open_log: Opener
    ) -> None:
        other = await open_log()
        deposed = await lead(log)
        appended = asyncio.Event()

        async def append() -> None:
            index = 0
            while True:
                index += 1
                await deposed.append(index, b"of the first generation")
                if index == 3:
                    appended.set()

        appending = asyncio.ensure_future(append())
        await asyncio.wait({appending, asyncio.ensure_future(appended.wait())}, return_when=asyncio.FIRST_COMPLETED)
        await other.begin(Generation("second"), FIRST.id)
        with pytest.raises(LeadershipLostError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await appending
        assert await other.span() == Span(1, 0)

    async def test_a_follower_goes_on_into_a_generation_that_begins_where_it_is(
        self, log: Log, open_log: Opener
    ) -> None:
        await append_all(await lead(log), b"1", b"2")
        async with aclosing(log.follow(1)) as pages:
            assert [entry.index for entry in await anext(pages)] == [2]
            other = await open_log()
            await other.begin(Generation("second", base=2, term_floor=9), FIRST.id)
            await (await lead(other, applied=2, generation="second")).append(3, b"3")
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert list(await anext(pages)) == [LogEntry(3, b"3")]

    @pytest.mark.parametrize(("base", "error"), [(9, PrunedError), (0, LogDamagedError)])
    async def test_a_follower_is_told_of_a_generation_that_begins_elsewhere(
        self, log: Log, open_log: Opener, base: int, error: type[Exception]
    ) -> None:
        await append_all(await lead(log), b"1", b"2")
        async with aclosing(log.follow(0)) as pages:
            found = [entry.index for entry in await anext(pages)]
            while found[-1] < 2:
                found += [entry.index for entry in await anext(pages)]
            other = await open_log()
            await other.begin(Generation("second", base=base, term_floor=9), FIRST.id)
            await (await lead(other, applied=base, generation="second")).append(base + 1, b"new")
            with pytest.raises(error):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await anext(pages)
