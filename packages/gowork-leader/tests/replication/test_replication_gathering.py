"""Entries that come in quick succession are handed out together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from gowork.leader._replication.gathering import GATHER_BYTES_MAX, GATHER_SECONDS, gathered
from gowork.leader.log import LogEntry, LogUnreachableError

Come = LogEntry | float | Exception


def entry(index: int, size: int = 1) -> LogEntry:
    return LogEntry(index, b"x" * size)


async def log_of(*come: Come) -> AsyncGenerator[Sequence[LogEntry], None]:
    """A log in which these come: entries, seconds without an entry, and an error, which is raised."""
    for each in come:
        if isinstance(each, LogEntry):
            yield [each]
        elif isinstance(each, float):
            await asyncio.sleep(each)
        else:
            raise each


async def handed_out(*come: Come) -> list[tuple[Any, list[int]]]:
    """Returns the indexes that are handed out together, and about when, in seconds."""
    began = asyncio.get_running_loop().time()
    found = []
    async with aclosing(log_of(*come)) as pages, aclosing(gathered(pages, lambda index: None)) as ready:
        async for some in ready:
            seconds = asyncio.get_running_loop().time() - began
            found.append((pytest.approx(seconds, abs=GATHER_SECONDS / 20), [each.index for each in some]))
    return found


async def test_an_entry_after_a_pause_is_handed_out_at_once() -> None:
    pause = 2 * GATHER_SECONDS
    assert await handed_out(entry(1), pause, entry(2), pause, entry(3), 1.0) == [
        (0, [1]),
        (pause, [2]),
        (2 * pause, [3]),
    ]


async def test_entries_that_come_soon_after_others_are_handed_out_together() -> None:
    some = GATHER_SECONDS / 4
    come: list[Come] = [entry(1), some, entry(2), some, entry(3), GATHER_SECONDS, entry(4), 1.0]
    assert await handed_out(*come) == [(0, [1]), (GATHER_SECONDS, [2, 3]), (2 * GATHER_SECONDS, [4])]


async def test_many_bytes_are_not_held_back() -> None:
    half = GATHER_BYTES_MAX // 2
    some = GATHER_SECONDS / 4
    come: list[Come] = [entry(1), some, entry(2, half), entry(3, half), entry(4), some, entry(5), 1.0]
    # Those after them are few again.
    assert await handed_out(*come) == [(0, [1]), (some, [2, 3]), (some + GATHER_SECONDS, [4, 5])]


async def test_what_came_before_the_end_is_handed_out() -> None:
    assert await handed_out(entry(1), GATHER_SECONDS / 4, entry(2)) == [(0, [1]), (GATHER_SECONDS / 4, [2])]


async def test_what_came_before_the_log_failed_is_handed_out_first() -> None:
    pages = log_of(entry(1), GATHER_SECONDS / 4, entry(2), LogUnreachableError("gone"))
    ready = gathered(pages, lambda index: None)
    assert [await anext(ready), await anext(ready)] == [[entry(1)], [entry(2)]]
    with pytest.raises(LogUnreachableError, match="gone"):
        await anext(ready)


async def test_what_has_come_is_told_before_it_is_handed_out() -> None:
    told: list[int] = []
    pages = log_of(entry(1), GATHER_SECONDS / 4, entry(2), 1000.0)
    ready = gathered(pages, told.append)
    await anext(ready)
    waiting = asyncio.ensure_future(anext(ready))
    await asyncio.sleep(GATHER_SECONDS / 2)
    assert (told, waiting.done()) == ([1, 2], False)
    waiting.cancel()
    await asyncio.wait({waiting})
    # Nothing reads the log any more, so that it can be closed.
    await pages.aclose()


async def test_a_reader_that_goes_away_leaves_nothing_behind() -> None:
    began = asyncio.get_running_loop().time()
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    for last in (LogUnreachableError("gone"), 1000.0):
        pages = log_of(entry(1), last)
        async with aclosing(gathered(pages, lambda index: None)) as ready:
            await anext(ready)
            await asyncio.sleep(0)
        await pages.aclose()
    assert (complaints, len(asyncio.all_tasks())) == ([], 1)
    # An election waits until nothing is read any more, and the next entry may be long in coming.
    assert asyncio.get_running_loop().time() - began < 1
