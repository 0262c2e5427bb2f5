"""What the engine asks of a store. The suite in `gowork.leader.store.conformance` says the same in tests.

A store keeps tasks and facts. The record of a task has what was asked for, which never changes, and where the task
stands. A store decides nothing. With `LoggedStore` it can also follow a log, which several leaders share.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from msgspec import Struct

from gowork.leader._core import facts
from gowork.leader._core.model import Brief, Fact, FactKey, LaneKey, Position, Restored, Standing, Status


class StoreError(Exception):
    """The store can't be used. The message says what to do."""


class StoreLockedError(StoreError):
    """Another leader uses this store."""


class StoreFormatError(StoreError):
    """The store is damaged, has a newer format, or is no store at all. It was left untouched."""


class StoreDamagedError(StoreFormatError):
    """The store is damaged. It was left untouched."""


class StoreGenerationError(StoreError):
    """The store belongs to another generation of the log.

    Args:
        generation: the store's.
        words: the message, which names both.
    """

    def __init__(self, generation: str, words: str) -> None:
        super().__init__(words)
        self.generation = generation


class StoreBlockedError(StoreError):
    """Nothing can be written now. Nothing of this batch was written, and the same batch may be tried again."""


class StoreFullError(StoreBlockedError):
    """There is no room for this batch now."""


class StoreBusyError(StoreBlockedError):
    """Another program holds the store's write lock now."""


class StoreLostError(StoreError):
    """The store is no longer this leader's: it was moved, deleted or replaced, or another leader has opened it."""


class StoreEntryError(StoreError):
    """An entry of the log contradicts the store. Nothing was written.

    Args:
        index: the entry's index.
        why: what contradicts what.
    """

    def __init__(self, index: int, why: object) -> None:
        super().__init__(f"Entry {index} of the log can't be applied: {why}")
        self.index = index


class Record(Struct, frozen=True, gc=False):
    """A task as stored."""

    #: Its number in the order of submission; the primary key.
    seq: int
    #: The client's name for the task; unique.
    id: str
    #: The number of the batch that wrote it last: term << 40 | batch; see `changed_number`.
    changed: int
    #: The serialized task as the client asked for it.
    body: bytes
    standing: Standing


class NewTask(Struct, frozen=True, gc=False):
    """A task that is written for the first time, with the values that scans and queries select by."""

    record: Record
    #: The lane that it waits in, which also has its queue, handler and priority.
    lane: LaneKey
    #: Sorted by key.
    labels: tuple[tuple[str, str], ...]
    #: When it expires unless it has started, in wall-clock milliseconds; 0: never.
    expires_ms: int
    #: The standing as bytes, which a store that follows a log keeps as they are. Empty: it is not encoded yet.
    state: bytes = b""


class MovedTask(Struct, frozen=True, gc=False):
    """A stored task whose standing has changed."""

    seq: int
    changed: int
    #: When it is PENDING with `not_before_ms` above 0, the task is *delayed* until that time. With 0 it may run now.
    standing: Standing
    #: Must be given, with `expires_ms`, when a finished task is PENDING again, because a store may have forgotten both.
    #: None leaves both as they are.
    lane: LaneKey | None = None
    expires_ms: int = 0
    #: See NewTask.state.
    state: bytes = b""


class DeletedTask(Struct, frozen=True, gc=False):
    """A stored task that is removed. Only a tombstone stays, so that watchers can be told of the removal."""

    seq: int
    id: str
    #: The number of the batch that removes it.
    changed: int


