"""A tick has one task over engines that end in the middle of a batch, on a store of its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from gowork.leader._core import commands as cmd
from gowork.leader._core.calendars import Every
from gowork.leader._core.effects import Effect
from gowork.leader._core.kinds import TICKS
from gowork.leader._core.model import Now, Status
from gowork.leader._core.schedules import Definition, Overlap, Ticks, tick_id
from gowork.leader._core.state import State
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loop import Engine
from gowork.leader._wire.specs import spec_from, stored_spec
from gowork.leader.store.protocol import Query
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

BEGIN_MS = 1_800_000_000_000
ENDS = 20
PATIENCE = 60.0


class SetClock:
    """A clock that stands where it is set."""

    def __init__(self) -> None:
        self.wall_ms = BEGIN_MS

    def now(self) -> Now:
        return Now(self.wall_ms, self.wall_ms / 1000)

    def wall_ns(self) -> int:
        return self.wall_ms * 1_000_000


class Outbox:
    def deliver(self, effects: Sequence[Effect]) -> None:
        """Nobody is there."""


def no_question(state: State) -> None:
    """What wakes the engine."""


def ticks_of(state: State) -> Ticks:
    return state.facts.of(TICKS)["s"]


async def test_a_tick_has_one_task_whenever_the_engine_ends_and_whatever_is_purged(tmp_path: Path) -> None:
    chance, clock = random.Random(5), SetClock()
    #: {id of a task: the seqs that it has had}
    seqs: dict[str, set[int]] = {}
    last = Ticks(0)
    store = SqliteStore(tmp_path / "store.db")
    for end in range(ENDS + 1):
        engine = Engine(store, Outbox(), Counts(), clock=clock)
        await engine.recover()
        running = asyncio.create_task(engine.run())
        async with asyncio.timeout(PATIENCE):
            if end == 0:
                definition = Definition(Every(1000, 0), spec_from(pb.Task(handler="work")), Overlap.ALLOW, 3_600_000)
                await engine.ask(cmd.AddSchedule("s", definition))
            for _ in range(chance.randrange(3)):
                clock.wall_ms += chance.randrange(3000)
                await engine.read(no_question)
                await engine.read(no_question)
            records = await store.page(Query(frozenset(Status)), None, 1000, 1 << 30)
            for record in records:
                seqs.setdefault(record.id, set()).add(record.seq)
            for record in records[: chance.randrange(3)]:
                await engine.ask(cmd.Cancel(record.id))
                await engine.ask(cmd.Purge([record.id]))
            # A batch is decided, written, or let out.
            clock.wall_ms += 1000
            asking = asyncio.create_task(engine.read(no_question))
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            if end == ENDS:
                await asking
                await engine.read(no_question)
                last = await engine.read(ticks_of)
        for task in (running, asking):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await engine.close()
        await store.close()
        store = SqliteStore(tmp_path / "store.db")
    await store.open()
    for record in await store.page(Query(frozenset(Status)), None, 1000, 1 << 30):
        seqs.setdefault(record.id, set()).add(record.seq)
        assert stored_spec(record.body, 0).id == record.id
    await store.close()
    assert last.last_ms == clock.wall_ms // 1000 * 1000
    assert sorted(seqs) == [tick_id("s", at) for at in range(BEGIN_MS + 1000, last.last_ms + 1, 1000)]
    assert all(len(had) == 1 for had in seqs.values())
    assert last.made == len(seqs)


async def test_a_run_that_is_in_the_store_alone_is_looked_up_before_the_next_tick(tmp_path: Path) -> None:
    clock, store = SetClock(), SqliteStore(tmp_path / "store.db")
    engine = Engine(store, Outbox(), Counts(), clock=clock)
    await engine.recover()
    # With this jitter the run starts much later, and is on a timer until then.
    definition = Definition(Every(1000, 0), spec_from(pb.Task(handler="work")), Overlap.SKIP, 3_600_000, 3_600_000)
    async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE):
        group.create_task(engine.run())
        await engine.ask(cmd.AddSchedule("s", definition))
        for _ in range(3):
            await engine.read(no_question)
            clock.wall_ms += 1000
            await engine.read(no_question)
        last = await engine.read(ticks_of)
        engine.stop()
    await store.close()
    assert (last.made, sum(last.skipped)) == (1, 2)
