"""The callers of the leader: clients that submit and cancel, and an operator who sets queues and drains members."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from sim_tasks import LINKED, QUEUES, SCHEDULES, other_spec_for, spec_for

from gowork.leader._core import commands as cmd

if TYPE_CHECKING:
    from sim_world import World

#: Settings that remove all that an operator has set.
DEFAULTS = {"weight": 1, "concurrency_limit": 0, "key_concurrency_limit": 0, "rate_limit": 0.0, "rate_burst": 0}


class SimClient:
    """Submits tasks, repeats calls without an answer, and cancels some tasks."""

    def __init__(self, world: World, number: int) -> None:
        self._world, self._number = world, number
        self._rng = Random(world.rng.random())
        self._submitted = 0

    async def run(self, until: float) -> None:
        """Makes calls until the time `until`."""
        world, rng = self._world, self._rng
        while world.loop.time() < until:
            await world.loop.pass_time(rng.expovariate(3))
            known = world.submitted
            chance = rng.random()
            if known and chance < 0.12:
                await self._cancel(rng.choice(known) if chance < 0.06 else known[-1])
            elif known and chance < 0.20:
                await self._deal_with_finished(known)
            elif known and chance < 0.22:
                await world.call(cmd.Submit([other_spec_for(rng.choice(known))]))
            else:
                await self._submit()

    async def _cancel(self, id: str) -> None:
        if await self._world.call(cmd.Cancel(id)) is None:
            self._world.checks.cancel_answered(id)

    async def _deal_with_finished(self, known: list[str]) -> None:
        world, rng = self._world, self._rng
        removals = world.checks.removals
        ids = removals.finished_ids() or known
        if rng.random() < 0.6:
            id = rng.choice(ids)
            removals.ask_to_run_again(id)
            await world.call(cmd.RetryTask(id))
        else:
            some = [rng.choice(ids if rng.random() < 0.8 else known) for _ in range(rng.randint(1, 4))]
            removals.ask_to_remove(some)
            await world.call(cmd.Purge(some, strict=rng.random() < 0.5))

    async def _submit(self) -> None:
        world, rng = self._world, self._rng
        prefix = f"{LINKED if world.links_tasks else 'c'}{self._number}"
        ids = [f"{prefix}-{self._submitted + place}" for place in range(rng.choice([1, 1, 2, 8]))]
        self._submitted += len(ids)
        world.submitted += ids
        if rng.random() < 0.2:
            ids.append(rng.choice(world.submitted))
        command = cmd.Submit([spec_for(id) for id in dict.fromkeys(ids)])
        while True:
            answer = await world.call(command)
            if isinstance(answer, cmd.Submitted):
                held = {command.specs[place].id for place, _ in answer.held}
                world.trace.seen["task: another one has its unique key"] += len(held)
                world.checks.answered([id for id in ids if id not in held])
            if answer is not world.LOST:
                return
            if rng.random() < 0.1:
                await self._cancel(ids[0])
            await world.loop.pass_time(rng.uniform(0.01, 0.3))


class SimPlanner:
    """Adds schedules, repeats calls without an answer, and removes the schedules in the end."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def run(self) -> None:
        """Adds all schedules."""
        for name, definition in SCHEDULES.items():
            await self._ask(cmd.AddSchedule(name, definition))

    async def remove(self) -> None:
        """Removes them."""
        for name in SCHEDULES:
            await self._ask(cmd.RemoveSchedule(name))

    async def _ask(self, command: cmd.AnyCommand) -> None:
        world = self._world
        while await world.call(command) is world.LOST:
            await world.loop.pass_time(0.3)


class SimOperator:
    """Pauses and limits queues, drains members, and removes all limits in the end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = Random(world.rng.random())

    async def run(self, until: float) -> None:
        """Changes queues and members until the time `until`."""
        world, rng = self._world, self._rng
        while world.loop.time() < until:
            await world.loop.pass_time(rng.expovariate(0.8))
            name = rng.choice(QUEUES)
            match rng.randrange(8):
                case 0:
                    await self._pause(name, paused=True)
                case 1 | 2:
                    await self._pause(name, paused=False)
                case 3:
                    members = [worker.name for worker in world.workers] + list(world.callbacks)
                    member = rng.choice(members)
                    world.trace.fault("a member is drained", member)
                    await world.call(cmd.DrainMember(member, rng.choice([0, 5000])))
                case 4:
                    id = rng.choice([*world.callbacks, world.workers[-1].name])
                    await world.call(cmd.Leave(id) if rng.random() < 0.5 else cmd.Join(id, f"{id}:40041"))
                case _:
                    await self._configure(name, self._settings())

    async def lift(self) -> None:
        """Removes all limits and pauses."""
        for name in QUEUES:
            while not await self._pause(name, paused=False):
                await self._world.loop.pass_time(0.3)
            while not await self._configure(name, DEFAULTS):
                await self._world.loop.pass_time(0.3)

    async def _pause(self, name: str, *, paused: bool) -> bool:
        answer = await self._world.call(cmd.PauseQueue(name, paused))
        return self._answered(name, answer)

    async def _configure(self, name: str, wanted: dict[str, float]) -> bool:
        answer = await self._world.call(cmd.ConfigureQueue(name, **wanted))  # type: ignore[arg-type]
        return self._answered(name, answer)

    def _answered(self, name: str, answer: object) -> bool:
        if answer is self._world.LOST:
            return False
        self._world.checks.queues.answered(name, answer)
        return True

    def _settings(self) -> dict[str, float]:
        rng = self._rng
        settings: dict[str, float] = {}
        if rng.random() < 0.4:
            settings["concurrency_limit"] = rng.choice([0, 1, 2, 4])
        if rng.random() < 0.5:
            settings["key_concurrency_limit"] = rng.choice([0, 1, 1, 2])
        if rng.random() < 0.4:
            settings["rate_limit"] = rng.choice([0.0, 0.5, 2.0, 10.0])
            settings["rate_burst"] = rng.choice([0, 1, 3])
        if rng.random() < 0.3 or not settings:
            settings["weight"] = rng.choice([1, 2, 10])
        return settings