class Batch(Struct, frozen=True, gc=False):
    """What one commit writes: all of it or nothing."""

    inserts: Sequence[NewTask] = ()
    #: Each task at most once, and none that is in `inserts`.
    moves: Sequence[MovedTask] = ()
    #: None that is in `moves`. Deletes are done before inserts, so an insert may have the id of a deleted task.
    deletes: Sequence[DeletedTask] = ()
    #: Each fact at most once. It replaces the stored fact with the same kind and key. A store takes any kind, any key
    #: up to FACT_KEY_BYTES_MAX and any value up to FACT_VALUE_BYTES_MAX, and decides nothing by them.
    facts: Sequence[Fact] = ()
    #: Facts that are removed, before `facts` are written. Unknown ones are left out.
    facts_gone: Sequence[FactKey] = ()
    #: Tombstones whose `changed` is below this are dropped; see Store.watch_floor.
    tombstones_before: int = 0


class Timer(NamedTuple):
    """A pending task with the time at which it may start, or expires."""

    #: In wall-clock milliseconds.
    at_ms: int
    seq: int
    id: str


class Finished(Struct, frozen=True, gc=False):
    """A finished task, as retention sees it."""

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
    """What a store says when it is opened."""

    #: Higher than at every opening before; the high bits of fences and of `changed`.
    term: int
    #: Names this store among all stores; hexadecimal.
    identity: str
    #: Higher than every seq in the store.
    next_seq: int
    #: Where it stands in the log that it belongs to; None when it belongs to none.
    position: Position | None = None
    #: Names this store among those of all leaders; hexadecimal. A copy and a restored store have names of their own. A
    #: store that can't follow a log has none.
    store_id: str = ""
    #: What tells which tasks came with the last backup that it, or the store that it is a copy of, was restored from.
    #: None: with none. Where a store does not say, tasks that must not run twice may do so after a restore.
    restored: Restored | None = None


#: By how many terms a restored store is above its backup. It is more than the number of times that a leader is started
#: between backup and restore. A term has 23 bits.
RESTORE_TERMS = 65_536
#: The longest key of a fact, in bytes of UTF-8, and the largest value, in bytes.
FACT_KEY_BYTES_MAX = facts.KEY_BYTES_MAX
FACT_VALUE_BYTES_MAX = facts.VALUE_BYTES_MAX
#: How many low bits of `changed` and of fences count batches and grants. The term is above them.
TERM_SHIFT = 40
#: The last term. With it, `changed` and fences still have 63 bits.
TERM_MAX = (1 << 63 - TERM_SHIFT) - 1
#: From this term on, a leader warns that there are no more terms soon.
TERM_WARNING = TERM_MAX + 1 - (1 << 17)


def changed_number(term: int, batch: int) -> int:
    """Returns the number of a batch over all terms. A later batch has a higher one."""
    return term << TERM_SHIFT | batch


