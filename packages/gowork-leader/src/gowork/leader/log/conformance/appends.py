"""Entries have dense indexes, are kept as they came, and go from the beginning alone."""

from __future__ import annotations

import asyncio

import pytest

from gowork.leader.log.conformance.kit import (
    PATIENCE_SECONDS,
    Fixtures,
    Opener,
    all_entries,
    append_all,
    follow,
    lead,
)
from gowork.leader.log.protocol import Generation, LeadershipLostError, Log, LogDamagedError, LogEntry, Span

MIB = 1 << 20


@pytest.mark.asyncio
class AppendConformance(Fixtures):
    """Appends and prunes."""

    async def test_all_see_an_entry_as_soon_as_it_was_appended(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        leadership = await lead(log)
        assert await other.span() == Span(1, 0)
        for index in range(1, 4):
            await leadership.append(index, b"entry %d" % index)
            assert await other.span() == await log.span() == Span(1, index)
            assert await follow(other, index - 1, index) == [LogEntry(index, b"entry %d" % index)]

    async def test_entries_outlive_their_leader_and_all_processes(self, log: Log, open_log: Opener) -> None:
        await append_all(await lead(log), b"1", b"2")
        await log.close()
        other = await open_log()
        assert await all_entries(other) == [LogEntry(1, b"1"), LogEntry(2, b"2")]
        await append_all(await lead(other, applied=2), b"3", after=2)
        assert await other.span() == Span(1, 3)

    @pytest.mark.parametrize("index", [0, 1, 2, 3, 5, 6, 1 << 40])
    async def test_no_other_index_is_taken_than_the_next(self, log: Log, index: int) -> None:
        leadership = await lead(log)
        entries = [b"%d" % number for number in range(1, 4)]
        await append_all(leadership, *entries)
        with pytest.raises(LogDamagedError):
            await leadership.append(index, b"misplaced")
        assert await all_entries(log) == [LogEntry(number, data) for number, data in enumerate(entries, 1)]
        await leadership.append(4, b"4")

    @pytest.mark.parametrize("index", [0, 1, 2, 3])
    async def test_no_entry_comes_back_under_an_index_that_was_pruned(self, log: Log, index: int) -> None:
        leadership = await lead(log)
        await append_all(leadership, b"1", b"2", b"3", b"4")
        await leadership.prune(4)
        with pytest.raises(LogDamagedError):
            await leadership.append(index, b"misplaced")
        assert await all_entries(log) == [LogEntry(4, b"4")]

    @pytest.mark.parametrize("index", [0, 1, 6, 7, 9])
    async def test_the_first_entry_comes_after_the_base(self, open_log: Opener, index: int) -> None:
        log = await open_log()
        await log.begin(Generation("g", base=7), None)
        leadership = await lead(log, applied=7, generation="g")
        with pytest.raises(LogDamagedError):
            await leadership.append(index, b"misplaced")
        assert await log.span() == Span(8, 7)
        await leadership.append(8, b"8")
        assert await all_entries(log) == [LogEntry(8, b"8")]

    @pytest.mark.parametrize("size", [1, 4096, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB + 7, 9 * MIB])
    async def test_entries_of_all_sizes_come_back_as_they_were_appended(
        self, log: Log, open_log: Opener, size: int
    ) -> None:
        leadership = await lead(log)
        data = (bytes(range(251)) * (size // 251 + 1))[:size]
        await append_all(leadership, b"before", data, b"after")
        found = await all_entries(await open_log())
        assert [entry.index for entry in found] == [1, 2, 3]
        assert [len(entry.data) for entry in found] == [6, size, 5]
        assert found[1].data == data

    async def test_all_entries_of_a_term_but_the_last_can_be_large(self, log: Log, open_log: Opener) -> None:
        leadership = await lead(log)
        entries = [bytes([number]) * (2 * MIB + number) for number in range(5)]
        await append_all(leadership, *entries, b"small")
        assert [entry.data for entry in await follow(await open_log(), 0, 6)] == [*entries, b"small"]
        await leadership.prune(5)
        assert [entry.data for entry in await all_entries(log)] == [entries[4], b"small"]

    @pytest.mark.parametrize("size", [1, 5 * MIB])
    async def test_the_entry_of_a_deposed_leader_is_there_whole_or_not_at_all(
        self, log: Log, open_log: Opener, size: int
    ) -> None:
        other = await open_log()
        entry = b"x" * size
        last = 0
        for wait in range(6):
            deposed = await lead(log, applied=last)
            appending = asyncio.ensure_future(deposed.append(last + 1, entry))
            for _ in range(wait**3):
                await asyncio.sleep(0)
            await other.depose(deposed.leader)
            successor = await lead(other, applied=last)
            before = last
            last = (await other.span()).last
            assert last - before in (0, 1)
            # Whatever was left over of it takes no place, and comes back no more.
            await successor.append(last + 1, b"of the successor")
            async with asyncio.timeout(PATIENCE_SECONDS):
                (answer,) = await asyncio.gather(appending, return_exceptions=True)
            if answer is None:
                assert last - before == 1
            else:
                assert isinstance(answer, LeadershipLostError)
            last += 1
            found = await follow(other, before, last)
            assert [each.data for each in found] == [*[entry] * (len(found) - 1), b"of the successor"]
            await successor.resign()

    @pytest.mark.parametrize("size", [1, 3 * MIB])
    async def test_a_cancelled_append_leaves_its_entry_whole_or_not_at_all(self, log: Log, size: int) -> None:
        entry, last = b"x" * size, 0
        for wait in range(6):
            leadership = await lead(log, applied=last)
            appending = asyncio.ensure_future(leadership.append(last + 1, entry))
            for _ in range(wait**3):
                await asyncio.sleep(0)
            appending.cancel()
            await asyncio.gather(appending, return_exceptions=True)
            await leadership.resign()
            successor = await lead(log, applied=last)
            before, last = last, (await log.span()).last
            await successor.append(last + 1, b"next")
            last += 1
            found = await follow(log, before, last)
            assert [each.data for each in found] == [*[entry] * (len(found) - 1), b"next"]
            assert len(found) in (1, 2)
            await successor.resign()

    @pytest.mark.parametrize(("before", "first"), [(0, 1), (1, 1), (2, 2), (4, 4), (5, 5), (6, 5), (1 << 40, 5)])
    async def test_entries_before_an_index_are_pruned_but_never_the_last(
        self, log: Log, open_log: Opener, before: int, first: int
    ) -> None:
        leadership = await lead(log)
        await append_all(leadership, b"1", b"2", b"3", b"4", b"5")
        for _ in range(2):
            await leadership.prune(before)
            assert await (await open_log()).span() == Span(first, 5)
        assert await all_entries(log) == [LogEntry(index, b"%d" % index) for index in range(first, 6)]
        await leadership.append(6, b"6")

    async def test_to_prune_a_log_without_entries_changes_nothing(self, open_log: Opener) -> None:
        log = await open_log()
        await log.begin(Generation("g", base=7), None)
        leadership = await lead(log, applied=7, generation="g")
        for before in (0, 7, 8, 9):
            await leadership.prune(before)
        assert await log.span() == Span(8, 7)
        await leadership.append(8, b"8")

    async def test_a_log_is_pruned_again_and_again_while_it_grows(self, log: Log) -> None:
        leadership = await lead(log)
        for index in range(1, 25):
            await leadership.append(index, b"%d" % index)
            if index % 4 == 0:
                await leadership.prune(index - 1)
                await leadership.prune(index - 3)
                assert await log.span() == Span(index - 1, index)
        assert await all_entries(log) == [LogEntry(23, b"23"), LogEntry(24, b"24")]

    async def test_entries_can_be_pruned_while_others_are_appended(self, log: Log) -> None:
        leadership = await lead(log)
        await append_all(leadership, *[b"%d" % index for index in range(1, 11)])

        async def prune() -> None:
            for before in range(2, 11):
                await leadership.prune(before)

        await asyncio.gather(prune(), append_all(leadership, *[b"%d" % n for n in range(11, 31)], after=10))
        assert await all_entries(log) == [LogEntry(index, b"%d" % index) for index in range(10, 31)]

    async def test_a_cancelled_prune_leaves_no_gap(self, log: Log) -> None:
        leadership = await lead(log)
        await append_all(leadership, *[b"%d" % index for index in range(1, 13)])
        for wait in range(5):
            pruning = asyncio.ensure_future(leadership.prune(2 * wait + 2))
            for _ in range(wait**2):
                await asyncio.sleep(0)
            pruning.cancel()
            await asyncio.gather(pruning, return_exceptions=True)
            # What was cancelled may still be done later. It is harmless when repeated.
            await leadership.prune(2 * wait + 2)
            assert await log.span() == Span(2 * wait + 2, 12)
            assert [entry.index for entry in await all_entries(log)] == list(range(2 * wait + 2, 13))
        await leadership.append(13, b"13")
