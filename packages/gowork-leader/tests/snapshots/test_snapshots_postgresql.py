"""Tables of a real PostgreSQL keep whole snapshots, also while the server goes away and comes back."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from postgresql_server import PostgresqlServer

from gowork.leader._core.model import Position
from gowork.leader._snapshots import postgresql
from gowork.leader._snapshots.names import Snapshot
from gowork.leader._snapshots.places import PlaceError, place_at
from gowork.leader._snapshots.postgresql import Database

pytestmark = pytest.mark.tool("postgres", "initdb")
DATA = os.urandom(2_500_000)

_numbers = itertools.count()


def snapshot(index: int = 7, generation: str = "ab12") -> Snapshot:
    digest = hashlib.sha256(DATA).hexdigest()
    return Snapshot(Position(generation, index, bytes(32)), 3, 1_764_000_000_000, len(DATA), digest)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with PostgresqlServer() as server:
        yield server


@pytest.fixture
async def place(server: PostgresqlServer) -> AsyncIterator[Database]:
    place = place_at(server.url(f"snapshots_{next(_numbers)}"))
    assert isinstance(place, Database)
    yield place
    await place.close()


@pytest.fixture
async def marked(place: Database) -> Database:
    await place.mark(make=True)
    return place


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "store"
    source.write_bytes(DATA)
    return source


async def parts(place: Database) -> list[tuple[str, int]]:
    return [(name, number) for name, number in await place._run("SELECT name, number FROM {parts} ORDER BY 1, 2")]


async def test_tables_are_made_with_the_id_and_not_before(server: PostgresqlServer, place: Database) -> None:
    assert await place.mark(make=False) is None
    assert await place.snapshots() == []
    # Two leaders at once agree.
    another = Database(server.url(place._schema))
    marks = await asyncio.gather(place.mark(make=True), another.mark(make=True))
    assert marks[0] == marks[1] == await place.mark(make=False)
    await another.close()


async def test_a_snapshot_that_was_written_is_there_and_can_be_read(
    marked: Database, source: Path, tmp_path: Path
) -> None:
    await marked.write(snapshot(), source)
    await marked.write(snapshot(8), source)
    assert sorted(await marked.snapshots(), key=lambda each: each.position.index) == [snapshot(), snapshot(8)]
    target = tmp_path / "target"
    target.write_bytes(b"older")
    await marked.read(snapshot(8), target)
    assert target.read_bytes() == DATA
    for _ in range(2):
        await marked.remove(snapshot())
    assert await marked.snapshots() == [snapshot(8)]
    assert await parts(marked) == [(snapshot(8).name, number) for number in range(3)]


async def test_a_snapshot_that_is_not_whole_is_not_listed_and_a_damaged_one_is_not_taken(
    marked: Database, source: Path, tmp_path: Path
) -> None:
    await marked.write(snapshot(), source)
    await marked.write(snapshot(8), source)
    await marked._run("DELETE FROM {parts} WHERE name = %(name)s AND number = 1", {"name": snapshot(8).name})
    assert await marked.snapshots() == [snapshot()]
    await marked._run("UPDATE {parts} SET data = set_byte(data, 5, get_byte(data, 5) # 1) WHERE number = 2")
    assert await marked.snapshots() == [snapshot()]
    with pytest.raises(PlaceError, match="index 7 of generation ab12 is damaged"):
        await marked.read(snapshot(), tmp_path / "target")


async def test_a_snapshot_that_reads_back_otherwise_leaves_nothing(marked: Database, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    with pytest.raises(PlaceError, match="gives back other bytes than were written"):
        await marked.write(snapshot(), other)
    assert await marked.snapshots() == []
    assert await parts(marked) == []


async def test_what_dead_processes_left_goes_and_what_others_write_now_stays(marked: Database, source: Path) -> None:
    for index, generation in ((3, "ab12"), (4, "ab12"), (5, "cd34")):
        values = {"name": snapshot(index, generation).name, "number": 0, "data": b"a part"}
        await marked._run(postgresql._PUT_PART, values)
    await marked.write(snapshot(6), source)
    await marked._run(
        "UPDATE {parts} SET written = written - interval '2 hours' WHERE name <> %(name)s", {"name": snapshot(4).name}
    )
    await marked.write(snapshot(), source)
    left = {name for name, _ in await parts(marked)}
    assert left == {snapshot(index).name for index in (4, 6, 7)} | {snapshot(5, "cd34").name}


async def test_a_server_that_is_started_again_meanwhile_costs_a_moment(
    server: PostgresqlServer, marked: Database, source: Path
) -> None:
    write = marked._run
    calls: list[int] = []

    async def killing(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            server.kill()
            server.start()
        return await write(*args, **options)  # type: ignore[arg-type]

    marked._run = killing  # type: ignore[assignment,method-assign]
    await marked.write(snapshot(), source)
    assert await marked.snapshots() == [snapshot()]


async def test_a_server_that_does_not_answer_is_told(
    server: PostgresqlServer, marked: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "TRIES", 2)
    monkeypatch.setattr(postgresql, "_AGAIN_SECONDS", 0.01)
    server.kill()
    try:
        with pytest.raises(PlaceError, match="PostgreSQL: "):
            await marked.snapshots()
    finally:
        server.start()


def test_a_url_that_makes_no_sense_is_refused_without_its_password() -> None:
    with pytest.raises(PlaceError) as caught:
        place_at("postgresql://user:secret@host/db?schema=a-b")
    assert "secret" not in str(caught.value)
