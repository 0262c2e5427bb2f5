"""The tables of one log, as one set of connections reaches them. Each call is one attempt."""

from __future__ import annotations

from contextlib import suppress

from gowork.leader.log._postgresql.server import AlreadyThereError, Server
from gowork.leader.log._postgresql.statements import (
    CREATE_SEGMENT,
    DROP_SEGMENT,
    FORMAT,
    HAS_SEGMENT,
    State,
    Statements,
    is_over,
)
from gowork.leader.log.protocol import LogError, LogUnreachableError

_OLDEST_VERSION = 130_000


class Tables(Server):
    """The tables of one log.

    Args:
        conninfo: libpq's connection string.
        schema: has them.
        lease_seconds: how long a leadership lasts without a keepalive.
    """

    def __init__(self, conninfo: str, schema: str, lease_seconds: float) -> None:
        super().__init__(conninfo)
        self.statements = Statements(schema)
        self.lease_seconds = lease_seconds

    async def look(self) -> State:
        """Returns what the primary says.

        Raises:
            LogUnreachableError, LogRefusedError.
        """
        state = State(*(await self.run(self.statements.state, {"lease": self.lease_seconds}))[0])
        if state.is_standby:
            raise LogUnreachableError("PostgreSQL answers from a standby, which may lag behind")
        return state

    async def prepare(self) -> None:
        """Makes the tables, if they are not there, and checks that this program can use them.

        Raises:
            LogUnreachableError, LogRefusedError, LogError.
        """
        ((is_there, commits, fsync, version),) = await self.run(self.statements.is_there, {})
        if version < _OLDEST_VERSION:
            raise LogError(f"PostgreSQL has version {version // 10_000}: version 13 or newer is needed")
        if "off" in (commits, fsync):
            raise LogError(
                "PostgreSQL does not force commits to disk: set fsync to on, and synchronous_commit to on for this "
                "user and database"
            )
        if not is_there:
            # Another process may be faster.
            with suppress(AlreadyThereError):
                await self.run(self.statements.create)
        found = (await self.look()).format
        if found > FORMAT:
            raise LogError(
                f"the log has tables of format {found}, and this version of gowork-leader reads formats up to "
                f"{FORMAT}: install a newer version here"
            )

    async def make_segment(self, segment: str) -> None:
        """Makes a segment, if it is not there."""
        ((is_there,),) = await self.run(self.statements.on(segment, HAS_SEGMENT), {})
        if not is_there:
            # Another leader, or an attempt in doubt, may have made it.
            with suppress(AlreadyThereError):
                await self.run(self.statements.on(segment, CREATE_SEGMENT))

    async def drop_segments(self, life: int, first: int) -> None:
        """Drops what is needed no more. What others read at the moment is left for the next time."""
        with suppress(LogError):
            for (segment,) in await self.run(self.statements.segments, {}):
                if is_over(segment, life, first):
                    await self.run(self.statements.on(segment, DROP_SEGMENT))
