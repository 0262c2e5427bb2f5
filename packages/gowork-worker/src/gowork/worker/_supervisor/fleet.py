"""The worker's runners: starts them, starts them again when they end, and ends them with the worker."""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from typing import Protocol

import msgspec

from gowork.worker._runner import messages
from gowork.worker._supervisor.local import LocalRunner
from gowork.worker._supervisor.measures import Measures
from gowork.worker._supervisor.options import Options
from gowork.worker._supervisor.output import Outputs
from gowork.worker._supervisor.process import ProcessRunner
from gowork.worker._supervisor.runner import Owner, Runner
from gowork.worker._supervisor.solo import Solo
from gowork.worker.processes import Warden

logger = logging.getLogger("gowork.worker")

#: A runner that lives shorter than this, in seconds, is started again later and later.
_STABLE_AFTER = 5.0
_RESTART_DELAYS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
#: Seconds that runners have to leave their lifespans, and how often it is looked whether they have.
_STOP_GRACE = 5.0
_STOP_LOOK = 0.01
#: Tasks of a worker that wait for others and lend their slots, at most; each runner has an equal share.
LENT_SLOTS_MAX = 1000


class FleetOwner(Owner, Protocol):
    """Whoever holds the fleet."""

    def runner_ended(self, runner: Runner, reason: str) -> None:
        """It has ended; whatever it held is its owner's again."""


class MetricsKeeper(Protocol):
    """Whoever keeps the metrics of handlers."""

    def begin(self) -> dict[str, str]:
        """Variables for the environment of one more process."""

    def ended(self, variables: dict[str, str]) -> None:
        """The process that was given them has ended."""


