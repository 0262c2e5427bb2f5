"""The log in PostgreSQL.

A schema has the row of `log`, which says who leads and which entries there are, the row of `lease`, `notes`, and the
entries in tables of SEGMENT_ENTRIES each, which pruning drops. An append changes the row of `log` only if it has this
leader's generation, term and token and the entry before is the last one, and writes the entry in the same transaction.
NOTIFY tells that there is something new, if it gets through. Polling finds it in any case.

Leases run by the clock of the database. If it is set forwards, or back, that costs an election and nothing else.
A primary that was replaced, and does not know it, still answers reads. A synchronous standby keeps it from committing.
So the confirmation of a leadership is a write.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress

import psycopg

from gowork.leader.log._postgresql.keeper import Keeper
from gowork.leader.log._postgresql.server import (
    CALL_SECONDS,
    AlreadyThereError,
    MissingTableError,
    Row,
    place_of,
    run_on,
)
from gowork.leader.log._postgresql.statements import APPEND, ENTRY, PAGE, State, segment_of
from gowork.leader.log._postgresql.tables import Tables
from gowork.leader.log.holding import Held, Holding, OwnLease, boot_seconds, settled, told_in_time
from gowork.leader.log.protocol import (
    FOLLOW_SECONDS,
    Candidate,
    Generation,
    GenerationError,
    Leader,
    LeadershipLostError,
    LogDamagedError,
    LogEntry,
    LogError,
    LogUnreachableError,
    NotElectedError,
    PrunedError,
    Span,
    ends_before,
    next_term,
    not_begun,
)

#: How long a leadership lasts without a keepalive, in seconds.
LEASE_SECONDS = 3.0
#: How often what is there is looked at, in seconds.
POLL_SECONDS = 0.2
#: How long a page of entries may be under way, in seconds.
_PAGE_SECONDS = 5.0
#: How many entries a page has at most, and after how many bytes it ends.
_PAGE_ENTRIES = 16
_PAGE_BYTES = 8 << 20
#: How long a read is tried, in seconds.
_READ_SECONDS = 5.0
#: How long to wait before notifications are asked for again, in seconds.
_LISTEN_AGAIN_SECONDS = 5.0
#: How fast an entry goes at least, in bytes a second.
_BYTES_A_SECOND = 8 << 20


def postgresql_log(url: str) -> PostgresqlLog:
    """Makes the log of `postgresql://[USER[:PASSWORD]@]HOST[:PORT][,…]/DATABASE[?schema=NAME]`.

    libpq reads the URL, and from the environment what it does not say (PGUSER, PGPASSWORD, PGPASSFILE, PGSSLMODE).

    Raises:
        LogError: the URL makes no sense.
    """
    return PostgresqlLog(*place_of(url))


class PostgresqlLog:
    """See Log.

    Args:
        conninfo: libpq's connection string.
        schema: has the log's tables.
    """

    def __init__(self, conninfo: str, schema: str) -> None:
        self._tables = Tables(conninfo, schema, LEASE_SECONDS)
        #: Its connections are the leadership's own, so that no follower holds them up.
        self._leading = Tables(conninfo, schema, LEASE_SECONDS)
        self._leadership: PostgresqlLeadership | None = None
        #: Is set, and replaced by a new one, when something is new.
        self._news = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """See Log.open."""
        await self._tables.prepare()
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def close(self) -> None:
        """See Log.close."""
        if self._leadership is not None:
            await self._leadership.resign()
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.cancel()
            await asyncio.wait({listening})
        await self._leading.close()
        await self._tables.close()

    async def generation(self) -> Generation | None:
        """See Log.generation."""
        state = await self._state()
        if state.generation is None:
            return None
        return Generation(state.generation, state.base, state.term_floor, state.replaces, state.backup)

    async def begin(self, generation: Generation, replaces: str | None) -> None:
        """See Log.begin."""
        new = {
            "id": generation.id,
            "base": generation.base,
            "floor": generation.term_floor,
            "replaces": generation.replaces,
            "backup": generation.backup,
        }
        doubted = False

        async def begin() -> None:
            nonlocal doubted
            try:
                if await self._tables.run(self._tables.statements.begin, {**new, "present": replaces}):
                    return
            except LogUnreachableError:
                doubted = True
                raise
            now = await self.generation()
            if doubted and now == generation:
                return
            raise GenerationError(
                f"the log has generation {now.id if now else 'none'} by now, not {replaces or 'none'}"
            )

        await settled(begin, _READ_SECONDS)
        state = await self._state()
        await self._tables.drop_segments(state.life, state.first)

    async def span(self) -> Span:
        """See Log.span."""
        state = await self._begun()
        return Span(state.first, state.last)

    async def leaders(self) -> AsyncGenerator[Leader | None, None]:
        """See Log.leaders."""
        told: Leader | None = None
        is_told = False
        while True:
            news = self._news
            state = await self._state()
            now = _leader_of(state)
            if not is_told or now != told:
                told, is_told = now, True
                yield now
            else:
                await _next(news)

    async def campaign(self, candidate: Candidate) -> PostgresqlLeadership:
        """See Log.campaign."""
        # Over the leadership's own connection, so that one that has broken since its last term costs no election.
        state = _begun(await settled(self._leading.look, _READ_SECONDS))
        if state.generation != candidate.generation:
            raise GenerationError(
                f"the log has generation {state.generation}, and this store belongs to {candidate.generation}"
            )
        if state.is_led:
            raise NotElectedError("another leader leads")
        if candidate.applied > state.last:
            raise ends_before(candidate.applied, state.last)
        if candidate.applied < state.first - 1:
            raise NotElectedError(
                f"this store has applied entry {candidate.applied}, and the log has {state.first} to {state.last}: "
                f"it needs a copy of another leader's store"
            )
        term = next_term(state.term, state.term_floor, candidate.term)
        values = {
            "term": term,
            "announcement": candidate.announcement,
            "life": state.life,
            "token": state.token,
            "applied": candidate.applied,
            "lease": LEASE_SECONDS,
        }
        own = OwnLease(LEASE_SECONDS, boot_seconds())
        elected = await self._leading.run(self._tables.statements.elect, values)
        if not elected:
            raise NotElectedError("another candidate was elected, or the log has changed meanwhile")
        leader = Leader(term, elected[0][0], candidate.announcement)
        self._leadership = PostgresqlLeadership(self._leading, Holding(leader, own), own, state)
        return self._leadership

    async def depose(self, leader: Leader) -> bool:
        """See Log.depose."""
        return bool(await self._told(self._tables.statements.depose, {"token": leader.token}))

    async def follow(self, after: int) -> AsyncGenerator[Sequence[LogEntry], None]:
        """See Log.follow."""
        while True:
            news = self._news
            state = await self._begun(FOLLOW_SECONDS)
            if after < state.first - 1:
                raise PrunedError(state.first)
            if after > state.last:
                raise ends_before(after, state.last)
            if after == state.last:
                await _next(news)
                continue
            page = await self._page(state.life, after)
            if page:
                after = page[-1].index
                yield page
                continue
            again = await self._begun(FOLLOW_SECONDS)
            if again.life == state.life and again.first <= after + 1:
                raise LogDamagedError(f"the log lacks entry {after + 1}, though it has {again.first} to {again.last}")

    async def put_note(self, key: str, value: bytes, seconds: float | None = None) -> None:
        """See Log.put_note."""
        await self._told(self._tables.statements.put_note, {"key": key, "value": value, "seconds": seconds})

    async def drop_note(self, key: str) -> None:
        """See Log.drop_note."""
        await self._told(self._tables.statements.drop_note, {"key": key})

    async def notes(self, prefix: str = "") -> Mapping[str, bytes]:
        """See Log.notes."""
        return dict(await self._told(self._tables.statements.notes, {"prefix": prefix}))

    async def _state(self, seconds: float = _READ_SECONDS) -> State:
        return await settled(self._tables.look, seconds)

    async def _begun(self, seconds: float = _READ_SECONDS) -> State:
        return _begun(await self._state(seconds))

    async def _page(self, life: int, after: int) -> list[LogEntry]:
        """Returns the next entries; none if they were pruned or replaced after the state was read."""
        statement = self._tables.statements.on(segment_of(life, after + 1), PAGE)
        values = {"life": life, "after": after, "bytes": _PAGE_BYTES, "entries": _PAGE_ENTRIES}
        try:
            rows = await settled(lambda: self._tables.run(statement, values, _PAGE_SECONDS), FOLLOW_SECONDS)
        except MissingTableError:
            return []
        for expected, (index, _) in enumerate(rows, after + 1):
            if index != expected:
                raise LogDamagedError(f"the log lacks entry {expected}: the next one that it has is {index}")
        return [LogEntry(index, data) for index, data in rows]

    async def _told(self, statement: bytes, values: Mapping[str, object]) -> list[Row]:
        """Runs a statement that may be repeated."""
        return await settled(lambda: self._tables.run(statement, values), _READ_SECONDS)

    async def _listen(self) -> None:
        while True:
            with suppress(LogError, psycopg.Error):
                connection = await self._tables.connect()
                try:
                    await run_on(connection, self._tables.statements.listen)
                    async for _ in connection.notifies():
                        self._news.set()
                        self._news = asyncio.Event()
                finally:
                    await connection.close()
            await asyncio.sleep(_LISTEN_AGAIN_SECONDS)


class PostgresqlLeadership(Held):
    """See Leadership."""

    def __init__(self, tables: Tables, holding: Holding, own: OwnLease, state: State) -> None:
        super().__init__(holding)
        self._tables = tables
        self._life = state.life
        self._generation = state.generation
        #: The segment that is known to be there.
        self._segment = ""
        keep, values = tables.statements.keep, {"token": holding.leader.token, "lease": tables.lease_seconds}
        self._keeper = Keeper(tables.conninfo, keep, values, own, holding.lost.set)

    async def append(self, index: int, data: bytes) -> None:
        """See Leadership.append."""
        segment = segment_of(self._life, index)
        if segment != self._segment:
            await self._holding.until_told(lambda: self._tables.make_segment(segment))
            self._segment = segment
        await self._holding.until_told(lambda: self._append(segment, index, data), is_final=True)

    async def confirm(self) -> None:
        """See Leadership.confirm."""
        values = {"token": self.leader.token, "lease": self._tables.lease_seconds}
        if not await self._told(self._tables.statements.keep, values) or not self.holds():
            raise self._over()

    async def prune(self, before: int) -> None:
        """See Leadership.prune."""
        pruned = await self._told(self._tables.statements.prune, {"token": self.leader.token, "before": before})
        if not pruned:
            raise self._over()
        await self._tables.drop_segments(self._life, pruned[0][0])

    async def resign(self) -> None:
        """See Leadership.resign."""
        self._keeper.stop()
        if self.lost.is_set():
            return
        self.lost.set()
        statement, values = self._tables.statements.depose, {"token": self.leader.token}
        await told_in_time(lambda: self._tables.run(statement, values), self._holding.lasts)

    async def _append(self, segment: str, index: int, data: bytes) -> None:
        """Tries once, and looks at what is there when that is refused."""
        values = {
            "generation": self._generation,
            "term": self.leader.term,
            "token": self.leader.token,
            "index": index,
            "data": data,
        }
        seconds = CALL_SECONDS + len(data) / _BYTES_A_SECOND
        statements = self._tables.statements
        there: list[Row] = []
        try:
            if await self._tables.run(statements.on(segment, APPEND), values, seconds):
                return
            there = await self._tables.run(statements.on(segment, ENTRY), {"index": index}, seconds)
        except AlreadyThereError:
            raise LogDamagedError(f"the log has an entry {index} beyond its end") from None
        except MissingTableError:
            # It was dropped, because another generation has begun.
            self._segment = ""
        if there and there[0][0] == data:
            # An earlier attempt wrote it.
            return
        if (await self._tables.look()).holder != self.leader.token:
            raise self._over()
        there_is = "has another entry" if there else "lacks the entry before"
        raise LogDamagedError(f"the log {there_is} {index}, though only this leader may append")

    async def _told(self, statement: bytes, values: Mapping[str, object]) -> list[Row]:
        return await self._holding.until_told(lambda: self._tables.run(statement, values))

    def _over(self) -> LeadershipLostError:
        self._keeper.stop()
        return self._holding.over()


def _begun(state: State) -> State:
    if state.generation is None:
        raise not_begun()
    return state


def _leader_of(state: State) -> Leader | None:
    if state.holder is None or not state.is_led:
        return None
    return Leader(state.term, state.holder, state.announcement)


async def _next(news: asyncio.Event) -> None:
    """Returns when something is new, or it is time to look."""
    with suppress(TimeoutError):
        async with asyncio.timeout(POLL_SECONDS):
            await news.wait()
