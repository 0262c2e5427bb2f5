"""Runs statements in PostgreSQL: over which connection, for how long, and what its errors mean.

A statement is a transaction of its own and leaves nothing behind in its connection, so that each may go to another
connection of a proxy that pools transactions.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gowork.leader._schemes import shown
from gowork.leader.log.protocol import LogError, LogFullError, LogRefusedError, LogUnreachableError

#: How long one attempt may take, in seconds. Time-outs must be well below a lease.
CALL_SECONDS = 1.0
#: How long each of the hosts in a URL may take to connect, in seconds. libpq takes no less.
CONNECT_SECONDS = 2
#: How many statements of one process may run at the same time, apart from those of its leadership.
CONNECTIONS_MAX = 4
#: Classes of SQLSTATE that leave open whether something was written, or that may be over soon: a broken connection,
#: a standby, a conflict, no resources, a lock that was not given, an operator's or system's intervention.
_DOUBTFUL = ("08", "25", "40", "53", "55", "57", "58", "XX")
#: What PostgreSQL says when it does not let somebody in. libpq hands no SQLSTATE on then.
_NOT_LET_IN = ("authentication failed", "no pg_hba.conf entry", "does not exist", "permission denied", "no password")
#: How long a statement waits for a lock that somebody holds, in milliseconds. A statement that is given up here alone
#: waits on in PostgreSQL, in a session that nobody uses. Each attempt would leave one more, until no more are allowed.
LOCK_MS = 900
_LOCK_OPTION = f"-c lock_timeout={LOCK_MS}ms"
#: What proxies say that take no options for a session. Their pool bounds the sessions.
_NO_OPTIONS = ("startup parameter", "command-line options")
#: What a URL need not say: whom to connect to, and when a silent peer is given up.
_DEFAULTS: dict[str, str | int | None] = {
    "application_name": "gowork-leader",
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_count": 2,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "target_session_attrs": "read-write",
    "tcp_user_timeout": 5000,
}
SCHEMA_BYTES_MAX = 63

Row = tuple[Any, ...]
Connection = psycopg.AsyncConnection[Row]


def place_of(url: str) -> tuple[str, str]:
    """Returns libpq's connection string for a URL, and the schema that it names, which is "gowork" where it names none.

    Raises:
        LogError: the URL makes no sense.
    """
    place, _, query = url.partition("://")[2].partition("?")
    parts = [part for part in query.split("&") if part]
    schemas = [part.partition("=")[2] for part in parts if part.partition("=")[0] == "schema"]
    rest = [part for part in parts if part.partition("=")[0] != "schema"]
    schema = schemas[-1] if schemas else "gowork"
    if not schema.isidentifier() or len(schema.encode()) > SCHEMA_BYTES_MAX:
        raise LogError(f"{shown(url)!r}: the schema must have letters, digits and underscores alone")
    try:
        found = conninfo_to_dict(f"postgresql://{place}?{'&'.join(rest)}")
        defaults = {name: value for name, value in _DEFAULTS.items() if name not in found}
        # libpq reads PGOPTIONS only where the connection string has no options.
        options = f"{_LOCK_OPTION} {found.get('options') or os.environ.get('PGOPTIONS', '')}".rstrip()
        return make_conninfo(make_conninfo("", **found), **defaults, options=options), schema
    except psycopg.Error:
        # What libpq says of it may have the password.
        raise LogError(
            f"{shown(url)!r} is no URL of PostgreSQL: write postgresql://USER@HOST:5432/DATABASE, with options that "
            f"libpq has, and ?schema=NAME; characters like @ and % in a password are written as %40 and %25"
        ) from None


class MissingTableError(LogRefusedError):
    """PostgreSQL has no such table. Nothing was written."""


class AlreadyThereError(LogRefusedError):
    """PostgreSQL has a row, or a table, with this name already. Nothing was written."""


class Server:
    """One or several connections to the primary. All calls come from one event loop.

    Args:
        conninfo: libpq's connection string.
        connections_max: how many statements may run at the same time.
    """

    def __init__(self, conninfo: str, connections_max: int = CONNECTIONS_MAX) -> None:
        self.conninfo = conninfo
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(connections_max)

    async def close(self) -> None:
        """Ends the connections that nobody uses."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def connect(self) -> Connection:
        """Returns a new connection.

        Raises:
            LogUnreachableError, LogRefusedError.
        """
        try:
            return await self._connect()
        except LogUnreachableError as error:
            without = _without_lock_option(self.conninfo)
            if without == self.conninfo or not any(text in str(error) for text in _NO_OPTIONS):
                raise
            self.conninfo = without
        return await self._connect()

    async def _connect(self) -> Connection:
        hosts = str(conninfo_to_dict(self.conninfo).get("host", "")).count(",") + 1
        try:
            async with asyncio.timeout(CONNECT_SECONDS * hosts):
                return await psycopg.AsyncConnection.connect(self.conninfo, autocommit=True, prepare_threshold=None)
        except TimeoutError:
            raise LogUnreachableError("PostgreSQL: no connection in time") from None
        except psycopg.Error as error:
            said = " ".join(str(error).split())
            if any(text in said for text in _NOT_LET_IN):
                raise LogRefusedError(f"PostgreSQL: {said}") from None
            raise LogUnreachableError(f"PostgreSQL: {said}") from None

    async def run(
        self, statement: bytes, values: Mapping[str, object] | None = None, seconds: float = CALL_SECONDS
    ) -> list[Row]:
        """Runs a statement once, and returns its rows.

        It is never cancelled in PostgreSQL, because a COMMIT that is cancelled while it waits for a standby succeeds
        without it. The connection is given up instead.

        Raises:
            LogUnreachableError: there was no answer, or one that leaves open whether something was written.
            LogFullError, LogRefusedError: nothing was written. MissingTableError and AlreadyThereError say why.
        """
        async with self._free:
            connection = self._idle.pop() if self._idle else await self.connect()
            try:
                rows = await run_on(connection, statement, values, seconds)
            except (LogFullError, LogRefusedError):
                self._idle.append(connection)
                raise
            except BaseException:
                await connection.close()
                # The others are likely broken, too.
                await self.close()
                raise
            self._idle.append(connection)
            return rows


