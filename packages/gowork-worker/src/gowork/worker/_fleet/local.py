"""A runner within this process (runners=0), for notebooks, tests and programs that run their handlers themselves.

Nothing can be killed here. A handler in a thread that ignores its token runs until it returns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.context import Place
from gowork.worker._core.encryption_options import EncryptionOptions
from gowork.worker._core.redefinitions import Redefinitions
from gowork.worker._core.selection import Selection
from gowork.worker._desk.events import Event, Progressed, Reported, RunnerGone, RunnerReady, RunnerSaid
from gowork.worker._desk.instructions import StartRunner
from gowork.worker._runner import forks, messages
from gowork.worker._runner.columns import pack
from gowork.worker._runner.completion import AttemptReport
from gowork.worker._runner.exceptions import type_name
from gowork.worker._runner.executor import Executor
from gowork.worker._runner.main import encrypting_of, load, ready_of
from gowork.worker._runner.outbox import Outbox
from gowork.worker._runner.table import SlotTable

logger = logging.getLogger("gowork.worker.runner")


class LocalRunner:
    """Runs handlers in this process. Await `run`, which lasts until a Stop message."""

    def __init__(
        self,
        start: StartRunner,
        tell: Callable[[Event], None],
        count: Callable[[messages.Executed], None],
        *,
        worker: str,
        selection: Selection,
        functions: Iterable[Callable[..., Any]],
        trace_parent: bool = False,
        log_failures: str = "traceback",
        encryption: EncryptionOptions | None = None,
    ) -> None:
        """Args:
        start: the desk's instruction to start it.
        tell: takes its events.
        count: takes what it has counted.
        worker: the worker's name.
        selection: which plugins are loaded.
        functions: handlers and lifespans besides those of plugins.
        trace_parent: whether attempts are traced as children of what scheduled them.
        log_failures: how much the log tells of a failed attempt.
        encryption: how payloads are decrypted; None where they are not.
        """
        self.id = start.runner
        self.name = start.name
        self._tell = tell
        self._count = count
        self._worker = worker
        self._selection = selection
        self._functions = tuple(functions)
        self._trace_parent = trace_parent
        self._log_failures = log_failures
        self._encryption = encryption or EncryptionOptions()
        self._table = SlotTable.private(start.slots, start.spare)
        self._executor: Executor | None = None
        #: How many Slots have come.
        self._slots_heard = 0
        self._stopped = asyncio.Event()
        #: The asyncio task in which it runs, until it is ready.
        self._starting: asyncio.Task[Any] | None = None

    async def run(self) -> str:
        """Runs until it is stopped, and returns how it ended, in words."""
        forks.watch()
        self._starting = asyncio.current_task()
        place = Place(self._worker, trace_parent=self._trace_parent, log_failures=self._log_failures)
        outbox = Outbox(self._send_work, self._count)
        async with AsyncExitStack() as stack:
            loaded = await load(stack, self._selection, place.state, self._functions)
            self._executor = Executor(
                loaded,
                place,
                self._table,
                outbox,
                self._say_stopping,
                self._say_withheld,
                self._say_waiting,
                self._say_broken,
                encrypting_of(self._worker, self._encryption),
                newest=Redefinitions().newest,
            )
            self._starting = None
            self._tell(RunnerReady(self.id, ready_of(loaded, encrypts=bool(self._encryption))))
            try:
                await self._stopped.wait()
            finally:
                # Also when the program cancels this worker: running attempts are told so, and awaited.
                self._tell(RunnerGone(self.id))
                self._executor.close()
                await self._executor.finished()
            outbox.flush()
            outbox.flush_executed()
        return "the runner was stopped"

    @property
    def pid(self) -> int | None:
        return None

    def start_tasks(self, grants: Sequence[session.Grant]) -> None:
        assert self._executor is not None
        self._executor.feed(grants)

    def cancel_tasks(self, fences: Sequence[int]) -> None:
        assert self._executor is not None
        self._executor.cancel(fences, "the task was cancelled")

    def send(self, message: messages.Control) -> None:
        executor = self._executor
        assert executor is not None
        match message:
            case messages.Slots(slots):
                self._slots_heard += 1
                executor.set_slots(slots)
            case messages.Recall():
                self._tell(RunnerSaid(self.id, messages.Returned(executor.recall())))
            case messages.Lease(valid):
                executor.set_lease(valid)
            case messages.Interrupt(reason):
                executor.interrupt(reason)
            case messages.Stop():
                self._stopped.set()

    def ping(self) -> None:
        # A runner process looks after its attempts when it is pinged, so this one does too. Nobody waits for an answer.
        if self._executor is not None:
            self._executor.look_after()

    def end(self, fault: str) -> None:
        # Attempts cannot be ended here. A lifespan that has not started the runner yet can be.
        if self._starting is not None:
            self._starting.cancel("the worker was stopped before it was ready")

    @property
    def ticks(self) -> int:
        return self._table.ticks

    def running(self) -> list[messages.Running]:
        return self._table.running()

    def begun(self) -> set[int]:
        return self._table.begun()

    def _send_work(self, attempts: list[AttemptReport], size: int, progress: list[session.ProgressReport]) -> None:
        if attempts:
            reports, columns = pack(attempts)
            self._tell(Reported(self.id, reports, size, () if columns is None else (columns,)))
        if progress:
            self._tell(Progressed(progress))

    def _say_stopping(self, fence: int, grace_ms: int, kind: messages.StopKind) -> None:
        self._tell(RunnerSaid(self.id, messages.Stopping(fence, grace_ms, kind)))

    def _say_broken(self, error: BaseException) -> None:
        # It cannot be ended without the program around it, so it goes on as well as it can.
        logger.error("an exception broke off the runner's own work", extra={"reason": type_name(error)})

    def _say_withheld(self, slots: int) -> None:
        self._tell(RunnerSaid(self.id, messages.Withheld(slots, self._slots_heard)))

    def _say_waiting(self, attempts: int) -> None:
        self._tell(RunnerSaid(self.id, messages.Waiting(attempts)))
