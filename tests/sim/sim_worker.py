"""A worker as the session protocol has it, without processes: what a supervisor promises, on a bad network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from sim_network import Link
from sim_tasks import HANDLERS, LABELS, follow_ups_of, is_deadly

from gowork.leader._core import commands as cmd
from gowork.leader._core import effects as ef
from gowork.leader._core.model import Failure, FailureKind, Outcome

if TYPE_CHECKING:
    from sim_world import World

_OUTCOMES = (
    [Outcome.COMPLETED] * 12
    + [Outcome.FAILED] * 2
    + [Outcome.TIMED_OUT]
    + [Outcome.SNOOZED]
    + [Outcome.LOST] * 2
    + [Outcome.CANCELLED]
)
#: How long a leader waits for a worker whose stream broke.
GRACE_SECONDS = 1.0
HEARTBEAT_SECONDS = 1.3


class SimWorker:
    """One machine that runs a worker, crashes and starts it again.

    Args:
        machine: differs between all; instances are named after it.
        name: what the worker calls itself; another machine may use it too.
    """

    def __init__(self, world: World, machine: str, name: str, rng: Random) -> None:
        self._world, self._rng, self._machine, self.name = world, rng, machine, name
        self._life = 0
        self.instance = ""
        self.link: Link | None = None
        self.slots = rng.randint(1, 4)
        self._buffer = 300 if rng.random() < 0.05 else rng.randint(0, 4)
        #: How fast its clock runs, beside that of the leader.
        self._clock_rate = rng.uniform(0.9, 1.1)
        # The first one can run everything.
        is_first = name == "w0"
        self._handlers = HANDLERS if is_first or rng.random() < 0.8 else HANDLERS[:1]
        self._labels = dict(LABELS) if is_first or rng.random() < 0.3 else {}
        #: Whether it has a directory in which it finds what its predecessors left.
        self._keeps_proof = rng.random() < 0.5
        self._lies = rng.random() < 0.25
        #: {fence: id} granted and not started, running (with its timer), and reported but not acknowledged.
        self._waiting: dict[int, str] = {}
        self._running: dict[int, tuple[str, asyncio.TimerHandle]] = {}
        self._reports: dict[int, cmd.Report] = {}
        self._granted = 0
        self._credit_sent = -1
        self._welcomed = False
        #: When the stream broke; None while there is one.
        self._broken_at: float | None = None
        self._alive = self._draining = self._leaving = self._blocked = False
        self.start()

    def start(self) -> None:
        """A new process."""
        self._life += 1
        self.instance = f"{self._machine}-{self._life}"
        self._alive, self._draining, self._leaving, self._blocked = True, False, False, False
        self._broken_at = None
        self._world.trace.note("worker", self.instance, "starts as", self.name)
        self._connect_soon()

    def crash(self) -> None:
        """The process and all that it held is gone."""
        if not self._alive:
            return
        for _, timer in self._running.values():
            timer.cancel()
        self._world.checks.work.died([*self._waiting, *self._running, *self._reports])
        self._waiting, self._running, self._reports = {}, {}, {}
        self._end(Link.cut)

    def drain(self) -> None:
        """It takes nothing more, ends what it runs, and leaves."""
        if self._draining or not self._alive:
            return
        self._draining = True
        self._world.trace.note("worker", self.instance, "drains")
        self._send_back_waiting("its worker drains")
        self._send()
        self._leave_when_done()

    def lie(self, fences: dict[int, str]) -> None:
        """Reports what others hold, or nobody."""
        mine = {*self._waiting, *self._running, *self._reports}
        lies = [cmd.Report(fence, id, Outcome.COMPLETED) for fence, id in fences.items() if fence not in mine]
        if self._lies and lies and self.link is not None and self._welcomed:
            self._world.trace.fault("a worker reports what it never held", self.instance)
            self.link.send(cmd.ReceiveFrame(self.link.connection, [self._rng.choice(lies)]))

    def block(self) -> None:
        """Its runners do not answer, or do again."""
        self._blocked = not self._blocked and not self._world.calm
        if self.link is not None and self._welcomed:
            self.link.send(cmd.ReceiveFrame(self.link.connection, blocked=self._blocked))

    def calm_down(self) -> None:
        """No more faults."""
        if self._blocked:
            self.block()

    # The stream.

    def _end(self, how: Callable[[Link], None]) -> None:
        """This process is over; another one starts later."""
        self._alive = False
        link, self.link = self.link, None
        if link is not None:
            how(link)
        self._later(self._rng.uniform(0.05, 3.0), self.start)

    def _later(self, seconds: float, function: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        return self._world.loop.call_later(seconds * self._clock_rate, function, *args)

    def _connect_soon(self) -> None:
        self._later(self._rng.uniform(0.0, 0.1), self._connect, self._life)

    def _connect(self, life: int) -> None:
        if life != self._life or self.link is not None or not self._alive:
            return
        link = self.link = self._world.connect(self)
        if link is None:
            self._connect_soon()
            return
        self._granted, self._credit_sent, self._welcomed = 0, -1, False
        if self._waiting and self._rng.random() < 0.1:
            fence, id = self._waiting.popitem()
            self._world.trace.fault("a worker forgets a grant that it has not started", self.instance, id, fence)
        held = [cmd.HeldTask(id, fence, False) for fence, id in self._waiting.items()]
        held += [cmd.HeldTask(id, fence, False) for fence, (id, _) in self._running.items()]
        held += [cmd.HeldTask(report.id, fence, True) for fence, report in self._reports.items()]
        # Nothing of an earlier life is left: `crash` saw to it. A machine without a state directory can't prove it.
        lives = range(1, self._life)[-16:]
        ended = tuple(f"{self._machine}-{life}" for life in lives) if self._keeps_proof else ()
        link.send_hello(
            cmd.OpenSession(
                link.connection,
                self.name,
                self.instance,
                self.slots,
                self._handlers,
                self._labels,
                "sim",
                tuple(held),
                (),
                "sim",
                ended,
            )
        )

    def broken(self, link: Link) -> None:
        """The worker sees that its stream is gone."""
        if self.link is link:
            self.link, self._broken_at = None, self._world.loop.time()
            self._connect_soon()

    def receive(self, link: Link, effect: object) -> None:
        """An effect has arrived."""
        if self.link is not link:
            return
        match effect:
            case ef.Welcome():
                self._welcomed, self._broken_at = True, None
                # After what comes with it: the leader may release some of what waits.
                self._world.loop.call_soon(self._fill)
                self._send(*self._reports.values())
                self._later(HEARTBEAT_SECONDS, self._beat, link)
                self._leave_when_done()
            case ef.GrantTasks():
                self._granted += len(effect.grants)
                for grant in effect.grants:
                    self._world.checks.work.received(grant.fence, grant.spec.id, self.instance)
                    self._waiting[grant.fence] = grant.spec.id
                if self._draining:
                    self._send_back_waiting("its worker drains")
                self._fill()
            case ef.Acknowledge():
                for fence in effect.fences:
                    self._reports.pop(fence, None)
                self._send()
                self._leave_when_done()
            case ef.ReleaseTasks():
                for fence in effect.fences:
                    self._stop(fence, kept=False)
                self._fill()
                # What is released makes room: without a word of it the leader would grant nothing any more.
                self._send()
                self._leave_when_done()
            case ef.CancelTasks():
                for fence in effect.fences:
                    id = self._stop(fence, kept=True)
                    if id is not None:
                        self._report(cmd.Report(fence, id, Outcome.CANCELLED))
                self._fill()
            case ef.DrainWorker():
                self.drain()
            case ef.Ping():
                self._beat_once(link)
            case ef.EndSession():
                self._ended(link, effect.refusal)

    def _ended(self, link: Link, refusal: cmd.Refused | None) -> None:
        if self._leaving and refusal is None:
            self._end(Link.cut)
            return
        link.cut()
        self.link, self._broken_at = None, self._world.loop.time()
        self._later(self._rng.uniform(0.1, 1.0) if refusal is not None else 0.05, self._connect, self._life)

    def _leave_when_done(self) -> None:
        if not self._draining or self._leaving or self._waiting or self._running or self._reports:
            return
        if self.link is not None and self._welcomed:
            self._leaving = True
            self._world.trace.seen["worker: leaves"] += 1
            self.link.send(cmd.ReceiveFrame(self.link.connection, draining=True, leaving=True))
            # Nobody may answer: its process ends anyway.
            self._later(2.0, self._gone, self._life)

    def _gone(self, life: int) -> None:
        if life == self._life and self._alive:
            self._end(Link.linger)

    def _beat(self, link: Link) -> None:
        if self.link is link:
            self._beat_once(link)
            self._later(HEARTBEAT_SECONDS, self._beat, link)

    def _beat_once(self, link: Link) -> None:
        link.send(cmd.ReceiveFrame(link.connection))

    def _send(self, *reports: cmd.Report) -> None:
        work = self._world.checks.work
        for report in reports:
            work.reported(self.instance, report)
        if self.link is None or not self._welcomed:
            return
        credit = self._granted + self.slots + self._buffer - len(self._waiting) - len(self._running)
        draining = True if self._draining else None
        if reports or credit != self._credit_sent or draining:
            self._credit_sent = credit
            self.link.send(cmd.ReceiveFrame(self.link.connection, reports, credit, draining=draining))
        if self._world.plants.worker_drops_reports:
            for report in reports:
                self._reports.pop(report.fence, None)

    # Tasks.

    def _fill(self) -> None:
        if self._broken_at is not None and self._world.loop.time() - self._broken_at > GRACE_SECONDS * self._clock_rate:
            # Cut off for longer than the leader waits: what waits here may be another's by now.
            return
        while self._waiting and len(self._running) < self.slots:
            fence, id = next(iter(self._waiting.items()))
            del self._waiting[fence]
            self._world.checks.work.started(fence, id)
            seconds = (
                0.01 if self._world.calm else self._rng.choice([0.001, 0.001, 0.01, 0.01, 0.1, 0.1, 1.0, 3.0, 9.0])
            )
            self._running[fence] = (id, self._later(seconds, self._finish, fence))
        if self._waiting and self._rng.random() < 0.05:
            fence, id = self._waiting.popitem()
            self._report(cmd.Report(fence, id, Outcome.INTERRUPTED, reason="it waited behind long tasks"))

    def _finish(self, fence: int) -> None:
        id, _ = self._running.pop(fence)
        work = self._world.checks.work
        work.stopped(fence, kept=True)
        outcome = Outcome.COMPLETED if self._world.calm else self._rng.choice(_OUTCOMES)
        outcome = Outcome.LOST if is_deadly(id) else outcome
        failure = Failure(FailureKind.HANDLER, "no luck") if outcome is Outcome.FAILED else None
        delay = 50 if outcome is Outcome.SNOOZED else None
        follow_ups = ()
        if outcome is Outcome.COMPLETED and not self._world.calm:
            follow_ups = follow_ups_of(id, self._world.submitted, self._rng)
        self._report(cmd.Report(fence, id, outcome, failure=failure, retry_delay_ms=delay, follow_ups=follow_ups))
        self._fill()

    def _send_back_waiting(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for fence, id in waiting.items():
            self._report(cmd.Report(fence, id, Outcome.INTERRUPTED, reason=reason))

    def _stop(self, fence: int, *, kept: bool) -> str | None:
        id = self._waiting.pop(fence, None)
        if id is None and fence in self._running:
            id, timer = self._running.pop(fence)
            timer.cancel()
            self._world.checks.work.stopped(fence, kept=kept)
        return id

    def _report(self, report: cmd.Report) -> None:
        self._reports[report.fence] = report
        self._send(report)
