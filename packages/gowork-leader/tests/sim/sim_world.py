"""One simulated cluster: a leader that crashes, its real store, workers, a network, clients; one seed, one history."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from sim_checks import Checks, Violation
from sim_loop import SimLoop
from sim_plants import Plants
from sim_worker import SimWorker

from gowork.leader.core import commands as cmd
from gowork.leader.core import effects as ef
from gowork.leader.core.model import HandlerPolicy, Now
from gowork.leader.core.state import Settings
from gowork.leader.engine.loop import Engine, NotServingError
from gowork.leader.rpc.mapping import spec_from
from gowork.leader.store._sqlite_log import LogKeeper
from gowork.leader.store.protocol import Batch, StoreError, StoreFullError
from gowork.leader.store.sqlite import SqliteStore
from gowork.proto.scheduler.v1 import scheduler_pb2

WALL_MS = 1_800_000_000_000
#: Simulated seconds with faults, and then without.
FAULTY_SECONDS = 30.0
CALM_SECONDS = 120.0
#: So small that much of what waits rests in the store.
WINDOWS = {"window_tasks": 6, "lane_page": 8, "lane_tasks_min": 1, "timers_max": 8}


class World:
    """Everything, and what happens to it."""

    def __init__(self, seed: int, plants: Plants | None = None) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.loop = SimLoop(self.rng)
        self.plants = plants or Plants()
        self.history: list[str] = []
        self.checks = Checks(self.note)
        #: No more faults.
        self.calm = False
        self.wall_step_ms = 0
        self.engine: Engine | None = None
        self._connections = itertools.count(1)
        self.links: dict[int, Link] = {}
        self.workers: list[SimWorker] = []
        self._violation: BaseException | None = None

    def note(self, what: str) -> None:
        self.history.append(f"{self.loop.time():9.4f} {what}")

    def run(self) -> None:
        """Lives through it.

        Raises:
            Violation: what a checker has found.
        """
        self.loop.set_exception_handler(self._handle)
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            try:
                self.loop.run_until_complete(self._live(Path(folder) / "gowork.db"))
            finally:
                self.loop.close()
        if self._violation is not None:
            raise self._violation

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException) and self._violation is None:
            self._violation = error
            self.note(f"error   {error!r}")

    async def _live(self, path: Path) -> None:
        async with asyncio.TaskGroup() as group:
            leader = group.create_task(self._leader(path))
            self.workers = [SimWorker(self, f"w{number}", self.rng) for number in range(self.rng.randint(1, 4))]
            clients = [group.create_task(self._client(number)) for number in range(2)]
            faults = group.create_task(self._faults())
            await asyncio.gather(faults, *clients)
            self.calm = True
            self.wall_step_ms = 0
            self.note("calm")
            for _ in range(int(CALM_SECONDS)):
                await self.loop.pass_time(1)
                if self._violation is not None or all(
                    standing.status >= 3 for _, standing in self.checks.durable.values()
                ):
                    break
            leader.cancel()
        if self._violation is None:
            self.checks.ended()

    # The leader.

    async def _leader(self, path: Path) -> None:
        while True:
            store = SimStore(path, self)
            outbox = SimOutbox(self)
            engine = Engine(store, outbox, SimObserver(), Settings(**WINDOWS), SimClock(self))
            outbox.engine = engine
            self.plants.into_engine(engine)
            running: asyncio.Task[None] | None = None
            try:
                await engine.recover()
                self.note(f"leader  starts, term {engine.opened.term}")
                self.checks.recovered(engine._state)
                self.engine = engine
                running = asyncio.get_running_loop().create_task(engine.run())
                crash_in = self.rng.uniform(0.5, 12.0) if not self.calm else 1e6
                await asyncio.wait({running}, timeout=crash_in)
                if running.done():
                    running.result()
            except StoreError as error:
                self.note(f"leader  steps down: {error}")
            finally:
                self.engine = None
                if running is not None:
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
                self.note("leader  crashes")
                for link in list(self.links.values()):
                    link.cut()
                await store.close()
            await self.loop.pass_time(self.rng.uniform(0.01, 2.0))

    # The network.

    def connect(self, worker: SimWorker) -> Link | None:
        """A new stream; None when no leader answers."""
        if self.engine is None:
            return None
        link = Link(self, self.engine, worker, next(self._connections))
        self.links[link.connection] = link
        return link

    # Clients and faults.

    async def _client(self, number: int) -> None:
        rng = Random(self.rng.random())
        ids: list[str] = []
        while self.loop.time() < FAULTY_SECONDS:
            await self.loop.pass_time(rng.expovariate(3))
            if ids and rng.random() < 0.15:
                await self._call(cmd.Cancel(rng.choice(ids)), [])
                continue
            batch = [f"c{number}-{len(ids) + place}" for place in range(rng.choice([1, 1, 2, 8]))]
            if ids and rng.random() < 0.2:
                batch.append(rng.choice(ids))
            ids += [id for id in batch if id not in ids]
            command = cmd.Submit([spec_from(_task(id)) for id in batch])
            while not await self._call(command, batch):
                await self.loop.pass_time(rng.uniform(0.01, 0.3))

    async def _call(self, command: cmd.Submit | cmd.Cancel, ids: list[str]) -> bool:
        engine = self.engine
        if engine is None:
            return False
        asked = asyncio.ensure_future(engine.ask(command))
        # A caller whose leader crashes hears nothing: its call ends with the connection.
        while not asked.done() and self.engine is engine:
            await asyncio.wait({asked}, timeout=0.01)
        if not asked.done():
            asked.cancel()
            return False
        try:
            answer = asked.result()
        except NotServingError:
            return False
        if isinstance(answer, cmd.Submitted):
            self.checks.answered(ids)
        return True

    async def _faults(self) -> None:
        while self.loop.time() < FAULTY_SECONDS:
            await self.loop.pass_time(self.rng.expovariate(1.2))
            match self.rng.randrange(6):
                case 0:
                    self.rng.choice(self.workers).crash()
                case 1 | 2 if self.links:
                    link = self.rng.choice(list(self.links.values()))
                    self.note(f"net     link {link.connection} breaks")
                    link.cut()
                case 3 if self.links:
                    link = self.rng.choice(list(self.links.values()))
                    link.silence(self.rng.choice(["up", "down", "both"]), self.rng.uniform(0.5, 15.0))
                case 4:
                    self.wall_step_ms = self.rng.choice([-60_000, -500, 0, 500, 60_000])
                    self.note(f"clock   steps to {self.wall_step_ms} ms")
                case _:
                    pass
        for link in list(self.links.values()):
            link.heal()


class Link:
    """One stream, both ways: in order, late, and sometimes not at all."""

    def __init__(self, world: World, engine: Engine, worker: SimWorker, connection: int) -> None:
        self._world, self._engine, self._worker = world, engine, worker
        self.connection = connection
        self.instance = worker.instance
        #: What the worker may still be granted.
        self.credit = 0
        self._alive = True
        self._muted: set[str] = set()
        self._last = {"up": 0.0, "down": 0.0}

    def send_hello(
        self,
        name: str,
        instance: str,
        slots: int,
        handlers: tuple[HandlerPolicy, ...],
        held: tuple[cmd.Held, ...],
        ended: tuple[str, ...],
    ) -> None:
        hello = cmd.OpenSession(self.connection, name, instance, slots, handlers, {}, "sim", held, (), "sim", ended)
        self._later("up", self._engine.post, hello)

    def send(self, frame: cmd.ReceiveFrame) -> None:
        self._later("up", self._post_frame, frame)

    def deliver(self, effect: object) -> None:
        """From the leader to the worker."""
        self._later("down", self._worker.receive, self, effect)

    def cut(self) -> None:
        """The stream is gone; what is under way is lost; both ends see it, each in its own time."""
        if not self._alive:
            return
        self._alive = False
        world = self._world
        world.links.pop(self.connection, None)
        if world.engine is self._engine:
            world.loop.call_later(world.rng.uniform(0.0, 0.5), self._engine.post, cmd.CloseSession(self.connection))
        world.loop.call_later(world.rng.uniform(0.0, 0.5), self._worker.broken, self)

    def silence(self, way: str, seconds: float) -> None:
        """Nothing gets through for a while, and nobody is told: what is sent meanwhile breaks the stream later."""
        self._world.note(f"net     link {self.connection} is silent ({way}) for {seconds:.1f} s")
        self._muted |= {"up", "down"} if way == "both" else {way}
        self._world.loop.call_later(seconds, self.cut)

    def heal(self) -> None:
        if self._muted:
            self.cut()

    def _post_frame(self, frame: cmd.ReceiveFrame) -> None:
        if frame.credit is not None:
            self.credit = max(self.credit, frame.credit)
        self._engine.post(frame)

    def _later(self, way: str, function: object, *args: object) -> None:
        world = self._world
        # A stream keeps its order, however long each message takes.
        at = max(self._last[way], world.loop.time() + world.rng.choice([0.0002, 0.001, 0.02, 0.2]))
        self._last[way] = at
        world.loop.call_at(at, self._arrive, way, function, args)

    def _arrive(self, way: str, function: object, args: tuple[object, ...]) -> None:
        if self._alive and way not in self._muted and (way == "down" or self._world.engine is self._engine):
            assert callable(function)
            function(*args)


class SimOutbox:
    """Sends effects over the links, after a look at each."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.engine: Engine | None = None
        self._sent: dict[int, int] = {}

    def deliver(self, effects: Sequence[ef.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, ef.StartWork | ef.StopWork):
                continue
            link = self._world.links.get(effect.connection)
            if isinstance(effect, ef.GrantTasks) and self.engine is not None:
                sent = self._sent.get(effect.connection, 0)
                room = (link.credit if link is not None else 1 << 30) - sent
                self._sent[effect.connection] = sent + len(effect.grants)
                self._world.checks.granted(effect, self.engine._state, room)
            if link is not None:
                link.deliver(effect)


class SimStore(SqliteStore):
    """The real store; its disk is full at times, and its leader may crash between a commit and the word of it."""

    def __init__(self, path: Path, world: World) -> None:
        super().__init__(path)
        self._world = world
        # No thread of its own: the log is merged at the close.
        self._log = LogKeeper(lambda merge: None)

    def _commit(self, connection: object, batch: Batch) -> None:
        world = self._world
        if not world.calm and world.rng.random() < 0.01:
            world.note("disk    is full")
            raise StoreFullError("the simulated disk is full")
        super()._commit(connection, batch)  # type: ignore[arg-type]
        world.checks.committed(batch)


class SimObserver:
    """Nobody scrapes a simulation."""

    def committed(self, tasks: int, seconds: float) -> None:
        """Takes no note."""


class SimClock:
    """Simulated time; the wall clock is stepped now and then."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> Now:
        seconds = self._world.loop.time()
        return Now(WALL_MS + int(seconds * 1000) + self._world.wall_step_ms, seconds)


def _task(id: str) -> scheduler_pb2.Task:
    # What a task is follows from its id, so that a repeated submit is the same task.
    rng = Random(id)
    task = scheduler_pb2.Task(
        id=id, payload=id, handler=rng.choice(["work", "other"]), priority=rng.choice([0, 1, 2, 3])
    )
    if rng.random() < 0.5:
        task.retry.max_attempts = rng.randint(1, 4)
        task.retry.initial_delay_ms = rng.choice([10, 500])
    if rng.random() < 0.1:
        task.run_at_ms = WALL_MS + rng.randint(0, 40_000)
    return task


def run_seed(seed: int, plants: Plants | None = None) -> World:
    """Runs one seed.

    Raises:
        Violation: with the seed in its text.
    """
    world = World(seed, plants)
    try:
        world.run()
    except BaseExceptionGroup as group:
        raise _first(group) from None
    return world


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


__all__ = ["Violation", "World", "run_seed"]