class Store(Protocol):
    """A store in use by one leader. Calls may overlap, but one commit is in flight at a time."""

    @property
    def scratch(self) -> Path | None:
        """Where a backup may be made for a moment. `open` removes what is left there.

        None when backups can't be made.
        """
        ...

    async def open(self) -> Opened:
        """Opens the store for this process alone, creates it when there is none, and raises its term durably.

        Raises:
            StoreLockedError, StoreFormatError.
            StoreError: it belongs to a log, or can't be used.
        """
        ...

    async def close(self) -> None:
        """Waits for the commit in flight and closes. Harmless when repeated."""
        ...

    async def commit(self, batch: Batch) -> None:
        """Makes the batch durable, whole.

        Raises:
            StoreBlockedError: nothing was written; try the same batch again later.
            StoreLostError: the store belongs to another leader, or is no longer where it was; the batch does not count.
            StoreError: whether the batch was written is unknown; the leader must stop.
        """
        ...

    async def load(self, ids: Sequence[str]) -> list[Record]:
        """Returns the records with these ids, at most 100,000, in any order. Unknown ids are left out."""
        ...

    async def standings(self, ids: Sequence[str]) -> list[tuple[str, Standing]]:
        """Does as `load`, but returns (id, where the task stands), and reads no bodies."""
        ...

    async def briefs(self, ids: Sequence[str]) -> list[Brief]:
        """Does as `load`, but returns only what a removal needs to know."""
        ...

    def running(self) -> AsyncIterator[list[Record]]:
        """Yields every running task, in chunks, in any order. Nothing may be committed meanwhile."""
        ...

    async def waiting(self) -> list[tuple[LaneKey, int]]:
        """Returns (lane, how many of its tasks are pending and not delayed) for each lane that has any."""
        ...

    async def lane_page(self, lane: LaneKey, after: int, limit: int, bytes_max: int) -> list[Record]:
        """Returns the next tasks of a lane that are pending and not delayed, in the order of seq.

        Args:
            lane: the lane. A lane that the store does not know has no tasks.
            after: only tasks with a seq above this.
            limit: the most records to return; at least 1.
            bytes_max: as for `page`.
        """
        ...

    async def delayed(self, after: tuple[int, int] | None, limit: int) -> list[Timer]:
        """Returns the next pending tasks that are delayed, in the order of (time, seq).

        Args:
            after: only tasks after this (time, seq); None starts with the first.
            limit: the most timers to return.
        """
        ...

    async def expiring(self, after: tuple[int, int] | None, limit: int) -> list[Timer]:
        """Does as `delayed` for pending tasks that have an expiry, whether they are delayed or not."""
        ...

    async def delayed_counts(self) -> list[tuple[LaneKey, int]]:
        """Returns (lane, how many pending tasks are delayed that will wait in it) for each lane that has any."""
        ...

    async def facts(self, kind: str, after: str, limit: int, bytes_max: int) -> list[Fact]:
        """Returns the next facts of a kind, in the order of their keys' code points.

        Args:
            kind: the kind. A kind that the store does not know has no facts.
            after: only facts with a key after this; an empty text starts with the first.
            limit: the most facts to return; at least 1.
            bytes_max: stop after the fact that brings the sum of values to this. The first always comes.
        """
        ...

    async def finished_counts(self) -> tuple[int, int]:
        """Returns how many finished tasks have the status ERROR, and how many have another."""
        ...

    async def finished(self, failed: bool, limit: int, after: tuple[int, int] = (0, 0)) -> list[Finished]:
        """Returns the tasks that finished first, ascending by (`changed`, seq), which is the order of finishing.

        Args:
            failed: True: tasks with status ERROR; False: the others.
            limit: the most tasks to return.
            after: only tasks after this (`changed`, seq).
        """
        ...

    async def last_failed(self, limit: int, bytes_max: int) -> list[Record]:
        """Returns the tasks with status ERROR that finished last, the latest first: descending by (`changed`, seq).

        It must read only these, however many finished tasks there are.

        Args:
            limit: the most records to return; at least 1.
            bytes_max: as for `page`.
        """
        ...

    async def page(self, query: Query, after: int | None, limit: int, bytes_max: int) -> list[Record]:
        """Returns the next tasks that the query selects, in the order of seq (descending when newest_first).

        Args:
            query: which tasks.
            after: go on after this seq; None starts at the end that comes first.
            limit: the most records to return; at least 1.
            bytes_max: stop after the record that brings the sum of body, result and failure to this. The first always
            comes.
        """
        ...

    async def select_finished(self, query: Query, before_ms: int | None, limit: int) -> list[Brief]:
        """Returns the first finished tasks that a query selects, in the order of seq.

        Args:
            query: which tasks; unfinished ones are never selected.
            before_ms: only tasks that finished before this wall-clock time; None: all.
            limit: the most tasks to return.
        """
        ...

    async def children(self, groups: Sequence[tuple[str, int]]) -> list[Mapping[Status, int]]:
        """Counts the children of each of these groups by their status. A status that none has may be left out.

        Children are the tasks whose ids are the group's, a slash, and one part without a slash.

        Args:
            groups: at most 1,000 of (id of the group, seq: only tasks with a higher one are children).
        """
        ...

    async def changed_since(self, changed: int, limit: int) -> list[Record]:
        """Returns the tasks whose `changed` is above this, in the order of `changed`.

        It returns whole batches, so there may be more than `limit`.
        """
        ...

    async def deleted_since(self, changed: int, limit: int) -> list[tuple[int, str]]:
        """Returns (changed, id) of the removals whose `changed` is above this, in the order of `changed`.

        It returns whole batches, so there may be more than `limit`. A newer task may have such an id. Its `changed` is
        at least that of the removal.
        """
        ...

    async def watch_floor(self) -> int:
        """Returns the highest `changed` of the tombstones that were dropped; 0 when none was.

        A watcher that knows all up to a lower number may have missed removals that `deleted_since` no longer returns.
        """
        ...

    async def backup(self, path: Path) -> None:
        """Copies the store, as it is at one moment, while commits go on. The copy is durable, and whole or not there.

        When the caller is cancelled, the copy is given up and nothing is left of it.

        Args:
            path: where there is nothing yet, in a directory that exists.

        Raises:
            StoreFullError: there is no room for the copy.
            StoreError: there is something at that path, or it can't be written.
        """
        ...

    async def restore(self, backup: Path, above: int = 0) -> None:
        """Makes the store from a backup, before it is opened. The store is durable, and whole or not there.

        Its term is RESTORE_TERMS above that of the backup, so that new fences are above all that were granted after the
        backup. Watch tokens from before are no longer valid. It belongs to no log.

        Args:
            backup: the backup.
            above: a term that is known to have been given; the store's is RESTORE_TERMS above this one, too.

        Raises:
            StoreFormatError: the backup can't be used. It was left as it is.
            StoreFullError: there is no room.
            StoreError: there is a store already, or it can't be written, or the backup can't be read.
        """
        ...

    async def counts(self) -> Mapping[tuple[str, str, Status], int]:
        """Counts the tasks now: {(queue, handler, status): tasks}."""
        ...


