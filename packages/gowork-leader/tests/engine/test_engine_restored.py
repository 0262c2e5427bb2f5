"""A leader over a store that was restored from a backup does not run what must not run twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from gowork.leader._core import commands as cmd
from gowork.leader._core.effects import Effect
from gowork.leader._core.model import FailureKind, HandlerPolicy, Standing, Status
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loop import Engine
from gowork.leader._wire.specs import spec_from
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

PATIENCE = 60.0
ONCE = pb.Task(id="once", handler="work", on_lost=pb.ON_LOST_FAIL)
AGAIN = pb.Task(id="again", handler="work")


class Outbox:
    def deliver(self, effects: Sequence[Effect]) -> None:
        """Nobody is there."""


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[tuple[Engine, SqliteStore]]:
    store = SqliteStore(path)
    engine = Engine(store, Outbox(), Counts())
    try:
        await engine.recover()
        async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE):
            group.create_task(engine.run())
            yield engine, store
            engine.stop()
    finally:
        await store.close()


async def standing(store: SqliteStore, id: str) -> Standing:
    """Where a task stands in the store."""
    ((_, found),) = await store.standings([id])
    return found


async def connect(engine: Engine) -> None:
    """A worker comes that has room for everything."""
    hello = cmd.OpenSession(1, "w", "w-1", 9, (HandlerPolicy("work"),), {}, "0.2.0", (), (), "peer")
    await engine.ask(hello)
    await engine.ask(cmd.ReceiveFrame(1, credit=9))
    # One more, so that what the last one granted is in the store.
    await engine.ask(cmd.ReceiveFrame(1))


async def test_a_leader_holds_back_what_came_with_a_backup_and_must_not_run_twice(tmp_path: Path) -> None:
    async with running(tmp_path / "old.db") as (engine, store):
        await engine.ask(cmd.Submit([spec_from(ONCE), spec_from(AGAIN)]))
        await store.backup(tmp_path / "copy")
    await SqliteStore(tmp_path / "new.db").restore(tmp_path / "copy")
    async with running(tmp_path / "new.db") as (engine, store):
        await connect(engine)
        assert (await standing(store, "again")).status is Status.RUNNING
        held_back = await standing(store, "once")
        assert held_back.status is Status.ERROR
        assert held_back.failure is not None
        assert held_back.failure.kind is FailureKind.LOST
        await engine.ask(cmd.RetryTask("once"))
        await engine.ask(cmd.ReceiveFrame(1))
        assert (await standing(store, "once")).status is Status.RUNNING


async def test_a_leader_that_is_only_started_again_runs_them(tmp_path: Path) -> None:
    async with running(tmp_path / "old.db") as (engine, store):
        await engine.ask(cmd.Submit([spec_from(ONCE)]))
    async with running(tmp_path / "old.db") as (engine, store):
        await connect(engine)
        assert (await standing(store, "once")).status is Status.RUNNING
