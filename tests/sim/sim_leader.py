"""The leader's machine: runs the real engine over the real store, and crashes, kills, stops and restarts it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from sim_check_removals import KEPT_SECONDS
from sim_seat import Seat
from sim_store import SimClock, SimStore
from sim_violation import Violation

from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.kinds import MEMBERS
from gowork.leader._core.state import Settings
from gowork.leader._engine import seams
from gowork.leader._engine.ages import Ages
from gowork.leader._engine.asked import RefusedError
from gowork.leader._engine.blocked import NotServingError
from gowork.leader._engine.counts import Counts
from gowork.leader._engine.loop import Engine
from gowork.leader._engine.retention import Kept, Retention
from gowork.leader._rpc.sessions import Sessions
from gowork.leader.log.protocol import LogError
from gowork.leader.store.protocol import StoreError

if TYPE_CHECKING:
    from sim_world import World

#: Windows so small that many waiting tasks are in the store alone; leases that end before a silent stream breaks.
SETTINGS = {
    "window": 6,
    "lane_page": 8,
    "lane_min": 1,
    "timers_max": 8,
    "lease": 4.0,
    "callback_lease": 7.0,
}


class SimLeader:
    """Runs one leader after the other."""

    def __init__(self, world: World, path: Path) -> None:
        self._world, self._path = world, path

    async def run(self) -> None:
        """Runs leaders until it is cancelled."""
        while True:
            await self._live()
            await self._world.loop.pass_time(self._world.rng.uniform(0.01, 2.0))

    async def _live(self) -> None:
        world = self._world
        clock = SimClock(world)
        store = world.store = SimStore(self._path, world, clock)
        settings = Settings(**SETTINGS)  # type: ignore[arg-type]
        sessions = Sessions(settings)
        outbox = SimOutbox(world, sessions)
        # With this bug planted, a seam would break before the bug's checker sees anything.
        with mock.patch.object(seams, "ON", not world.plants.give_callback_workers_more):
            engine = Engine(store, outbox, Counts(), settings, clock)
        outbox.engine = engine
        sessions.attach(engine)
        world.plants.into_engine(engine)
        running: asyncio.Task[None] | None = None
        sweeping: asyncio.Task[None] | None = None
        try:
            await engine.recover()
            world.trace.note("leader", "starts, term", engine.opened.term)
            await self._check_recovery(engine, store)
            world.plants.after_recovery(engine)
            running = asyncio.get_running_loop().create_task(engine.run())
            sweeping = asyncio.get_running_loop().create_task(self._sweep(engine, store))
            world.lead(Seat(engine, sessions))
            crash_in = world.rng.uniform(0.5, 12.0) if not world.calm else 1e6
            await asyncio.wait({running}, timeout=crash_in)
            if not running.done() and world.rng.random() < 0.2:
                world.trace.fault("the leader is stopped")
                engine.stop()
                sessions.end_all("the leader is stopping")
                await asyncio.wait({running}, timeout=20)
            if running.done():
                running.result()
        except StoreError as error:
            world.trace.note("leader", "steps down:", error)
        finally:
            world.lead(None)
            for task in (running, sweeping):
                if task is not None:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
            for link in list(world.links.values()):
                link.cut()
            killed = world.rng.random() < 0.4
            world.trace.fault("the leader is killed" if killed else "the leader crashes")
            await store.die(killed=killed)

    async def _sweep(self, engine: Engine, store: SimStore) -> None:
        """Runs the retention, more often than a real leader."""
        kept = Kept(seconds=KEPT_SECONDS, failed_seconds=KEPT_SECONDS)
        retention = Retention(engine, store, kept, Ages())
        while True:
            await self._world.loop.pass_time(self._world.rng.uniform(1.0, 4.0))
            try:
                await retention.sweep()
            except NotServingError:
                continue

    async def _check_recovery(self, engine: Engine, store: SimStore) -> None:
        facts = await store.facts(MEMBERS.name, "", 1_000, 1 << 20)
        members = {fact.key: MEMBERS.decode(fact.value).address for fact in facts}
        self._world.checks.recovered(engine._state, members, engine._looked_mono)


class SimOutbox:
    """Hands effects to the service of workers' streams, and dials callback workers; checkers see each effect first."""

    def __init__(self, world: World, sessions: Sessions) -> None:
        self._world, self._sessions = world, sessions
        self.engine: Engine | None = None
        self._sent: dict[int, int] = {}

    def deliver(self, effects: Sequence[ef.Effect]) -> None:
        """See gowork.leader._engine.step.Delivery."""
        world = self._world
        for effect in effects:
            if isinstance(effect, ef.StartWork | ef.StopWork):
                world.checks.dialled(effect)
                callback = world.callbacks.get(effect.member)
                if callback is not None and self.engine is not None:
                    callback.dial(effect, self.engine)
                continue
            if isinstance(effect, ef.CountStale):
                world.trace.seen["report: refused, without a fence"] += 1
                continue
            if isinstance(effect, ef.CountNotSubmitted | ef.CountHeartbeatRefused | ef.TraceSettling):
                continue
            link = world.links.get(effect.connection)
            match effect:
                case ef.GrantTasks():
                    sent = self._sent.get(effect.connection, 0)
                    room = (link.credit if link is not None else 1 << 30) - sent
                    self._sent[effect.connection] = sent + len(effect.grants)
                    world.checks.granted(effect, room)
                case ef.EndSession():
                    reason = effect.refusal.code.reason if effect.refusal is not None else "OK"
                    world.trace.seen[f"session ended: {reason}"] += 1
                    if reason == "LEASE_EXPIRED" and link is not None and link.carries:
                        raise Violation("no lease ends that a worker renews", effect.connection)
                case _:
                    world.checks.told(effect)
            self._sessions.deliver(effect)


async def ask(seat: Seat, command: cmd.AnyCommand, timeout: float | None) -> object:
    """Returns the leader's answer, or its refusal.

    Raises:
        LookupError: the leader is gone, does not take the command, or takes longer than `timeout` seconds.
    """
    asked = asyncio.ensure_future(seat.engine.ask(command))
    first: set[asyncio.Future[Any]] = {asked, seat.gone}
    await asyncio.wait(first, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    if not asked.done():
        asked.cancel()
        raise LookupError
    try:
        return asked.result()
    except RefusedError as error:
        return error.refused
    except (NotServingError, StoreError, LogError):
        raise LookupError from None
