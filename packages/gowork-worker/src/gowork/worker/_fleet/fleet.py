"""The worker's runners: carries out the desk's instructions on them, and tells the desk what they do.

It decides nothing. It imports no plugin, except where the program around the worker wants its handlers in its own
process (runners=0).

Invariant: CLEAN (runners and their children end with the worker).
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Iterable
from typing import Protocol, assert_never

import msgspec

from gowork.worker._core.options import Options
from gowork.worker._desk.events import EnvironmentsKnown, Event, Looked, RunnerEnded, RunnerReady, WorkerStarted
from gowork.worker._desk.instructions import (
    CancelTasks,
    EndRunner,
    FleetInstruction,
    Ping,
    StartRunner,
    StartTasks,
    Tell,
)
from gowork.worker._desk.runner import Runner, RunnerId
from gowork.worker._fleet import environments
from gowork.worker._fleet.interpreters import OWN, Interpreter
from gowork.worker._fleet.local import LocalRunner
from gowork.worker._fleet.output import Outputs
from gowork.worker._fleet.process import ProcessRunner
from gowork.worker._fleet.runner import FleetRunner
from gowork.worker._runner import messages
from gowork.worker.processes import Warden

logger = logging.getLogger("gowork.worker")


class MetricsKeeper(Protocol):
    """Keeps the metrics of handlers."""

    def begin(self) -> dict[str, str]:
        """Returns the environment variables that one more process needs for its metrics."""

    def ended(self, variables: dict[str, str]) -> None:
        """Takes note that the process with these variables has ended."""


class Fleet:
    """Runs runners. Await `run`, which lasts until `close`."""

    def __init__(
        self, options: Options, tell: Callable[[Event], None], count: Callable[[messages.Counted], None]
    ) -> None:
        """Args:
        options: the worker's options.
        tell: takes events.
        count: takes what runners have counted.
        """
        self._options = options
        self._tell = tell
        self._count = count
        #: {id: runner}, including those that are being started
        self.runners: dict[RunnerId, FleetRunner] = {}
        #: The descriptor of the instance's lock; None without one. Runners inherit it, so that the lock is held as long
        #: as one of them lives. Written by the supervisor before `run`.
        self.lock_descriptor: int | None = None
        #: None where nobody asks for metrics of handlers. Written by the program around the worker.
        self.metrics: MetricsKeeper | None = None
        #: {environment: {handler that it offers: what is said when it has that no more}}
        self._offered: dict[str, dict[str, str]] = {}
        self._closed = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._warden: Warden | None = None
        self._outputs = Outputs()

    @property
    def pids(self) -> list[int]:
        """The process ids of all runners that have one."""
        return [runner.pid for runner in self.runners.values() if runner.pid is not None]

    def running(self, id: RunnerId) -> int:
        """Returns how many tasks a runner executes. Any thread may call this."""
        runner = self.runners.get(id)
        return len(runner.running()) if runner is not None else 0

    def all_running(self) -> set[int]:
        """Returns the fences of the tasks that runners execute."""
        return {row.fence for runner in self.runners.values() for row in runner.running()}

    def look(self, runners: Iterable[Runner]) -> Looked:
        """Reads the tables of these runners."""
        there = [(each, self.runners[each.id]) for each in runners]
        return Looked(
            {each.id: runner.running() for each, runner in there},
            {each.id: runner.ticks for each, runner in there if each.is_blocked},
            time.monotonic_ns(),
        )

    async def run(self) -> None:
        """Runs the runners that the desk has it start."""
        if self._options.runners:
            try:
                # It holds the lock too, so that the lock is free only when no process group is left.
                self._warden = Warden([] if self.lock_descriptor is None else [self.lock_descriptor])
            except OSError as error:
                reason = "children of runners may outlive a killed worker: there is no warden"
                logger.warning(reason, extra={"reason": str(error)})
        try:
            async with asyncio.TaskGroup() as self._group:
                if await self._look_at_environments():
                    self._tell(WorkerStarted())
                await self._closed.wait()
        finally:
            await self._outputs.close()
            if self._warden is not None:
                self._warden.close()

    async def _look_at_environments(self) -> bool:
        """Tells the desk what other environments offer. Returns whether runners can be started."""
        paths = self._options.plugin_envs
        if not paths:
            return True
        found = await environments.look_at_all(paths, self._look_at, self._closed)
        if found is not None:
            self._tell(found)
        if not isinstance(found, EnvironmentsKnown):
            return False
        for path, ready in found.ready.items():
            why = "{} has no handler {!r} any more; another worker may have it"
            self._offered[path] = {note.name: why.format(path, note.name) for note in ready.handlers}
        return True

    async def _look_at(self, path: str) -> messages.Ready:
        await environments.check_version(path, self._warden)
        ready: asyncio.Future[messages.Ready] = asyncio.get_running_loop().create_future()

        def tell(event: Event) -> None:
            if isinstance(event, RunnerReady):
                ready.set_result(event.ready)

        runner = self._process(StartRunner(RunnerId(0), f"look at {path}", 1, 0, environment=path), tell)
        try:
            return await environments.ready_of(path, runner, ready)
        finally:
            self._forget(runner)

    def close(self) -> None:
        """Lets `run` end. Call it when no runner is left."""
        self._closed.set()

    def perform(self, instruction: FleetInstruction) -> None:
        """Carries out an instruction."""
        match instruction:
            case StartTasks():
                self.runners[instruction.runner].start_tasks(instruction.grants)
            case CancelTasks(id, fences):
                self.runners[id].cancel_tasks(fences)
            case Tell(id, message):
                self.runners[id].send(message)
            case Ping(id):
                self.runners[id].ping()
            case EndRunner(id, fault):
                self.runners[id].end(fault)
            case StartRunner():
                self._start(instruction)
            case _:
                assert_never(instruction)

    def _start(self, start: StartRunner) -> None:
        assert self._group is not None
        if self._options.runners:
            process = self._process(start, self._tell)
            self.runners[start.runner] = process
            self._group.create_task(self._run_process(process), name=start.name)
        else:
            local = self._local(start)
            self.runners[start.runner] = local
            self._group.create_task(self._run_local(local), name=start.name)

    async def _run_process(self, runner: ProcessRunner) -> None:
        try:
            try:
                reason = await runner.run()
            except OSError as error:
                reason = f"the runner could not be started: {error}"
            self._tell(RunnerEnded(runner.id, runner.begun(), reason))
        finally:
            del self.runners[runner.id]
            self._forget(runner)

    def _forget(self, runner: ProcessRunner) -> None:
        runner.close()
        if self.metrics is not None:
            self.metrics.ended(runner.variables)

    async def _run_local(self, runner: LocalRunner) -> None:
        try:
            reason = await runner.run()
            self._tell(RunnerEnded(runner.id, runner.begun(), reason))
        finally:
            del self.runners[runner.id]

    def _process(self, start: StartRunner, tell: Callable[[Event], None]) -> ProcessRunner:
        return ProcessRunner(
            start,
            self._setup(start),
            tell,
            self._count,
            warden=self._warden,
            lock_descriptor=self.lock_descriptor,
            outputs=self._outputs,
            variables=self.metrics.begin() if self.metrics is not None else {},
            interpreter=Interpreter.of(start.environment) if start.environment else OWN,
        )

    def _local(self, start: StartRunner) -> LocalRunner:
        return LocalRunner(
            start,
            self._tell,
            self._count,
            worker=self._options.name,
            selection=self._options.selection,
            functions=self._options.functions,
            trace_parent=self._options.trace_parent,
            log_failures=self._options.log_failures,
            encryption=self._options.encryption,
        )

    def _setup(self, start: StartRunner) -> messages.Setup:
        selection = msgspec.structs.replace(self._options.selection, only=start.only)
        if start.environment:
            # Modules, functions and the built-in handler are those of the worker's own environment.
            selection = msgspec.structs.replace(selection, imports=(), references=(), built_in=False)
        return messages.Setup(
            worker=self._options.name,
            slots=start.slots,
            spare=start.spare,
            selection=selection,
            sys_path=() if start.environment else tuple(sys.path),
            log_format=self._options.log_format,
            log_level=self._options.log_level,
            log_failures=self._options.log_failures,
            trace_parent=self._options.trace_parent,
            encryption=self._options.encryption,
            offered=self._offered.get(start.environment, {}),
            describes=not start.alone,
        )
