"""The supervisor: hands granted tasks to runners and keeps what came of them until the leader knows.

It imports no plugin and runs no handler, so that nothing a handler does keeps it from answering the leader. It is one
object on one loop; the session above feeds it with what the leader sent and takes from it what there is to send.

Invariants: every granted task is held until there is a report of it, and every report is kept until it is
acknowledged; nothing of a fence is reported twice; a released fence is never reported.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections.abc import Callable, Iterable
from functools import partial

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.next_frame import NextFrame
from gowork.worker._runner import messages, outcomes
from gowork.worker._runner.failure_log import Detail, FailureLog
from gowork.worker._runner.messages import StopKind
from gowork.worker._runner.next_steps import next_step
from gowork.worker._supervisor.event_log import EventLog
from gowork.worker._supervisor.fleet import Fleet
from gowork.worker._supervisor.held import Held, listed
from gowork.worker._supervisor.instances import InstanceLocks
from gowork.worker._supervisor.measures import Measures
from gowork.worker._supervisor.options import Options
from gowork.worker._supervisor.runner import Runner
from gowork.worker._supervisor.settlement import settle_dead
from gowork.worker._supervisor.sharing import share_out
from gowork.worker._supervisor.watch import IDLE_INTERVAL, INTERVAL, Watch

logger = logging.getLogger("gowork.worker")

#: Seconds that runners have to stop what they are told to interrupt, before they are ended; and then to be gone.
_INTERRUPT_GRACE = 1.0
#: How many fences, and how many handlers, one line of the log names.
_FENCES_LOGGED_MAX = 20
_HANDLERS_LOGGED_MAX = 50


class Supervisor:
    """Await `run`; meanwhile a session calls the rest."""

    def __init__(self, options: Options) -> None:
        self.options = options
        #: A random id of this process.
        self.instance = secrets.token_hex(8)
        self._locks: InstanceLocks | None = None
        #: Predecessors that the leader is being told of.
        self._ended: list[str] = []
        self.measures = Measures()
        #: Set whenever there may be something to send.
        self.wake = asyncio.Event()
        #: Set once the handlers are known.
        self.ready = asyncio.Event()
        #: What the first runner that was ready has told.
        self.handlers: messages.Ready = messages.Ready((), "", ())
        self.draining = False
        #: Called when the leader asks the worker to drain, with the budget in seconds; None leaves that to the worker.
        self.asked_to_drain: Callable[[float | None], None] = lambda budget: None
        #: fence -> task without a report
        self._held: dict[int, Held] = {}
        self._next_frame = NextFrame()
        #: Set while nothing is held.
        self._idle = asyncio.Event()
        self._idle.set()
        #: Set while no report waits for an acknowledgement.
        self._all_acknowledged = asyncio.Event()
        self._all_acknowledged.set()
        #: Granted while no runner was ready.
        self._backlog: list[Held] = []
        self.fleet = Fleet(options, self, self.measures)
        self._events = EventLog()
        self._watch = Watch(self.fleet, self.wake.set, self._events)
        self._failures = FailureLog(Detail(options.log_failures))
        self._isolated: frozenset[str] = frozenset()
        #: handler -> the plugins that it needs
        self._needed: dict[str, tuple[str, ...]] = {}
        self._grace_max = 5.0
        self._paused = False
        #: See cut_off.
        self.is_cut_off = False
        self._lease_valid = True

    # Life

    async def run(self) -> None:
        """Runs the runners until `close`."""
        loop = asyncio.get_running_loop()
        self._lock()
        try:
            async with asyncio.TaskGroup() as group:
                fleet = group.create_task(self.fleet.run(), name="fleet")
                while not fleet.done():
                    self._look(loop.time())
                    await asyncio.wait([fleet], timeout=INTERVAL if self._held else IDLE_INTERVAL)
        finally:
            # Threads of this process (runners=0) may run on: then only its end proves anything.
            if self._locks is not None and (self.options.runners or self.has_left):
                self._locks.close(left=self.has_left)

    def _look(self, now: float) -> None:
        self._watch.look(now, recall=not self._paused)
        self._events.look_after()
        self._failures.look_after()

    def _lock(self) -> None:
        if self.options.state_dir is None:
            return
        try:
            self._locks = InstanceLocks(self.options.state_dir, self.options.name, self.instance)
        except OSError as error:
            reason = "no state is kept: a restart after a crash has to wait for the lease"
            logger.warning(reason, extra={"state_dir": str(self.options.state_dir), "reason": str(error)})
        else:
            self.fleet.lock_descriptor = self._locks.descriptor

    async def finish(self) -> None:
        """Takes nothing new, hands back what has not started, and waits for what runs."""
        self._hand_back_waiting("the worker drains")
        self.fleet.tell(messages.Recall())
        await self._idle.wait()

    def waited_for(self, most: int) -> tuple[int, list[str]]:
        """How many tasks are held, and the first of them in words."""
        named = []
        for held in itertools.islice(self._held.values(), most):
            name = tasks.Task.FromString(held.grant.task).handler or self.handlers.default_handler
            named.append(f"{held.id} ({name})")
        return len(self._held), named

    async def hand_back(self, reason: str) -> None:
        """Stops whatever still runs, and reports it as interrupted."""
        self._hand_back_waiting(reason)
        self.fleet.tell(messages.Interrupt(reason))
        if await _within(self._idle, _INTERRUPT_GRACE):
            return
        # From here on no runner is started again.
        self.fleet.closing = True
        for runner in self.fleet.every():
            if runner.tasks:
                runner.kill()
        if not await _within(self._idle, _INTERRUPT_GRACE):
            # Without processes (runners=0) threads cannot be ended; the leader must know all the same.
            self._report_all([outcomes.interrupted(held.fence, held.id, reason) for held in self._held.values()])

    async def leave(self, budget: float) -> None:
        """Waits at most `budget` seconds for the leader to acknowledge all reports, and says goodbye."""
        await _within(self._all_acknowledged, budget)
        self._next_frame.leaving = True
        self.wake.set()

    async def close(self) -> None:
        """Ends the runners, and so `run`."""
        await self.fleet.close()

    # The session

    def hello_held(self) -> list[session.Held]:
        """All that is held, for Hello."""
        running = {row.fence for runner in self.fleet.every() for row in runner.running()}
        return listed(self._held.values(), running, self._next_frame.unacknowledged)

    def hello_ended(self) -> list[str]:
        """Predecessors that are proven to have ended, for Hello."""
        self._ended = self._locks.ended() if self._locks is not None else []
        return self._ended

    def start_session(self, first: session.ConnectResponse | None = None) -> None:
        """A leader has welcomed the worker: everything is to be said again.

        Args:
            first: its first frame. What it releases is taken back before anything is started again.
        """
        if self._locks is not None:
            self._locks.forget(self._ended)
        self._next_frame.start_session()
        if first is not None:
            self.receive(first)
        if not self._lease_valid:
            self._lease_valid = True
            self.fleet.tell(messages.Lease(True))
        self.is_cut_off = False
        self._set_paused()
        self.wake.set()

    def cut_off(self) -> None:
        """The stream has been broken for longer than the leader waits: what has not started may be another's by now.

        What runs goes on. Nothing new is started until the next session.
        """
        self.is_cut_off = True
        self._set_paused()

    def lose_lease(self) -> None:
        """The leader has not been heard for longer than the lease: what runs may be another's by now too."""
        if self._lease_valid:
            self._lease_valid = False
            self.fleet.tell(messages.Lease(False))
            self._set_paused()

    def receive(self, response: session.ConnectResponse) -> None:
        """Takes what the leader sent."""
        if response.acknowledged:
            self._acknowledge(response.acknowledged)
            if self._paused:
                self._set_paused()
            if response.refused:
                logger.warning(
                    "reports refused: their tasks are another's by now",
                    extra={"reports": len(response.refused), "fences": list(response.refused[:_FENCES_LOGGED_MAX])},
                )
        if response.grants:
            self._grant(response.grants)
        if response.cancelled:
            self._cancel([held for fence in response.cancelled if (held := self._held.get(fence)) is not None])
        if response.released:
            self._release(response.released)
        if response.pings:
            self._next_frame.answer(response.pings)
        if response.drains:
            # Last, so that grants of the same frame are not started just to be taken for running ones.
            budget_ms = response.drains[-1].budget_ms
            self.asked_to_drain(budget_ms / 1000 if budget_ms else None)
        self.wake.set()

    def take(self, bytes_max: int) -> session.ConnectRequest | None:
        """The next frame for the leader; None when there is nothing to say."""
        wanted = not (self.draining or self._paused)
        # Not the worker's slots: a runner that is still being started can start nothing, nor can one that is blocked.
        slots = sum(runner.capacity for runner in self.fleet.answering()) if wanted else 0
        if slots:
            slots += self.fleet.solo.waiting
        # Isolated ones block nobody but themselves.
        blocked = [runner for runner in self.fleet.ordinary if runner.is_blocked]
        held = len(self._held) - sum(len(runner.tasks) for runner in blocked)
        request = self._next_frame.take(
            bytes_max, held=held, slots=slots, blocked=bool(blocked), draining=self.draining
        )
        if self._next_frame.unacknowledged.has_unsent:
            self.wake.set()
        return request

    def slots(self) -> dict[str, int]:
        """All slots by what they do; see Fleet. May be asked from any thread."""
        return self.fleet.slots(withheld=self.draining or self._paused)

    @property
    def unacknowledged(self) -> int:
        """How many reports the leader has not acknowledged."""
        return len(self._next_frame.unacknowledged)

    @property
    def has_left(self) -> bool:
        """Whether the goodbye was taken."""
        return self._next_frame.has_left

    # Tasks

    def _grant(self, grants: Iterable[session.Grant]) -> None:
        now = asyncio.get_running_loop().time()
        new = [Held(grant) for grant in grants]
        self._next_frame.credit.granted(len(new), now)
        if self.draining:
            self._report_all([outcomes.interrupted(held.fence, held.id, "the worker drains") for held in new])
            return
        for held in new:
            self._held[held.fence] = held
        self._idle.clear()
        self._start(new, now)

    def _start(self, new: list[Held], now: float) -> None:
        """Shares tasks out among the runners."""
        # To those that are blocked only where there are no others: there tasks wait, and are not lost.
        ready = self.fleet.answering() or self.fleet.ready()
        if not ready:
            self._backlog += new
            return
        ordinary = [held for held in new if not self._is_isolated(held)]
        for runner, part in share_out(ordinary, ready):
            runner.start_tasks(part, now)
        if len(ordinary) < len(new):
            self.fleet.solo.pump(now)

    def _is_isolated(self, held: Held) -> bool:
        """Whether it must be alone; then it is queued for that."""
        alone = held.grant.alone and self.options.runners > 0
        if alone or self._isolated:
            # Only now: reading every task would cost the supervisor more than all else that it does with one.
            name = tasks.Task.FromString(held.grant.task).handler or self.handlers.default_handler
            alone = alone or name in self._isolated
            if alone:
                held.only = self._needed.get(name)
                self.fleet.solo.put(held)
        return alone

    def _cancel(self, wanted: list[Held]) -> None:
        deadline = asyncio.get_running_loop().time() + self._grace_max + 1.0
        by_runner: dict[Runner, list[int]] = {}
        for held in wanted:
            held.stop_kind = StopKind.CANCEL
            if held.runner is not None:
                by_runner.setdefault(held.runner, []).append(held.fence)
                self._watch.stopping[held.fence] = held
                # In case its runner is too stuck to say how much time it gives.
                held.kill_at = deadline
            elif held in self._backlog or self.fleet.solo.take_back(held):
                if held in self._backlog:
                    self._backlog.remove(held)
                self._report(outcomes.cancelled(held.fence, held.id, "the task was cancelled"))
        for runner, fences in by_runner.items():
            runner.send_cancel(fences)

    def _acknowledge(self, fences: Iterable[int]) -> None:
        self._next_frame.acknowledge(fences)
        if not self._next_frame.unacknowledged:
            self._all_acknowledged.set()

    def _release(self, fences: Iterable[int]) -> None:
        self._acknowledge(fences)
        released = [held for fence in fences if (held := self._held.get(fence)) is not None]
        for held in released:
            held.released = True
        self._cancel(released)

    # Runners

    def runner_ready(self, runner: Runner, ready: messages.Ready) -> None:
        """See Owner."""
        now = asyncio.get_running_loop().time()
        runner.idle_since = now
        if not self.ready.is_set():
            self.handlers = ready
            self._isolated = frozenset(note.name for note in ready.handlers if note.isolation == "process")
            self._needed = {note.name: (note.plugin, *ready.shared) for note in ready.handlers}
            self._grace_max = max([5.0, *(note.grace_ms / 1000 for note in ready.handlers)])
            names = [note.name for note in ready.handlers]
            named = ", ".join(names[:_HANDLERS_LOGGED_MAX]) + (", ..." if len(names) > _HANDLERS_LOGGED_MAX else "")
            logger.info("handlers loaded", extra={"handlers": len(names), "names": named})
            for error in ready.plugin_errors:
                logger.error("plugin error", extra={"plugin_error": error})
            self.ready.set()
        if not self._lease_valid:
            runner.send(messages.Lease(False))
        # Nothing would give an isolated one its slot back: while the worker is paused it is sent no task.
        if self._paused and not runner.alone:
            runner.send(messages.Slots(0))
        self.fleet.note_ready(runner)
        # First, so that it leaves the slots that isolated tasks already use before it starts anything.
        self.fleet.solo.pump(now)
        if not runner.alone:
            backlog, self._backlog = self._backlog, []
            self._start(backlog, now)
        self.wake.set()

    def runner_reported(self, runner: Runner, reports: list[session.Report], size: int) -> None:
        """See Owner."""
        held, pop, progress = self._held, runner.tasks.pop, self._next_frame.progress
        wanted: list[session.Report] | None = None
        for index, report in enumerate(reports):
            fence = report.fence
            task = pop(fence, None)
            if task is None or held.pop(fence, None) is None or task.released:
                # Released, or settled already: from here on the batch is copied without such reports.
                wanted = reports[:index] if wanted is None else wanted
            elif wanted is not None:
                wanted.append(report)
            if task is not None and task.reserved_of is not None:
                self.fleet.solo.finished(task)
            if progress:
                progress.pop(fence, None)
        if self._watch.stopping:
            for report in reports:
                self._watch.stopping.pop(report.fence, None)
        self._keep(reports if wanted is None else wanted, size)
        self._next_frame.credit.finished(len(reports), len(held), asyncio.get_running_loop().time())
        if runner.alone and any(report.outcome == tasks.ATTEMPT_OUTCOME_LOST for report in reports):
            # What its task has done to it would befall the next one.
            self.fleet.solo.stop(runner, asyncio.get_running_loop().time())
        if self._isolated or runner.alone:
            self.fleet.solo.pump(asyncio.get_running_loop().time())

    def runner_progressed(self, progress: Iterable[session.ProgressReport]) -> None:
        """See Owner."""
        for word in progress:
            held = self._held.get(word.fence)
            if held is not None and not held.released:
                self._next_frame.progress[word.fence] = word
        self.wake.set()

    def runner_said(self, runner: Runner, message: messages.FromRunner) -> None:
        """See Owner."""
        now = asyncio.get_running_loop().time()
        match message:
            case messages.Returned(fences):
                runner.is_recalling = False
                self._returned(runner, fences, now)
            case messages.Stopping(fence, grace_ms, kind):
                held = self._held.get(fence)
                if held is not None:
                    held.stop_kind = held.stop_kind or kind
                    held.kill_at = now + grace_ms / 1000
                    self._watch.stopping[fence] = held
                    if kind is StopKind.TIMEOUT:
                        self._events.tell(
                            logging.WARNING,
                            "time limit ran out",
                            lambda: {**held.log_fields, "grace_ms": grace_ms},
                        )
            case messages.Withheld(slots):
                runner.withheld = min(slots, runner.reserved)
                self.fleet.solo.pump(now)
            case messages.Waiting(attempts):
                runner.waiting = attempts
                if runner.alone and attempts:
                    self.fleet.solo.lend(runner)
                self.fleet.solo.pump(now)
                self.wake.set()
            case messages.Executed(rows):
                self.measures.executed(rows)
            case messages.Ready():
                pass

    def runner_ended(self, runner: Runner, reason: str) -> None:
        """See FleetOwner."""
        left, runner.tasks = list(runner.tasks.values()), {}
        self.fleet.solo.lender_ended(runner)
        for held in left:
            self._watch.stopping.pop(held.fence, None)
        # What had just ended and was not reported may have killed it: without blame it would be run again for ever.
        begun = runner.begun()
        on_purpose = self.fleet.closing or runner.ended_on_purpose
        reports = settle_dead(left, begun, reason, on_purpose=on_purpose)
        for held, report in zip(left, reports, strict=True):
            if report.outcome == tasks.ATTEMPT_OUTCOME_LOST:
                self._events.tell(
                    logging.ERROR, "task lost with its runner", partial(_fields_of_loss, held, runner, report)
                )
            elif report.outcome == tasks.ATTEMPT_OUTCOME_TIMED_OUT:
                self._note_failure(held, report)
        self._report_all(reports)

    def _note_failure(self, held: Held, report: session.Report) -> None:
        """Logs an attempt whose runner can't do so any more."""
        task = tasks.Task.FromString(held.grant.task)
        name = task.handler or self.handlers.default_handler
        retry = next((note.retry for note in self.handlers.handlers if note.name == name), None)
        self._failures.note(held.grant, task, name, retry, report)

    def runner_answered(self, runner: Runner, lag: float) -> None:
        """See Owner."""
        self.measures.lag.observe(lag)

    def _returned(self, runner: Runner, fences: Iterable[int], now: float) -> None:
        """A runner gives back what it has not started: another one starts it if it has room, else it goes back to the
        leader.
        """
        back = [task for fence in fences if (task := runner.tasks.pop(fence, None)) is not None]
        for task in back:
            self._watch.stopping.pop(task.fence, None)
            task.runner = None
        if not back:
            return
        self._next_frame.credit.waited()
        again: list[Held] = []
        if not self.draining:
            others = [other for other in self.fleet.ready() if other is not runner]
            room = sum(max(0, other.usable_slots - len(other.tasks)) for other in others)
            again = [task for task in back if task.stop_kind is None][:room]
            for other, part in share_out(again, others) if again else ():
                other.start_tasks(part, now)
        kept = {task.fence for task in again}
        reports = []
        for task in back:
            if task.fence not in kept:
                reason = "the worker drains" if self.draining else "it waited behind long tasks and was handed back"
                make = outcomes.cancelled if task.stop_kind is StopKind.CANCEL else outcomes.interrupted
                reports.append(make(task.fence, task.id, reason))
        self._report_all(reports)

    def _report(self, report: session.Report) -> None:
        self._report_all([report])

    def _report_all(self, reports: list[session.Report]) -> None:
        """Reports what the supervisor itself has settled: these tasks are held no longer."""
        kept = []
        for report in reports:
            held = self._held.pop(report.fence, None)
            if held is not None and held.reserved_of is not None:
                self.fleet.solo.finished(held)
            if held is None or not held.released:
                kept.append(report)
        self._keep(kept, sum(report.ByteSize() for report in kept))

    def _keep(self, reports: list[session.Report], size: int) -> None:
        """Keeps reports, which have `size` bytes together, until the leader has acknowledged them."""
        if reports:
            self._next_frame.keep(reports, size)
            self._all_acknowledged.clear()
            if self._next_frame.unacknowledged.bytes > self.options.unacknowledged_bytes_max:
                self._set_paused()
        if not self._held:
            self._idle.set()
        self.wake.set()

    def _set_paused(self) -> None:
        """Starts nothing new while too much is unacknowledged, until half of it is, or while the leader is away."""
        bound = self.options.unacknowledged_bytes_max
        full = self._next_frame.unacknowledged.bytes > (bound // 2 if self._paused else bound)
        paused = full or self.is_cut_off or not self._lease_valid
        if paused != self._paused:
            self._paused = self.fleet.solo.paused = paused
            for runner in self.fleet.ordinary:
                if runner.is_ready:
                    runner.send(messages.Slots(0 if paused else runner.slots - runner.reserved))
            if not paused:
                self.fleet.solo.pump(asyncio.get_running_loop().time())
            self.wake.set()

    def _take_waiting(self) -> list[Held]:
        """Gives up whatever no runner has yet."""
        backlog, self._backlog = self._backlog, []
        return [*backlog, *self.fleet.solo.take_back_all()]

    def _hand_back_waiting(self, reason: str) -> None:
        self.draining = True
        self._report_all([outcomes.interrupted(held.fence, held.id, reason) for held in self._take_waiting()])


def _fields_of_loss(held: Held, runner: Runner, report: session.Report) -> dict[str, object]:
    return {
        **held.log_fields,
        "runner": runner.name,
        "runner_pid": runner.pid,
        "reason": report.reason,
        "next": next_step(held.grant, tasks.Task(), None, report),
    }


async def _within(event: asyncio.Event, seconds: float) -> bool:
    """Waits for the event, at most so long."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return False
    return True
