"""Makes the batches of one term durable: in a store alone, or in a log that several leaders share and then in a store.

Invariant LOG-FIRST: a store commits an entry only when the log has it. So a store never has what the log has not.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Protocol

from gowork.leader._replication.replica import Replica
from gowork.leader.log.entries import FORMAT_FIRST, Kind, seal
from gowork.leader.log.protocol import Leadership, LeadershipLostError, LogFullError, LogRefusedError
from gowork.leader.store.batches import encode_batch
from gowork.leader.store.protocol import Batch, LoggedStore, Opened, Store, StoreBlockedError


class LogBlockedError(StoreBlockedError):
    """The log takes nothing now. Nothing of this batch was written, and the same batch may be tried again."""


class Journal(Protocol):
    """Makes batches durable while a leader leads. One batch is under way at a time."""

    async def open(self) -> Opened:
        """Begins. See Store.open."""
        ...

    async def commit(self, batch: Batch) -> None:
        """Makes the batch durable, whole. When it returns, this leader still led when the batch became durable.

        Raises:
            StoreBlockedError: nothing was written; try the same batch again later.
            LeadershipLostError: this leader leads no more. Whether the batch counts is unknown.
            StoreError, LogError: the leader must stop.
        """
        ...

    async def confirm(self) -> None:
        """Returns if this leader still led at some time after the call.

        Raises:
            LeadershipLostError: it leads no more.
        """
        ...

    def leads(self) -> bool:
        """Whether nothing is known yet that has ended the leadership, its own lease included. It asks nobody."""
        ...

    async def resign(self) -> None:
        """Gives up the leadership, so that another leader can take over at once. Nothing can be committed after it."""
        ...

    async def close(self) -> None:
        """Ends. What was committed stays. Harmless when repeated."""
        ...


class LoneJournal:
    """The journal of a leader that is alone with its store. The store's lock keeps all others away."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.open = store.open
        self.commit = store.commit
        self.close = store.close

    async def confirm(self) -> None:
        """See Journal.confirm."""

    def leads(self) -> bool:
        """See Journal.leads."""
        return True

    async def resign(self) -> None:
        """See Journal.resign. Nobody else waits to lead."""


class LoggedJournal:
    """The journal of a leader that shares a log with others.

    Args:
        store: has applied all of the log.
        replica: the store's place in the log.
        leadership: the right to append.
        begun: the body of the term's first entry.
        entry_format: the format of the log's last entry.
    """

    def __init__(
        self,
        store: LoggedStore,
        replica: Replica,
        leadership: Leadership,
        begun: bytes,
        entry_format: int = FORMAT_FIRST,
    ) -> None:
        self._store = store
        self._replica = replica
        self._leadership = leadership
        self._begun = begun
        #: The format of the entries that it appends.
        self.format = entry_format
        #: Why no batch is taken now; empty: batches are taken.
        self.refused = ""
        #: One entry is appended at a time.
        self._appending = asyncio.Lock()

    async def open(self) -> Opened:
        """See Journal.open. It appends the first entry of the term, with which the store gets the term.

        Raises:
            LogFullError, LogRefusedError: the term can't begin.
        """
        await self._write(Batch(), Kind.TERM, self._begun)
        return await self._store.current()

    async def commit(self, batch: Batch) -> None:
        """See Journal.commit.

        The store writes first, in a transaction that stays open, because it may refuse what the log would take.
        """
        if self.refused:
            raise LogBlockedError(self.refused)
        try:
            await self._write(batch, Kind.BATCH, encode_batch(batch))
        except (LogFullError, LogRefusedError) as error:
            raise LogBlockedError(str(error)) from error

    async def check(self) -> int:
        """Appends a check, and returns its index when the store has begun its digest. No batch is written meanwhile.

        Raises:
            LogFullError, LogRefusedError, StoreBlockedError: nothing was written.
            LeadershipLostError, StoreError, LogError: as for `commit`.
        """
        async with self._appending:
            index = await self._append(Batch(), Kind.CHECK, b"")
            await self._replica.check(index)
        return index

    async def raise_format(self, raised: int) -> None:
        """Appends the entry from which on entries have a higher format.

        Raises:
            LogFullError, LogRefusedError, StoreBlockedError: nothing was written.
            LeadershipLostError, StoreError, LogError: as for `commit`.
        """
        async with self._appending:
            await self._append(Batch(), Kind.FORMAT, b"", raised)
            self.format = raised

    async def resign(self) -> None:
        """See Journal.resign."""
        await self._leadership.resign()

    async def confirm(self) -> None:
        """See Journal.confirm."""
        await self._leadership.confirm()

    def leads(self) -> bool:
        """See Journal.leads."""
        return self._leadership.holds()

    async def close(self) -> None:
        """See Journal.close. The store stays open, because it follows the log again."""
        await self._store.give_up()

    async def _write(self, batch: Batch, kind: Kind, body: bytes) -> None:
        async with self._appending:
            await self._append(batch, kind, body)

    async def _append(self, batch: Batch, kind: Kind, body: bytes, raised: int = 0) -> int:
        """Appends an entry, and returns its index."""
        term = self._leadership.leader.term
        entry_format = raised or self.format
        data, position = seal(self._replica.position, term, kind, body, secrets.token_bytes(8), entry_format)
        await self._store.prepare(batch, position, term)
        try:
            await self._leadership.append(position.index, data)
        except BaseException:
            # Also when it is cancelled: whether the log has the entry is then unknown, and the store follows the log.
            await self._store.give_up()
            raise
        try:
            await self._store.settle()
        except StoreBlockedError as error:
            # The batch counts, because the log has it. The store applies it when there is room.
            words = f"term {term} ends, because its last entry, {position.index}, is in the log alone: {error}"
            raise LeadershipLostError(words) from error
        self._replica.moved_to(position, term, len(data), entry_format)
        # The batch is durable, and counts. But after the own lease nothing may leave, because another may lead by then.
        if not self._leadership.holds():
            raise LeadershipLostError(f"term {term} ended while its last batch became durable")
        return position.index
