"""What the engine brings into memory and when, over restarts and stalls, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.model import HandlerPolicy, Now, Status
from gowork.leader._core.state import Settings, State
from gowork.leader._engine import loading, loop
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loop import Engine
from gowork.leader._wire.specs import spec_from
from gowork.leader.store.protocol import Batch
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

PATIENCE = 120.0
WALL_MS = 1_800_000_000_000


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.wall_ms, self.mono = WALL_MS, 1000.0

    def now(self) -> Now:
        return Now(self.wall_ms, self.mono)

    def wall_ns(self) -> int:
        return self.wall_ms * 1_000_000

    def pass_time(self, seconds: float) -> None:
        self.mono += seconds
        self.wall_ms += int(seconds * 1000)


class GatedStore(SqliteStore):
    """Notes its batches, and holds commits up while its gate is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Event()
        #: How many new tasks each batch had.
        self.batches: list[int] = []

    async def commit(self, batch: Batch) -> None:
        self.arrived.set()
        await self.gate.wait()
        await super().commit(batch)
        self.batches.append(len(batch.inserts))


class Running:
    """An engine at work."""

    def __init__(self, engine: Engine, store: GatedStore, clock: Clock) -> None:
        self.engine, self.store, self.clock = engine, store, clock
        self.granted: list[str] = []

    def deliver(self, effects: Sequence[ef.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, ef.GrantTasks):
                self.granted += [grant.spec.id for grant in effect.grants]

    async def connect(self, name: str = "w", credit: int = 0) -> None:
        number = len(name) + ord(name[-1])
        self.engine.post(cmd.OpenSession(number, name, f"{name}-1", 9, (HandlerPolicy("h"),), {}, "", (), (), "peer"))
        self.engine.post(cmd.ReceiveFrame(number, credit=credit))
        await self.rest()

    async def submit(self, *ids: str, **fields: Any) -> None:
        await self.engine.ask(cmd.Submit([spec_from(pb.Task(id=id, handler="h", **fields)) for id in ids]))

    async def leases(self) -> dict[str, float]:
        return await self.engine.read(lambda state: dict(state.leases))

    async def rest(self) -> None:
        """Until nothing is to be paged in and nothing queues."""

        def hungry(state: State) -> bool:
            return bool(state.queues.hungry) or state.delayed.hungry or state.expiring.hungry

        while await self.engine.read(hungry):
            pass
        # It waits by now.
        for _ in range(10):
            await asyncio.sleep(0)

    async def tick(self, seconds: float) -> None:
        """Time passes, and the engine looks at it: as often as it takes until nothing moves."""
        while seconds > 0:
            # In larger steps it would take itself for held up.
            step = min(seconds, loop.LEASE_WAIT_SECONDS)
            seconds -= step
            self.clock.pass_time(step)
            for _ in range(5):
                await self.rest()


@asynccontextmanager
async def running(folder: Path, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Running]:
    store, clock = GatedStore(folder / "store.db"), clock or Clock()

    class Delivered:
        def deliver(self, effects: Sequence[ef.Effect]) -> None:
            it.deliver(effects)

    engine = Engine(store, Delivered(), Counts(), Settings(**settings), clock=clock)
    it = Running(engine, store, clock)
    await engine.recover()
    try:
        async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE):
            group.create_task(engine.run())
            yield it
            store.gate.set()
            engine.stop()
    finally:
        await store.close()


