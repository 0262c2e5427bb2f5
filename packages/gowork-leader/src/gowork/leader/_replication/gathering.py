"""Gathers entries that come in quick succession, so that a store that follows writes them in one transaction.

A transaction costs as much as some forty tasks. And a task that starts and ends in one transaction is written once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from gowork.leader.log.protocol import LogEntry, LogError

#: Entries that come within this time after others were handed out are handed out together, in seconds, or earlier when
#: they have this many bytes.
GATHER_SECONDS = 0.1
GATHER_BYTES_MAX = 8 << 20


async def gathered(
    pages: AsyncGenerator[Sequence[LogEntry], None], came: Callable[[int], None]
) -> AsyncGenerator[Sequence[LogEntry], None]:
    """Yields what `pages` yields: at once when nothing was yielded within GATHER_SECONDS, else all that came by then.

    Args:
        pages: the entries. The caller closes it.
        came: is called with the index of the last entry that has come, yielded or not.

    Raises:
        LogError: `pages` has raised it. All that came before was yielded.
    """
    loop = asyncio.get_running_loop()
    found: list[LogEntry] = []
    size, due = 0, loop.time()
    reading = asyncio.ensure_future(anext(pages, None))
    try:
        while True:
            left = due - loop.time() if size < GATHER_BYTES_MAX else 0.0
            if found and (left <= 0 or not (await asyncio.wait({reading}, timeout=left))[0]):
                yield found
                found, size, due = [], 0, loop.time() + GATHER_SECONDS
                continue
            try:
                page = await reading
            except LogError:
                if found:
                    yield found
                raise
            if page is None:
                break
            found += page
            size += sum(len(entry.data) for entry in page)
            came(found[-1].index)
            reading = asyncio.ensure_future(anext(pages, None))
        if found:
            yield found
    finally:
        reading.cancel()
        await asyncio.wait({reading})
        if not reading.cancelled():
            # Nobody waits for it any more. Asked, so that asyncio does not complain.
            reading.exception()
