"""The log in PostgreSQL keeps its rules when the server, the network, the disk or the clock fails."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, cast

import psycopg
import pytest
from postgresql_server import PostgresqlServer
from psycopg.conninfo import conninfo_to_dict
from tcp_proxy import TcpProxy

from gowork.leader.log import (
    Generation,
    LeadershipLostError,
    LogEntry,
    LogError,
    LogFullError,
    LogRefusedError,
    LogUnreachableError,
    PrunedError,
    Span,
    postgresql,
)
from gowork.leader.log._postgresql import server as connections
from gowork.leader.log._postgresql import statements
from gowork.leader.log.conformance import FIRST, candidate, follow, lead, lead_in_time
from gowork.leader.log.postgresql import LEASE_SECONDS, PostgresqlLeadership, PostgresqlLog, postgresql_log

pytestmark = pytest.mark.tool("postgres", "initdb")

_numbers = itertools.count()


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.UniqueViolation("duplicate key value violates unique constraint"),
        psycopg.errors.DuplicateTable('relation "entries_1_0" already exists'),
        # Of a table that another session has made in between.
        psycopg.errors.DuplicateObject('type "entries_1_0" already exists'),
    ],
    ids=["row", "table", "type"],
)
def test_what_another_session_was_faster_to_make_is_there_already(error: psycopg.Error) -> None:
    assert isinstance(connections._meaning(error), connections.AlreadyThereError)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with PostgresqlServer() as server:
        yield server


@pytest.fixture
def schema() -> str:
    return f"fault_{next(_numbers)}"


@pytest.fixture
async def log(server: PostgresqlServer, schema: str) -> AsyncIterator[PostgresqlLog]:
    """A log that has begun."""
    log = postgresql_log(server.url(schema))
    await log.open()
    await log.begin(FIRST, None)
    yield log
    await log.close()


@pytest.fixture
async def proxy(server: PostgresqlServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(server.socket_path) as proxy:
        yield proxy


@pytest.fixture
async def distant(
    server: PostgresqlServer, schema: str, log: PostgresqlLog, proxy: TcpProxy
) -> AsyncIterator[PostgresqlLog]:
    """The same log, behind the proxy."""
    distant = postgresql_log(server.url(schema, proxy.host))
    await distant.open()
    yield distant
    proxy.heal()
    await distant.close()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives leaders a lease that outlasts what a test does to them."""
    monkeypatch.setattr(postgresql, "LEASE_SECONDS", 120.0)


def run(server: PostgresqlServer, *texts: str) -> list[Any]:
    """Runs statements as the administrator, and returns the rows of the last one."""
    with psycopg.connect(server.url("x").partition("&schema")[0], autocommit=True) as connection:
        for text in texts[:-1]:
            connection.execute(text)
        cursor = connection.execute(texts[-1])
        return cursor.fetchall() if cursor.description else []


async def test_an_entry_whose_acknowledgement_got_lost_is_there_once(
    patience: None, log: PostgresqlLog, distant: PostgresqlLog, proxy: TcpProxy
) -> None:
    leadership = await lead(distant)
    await leadership.append(1, b"1")
    proxy.passes_answers.clear()
    appending = asyncio.ensure_future(leadership.append(2, b"2"))
    assert await follow(log, 1, 2) == [LogEntry(2, b"2")]
    assert not appending.done()
    proxy.cut()
    proxy.heal()
    await appending
    await leadership.append(3, b"3")
    assert await follow(log, 0, 3) == [LogEntry(1, b"1"), LogEntry(2, b"2"), LogEntry(3, b"3")]


