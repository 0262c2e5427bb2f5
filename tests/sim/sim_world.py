"""One simulated cluster: a leader, its store, workers of both kinds, a network, callers. One seed gives one history."""

from __future__ import annotations

import asyncio
import gc
import itertools
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from sim_callback import SimCallback
from sim_checks import Checks, Violation
from sim_clients import SimClient, SimOperator, SimPlanner
from sim_faults import break_things
from sim_leader import SimLeader, ask
from sim_loop import SimLoop
from sim_machine import simulated_machines
from sim_network import Link, SimCall
from sim_plants import Plants
from sim_seat import Seat
from sim_store import SimStore, let_go
from sim_tasks import WALL_MS
from sim_trace import Trace
from sim_worker import Life, SimWorker

from gowork.leader._core import commands as cmd
from gowork.leader._engine.loop import Engine
from gowork.proto.cluster.v1 import leader_pb2 as pb

#: How many simulated seconds have faults, and how many at most follow without.
FAULTY_SECONDS = 25.0
CALM_SECONDS = 150


class World:
    """The cluster, its faults and its checkers."""

    #: What runs everything.
    loop_class = SimLoop
    #: The answer of a caller that does not know whether its command was carried out.
    LOST = object()

    def __init__(self, seed: int, plants: Plants | None = None, *, reads_completions: bool = True) -> None:
        self.seed = seed
        #: Whether leaders say that they read reports by columns, and how many reports runners send as such at least: in
        #: every other world any number, and in the rest none.
        self.reads_completions, self.rows_min = reads_completions, 1 if seed % 2 else 1_000_000
        self.rng = Random(seed)
        #: Whether tasks come after others, go on after others, and have unique keys, and there are schedules.
        self.links_tasks = seed % 7 == 3
        self.loop = self.loop_class(self.rng)
        self.plants = plants or Plants()
        self.trace = Trace(lambda: self.loop.now)
        self.checks = Checks(self.trace)
        #: Whether the faults have ended.
        self.calm = False
        self.is_over = False
        #: When everything last stood still, in the world's seconds.
        self.stood_still_at = -1.0
        self.wall_step_ms = 0
        #: All steps of the wall clock: (the world's seconds, step in milliseconds).
        self._wall_steps = [(0.0, 0)]
        self.disk_full_until = 0.0
        #: The seat of the leader that serves; None while none does.
        self.seat: Seat | None = None
        self._connections = itertools.count(1)
        #: The process ids of runners.
        self.pids = itertools.count(1)
        #: {connection: stream} of the streams whose leader's end is open.
        self.links: dict[int, Link] = {}
        self.workers: list[SimWorker] = []
        self.callbacks: dict[str, SimCallback] = {}
        #: Ids that clients have tried to submit.
        self.submitted: list[str] = []
        #: The store of the latest leader.
        self.store: SimStore | None = None
        self._violation: BaseException | None = None
        self._is_told = False

    def run(self) -> None:
        """Runs the whole history.

        Raises:
            Violation: a checker has found a broken rule.
        """
        self.loop.set_exception_handler(self._handle)
        folders = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        with self.simulated(), folders as folder:
            try:
                self.loop.run_until_complete(self._live(Path(folder)))
            except BaseExceptionGroup as group:
                raise self._violation or first_of(group) from None
            finally:
                self.loop.run_until_complete(self._unwind())
                self.loop.close()
                self.let_go()
        if self._violation is not None:
            raise self._violation

    async def _unwind(self) -> None:
        """Ends the asyncio tasks of processes that are gone. Nothing of this belongs to the history."""
        self._is_told = True
        own = asyncio.current_task()
        while left := [task for task in asyncio.all_tasks() if task is not own]:
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=60)

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException):
            self.found(error)

    def found(self, error: BaseException) -> None:
        """Keeps the first error, of a checker or of any code."""
        if self._violation is None and not self._is_told:
            self._violation = first_of(error)
            self.trace.note("error", repr(self._violation))

    @contextmanager
    def simulated(self) -> Iterator[None]:
        """Within, all runs on simulated machines."""
        with simulated_machines(self):
            yield

    def start_leaders(self, group: asyncio.TaskGroup, folder: Path) -> list[asyncio.Task[None]]:
        """Starts what leads, with its store in the folder. Returns what is to be cancelled in the end."""
        return [group.create_task(SimLeader(self, folder / "gowork.db").run())]

    def faults(self) -> list[Coroutine[Any, Any, None]]:
        """Returns what causes faults, and ends them before all is calm."""
        return [break_things(self, FAULTY_SECONDS)]

    def all_ended(self) -> bool:
        """Whether nothing is left to do."""
        return self.checks.all_ended()

    def let_go(self) -> None:
        """Closes what is still open in the end."""
        if self.store is not None:
            let_go(self.store)

    async def _live(self, folder: Path) -> None:
        rng = self.rng
        async with asyncio.TaskGroup() as group:
            leaders = self.start_leaders(group, folder)
            for number in range(rng.randint(1, 4)):
                self.workers.append(SimWorker(self, f"w{number}", f"w{number}", rng))
            if rng.random() < 0.3:
                self.workers.append(SimWorker(self, "twin", rng.choice(self.workers[1:] or self.workers).name, rng))
            self.callbacks = {id: SimCallback(self, id, rng) for id in ("cb0", "cb1")[: rng.randint(1, 2)]}
            dialled = [group.create_task(callback.run()) for callback in self.callbacks.values()]
            callers = [group.create_task(SimClient(self, number).run(FAULTY_SECONDS)) for number in range(2)]
            operator = SimOperator(self)
            callers.append(group.create_task(operator.run(FAULTY_SECONDS)))
            planner = SimPlanner(self)
            if self.links_tasks:
                callers.append(group.create_task(planner.run()))
            await asyncio.gather(*self.faults(), *callers)
            self.calm = True
            self.step_wall(0)
            self.trace.note("world", "is calm")
            await operator.lift()
            if self.links_tasks:
                await planner.remove()
            for _ in range(CALM_SECONDS):
                await self.loop.pass_time(1)
                if self._violation is not None or self.all_ended():
                    break
            self.is_over = True
            self.trace.end()
            for worker in self.workers:
                worker.life.end()
            for task in (*leaders, *dialled):
                task.cancel()
        if self._violation is None:
            self.checks.ended()

    # What its parts ask for.

    def wall_ms(self) -> int:
        """The time of the leader's wall clock, in milliseconds."""
        return WALL_MS + int(self.loop.now * 1000) + self.wall_step_ms

    def step_wall(self, step_ms: int) -> None:
        """Sets the wall clock `step_ms` ahead of the true time."""
        self.wall_step_ms = step_ms
        self._wall_steps.append((self.loop.now, step_ms))

    def wall_ms_lately(self) -> int:
        """The time that the wall clock would show now by its largest step of the last 20 s, in milliseconds."""
        steps = self._wall_steps
        ended = [*(since for since, _ in steps[1:]), self.loop.now]
        lately = [step for (_, step), end in zip(steps, ended, strict=True) if end >= self.loop.now - 20]
        return WALL_MS + int(self.loop.now * 1000) + max(lately)

    def disk_full(self) -> bool:
        """Whether the disk is full at this moment."""
        return not self.calm and (self.loop.now < self.disk_full_until or self.rng.random() < 0.005)

    def lead(self, seat: Seat | None) -> None:
        """Makes this leader the one that serves; None for none."""
        if self.seat is not None:
            self.seat.close()
        self.seat = seat

    def serves(self, engine: Engine) -> bool:
        """Whether this engine's leader serves."""
        return self.seat is not None and self.seat.engine is engine

    def connect(self, life: Life, call: SimCall) -> Link | None:
        """Opens a stream; returns None when no leader answers."""
        if self.seat is None or not self.is_reached_by(life):
            return None
        return self.link(self.seat, life, call)

    def who_leads(self, life: Life, address: str) -> pb.LeadersResponse | None:
        """Returns what a worker is told that asks at this address who leads; None when nobody answers."""
        return None if self.seat is None or not self.is_reached_by(life) else pb.LeadersResponse()

    def is_reached_by(self, life: Life) -> bool:
        """Whether what a worker sends gets through to anybody."""
        return life.is_alive and self.loop.now >= life.machine.away_until

    def link(self, seat: Seat, life: Life, call: SimCall) -> Link:
        """Opens a stream to this leader."""
        link = Link(self, seat, life, call, next(self._connections))
        self.links[link.connection] = link
        return link

    async def call(self, command: cmd.AnyCommand) -> object:
        """Sends a command, and returns the leader's answer; LOST when the caller does not hear it."""
        if self.seat is None:
            return self.LOST
        gives_up, misses = (0.0, 0.0) if self.calm else (self.rng.random(), self.rng.random())
        try:
            answer = await ask(self.seat, command, 0.02 if gives_up > 0.95 else None)
        except LookupError:
            return self.LOST
        return self.heard(command, answer, misses=misses > 0.95)

    def heard(self, command: cmd.AnyCommand, answer: object, *, misses: bool = False) -> object:
        """Returns what the caller hears of an answer."""
        if misses:
            self.trace.fault("an answer is lost", type(command).__name__)
            return self.LOST
        what = answer.code.reason if isinstance(answer, cmd.Refused) else "done"
        self.trace.seen[f"answer: {type(command).__name__} {what}"] += 1
        return answer


def run_seed(world: World) -> None:
    """Runs a world to its end.

    Raises:
        Violation: a checker has found a broken rule.
    """
    # Garbage is collected after the world's end, and not at moments that differ from run to run.
    gc.disable()
    try:
        world.run()
    finally:
        gc.enable()


def first_of(error: BaseException) -> BaseException:
    """Returns the first exception in a group of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


__all__ = ["Violation", "World", "first_of", "run_seed"]
