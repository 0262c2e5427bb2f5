"""Reads the log while a run is on. Then checks it, and that each leader's store is an exact prefix of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from gowork.leader._core.model import Position
from gowork.leader._replication import announcement
from gowork.leader._replication.replica import Replica, TermBegun
from gowork.leader.log.entries import NO_HASH, ChainError, Kind, unseal
from gowork.leader.log.protocol import Generation, Leader, Log, LogEntry, LogError, LogUnreachableError
from gowork.leader.log.registry import open_log
from gowork.leader.store.batches import decode_batch
from gowork.leader.store.protocol import TERM_SHIFT, StoreError
from gowork.leader.store.sqlite import SqliteStore

#: How many entries a store applies at once.
_PAGE_ENTRIES = 100


class LogReader:
    """Reads all entries as they come, and watches who leads."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.generation: Generation | None = None
        self.entries: list[LogEntry] = []
        self.leader: Leader | None = None
        self._news = asyncio.Condition()

    async def leading(self, after: Leader | None = None) -> str:
        """Returns the name of who leads, as soon as somebody does.

        Args:
            after: does not count.
        """
        async with self._news:
            await self._news.wait_for(lambda: self.leader not in (None, after))
        assert self.leader is not None
        return announcement.decode(self.leader.announcement).name

    async def all_read(self) -> None:
        """Returns when it has read as far as the log goes."""
        last = (await self._log.span()).last
        async with self._news:
            await self._news.wait_for(lambda: len(self.entries) >= last)

    async def run(self) -> None:
        """Reads until it is cancelled. The log must have begun."""
        self.generation = await self._log.generation()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._watch())

    async def _read(self) -> None:
        while True:
            try:
                async with aclosing(self._log.follow(len(self.entries))) as pages:
                    async for page in pages:
                        async with self._news:
                            self.entries += page
                            self._news.notify_all()
            except LogUnreachableError:
                continue

    async def _watch(self) -> None:
        while True:
            try:
                async with aclosing(self._log.leaders()) as leaders:
                    async for leader in leaders:
                        async with self._news:
                            self.leader = leader
                            self._news.notify_all()
            except LogUnreachableError:
                continue


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[LogReader]:
    """Yields what reads this log, and ends it."""
    log = open_log(url)
    await log.open()
    reader = LogReader(log)
    running = asyncio.ensure_future(reader.run())
    try:
        yield reader
    finally:
        running.cancel()
        await asyncio.wait({running})
        await log.close()
    if not running.cancelled():
        running.result()


@dataclass
class LogChecks:
    """What is wrong with a log, and what it says."""

    found: list[str] = field(default_factory=list)
    #: {term: the name of its leader}
    terms: dict[int, str] = field(default_factory=dict)
    #: The number of grants.
    grants: int = 0
    #: {index: the position after this entry}
    positions: dict[int, Position] = field(default_factory=dict)


def check_log(generation: Generation, entries: Sequence[LogEntry]) -> LogChecks:
    """Checks the chain, the terms, and the fences of a log that nothing was pruned from."""
    checks = LogChecks()
    position = Position(generation.id, generation.base, NO_HASH)
    checks.positions[position.index] = position
    term, changed, highest = generation.term_floor, 0, 0
    #: {seq: fence}
    fences: dict[int, int] = {}
    for found in entries:
        try:
            entry, position = unseal(position, found.index, found.data)
        except ChainError as error:
            checks.found.append(f"the entries form one chain: {error}")
            return checks
        checks.positions[entry.index] = position
        at = f"entry {entry.index} of term {entry.term}"
        if entry.kind is Kind.TERM:
            if entry.term <= term:
                checks.found.append(f"each term has one leader, and terms only grow: {at}, after term {term}")
            term = entry.term
            checks.terms[term] = announcement.decode(_leader(entry.body)).name
            continue
        if entry.term != term:
            checks.found.append(f"a term begins with the entry that names its leader: {at}, in term {term}")
        batch = decode_batch(entry.body)
        written = [(new.record.seq, new.record.changed, new.record.standing) for new in batch.inserts]
        written += [(moved.seq, moved.changed, moved.standing) for moved in batch.moves]
        granted = []
        for seq, number, standing in written:
            if number >> TERM_SHIFT != entry.term or number < changed:
                checks.found.append(f"changes are numbered by term and batch: {number:x} in {at}, after {changed:x}")
            if standing.fence not in (0, fences.get(seq, 0)):
                granted.append(standing.fence)
            fences[seq] = standing.fence
        changed = max([changed, *(number for _, number, _ in written)])
        for fence in sorted(granted):
            if fence <= highest:
                checks.found.append(f"fences only grow, and each is granted once: {fence:x} in {at}, after {highest:x}")
            if fence >> TERM_SHIFT != entry.term:
                checks.found.append(f"a fence carries its term: {fence:x} in {at}")
            highest = max(highest, fence)
        checks.grants += len(granted)
        for deleted in batch.deletes:
            fences.pop(deleted.seq, None)
    return checks


async def check_stores(
    folder: Path, generation: Generation, entries: Sequence[LogEntry], checks: LogChecks, stores: dict[str, Path]
) -> list[str]:
    """Checks that each store stands at a position of the log, and equals one that has applied all of the log.

    Args:
        folder: for a store that applies the whole log.
        generation: that of the log.
        entries: all entries.
        checks: what was found out about them.
        stores: {leader: where its store is}. No leader uses them any more. What they lack is applied to them.
    """
    found: list[str] = []
    digests: dict[str, bytes] = {}
    async with AsyncExitStack() as opened:
        reference = SqliteStore(folder / "reference.db")
        opened.push_async_callback(reference.close)
        await reference.open_logged(None)
        await reference.join_log(checks.positions[generation.base], generation.term_floor)
        await _apply(reference, entries)
        expected = await reference.digest()
        for name, path in stores.items():
            store = SqliteStore(path)
            opened.push_async_callback(store.close)
            try:
                position = (await store.open_logged(generation.id)).position
                assert position is not None
                if checks.positions.get(position.index) != position:
                    found.append(f"a store is a prefix of the log: that of {name} stands at {position}")
                    continue
                await _apply(store, entries[position.index - generation.base :])
                digests[name] = await store.digest()
            except (StoreError, ChainError, LogError) as error:
                found.append(f"a store is a prefix of the log: that of {name}: {error}")
    found += [
        f"stores that have applied the same entries are equal: that of {name} differs from one that applied the log"
        for name, digest in digests.items()
        if digest != expected
    ]
    return found


async def _apply(store: SqliteStore, entries: Sequence[LogEntry]) -> None:
    replica = Replica(store, await store.current())
    for start in range(0, len(entries), _PAGE_ENTRIES):
        await replica.apply(entries[start : start + _PAGE_ENTRIES])


def _leader(body: bytes) -> bytes:
    return msgspec.msgpack.decode(body, type=TermBegun).announcement