class Fleet:
    """Await `run`; it lasts until `close`."""

    def __init__(self, options: Options, owner: FleetOwner, measures: Measures) -> None:
        self._options = options
        self._owner = owner
        self._measures = measures
        #: Runners of ordinary tasks, those that are being started included.
        self.ordinary: list[Runner] = []
        #: Isolated tasks and their runners.
        self.solo = Solo(options.slots, self.ordinary, self._spawn_solo)
        #: Inherited by every runner, so that a lock is held as long as one of them lives; None where there is none.
        self.lock_descriptor: int | None = None
        #: How many tasks that wait for others may lend their slots. 0 where the leader would send no more tasks for it.
        self.lent_slots_max = LENT_SLOTS_MAX
        #: None where nobody asks for metrics of handlers.
        self.metrics: MetricsKeeper | None = None
        #: Runners end because the worker does.
        self.closing = False
        self._closed = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._warden: Warden | None = None
        self._outputs = Outputs()
        self._solo_failures = 0
        #: When the next process for isolated tasks may be started, on the loop's clock.
        self._solo_from = 0.0

    def every(self) -> list[Runner]:
        """All runners."""
        return [*self.ordinary, *self.solo.runners]

    def ready(self) -> list[Runner]:
        """The runners that take ordinary tasks."""
        return [runner for runner in self.ordinary if runner.is_ready]

    def answering(self) -> list[Runner]:
        """Those of them whose loops tick."""
        return [runner for runner in self.ready() if not runner.is_blocked]

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [runner.pid for runner in self.every() if runner.pid is not None]

    def slots(self, *, withheld: bool) -> dict[str, int]:
        """All slots by what they do: `busy`, `free`, `withheld`, `blocked` in a runner whose loop does not answer, or
        `starting` in one that is not ready. May be asked from any thread.

        Args:
            withheld: nothing new is started, whatever is free.
        """
        states = {"busy": 0, "free": 0, "withheld": 0, "blocked": 0}
        for runner in list(self.ordinary):
            # What waits for other tasks has lent its slot. The one count may be newer than the other.
            busy = max(0, min(runner.slots, len(runner.running()) - runner.waiting + runner.lent))
            states["busy"] += busy
            if runner.is_ready:
                state = "blocked" if runner.is_blocked else "withheld" if withheld else "free"
                states[state] += runner.slots - busy
        return {**states, "starting": max(0, self._options.slots - sum(states.values()))}

    def tell(self, message: messages.ToRunner) -> None:
        """Sends a message to every runner that is there to hear it."""
        for runner in self.every():
            if runner.is_ready:
                runner.send(message)

    async def run(self) -> None:
        """Keeps the runners running."""
        if self._options.runners:
            try:
                # It holds the lock as well: that is free only when no group is left.
                self._warden = Warden([] if self.lock_descriptor is None else [self.lock_descriptor])
            except OSError as error:
                reason = "children of runners may outlive a killed worker: there is no warden"
                logger.warning(reason, extra={"reason": str(error)})
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                shares = _split(self._options.slots, self._options.runners)
                for index, slots in enumerate(shares):
                    keep = self._keep(f"runner-{index}", slots, self.lent_slots_max // len(shares))
                    group.create_task(keep, name=f"runner-{index}")
                if not shares:
                    group.create_task(self._run_local(), name="runner")
                await self._closed.wait()
        finally:
            await self._outputs.close()
            if self._warden is not None:
                self._warden.close()

    async def close(self) -> None:
        """Lets the runners leave their lifespans, and ends those that take too long."""
        self.closing = True
        loop = asyncio.get_running_loop()
        self.tell(messages.Stop())
        for runner in self.every():
            if not runner.is_ready:
                runner.kill()
        deadline = loop.time() + _STOP_GRACE
        while self.ordinary or self.solo.runners:
            if loop.time() > deadline:
                for runner in self.every():
                    # No longer ready once it is ended, so it is told once.
                    was_ready = runner.is_ready
                    if runner.kill() and was_ready:
                        extra = {"runner": runner.name, "runner_pid": runner.pid, "seconds": _STOP_GRACE}
                        logger.warning("a runner did not leave its lifespans in time, and is ended", extra=extra)
            await asyncio.sleep(_STOP_LOOK)
        self._closed.set()

    def note_ready(self, runner: Runner) -> None:
        """A runner is ready: whatever kept it from that is over."""
        if runner.alone:
            self._solo_failures = 0

    async def _keep(self, name: str, slots: int, spare: int) -> None:
        loop = asyncio.get_running_loop()
        quick_deaths = 0
        while not self.closing:
            runner = self._process_runner(name, slots, spare)
            self.ordinary.append(runner)
            started = loop.time()
            try:
                await self._run_process(runner)
            finally:
                self.ordinary.remove(runner)
            quick_deaths = quick_deaths + 1 if loop.time() - started < _STABLE_AFTER else 0
            if not self.closing:
                await asyncio.sleep(_RESTART_DELAYS[min(max(0, quick_deaths - 1), len(_RESTART_DELAYS) - 1)])

    def _spawn_solo(self, only: tuple[str, ...] | None) -> None:
        assert self._group is not None
        if self.closing or asyncio.get_running_loop().time() < self._solo_from:
            return
        # It runs one task at a time. The spare slot stays empty: with it the task may lend the one that it counts for.
        runner = self._process_runner("alone", 1, min(1, self.lent_slots_max), alone=True, only=only)
        self.solo.add(runner)
        self._group.create_task(self._keep_solo(runner), name="alone")

    def _process_runner(
        self, name: str, slots: int, spare: int, *, alone: bool = False, only: tuple[str, ...] | None = None
    ) -> ProcessRunner:
        runner = ProcessRunner(
            name,
            slots,
            self._owner,
            setup=partial(self._setup, only=only),
            spare=spare,
            warden=self._warden,
            lock_descriptor=self.lock_descriptor,
            alone=alone,
            blocked_timeout=self._options.blocked_timeout,
            outputs=self._outputs,
            variables=self.metrics.begin() if self.metrics is not None else {},
        )
        runner.only = only
        return runner

    async def _keep_solo(self, runner: ProcessRunner) -> None:
        # Counted before it is known: note_ready sets it back.
        self._solo_failures += 1
        try:
            await self._run_process(runner)
        finally:
            self.solo.remove(runner)
        if self._solo_failures > 1:
            delay = _RESTART_DELAYS[min(self._solo_failures - 1, len(_RESTART_DELAYS) - 1)]
            self._solo_from = asyncio.get_running_loop().time() + delay

    async def _run_process(self, runner: ProcessRunner) -> None:
        try:
            reason = await runner.run()
        except OSError as error:
            reason = f"the runner could not be started: {error}"
        expected = self.closing or runner.was_stopped
        if not expected:
            self._measures.runners_lost += 1
            extra = {"runner": runner.name, "runner_pid": runner.pid, "reason": reason}
            logger.error("runner ended", extra=extra)
        self._owner.runner_ended(runner, reason)
        runner.close()
        if self.metrics is not None:
            self.metrics.ended(runner.variables)

    async def _run_local(self) -> None:
        runner = LocalRunner(
            "in-process",
            self._options.slots,
            self._owner,
            spare=self.lent_slots_max,
            worker=self._options.name,
            selection=self._options.selection,
            functions=self._options.functions,
            trace_parent=self._options.trace_parent,
            log_failures=self._options.log_failures,
        )
        self.ordinary.append(runner)
        try:
            await runner.run()
        finally:
            self.ordinary.remove(runner)

    def _setup(self, slots: int, spare: int, *, only: tuple[str, ...] | None = None) -> messages.Setup:
        return messages.Setup(
            worker=self._options.name,
            slots=slots,
            spare=spare,
            selection=msgspec.structs.replace(self._options.selection, only=only),
            sys_path=tuple(sys.path),
            log_format=self._options.log_format,
            log_level=self._options.log_level,
            log_failures=self._options.log_failures,
            trace_parent=self._options.trace_parent,
        )


def _split(slots: int, runners: int) -> list[int]:
    """Slots for each runner: never none, so there may be fewer runners than asked for."""
    runners = min(slots, runners)
    return [slots // runners + (index < slots % runners) for index in range(runners)]
