"""Snapshots in tables of PostgreSQL, such as the database that has the log: then leaders need nothing else to share.

A snapshot is rows of CHUNK_BYTES each. It is there when `snapshots` has its name, which is written last. Each statement
is a transaction of its own, so that proxies may pool them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from psycopg import sql

from gowork.leader._snapshots.names import Snapshot, in_short, named
from gowork.leader._snapshots.places import CHUNK_BYTES, PlaceError
from gowork.leader.log._postgresql.server import AlreadyThereError, MissingTableError, Row, Server, place_of
from gowork.leader.log.protocol import LogError, LogUnreachableError

#: How long one statement may take, in seconds: one that reads or writes a row, and one that removes a snapshot.
ROW_SECONDS = 30.0
REMOVE_SECONDS = 300.0
#: How often a statement is tried, so that another server can take over, and how long to wait in between, in seconds.
TRIES = 60
_AGAIN_SECONDS = 1.0
_CREATE = """
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE TABLE IF NOT EXISTS {place} (one boolean PRIMARY KEY DEFAULT true CHECK (one), id text NOT NULL);
CREATE TABLE IF NOT EXISTS {snapshots} (name text COLLATE "C" PRIMARY KEY);
CREATE TABLE IF NOT EXISTS {parts} (
    name text COLLATE "C", number integer, data bytea NOT NULL, written timestamptz NOT NULL, PRIMARY KEY (name, number)
);
ALTER TABLE {parts} ALTER COLUMN data SET STORAGE EXTERNAL
"""
_MAKE_MARK = "INSERT INTO {place} VALUES (true, %(id)s) ON CONFLICT DO NOTHING"
_MARK = "SELECT id FROM {place}"
_NAMES = """
SELECT name, sum(octet_length(data))::bigint FROM {snapshots} JOIN {parts} USING (name) GROUP BY name
"""
_PUT_PART = """
INSERT INTO {parts} VALUES (%(name)s, %(number)s, %(data)s, clock_timestamp())
ON CONFLICT (name, number) DO UPDATE SET data = excluded.data, written = excluded.written
"""
_PART = "SELECT data FROM {parts} WHERE name = %(name)s AND number = %(number)s"
_PUT_NAME = "INSERT INTO {snapshots} VALUES (%(name)s) ON CONFLICT DO NOTHING"
_DROP_NAME = "DELETE FROM {snapshots} WHERE name = %(name)s"
_DROP_PARTS = "DELETE FROM {parts} WHERE name = %(name)s"
# Who writes a snapshot writes a part every few seconds.
_DROP_LEFT = """
DELETE FROM {parts} WHERE name IN (
    SELECT name FROM {parts} WHERE starts_with(name, %(prefix)s)
    GROUP BY name HAVING max(written) < clock_timestamp() - interval '1 hour'
) AND NOT EXISTS (SELECT FROM {snapshots} whole WHERE whole.name = {parts}.name)
"""


class Database:
    """See SnapshotPlace.

    Args:
        url: as of the log in PostgreSQL; see gowork.leader.log.postgresql.

    Raises:
        PlaceError: the URL makes no sense.
    """

    def __init__(self, url: str) -> None:
        try:
            conninfo, schema = place_of(url)
        except LogError as error:
            raise PlaceError(str(error)) from None
        self._schema = schema
        self._server = Server(conninfo, 1)
        tables = ("place", "snapshots", "parts")
        self._parts: dict[str, sql.Composable] = {
            "schema": sql.Identifier(schema),
            **{table: sql.Identifier(schema, f"snapshot_{table}") for table in tables},
        }

    def __str__(self) -> str:
        return f"the schema {self._schema} of PostgreSQL"

    def adopting(self, mark: str) -> str:
        """See SnapshotPlace.adopting."""
        return f"set the id in its table snapshot_place to {mark}"

    async def mark(self, *, make: bool) -> str | None:
        """See SnapshotPlace.mark."""
        try:
            found = await self._run(_MARK, expected=MissingTableError)
        except MissingTableError:
            found = []
        if make and not found:
            # Another leader may be faster.
            with suppress(AlreadyThereError):
                await self._run(_CREATE, expected=AlreadyThereError)
            await self._run(_MAKE_MARK, {"id": token_hex(16)})
            found = await self._run(_MARK)
        return str(found[0][0]) if found else None

    async def snapshots(self) -> list[Snapshot]:
        """See SnapshotPlace.snapshots."""
        try:
            rows = await self._run(_NAMES, expected=MissingTableError)
        except MissingTableError:
            return []
        found = ((named(name), size) for name, size in rows)
        return [snapshot for snapshot, size in found if snapshot is not None and snapshot.size == size]

    async def write(self, snapshot: Snapshot, source: Path) -> None:
        """See SnapshotPlace.write."""
        name = snapshot.name
        await self._run(_DROP_LEFT, {"prefix": f"gowork-{snapshot.position.generation}-"}, REMOVE_SECONDS)
        try:
            with source.open("rb") as data:
                number = 0
                while chunk := await asyncio.to_thread(data.read, CHUNK_BYTES):
                    await self._run(_PUT_PART, {"name": name, "number": number, "data": chunk})
                    number += 1
            if await self._copy(snapshot, None) != snapshot.sha256:
                raise PlaceError(f"{self} gives back other bytes than were written; don't trust it")
            await self._run(_PUT_NAME, {"name": name})
        except PlaceError:
            with suppress(PlaceError):
                await self.remove(snapshot)
            raise

    async def read(self, snapshot: Snapshot, target: Path) -> None:
        """See SnapshotPlace.read."""
        if await self._copy(snapshot, target) != snapshot.sha256:
            raise PlaceError(f"{self} has other bytes than were written: {in_short(snapshot)} is damaged")

    async def remove(self, snapshot: Snapshot) -> None:
        """See SnapshotPlace.remove."""
        for statement in (_DROP_NAME, _DROP_PARTS):
            await self._run(statement, {"name": snapshot.name}, REMOVE_SECONDS)

    async def close(self) -> None:
        """See SnapshotPlace.close."""
        await self._server.close()

    async def _copy(self, snapshot: Snapshot, target: Path | None) -> str:
        """Copies to the target, if there is one. Returns the SHA-256 in hexadecimal."""
        hashed = hashlib.sha256()
        if target is not None:
            await asyncio.to_thread(target.write_bytes, b"")
        for number in range(-(-snapshot.size // CHUNK_BYTES)):
            for (data,) in await self._run(_PART, {"name": snapshot.name, "number": number}):
                hashed.update(data)
                if target is not None:
                    await asyncio.to_thread(_append, target, data)
        return hashed.hexdigest()

    async def _run(
        self,
        statement: str,
        values: Mapping[str, object] | None = None,
        seconds: float = ROW_SECONDS,
        *,
        expected: type[LogError] | None = None,
    ) -> list[Row]:
        """Runs a statement that may be repeated, until it is answered.

        Args:
            statement: names the tables in braces.
            values: its values.
            seconds: how long one attempt may take.
            expected: what the caller handles, and no PlaceError is made of.

        Raises:
            PlaceError: it was not answered, or is refused.
        """
        composed = sql.SQL(statement).format(**self._parts).as_bytes(None)
        tries = 0
        while True:
            try:
                return await self._server.run(composed, values, seconds)
            except LogUnreachableError as error:
                tries += 1
                if tries == TRIES:
                    raise PlaceError(str(error)) from error
            except LogError as error:
                if expected is not None and isinstance(error, expected):
                    raise
                raise PlaceError(str(error)) from error
            await asyncio.sleep(_AGAIN_SECONDS)


def _append(target: Path, data: bytes) -> None:
    with target.open("ab") as file:
        file.write(data)
