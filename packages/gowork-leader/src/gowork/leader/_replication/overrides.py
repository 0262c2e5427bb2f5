"""What a person may have done to a store and its log when no leader can go on by itself. No leader uses the store then.

Each of the two gives up something that was acknowledged. So each says first what that is, and changes nothing when a
leader can go on without it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

from msgspec import Struct

from gowork.leader._core.model import Position
from gowork.leader._replication.census import announced_by, leading_of
from gowork.leader._replication.generations import begin_after, last_term
from gowork.leader._replication.registers import Registration, registered
from gowork.leader._replication.replica import UnreadableEntryError, batch_of
from gowork.leader.log.entries import Entry, unseal
from gowork.leader.log.protocol import Generation, Log, LogEntry, Span
from gowork.leader.store.protocol import (
    Batch,
    LoggedStore,
    Opened,
    StoreEntryError,
    StoreError,
)

#: How many ids of tasks are named.
IDS_MAX = 10


class OverrideError(Exception):
    """The override is not needed, or can't be done. Nothing was changed."""


class Skip(Struct, frozen=True):
    """An entry that a store can't apply."""

    entry: Entry
    #: Where the store stands after it.
    position: Position
    #: Why it can't be applied.
    why: str
    #: What it would have written; None: that can't be read.
    batch: Batch | None

    @property
    def loss(self) -> str:
        """What is lost with it, for people."""
        if self.batch is None:
            return "what it wrote can't be read"
        batch = self.batch
        ids = [new.record.id for new in batch.inserts]
        named = f" ({', '.join(ids[:IDS_MAX])}{', …' if len(ids) > IDS_MAX else ''})" if ids else ""
        counts = (
            (len(batch.inserts), f"new tasks{named}"),
            (len(batch.moves), "changes of tasks, such as starts and results"),
            (len(batch.deletes), "removals of finished tasks"),
            (len(batch.facts) + len(batch.facts_gone), "settings and members"),
        )
        return "; ".join(f"{number} {what}" for number, what in counts if number) or "nothing but its number"


async def skippable(log: Log, store: LoggedStore, index: int) -> Skip:
    """Looks at the entry that a closed store would have to apply next. It changes nothing.

    Args:
        log: is open.
        store: is closed, and belongs to the log.
        index: the entry's index.

    Raises:
        OverrideError: the store is not at the entry before it, the log does not have it, or the store can apply it.
        ChainError, NewerFormatError: it does not follow from what the store has, or this version can't read it. To skip
            it would not help.
        StoreError, LogError: the store or the log can't be used.
    """
    async with _opened(log, store) as opened:
        position = _position(opened)
        if index != position.index + 1:
            raise OverrideError(
                f"the store is at entry {position.index}, so only entry {position.index + 1}, which comes next, can be "
                f"skipped"
            )
        span = await log.span()
        if not span.first <= index <= span.last:
            raise OverrideError(f"the log has entries {span.first} to {span.last}, and not entry {index}")
        entry, after = unseal(position, index, (await _read(log, index)).data)
        batch: Batch | None = None
        try:
            batch = batch_of(entry.kind, entry.body, index)
            await store.prepare(batch or Batch(), after, entry.term)
        except (StoreEntryError, UnreadableEntryError) as error:
            return Skip(entry, after, str(error), batch)
        await store.give_up()
    raise OverrideError(f"the store can apply entry {index}: start its leader, nothing need be skipped")


async def skip(log: Log, store: LoggedStore, found: Skip) -> None:
    """Has a closed store go past an entry without applying it.

    Raises:
        StoreError, LogError: the store or the log can't be used.
    """
    async with _opened(log, store):
        await store.apply([(None, found.position, found.entry.term)])


class Forced(Struct, frozen=True):
    """What becomes of a log when a store is to lead that lacks entries of it, or has entries that it lacks."""

    generation: Generation
    span: Span
    #: The index of the last entry that the store has applied; None: it belongs to no log.
    applied: int | None
    #: The term of the log's last entry, or 0.
    last_term: int
    #: The registered stores that have come further.
    further: Sequence[Registration]

    @property
    def loss(self) -> str:
        """What is lost, for people."""
        if self.applied is None:
            return f"all that the log ever had, up to entry {self.span.last:,}, unless this store has it already"
        if self.applied > self.span.last:
            return (
                f"what was acknowledged after entry {self.applied:,}, which this store has applied; the log ends at "
                f"entry {self.span.last:,} and does not tell what that was"
            )
        return (
            f"{self.span.last - self.applied:,} entries, {self.applied + 1:,} to {self.span.last:,}, and all tasks and "
            f"results that were acknowledged with them"
        )


async def forceable(log: Log, position: Position | None) -> Forced:
    """Looks at a log that a store can't lead. It changes nothing.

    The store lacks entries that the log has no more, or the log lacks entries that the store has applied.

    Args:
        log: is open.
        position: where the store stands; None: it belongs to no log.

    Raises:
        OverrideError: a leader leads, the log has not begun, the store belongs to another one, or can lead by itself.
        LogError: the log can't be used.
    """
    generation = await log.generation()
    if generation is None:
        raise OverrideError("the log has not begun: start the leader, nothing need be forced")
    if position is not None and position.generation != generation.id:
        raise OverrideError(
            f"the store belongs to generation {position.generation} of a log, and this log is at generation "
            f"{generation.id}: detach the store first, if this is the log that it shall lead"
        )
    leader = await leading_of(log)
    if leader is not None:
        raise OverrideError(f"{announced_by(leader).name} leads, so nothing need be forced")
    span = await log.span()
    if position is not None and span.first - 1 <= position.index <= span.last:
        raise OverrideError("the log still has all that the store lacks: start its leader, nothing need be forced")
    term = await last_term(log, span)
    applied = None if position is None else position.index
    found = (await registered(log)).values()
    further = sorted((each for each in found if each.applied > (applied or 0)), key=lambda each: -each.applied)
    return Forced(generation, span, applied, term, further)


async def force(log: Log, store: LoggedStore, found: Forced) -> Generation:
    """Begins a generation of the log with what a closed store has. Returns it. Other stores don't fit it.

    When it is cut short, it may be repeated: the store may belong to no log by then.

    Raises:
        GenerationError: another generation was begun meanwhile.
        StoreError, LogError: the store or the log can't be used.
    """
    if found.applied is not None:
        await store.detach()
    return await begin_after(log, store, found.generation, found.span, found.last_term)


@asynccontextmanager
async def _opened(log: Log, store: LoggedStore) -> AsyncIterator[Opened]:
    generation = await log.generation()
    opened = await store.open_logged(generation.id if generation is not None else None)
    try:
        yield opened
    finally:
        await store.close()


def _position(opened: Opened) -> Position:
    if opened.position is None:
        raise StoreError("the store belongs to no log, so it stops at no entry")
    return opened.position


async def _read(log: Log, index: int) -> LogEntry:
    async with aclosing(log.follow(index - 1)) as pages:
        async for page in pages:
            return page[0]
    raise OverrideError(f"the log does not return entry {index}")
