"""What the classes of the suite share: fixtures, and what their tests do again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import pytest
import pytest_asyncio

from gowork.leader.log.protocol import (
    Candidate,
    Generation,
    Leader,
    Leadership,
    Log,
    LogEntry,
    NotElectedError,
)

LogFactory = Callable[[], Log]
Silence = Callable[[Log], None]

#: How long something that happens by itself may take, in seconds.
PATIENCE_SECONDS = 30.0
#: How long to wait before a question is asked again whose answer nothing announces, in seconds.
_AGAIN_SECONDS = 0.02

#: The generation that the logs of most tests have.
FIRST = Generation("0123456789abcdef0123456789abcdef")


def candidate(
    *, generation: str = FIRST.id, applied: int = 0, term: int = 0, announcement: bytes = b"a leader"
) -> Candidate:
    """Returns a candidate with defaults."""
    return Candidate(generation, applied, term, announcement)


async def lead(log: Log, *, applied: int = 0, generation: str = FIRST.id) -> Leadership:
    """Returns the leadership that a campaign gives. It fails if that gives none."""
    return await log.campaign(candidate(applied=applied, generation=generation))


async def lead_in_time(log: Log, *, applied: int = 0) -> Leadership:
    """Campaigns until a leadership is given."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                return await lead(log, applied=applied)
            except NotElectedError:
                await asyncio.sleep(_AGAIN_SECONDS)


async def append_all(leadership: Leadership, *entries: bytes, after: int = 0) -> None:
    """Appends entries, one after the other."""
    for index, data in enumerate(entries, after + 1):
        await leadership.append(index, data)


async def follow(log: Log, after: int, last: int) -> list[LogEntry]:
    """Returns the entries after one index up to another, as a follower gets them."""
    found: list[LogEntry] = []
    if after >= last:
        return found
    async with asyncio.timeout(PATIENCE_SECONDS), aclosing(log.follow(after)) as pages:
        async for page in pages:
            assert page, "a page is never empty"
            found += page
            if found[-1].index >= last:
                break
    return found


async def all_entries(log: Log) -> list[LogEntry]:
    """Returns what the log has."""
    first, last = await log.span()
    return await follow(log, first - 1, last)


async def soon(look: Callable[[], Awaitable[bool]]) -> None:
    """Returns when a question, which is asked again and again, is answered with True."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await look():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(_AGAIN_SECONDS)


async def next_of(leaders: AsyncGenerator[Leader | None, None]) -> Leader | None:
    """Returns what comes next, in time."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await anext(leaders)


class Opener:
    """Opens logs at one place, and closes them at the end. Each stands for a process."""

    def __init__(self, make_log: LogFactory) -> None:
        self._make_log = make_log
        self._logs: list[Log] = []

    async def __call__(self) -> Log:
        log = self._make_log()
        self._logs.append(log)
        await log.open()
        return log

    async def close(self) -> None:
        for log in self._logs:
            await log.close()


class Fixtures:
    """The fixtures that make logs."""

    @pytest.fixture
    def make_log(self) -> LogFactory:
        """Makes logs at one place, which no other test uses, not opened yet. Override this."""
        raise NotImplementedError("override make_log")

    @pytest.fixture
    def silence(self) -> Silence:
        """Has no keepalive of a log's leadership get through from now on, although all else does. Override this."""
        raise NotImplementedError("override silence")

    @pytest.fixture
    def lease_seconds(self) -> float:
        """How long a leadership lasts without keepalives. Override this."""
        raise NotImplementedError("override lease_seconds")

    @pytest_asyncio.fixture
    async def open_log(self, make_log: LogFactory) -> AsyncGenerator[Opener, None]:
        """Opens logs at the place."""
        opener = Opener(make_log)
        try:
            yield opener
        finally:
            await opener.close()

    @pytest_asyncio.fixture
    async def log(self, open_log: Opener) -> Log:
        """A log that has begun with the generation FIRST."""
        log = await open_log()
        await log.begin(FIRST, None)
        return log
