"""Callback workers: they join, are dialled, and report without a fence. Also plays the leader's calls to them."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.model import HeartbeatStatus

if TYPE_CHECKING:
    from sim_world import World

    from gowork.leader._engine.loop import Engine

#: How long the leader waits for an answer, and how often a callback worker sends a heartbeat, in seconds.
DIAL_SECONDS = 5.0
HEARTBEAT_SECONDS = 2.0
_STATUSES = [
    HeartbeatStatus.IDLE,
    HeartbeatStatus.IDLE,
    HeartbeatStatus.IDLE,
    HeartbeatStatus.BUSY,
    HeartbeatStatus.FAILED,
]


class SimCallback:
    """One callback worker."""

    def __init__(self, world: World, id: str, rng: Random) -> None:
        self._world, self._rng, self.id = world, rng, id
        self._clock_rate = rng.uniform(0.9, 1.1)
        self._away_until = 0.0
        self._silent_until = 0.0
        self._joined = False
        #: {task id: a future that is cancelled when the task is stopped}
        self._running: dict[str, asyncio.Future[None]] = {}
        #: {fence: an event that is set when StartWork has been answered}
        self._starting: dict[int, asyncio.Event] = {}

    async def run(self) -> None:
        """Joins and stays alive until it is cancelled."""
        world, rng = self._world, self._rng
        async with asyncio.TaskGroup() as group:
            self._group = group
            while True:
                await world.loop.pass_time(HEARTBEAT_SECONDS * self._clock_rate * rng.uniform(0.5, 1.0))
                if world.loop.time() < max(self._away_until, self._silent_until):
                    continue
                if not self._joined or (not world.calm and rng.random() < 0.03):
                    self._joined = await world.call(cmd.Join(self.id, f"{self.id}:40041")) is not world.LOST
                else:
                    status = HeartbeatStatus.IDLE if world.calm else rng.choice(_STATUSES)
                    status = HeartbeatStatus.BUSY if self._running else status
                    answer = await world.call(cmd.Heartbeat(self.id, status))
                    self._joined = not isinstance(answer, cmd.Refused)

    def fall_silent(self) -> None:
        """Sends no heartbeats for a while, perhaps for longer than its lease, but works on."""
        self._silent_until = self._world.loop.time() + self._rng.uniform(2.0, 15.0)

    def crash(self) -> None:
        """Vanishes with what it runs, and joins again later."""
        self._joined = False
        self._away_until = self._world.loop.time() + self._rng.uniform(0.5, 12.0)
        for ended in self._running.values():
            ended.cancel()
        self._running = {}

    def dial(self, effect: ef.StartWork | ef.StopWork, engine: Engine) -> None:
        """Takes a call of the leader."""
        if self._world.is_over:
            return
        if isinstance(effect, ef.StartWork):
            self._starting[effect.fence] = asyncio.Event()
        self._group.create_task(self._dialled(effect, engine))

    async def _dialled(self, effect: ef.StartWork | ef.StopWork, engine: Engine) -> None:
        world, rng = self._world, self._rng
        starting = self._starting.get(effect.fence)
        if isinstance(effect, ef.StartWork):
            await world.loop.pass_time(effect.delay)
        elif starting is not None:
            # The leader's dialer calls StopWork only after StartWork was answered.
            await starting.wait()
        delays = [0.001, 0.02] if world.calm else [0.001, 0.02, 0.02, 0.5, 6.0]
        there, back = rng.choice(delays), rng.choice(delays)
        heard = self._group.create_task(self._answer(effect, there))
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                success = await asyncio.shield(heard)
                await world.loop.pass_time(back)
        except TimeoutError:
            world.trace.fault("a callback worker answers after the leader has given up", self.id)
            success = None
        if isinstance(effect, ef.StartWork) and starting is not None:
            starting.set()
        if not world.serves(engine):
            await heard
            return
        if isinstance(effect, ef.StopWork):
            if success is not None:
                made: type[cmd.ConfirmStop | cmd.DenyStop] = cmd.ConfirmStop if success else cmd.DenyStop
                engine.post(made(effect.id, effect.fence))
        elif not success:
            engine.post(
                cmd.RefuseStart(
                    effect.member, effect.spec.id, effect.fence, "no", success is not None, success is False
                )
            )
        await heard

    async def _answer(self, effect: ef.StartWork | ef.StopWork, there: float) -> bool:
        world, rng = self._world, self._rng
        await world.loop.pass_time(there)
        if world.loop.time() < self._away_until:
            return False
        if isinstance(effect, ef.StopWork):
            ended = self._running.pop(effect.id, None)
            if ended is not None:
                ended.cancel()
            return ended is not None
        if not world.calm and rng.random() < 0.1:
            world.trace.fault("a callback worker refuses a task", self.id, effect.spec.id)
            return False
        if self._running and rng.random() < 0.5:
            world.trace.fault("a callback worker is busy with what was taken back", self.id, effect.spec.id)
            return False
        world.trace.note("callback", self.id, "starts", effect.spec.id, effect.fence)
        ended = self._running[effect.spec.id] = world.loop.create_future()
        self._group.create_task(self._work(effect.spec.id, ended))
        return True

    async def _work(self, id: str, ended: asyncio.Future[None]) -> None:
        world, rng = self._world, self._rng
        seconds = 0.01 if world.calm else rng.choice([0.01, 0.1, 2.0])
        await asyncio.wait({ended}, timeout=seconds * self._clock_rate)
        if ended.cancelled():
            return
        if self._running.get(id) is ended:
            del self._running[id]
        error = "no luck" if rng.random() < 0.1 and not world.calm else None
        # Even when all is calm: a leader that has just started believes a callback worker that says that it is idle.
        if rng.random() < 0.1:
            world.trace.fault("a callback worker forgets to complete a task", self.id, id)
            return
        world.checks.work.told_by_callback(id)
        while await world.call(cmd.CompleteTask(id, error)) is world.LOST:
            await world.loop.pass_time(rng.uniform(0.05, 1.0))
