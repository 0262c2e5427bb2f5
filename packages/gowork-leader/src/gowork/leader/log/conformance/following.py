"""Followers get each entry once, in order and without a gap, wherever they begin, or are told why they can't."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from gowork.leader.log.conformance.kit import (
    PATIENCE_SECONDS,
    Fixtures,
    Opener,
    append_all,
    follow,
    lead,
)
from gowork.leader.log.protocol import Log, LogDamagedError, LogEntry, PrunedError


def _entries(first: int, last: int) -> list[LogEntry]:
    return [LogEntry(index, b"entry %d" % index) for index in range(first, last + 1)]


def _bytes(first: int, last: int) -> list[bytes]:
    return [entry.data for entry in _entries(first, last)]


@pytest.mark.asyncio
class FollowConformance(Fixtures):
    """What followers get."""

    async def test_a_follower_begins_anywhere(self, log: Log, open_log: Opener) -> None:
        await append_all(await lead(log), *_bytes(1, 6))
        other = await open_log()
        for after in range(6):
            assert await follow(other, after, 6) == _entries(after + 1, 6)

    async def test_a_follower_waits_for_what_comes(self, log: Log, open_log: Opener) -> None:
        leadership = await lead(log)
        async with aclosing((await open_log()).follow(0)) as pages:
            for index in range(1, 6):
                waiting = asyncio.ensure_future(anext(pages))
                await asyncio.sleep(0)
                assert not waiting.done()
                await leadership.append(index, b"entry %d" % index)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    assert list(await waiting) == _entries(index, index)

    async def test_followers_get_all_while_appends_go_on(self, log: Log, open_log: Opener) -> None:
        leadership = await lead(log)
        await append_all(leadership, *_bytes(1, 10))
        others = [await open_log() for _ in range(3)]
        following = [
            asyncio.ensure_future(follow(each, after, 60))
            for each, after in zip([log, *others], (0, 4, 9, 10), strict=True)
        ]
        await append_all(leadership, *_bytes(11, 40), after=10)
        late = asyncio.ensure_future(follow(others[0], 0, 60))
        await append_all(leadership, *_bytes(41, 60), after=40)
        for task, after in zip([*following, late], (0, 4, 9, 10, 0), strict=True):
            assert await task == _entries(after + 1, 60)

    async def test_a_follower_that_begins_with_large_entries_gets_all(self, log: Log, open_log: Opener) -> None:
        leadership = await lead(log)
        entries = [bytes([index]) * (1 << 19) for index in range(40)]
        await append_all(leadership, *entries)
        assert [entry.data for entry in await follow(await open_log(), 0, 40)] == entries

    async def test_a_follower_goes_on_over_changes_of_leader(self, log: Log, open_log: Opener) -> None:
        other = await open_log()
        following = asyncio.ensure_future(follow(await open_log(), 0, 12))
        last = 0
        for each in (log, other, log, other):
            leadership = await lead(each, applied=last)
            await append_all(leadership, *_bytes(last + 1, last + 3), after=last)
            last += 3
            await leadership.resign()
        assert await following == _entries(1, 12)

    async def test_a_follower_that_keeps_up_is_not_held_up_by_pruning(self, log: Log, open_log: Opener) -> None:
        leadership = await lead(log)
        async with aclosing((await open_log()).follow(0)) as pages:
            found: list[LogEntry] = []
            for index in range(1, 16):
                await leadership.append(index, b"entry %d" % index)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    found += await anext(pages)
                await leadership.prune(index)
        assert found == _entries(1, 15)

    async def test_a_follower_that_needs_a_pruned_entry_is_told_where_the_log_begins(
        self, log: Log, open_log: Opener
    ) -> None:
        leadership = await lead(log)
        await append_all(leadership, *_bytes(1, 6))
        await leadership.prune(4)
        other = await open_log()
        for after in (0, 1, 2):
            with pytest.raises(PrunedError) as caught:
                await follow(other, after, 6)
            assert caught.value.first == 4
        for after in (3, 4, 5):
            assert await follow(other, after, 6) == _entries(after + 1, 6)

    async def test_a_follower_that_stopped_reading_is_told_of_what_was_pruned_meanwhile_or_gets_it(
        self, log: Log, open_log: Opener
    ) -> None:
        leadership = await lead(log)
        await append_all(leadership, *_bytes(1, 2))
        async with aclosing((await open_log()).follow(0)) as pages:
            found = list(await anext(pages))
            await append_all(leadership, *_bytes(3, 40), after=2)
            await leadership.prune(40)
            first = 40
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while found[-1].index < 40:
                        found += await anext(pages)
            except PrunedError as error:
                first = error.first
        # Nothing is left out without a word.
        assert first == 40
        assert found == _entries(1, found[-1].index)

    async def test_a_follower_beyond_the_end_is_told(self, log: Log, open_log: Opener) -> None:
        await append_all(await lead(log), *_bytes(1, 3))
        other = await open_log()
        for after in (4, 5, 1 << 40):
            with pytest.raises(LogDamagedError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await anext(other.follow(after))

    async def test_a_follower_that_is_closed_or_cancelled_leaves_the_others_alone(
        self, log: Log, open_log: Opener
    ) -> None:
        other = await open_log()
        leadership = await lead(log)
        async with aclosing(other.follow(0)) as kept:
            for _ in range(3):
                async with aclosing(other.follow(0)) as closed:
                    waiting = asyncio.ensure_future(anext(closed))
                    await asyncio.sleep(0)
                    waiting.cancel()
                    await asyncio.gather(waiting, return_exceptions=True)
            await leadership.append(1, b"entry 1")
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert list(await anext(kept)) == _entries(1, 1)
