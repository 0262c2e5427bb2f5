"""Unique keys over a real store: the task that has a key is loaded when it rests there alone, and restarts keep all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.kinds import UNIQUE_KEYS
from gowork.leader._core.model import HandlerPolicy, Now, Outcome
from gowork.leader._core.state import Settings
from gowork.leader._engine.asked import RefusedError
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loop import Engine
from gowork.leader._wire.specs import spec_from
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

PATIENCE = 60.0
#: So small that most of what waits rests in the store.
SMALL = Settings(window=2, lane_page=2, lane_min=1)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.wall_ms = 1_800_000_000_000

    def now(self) -> Now:
        return Now(self.wall_ms, 1000.0)

    def wall_ns(self) -> int:
        return self.wall_ms * 1_000_000


class Outbox:
    def deliver(self, effects: Sequence[ef.Effect]) -> None:
        """Nobody is there."""


@asynccontextmanager
async def running(folder: Path, clock: Clock | None = None) -> AsyncIterator[Engine]:
    store = SqliteStore(folder / "store.db")
    engine = Engine(store, Outbox(), Counts(), SMALL, clock or Clock())
    try:
        await engine.recover()
        async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE):
            group.create_task(engine.run())
            yield engine
            engine.stop()
    finally:
        await store.close()


async def submit(engine: Engine, *ids: str, key: str = "k", **fields: Any) -> tuple[tuple[int, str], ...]:
    tasks = [pb.Task(id=id, handler="h", unique_key=key, **fields) for id in ids]
    return (await engine.ask(cmd.Submit([spec_from(task) for task in tasks]))).held


async def fill_the_window(engine: Engine) -> None:
    await submit(engine, "x", "y", "z", key="")


async def rests(engine: Engine, id: str) -> bool:
    """Whether a task is in the store alone."""
    return await engine.read(lambda state: id not in state.tasks)


async def keys(engine: Engine) -> dict[str, str]:
    return await engine.read(lambda state: {key: fact.id for key, fact in state.facts.of(UNIQUE_KEYS).items()})


async def test_a_task_that_rests_in_the_store_keeps_its_key(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await fill_the_window(engine)
        await submit(engine, "a")
        assert await rests(engine, "a")
        assert await submit(engine, "b") == ((0, "a"),)
        assert await rests(engine, "a")
    async with running(tmp_path) as engine:
        assert await submit(engine, "c") == ((0, "a"),)
        await engine.ask(cmd.Cancel("a"))
        assert await keys(engine) == {}
    async with running(tmp_path) as engine:
        assert await keys(engine) == {}
        assert await submit(engine, "d") == ()


async def test_a_task_that_runs_again_is_compared_with_one_that_rests_in_the_store(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        await submit(engine, "a")
        await engine.ask(cmd.Cancel("a"))
        await fill_the_window(engine)
        await submit(engine, "b")
        assert await rests(engine, "b")
        with pytest.raises(RefusedError, match="task 'b' has the unique_key 'k'"):
            await engine.ask(cmd.RetryTask("a"))


async def test_a_follow_up_is_compared_with_a_task_that_rests_in_the_store(tmp_path: Path) -> None:
    async with running(tmp_path) as engine:
        engine.post(cmd.OpenSession(1, "w", "w-1", 9, (HandlerPolicy("h"),), {}, "", (), (), "peer"))
        engine.post(cmd.ReceiveFrame(1, credit=1))
        await submit(engine, "runs", key="")
        fence = await engine.read(lambda state: state.tasks["runs"].standing.fence)
        await fill_the_window(engine)
        await submit(engine, "a")
        assert await rests(engine, "a")
        follow_up = spec_from(pb.Task(id="runs/1", handler="h", unique_key="k"))
        report = cmd.Report(fence, "runs", Outcome.COMPLETED, follow_ups=(follow_up,))
        await engine.post_frame(cmd.ReceiveFrame(1, [report]))
        assert await keys(engine) == {"k": "a"}
        again = await engine.ask(cmd.Submit([spec_from(pb.Task(id="runs/1", handler="h"))]))
        assert (again.created, again.existing) == (1, 0)


async def test_a_kept_key_is_freed_when_its_time_is_over_also_after_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    async with running(tmp_path, clock) as engine:
        for id, seconds in (("a", 3), ("b", 9)):
            await submit(engine, id, key=f"key of {id}", unique_for_ms=seconds * 1000)
            await engine.ask(cmd.Cancel(id))
        assert await submit(engine, "c", key="key of a") == ((0, "a"),)
        clock.wall_ms += 3000
        # It looks at the time after the batch's commands.
        await submit(engine, "x", key="")
        assert list(await keys(engine)) == ["key of b"]
    async with running(tmp_path, clock) as engine:
        assert await submit(engine, "c", key="key of b") == ((0, "b"),)
        clock.wall_ms += 6000
        await submit(engine, "y", key="")
        assert await keys(engine) == {}
        assert await submit(engine, "c", key="key of b") == ()
