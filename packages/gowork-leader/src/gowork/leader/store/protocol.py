"""What the engine asks of a store; the conformance suite in `gowork.leader.store.conformance` says it in tests.

A store keeps records of tasks, what was asked (immutable) and where it stands, and facts beside them. It decides
nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from msgspec import Struct

from gowork.leader._core import facts
from gowork.leader._core.model import Brief, Fact, FactKey, LaneKey, Standing, Status


class StoreError(Exception):
    """The store can't be used; its message says what to do."""


class StoreLockedError(StoreError):
    """Another leader uses this store."""


class StoreFormatError(StoreError):
    """The store is damaged, of a newer format, or no store at all. It was left untouched."""


class StoreBlockedError(StoreError):
    """Nothing can be written at the moment. Nothing of this batch was written; the same batch may be tried again."""


class StoreFullError(StoreBlockedError):
    """There is no room for this batch now."""


class StoreBusyError(StoreBlockedError):
    """Another program holds the store's write lock now."""


class StoreLostError(StoreError):
    """The store is no longer this leader's: it was moved, deleted or replaced, or another leader has opened it."""


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
    """A task that is written for the first time, with what scans and queries select by."""

    record: Record
    #: Where it waits; its queue, handler and priority too.
    lane: LaneKey
    #: Sorted by key.
    labels: tuple[tuple[str, str], ...]
    #: When it expires unless it was started, in wall-clock milliseconds; 0: never.
    expires_ms: int


class MovedTask(Struct, frozen=True, gc=False):
    """A stored task whose standing has changed."""

    seq: int
    changed: int
    #: When it is PENDING with `not_before_ms` above 0, the task is *delayed*: due at that time. With 0 it may run now.
    standing: Standing
    #: Must be given, with `expires_ms`, when a finished task is PENDING again: a store may have forgotten both. None
    #: leaves both as they are.
    lane: LaneKey | None = None
    expires_ms: int = 0


class DeletedTask(Struct, frozen=True, gc=False):
    """A stored task that is removed. Only a note stays, so that watchers can hear of the removal."""

    seq: int
    id: str
    #: The number of the batch that removes it.
    changed: int


class Batch(Struct, frozen=True, gc=False):
    """What one commit writes: all of it or nothing."""

    inserts: Sequence[NewTask] = ()
    #: Each task at most once, and none that is in `inserts`.
    moves: Sequence[MovedTask] = ()
    #: None that is in `moves`. They come before the inserts, so that one of these may take an id that becomes free.
    deletes: Sequence[DeletedTask] = ()
    #: New, or in place of what is stored under the same kind and key; each at most once. A store takes any kind, any
    #: key up to FACT_KEY_BYTES_MAX and any value up to FACT_VALUE_BYTES_MAX, and decides nothing by them.
    facts: Sequence[Fact] = ()
    #: Facts that are removed; unknown ones are left out. They come before `facts`.
    facts_gone: Sequence[FactKey] = ()
    #: Removals whose `changed` is below this are forgotten; see Store.watch_floor.
    tombstones_before: int = 0


class Timer(NamedTuple):
    """A pending task with a time at which something is due."""

    #: When, in wall-clock milliseconds.
    at_ms: int
    seq: int
    id: str


class Finished(Struct, frozen=True, gc=False):
    """A finished task, as the retention sees it."""

    seq: int
    id: str
    changed: int
    finished_ms: int


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


#: By so much a restored store's term is above that of its backup: more often than a leader is started between the two.
#: A term has 23 bits.
RESTORE_TERMS = 65_536
#: Bounds of facts, in bytes; keys in UTF-8.
FACT_KEY_BYTES_MAX = facts.KEY_BYTES_MAX
FACT_VALUE_BYTES_MAX = facts.VALUE_BYTES_MAX
#: Low bits of `changed` and of fences; the term is above them.
TERM_SHIFT = 40


def changed_number(term: int, batch: int) -> int:
    """The number of a batch over all terms; it grows."""
    return term << TERM_SHIFT | batch


