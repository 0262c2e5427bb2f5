"""One run of a handler: the worker's executor with a slot and a task, on a loop of its own in a thread of its own.

It decides nothing about the attempt: the executor and what it is made of do, and the desk's `settle_dead` where a
handler does not stop within its grace. What is not the worker's is the clock, where threads come from, the token (whose
waits go by the clock), and what is noted for the test.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, cast

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.calls import Handler
from gowork.worker._core.context import Place
from gowork.worker._core.logs import running
from gowork.worker._core.plugins import IN_CODE, Loaded
from gowork.worker._core.selection import Selection
from gowork.worker._desk.settlement import settle_dead
from gowork.worker._desk.tasks import HeldTask
from gowork.worker._runner import forks
from gowork.worker._runner.completion import AttemptReport, Completion
from gowork.worker._runner.executor import Executor
from gowork.worker._runner.job import Job
from gowork.worker._runner.main import load, run_to_the_end, until
from gowork.worker._runner.messages import StopKind
from gowork.worker._runner.outbox import Outbox
from gowork.worker._runner.table import SlotTable
from gowork.worker.errors import HandlerDefinitionError
from gowork.worker.testing._clock import FakeClock, FakeLoop, clock_type
from gowork.worker.testing._faults import Fault, FaultKind, Trigger
from gowork.worker.testing._handlers_thread import HandlersThread, place_of
from gowork.worker.testing._hearing import Hearing
from gowork.worker.testing._noting import NotingAttempts, Token
from gowork.worker.testing._outcome import Notes, Outcome, outcome_of

#: What a runner says to tasks that its leader cancels, and a worker to those that it hands back.
_CANCELLED = "the task was cancelled"
_DRAINED = "the worker stopped before it had finished"
#: How often a coroutine that swallows its cancellation is cancelled again, before it is left.
_CANCELS_MAX = 100
#: From this number of looks on, a handler that does not end probably waits for its time limit by looking.
_LOOKS_MANY = 1000
#: Parts of the names of threads that wake loops by sockets, which the loop watches, or not at all.
_HARMLESS = ("_poll_wrapper", "gowork-")
#: From that number of looks at a set token on, each one moves the clock by this number of seconds, so that the grace of
#: a handler comes to its end that goes on looking and does not stop.
_DEAF_SECONDS = 0.01


class HandlerStuck(AssertionError):
    """A handler did not end within the patience of its run, in seconds of real time."""


class Killed(BaseException):
    """Ends a handler whose process a worker would have ended."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run, and how."""

    #: The handler, or the name of one among what is loaded.
    handler: Callable[..., Any] | str
    task: tasks.Task
    grant: session.Grant
    selection: Selection
    functions: tuple[Callable[..., Any], ...]
    place: Place
    clock: FakeClock
    faults: Sequence[Fault]
    #: In seconds of real time.
    patience: float
    #: Whether the handler is run though something else of what is loaded can't be used, as a worker does.
    is_lenient: bool = False


