"""What the engine asks of a store; the conformance suite in `gowork.leader.store.conformance` says it in tests.

A store keeps records: what was asked (immutable) and where it stands. It decides nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from gowork.leader.core.model import Standing, Status


class StoreError(Exception):
    """The store can't be used; its message says what to do."""


class StoreLockedError(StoreError):
    """Another leader uses this store."""


class StoreFormatError(StoreError):
    """The store is damaged, of a newer format, or no store at all. It was left untouched."""


class StoreFullError(StoreError):
    """There is no room for this batch now; nothing of it was written and the same batch may be tried again."""


class Record(Struct, frozen=True, gc=False):
    """A task as stored."""

    #: Its place in the order of submission; the primary key.
    seq: int
    #: The idempotency key, unique.
    id: str
    #: The number of the batch that wrote it last: term << 40 | batch; see `changed_number`.
    changed: int
    #: The serialized task as it was asked for.
    body: bytes
    standing: Standing


class NewTask(Struct, frozen=True, gc=False):
    """A task that is written for the first time, with the columns that queries select by."""

    record: Record
    queue: str
    handler: str
    priority: int
    #: Sorted by key.
    labels: tuple[tuple[str, str], ...]


class MovedTask(Struct, frozen=True, gc=False):
    """A stored task whose standing has changed."""

    seq: int
    changed: int
    standing: Standing


class MemberRecord(Struct, frozen=True):
    """A callback member, which must be found again after a restart."""

    id: str
    address: str
    joined_ms: int


class Batch(Struct, frozen=True, gc=False):
    """What one commit writes: all of it or nothing."""

    inserts: Sequence[NewTask] = ()
    #: Each task at most once, and none that is in `inserts`.
    moves: Sequence[MovedTask] = ()
    members: Sequence[MemberRecord] = ()
    #: Ids of callback members that have left.
    members_gone: Sequence[str] = ()


class Query(Struct, frozen=True):
    """Which tasks to list. Every condition must hold; an empty collection is no condition."""

    statuses: frozenset[Status] = frozenset()
    #: (column, value, equal): column is `id`, `queue`, `handler` or `priority` (as a number).
    terms: tuple[tuple[str, str | int, bool], ...] = ()
    #: (key, value, equal): a task without the label differs from every value.
    labels: tuple[tuple[str, str, bool], ...] = ()
    #: Prefixes that the id must (True) or must not (False) have.
    id_prefixes: tuple[tuple[str, bool], ...] = ()
    newest_first: bool = False


class Opened(Struct, frozen=True):
    """What a store tells when it is opened."""

    #: Higher than at every opening before; the high bits of fences and of `changed`.
    term: int
    #: Names this store among all, hexadecimal.
    identity: str
    #: Higher than every seq in the store.
    next_seq: int


#: Low bits of `changed` and of fences; the term is above them.
TERM_SHIFT = 40


def changed_number(term: int, batch: int) -> int:
    """The number of a batch over all terms; it grows."""
    return term << TERM_SHIFT | batch


class Store(Protocol):
    """A store in use by one leader. Calls may overlap, save that one commit is in flight at a time."""

    async def open(self) -> Opened:
        """Opens the store for this process alone, creating it when there is none, and raises its term durably.

        Raises:
            StoreLockedError, StoreFormatError, StoreError.
        """
        ...

    async def close(self) -> None:
        """Waits for the commit in flight and closes. Harmless when repeated."""
        ...

    async def commit(self, batch: Batch) -> None:
        """Makes the batch durable, whole.

        Raises:
            StoreFullError: nothing was written; try the same batch again later.
            StoreError: whether it was written is unknown; the leader must stop.
        """
        ...

    async def load(self, ids: Sequence[str]) -> list[Record]:
        """The records with these ids, in any order; unknown ids are left out. At most 100,000 ids."""
        ...

    def unfinished(self) -> AsyncIterator[list[Record]]:
        """Every pending and running task in the order of seq, in chunks."""
        ...

    async def members(self) -> list[MemberRecord]:
        """Every callback member, by id."""
        ...

    async def page(self, query: Query, after: int | None, limit: int, bytes_max: int) -> list[Record]:
        """The next tasks that the query selects, in the order of seq (descending when newest_first).

        Args:
            query: which tasks.
            after: go on after this seq; None starts at the end that comes first.
            limit: at most so many records, at least 1.
            bytes_max: stop after the record that takes the sum of body, result and failure to this; the first always
            comes.
        """
        ...

    async def changed_since(self, changed: int, limit: int) -> list[Record]:
        """Tasks whose `changed` is above this, in its order.

        Whole batches, so that a call may answer more than `limit`.
        """
        ...

    async def counts(self) -> Mapping[tuple[str, str, Status], int]:
        """How many tasks there are by (queue, handler, status), counted now."""
        ...