async def test_an_entry_that_did_not_get_through_is_sent_again(
    patience: None, log: PostgresqlLog, distant: PostgresqlLog, proxy: TcpProxy
) -> None:
    leadership = await lead(distant)
    await leadership.append(1, b"1")
    proxy.stall()
    appending = asyncio.ensure_future(leadership.append(2, b"2"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await asyncio.shield(appending)
    assert (await log.span()).last == 1
    proxy.heal()
    await appending
    assert (await log.span()).last == 2


async def test_a_leader_that_is_cut_off_ends_in_time_and_another_takes_over(
    log: PostgresqlLog, distant: PostgresqlLog, proxy: TcpProxy
) -> None:
    deposed = await lead(distant)
    await deposed.append(1, b"1")
    proxy.stall()
    began = time.monotonic()
    with pytest.raises(LeadershipLostError):
        await deposed.append(2, b"late")
    with pytest.raises(LeadershipLostError):
        await deposed.confirm()
    # The last attempt may have begun just before the end.
    assert time.monotonic() - began < LEASE_SECONDS + 1.0
    assert deposed.lost.is_set()
    successor = await lead_in_time(log, applied=1)
    proxy.heal()
    await successor.append(2, b"2")
    assert await follow(log, 0, 2) == [LogEntry(1, b"1"), LogEntry(2, b"2")]


async def test_a_connection_that_breaks_is_no_more_than_a_delay(
    patience: None, log: PostgresqlLog, distant: PostgresqlLog, proxy: TcpProxy
) -> None:
    leadership = await lead(distant)
    following = asyncio.ensure_future(follow(distant, 0, 12))
    for index in range(1, 13):
        await leadership.append(index, b"%d" % index)
        await leadership.confirm()
        if index % 3 == 0:
            proxy.cut()
    assert [entry.index for entry in await following] == list(range(1, 13))


async def test_who_resigns_tells_it_though_the_connections_have_broken(
    patience: None, log: PostgresqlLog, distant: PostgresqlLog, proxy: TcpProxy
) -> None:
    leadership = await lead(distant)
    await leadership.append(1, b"1")
    proxy.cut()
    await leadership.resign()
    # Nobody waits for the lease.
    await lead(log, applied=1)


async def test_connections_that_have_broken_since_the_last_term_cost_no_election(
    patience: None, distant: PostgresqlLog, proxy: TcpProxy
) -> None:
    await (await lead(distant)).resign()
    proxy.cut()
    await lead(distant)


async def test_a_call_that_is_cancelled_reports_no_error_that_nobody_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["message"]))
    asked, broken = asyncio.Event(), asyncio.Event()

    async def fetch(*_: object) -> list[Any]:
        asked.set()
        await broken.wait()
        raise psycopg.OperationalError("the connection is broken")

    monkeypatch.setattr(connections, "_fetch", fetch)
    monkeypatch.setattr(connections, "_cut", lambda connection: broken.set())
    asking = asyncio.ensure_future(connections.run_on(cast(Any, None), b"SELECT 1"))
    await asked.wait()
    asking.cancel()
    await asyncio.wait({asking})
    assert asking.cancelled()
    # It has the frames that know the inner task.
    del asking
    gc.collect()
    assert reported == []


async def test_a_call_is_given_up_in_time_and_when_it_is_cancelled(distant: PostgresqlLog, proxy: TcpProxy) -> None:
    proxy.stall()
    began = time.monotonic()
    asking = asyncio.ensure_future(distant.span())
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert time.monotonic() - began < 1.0
    with pytest.raises(LogUnreachableError):
        await distant.campaign(candidate())
    assert time.monotonic() - began < 20.0


@pytest.mark.longer
async def test_a_server_that_is_killed_while_a_leader_appends_loses_nothing_that_was_acknowledged(
    patience: None, server: PostgresqlServer, log: PostgresqlLog
) -> None:
    leadership = await lead(log)
    acknowledged: asyncio.Queue[int] = asyncio.Queue()

    async def append() -> None:
        for index in range(1, 301):
            await leadership.append(index, b"%d" % index * 1000)
            acknowledged.put_nowait(index)

    following = asyncio.ensure_future(follow(log, 0, 300))
    appending = asyncio.ensure_future(append())
    for at in (20, 150):
        while await acknowledged.get() < at:
            pass
        # The leader goes on to append until the loop runs again.
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    async with asyncio.timeout(120):
        await appending
        assert await following == [LogEntry(index, b"%d" % index * 1000) for index in range(1, 301)]
    await leadership.confirm()


async def test_pruning_drops_tables_and_so_does_another_generation(
    monkeypatch: pytest.MonkeyPatch, server: PostgresqlServer, log: PostgresqlLog, schema: str
) -> None:
    monkeypatch.setattr(statements, "SEGMENT_ENTRIES", 4)
    leadership = await lead(log)
    for index in range(1, 22):
        await leadership.append(index, b"%d" % index)

    def segments() -> set[str]:
        rows = run(server, f"SELECT relname FROM pg_class WHERE relnamespace = '{schema}'::regnamespace")
        return {name for (name,) in rows if name.startswith("entries") and not name.endswith("pkey")}

    assert segments() == {f"entries_1_{number}" for number in range(6)}
    for before, kept in ((15, {3, 4, 5}), (16, {4, 5}), (22, {5})):
        await leadership.prune(before)
        assert segments() == {f"entries_1_{number}" for number in kept}
    assert await log.span() == Span(21, 21)
    with pytest.raises(PrunedError):
        await follow(log, 0, 21)
    await log.begin(Generation("second"), FIRST.id)
    assert segments() == set()


