"""The machines of workers. Each runs the worker that ships (its service, session and supervisor) over simulated
runners, a simulated network and a clock of its own. It crashes the worker and starts it again.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from contextvars import copy_context
from random import Random
from typing import TYPE_CHECKING

from sim_check_worker import WorkerChecks
from sim_loop import CLOCK_RATE
from sim_machine import LIFE
from sim_network import Link
from sim_runner import SimRunner
from sim_tasks import LABELS, NOTES, VERSIONS
from sim_violation import Violation

from gowork.proto.completions import reports_of
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._app.service import Service
from gowork.worker._core.options import Options
from gowork.worker._runner.columns import pack
from gowork.worker._runner.completion import Completion

if TYPE_CHECKING:
    from sim_world import World


class SimWorker:
    """One machine that runs a worker, crashes it and starts it again.

    Args:
        machine: the machine's own name, from which instances get theirs.
        name: the worker's name; another machine may use it too.
    """

    def __init__(self, world: World, machine: str, name: str, rng: Random) -> None:
        self.world, self.rng, self.machine, self.name = world, rng, machine, name
        self.lives = 0
        #: The rate of its clock: its seconds for one second of the world.
        self.clock_rate = rng.uniform(0.9, 1.1)
        # The first worker can run every task.
        self.is_first = is_first = name == "w0"
        self.handler_names = {note.name for note in (NOTES if is_first or rng.random() < 0.8 else NOTES[:1])}
        #: Whether its tasks wait for others, and lend their slots.
        self.lends = rng.random() < 0.5
        #: Whether it can prove that its predecessors have ended.
        self.keeps_proof = rng.random() < 0.5
        #: Until when it can open no stream, in the world's seconds.
        self.away_until = 0.0
        self._lies = rng.random() < 0.25
        slots = rng.randint(1, 4)
        self.options = Options(
            name=name,
            slots=slots,
            runners=rng.randint(1, 2),
            labels=LABELS if is_first or rng.random() < 0.3 else {},
            drain_timeout=rng.choice((0.5, 5.0, 20.0)),
            blocked_timeout=5.0,
            unacknowledged_bytes_max=rng.choice((150, 1000, 1 << 20)),
            lent_slots_max=4 if self.lends else 0,
        )
        self.life = Life(self)

    @property
    def instance(self) -> str:
        return self.life.instance

    def start(self) -> None:
        """Starts a new process."""
        self.life = Life(self)

    def crash(self) -> None:
        """Ends the process with all that it held, and has another start later."""
        if self.life.is_alive:
            self.life.end()
            self.start_soon()

    def start_soon(self) -> None:
        """Has another process start later."""
        self.world.loop.later(self.rng.uniform(0.05, 3.0), self.start)

    def drain(self) -> None:
        """Asks the worker to stop."""
        if self.life.is_alive:
            self.life.run(self.life.service.stop)

    def cut_off(self, seconds: float) -> None:
        """Silences its stream for `seconds`, in which it can open no other."""
        self.away_until = self.world.loop.now + seconds
        if self.life.link is not None:
            self.life.link.silence("both", seconds)

    def lie(self, fences: dict[int, str]) -> None:
        """Sends a report of a task that this worker never held."""
        link = self.life.link
        if self._lies and link is not None and self.life.is_welcome:
            known = self.life.checks
            lies = [fence for fence in fences if not known.has_known(fence)]
            if lies:
                self.world.trace.fault("a worker reports what it never held", self.instance)
                fence = self.rng.choice(lies)
                reports, columns = pack([Completion(fence, fences[fence], "", b"")], self.world.rows_min)
                lie = session.ConnectRequest(reports=reports, completions=() if columns is None else (columns,))
                link.send(lie.SerializeToString())

    def break_runner(self) -> None:
        """Causes a fault in a runner, or in all of them."""
        rng, trace = self.rng, self.world.trace
        runners = list(self.life.runners.values())
        if not runners:
            return
        runner = rng.choice(runners)
        match rng.randrange(5):
            case 0:
                trace.fault("a runner crashes", runner.name)
                runner.crash()
            case 1:
                trace.fault("a runner's loop stands still", runner.name)
                runner.block(rng.choice((1.0, 4.0, 4.0, 20.0)))
            case 2:
                trace.fault("a runner hears nothing, though its loop ticks", runner.name)
                runner.block(rng.choice((4.0, 40.0)), deaf=True)
            case 3:
                trace.fault("a runner closes its pipe and goes on", runner.name)
                runner.close_pipe()
            case _:
                trace.fault("all runners of a worker are blocked", self.instance)
                for each in runners:
                    each.block(4.0)

    def calm_down(self) -> None:
        """Ends the faults of its network and its runners."""
        self.away_until = 0.0
        for runner in self.life.runners.values():
            runner.unblock()


class Life:
    """One process of a worker, from its start to its end."""

    def __init__(self, machine: SimWorker) -> None:
        self.machine = machine
        self.world = machine.world
        machine.lives += 1
        self._number = machine.lives
        self.instance = f"{machine.machine}-{self._number}"
        self.is_alive = True
        self.handler_names, self.lends = machine.handler_names, machine.lends
        #: The version of its plugins. The next process may have another one.
        place = 0 if machine.is_first else zlib.crc32(self.instance.encode()) % len(VERSIONS)
        self.version = VERSIONS[place]
        #: {process id: runner}
        self.runners: dict[int, SimRunner] = {}
        self.checks = WorkerChecks(self.world, self.instance, machine.options.slots, self.version, lends=machine.lends)
        #: The stream in use.
        self.link: Link | None = None
        self.is_welcome = False
        self.world.trace.note("worker", self.instance, "starts as", machine.name)
        self._context = copy_context()
        self.run(CLOCK_RATE.set, machine.clock_rate)
        self.run(LIFE.set, self)
        self.service: Service
        self.run(self._make, machine)
        self._task = self.world.loop.create_task(self.service.run(), context=self._context)
        self._task.add_done_callback(self._done)

    def _make(self, machine: SimWorker) -> None:
        self.service = Service(machine.options, ["10.0.0.1:50051"])
        supervisor = self.service.supervisor
        supervisor.instance = self.instance
        supervisor._locks = _Proof(machine, self._number)  # type: ignore[assignment]

    def run(self, function: Callable[..., object], *args: object) -> None:
        """Runs the function on this machine, by its clock."""
        self._context.run(function, *args)

    def clock_ns(self) -> int:
        """The time of the machine's clock, in nanoseconds."""
        return int(self.world.loop.now * self.machine.clock_rate * 1e9)

    def end(self) -> None:
        """Ends the process with all that it has started. The rest of its code unwinds, and nobody hears of it."""
        self._forget()
        self._task.cancel()

    def _forget(self) -> None:
        self.is_alive = False
        for runner in list(self.runners.values()):
            runner.vanish()
        self.runners.clear()
        self.checks.ended()
        link, self.link = self.link, None
        if link is not None:
            link.cut()

    def _done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if not self.is_alive:
            return
        if error is not None:
            self.world.found(error)
        self.world.trace.seen["worker: leaves"] += self.service.supervisor.has_left
        self._forget()
        if not self.world.is_over:
            self.machine.start_soon()

    # What it says and hears.

    def sends(self, link: Link, request: session.ConnectRequest) -> None:
        """Checks a frame that the worker writes to a stream."""
        if not self.is_alive:
            return
        if request.HasField("hello"):
            self.link, self.is_welcome = link, False
            self.checks.greets(request.hello)
        for report in request.reports:
            self.checks.reports(report)
        for completions in request.completions:
            if not self.world.reads_completions:
                raise Violation("no leader is sent what it does not read", self.instance)
            self.world.trace.seen["report: by columns"] += len(completions.ids)
            for report in reports_of(completions):
                self.checks.reports(report)

    def reads(self, response: session.ConnectResponse) -> None:
        """Checks a frame that the worker reads."""
        if self.is_alive:
            self.is_welcome = True
            self.checks.reads(response)

    def lost_stream(self) -> None:
        """Notes that the worker sees the end of its stream."""
        if self.is_alive:
            self.link, self.is_welcome = None, False
            self.checks.lost_stream()


class _Proof:
    """Stands in for the locks by which a worker proves that its predecessors have ended; `crash` has ended them."""

    def __init__(self, machine: SimWorker, number: int) -> None:
        self._machine, self._number = machine, number

    def ended(self) -> list[str]:
        lives = range(1, self._number)[-16:]
        return [f"{self._machine.machine}-{life}" for life in lives] if self._machine.keeps_proof else []

    def forget(self, instances: list[str]) -> None:
        """Does nothing: to name the instances to a leader again does no harm."""

    def close(self, *, left: bool) -> None:
        """Does nothing, because there are no files."""
