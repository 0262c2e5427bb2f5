"""Where the SQLite store keeps facts: version 0.1.0 goes on with the file."""

from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec.structs import fields

from gowork.leader._core.kinds import MEMBERS, QUEUES, Member
from gowork.leader._core.model import Fact, FactKey, QueueSettings
from gowork.leader.store._sqlite_lower import downgrade
from gowork.leader.store._sqlite_schema import TABLES
from gowork.leader.store.conformance import facts_of
from gowork.leader.store.protocol import Batch
from gowork.leader.store.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gowork.db"


def rows(path: Path, statement: str) -> list[tuple[object, ...]]:
    connection = apsw.Connection(str(path))
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


async def write(path: Path, *facts: Fact) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.commit(Batch(facts=facts))
    await store.close()


async def test_members_and_settings_of_queues_are_where_0_1_0_looks_for_them(path: Path) -> None:
    settings = QUEUES.encode(QueueSettings(paused=True))
    member = MEMBERS.encode(Member("a:1", 5))
    await write(path, Fact(MEMBERS.name, "m", member), Fact(QUEUES.name, "q", settings), Fact("k", "x", b"v"))
    assert rows(path, "SELECT id, address, joined_ms FROM members") == [("m", "a:1", 5)]
    assert rows(path, "SELECT name, settings FROM queues") == [("q", settings)]
    assert rows(path, "SELECT kind, key, value FROM facts") == [("k", "x", b"v")]


async def test_a_fact_that_is_removed_takes_none_of_another_kind_with_it(path: Path) -> None:
    await write(path, Fact("k", "x", b"v"), Fact("another", "x", b"w"))
    store = SqliteStore(path)
    await store.open()
    await store.commit(Batch(facts_gone=[FactKey("k", "x")]))
    assert (await facts_of(store, "k"), await facts_of(store, "another")) == ({}, {"x": b"w"})
    await store.close()


async def test_every_field_of_a_member_has_its_column(path: Path) -> None:
    # A field more needs another format: 0.1.0 would drop it.
    values: dict[str, Any] = {"str": "a:1", "int": 1_761_900_000_000}
    member = Member(*[values[getattr(field.type, "__name__", field.type)] for field in fields(Member)])
    await write(path, Fact(MEMBERS.name, "m", MEMBERS.encode(member)))
    store = SqliteStore(path)
    await store.open()
    assert await facts_of(store, MEMBERS.name) == {"m": MEMBERS.encode(member)}
    await store.close()


async def test_a_store_that_lacks_facts_is_given_what_it_lacks(path: Path) -> None:
    await write(path)
    connection = apsw.Connection(str(path))
    connection.execute("DROP TABLE facts")
    connection.execute("INSERT INTO members VALUES ('m', 'a:1', 5)")
    connection.close()
    await write(path, Fact("k", "x", b"v"))
    store = SqliteStore(path)
    await store.open()
    assert await facts_of(store, MEMBERS.name) == {"m": MEMBERS.encode(Member("a:1", 5))}
    assert await facts_of(store, "k") == {"x": b"v"}
    await store.close()
    downgrade(path)
    texts = {row[0] for row in rows(path, "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    assert texts > set(TABLES[2]), "0.1.0 refuses a store that lacks one of these"