class LoggedStore(Store, Protocol):
    """A store that can follow a log, which several leaders share.

    It stands at a position of the log. `open_logged` takes the place of `open`. `prepare` with `settle`, or `apply`,
    take the place of `commit`: they write entries and the position together, so that the store is always an exact
    prefix of the log. They need not force each entry to disk, because the log has it: after a power cut the store is a
    shorter prefix. `force` says how much is on disk.
    """

    async def open_logged(self, generation: str | None) -> Opened:
        """Opens the store for this process alone, to use it with a log. Creates it when there is none.

        Neither its content nor its term changes.

        Args:
            generation: the id of the log's generation. Allowed are a store that belongs to it, an empty store that
                belongs to none, and a store whose own id names the generation, because it has begun it. None: the
                caller is going to begin a generation. Allowed are a store that belongs to none, and one that has
                applied no entry of its generation, which is the one to begin.

        Raises:
            StoreLockedError, StoreFormatError.
            StoreGenerationError: it belongs to another generation.
            StoreError: it is not empty and belongs to none, or the log that it belongs to has not begun.
        """
        ...

    async def join_log(self, position: Position, term: int) -> None:
        """Makes the open store belong to a log, durably.

        Args:
            position: where it stands in the log.
            term: its new term, at least as high as its present one.

        Raises:
            StoreBlockedError: nothing was written; try again later.
            StoreError: it belongs to a log already, or has a higher term.
        """
        ...

    async def current(self) -> Opened:
        """Returns what `open_logged` would return now. What is prepared is not in it.

        What a call that was cancelled still writes is in it.
        """
        ...

    async def prepare(self, batch: Batch, position: Position, term: int) -> None:
        """Writes a batch so far that only `settle` is missing. Nobody sees it until then, and it may still be given up.

        A store keeps room for what is prepared. Without it, nothing is prepared.

        Args:
            batch: the batch.
            position: where the store stands after it, which is one entry further than now.
            term: the entry's term, which becomes the store's.

        Raises:
            StoreBlockedError: nothing was written; try the same batch again later.
            StoreLostError: the store has a higher term, or is no longer where it was.
            StoreEntryError: the batch contradicts the store.
            StoreError: the store stands somewhere else, or is not open for a log.
        """
        ...

    async def settle(self) -> None:
        """Makes what was prepared part of the store. When the disk is full, the room that was kept for it is used.

        Raises:
            StoreError: nothing was prepared, or it was not written. The leader must stop.
        """
        ...

    async def give_up(self) -> None:
        """Takes back what was prepared. Harmless when nothing is prepared. `close` does so too."""
        ...

    async def apply(self, entries: Sequence[tuple[Batch | None, Position, int]]) -> None:
        """Writes the next entries of the log, all or none.

        Args:
            entries: (batch, position after it, term) of each, in order and without a gap; a batch of None moves the
                position and the term alone.

        Raises:
            StoreBlockedError: nothing was written; try the same entries again later.
            StoreLostError: the store has a higher term than an entry.
            StoreEntryError: an entry contradicts the store; the error names its index.
            StoreError: the store stands somewhere else, or is not open for a log.
        """
        ...

    async def force(self) -> Position:
        """Forces to disk what the store has. Returns a position; all up to it survives a power cut.

        It may take as long as a backup or a digest that is being made. Commits go on meanwhile.

        Raises:
            StoreBlockedError: try again later.
            StoreError: the store is not open for a log.
        """
        ...

    async def force_each(self, each: bool) -> None:
        """Says whether each entry is to be on disk before `settle` or `apply` returns. At first it need not be.

        It holds from the next entry on, until the store is closed.

        Raises:
            StoreError: the store is not open for a log.
        """
        ...

    async def has_room(self) -> bool:
        """Returns whether it could lead for a while: it keeps room for what is prepared, and there is more besides.

        Raises:
            StoreError: the store is not open for a log.
        """
        ...

    async def digest(self, begun: asyncio.Event | None = None) -> bytes:
        """Returns a SHA-256 over all tasks, facts, tombstones, term and position, as they are at one moment.

        Stores of one kind that have applied the same entries have the same one.

        Args:
            begun: is set when the moment has come: what is settled or applied later is not in the digest. It is set
                when the digest fails, too.

        Raises:
            StoreError: it closes.
        """
        ...

    @property
    def copy_format(self) -> int:
        """The format of its copies, which is also the highest that it can be made from."""
        ...

    async def check_copy(self, backup: Path) -> tuple[int, Position]:
        """Checks all of a backup of a store like this one. It may be called at any time, and needs no store.

        Returns:
            The backup's format, and where it stands in its log.

        Raises:
            StoreFormatError: it can't be used, or belongs to no log. It was left as it is.
            StoreError: it can't be read.
        """
        ...

    async def install_copy(self, backup: Path) -> None:
        """Makes the store from a backup of another leader's store, before it is opened. It is whole or not there.

        It has the backup's term and position, and an id of its own.

        Raises:
            StoreFormatError: the backup can't be used, or belongs to no log. It was left as it is.
            StoreFullError: there is no room.
            StoreError: there is a store already, or it can't be written, or the backup can't be read.
        """
        ...

    async def set_aside(self) -> Path:
        """Gives the closed store another name, so that a copy can take its place. Returns that name.

        Raises:
            StoreLockedError: a leader uses it.
            StoreError: there is none, or it can't be renamed.
        """
        ...

    async def detach(self) -> None:
        """Makes the closed store belong to no log, so that `open` opens it.

        Like `restore`, it raises the term by RESTORE_TERMS and makes watch tokens from before invalid, because the log
        may have gone on without this store.

        Raises:
            StoreLockedError: a leader uses it.
            StoreError: there is none, it belongs to no log, or it can't be written.
        """
        ...