class Store(Protocol):
    """A store in use by one leader. Calls may overlap, but one commit is in flight at a time."""

    @property
    def scratch(self) -> Path | None:
        """Where a backup may be made for a moment; what is left there goes when the store is opened.

        None when backups can't be made.
        """
        ...

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
            StoreBlockedError: nothing was written; try the same batch again later.
            StoreLostError: the store is another's, or is no longer where it was; the batch counts for nothing.
            StoreError: whether it was written is unknown; the leader must stop.
        """
        ...

    async def load(self, ids: Sequence[str]) -> list[Record]:
        """The records with these ids, in any order; unknown ids are left out. At most 100,000 ids."""
        ...

    async def briefs(self, ids: Sequence[str]) -> list[Brief]:
        """As load, but only what a removal must know."""
        ...

    def running(self) -> AsyncIterator[list[Record]]:
        """Every running task, in chunks of any order. For a start: nothing may be committed meanwhile."""
        ...

    async def waiting(self) -> list[tuple[LaneKey, int]]:
        """How many tasks are pending and not delayed, for each lane that has any."""
        ...

    async def lane_page(self, lane: LaneKey, after: int, limit: int, bytes_max: int) -> list[Record]:
        """The next tasks of a lane that are pending and not delayed, in the order of seq.

        Args:
            lane: which lane; one that the store does not know has no tasks.
            after: only those with a seq above this.
            limit: how many records at most; at least 1.
            bytes_max: as for `page`.
        """
        ...

    async def delayed(self, after: tuple[int, int] | None, limit: int) -> list[Timer]:
        """The next pending tasks that are delayed, in the order of (time, seq).

        Args:
            after: only those that come after this (time, seq); None starts with the first.
            limit: at most so many.
        """
        ...

    async def expiring(self, after: tuple[int, int] | None, limit: int) -> list[Timer]:
        """The next pending tasks that have an expiry, delayed or not; as `delayed`."""
        ...

    async def delayed_counts(self) -> list[tuple[LaneKey, int]]:
        """How many tasks are pending and delayed, by the lane that they will wait in."""
        ...

    async def facts(self, kind: str, after: str, limit: int, bytes_max: int) -> list[Fact]:
        """The next facts of a kind, in the order of their keys' code points.

        Args:
            kind: which kind; one that the store does not know has no facts.
            after: only those with a key after this; with an empty text it starts with the first.
            limit: at most so many, at least 1.
            bytes_max: stop after the fact that takes the sum of values to this; the first always comes.
        """
        ...

    async def finished_counts(self) -> tuple[int, int]:
        """How many finished tasks there are: those with status ERROR, and the others."""
        ...

    async def finished(self, failed: bool, limit: int) -> list[Finished]:
        """The finished tasks that finished first, in the order of `changed`, which is that of finishing.

        Args:
            failed: those with status ERROR; otherwise the others.
            limit: at most so many.
        """
        ...

    async def last_failed(self, limit: int, bytes_max: int) -> list[Record]:
        """The tasks with status ERROR that finished last, the latest first: descending by (`changed`, seq).

        However many finished tasks there are, it reads only these.

        Args:
            limit: how many records at most; at least 1.
            bytes_max: as for `page`.
        """
        ...

    async def page(self, query: Query, after: int | None, limit: int, bytes_max: int) -> list[Record]:
        """The next tasks that the query selects, in the order of seq (descending when newest_first).

        Args:
            query: which tasks.
            after: go on after this seq; None starts at the end that comes first.
            limit: how many records at most; at least 1.
            bytes_max: stop after the record that takes the sum of body, result and failure to this; the first always
            comes.
        """
        ...

    async def select_finished(self, query: Query, before_ms: int | None, limit: int) -> list[Brief]:
        """The first finished tasks that a query selects, in the order of seq.

        Args:
            query: which tasks; unfinished ones are never selected.
            before_ms: only those that finished before this wall-clock time; None for all.
            limit: at most so many.
        """
        ...

    async def changed_since(self, changed: int, limit: int) -> list[Record]:
        """Tasks whose `changed` is above this, in its order.

        Whole batches, so that a call may answer more than `limit`.
        """
        ...

    async def deleted_since(self, changed: int, limit: int) -> list[tuple[int, str]]:
        """(changed, id) of the removals whose `changed` is above this, in its order.

        Whole batches, so that a call may answer more than `limit`. An id may have been taken again since, by a task
        whose `changed` is at least that of the removal.
        """
        ...

    async def watch_floor(self) -> int:
        """The highest `changed` of the removals that are forgotten; 0 when none is.

        Whoever knows all up to a lower number may have missed removals that `deleted_since` no longer tells.
        """
        ...

    async def backup(self, path: Path) -> None:
        """Copies the store, as it is at one moment, while commits go on. The copy is durable, and whole or not there.

        Whoever is cancelled while it waits for this gives the copy up, and nothing is left of it.

        Args:
            path: where there is nothing yet, in a directory that is there.

        Raises:
            StoreFullError: there is no room for it.
            StoreError: there is something at that path, or it can't be written.
        """
        ...

    async def restore(self, backup: Path) -> None:
        """Makes the store from a backup, before it is opened: durable, and whole or not there.

        Its term is RESTORE_TERMS above what it was when the backup was taken, so that fences grow over what was granted
        since; nobody can go on watching from a token from before.

        Raises:
            StoreFormatError: the backup can't be used. It was left as it is.
            StoreFullError: there is no room.
            StoreError: there is a store already, or it can't be written, or the backup can't be read.
        """
        ...

    async def counts(self) -> Mapping[tuple[str, str, Status], int]:
        """How many tasks there are by (queue, handler, status), counted now."""
        ...
