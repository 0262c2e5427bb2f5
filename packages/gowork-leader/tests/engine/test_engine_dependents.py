"""Tasks that come after others over a real store: both ends may rest there alone, and restarts keep all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.kinds import AFTER
from gowork.leader._core.model import HandlerPolicy, Outcome, Status
from gowork.leader._core.state import Settings
from gowork.leader._engine.asked import RefusedError
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loop import Engine
from gowork.leader._wire.specs import spec_from
from gowork.leader.store.protocol import Query
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

PATIENCE = 60.0
#: So small that most of what waits rests in the store.
SMALL = Settings(window=2, lane_page=8, lane_min=1)


class Outbox:
    def deliver(self, effects: Sequence[ef.Effect]) -> None:
        """Nobody is there."""


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Engine]:
    store = SqliteStore(folder / "store.db")
    engine = Engine(store, Outbox(), Counts(), SMALL)
    try:
        await engine.recover()
        async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE):
            group.create_task(engine.run())
            yield engine
            engine.stop()
    finally:
        await store.close()


async def submit(engine: Engine, *tasks: pb.Task) -> None:
    await engine.ask(cmd.Submit([spec_from(task) for task in tasks]))


def task(id: str, *after: str, **fields: Any) -> pb.Task:
    return pb.Task(id=id, handler="h", payload="{}", after=after, **fields)


async def work(engine: Engine, *ids: str, outcome: Outcome = Outcome.COMPLETED) -> None:
    """Has a worker run these tasks, and no others."""
    session = cmd.OpenSession(1, "w", "w-1", 9, (HandlerPolicy("h"),), {}, "", (), (), "peer", (), frozenset(), ())
    await engine.ask(session)
    await engine.ask(cmd.ReceiveFrame(1, credit=len(ids)))
    held: dict[str, int] = {}
    for _ in range(20):
        # Each question takes a step, which pages in what rests in the store and grants it.
        held = await engine.read(lambda state: {id: fence for fence, id in state.workers["w-1"].held.items()})
        if len(held) == len(ids):
            break
    assert held.keys() == set(ids)
    await engine.ask(cmd.ReceiveFrame(1, [cmd.Report(fence, id, outcome) for id, fence in held.items()]))
    await engine.ask(cmd.CloseSession(1))


async def statuses(engine: Engine) -> dict[str, Status]:
    # What follows from the last batch is decided in the next one.
    await engine.read(lambda _: None)
    await engine.read(lambda _: None)
    records = await engine._store.page(Query(), None, 100, 1 << 20)
    return {record.id: record.standing.status for record in records}


async def test_a_chain_runs_across_restarts(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await submit(engine, task("c", "b"), task("b", "a"), task("a"))
        await work(engine, "a")
    async with running(tmp_path) as engine:
        await work(engine, "b")
    async with running(tmp_path) as engine:
        await work(engine, "c")
        assert set((await statuses(engine)).values()) == {Status.COMPLETED}
        assert await engine.read(lambda state: len(state.facts.of(AFTER))) == 0


async def test_what_a_leader_did_not_come_to_decide_is_decided_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as engine:
        await submit(engine, task("a"), task("b", "a"), task("c", "a"))
        with monkeypatch.context() as patch:
            # As if it had ended before.
            patch.setattr("gowork.leader._core.dependents.Dependents.take_in_hand", lambda *_: ())
            patch.setattr("gowork.leader._engine.loading.Loader.hungry", False)
            await work(engine, "a", outcome=Outcome.FAILED)
            assert (await statuses(engine))["b"] is Status.PENDING
    async with running(tmp_path) as engine:
        assert await statuses(engine) == {"a": Status.ERROR, "b": Status.CANCELLED, "c": Status.CANCELLED}
        await engine.ask(cmd.RetryTask("a"))
        assert set((await statuses(engine)).values()) == {Status.PENDING}


async def test_tasks_that_rest_in_the_store_are_known_and_waited_for(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        # The window has room for two.
        await submit(engine, *(task(id) for id in "vwxyz"))
        assert await engine.read(lambda state: "z" not in state.tasks)
        await submit(engine, task("late", "z"))
        with pytest.raises(RefusedError, match="no task has the id 'nobody'"):
            await submit(engine, task("never", "nobody"))
        await work(engine, *"vwxyz")
        await work(engine, "late")


async def test_retention_passes_over_what_has_to_be_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await submit(engine, task("a"), task("b"), task("after", "a", run_at_ms=2_000_000_000_000))
        await work(engine, "a", "b")
        await engine.read(lambda _: None)
        assert engine.kept_tasks == 1
        assert (await engine.ask(cmd.Purge(["a", "b"]))).tasks == 1
        await engine.ask(cmd.Cancel("after"))
        assert (await engine.ask(cmd.Purge(["a", "b"]))).tasks == 1
        assert engine.kept_tasks == 0


# Groups.


def group(id: str, children: int | None = None, **fields: Any) -> pb.Task:
    return pb.Task(id=id, group=pb.GroupOptions(children=children), **fields)


async def test_a_group_knows_its_children_after_a_restart_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gowork.leader._engine.loading.GROUPS_MAX", 2)
    async with running(tmp_path) as engine:
        others = [group(id, handler="h", payload="{}") for id in "abcd"]
        await submit(engine, *others, task("b/0", run_at_ms=2_000_000_000_000))
        await submit(engine, group("g", handler="h", payload="{}"), *(task(f"g/{number}") for number in range(9)))
        await work(engine, *(f"g/{number}" for number in range(5)))
    async with running(tmp_path) as engine:
        assert (await engine.ask(cmd.SealGroup("g"))) == cmd.GroupState(9, 4, 5, 0, 0)
        await work(engine, *(f"g/{number}" for number in range(5, 9)))
        await work(engine, "g")
        assert (await statuses(engine))["g"] is Status.COMPLETED
        for id, children in zip("abcd", (0, 1, 0, 0), strict=True):
            assert (await engine.ask(cmd.SealGroup(id))).expected == children