async def test_a_reader_that_holds_old_entries_holds_up_no_leader(
    monkeypatch: pytest.MonkeyPatch, server: PostgresqlServer, log: PostgresqlLog, schema: str
) -> None:
    monkeypatch.setattr(statements, "SEGMENT_ENTRIES", 4)
    leadership = await lead(log)
    for index in range(1, 9):
        await leadership.append(index, b"%d" % index)
    with psycopg.connect(server.url("x").partition("&schema")[0]) as reader:
        # As pg_dump does.
        for table in ("log", "lease", "entries_1_0", "entries_1_1"):
            reader.execute(f"SELECT * FROM {schema}.{table}")
        await leadership.prune(8)
        assert await log.span() == Span(8, 8)
        for index in range(9, 15):
            await leadership.append(index, b"%d" % index)
        assert run(server, f"SELECT to_regclass('{schema}.entries_1_0') IS NOT NULL") == [(True,)]
    await leadership.prune(14)
    assert run(server, f"SELECT to_regclass('{schema}.entries_1_0')") == [(None,)]


async def test_a_database_without_room_takes_nothing_and_goes_on_when_it_has_room(
    server: PostgresqlServer, log: PostgresqlLog, schema: str
) -> None:
    leadership = await lead(log)
    await leadership.append(1, b"1")
    run(
        server,
        f"CREATE FUNCTION {schema}.no_room() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = 'disk_full'; END $$",
        f"CREATE TRIGGER no_room BEFORE INSERT ON {schema}.entries_1_0 EXECUTE FUNCTION {schema}.no_room()",
    )
    for _ in range(2):
        with pytest.raises(LogFullError, match="No space left"):
            await leadership.append(2, b"2")
    assert await log.span() == Span(1, 1)
    await leadership.confirm()
    run(server, f"DROP TRIGGER no_room ON {schema}.entries_1_0")
    await leadership.append(2, b"2")


@pytest.mark.parametrize("until", ["now() + interval '1 hour'", "now() - interval '1 hour'"])
async def test_a_clock_that_is_set_costs_no_more_than_an_election(
    server: PostgresqlServer, log: PostgresqlLog, schema: str, until: str
) -> None:
    leadership = await lead(log)
    assert isinstance(leadership, PostgresqlLeadership)
    leadership._keeper.stop()
    run(server, f"UPDATE {schema}.lease SET until = {until}")
    other = postgresql_log(server.url(schema))
    await other.open()
    await lead(other)
    with pytest.raises(LeadershipLostError):
        await leadership.append(1, b"late")
    await other.close()