async def test_a_loop_that_was_held_up_while_it_waited_extends_all_leases(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.connect("a")
        it.clock.pass_time(5)
        await it.connect("b")
        before = await it.leases()
        await it.rest()
        # It waits for a second at a time, though no lease ends for 5 s, and comes back 7 s late.
        it.clock.pass_time(8)
        assert await it.leases() == {name: at + 7 for name, at in before.items()}


async def test_a_loop_that_has_nothing_to_wait_for_was_not_held_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as it:
        await it.submit("t")
        await it.rest()
        it.clock.pass_time(3600)
        await it.submit("u")
    assert "loop was held up" not in caplog.messages


async def test_a_loop_that_was_held_up_while_a_batch_gathered_extends_all_leases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as it:
        await it.connect("a")
        before = await it.leases()
        it.store.arrived.clear()
        it.store.gate.clear()
        submitting = asyncio.ensure_future(it.submit("t"))
        await it.store.arrived.wait()
        # The loop never waits: this is there when the batch before is through.
        asked = asyncio.ensure_future(it.leases())
        await asyncio.sleep(0)
        gather = it.engine._gather

        async def held_up() -> None:
            await gather()
            it.clock.pass_time(8)

        monkeypatch.setattr(it.engine, "_gather", held_up)
        it.store.gate.set()
        await submitting
        assert await asked == {"a-1": before["a-1"] + 8}
        monkeypatch.undo()


async def test_a_batch_that_was_held_up_extends_all_leases(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.connect("a")
        before = await it.leases()
        it.store.arrived.clear()
        it.store.gate.clear()
        submitting = asyncio.ensure_future(it.submit("t"))
        await it.store.arrived.wait()
        it.clock.pass_time(5)
        it.store.gate.set()
        await submitting
        assert await it.leases() == {"a-1": before["a-1"] + 5}


async def test_a_worker_that_does_not_come_back_after_a_start_loses_its_tasks_with_its_lease(tmp_path: Path) -> None:
    clock = Clock()
    async with running(tmp_path, clock) as it:
        await it.connect("a", credit=1)
        await it.submit("t")
        assert it.granted == ["t"]
    async with running(tmp_path, clock) as it:
        await it.tick(9)
        assert await it.engine.read(lambda state: state.tasks["t"].standing.status) is Status.RUNNING
        await it.tick(1)
        await it.connect("b", credit=1)
        assert it.granted == ["t"]


async def test_a_rate_holds_over_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    async with running(tmp_path, clock) as it:
        await it.engine.ask(cmd.ConfigureQueue("default", rate_limit=0.5, rate_burst=1))
        await it.submit("t1", "t2")
        await it.connect("a", credit=9)
        assert it.granted == ["t1"]
    async with running(tmp_path, clock) as it:
        await it.connect("b", credit=9)
        assert it.granted == []
        await it.tick(2.1)
        assert it.granted == ["t2"]


async def test_a_delayed_task_that_rests_in_the_store_is_loaded_when_its_time_comes(tmp_path: Path) -> None:
    async with running(tmp_path) as it:
        await it.submit("t", delay_ms=10_000)
        assert await it.engine.read(lambda state: "t" in state.tasks) is False
        await it.tick(10)
        await it.connect("a", credit=1)
        assert it.granted == ["t"]


async def test_more_delayed_tasks_than_a_page_of_times_all_come_due(tmp_path: Path) -> None:
    clock, ids = Clock(), [f"t{number}" for number in range(9)]
    async with running(tmp_path, clock) as it:
        for place, id in enumerate(ids):
            await it.submit(id, delay_ms=1_000 + place)
    # A page of times has 4.
    async with running(tmp_path, clock, timers_max=8) as it:
        await it.tick(2)
        await it.connect("a", credit=100)
        assert it.granted == ids


async def test_a_page_that_ends_at_its_bytes_is_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PAGE_BYTES_MAX", 1)
    ids = [f"t{number}" for number in range(5)]
    async with running(tmp_path) as it:
        await it.submit(*ids)
    async with running(tmp_path) as it:
        await it.connect("a", credit=100)
        assert it.granted == ids


async def test_a_page_has_no_more_bytes_than_the_window_has_room_for(tmp_path: Path) -> None:
    ids = [f"t{number}" for number in range(9)]
    async with running(tmp_path) as it:
        await it.submit(*ids, payload="x" * 4096)
    async with running(tmp_path, window=24, lane_page=12, lane_min=1) as it:
        await it.rest()
        # Each weighs 5. A page may stop short of its room, or end with a task that goes beyond it.
        assert await it.engine.read(lambda state: state.queues.loaded) in (2, 3)
        await it.connect("a", credit=100)
        assert it.granted == ids


@pytest.mark.parametrize(("bound", "most"), [("BATCH_TASKS_MAX", 5), ("BATCH_COMMANDS_MAX", 3)])
async def test_a_batch_ends_at_its_bounds_and_the_rest_is_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    monkeypatch.setattr(loop, bound, most)
    async with running(tmp_path) as it:
        it.store.gate.clear()
        first = asyncio.ensure_future(it.submit("first"))
        await it.store.arrived.wait()
        others = [asyncio.ensure_future(it.submit(f"{number}a", f"{number}b")) for number in range(5)]
        for _ in range(10):
            await asyncio.sleep(0)
        it.store.gate.set()
        await asyncio.gather(first, *others)
        # Each command has two tasks; it is the third that fills a batch.
        assert it.store.batches == [1, 6, 4]


async def test_rows_of_columns_count_for_the_bound_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "BATCH_TASKS_MAX", 5)
    columns = cmd.Completions(["x", "y", "z"], [1, 2, 3], [0] * 3, [""] * 3, [b""] * 3, [""] * 3)
    async with running(tmp_path) as it:
        it.store.gate.clear()
        first = asyncio.ensure_future(it.submit("first"))
        await it.store.arrived.wait()
        frame = it.engine.post_frame(cmd.ReceiveFrame(1, completions=[columns]))
        others = [asyncio.ensure_future(it.submit(str(number))) for number in range(3)]
        for _ in range(10):
            await asyncio.sleep(0)
        it.store.gate.set()
        await asyncio.gather(first, frame, *others)
        # Three rows and two tasks fill a batch.
        assert it.store.batches == [1, 2, 1]
