"""Whether a copy of a store is one of this log's past."""

from __future__ import annotations

import hashlib
from contextlib import aclosing

from gowork.leader._core.model import Position
from gowork.leader.log.entries import ChainError, unseal
from gowork.leader.log.protocol import Log, LogEntry


async def check_follows(log: Log, position: Position) -> None:
    """Checks that a store at this position can follow the log: it lacks nothing, and has applied what is in the log.

    Raises:
        ChainError: it can't. The message says why.
        LogUnreachableError, LogRefusedError, LogDamagedError.
        PrunedError: it can't any more.
    """
    generation = await log.generation()
    if generation is None or generation.id != position.generation:
        raise ChainError(
            f"it belongs to generation {position.generation}, and the log has {generation.id if generation else 'none'}"
        )
    span = await log.span()
    if position.index > span.last:
        raise ChainError(f"it is at index {position.index}, and the log ends at {span.last}")
    if position.index >= span.first:
        entry = await entry_after(log, position.index - 1)
        if hashlib.sha256(entry.data).digest() != position.hash:
            raise ChainError(f"it has applied another entry {position.index} than the log has")
    elif span.first <= span.last:
        entry = await entry_after(log, position.index)
        unseal(position, entry.index, entry.data)


async def entry_after(log: Log, index: int) -> LogEntry:
    """Returns the entry that comes after this index. The log has it."""
    async with aclosing(log.follow(index)) as pages:
        async for page in pages:
            return page[0]
    raise AssertionError("a log is followed without an end")
