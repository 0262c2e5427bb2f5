"""Runs granted tasks: plain handlers in threads, async ones on the loop, never more at once than there are slots.

Threads take their tasks from one queue themselves and hand their reports to one outbox, which the loop empties when
it gets to it. So a flood of short tasks costs no wake-up for each, and while little is going on each report leaves at
once.

Invariants: a task is in `_queued` or in `_running`, and whoever takes it out of `_queued` (a thread that starts it,
the loop that cancels or returns it) decides what becomes of it; a task runs only while it holds a slot.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from queue import SimpleQueue

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.context import Place
from gowork.worker._core.plugins import Loaded
from gowork.worker._runner import forks, outcomes
from gowork.worker._runner.attempt import Attempts
from gowork.worker._runner.job import Job
from gowork.worker._runner.messages import StopKind
from gowork.worker._runner.outbox import Outbox
from gowork.worker._runner.table import SlotTable

_parse_task = tasks.Task.FromString


class Executor:
    """Everything that a runner holds. All methods are called on the loop, save those that say otherwise."""

    def __init__(
        self,
        loaded: Loaded,
        place: Place,
        table: SlotTable,
        outbox: Outbox,
        group: asyncio.TaskGroup,
        stopping: Callable[[int, int, StopKind], None],
        withheld: Callable[[int], None],
    ) -> None:
        """Args:
        loaded: the handlers.
        place: what all contexts share.
        table: where starts and ends are noted; its size is the number of slots.
        outbox: takes reports and progress.
        group: owns the asyncio tasks of async handlers.
        stopping: told the fence and the grace in milliseconds of each task that was asked to stop, and why.
        withheld: told how many slots are out of use, when set_slots has taken effect.
        """
        self._loop = asyncio.get_running_loop()
        self._generation = forks.generation
        #: What async handlers begin with. Often the end of one starts the next, which must not find what it has set.
        self._context = contextvars.copy_context()
        self._handlers = loaded.handlers
        self._default = loaded.default
        self._attempts = Attempts(place, loaded.hooks, outbox.progress)
        self._place = place
        self._table = table
        self._outbox = outbox
        self._group = group
        self._stopping = stopping
        self._tell_withheld = withheld
        #: fence -> job, in the order of arrival
        self._queued: dict[int, Job] = {}
        self._running: dict[int, Job] = {}
        #: What threads are to run. Jobs that were taken out of _queued meanwhile are skipped.
        self._for_threads: SimpleQueue[Job | None] = SimpleQueue()
        #: What the loop is to run.
        self._for_loop: deque[Job] = deque()
        self._threads: list[threading.Thread] = []
        self._slots = table.slots
        #: Slots that may be taken, by thread or loop.
        self._free = list(range(table.slots))
        #: Slots that the loop alone may give away, because somebody waits for one.
        self._handed: deque[int] = deque()
        #: Threads that hold a job and wait for a slot, and where they get it.
        self._starving = 0
        self._slots_for_threads: SimpleQueue[int] = SimpleQueue()
        self._withheld: list[int] = []
        #: What was told last; -1 while set_slots has not taken effect.
        self._withheld_told = 0
        #: Whose turn it is when threads and the loop both wait.
        self._threads_next = False
        #: Whether freed slots must go through the loop.
        self._contended = False

    def feed(self, grants: Iterable[session.Grant]) -> None:
        """Takes tasks to run."""
        for_threads = 0
        for grant in grants:
            try:
                task = _parse_task(grant.task)
            except Exception as error:  # noqa: BLE001 - protobuf's DecodeError, from a broken store or peer
                self._outbox.add(outcomes.rejected(grant.fence, grant.id, f"the task cannot be read: {error}"), None)
                continue
            handler = self._handlers.get(task.handler) if task.handler else self._default
            if handler is None:
                name = repr(task.handler) if task.handler else "for tasks that name none"
                self._outbox.add(outcomes.rejected(grant.fence, grant.id, f"this worker has no handler {name}"), None)
                continue
            job = Job(grant, task, handler)
            self._queued[job.fence] = job
            if handler.is_async:
                self._for_loop.append(job)
            else:
                self._for_threads.put(job)
                for_threads += 1
        if for_threads:
            self._start_threads(for_threads)
        if self._for_loop:
            self._pump()

    def cancel(self, fences: Iterable[int], reason: str) -> None:
        """Asks these tasks to stop, and reports those that had not started as cancelled."""
        for fence in fences:
            queued = self._queued.pop(fence, None)
            if queued is not None:
                self._outbox.add(outcomes.cancelled(fence, queued.id, reason), None)
                continue
            self._stop(self._running.get(fence), StopKind.CANCEL, reason)

    def interrupt(self, reason: str) -> None:
        """Hands everything back: what has not started at once, what runs once it has stopped."""
        for fence in list(self._queued):
            job = self._queued.pop(fence, None)
            if job is not None:
                self._outbox.add(outcomes.interrupted(fence, job.id, reason), None)
        for job in list(self._running.values()):
            self._stop(job, StopKind.INTERRUPT, reason)

    def recall(self) -> tuple[int, ...]:
        """Gives up what has not started, and answers its fences. There will be no reports of it."""
        return tuple(fence for fence in list(self._queued) if self._queued.pop(fence, None) is not None)

    def set_lease(self, valid: bool) -> None:
        """Notes whether the worker is in touch with its leader; stops the handlers that asked for it when it is not."""
        self._place.lease_valid = valid
        if not valid:
            for job in list(self._running.values()):
                if job.handler.options.stop_on_lease_lost:
                    self._stop(job, StopKind.INTERRUPT, "the worker lost its leader for longer than the lease")

    def set_slots(self, slots: int) -> None:
        """Runs at most so many from now on, 0 to the size of the table."""
        self._slots = slots
        self._withheld_told = -1
        self._pump()

    @property
    def idle(self) -> bool:
        """Whether nothing is held."""
        return not self._queued and not self._running

    def close(self) -> None:
        """Stops what still runs, and lets idle threads end. Threads stuck in a handler end with the process."""
        self.interrupt("the runner was stopped")
        for _ in self._threads:
            self._for_threads.put(None)

    def _stop(self, job: Job | None, kind: StopKind, reason: str) -> None:
        if job is not None and job.stop is None:
            job.ask_to_stop(kind, reason)
            self._stopping(job.fence, job.handler.options.grace_ms, kind)

    # Slots

    def _pump(self) -> None:
        """Gives free slots to whoever waits, or withholds them."""
        self._contended = True
        excess = self._table.slots - self._slots - len(self._withheld)
        while excess < 0:
            self._handed.append(self._withheld.pop())
            excess += 1
        while True:
            slot = self._take_slot()
            if slot is None:
                break
            if excess > 0:
                self._withheld.append(slot)
                excess -= 1
            elif self._for_loop and not (self._starving and self._threads_next):
                self._threads_next = True
                self._start_on_loop(self._for_loop.popleft(), slot)
            elif self._starving:
                self._threads_next = False
                self._starving -= 1
                self._slots_for_threads.put(slot)
            else:
                self._free.append(slot)
                break
        if self._withheld_told < 0 and excess == 0:
            self._withheld_told = len(self._withheld)
            self._tell_withheld(self._withheld_told)
        self._contended = bool(excess > 0 or self._starving or self._for_loop)
        if not self._contended:
            # One by one: a thread that saw the contention may add a slot meanwhile, which a clear() would lose.
            while self._handed:
                self._free.append(self._handed.popleft())

    def _take_slot(self) -> int | None:
        try:
            return self._handed.popleft() if self._handed else self._free.pop()
        except IndexError:
            return None

    def _release(self, slot: int) -> None:
        """Frees a slot. Called by threads too."""
        if self._contended:
            self._handed.append(slot)
            self._loop.call_soon_threadsafe(self._pump)
            return
        self._free.append(slot)
        if self._contended:
            # Somebody began to wait between the two looks, and may have missed this slot.
            self._loop.call_soon_threadsafe(self._pump)

    # Threads

    def _start_threads(self, waiting: int) -> None:
        for _ in range(min(self._table.slots - len(self._threads), waiting)):
            # Daemons: a handler that never returns must not keep a stopped runner alive.
            thread = threading.Thread(target=self._work, name=f"gowork-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        get, free = self._for_threads.get, self._free
        while (job := get()) is not None:
            try:
                slot = free.pop()
            except IndexError:
                slot = self._loop_gives_slot()
            if self._claim(job):
                report = self._attempts.run(self._begin(job, slot))
                self._finish(job, slot, report)
            self._release(slot)

    def _loop_gives_slot(self) -> int:
        self._loop.call_soon_threadsafe(self._starve)
        return self._slots_for_threads.get()

    def _starve(self) -> None:
        self._starving += 1
        self._pump()

    # The loop

    def _start_on_loop(self, job: Job, slot: int) -> None:
        if not self._claim(job):
            self._handed.append(slot)
            return
        self._begin(job, slot)
        self._group.create_task(self._run_on_loop(job, slot), name=f"task {job.id}", context=self._context.copy())

    async def _run_on_loop(self, job: Job, slot: int) -> None:
        report = outcomes.interrupted(job.fence, job.id, "the runner was stopped")
        # Only now: a task that is cancelled before its first step would never come here to give its slot back.
        job.future = asyncio.current_task()
        try:
            report = await self._attempts.run_async(job)
        finally:
            self._finish(job, slot, report)
            self._handed.append(slot)
            self._pump()

    # Both

    def _claim(self, job: Job) -> bool:
        # In _running before it leaves _queued, so that a cancel finds it in one of them.
        self._running[job.fence] = job
        if self._queued.pop(job.fence, None) is not None:
            return True
        del self._running[job.fence]
        return False

    def _begin(self, job: Job, slot: int) -> Job:
        # First all that belongs to the job, then those who look at it: the loop, and the supervisor at the table.
        job.started_ns = started = time.monotonic_ns()
        job.context = self._attempts.context_of(job)
        if job.stop is not None:
            # It was asked to stop between being claimed and being given its context.
            job.context.cancelled.set(job.stop.reason)
        kill_at = 0
        if job.limit_ms:
            kill_at = started + (job.limit_ms + job.handler.options.grace_ms) * 1_000_000
            self._loop.call_soon_threadsafe(self._limit, job)
        self._table.start(slot, job.fence, started, kill_at)
        return job

    def _finish(self, job: Job, slot: int, report: session.Report) -> None:
        if forks.generation != self._generation:
            # The handler has forked, and this is the child: its parent reports.
            forks.leave(0 if report.outcome == tasks.ATTEMPT_OUTCOME_COMPLETED else 1)
        report.execution_us = (time.monotonic_ns() - job.started_ns) // 1000
        self._running.pop(job.fence, None)
        self._table.end(slot)
        if job.limit_ms:
            # Whether there is a timer is the loop's to know: it hears of the start and of the end in their order.
            self._loop.call_soon_threadsafe(self._end_limit, job)
        self._outbox.add(report, job)

    def _limit(self, job: Job) -> None:
        if self._running.get(job.fence) is job:
            passed = (time.monotonic_ns() - job.started_ns) / 1e9
            job.timer = self._loop.call_later(max(0.0, job.limit_ms / 1000 - passed), self._time_out, job)

    def _time_out(self, job: Job) -> None:
        job.timer = None
        if self._running.get(job.fence) is job:
            self._stop(job, StopKind.TIMEOUT, f"the time limit of {job.limit_ms / 1000:g} s ran out")

    @staticmethod
    def _end_limit(job: Job) -> None:
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None