async def test_who_waits_for_a_lock_leaves_no_sessions_behind(
    monkeypatch: pytest.MonkeyPatch, patience: None, server: PostgresqlServer, log: PostgresqlLog, schema: str
) -> None:
    leadership = await lead(log)
    await leadership.append(1, b"1")
    assert isinstance(leadership, PostgresqlLeadership)
    append, begun = leadership._append, asyncio.Semaphore(0)

    async def counted(*what: Any) -> None:
        begun.release()
        await append(*what)

    monkeypatch.setattr(leadership, "_append", counted)
    with psycopg.connect(server.url("x").partition("&schema")[0]) as holding:
        holding.execute(f"LOCK TABLE {schema}.log")
        appending = asyncio.ensure_future(leadership.append(2, b"2"))
        for _ in range(4):
            await begun.acquire()
        waiting = run(server, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        assert waiting[0][0] <= 1
    await appending
    assert (await log.span()).last == 2


async def test_a_proxy_that_takes_no_options_gets_none(
    monkeypatch: pytest.MonkeyPatch, server: PostgresqlServer, schema: str
) -> None:
    connect = psycopg.AsyncConnection.connect
    tried: list[str] = []

    async def connect_through_a_pool(conninfo: str, **more: Any) -> Any:
        tried.append(str(conninfo_to_dict(conninfo).get("options", "")))
        if "lock_timeout" in tried[-1]:
            raise psycopg.OperationalError("connection failed: FATAL: unsupported startup parameter: options")
        return await connect(conninfo, **more)

    monkeypatch.setattr(psycopg.AsyncConnection, "connect", connect_through_a_pool)
    log = postgresql_log(server.url(schema))
    # It passes no notifications on.
    log._tables.statements.listen = b"SELECT 1"
    await log.open()
    await log.begin(FIRST, None)
    await log.close()
    assert [options for options in tried if options] == tried[:1]


@pytest.mark.parametrize("table", ["log", "lease", "notes"])
async def test_a_table_that_somebody_has_taken_away_is_named_and_all_goes_on_when_it_is_back(
    patience: None, server: PostgresqlServer, log: PostgresqlLog, schema: str, table: str
) -> None:
    leadership = await lead(log)
    await leadership.append(1, b"1")
    run(server, f"ALTER TABLE {schema}.{table} RENAME TO away")
    asked: dict[str, list[Callable[[], Awaitable[object]]]] = {
        "log": [lambda: anext(log.leaders()), lambda: leadership.append(2, b"2"), lambda: follow(log, 0, 1)],
        "lease": [lambda: anext(log.leaders()), leadership.confirm],
        "notes": [log.notes, lambda: log.put_note("a", b"1"), lambda: log.drop_note("a")],
    }
    for ask in asked[table]:
        with pytest.raises(LogRefusedError, match=f"lacks a table of gowork: .*{schema}.{table}"):
            await ask()
    run(server, f"ALTER TABLE {schema}.away RENAME TO {table}")
    await leadership.append(2, b"2")
    await leadership.confirm()
    assert await log.notes() == {}


async def test_an_entry_that_is_missing_is_told_and_not_skipped(
    server: PostgresqlServer, log: PostgresqlLog, schema: str
) -> None:
    leadership = await lead(log)
    for index in range(1, 6):
        await leadership.append(index, b"%d" % index)
    for gone in ("index = 3", "true"):
        run(server, f"DELETE FROM {schema}.entries_1_0 WHERE {gone}")
        with pytest.raises(LogError, match=f"lacks entry {3 if gone != 'true' else 1}"):
            await follow(log, 0, 5)
    run(server, f"DROP TABLE {schema}.entries_1_0")
    with pytest.raises(LogError, match="lacks entry 1"):
        await follow(log, 0, 5)


async def test_no_statement_rests_on_what_another_left_in_its_connection(
    monkeypatch: pytest.MonkeyPatch, server: PostgresqlServer, schema: str
) -> None:
    fetch = connections._fetch

    async def fetch_as_through_a_pool(connection: Any, statement: bytes, values: Any) -> list[Any]:
        rows = await fetch(connection, statement, values)
        cursor = await connection.execute("SELECT count(*) FROM pg_prepared_statements")
        assert await cursor.fetchall() == [(0,)]
        await connection.execute("DISCARD ALL")
        return rows

    monkeypatch.setattr(connections, "_fetch", fetch_as_through_a_pool)
    log = postgresql_log(server.url(schema))
    # A proxy passes no notifications on.
    log._tables.statements.listen = b"SELECT 1"
    await log.open()
    await log.begin(FIRST, None)
    leadership = await lead(log)
    following = asyncio.ensure_future(follow(log, 0, 20))
    for index in range(1, 21):
        await leadership.append(index, b"%d" % index)
    assert len(await following) == 20
    await leadership.prune(10)
    await log.put_note("a", b"1", 9)
    assert await log.notes() == {"a": b"1"}
    await log.close()


async def test_a_user_without_rights_is_refused_and_told_what_is_needed(
    server: PostgresqlServer, log: PostgresqlLog, schema: str
) -> None:
    run(server, f"CREATE ROLE {schema}_user LOGIN")
    for place in (schema, f"{schema}_new"):
        refused = postgresql_log(server.url(place).replace("//postgres@", f"//{schema}_user:secret@"))
        with pytest.raises(LogRefusedError, match="must own the log's schema") as caught:
            await refused.open()
        assert "secret" not in str(caught.value)
        await refused.close()


async def test_a_place_that_is_not_there_is_named_without_the_password(server: PostgresqlServer) -> None:
    unknown = postgresql_log(server.url("x", database="nowhere").replace("@", ":secret@"))
    with pytest.raises(LogRefusedError, match="nowhere") as caught:
        await unknown.open()
    assert "secret" not in str(caught.value)
    closed = postgresql_log("postgresql://me:secret@127.0.0.1:1/x")
    with pytest.raises(LogUnreachableError, match="127.0.0.1") as unreachable:
        await closed.open()
    assert "secret" not in str(unreachable.value)


async def test_a_database_that_does_not_force_commits_is_refused(server: PostgresqlServer, schema: str) -> None:
    run(server, f"CREATE ROLE {schema} SUPERUSER LOGIN", f"ALTER ROLE {schema} SET synchronous_commit = off")
    log = postgresql_log(server.url(schema).replace("//postgres@", f"//{schema}@"))
    with pytest.raises(LogError, match="synchronous_commit"):
        await log.open()
    await log.close()


async def test_tables_of_a_later_format_are_left_alone(
    server: PostgresqlServer, log: PostgresqlLog, schema: str
) -> None:
    run(server, f"UPDATE {schema}.log SET format = 2")
    other = postgresql_log(server.url(schema))
    with pytest.raises(LogError, match="install a newer version"):
        await other.open()
    await other.close()
