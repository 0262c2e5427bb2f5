"""What is looked at between core, engine and store: each rule is broken once, and found."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.model import HandlerPolicy, Outcome, Standing, Status, Task
from gowork.leader._engine import seams
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loop import Engine
from gowork.leader._engine.seams import BrokenSeamError, CheckedStore, check_held, checked
from gowork.leader._wire.specs import spec_from
from gowork.leader.store.codec import moved_task, new_task
from gowork.leader.store.protocol import Batch, DeletedTask, Opened, Record, Store, StoreFullError
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

PATIENCE = 60.0
TERM = 3
FLOOR = TERM << 40


class Bare:
    """A store that keeps nothing."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.records: list[Record] = []
        self.is_full = False

    async def open(self) -> Opened:
        return Opened(TERM, "", 1)

    async def commit(self, batch: Batch) -> None:
        if self.is_full:
            raise StoreFullError("no room")
        self.batches.append(batch)

    async def load(self, ids: list[str]) -> list[Record]:
        return self.records


class Looked:
    """A looked-at store, and the number of its batches."""

    def __init__(self) -> None:
        self.bare = Bare()
        self.store = CheckedStore(cast(Store, self.bare))
        self.number = FLOOR

    async def write(self, *tasks: Task, new: bool = False, deletes: tuple[int, ...] = ()) -> None:
        self.number += 1
        for task in tasks:
            task.changed = self.number
        await self.store.commit(
            Batch(
                [new_task(task) for task in tasks] if new else [],
                [] if new else [moved_task(task) for task in tasks],
                deletes=[DeletedTask(seq, "a", self.number) for seq in deletes],
            )
        )


async def looked_at() -> Looked:
    looked = Looked()
    await looked.store.open()
    return looked


def task(seq: int, id: str, fence: int = 0) -> Task:
    status = Status.RUNNING if fence else Status.PENDING
    return Task(seq, spec(id), Standing(status, 1, FLOOR + fence if fence else 0))


def test_seams_are_looked_at_only_where_that_is_switched_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store.db")
    assert isinstance(checked(store), CheckedStore)
    monkeypatch.undo()
    assert not seams.ON
    assert checked(store) is store


async def test_what_is_written_step_by_step_is_in_order() -> None:
    looked = await looked_at()
    await looked.write(task(1, "a"), task(2, "b"), new=True)
    await looked.write(task(1, "a", fence=1), task(2, "b", fence=2))
    await looked.write(task(1, "a", fence=1))
    await looked.write(task(1, "a"))
    await looked.write(task(1, "a", fence=3))
    assert len(looked.bare.batches) == 5


async def test_a_batch_that_did_not_fit_may_be_tried_again() -> None:
    looked = await looked_at()
    looked.bare.is_full = True
    with pytest.raises(StoreFullError):
        await looked.write(task(1, "a", fence=1), new=True)
    looked.bare.is_full = False
    await looked.write(task(1, "a", fence=1), new=True)


@pytest.mark.parametrize("fences", [(1,), (0, 3, 3)])
async def test_a_fence_that_does_not_grow_is_found(fences: tuple[int, ...]) -> None:
    looked = await looked_at()
    tasks = [task(seq, str(seq)) for seq in range(1, 5)]
    await looked.write(*tasks, new=True)
    await looked.write(task(4, "4", fence=2))
    with pytest.raises(BrokenSeamError, match="fences only grow"):
        await looked.write(*(task(seq, str(seq), fence) for seq, fence in enumerate(fences, 1)))


async def test_a_batch_whose_number_does_not_grow_is_found() -> None:
    looked = await looked_at()
    await looked.write(task(1, "a"), new=True)
    looked.number -= 1
    with pytest.raises(BrokenSeamError, match="a batch has one number"):
        await looked.write(task(1, "a", fence=1))


async def test_a_new_task_out_of_order_is_found() -> None:
    looked = await looked_at()
    await looked.write(task(2, "b"), new=True)
    with pytest.raises(BrokenSeamError, match="in the order of seq"):
        await looked.write(task(1, "a"), new=True)


async def test_a_task_that_a_batch_moves_and_removes_is_found() -> None:
    looked = await looked_at()
    await looked.write(task(1, "a"), new=True)
    with pytest.raises(BrokenSeamError, match="each task once"):
        await looked.write(task(1, "a", fence=1), deletes=(1,))


async def test_a_move_of_a_task_that_was_never_stored_is_found() -> None:
    looked = await looked_at()
    with pytest.raises(BrokenSeamError, match="only stored tasks move"):
        await looked.write(task(1, "a", fence=1))


async def test_a_record_that_comes_out_otherwise_than_it_was_written_is_found() -> None:
    looked = await looked_at()
    await looked.write(task(1, "a"), new=True)
    looked.bare.records = [looked.bare.batches[0].inserts[0].record]
    assert await looked.store.load(["a"]) == looked.bare.records
    await looked.write(task(1, "a", fence=1))
    with pytest.raises(BrokenSeamError, match="what comes out is what was written"):
        await looked.store.load(["a"])


async def test_a_record_that_was_not_asked_for_is_found() -> None:
    looked = await looked_at()
    await looked.write(task(1, "a"), new=True)
    looked.bare.records = [looked.bare.batches[0].inserts[0].record]
    with pytest.raises(BrokenSeamError, match="what was asked for"):
        await looked.store.load(["b"])


def running_core() -> tuple[Core, Task]:
    core = Core()
    core.connect("w1")
    core.submit(spec("a"))
    core.dispatch()
    return core, core.task("a")


def test_what_runs_and_is_held_is_in_order() -> None:
    core, running = running_core()
    check_held(core.state, [running])


def test_a_running_task_that_nobody_holds_is_found() -> None:
    core, running = running_core()
    core.state.names["w1"].held.clear()
    with pytest.raises(BrokenSeamError, match="held under its fence"):
        check_held(core.state, [running])


def test_a_hold_of_what_does_not_run_is_found() -> None:
    core, running = running_core()
    core.state.names["w1"].held[running.standing.fence + 1] = "a"
    with pytest.raises(BrokenSeamError, match="2 are held and 1 run"):
        check_held(core.state, [running])


class Nobody:
    """Delivers to nobody."""

    def deliver(self, effects: Sequence[ef.Effect]) -> None:
        """Forgets them."""


async def lived(folder: Path) -> int:
    """Has an engine submit, grant and settle tasks; the fence of its last grant."""
    store = SqliteStore(folder / "store.db")
    engine = Engine(store, Nobody(), Counts())
    await engine.recover()
    try:
        async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE):
            group.create_task(engine.run())
            engine.post(cmd.OpenSession(1, "w", "w-1", 2, (HandlerPolicy("work"),), {}, "", (), (), ""))
            await engine.ask(cmd.Submit([spec_from(pb.Task(id=id, handler="work")) for id in "ab"]))
            await engine.post_frame(cmd.ReceiveFrame(1, credit=2))
            fence = await engine.read(lambda state: state.fence)
            await engine.post_frame(cmd.ReceiveFrame(1, [cmd.Report(fence, "b", Outcome.COMPLETED)], credit=4))
            await engine.ask(cmd.Cancel("a"))
            engine.stop()
    finally:
        await store.close()
    return fence


async def test_an_engine_that_keeps_the_rules_goes_on(tmp_path: Path) -> None:
    first = await lived(tmp_path)
    assert await lived(tmp_path) > first
