"""A store that follows a log: it applies each entry once, in order, and knows how far it has come."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import aclosing

import msgspec
from msgspec import Struct

from gowork.leader._core.model import Position
from gowork.leader.log.entries import ChainError, Kind, unseal
from gowork.leader.log.protocol import Log, LogEntry
from gowork.leader.store.batches import decode_batch
from gowork.leader.store.protocol import Batch, LoggedStore, Opened

_log = logging.getLogger(__name__)


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


class Replica:
    """A store and its place in the log.

    Args:
        store: is open, and belongs to the log.
        opened: what it said when it was opened.
    """

    def __init__(self, store: LoggedStore, opened: Opened) -> None:
        assert opened.position is not None
        self._store = store
        self._position: Position = opened.position
        self._term = opened.term

    @property
    def position(self) -> Position:
        """How far the store has come."""
        return self._position

    @property
    def term(self) -> int:
        """The term of the last entry that the store has applied, or the one that it had before."""
        return self._term

    async def apply(self, entries: Sequence[LogEntry]) -> None:
        """Applies the next entries, all in one transaction.

        Raises:
            ChainError: they do not follow from what the store has.
            NewerFormatError: this version can't read them.
            StoreError: the store can't take them. Nothing was written.
        """
        position, term = self._position, self._term
        written: list[tuple[Batch | None, Position, int]] = []
        for found in entries:
            entry, position = unseal(position, found.index, found.data)
            if entry.term < term:
                raise ChainError(f"entry {entry.index} of the log has term {entry.term}, after one of term {term}")
            term = entry.term
            written.append((_batch_of(entry.kind, entry.body, entry.index), position, term))
        await self._store.apply(written)
        self._position, self._term = position, term

    async def follow(self, log: Log, until: int | None = None) -> None:
        """Applies entries as they come.

        Args:
            log: the log.
            until: the index of the entry after which to stop; None: goes on until it is cancelled.

        Raises:
            ChainError, NewerFormatError, StoreError: see `apply`.
            LogError: see Log.follow.
        """
        if until is not None and self._position.index >= until:
            return
        async with aclosing(log.follow(self._position.index)) as pages:
            async for page in pages:
                await self.apply(page)
                if until is not None and self._position.index >= until:
                    return

    def moved_to(self, position: Position, term: int) -> None:
        """Is told how far the store has come by other means: its own leader's."""
        self._position, self._term = position, term


def _batch_of(kind: Kind, body: bytes, index: int) -> Batch | None:
    """Returns what the store writes of an entry besides its position."""
    if kind is Kind.TERM:
        return None
    try:
        return decode_batch(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise UnreadableEntryError(f"entry {index} of the log can't be read: {error}") from error