class Bench:
    """One run. `start` it, and `work` in the thread that is to run a plain handler; `outcome` is known when both end.

    "The loop" is the run's own. Fields are changed there only, except where it says otherwise.
    """

    def __init__(self, plan: Plan, *, own_thread: bool) -> None:
        """Args:
        plan: what is run.
        own_thread: whether a plain handler runs in a thread of its own. Else it runs in the one that calls `work`.
        """
        self._plan = plan
        self._own_thread = own_thread
        self._clock = plan.clock
        #: Both are made by `start`.
        self._loop: FakeLoop
        self._known_threads: set[threading.Thread]
        self._executor: Executor | None = None
        self._notes = Notes()
        #: What `work` is to call, then None.
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        #: Done when all of the run has ended.
        self.done: concurrent.futures.Future[Outcome] = concurrent.futures.Future()
        self.done.set_running_or_notify_cancel()
        #: Set by whoever runs the job, before its handler is called.
        self._job: Job | None = None
        self._began = 0.0
        self._report: session.Report | None = None
        self._reported = asyncio.Event()
        #: The threads that run the handler: none, or one.
        self._threads: list[HandlersThread] = []
        self._thread_ended = asyncio.Event()
        #: Idents of the threads of this run.
        self._idents: set[int] = set()
        #: Whether a plain handler runs.
        self._runs_plain = False
        #: {what a wait of a thread ends with: its timer, or None}
        self._waits: dict[threading.Event, asyncio.TimerHandle | None] = {}
        #: {trigger: how often it was there}. Changed by whoever runs the job.
        self._counts = {Trigger.PROGRESS: 0, Trigger.CHECK: 0}
        #: How many looks found the token set.
        self._looks_set = 0
        #: Whether the handler must not go on: its process would have been ended, or the patience is over.
        self._over = False
        self._stuck: HandlerStuck | None = None
        self._watchdog = threading.Timer(plan.patience, self._lose_patience)
        self._watchdog.daemon = True
        self._thread = threading.Thread(target=self._run_loop, name="gowork-test-loop", daemon=True)

    def start(self) -> None:
        """Starts the run.

        Raises:
            RuntimeError: when its clock is used by another run.
        """
        self._clock._enter(self._advance)  # noqa: SLF001 - they are one thing
        self._loop = FakeLoop(self._clock)
        self._loop.has_strangers = self._has_strangers
        self._known_threads = {threading.main_thread(), threading.current_thread(), self._thread, self._watchdog}
        self._thread.start()
        self._watchdog.start()

    def work(self) -> None:
        """Runs a plain handler in this thread, and returns when the run has ended."""
        while (call := self._calls.get()) is not None:
            call()

    def outcome(self) -> Outcome:
        """Returns the outcome of a run that has ended. Nothing of it is left then, unless it was stuck.

        Raises:
            HandlerStuck: it was.
            Exception: whatever its lifespans have raised, and what says that there is no such handler.
        """
        if self._stuck is None:
            self._thread.join()
            self._watchdog.join()
        return self.done.result()

    def abort(self) -> None:
        """Has the run end, because nobody waits for it any more."""
        self._call(self._give_up)

    def _run_loop(self) -> None:
        contextvars.Context().run(self._run_to_the_end)

    def _run_to_the_end(self) -> None:
        self._idents.add(threading.get_ident())
        outcome: Outcome | BaseException
        try:
            outcome = run_to_the_end(self._loop, self._main(), lambda: True, lambda: None)
        except BaseException as error:  # noqa: BLE001 - whoever waits for the outcome gets it
            outcome = error
        try:
            self._close_loop()
        except BaseException as error:  # noqa: BLE001 - as above
            outcome = error
        self._watchdog.cancel()
        self._clock._leave()  # noqa: SLF001 - they are one thing
        self._settle(self._stuck or outcome)

    async def _main(self) -> Outcome:
        plan = self._plan
        forks.watch()
        async with AsyncExitStack() as stack:
            loaded = await load(stack, plan.selection, plan.place.state, plan.functions)
            handler = _chosen(plan.handler, loaded, is_lenient=plan.is_lenient)
            plan.task.handler = handler.name
            plan.grant.task = plan.task.SerializeToString()
            executor = self._executor = Executor(
                loaded,
                plan.place,
                SlotTable.private(1),
                Outbox(self._take, lambda _: None),
                self._stopping,
                lambda _: None,
                lambda _: None,
                self._broken,
                clock=clock_type(self._clock),
                thread=cast("Callable[..., threading.Thread]", self._make_thread),
                attempts=partial(NotingAttempts, self),
            )
            with Hearing(self._notes.logs, self._is_own):
                executor.feed([plan.grant])
                await until(self._reported)
            await self._finish(executor)
        assert self._report is not None
        job = self._job or Job(plan.grant, plan.task, handler)
        return outcome_of(job, self._report, self._notes)

    async def _finish(self, executor: Executor) -> None:
        executor.close()
        for _ in range(_CANCELS_MAX):
            left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            if not left:
                break
            for task in left:
                # Of the attempt's own task, or of one that the handler has left behind.
                asyncio.Task.cancel(task)
            await asyncio.wait(left, timeout=1.0)
        if self._threads:
            await self._thread_ended.wait()

    def _close_loop(self) -> None:
        loop = self._loop
        loop.is_closing = True
        for task in asyncio.all_tasks(loop):
            # It swallows every cancellation, so its coroutine is closed where it stands. The loop never runs it again.
            task._log_destroy_pending = False  # type: ignore[attr-defined] # noqa: SLF001 - no public name says it
            with suppress(RuntimeError):
                cast("Coroutine[Any, Any, Any]", task.get_coro()).close()
        try:
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close_pool()
            loop.close()

    def _settle(self, outcome: Outcome | BaseException) -> None:
        """Gives the outcome to those that wait for it, once. Called from any thread."""
        with suppress(concurrent.futures.InvalidStateError):
            if isinstance(outcome, BaseException):
                self.done.set_exception(outcome)
            else:
                self.done.set_result(outcome)
        self._calls.put(None)

    # What the executor tells.

    def _take(self, reports: list[AttemptReport], size: int, progress: list[session.ProgressReport]) -> None:
        for report in reports:
            self._ended(report.message() if isinstance(report, Completion) else report)

    def _ended(self, report: session.Report) -> None:
        if self._report is None:
            self._report = report
            self._runs_plain = False
            self._hold()
            self._loop.is_reported = True
            self._reported.set()

    def _stopping(self, fence: int, grace_ms: int, kind: StopKind) -> None:
        self._loop.call_later(grace_ms / 1000, self._end_grace, kind)

    def _end_grace(self, kind: StopKind) -> None:
        """Does what the worker does with a task that has not stopped: its process is ended, and the desk reports it."""
        if self._report is not None:
            return
        held = HeldTask(self._plan.grant)
        held.stop_kind = kind
        (report,) = settle_dead([held], {held.fence}, "", on_purpose=True, ran_one_by_one=True)
        report.execution_us = round((self._clock.now - self._began) * 1e6)
        self._notes.was_killed = True
        self._over = True
        self._ended(report)
        self.wake()

    def _broken(self, error: BaseException) -> None:
        self._settle(error)

    # What the handler does.

    def begins(self, job: Job) -> None:
        """A job is about to start. Called by whoever runs it."""
        self._job = job
        self._began = self._clock.now
        self._idents.add(threading.get_ident())
        self._call(self._begun)

    def _begun(self) -> None:
        assert self._job is not None
        self._runs_plain = not self._job.handler.is_async
        self._hold()
        for fault in self._plan.faults:
            if fault.trigger is Trigger.SECONDS:
                self._loop.call_later(fault.at, self._apply, fault)
            elif fault.switch is not None:
                fault.switch._connect(partial(self._call_and_wait, partial(self._apply, fault)))  # noqa: SLF001 - as above

    def progressed(
        self, send: Callable[[int, str, float, str], None], fence: int, id: str, fraction: float, message: str
    ) -> None:
        """The handler has told how far it is."""
        self._look_alive()
        self._notes.progressed(fraction, message, self._clock.now - self._began)
        send(fence, id, fraction, message)
        self._count(Trigger.PROGRESS)

    def checked(self, token: Token) -> None:
        """The handler is about to look at its token."""
        self._look_alive()
        self._looks_set += token.is_set
        seconds = _DEAF_SECONDS if self._looks_set > _LOOKS_MANY else self._clock.check_seconds
        if seconds:
            self._advance(seconds)
        self._count(Trigger.CHECK)
        self._look_alive()

    def wait(self, token: Token, timeout: float | None) -> None:
        """The handler waits until its token is set, at most `timeout` seconds of the clock."""
        if self._is_on_loop():
            # As in a worker, whose loop stands still meanwhile.
            self._loop.move(timeout or 0.0)
            return
        woken = threading.Event()
        self._call(self._begin_wait, token, timeout, woken)
        woken.wait()
        self._look_alive()

    def failed(self, error: BaseException) -> None:
        """The handler has raised."""
        if not isinstance(error, Killed):
            self._notes.error = error

    def reported(self, report: session.Report) -> session.Report:
        """Returns the report that counts: this one, unless the process was ended."""
        return self._report if self._notes.was_killed and self._report is not None else report

    def _begin_wait(self, token: Token, timeout: float | None, woken: threading.Event) -> None:
        if token.is_set or self._over:
            woken.set()
            return
        self._waits[woken] = None
        if timeout is not None:
            self._waits[woken] = self._loop.call_later(max(0.0, timeout), self._end_wait, woken)
        self._hold()

    def _end_wait(self, woken: threading.Event) -> None:
        timer = self._waits.pop(woken, None)
        if timer is not None:
            timer.cancel()
        # First this, so that the clock stands still when the thread goes on.
        self._hold()
        woken.set()

    def wake(self) -> None:
        """Ends all waits, because the token is set."""
        self._call(self._end_waits)

    def _end_waits(self) -> None:
        for woken in list(self._waits):
            self._end_wait(woken)

    def _hold(self) -> None:
        self._loop.held = self._runs_plain and not self._waits

    def _look_alive(self) -> None:
        if self._over:
            raise Killed

    def _count(self, trigger: Trigger) -> None:
        self._counts[trigger] += 1
        for fault in self._plan.faults:
            if fault.trigger is trigger and fault.at == self._counts[trigger]:
                self._call_and_wait(partial(self._apply, fault))

    def _apply(self, fault: Fault) -> None:
        executor = self._executor
        assert executor is not None
        match fault.kind:
            case FaultKind.CANCEL:
                executor.cancel([self._plan.grant.fence], _CANCELLED)
            case FaultKind.DRAIN:
                executor.interrupt(_DRAINED)
            case FaultKind.LOSE_LEASE:
                executor.set_lease(False)
            case FaultKind.REGAIN_LEASE:
                executor.set_lease(True)

    def _is_own(self, record: Any) -> bool:
        """Whether a log record is about this attempt. It is asked in the thread that logs."""
        if self._job is None:
            return False
        context = running.get()
        if context is not None:
            return context is self._job.context
        grant = self._plan.grant
        names_it = getattr(record, "fence", None) == grant.fence and getattr(record, "task_id", None) == grant.id
        return names_it and threading.get_ident() in self._idents

    # The clock, and calls to the loop from other threads.

    def _advance(self, seconds: float) -> None:
        """Moves the clock. Called from any thread."""
        if self._is_on_loop():
            self._loop.move(seconds)
            return
        passed = threading.Event()

        def settle(turns: int) -> None:
            if turns:
                self._loop.call_soon(settle, turns - 1)
            else:
                passed.set()

        def move() -> None:
            self._loop.move(seconds)
            # One turn finds the timers that are due, one runs them, and one runs what they have begun.
            settle(3)

        self._call(move)
        self._await(passed)

    def _call_and_wait(self, call: Callable[[], None]) -> None:
        if self._is_on_loop():
            call()
            return
        done = threading.Event()

        def carry_out() -> None:
            try:
                call()
            finally:
                done.set()

        self._call(carry_out)
        self._await(done)

    def _await(self, event: threading.Event) -> None:
        while not event.wait(0.1) and not self._loop.is_closed():
            pass

    def _call(self, call: Callable[..., None], *args: Any) -> None:
        """Has the loop call something, at once if this is its thread."""
        if self._is_on_loop():
            call(*args)
            return
        with suppress(RuntimeError):
            # A thread that the handler has left behind goes on after the end.
            self._loop.call_soon_threadsafe(call, *args)

    def _is_on_loop(self) -> bool:
        # Not get_running_loop: the test's own loop may run in this thread.
        return asyncio._get_running_loop() is self._loop  # noqa: SLF001 - the public one raises without a loop

    def _has_strangers(self) -> bool:
        if self._runs_plain:
            # It waits by its context, which only this loop ends.
            return False
        strangers = {thread.name for thread in threading.enumerate() if thread not in self._known_threads}
        return any(not any(name in stranger for name in _HARMLESS) for stranger in strangers)

    def _make_thread(self, **options: Any) -> HandlersThread:
        thread = HandlersThread(self._calls if not self._own_thread else None, self._end_thread, **options)
        self._threads.append(thread)
        return thread

    def _end_thread(self) -> None:
        self._call(self._thread_ended.set)

    # The end of patience.

    def _lose_patience(self) -> None:
        """Ends the run, in the watchdog's thread."""
        if self._report is not None:
            return
        self._stuck = HandlerStuck(self._what_is_stuck())
        self._over = True
        self._call(self._give_up)
        if self._own_thread or not self._threads:
            # Else the handler is in the thread that waits, and nothing can be done before it looks at its context.
            self._settle(self._stuck)

    def _give_up(self) -> None:
        self._over = True
        if self._executor is not None:
            self._executor.interrupt("the run was given up")
        self._end_waits()
        if self._report is None:
            self._ended(session.Report(fence=self._plan.grant.fence, id=self._plan.grant.id))

    def _what_is_stuck(self) -> str:
        name = self._plan.task.handler or self._plan.handler
        told = f"handler {name!r} did not end within {self._plan.patience:g} s of real time"
        if self._job is None:
            return f"{told}: it was not ready; its imports or lifespans take so long"
        told += f", at {self._clock.now - self._began:g} s of its clock{place_of(self._job, self._idents)}"
        if self._counts[Trigger.CHECK] >= _LOOKS_MANY:
            return (
                f"{told}. It looks at ctx.cancelled again and again without waiting, so its clock stands still: give "
                "clock=FakeClock(check_seconds=0.001), or have what it calls advance the clock"
            )
        return f"{told}. What it waits for does not come: give a time_limit or faults=[cancel(after=…)]"


def _chosen(wanted: Callable[..., Any] | str, loaded: Loaded, *, is_lenient: bool) -> Handler:
    """Returns the handler to run; when `is_lenient`, also where something else can't be used.

    Raises:
        HandlerDefinitionError: when there is none, or what was given cannot be one.
        PluginError: when a module cannot be loaded.
    """
    if isinstance(wanted, str):
        found = loaded.handlers.get(wanted)
    else:
        found = next((each for each in loaded.handlers.values() if each.function is wanted), None)
    if found is None or not is_lenient:
        for error in loaded.errors:
            raise HandlerDefinitionError(error.reason) if error.plugin == IN_CODE else error
    if found is None:
        names = ", ".join(sorted(loaded.handlers)) or "none"
        raise HandlerDefinitionError(f"there is no handler {wanted!r}; loaded are: {names}")
    return found
