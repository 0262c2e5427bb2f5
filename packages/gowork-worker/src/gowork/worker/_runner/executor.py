"""Runs granted tasks: plain handlers in threads, async ones on the loop, never more at once than there are slots.

Who does what: `Jobs` knows what is held and what has started, `Slots` gives the slots, `Threads` runs plain handlers.
Async handlers run here. Whatever reaches an asyncio task outside of a handler ends that alone: its task is reported,
its slot goes back.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterable
from operator import itemgetter

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.calls import Handler
from gowork.worker._core.context import Place
from gowork.worker._core.plugins import Loaded
from gowork.worker._runner import endings, outcomes
from gowork.worker._runner.attempt import Attempts
from gowork.worker._runner.attempt_task import AttemptTask
from gowork.worker._runner.clock import Clock
from gowork.worker._runner.completion import AttemptReport
from gowork.worker._runner.encrypting import Encrypting
from gowork.worker._runner.job import Job
from gowork.worker._runner.jobs import Jobs
from gowork.worker._runner.lending import Lending
from gowork.worker._runner.messages import StopKind
from gowork.worker._runner.outbox import Outbox
from gowork.worker._runner.slots import Slots
from gowork.worker._runner.strikes import Strikes
from gowork.worker._runner.table import SlotTable
from gowork.worker._runner.threads import Threads

_parse_task = tasks.Task.FromString
#: The slot of attempts that run on the loop.
_SLOT = itemgetter(1)


class Executor:
    """Everything that a runner holds. All methods are called on the loop.

    In here and in what it is made of, "owner" tells which threads write a field. What several write is a list, dict or
    queue, of which each is changed by single operations that the interpreter does not divide.
    """

    def __init__(
        self,
        loaded: Loaded,
        place: Place,
        table: SlotTable,
        outbox: Outbox,
        stopping: Callable[[int, int, StopKind], None],
        withheld: Callable[[int], None],
        waiting: Callable[[int], None],
        broken: Callable[[BaseException], None],
        encrypting: Encrypting | None = None,
        *,
        newest: Callable[[Handler], Handler] | None = None,
        clock: type[Clock] = Clock,
        thread: Callable[..., threading.Thread] = threading.Thread,
        attempts: Callable[..., Attempts] = Attempts,
        context: contextvars.Context | None = None,
    ) -> None:
        """Args:
        loaded: the handlers.
        place: what all contexts share.
        table: where starts and ends are noted; it says how many slots there are, and how many to spare.
        outbox: takes reports and progress.
        stopping: told the fence and the grace in milliseconds of each task that was asked to stop, and why.
        withheld: told how many slots are out of use, when set_slots has taken effect.
        waiting: told how many attempts wait for other tasks and lend their slots, after that has changed.
        broken: called when something was raised in the middle of the bookkeeping of slots, which can't be trusted
            from then on.
        encrypting: decrypts payloads; None where the worker has no keys.
        newest: returns what is run in a handler's place; None: handlers stay what they are.
        clock: counts how long attempts take. This and the next two are others only where a handler is tested.
        thread: makes a thread for plain handlers.
        attempts: makes what runs an attempt.
        context: the one in which async handlers begin; None for that of the caller.
        """
        self._loop = asyncio.get_running_loop()
        #: The context in which async handlers begin. The end of one often starts the next, whose context must be fresh.
        self._context = contextvars.copy_context() if context is None else context
        self._handlers = loaded.handlers
        self._default = loaded.default
        self._refused = loaded.refused
        self._newest = newest
        self._place = place
        self._outbox = outbox
        self._tell_waiting = waiting
        held: dict[int, Job] = {}
        self._attempts = attempts(place, loaded.hooks, outbox.progress, encrypting)
        self._lending = place.lender = Lending(table.spare, held, self._lending_changed)
        place.keep_checkpoint = outbox.checkpoint
        place.is_after_crash = lambda fence: (job := held.get(fence)) is not None and job.grant.alone
        self._jobs = Jobs(held, self._attempts, table, outbox, self._lending, stopping, clock)
        self._slots = Slots(table, self._lending, self._start_on_loop, withheld, broken)
        self._threads = Threads(table.slots, self._jobs, self._attempts, self._slots, self._lending, broken, thread)
        #: What runs on the loop, and in which slot.
        self._on_loop: dict[AttemptTask, tuple[Job, int]] = {}
        self._strikes = Strikes(broken)
        #: How many lent slots were told of last, and whether they are about to be told.
        self._waiting_told = 0
        self._waiting_due = False

    def feed(self, grants: Iterable[session.Grant]) -> None:
        """Takes tasks to run."""
        jobs, for_threads = self._jobs, 0
        for grant in grants:
            try:
                task = _parse_task(grant.task)
            except Exception as error:  # noqa: BLE001 - protobuf's DecodeError, from a broken store or peer
                self._reject(grant, tasks.Task(), f"the task cannot be read: {error}")
                continue
            handler = self._handlers.get(task.handler) if task.handler else self._default
            if handler is None and (reason := self._refused.get(task.handler)):
                # Another worker may have it, or another runner of this one.
                self._outbox.add(endings.interrupted(grant.fence, grant.id, reason, not_started=True), None)
                continue
            if handler is None:
                name = repr(task.handler) if task.handler else "for tasks that name none"
                self._reject(grant, task, f"this worker has no handler {name}")
                continue
            if self._newest is not None:
                handler = self._newest(handler)
            job = Job(grant, task, handler)
            jobs.held[job.fence] = jobs.queued[job.fence] = job
            if handler.is_async:
                self._slots.for_loop.append(job)
            else:
                self._threads.queue.put(job)
                for_threads += 1
        if for_threads and self._threads.missing > 0:
            # Not in here: a thread begins while its start is waited for, and what its handler sends to this one would
            # break off the taking of tasks in the middle.
            self._loop.call_soon(self._threads.start, for_threads)
        if self._slots.for_loop:
            self._slots.pump()

    def _reject(self, grant: session.Grant, task: tasks.Task, reason: str) -> None:
        report = outcomes.rejected(grant.fence, grant.id, reason)
        self._attempts.failures.note(grant, task, "", None, report)
        self._outbox.add(report, None)

    def cancel(self, fences: Iterable[int], reason: str) -> None:
        """Asks these tasks to stop, and reports those that had not started as cancelled."""
        for fence in fences:
            queued = self._jobs.take_back(fence)
            if queued is not None:
                self._outbox.add(endings.cancelled(fence, queued.id, reason), None)
                continue
            self._jobs.stop(self._jobs.held.get(fence), StopKind.CANCEL, reason)

    def interrupt(self, reason: str) -> None:
        """Hands everything back: jobs that have not started at once, and running ones when they have stopped."""
        for fence in list(self._jobs.queued):
            queued = self._jobs.take_back(fence)
            if queued is not None:
                self._outbox.add(endings.interrupted(fence, queued.id, reason, not_started=True), None)
        for job in list(self._jobs.held.values()):
            self._jobs.stop(job, StopKind.INTERRUPT, reason)

    def recall(self) -> tuple[int, ...]:
        """Gives up the jobs that have not started, and answers their fences. They will have no reports."""
        return tuple(fence for fence in list(self._jobs.queued) if self._jobs.take_back(fence) is not None)

    def set_lease(self, valid: bool) -> None:
        """Notes whether the worker is in touch with its leader; stops the handlers that asked for it when it is not."""
        self._place.lease_valid = valid
        if not valid:
            for job in list(self._jobs.held.values()):
                if job.handler.options.stop_on_lease_lost and job.fence not in self._jobs.queued:
                    self._jobs.stop(job, StopKind.INTERRUPT, "the worker lost its leader for longer than the lease")

    def set_slots(self, slots: int) -> None:
        """Runs at most `slots` tasks from now on, 0 to the slots of the table, besides those that wait for others."""
        self._slots.limit(slots)

    @property
    def idle(self) -> bool:
        """Whether nothing is held."""
        return not self._jobs.held

    def running(self) -> dict[int, str]:
        """Returns {fence: handler} of the attempts that have started and not ended."""
        queued = self._jobs.queued
        return {fence: job.handler.name for fence, job in list(self._jobs.held.items()) if fence not in queued}

    def look_after(self) -> None:
        """Settles jobs that were left without an owner. To be called about once a second.

        Usually there is nothing: a thread that dies says so itself, and an asyncio task settles its own job. But an
        exception that is sent from outside may strike in the middle of that.
        """
        self._threads.look_after()
        for task in [task for task in self._on_loop if task.done()]:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._strikes.note(error)
            self._settle(task, None)
        self._lending.look_after()
        if self._waiting_told != len(self._lending.lent):
            self._say_waiting()
        self._outbox.look_after()
        self._attempts.failures.look_after()
        self._slots.pump()

    def close(self) -> None:
        """Stops what still runs, and lets idle threads end. Threads stuck in a handler end with the process."""
        self._threads.close()
        self.interrupt("the runner was stopped")

    async def finished(self) -> None:
        """Waits for the end of all that runs on the loop."""
        while self._on_loop:
            await asyncio.wait(list(self._on_loop))
            self.look_after()

    def _lending_changed(self) -> None:
        """Gives a slot away for each that is lent, or withholds the next one that becomes free."""
        self._slots.pump()
        self._threads.adjust()
        if not self._waiting_due:
            self._waiting_due = True
            self._loop.call_soon(self._say_waiting)

    def _say_waiting(self) -> None:
        self._waiting_due = False
        self._waiting_told = len(self._lending.lent)
        self._tell_waiting(self._waiting_told)

    def _start_on_loop(self, job: Job, slot: int) -> None:
        if self._jobs.queued.pop(job.fence, None) is None:
            self._slots.handed.append(slot)
            return
        context = self._jobs.begin(job, slot).context
        assert context is not None
        task = AttemptTask(
            self._run_on_loop(job), context, loop=self._loop, name=f"task {job.id}", context=self._context.copy()
        )
        self._on_loop[task] = job, slot

    async def _run_on_loop(self, job: Job) -> None:
        report: AttemptReport | None = None
        task = asyncio.current_task()
        assert isinstance(task, AttemptTask)
        # Only now: a task that is cancelled before its first step would never come here to settle its job.
        job.future = task
        try:
            report = await self._attempts.run_async(job)
            self._strikes.in_a_row = 0
        except BaseException as error:  # noqa: BLE001 - it reached this task from outside of the handler
            self._strikes.note(error)
        finally:
            self._settle(task, report)

    def _settle(self, task: AttemptTask, report: AttemptReport | None) -> None:
        """Ends a job that ran in an asyncio task.

        Args:
            task: what it ran in.
            report: how it ended; None when the task ended in another way than by its handler.
        """
        job, slot = self._on_loop[task]
        if self._lending.noted:
            # Before its slot is free: one that it has lent is withheld then.
            self._lending.drop(job.fence)
        self._jobs.finish(job, slot, report or self._jobs.lose(job))
        # In one step, as in Hand: an exception that is sent to this thread comes before it or after it.
        self._slots.handed.extend(map(_SLOT, map(self._on_loop.pop, (task,))))
        self._slots.pump()