def _without_lock_option(conninfo: str) -> str:
    found = conninfo_to_dict(conninfo)
    found["options"] = str(found.get("options", "")).removeprefix(_LOCK_OPTION).strip()
    return make_conninfo("", **found)


async def run_on(
    connection: Connection,
    statement: bytes,
    values: Mapping[str, object] | None = None,
    seconds: float = CALL_SECONDS,
) -> list[Row]:
    """Does as Server.run, over one connection. LogUnreachableError and a cancellation leave it of no use."""
    loop = asyncio.get_running_loop()
    running = loop.create_task(_fetch(connection, statement, values))
    timer = loop.call_later(seconds, _cut, connection)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        _cut(connection)
        await asyncio.wait({running})
        # Asked for, because asyncio would report that nobody was told.
        running.exception()
        raise
    except psycopg.Error as error:
        raise _meaning(error) from error
    finally:
        timer.cancel()


async def _fetch(connection: Connection, statement: bytes, values: Mapping[str, object] | None) -> list[Row]:
    async with connection.cursor(binary=values is not None) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchall() if cursor.description else []


def _cut(connection: Connection) -> None:
    """Has whoever waits for the connection get an error at once, whatever the peer does."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.shutdown(socket.SHUT_RDWR)


def _meaning(error: psycopg.Error) -> LogError:
    said = error.diag.message_primary or " ".join(str(error).split())
    state = error.sqlstate or "08000"
    if isinstance(error, errors.DiskFull):
        return LogFullError(f"PostgreSQL has no room left: {said}")
    if isinstance(error, errors.UndefinedTable):
        return MissingTableError(f"PostgreSQL lacks a table of gowork: {said}; whoever has removed it must put it back")
    # A table that another session is making may be there as a type alone.
    if isinstance(error, errors.UniqueViolation | errors.DuplicateTable | errors.DuplicateObject):
        return AlreadyThereError(f"PostgreSQL has this already: {said}")
    if isinstance(error, errors.InsufficientPrivilege):
        return LogRefusedError(f"PostgreSQL refuses this user: {said}; the user must own the log's schema")
    if state.startswith(_DOUBTFUL):
        return LogUnreachableError(f"PostgreSQL: {said}")
    return LogRefusedError(f"PostgreSQL refuses this: {said} (SQLSTATE {state})")
