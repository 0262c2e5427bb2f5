"""An example of a log: all of it in memory, for as long as the process lives. Tests can have it fail.

It is as plain as the protocol allows. Its time is that of the event loop.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncGenerator, Mapping, Sequence

from gowork.leader.log import (
    FOLLOW_SECONDS,
    Candidate,
    Generation,
    GenerationError,
    Leader,
    LeadershipLostError,
    LogDamagedError,
    LogEntry,
    LogUnreachableError,
    NotElectedError,
    PrunedError,
    Span,
    ends_before,
    next_term,
)

LEASE_SECONDS = 3.0
#: How many entries a page has at most.
PAGE_ENTRIES = 16


class Doubt(enum.Enum):
    """What became of an append whose leader never learns it."""

    WRITTEN = 1
    NOT_WRITTEN = 2


def now() -> float:
    return asyncio.get_running_loop().time()


class MemoryPlace:
    """What the processes of one cluster share. Its methods return at once, as one transaction each."""

    def __init__(self) -> None:
        self.generation: Generation | None = None
        self.entries: dict[int, bytes] = {}
        self.span = Span(1, 0)
        self._notes: dict[str, tuple[bytes, float]] = {}
        self._term = 0
        self._tokens = 0
        self._leader: Leader | None = None
        #: When the lease of the leader ends.
        self._until = 0.0
        #: Is set, and replaced by a new one, with each change.
        self._changed = asyncio.Event()

    def changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self, until: float) -> None:
        """Returns after the next change, or at that time."""
        changed = self._changed
        try:
            async with asyncio.timeout_at(until):
                await changed.wait()
        except TimeoutError:
            pass

    def leader(self) -> tuple[Leader | None, float]:
        """Who leads, and until when without a keepalive."""
        if self._leader is not None and now() >= self._until:
            self._leader = None
            self.changed()
        return self._leader, self._until

    def holds(self, token: int) -> bool:
        leader, _ = self.leader()
        return leader is not None and leader.token == token

    def renew(self, token: int) -> bool:
        if not self.holds(token):
            return False
        self._until = now() + LEASE_SECONDS
        return True

    def depose(self, token: int) -> bool:
        if not self.holds(token):
            return False
        self._leader = None
        self.changed()
        return True

    def begin(self, generation: Generation, replaces: str | None) -> None:
        before = self.generation.id if self.generation is not None else None
        if before != replaces:
            raise GenerationError(f"the log has generation {before}, not {replaces}")
        self.generation = generation
        self.entries, self._notes, self._leader = {}, {}, None
        self.span = Span(generation.base + 1, generation.base)
        self._term = generation.term_floor
        self.changed()

    def elect(self, candidate: Candidate) -> Leader:
        if self.generation is None or self.generation.id != candidate.generation:
            raise GenerationError(f"the log has generation {self.generation}, not {candidate.generation}")
        if self.leader()[0] is not None:
            raise NotElectedError("another leader leads")
        if candidate.applied > self.span.last:
            raise ends_before(candidate.applied, self.span.last)
        if candidate.applied < self.span.first - 1:
            raise NotElectedError(f"the store has applied entry {candidate.applied}, and the log has {self.span}")
        self._term = next_term(self._term, candidate.term)
        self._tokens += 1
        self._leader = Leader(self._term, self._tokens, candidate.announcement)
        self._until = now() + LEASE_SECONDS
        self.changed()
        return self._leader

    def append(self, token: int, index: int, data: bytes) -> None:
        if not self.holds(token):
            raise LeadershipLostError("another leader leads, or none")
        if index != self.span.last + 1:
            raise LogDamagedError(f"the log has {self.span}, and entry {index} does not come next")
        self.entries[index] = data
        self.span = self.span._replace(last=index)
        self.changed()

    def prune(self, token: int, before: int) -> None:
        if not self.holds(token):
            raise LeadershipLostError("another leader leads, or none")
        first = max(self.span.first, min(before, self.span.last))
        for index in range(self.span.first, first):
            del self.entries[index]
        self.span = self.span._replace(first=first)

    def put_note(self, key: str, value: bytes, until: float) -> None:
        self._notes[key] = value, until

    def drop_note(self, key: str) -> None:
        self._notes.pop(key, None)

    def notes(self, prefix: str) -> dict[str, bytes]:
        return {key: value for key, (value, until) in self._notes.items() if key.startswith(prefix) and now() < until}


class MemoryLog:
    """The log of a place, as one process has it; see Log for what each method promises.

    Attributes:
        is_cut: nothing gets through to the place, in either direction.
        is_silent: no keepalive gets through.
        doubt: what becomes of the next append. It is in doubt for as long as the leader leads.
    """

    def __init__(self, place: MemoryPlace) -> None:
        self.place = place
        self._is_cut = False
        self.is_silent = False
        self.doubt: Doubt | None = None
        self._leadership: MemoryLeadership | None = None

    @property
    def is_cut(self) -> bool:
        return self._is_cut

    @is_cut.setter
    def is_cut(self, is_cut: bool) -> None:
        self._is_cut = is_cut
        self.place.changed()

    def lose_lease(self) -> None:
        """Ends the own lease, as a long pause does. The place keeps its leader until its lease has lapsed, too."""
        if self._leadership is not None:
            self._leadership.end()

    async def open(self) -> None:
        await self._reach()

    async def close(self) -> None:
        if self._leadership is not None:
            await self._leadership.resign()

    async def generation(self) -> Generation | None:
        await self._reach()
        return self.place.generation

    async def begin(self, generation: Generation, replaces: str | None) -> None:
        await self._reach()
        self.place.begin(generation, replaces)

    async def span(self) -> Span:
        await self._reach()
        if self.place.generation is None:
            raise GenerationError("the log has not begun")
        return self.place.span

    async def leaders(self) -> AsyncGenerator[Leader | None, None]:
        await self._reach()
        told: Leader | None = None
        is_told = False
        while True:
            leader, until = self.place.leader()
            if self.is_cut or (is_told and leader == told):
                await self.place.change(until if told is not None else now() + FOLLOW_SECONDS)
            else:
                told, is_told = leader, True
                yield told

    async def campaign(self, candidate: Candidate) -> MemoryLeadership:
        await self._reach()
        sent = now()
        self._leadership = MemoryLeadership(self, self.place.elect(candidate), sent)
        return self._leadership

    async def depose(self, leader: Leader) -> bool:
        await self._reach()
        return self.place.depose(leader.token)

    async def follow(self, after: int) -> AsyncGenerator[Sequence[LogEntry], None]:
        reached = now()
        while now() < reached + FOLLOW_SECONDS:
            # Each page comes a little later than it was asked for.
            await asyncio.sleep(0)
            page: list[LogEntry] = []
            if not self.is_cut:
                reached = now()
                page = self._page(after)
            if page:
                after = page[-1].index
                yield page
            else:
                await self.place.change(reached + FOLLOW_SECONDS)
                reached = now() if not self.is_cut else reached
        raise LogUnreachableError("the log has not answered for a while")

    async def put_note(self, key: str, value: bytes, seconds: float | None = None) -> None:
        await self._reach()
        self.place.put_note(key, value, now() + seconds if seconds is not None else float("inf"))

    async def drop_note(self, key: str) -> None:
        await self._reach()
        self.place.drop_note(key)

    async def notes(self, prefix: str = "") -> Mapping[str, bytes]:
        await self._reach()
        return self.place.notes(prefix)

    async def _reach(self) -> None:
        """Lets others run first, as a call over a network does."""
        await asyncio.sleep(0)
        if self.is_cut:
            raise LogUnreachableError("the log does not answer")

    def _page(self, after: int) -> list[LogEntry]:
        if self.place.generation is None:
            raise GenerationError("the log has not begun")
        first, last = self.place.span
        if after < first - 1:
            raise PrunedError(first)
        if after > last:
            raise ends_before(after, last)
        return [
            LogEntry(index, self.place.entries[index])
            for index in range(after + 1, min(last, after + PAGE_ENTRIES) + 1)
        ]


class MemoryLeadership:
    """See Leadership."""

    def __init__(self, log: MemoryLog, leader: Leader, sent: float) -> None:
        self._log = log
        self._leader = leader
        self._lost = asyncio.Event()
        self._until = sent + 0.9 * LEASE_SECONDS
        self._timer = asyncio.get_running_loop().call_later(LEASE_SECONDS / 6, self._keep)

    @property
    def leader(self) -> Leader:
        return self._leader

    @property
    def lost(self) -> asyncio.Event:
        return self._lost

    def holds(self) -> bool:
        if not self._lost.is_set() and now() < self._until:
            return True
        self.end()
        return False

    def end(self) -> None:
        self._timer.cancel()
        self._lost.set()
        self._log.place.changed()

    async def append(self, index: int, data: bytes) -> None:
        await self._reach()
        doubt, self._log.doubt = self._log.doubt, None
        if doubt is not Doubt.NOT_WRITTEN:
            self._append(index, data)
        if doubt is not None:
            await self._lost.wait()
            raise self._over()

    async def confirm(self) -> None:
        await self._reach()
        if not self._log.place.holds(self._leader.token):
            raise self._over()

    async def prune(self, before: int) -> None:
        await self._reach()
        try:
            self._log.place.prune(self._leader.token, before)
        except LeadershipLostError:
            raise self._over() from None

    async def resign(self) -> None:
        self.end()
        await asyncio.sleep(0)
        if not self._log.is_cut:
            self._log.place.depose(self._leader.token)

    def _append(self, index: int, data: bytes) -> None:
        try:
            self._log.place.append(self._leader.token, index, data)
        except LeadershipLostError:
            raise self._over() from None

    async def _reach(self) -> None:
        """Lets others run first, and tries for as long as the own lease runs."""
        await asyncio.sleep(0)
        while self.holds():
            if not self._log.is_cut:
                return
            await self._log.place.change(self._until)
        raise self._over()

    def _over(self) -> LeadershipLostError:
        self.end()
        return LeadershipLostError(f"this leader no longer leads: term {self._leader.term} is over")

    def _keep(self) -> None:
        if not (self._log.is_silent or self._log.is_cut):
            if not self._log.place.renew(self._leader.token):
                self.end()
                return
            self._until = now() + 0.9 * LEASE_SECONDS
        if self.holds():
            wait = min(LEASE_SECONDS / 6, self._until - now())
            self._timer = asyncio.get_running_loop().call_later(wait, self._keep)
