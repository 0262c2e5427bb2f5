"""Finished tasks go by age and by number, on time that no step of the wall clock hurries on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gowork.leader._core import commands as cmd
from gowork.leader._core.model import Now
from gowork.leader._engine import retention
from gowork.leader._engine.ages import SETTLE_SECONDS, TOMBSTONE_SECONDS, YOUNG_SECONDS, Ages, CautiousClock
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loop import Engine
from gowork.leader._engine.retention import RETAIN_SECONDS_MAX, Kept, Retention
from gowork.leader._wire.specs import spec_from
from gowork.leader.log.protocol import LeadershipLostError
from gowork.leader.store.protocol import Finished, StoreError
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

WALL_MS = 1_800_000_000_000
DAY = 24 * 3600.0


class Clock:
    def __init__(self) -> None:
        self.wall_ms, self.mono = WALL_MS, 1000.0

    def now(self) -> Now:
        return Now(self.wall_ms, self.mono)

    def wall_ns(self) -> int:
        return self.wall_ms * 1_000_000

    def pass_time(self, seconds: float) -> None:
        self.mono += seconds
        self.wall_ms += int(seconds * 1000)


class Nobody:
    def deliver(self, effects: object) -> None: ...


class Keeping:
    """An engine with a clock of its own, and its retention."""

    def __init__(self, engine: Engine, store: SqliteStore, clock: Clock, kept: Kept, ages: Ages) -> None:
        self.engine, self.store, self.clock = engine, store, clock
        self.retention = Retention(engine, store, kept, ages)

    async def finish(self, *ids: str) -> None:
        """Cancelled tasks are finished ones."""
        await self.engine.ask(cmd.Submit([spec_from(pb.Task(id=id, payload="p")) for id in ids]))
        for id in ids:
            await self.engine.ask(cmd.Cancel(id))

    async def look_on(self, seconds: float, every: float = 30.0) -> list[str]:
        """So much time passes, and it looks as often as it does; what is left."""
        left: list[str] = []
        while seconds > 0:
            self.clock.pass_time(min(every, seconds))
            seconds -= every
            left = await self.sweep()
        return left

    async def sweep(self) -> list[str]:
        """What is left after as many sweeps as it takes."""
        while await self.retention.sweep():
            pass
        return [task.id for task in await self.store.finished(False, 100_000)]


@asynccontextmanager
async def keeping(
    folder: Path, clock: Clock | None = None, ages: Ages | None = None, **kept: Any
) -> AsyncIterator[Keeping]:
    store, clock = SqliteStore(folder / "store.db"), clock or Clock()
    engine = Engine(store, Nobody(), Counts(), clock=clock)
    await engine.recover()
    try:
        async with asyncio.TaskGroup() as group, asyncio.timeout(120):
            group.create_task(engine.run())
            yield Keeping(engine, store, clock, Kept(**kept), ages or Ages())
            engine.stop()
    finally:
        await store.close()


async def test_tasks_go_when_they_are_old_enough(tmp_path: Path) -> None:
    async with keeping(tmp_path, seconds=DAY) as kept:
        await kept.sweep()
        await kept.finish("old")
        kept.clock.pass_time(DAY / 2)
        await kept.finish("young")
        assert await kept.sweep() == ["old", "young"]
        kept.clock.pass_time(DAY / 2 + 1)
        assert await kept.sweep() == ["young"]
        assert kept.engine.finished_tasks == (0, 1)


async def test_the_oldest_go_when_there_are_too_many_but_no_young_ones(tmp_path: Path) -> None:
    async with keeping(tmp_path, tasks=2) as kept:
        await kept.sweep()
        await kept.finish("a", "b", "c")
        assert await kept.look_on(YOUNG_SECONDS - 30) == ["a", "b", "c"]
        await kept.finish("d")
        assert await kept.look_on(60) == ["c", "d"]


async def test_no_step_of_the_wall_clock_makes_a_task_old_that_is_young(tmp_path: Path) -> None:
    async with keeping(tmp_path, tasks=1) as kept:
        await kept.sweep()
        await kept.finish("a", "b", "c")
        kept.clock.wall_ms += int(DAY * 1000)
        assert await kept.look_on(YOUNG_SECONDS - 30) == ["a", "b", "c"]
        assert await kept.look_on(60) == ["c"]


async def test_after_a_start_nothing_goes_for_its_number_until_the_leader_itself_is_not_young(tmp_path: Path) -> None:
    clock = Clock()
    async with keeping(tmp_path, clock, tasks=1) as kept:
        await kept.finish("a", "b", "c")
        await kept.look_on(YOUNG_SECONDS / 2)
    async with keeping(tmp_path, clock, tasks=1) as kept:
        await kept.sweep()
        assert await kept.look_on(YOUNG_SECONDS - 30) == ["a", "b", "c"]
        assert await kept.look_on(60) == ["c"]


async def test_a_clock_that_is_wrong_at_a_start_has_an_hour_to_be_set_right(tmp_path: Path) -> None:
    clock = Clock()
    async with keeping(tmp_path, clock, seconds=7 * DAY) as kept:
        await kept.finish("a", "b")
    clock.wall_ms += int(365 * DAY * 1000)
    async with keeping(tmp_path, clock, seconds=7 * DAY) as kept:
        await kept.sweep()
        assert await kept.look_on(SETTLE_SECONDS - 60) == ["a", "b"]
        # It was right, then: the leader was away for so long.
        assert await kept.look_on(120) == []


async def test_a_leader_that_has_followed_knows_how_old_tasks_are_when_it_takes_over(tmp_path: Path) -> None:
    clock = Clock()
    async with keeping(tmp_path, clock, seconds=DAY, tasks=1) as kept:
        await kept.finish("a", "b")
        finished = kept.engine.changed
    # Another leader led, and this one followed.
    follower = Ages()
    follower.look(clock.now(), finished)
    clock.pass_time(YOUNG_SECONDS + 1)
    async with keeping(tmp_path, clock, follower, seconds=7 * DAY, tasks=1) as kept:
        assert await kept.sweep() == ["b"]
        await kept.finish("c", "d")
        assert await kept.sweep() == ["c", "d"]
    clock.pass_time(SETTLE_SECONDS + DAY)
    async with keeping(tmp_path, clock, follower, seconds=DAY) as kept:
        # The clock has been believed for long enough.
        assert await kept.sweep() == []


def test_ages_know_no_batch_before_it_was_seen() -> None:
    ages = Ages()
    assert ages.seconds(Now(WALL_MS, 5.0)) == 0
    ages.look(Now(WALL_MS, 10.0), 7)
    ages.look(Now(WALL_MS, 20.0), 9)
    # What was seen before a store was replaced is still true.
    ages.look(Now(WALL_MS, 30.0), 0)
    assert [ages.batch_at(mono) for mono in (9.0, 10.0, 19.0, 20.0, 30.0)] == [0, 7, 7, 9, 9]
    assert ages.seconds(Now(WALL_MS, 30.0)) == 20.0


async def test_many_go_in_batches(tmp_path: Path) -> None:
    async with keeping(tmp_path, seconds=DAY) as kept:
        await kept.sweep()
        ids = [f"t{n}" for n in range(2_500)]
        await kept.engine.ask(cmd.Submit([spec_from(pb.Task(id=id, payload="p")) for id in ids]))
        await asyncio.gather(*(kept.engine.ask(cmd.Cancel(id)) for id in ids))
        kept.clock.pass_time(DAY + 1)
        assert await kept.retention.sweep() is True
        assert kept.engine.finished_tasks == (0, 1_500)
        assert await kept.sweep() == []


async def test_a_wall_clock_that_is_stepped_forward_removes_nothing_until_that_has_lasted(tmp_path: Path) -> None:
    async with keeping(tmp_path, seconds=DAY) as kept:
        await kept.finish("a")
        assert await kept.sweep() == ["a"]
        kept.clock.wall_ms += int(365 * DAY * 1000)
        assert await kept.sweep() == ["a"]
        kept.clock.wall_ms -= int(365 * DAY * 1000)
        assert await kept.sweep() == ["a"]
        kept.clock.wall_ms += int(2 * DAY * 1000)
        assert await kept.sweep() == ["a"]
        kept.clock.pass_time(SETTLE_SECONDS)
        assert await kept.sweep() == []


async def test_removals_are_told_for_an_hour_and_then_forgotten_in_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH_TASKS_MAX", 2)
    async with keeping(tmp_path, seconds=DAY) as kept:
        await kept.sweep()
        await kept.finish("a", "b", "c", "d", "e")
        assert await kept.look_on(DAY, every=3600) == []
        removed = await kept.store.deleted_since(0, 10)
        assert [id for _, id in removed] == ["a", "b", "c", "d", "e"]
        await kept.look_on(TOMBSTONE_SECONDS - 60)
        assert await kept.store.deleted_since(0, 10) == removed
        number = kept.engine.changed
        await kept.look_on(90)
        assert await kept.store.deleted_since(0, 10) == []
        assert await kept.store.watch_floor() == removed[-1][0]
        assert kept.engine.changed == number + 3


async def test_removals_from_before_a_start_are_told_for_an_hour_more(tmp_path: Path) -> None:
    clock = Clock()
    async with keeping(tmp_path, clock, seconds=DAY) as kept:
        await kept.sweep()
        await kept.finish("a")
        assert await kept.look_on(DAY, every=3600) == []
    async with keeping(tmp_path, clock, seconds=DAY) as kept:
        await kept.sweep()
        await kept.look_on(TOMBSTONE_SECONDS - 60)
        assert [id for _, id in await kept.store.deleted_since(0, 10)] == ["a"]
        await kept.look_on(90)
        assert await kept.store.deleted_since(0, 10) == []


@pytest.mark.parametrize("step_ms", [-3_600_000, 30_000])
def test_steps_back_and_small_ones_are_believed_at_once(step_ms: int) -> None:
    clock, cautious = Clock(), CautiousClock()
    cautious.wall_ms(clock.now())
    clock.wall_ms += step_ms
    assert cautious.wall_ms(clock.now()) == clock.wall_ms


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e300])
async def test_a_retention_without_an_end_is_the_longest_there_is(tmp_path: Path, seconds: float) -> None:
    async with keeping(tmp_path, seconds=seconds) as kept:
        await kept.sweep()
        await kept.finish("a")
        kept.clock.pass_time(SETTLE_SECONDS)
        assert await kept.sweep() == ["a"]
        kept.clock.pass_time(RETAIN_SECONDS_MAX)
        assert await kept.sweep() == []


class BrokenStore(SqliteStore):
    """Answers no question about finished tasks until it has been asked twice."""

    def __init__(self, path: Path, error: Exception) -> None:
        super().__init__(path)
        self.error = error
        self.asked = 0
        self.asked_twice = asyncio.Event()

    async def finished(self, failed: bool, limit: int, after: tuple[int, int] = (0, 0)) -> list[Finished]:
        self.asked += 1
        if self.asked == 2:
            self.asked_twice.set()
        if self.asked <= 2:
            raise self.error
        return await super().finished(failed, limit, after)


@pytest.mark.parametrize("error", [OverflowError("a defect"), StoreError("disk I/O error")])
async def test_what_goes_wrong_in_tidying_up_ends_no_leader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    monkeypatch.setattr(retention, "LOOK_SECONDS", 0.0)
    store, stopped = BrokenStore(tmp_path / "store.db", error), asyncio.Event()
    engine = Engine(store, Nobody(), Counts(), clock=Clock())
    await engine.recover()
    try:
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(Retention(engine, store, Kept(), Ages()).run(stopped))
            await store.asked_twice.wait()
            stopped.set()
    finally:
        await store.close()
    assert "finished tasks could not be" in caplog.text


async def test_another_leader_that_takes_over_is_no_error_in_tidying_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = asyncio.Event()
    async with keeping(tmp_path) as here:

        async def lose() -> bool:
            stopped.set()
            raise LeadershipLostError("another one leads")

        monkeypatch.setattr(here.retention, "sweep", lose)
        await here.retention.run(stopped)
    assert "finished tasks could not be" not in caplog.text


async def test_children_of_a_group_stay_until_it_has_ended_and_hide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gowork.leader._engine.retention.BATCH_TASKS_MAX", 2)
    async with keeping(tmp_path, seconds=DAY) as kept:
        await kept.sweep()
        group = pb.Task(id="g", group=pb.GroupOptions(children=5), after_rule=pb.AFTER_RULE_ALL_FINISHED)
        await kept.engine.ask(cmd.Submit([spec_from(group)]))
        await kept.finish("g/0", "g/1", "g/2", "g/3", "a", "b", "c")
        kept.clock.pass_time(DAY + 1)
        assert await kept.sweep() == ["g/0", "g/1", "g/2", "g/3"]
        await kept.finish("g/4")
        while kept.engine.kept_tasks:
            await kept.engine.read(lambda _: None)
        left = await kept.sweep()
        assert left == ["g/4", "g"]


async def test_what_was_passed_over_goes_though_more_has_to_be_kept_by_then(tmp_path: Path) -> None:
    async with keeping(tmp_path, seconds=DAY) as kept:
        await kept.sweep()
        rule = pb.AFTER_RULE_ALL_FINISHED
        groups = [
            pb.Task(id="g", group=pb.GroupOptions(children=2), after_rule=rule),
            pb.Task(id="h", group=pb.GroupOptions(children=9), after_rule=rule),
        ]
        await kept.engine.ask(cmd.Submit([spec_from(group) for group in groups]))
        await kept.finish("g/0")
        kept.clock.pass_time(DAY + 1)
        assert await kept.sweep() == ["g/0"]
        await kept.finish("g/1", "h/0", "h/1", "h/2")
        while await kept.engine.read(lambda state: "g" in state.dependents.groups):
            pass
        assert "g/0" not in await kept.sweep()
