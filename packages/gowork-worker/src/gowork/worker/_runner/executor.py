"""Runs granted tasks: plain handlers in threads, async ones on the loop, never more at once than there are slots.

Threads take their tasks from one queue themselves and hand their reports to one outbox, which the loop empties when
it gets to it. So a flood of short tasks costs no wake-up for each, and while little is going on each report leaves at
once.

Invariants: a task is in `_held` until it has its report. It is in `_queued` until somebody has taken it out, who
decides what becomes of it: a thread that starts it, or the loop that starts, cancels or returns it. A task runs only
while it holds a slot. Whatever reaches a thread or an asyncio task outside of a handler ends that alone: its task is
reported, its slot goes back.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Iterable
from operator import itemgetter
from queue import Empty, SimpleQueue

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.context import Place
from gowork.worker._core.plugins import Loaded
from gowork.worker._runner import endings, forks, outcomes
from gowork.worker._runner.attempt import Attempts
from gowork.worker._runner.attempt_task import AttemptTask
from gowork.worker._runner.clock import Clock
from gowork.worker._runner.exceptions import type_name
from gowork.worker._runner.hands import Hand
from gowork.worker._runner.job import Job
from gowork.worker._runner.lending import Lending
from gowork.worker._runner.messages import StopKind
from gowork.worker._runner.outbox import Outbox
from gowork.worker._runner.table import SlotTable

logger = logging.getLogger("gowork.worker.runner")

_parse_task = tasks.Task.FromString
#: The slot of attempts that run on the loop.
_SLOT = itemgetter(1)
#: Exceptions in a row, in the code of threads or in that of the loop, after which a runner goes on no more. What a
#: handler has done to it would befall every task.
STRIKES_MAX = 3
#: Why a task is lost though its runner goes on.
_STRUCK = "an exception reached the code of the runner that ran it, from outside of its handler"


class Executor:
    """Everything that a runner holds. All methods are called on the loop, except those that say otherwise.

    "Owner" tells below which threads write a field. What several write is a list, dict or queue, of which each is
    changed by single operations that the interpreter does not divide.
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
        """
        self._loop = asyncio.get_running_loop()
        self._generation = forks.generation
        #: The context in which async handlers begin. The end of one often starts the next, whose context must be fresh.
        self._context = contextvars.copy_context()
        self._handlers = loaded.handlers
        self._default = loaded.default
        self._attempts = Attempts(place, loaded.hooks, outbox.progress)
        self._place = place
        self._table = table
        self._outbox = outbox
        self._stopping = stopping
        self._tell_withheld = withheld
        self._tell_waiting = waiting
        self._broken = broken
        #: fence -> job: all without a report. Owner: the loop adds; whoever runs the job, or returns it, takes it out.
        self._held: dict[int, Job] = {}
        #: fence -> job: those of them that have not started, in the order of arrival. Owner: the loop adds; it and the
        #: threads take out, one of them each.
        self._queued: dict[int, Job] = {}
        #: What threads are to run. Jobs that were taken out of _queued meanwhile are skipped. Owner: the loop puts,
        #: threads get.
        self._for_threads: SimpleQueue[Job | None] = SimpleQueue()
        #: What the loop is to run. Owner: the loop.
        self._for_loop: deque[Job] = deque()
        #: What runs on the loop, and in which slot. Owner: the loop.
        self._on_loop: dict[AttemptTask, tuple[Job, int]] = {}
        #: The threads. Owner: the loop.
        self._hands: list[Hand] = []
        self._hands_made = 0
        #: How many of them have been told to end, because there are more than slots, and have not yet. Owner: the loop.
        self._hands_ending = 0
        #: Exceptions in a row in the runner's own code. Owner: threads, which may write over each other; the loop.
        self._thread_strikes = self._loop_strikes = 0
        #: Owner: the loop.
        self._closed = False
        self._slots = table.slots
        #: Whose slots are lent to others.
        self._lending = place.lender = Lending(table.spare, self._held, self._lending_changed)
        #: What was told of them last, and whether it is about to be told. Owner: the loop.
        self._waiting_told = 0
        self._waiting_due = False
        #: Slots that may be taken, by thread or loop. Owner: both.
        self._free = list(range(table.slots))
        #: Slots that the loop alone may give away, because somebody waits for one. Owner: both add, the loop takes.
        self._handed: deque[int] = deque()
        #: Threads that hold a job and wait for a slot. Owner: the loop.
        self._starving: deque[Hand] = deque()
        #: The spare ones, and those that set_slots has taken out of use. Owner: the loop.
        self._withheld: list[int] = list(range(table.slots, table.rows))
        #: What was told last; -1 while set_slots has not taken effect. Owner: the loop.
        self._withheld_told = 0
        #: Whose turn it is when threads and the loop both wait. Owner: the loop.
        self._threads_next = False
        #: Whether freed slots must go through the loop. Owner: the loop; threads look after each slot that they free.
        self._contended = False

    def feed(self, grants: Iterable[session.Grant]) -> None:
        """Takes tasks to run."""
        for_threads = 0
        for grant in grants:
            try:
                task = _parse_task(grant.task)
            except Exception as error:  # noqa: BLE001 - protobuf's DecodeError, from a broken store or peer
                self._reject(grant, tasks.Task(), f"the task cannot be read: {error}")
                continue
            handler = self._handlers.get(task.handler) if task.handler else self._default
            if handler is None:
                name = repr(task.handler) if task.handler else "for tasks that name none"
                self._reject(grant, task, f"this worker has no handler {name}")
                continue
            job = Job(grant, task, handler)
            self._held[job.fence] = self._queued[job.fence] = job
            if handler.is_async:
                self._for_loop.append(job)
            else:
                self._for_threads.put(job)
                for_threads += 1
        if for_threads and self._hands_missing > 0:
            # Not in here: a thread begins while its start is waited for, and what its handler sends to this one would
            # break off the taking of tasks in the middle.
            self._loop.call_soon(self._start_threads, for_threads)
        if self._for_loop:
            self._pump()

    def _reject(self, grant: session.Grant, task: tasks.Task, reason: str) -> None:
        report = outcomes.rejected(grant.fence, grant.id, reason)
        self._attempts.failures.note(grant, task, "", None, report)
        self._outbox.add(report, None)

    def cancel(self, fences: Iterable[int], reason: str) -> None:
        """Asks these tasks to stop, and reports those that had not started as cancelled."""
        for fence in fences:
            queued = self._take_back(fence)
            if queued is not None:
                self._outbox.add(endings.cancelled(fence, queued.id, reason), None)
                continue
            self._stop(self._held.get(fence), StopKind.CANCEL, reason)

    def interrupt(self, reason: str) -> None:
        """Hands everything back: jobs that have not started at once, and running ones when they have stopped."""
        for fence in list(self._queued):
            queued = self._take_back(fence)
            if queued is not None:
                self._outbox.add(endings.interrupted(fence, queued.id, reason), None)
        for job in list(self._held.values()):
            self._stop(job, StopKind.INTERRUPT, reason)

    def recall(self) -> tuple[int, ...]:
        """Gives up the jobs that have not started, and answers their fences. They will have no reports."""
        return tuple(fence for fence in list(self._queued) if self._take_back(fence) is not None)

    def set_lease(self, valid: bool) -> None:
        """Notes whether the worker is in touch with its leader; stops the handlers that asked for it when it is not."""
        self._place.lease_valid = valid
        if not valid:
            for job in list(self._held.values()):
                if job.handler.options.stop_on_lease_lost and job.fence not in self._queued:
                    self._stop(job, StopKind.INTERRUPT, "the worker lost its leader for longer than the lease")

    def set_slots(self, slots: int) -> None:
        """Runs at most `slots` tasks from now on, 0 to the slots of the table, besides those that wait for others."""
        self._slots = slots
        self._withheld_told = -1
        self._pump()

    @property
    def idle(self) -> bool:
        """Whether nothing is held."""
        return not self._held

    def look_after(self) -> None:
        """Settles jobs that were left without an owner. To be called about once a second.

        Usually there is nothing: a thread that dies says so itself, and an asyncio task settles its own job. But an
        exception that is sent from outside may strike in the middle of that.
        """
        for hand in [hand for hand in self._hands if not hand.thread.is_alive()]:
            self._replace(hand)
        for task in [task for task in self._on_loop if task.done()]:
            if not task.cancelled() and (error := task.exception()) is not None:
                self._loop_strikes += 1
                self._struck(error, self._loop_strikes)
            self._settle(task, None)
        if not self._closed:
            self._start_threads(self._for_threads.qsize())
        self._lending.look_after()
        if self._waiting_told != len(self._lending.lent):
            self._say_waiting()
        self._outbox.look_after()
        self._attempts.failures.look_after()
        self._pump()

    def close(self) -> None:
        """Stops what still runs, and lets idle threads end. Threads stuck in a handler end with the process."""
        self._closed = True
        self.interrupt("the runner was stopped")
        for _ in self._hands:
            self._for_threads.put(None)

    async def finished(self) -> None:
        """Waits for the end of all that runs on the loop."""
        while self._on_loop:
            await asyncio.wait(list(self._on_loop))
            self.look_after()

    def _take_back(self, fence: int) -> Job | None:
        """Takes out a job that has not started; None when it has."""
        job = self._queued.pop(fence, None)
        if job is not None:
            del self._held[fence]
        return job

    def _stop(self, job: Job | None, kind: StopKind, reason: str) -> None:
        if job is not None and job.stop is None:
            job.ask_to_stop(kind, reason)
            self._stopping(job.fence, job.handler.options.grace_ms, kind)

    # Slots

    def _pump(self) -> None:
        """Gives free slots to attempts that wait for one, or withholds them."""
        try:
            self._hand_out_slots()
        except BaseException as error:  # noqa: BLE001 - also what is sent to this thread by others
            self._broken(error)

    def _hand_out_slots(self) -> None:
        self._contended = True
        excess = self._table.rows - self._slots - len(self._lending.lent) - len(self._withheld)
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
                self._starving.popleft().slots_given.put(slot)
            else:
                self._free.append(slot)
                break
        if self._withheld_told < 0 and excess == 0:
            self._withheld_told = self._table.slots - self._slots
            self._tell_withheld(self._withheld_told)
        self._contended = bool(excess > 0 or self._starving or self._for_loop)
        if not self._contended:
            # One by one: a thread that saw the contention may add a slot meanwhile, which a clear() would lose.
            while self._handed:
                self._free.append(self._handed.popleft())

    def _lending_changed(self) -> None:
        """Gives a slot away for each that is lent, or withholds the next one that becomes free."""
        self._pump()
        if not self._closed:
            self._start_threads(self._for_threads.qsize())
            for _ in range(-self._hands_missing):
                # More threads than slots would all wait for them, and each slot would go through the loop.
                self._hands_ending += 1
                self._for_threads.put(None)
        if not self._waiting_due:
            self._waiting_due = True
            self._loop.call_soon(self._say_waiting)

    def _say_waiting(self) -> None:
        self._waiting_due = False
        self._waiting_told = len(self._lending.lent)
        self._tell_waiting(self._waiting_told)

    def _take_slot(self) -> int | None:
        try:
            return self._handed.popleft() if self._handed else self._free.pop()
        except IndexError:
            return None

    def _release(self, hand: Hand, has_waited: bool) -> None:
        """Frees the slot of a thread. Called by that thread.

        Args:
            hand: the thread.
            has_waited: its job has waited for others, and may have lent this slot to one that still runs. The loop
                hears of the job's end first, and then withholds the slot.
        """
        if self._contended or has_waited:
            hand.give_slot(self._handed.extend)
            self._loop.call_soon_threadsafe(self._pump)
            return
        hand.give_slot(self._free.extend)
        if self._contended:
            # Somebody began to wait between the two looks, and may have missed this slot.
            self._loop.call_soon_threadsafe(self._pump)

    # Threads

    @property
    def _hands_missing(self) -> int:
        """How many more threads there may be; negative when there are too many."""
        return self._table.slots + len(self._lending.lent) - len(self._hands) + self._hands_ending

    def _start_threads(self, waiting: int) -> None:
        for _ in range(min(self._hands_missing, waiting)):
            hand = Hand(self._hands_made, self._thread)
            self._hands_made += 1
            # Noted before it starts, so that it is known even if something fails meanwhile.
            self._hands.append(hand)
            try:
                hand.thread.start()
            except RuntimeError as error:
                self._hands.remove(hand)
                # The system gives no more threads. Those that are there do the work, with as many tasks at once.
                if not self._hands:
                    self._broken(error)
                logger.warning("a thread could not be started", extra={"reason": str(error)})
                return

    def _thread(self, hand: Hand) -> None:
        """What a thread does, from its start to its end."""
        try:
            self._work(hand)
        except BaseException as error:  # noqa: BLE001 - nobody is above it: the loop settles what it held
            self._thread_strikes += 1
            self._struck(error, self._thread_strikes)
        finally:
            try:
                self._loop.call_soon_threadsafe(self._replace, hand)
            except RuntimeError:
                pass  # The loop is closed: the runner has ended.

    def _work(self, hand: Hand) -> None:
        get, queued = self._for_threads.get, self._queued
        while (job := get()) is not None:
            self._await_slot(hand)
            # As long as there is more to do the slot is kept: to give it up and take it again costs as much as all
            # else that a thread does for a short task.
            while True:
                has_waited = False
                if hand.claim(queued, job.fence):
                    slot = hand.slots[0]
                    hand.report = report = self._attempts.run(self._begin(job, slot))
                    has_waited = self._finish(job, slot, report)
                    self._thread_strikes = 0
                    # In this order: without a job its report means nothing.
                    hand.jobs.clear()
                    hand.report = None
                if self._contended or has_waited:
                    break
                try:
                    job = get(False)
                except Empty:
                    break
                if job is None:
                    break
            self._release(hand, has_waited)
            if job is None:
                break
        hand.is_over = True

    def _await_slot(self, hand: Hand) -> None:
        try:
            hand.take_slot(self._free.pop)
        except IndexError:
            self._loop.call_soon_threadsafe(self._starve, hand)
            hand.await_slot()

    def _starve(self, hand: Hand) -> None:
        if hand in self._hands:
            self._starving.append(hand)
            self._pump()

    def _replace(self, hand: Hand) -> None:
        """Settles the job of a thread that has died, and starts another thread."""
        if hand not in self._hands:
            return
        try:
            self._settle_hand(hand)
            if not self._closed:
                self._start_threads(1)
        except BaseException as error:  # noqa: BLE001 - also what is sent to this thread by others
            self._broken(error)

    def _settle_hand(self, hand: Hand) -> None:
        self._hands.remove(hand)
        if hand.is_over and self._hands_ending:
            self._hands_ending -= 1
        if hand in self._starving:
            self._starving.remove(hand)
        slots = hand.slots_left()
        for job in hand.jobs:
            if hand.report is not None or self._held.get(job.fence) is job:
                self._finish(job, slots[0], hand.report or self._lose(job))
        if not hand.is_over:
            self._put_again()
        self._handed.extend(slots)
        self._pump()

    def _put_again(self) -> None:
        """Puts again what a thread may have got from the queue when it died, and did not come to claim.

        What is there twice does no harm: one thread claims it. A thread too many that ends is started again.
        """
        for job in list(self._queued.values()):
            if not job.handler.is_async:
                self._for_threads.put(job)
        if self._hands_ending:
            self._for_threads.put(None)

    def _lose(self, job: Job) -> session.Report:
        report = endings.lost(job.fence, job.id, _STRUCK)
        self._attempts.note(job, report)
        return report

    def _struck(self, error: BaseException, strikes: int) -> None:
        logger.error("an exception reached a runner's own code", extra={"reason": type_name(error)})
        if strikes >= STRIKES_MAX:
            self._broken(error)

    # The loop

    def _start_on_loop(self, job: Job, slot: int) -> None:
        if self._queued.pop(job.fence, None) is None:
            self._handed.append(slot)
            return
        context = self._begin(job, slot).context
        assert context is not None
        task = AttemptTask(
            self._run_on_loop(job), context, loop=self._loop, name=f"task {job.id}", context=self._context.copy()
        )
        self._on_loop[task] = job, slot

    async def _run_on_loop(self, job: Job) -> None:
        report: session.Report | None = None
        task = asyncio.current_task()
        assert isinstance(task, AttemptTask)
        # Only now: a task that is cancelled before its first step would never come here to settle its job.
        job.future = task
        try:
            report = await self._attempts.run_async(job)
            self._loop_strikes = 0
        except BaseException as error:  # noqa: BLE001 - it reached this task from outside of the handler
            self._loop_strikes += 1
            self._struck(error, self._loop_strikes)
        finally:
            self._settle(task, report)

    def _settle(self, task: AttemptTask, report: session.Report | None) -> None:
        """Ends a job that ran in an asyncio task.

        Args:
            task: what it ran in.
            report: how it ended; None when the task ended in another way than by its handler.
        """
        job, slot = self._on_loop[task]
        if self._lending.noted:
            # Before its slot is free: one that it has lent is withheld then.
            self._lending.drop(job.fence)
        self._finish(job, slot, report or self._lose(job))
        # In one step, as in Hand: an exception that is sent to this thread comes before it or after it.
        self._handed.extend(map(_SLOT, map(self._on_loop.pop, (task,))))
        self._pump()

    # Both

    def _begin(self, job: Job, slot: int) -> Job:
        # First all that belongs to the job, then those who look at it: the loop, and the supervisor at the table.
        job.started_ns = started = Clock.monotonic_ns()
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

    def _finish(self, job: Job, slot: int, report: session.Report) -> bool:
        """Reports a job that has run.

        Returns:
            Whether the loop has yet to hear that it does not wait for others any more.
        """
        if forks.generation != self._generation:
            # The handler has forked, and this is the child: its parent reports.
            forks.leave(0 if report.outcome == tasks.ATTEMPT_OUTCOME_COMPLETED else 1)
        report.execution_us = (Clock.monotonic_ns() - job.started_ns) // 1000
        self._held.pop(job.fence, None)
        self._table.end(slot, job.fence)
        has_waited = bool(self._lending.noted) and job.fence in self._lending.noted
        if has_waited:
            self._lending.attempt_ended(job.fence)
        if job.limit_ms:
            # Whether there is a timer is the loop's to know: it hears of the start and of the end in their order.
            self._loop.call_soon_threadsafe(self._end_limit, job)
        self._outbox.add(report, job)
        return has_waited

    def _limit(self, job: Job) -> None:
        if self._held.get(job.fence) is job:
            passed = (Clock.monotonic_ns() - job.started_ns) / 1e9
            job.timer = self._loop.call_later(max(0.0, job.limit_ms / 1000 - passed), self._time_out, job)

    def _time_out(self, job: Job) -> None:
        job.timer = None
        if self._held.get(job.fence) is job:
            self._stop(job, StopKind.TIMEOUT, f"the time limit of {job.limit_ms / 1000:g} s ran out")

    @staticmethod
    def _end_limit(job: Job) -> None:
        if job.timer is not None:
            job.timer.cancel()
            job.timer = None
