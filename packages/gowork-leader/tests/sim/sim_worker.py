"""A worker as the session protocol has it, without processes: what a supervisor promises, on a bad network."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from gowork.leader.core import commands as cmd
from gowork.leader.core import effects as ef
from gowork.leader.core.model import Failure, FailureKind, HandlerPolicy, Outcome

if TYPE_CHECKING:
    from sim_world import Link, World

_OUTCOMES = [Outcome.COMPLETED] * 12 + [
    Outcome.FAILED,
    Outcome.FAILED,
    Outcome.TIMED_OUT,
    Outcome.SNOOZED,
    Outcome.LOST,
]


#: How long a leader waits for a worker whose stream broke.
GRACE_SECONDS = 1.0


class SimWorker:
    """One machine that runs a worker, crashes and starts it again."""

    def __init__(self, world: World, name: str, rng: Random) -> None:
        self._world, self._rng, self.name = world, rng, name
        self._life = 0
        self.instance = ""
        self.link: Link | None = None
        self.slots = rng.randint(1, 4)
        self._buffer = rng.randint(0, 4)
        # Not drawn: every other number of the seed would be another one.
        self._keeps_proof = name.endswith(("1", "3", "5"))
        #: {fence: id} granted and not started, running (with its timer), and reported but not acknowledged.
        self._waiting: dict[int, str] = {}
        self._running: dict[int, tuple[str, asyncio.TimerHandle]] = {}
        self._reports: dict[int, cmd.Report] = {}
        self._granted = 0
        #: When the stream broke; None while there is one.
        self._broken_at: float | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        self.start()

    def start(self) -> None:
        """A new process."""
        self._life += 1
        self.instance = f"{self.name}-{self._life}"
        self._world.note(f"worker  {self.instance} starts")
        self._connect_soon()

    def crash(self) -> None:
        """The process and all that it held is gone."""
        self._world.note(f"worker  {self.instance} crashes")
        for _, timer in self._running.values():
            timer.cancel()
        self._world.checks.died([*self._waiting, *self._running, *self._reports])
        self._waiting, self._running, self._reports = {}, {}, {}
        if self.link is not None:
            self.link.cut()
            self.link = None
        self._world.loop.call_later(self._rng.uniform(0.05, 3.0), self.start)

    # The stream.

    def _connect_soon(self) -> None:
        self._world.loop.call_later(self._rng.uniform(0.0, 0.1), self._connect, self._life)

    def _connect(self, life: int) -> None:
        if life != self._life or self.link is not None:
            return
        self.link = self._world.connect(self)
        if self.link is None:
            self._connect_soon()
            return
        self._granted = 0
        held = [cmd.Held(id, fence, False) for fence, id in self._waiting.items()]
        held += [cmd.Held(id, fence, False) for fence, (id, _) in self._running.items()]
        held += [cmd.Held(report.id, fence, True) for fence, report in self._reports.items()]
        # Nothing of an earlier life is left: crash saw to it. A machine without a state directory can't prove it.
        ended = tuple(f"{self.name}-{life}" for life in range(1, self._life)[-16:]) if self._keeps_proof else ()
        handlers = (HandlerPolicy("work", True), HandlerPolicy("other"))
        self.link.send_hello(self.name, self.instance, self.slots, handlers, tuple(held), ended)

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
                self._broken_at = None
                # After what comes with it: the leader may release some of what waits.
                self._world.loop.call_soon(self._fill)
                if self._reports:
                    self._send(list(self._reports.values()))
                self._give_credit()
                self._beat(link)
            case ef.GrantTasks():
                self._granted += len(effect.grants)
                for fence, _, _, spec in effect.grants:
                    self._world.checks.received(fence, spec.id, self.instance)
                    self._waiting[fence] = spec.id
                self._fill()
            case ef.Acknowledge():
                for fence in effect.fences:
                    self._reports.pop(fence, None)
                self._give_credit()
            case ef.ReleaseTasks():
                for fence in effect.fences:
                    self._stop(fence, kept=False)
                self._fill()
            case ef.CancelTasks():
                for fence in effect.fences:
                    id = self._stop(fence, kept=True)
                    if id is not None:
                        self._report(cmd.Report(fence, id, Outcome.CANCELLED))
                self._fill()
            case ef.Ping():
                self._send([])
            case ef.EndSession():
                link.cut()
                self.link, self._broken_at = None, self._world.loop.time()
                self._connect_soon()

    def _beat(self, link: Link) -> None:
        if self.link is link:
            self._send([])
            self._world.loop.call_later(3.3, self._beat, link)

    def _send(self, reports: Sequence[cmd.Report]) -> None:
        for report in reports:
            self._world.checks.reported(report.fence, report.outcome)
        if self.link is not None:
            credit = self._granted + self.slots + self._buffer - len(self._waiting) - len(self._running)
            self.link.send(cmd.ReceiveFrame(self.link.connection, list(reports), credit))
            if self._world.plants.worker_drops_reports:
                for report in reports:
                    self._reports.pop(report.fence, None)

    def _give_credit(self) -> None:
        self._send([])

    # Tasks.

    def _fill(self) -> None:
        if self._broken_at is not None and self._world.loop.time() - self._broken_at > GRACE_SECONDS:
            # Cut off for longer than the leader waits: what waits here may be another's by now.
            return
        while self._waiting and len(self._running) < self.slots:
            fence, id = next(iter(self._waiting.items()))
            del self._waiting[fence]
            self._world.checks.started(fence, id)
            seconds = 0.01 if self._world.calm else self._rng.choice([0.001, 0.01, 0.1, 1.0, 3.0])
            timer = self._world.loop.call_later(seconds, self._finish, fence)
            self._running[fence] = (id, timer)
        if self._waiting and self._rng.random() < 0.05:
            fence, id = self._waiting.popitem()
            self._report(cmd.Report(fence, id, Outcome.INTERRUPTED, reason="it waited behind long tasks"))

    def _finish(self, fence: int) -> None:
        id, _ = self._running.pop(fence)
        self._world.checks.stopped(fence, kept=True)
        outcome = Outcome.COMPLETED if self._world.calm else self._rng.choice(_OUTCOMES)
        failure = Failure(FailureKind.HANDLER, "no luck") if outcome is Outcome.FAILED else None
        delay = 50 if outcome is Outcome.SNOOZED else None
        self._report(cmd.Report(fence, id, outcome, failure=failure, retry_delay_ms=delay))
        self._fill()

    def _stop(self, fence: int, *, kept: bool) -> str | None:
        id = self._waiting.pop(fence, None)
        if id is None and fence in self._running:
            id, timer = self._running.pop(fence)
            timer.cancel()
            self._world.checks.stopped(fence, kept=kept)
        return id

    def _report(self, report: cmd.Report) -> None:
        self._reports[report.fence] = report
        self._send([report])
