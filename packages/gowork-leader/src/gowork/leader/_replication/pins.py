"""Pins: entries that the log is to keep while a copy of a store is under way, because the copy has to go on from there.

A pin lapses by itself. So whoever dies while it holds one keeps nothing for long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator

from gowork.leader.log.protocol import Log, LogError

_log = logging.getLogger(__name__)

#: The keys of pins begin so.
PREFIX = "pin/"
#: How long a pin lasts after it was put last, in seconds. The store that was copied has registered by then.
PIN_SECONDS = 30.0
#: How often it is put, in seconds.
AGAIN_SECONDS = 10.0


@contextlib.asynccontextmanager
async def pinned(log: Log) -> AsyncIterator[None]:
    """Has the log keep what it has now, up to the bound of its bytes, while this is entered and PIN_SECONDS longer."""
    key = f"{PREFIX}{secrets.token_hex(8)}"
    value = b"%d" % ((await log.span()).first - 1)
    await _put(log, key, value)
    renewing = asyncio.ensure_future(_renew(log, key, value))
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.wait({renewing})


async def pins(log: Log) -> list[int]:
    """Returns the indexes after which the log is to keep all entries.

    Raises:
        LogUnreachableError, LogRefusedError.
    """
    return [int(value) for value in (await log.notes(PREFIX)).values() if value.isdigit()]


async def _renew(log: Log, key: str, value: bytes) -> None:
    while True:
        await asyncio.sleep(AGAIN_SECONDS)
        await _put(log, key, value)


async def _put(log: Log, key: str, value: bytes) -> None:
    try:
        await log.put_note(key, value, PIN_SECONDS)
    except LogError as error:
        # The log may be full. The copy may succeed without a pin, too.
        _log.warning("no pin in the log", extra={"reason": str(error)})
