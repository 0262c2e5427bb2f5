"""A store that follows a log: it applies each entry once, in order, and knows how far it has come."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, nullcontext

import msgspec
from msgspec import Struct

from gowork.leader._core.model import Position
from gowork.leader._replication.gathering import gathered
from gowork.leader._replication.weight import Weight
from gowork.leader.log.entries import ChainError, Kind, unseal
from gowork.leader.log.protocol import Log, LogEntry
from gowork.leader.store.batches import decode_batch
from gowork.leader.store.protocol import Batch, LoggedStore, Opened, StoreBlockedError, StoreError

_log = logging.getLogger(__name__)

#: How long to wait before entries that the store had no room for are tried again, in seconds.
BLOCKED_RETRY_SECONDS = 1.0


class TermBegun(Struct, frozen=True, array_like=True, gc=False):
    """The first entry of a term: who leads."""

    #: What the leader says of itself to the others.
    announcement: bytes
    #: When it was elected, in wall-clock milliseconds.
    began_ms: int
    #: The version of gowork-leader that leads.
    version: str


encode_term = msgspec.msgpack.Encoder().encode


class UnreadableEntryError(ChainError):
    """An entry has a body that this version can't read, though it should. The message names the entry."""


async def _unchecked(index: int) -> None:
    """Makes no digest."""


class Replica:
    """A store and its place in the log.

    Args:
        store: is open, and belongs to the log.
        opened: what it said when it was opened.
        weight: counts the entries that it applies; None: nobody asks.
        check: is called with the index of a check when the store stands there. It goes on when this returns.
        known_format: the format of the last entry that the store has applied; 0: it is not known.
    """

    def __init__(
        self,
        store: LoggedStore,
        opened: Opened,
        weight: Weight | None = None,
        check: Callable[[int], Awaitable[None]] = _unchecked,
        known_format: int = 0,
    ) -> None:
        assert opened.position is not None
        self._store = store
        self._position: Position = opened.position
        self._term = opened.term
        #: See above.
        self.check = check
        self._weight = weight or Weight(opened.position.index)
        #: The number of the last batch of tasks that was applied here; see Record.changed. 0: none was yet.
        self.changed = 0
        self._come = opened.position.index
        #: The format of the last entry that the store has applied; 0: it is not known.
        self.format = known_format
        #: Why the store can't take the next entries now; None: it can.
        self.blocked: StoreBlockedError | None = None

    @property
    def position(self) -> Position:
        """How far the store has come."""
        return self._position

    @property
    def come(self) -> int:
        """The index of the last entry that has come here. It is applied a moment later."""
        return max(self._come, self._position.index)

    @property
    def term(self) -> int:
        """The term of the last entry that the store has applied, or the one that it had before."""
        return self._term

    async def apply(self, entries: Sequence[LogEntry]) -> None:
        """Applies the next entries: all in one transaction, except that one ends after each check.

        Raises:
            ChainError: they do not follow from what the store has.
            NewerFormatError: this version can't read them.
            StoreError: the store can't take them. Those after `position` were not written.
        """
        position, term = self._position, self._term
        written: list[tuple[Batch | None, Position, int]] = []
        sizes: list[tuple[int, int]] = []
        for found in entries:
            entry, position = unseal(position, found.index, found.data)
            if entry.term < term:
                raise ChainError(f"entry {entry.index} of the log has term {entry.term}, after one of term {term}")
            term, self.format = entry.term, entry.format
            written.append((batch_of(entry.kind, entry.body, entry.index), position, term))
            sizes.append((found.index, len(found.data)))
            if entry.kind is Kind.CHECK:
                await self._write(written, sizes)
                written, sizes = [], []
                await self.check(entry.index)
        if written:
            await self._write(written, sizes)

    async def _write(
        self, written: Sequence[tuple[Batch | None, Position, int]], sizes: Sequence[tuple[int, int]]
    ) -> None:
        await self._store.apply(written)
        _, self._position, self._term = written[-1]
        self.changed = max(self.changed, *(_changed(batch) for batch, _, _ in written))
        for index, size in sizes:
            self._weight.add(index, size)

    async def follow(
        self,
        log: Log,
        until: int | None = None,
        told_blocked: Callable[[StoreBlockedError | None], None] | None = None,
    ) -> None:
        """Applies entries as they come.

        Args:
            log: the log.
            until: the index of the entry after which to stop; None: goes on until it is cancelled.
            told_blocked: is called when the store has no room for the next entries, which are then tried until it has,
                and with None when it takes them. None: StoreBlockedError is raised.

        Raises:
            ChainError, NewerFormatError, StoreError: see `apply`.
            LogError: see Log.follow.
        """
        if until is not None and self._position.index >= until:
            return
        async with (
            aclosing(log.follow(self._position.index)) as pages,
            # Who waits for an entry does not gather.
            aclosing(gathered(pages, self._came)) if until is None else nullcontext(pages) as ready,
        ):
            async for page in ready:
                await (self.apply(page) if told_blocked is None else self._apply_in_the_end(page, told_blocked))
                if until is not None and self._position.index >= until:
                    return

    def moved_to(self, position: Position, term: int, size: int, entry_format: int) -> None:
        """Is told of an entry that the store has got by other means: its own leader's.

        Args:
            position: where the store stands after it.
            term: the entry's term.
            size: its bytes.
            entry_format: its format.
        """
        self._position, self._term, self.format = position, term, entry_format
        self._weight.add(position.index, size)

    def _came(self, index: int) -> None:
        self._come = index

    async def _apply_in_the_end(
        self, entries: Sequence[LogEntry], told_blocked: Callable[[StoreBlockedError | None], None]
    ) -> None:
        """Applies the next entries, however long the store has no room for them."""
        written = 0
        while True:
            try:
                await self.apply([each for each in entries if each.index > written])
            except StoreBlockedError as error:
                self.blocked, written = error, self._position.index
                told_blocked(error)
                await asyncio.sleep(BLOCKED_RETRY_SECONDS)
                continue
            if self.blocked is not None:
                self.blocked = None
                told_blocked(None)
            return


def _changed(batch: Batch | None) -> int:
    """Returns the number of a batch; 0: it writes no tasks."""
    if batch is None:
        return 0
    # One number for all that it writes.
    if batch.inserts:
        return batch.inserts[0].record.changed
    if batch.moves:
        return batch.moves[0].changed
    return batch.deletes[0].changed if batch.deletes else 0


def batch_of(kind: Kind, body: bytes, index: int) -> Batch | None:
    """Returns what the store writes of an entry besides its position; None: nothing.

    Raises:
        UnreadableEntryError: the body can't be read.
    """
    if kind is not Kind.BATCH:
        return None
    try:
        return decode_batch(body)
    except StoreError as error:
        raise UnreadableEntryError(f"entry {index} of the log can't be read: {error}") from error
