"""A leader on a store in memory and a log in memory, for tests of what it does beside its batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import cached_property

from memory_log import MemoryLog, MemoryPlace
from memory_store import MemoryStore, Shelf

from gowork.leader._core.model import Now
from gowork.leader._replication.announcement import Announcement
from gowork.leader._replication.candidacy import join
from gowork.leader._replication.comparison import Comparison
from gowork.leader._replication.journal import LoggedJournal
from gowork.leader._replication.pruning import Pruning
from gowork.leader._replication.registers import Registration, encode, registered
from gowork.leader._replication.replica import Replica
from gowork.leader._replication.upkeep import Upkeep
from gowork.leader._replication.weight import Weight
from gowork.leader.log import Candidate, LogFullError, Span
from gowork.leader.store import Batch, Fact, Position

#: The wall clock when the loop's time is 0.
WALL_MS = 1_000_000_000_000
#: How many bytes the value has that an entry of these tests writes. The entry has little more.
VALUE_BYTES = 10_000


def now() -> Now:
    time = asyncio.get_running_loop().time()
    return Now(WALL_MS + int(time * 1000), time)


def announcement(store_id: str) -> Announcement:
    return Announcement(f"leader of {store_id}", "c:1", "s:1", "h:1", store_id, "1.0")


class ForcedStore(MemoryStore):
    """A store that notes how it is forced."""

    def __init__(self) -> None:
        super().__init__(Shelf(), "one")
        self.forces = 0
        self.forces_each = False
        #: What `force` says instead of all that there is.
        self.forced: int | None = None

    async def force(self) -> Position:
        position = await super().force()
        self.forces += 1
        if self.forced is None:
            return position
        return Position(position.generation, self.forced, position.hash)

    async def force_each(self, each: bool) -> None:
        self.forces_each = each


class FullLog(MemoryLog):
    """A log that can be full for notes."""

    is_full = False

    async def put_note(self, key: str, value: bytes, seconds: float | None = None) -> None:
        if self.is_full:
            raise LogFullError("no room; use defrag")
        await super().put_note(key, value, seconds)


class LoneLeader:
    """Leads from `lead` on."""

    def __init__(self) -> None:
        self.store = ForcedStore()
        self.log = FullLog(MemoryPlace())
        self.told: list[str | None] = []

    async def lead(self, *, may_be_one_copy: bool = True) -> None:
        opened = await join(self.store, await self.store.open_logged(None), self.log)
        assert opened is not None
        assert opened.position is not None
        self.store_id = opened.store_id
        self.weight = Weight(opened.position.index)
        replica = Replica(self.store, opened, self.weight)
        candidate = Candidate(opened.position.generation, opened.position.index, opened.term, b"one")
        self.leadership = await self.log.campaign(candidate)
        self.journal = LoggedJournal(self.store, replica, self.leadership, b"begun")
        self.pruning = self.make_pruning(self.weight, may_be_one_copy=may_be_one_copy)
        await self.journal.open()

    def make_pruning(
        self, weight: Weight, *, may_be_one_copy: bool = True, shared: Callable[[], int] | None = None
    ) -> Pruning:
        return Pruning(
            self.log,
            self.leadership,
            self.store,
            self.store_id,
            self.journal,
            weight,
            now,
            may_be_one_copy=may_be_one_copy,
            shared=shared,
            tell=self.told.append,
        )

    @cached_property
    def comparison(self) -> Comparison:
        return Comparison(self.store, lambda: now().mono)

    def make_upkeep(self, gone: Iterable[str] = ()) -> Upkeep:
        return Upkeep(
            self.store,
            self.log,
            announcement(self.store_id),
            self.weight,
            self.comparison,
            lambda: now().wall_ms,
            gone=gone,
            told_full=self.told.append,
        )

    async def write(self, entries: int, value_bytes: int = VALUE_BYTES) -> None:
        """Appends entries."""
        for _ in range(entries):
            await self.journal.commit(Batch(facts=[Fact("notes", "a", bytes(value_bytes))]))

    async def register(self, store_id: str, forced: int, *, seen_ms: int | None = None) -> None:
        """Registers a store; "own" is the leader's own."""
        store_id = self.store_id if store_id == "own" else store_id
        wall_ms = now().wall_ms if seen_ms is None else seen_ms
        registration = Registration(announcement(store_id), forced, forced, wall_ms, 1)
        await self.log.put_note(registration.key(), encode(registration))

    async def registered(self) -> dict[str, int]:
        """What each store has forced, by its id."""
        return {store_id: each.forced for store_id, each in (await registered(self.log)).items()}

    @property
    def span(self) -> Span:
        return self.log.place.span
