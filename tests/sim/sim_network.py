"""Streams between workers and the leader: in order, late, cut at both ends or at one first, silent one way or both."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gowork.leader._core import commands as cmd

if TYPE_CHECKING:
    from sim_worker import SimWorker
    from sim_world import World

    from gowork.leader._engine.loop import Engine

#: How long a frame may take, in seconds.
QUICK = (0.0002, 0.001, 0.02, 0.2)
SLOW = (0.2, 1.0, 2.5)


class Link:
    """One stream. A worker may have a new one while what it has sent over an old one is still under way."""

    def __init__(self, world: World, engine: Engine, worker: SimWorker, connection: int) -> None:
        self._world, self._engine, self._worker = world, engine, worker
        self.connection = connection
        #: What the worker may be granted, as far as the leader has heard.
        self.credit = 0
        self.delays = QUICK
        self._alive, self._greeted = True, False
        self._muted: set[str] = set()
        #: How much later arrives what is under way since the worker gave the stream up.
        self._late: float | None = None
        self._last = {"up": 0.0, "down": 0.0}

    def send_hello(self, hello: cmd.OpenSession) -> None:
        self._later("up", self._greet, hello)

    def send(self, frame: cmd.ReceiveFrame) -> None:
        self._later("up", self._post_frame, frame)

    def deliver(self, effect: object) -> None:
        """From the leader to the worker."""
        self._later("down", self._worker.receive, self, effect)

    def cut(self) -> None:
        """The stream is gone; what is under way is lost; both ends see it, each in its own time."""
        if not self._alive:
            return
        self._end()
        world = self._world
        if world.engine is self._engine:
            world.loop.call_later(world.rng.uniform(0.0, 0.5), self._engine.post, cmd.CloseSession(self.connection))
        world.loop.call_later(world.rng.uniform(0.0, 0.5), self._worker.broken, self)

    def linger(self) -> None:
        """The worker gives the stream up; what it has sent arrives late nevertheless, and the end after it."""
        if not self._greeted:
            # A hello that arrives after a later one of the same instance can't be told from a new one: out of bounds.
            self.cut()
        elif self._alive and self._late is None:
            self._late = self._world.rng.uniform(0.1, 3.0)
            self._later("up", self._close)
            self._world.loop.call_soon(self._worker.broken, self)

    def silence(self, way: str, seconds: float) -> None:
        """Nothing gets through for a while, and nobody is told: what is sent meanwhile breaks the stream later."""
        self._muted |= {"up", "down"} if way == "both" else {way}
        self._world.loop.call_later(seconds, self.cut)

    @property
    def carries(self) -> bool:
        """Whether the worker has it, and nothing keeps its heartbeats from the leader."""
        return self._alive and not self._muted and self._late is None and self._worker.link is self

    def heal(self) -> None:
        """No more faults: a stream that has lost something is broken."""
        self.delays = QUICK
        if self._muted:
            self.cut()

    def _end(self) -> None:
        self._alive = False
        self._world.links.pop(self.connection, None)

    def _close(self) -> None:
        self._end()
        self._engine.post(cmd.CloseSession(self.connection))

    def _greet(self, hello: cmd.OpenSession) -> None:
        self._greeted = True
        self._engine.post(hello)

    def _post_frame(self, frame: cmd.ReceiveFrame) -> None:
        if frame.credit is not None and frame.credit > self.credit:
            self.credit = frame.credit
        self._engine.post(frame)

    def _later(self, way: str, function: Callable[..., object], *args: object) -> None:
        world = self._world
        # A stream keeps its order, however long each message takes.
        at = max(self._last[way], world.loop.time() + world.rng.choice(self.delays))
        self._last[way] = at
        world.loop.call_at(at, self._arrive, way, function, args)

    def _arrive(self, way: str, function: Callable[..., object], args: tuple[object, ...]) -> None:
        if not self._alive or way in self._muted:
            return
        if way == "down":
            function(*args)
        elif self._world.engine is self._engine:
            if self._late is None:
                function(*args)
            else:
                self._world.loop.call_later(self._late, self._arrive_late, function, args)

    def _arrive_late(self, function: Callable[..., object], args: tuple[object, ...]) -> None:
        if self._alive and self._world.engine is self._engine:
            if function != self._close:
                self._world.trace.seen["network: a frame of an old stream arrives late"] += 1
            function(*args)
