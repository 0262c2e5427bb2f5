"""The supervisor: hands granted tasks to runners and keeps what came of them until the leader knows.

It imports no plugin and runs no handler, so that nothing a handler does keeps it from answering the leader. It is one object on one
loop; the session above feeds it with what the leader sent and takes from it what there is to send.

Invariants: every granted task is held until there is a report of it, and every report is kept until it is acknowledged; nothing
of a fence is reported twice; a released fence is never reported.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterable

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._runner import messages, outcomes
from gowork.worker._runner.messages import StopKind
from gowork.worker._supervisor.credit import Credit
from gowork.worker._supervisor.held import Held, Unacknowledged
from gowork.worker._supervisor.local import LocalRunner
from gowork.worker._supervisor.measures import Measures
from gowork.worker._supervisor.options import Options
from gowork.worker._supervisor.process import ProcessRunner
from gowork.worker._supervisor.runner import Runner
from gowork.worker._supervisor.sharing import share_out
from gowork.worker._supervisor.solo import Solo
from gowork.worker.processes import Warden

logger = logging.getLogger("gowork.worker")

#: Seconds between two looks at the runners.
TICK = 0.05
#: Seconds that a task may lie in a runner before it is recalled.
RECALL_AFTER = 0.2
#: A runner that lives shorter than this is started again later and later, up to the last of these.
_STABLE_AFTER = 5.0
_RESTART_DELAYS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)
#: Seconds that runners have to stop what they are told to interrupt, and then to leave their lifespans.
_INTERRUPT_GRACE = 1.0
_STOP_GRACE = 5.0


class Supervisor:
    """Await `run`; meanwhile a session calls the rest."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.measures = Measures()
        #: Set whenever there may be something to send.
        self.wake = asyncio.Event()
        #: Set once the handlers are known.
        self.ready = asyncio.Event()
        #: What the first runner that was ready has told.
        self.handlers: messages.Ready = messages.Ready((), "", ())
        self.draining = False
        self._leaving = False
        #: fence -> task without a report
        self._held: dict[int, Held] = {}
        self._unacknowledged = Unacknowledged()
        self._credit = Credit(options.slots)
        #: Set while nothing is held.
        self._idle = asyncio.Event()
        self._idle.set()
        self._acknowledged = asyncio.Event()
        self._acknowledged.set()
        #: fence -> the latest word
        self._progress: dict[int, session.ProgressReport] = {}
        self._pongs: list[int] = []
        self._condition = (False, False, False)
        #: Granted while no runner was ready.
        self._backlog: list[Held] = []
        #: fence -> a task that was asked to stop
        self._stopping: dict[int, Held] = {}
        #: What the last look at the slot tables found past its time: (fence, start)
        self._overdue: set[tuple[int, int]] = set()
        self._runners: list[Runner] = []
        self._solo = Solo(options.slots, self._runners, self._spawn_solo)
        self._isolated: frozenset[str] = frozenset()
        self._isolated_default = False
        self._grace_max = 5.0
        self._paused = False
        self._lease_valid = True
        self._closing = False
        self._group: asyncio.TaskGroup | None = None
        self._warden: Warden | None = None
        self._solo_failures = 0
        self._solo_after = 0.0

    # Life

    async def run(self) -> None:
        """Runs the runners until `close`."""
        loop = asyncio.get_running_loop()
        try:
            self._warden = Warden() if self.options.runners else None
        except OSError as error:
            logger.warning("no warden: children of runners may outlive a killed worker", extra={"reason": str(error)})
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                shares = _split(self.options.slots, self.options.runners)
                for index, slots in enumerate(shares):
                    group.create_task(self._keep_runner(f"runner-{index}", slots), name=f"runner-{index}")
                if not shares:
                    group.create_task(self._run_local(), name="runner")
                while not self._closing:
                    self._tick(loop.time())
                    await asyncio.sleep(TICK)
        finally:
            if self._warden is not None:
                self._warden.close()

    async def finish(self, budget: float) -> None:
        """Takes nothing new, hands back what has not started, and waits at most `budget` seconds for what runs."""
        self.draining = True
        for held in [*self._take_backlog(), *self._solo.take_back_all()]:
            self._report(outcomes.interrupted(held.fence, held.id, "the worker drains"))
        for runner in self._runners:
            if runner.is_ready:
                runner.send(messages.Recall())
        self.wake.set()
        await _within(self._idle, budget)

    async def hand_back(self, reason: str) -> None:
        """Stops whatever still runs, and reports it as interrupted."""
        self.draining = True
        for held in [*self._take_backlog(), *self._solo.take_back_all()]:
            self._report(outcomes.interrupted(held.fence, held.id, reason))
        for runner in [*self._runners, *self._solo.runners]:
            if runner.is_ready:
                runner.send(messages.Interrupt(reason))
        if not await _within(self._idle, _INTERRUPT_GRACE):
            self._closing = True
            for runner in [*self._runners, *self._solo.runners]:
                if runner.tasks:
                    runner.kill()
            if not await _within(self._idle, _INTERRUPT_GRACE):
                # Without processes (runners=0) threads cannot be ended; the leader must know all the same.
                for held in list(self._held.values()):
                    self._report(outcomes.interrupted(held.fence, held.id, reason))

    async def leave(self, budget: float) -> None:
        """Waits at most so many seconds for the leader to acknowledge all reports, and says goodbye."""
        await _within(self._acknowledged, budget)
        self._leaving = True
        self.wake.set()

    async def close(self) -> None:
        """Ends the runners, and so `run`."""
        self._closing = True
        for runner in [*self._runners, *self._solo.runners]:
            runner.send(messages.Stop())
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _STOP_GRACE
        while any(runner.pid is not None for runner in [*self._runners, *self._solo.runners]):
            if loop.time() > deadline:
                for runner in [*self._runners, *self._solo.runners]:
                    runner.kill()
            await asyncio.sleep(TICK / 5)

    @property
    def pids(self) -> list[int]:
        """The process ids of the runners."""
        return [runner.pid for runner in [*self._runners, *self._solo.runners] if runner.pid is not None]

    @property
    def running(self) -> int:
        """How many slots are in use."""
        return sum(len(runner.running()) for runner in [*self._runners, *self._solo.runners])

    # The session

    def hello_held(self) -> list[session.Held]:
        """All that is held, for Hello."""
        running = {row.fence for runner in [*self._runners, *self._solo.runners] for row in runner.running()}
        listed = [
            session.Held(
                id=held.id,
                fence=held.fence,
                state=session.HELD_STATE_RUNNING if held.fence in running else session.HELD_STATE_BUFFERED,
            )
            for held in self._held.values()
            if not held.released
        ]
        listed += [
            session.Held(id=report.id, fence=report.fence, state=session.HELD_STATE_FINISHED)
            for report in self._unacknowledged
        ]
        return listed

    def start_session(self) -> None:
        """A leader has welcomed the worker: everything is to be said again."""
        self._credit.start_session()
        self._unacknowledged.resend()
        self._condition = (False, False, False)
        self._pongs.clear()
        self.set_lease(valid=True)
        self.wake.set()

    def set_lease(self, *, valid: bool) -> None:
        """The session layer has gained or lost the lease. Without it nothing new is started."""
        if valid != self._lease_valid:
            self._lease_valid = valid
            for runner in [*self._runners, *self._solo.runners]:
                if runner.is_ready:
                    runner.send(messages.Lease(valid))
            self._set_paused()

    def receive(self, response: session.ConnectResponse) -> None:
        """Takes what the leader sent."""
        if response.acknowledged:
            self._unacknowledged.acknowledge(response.acknowledged)
            if not self._unacknowledged:
                self._acknowledged.set()
            if self._paused:
                self._set_paused()
        if response.grants:
            self._grant(response.grants)
        if response.cancelled:
            self._cancel([held for fence in response.cancelled if (held := self._held.get(fence)) is not None])
        if response.released:
            self._release(response.released)
        if response.pings:
            self._pongs += response.pings
        self.wake.set()

    def take(self, bytes_max: int) -> session.ConnectRequest | None:
        """The next frame for the leader; None when there is nothing to say."""
        reports = self._unacknowledged.take(bytes_max)
        open = not (self.draining or self._paused) and any(runner.is_ready for runner in self._runners)
        credit = self._credit.next(len(self._held), open)
        blocked = any(runner.is_blocked for runner in self._runners)
        condition = (blocked, self.draining, self._leaving and not self._unacknowledged.has_unsent)
        changed = condition != self._condition
        if not (reports or credit or changed or self._progress or self._pongs):
            return None
        self._condition = condition
        request = session.ConnectRequest(
            reports=reports,
            credit=[credit] if credit else None,
            progress=self._progress.values(),
            pongs=self._pongs,
        )
        if changed:
            request.conditions.add(blocked=condition[0], draining=condition[1], leaving=condition[2])
        self._progress.clear()
        self._pongs.clear()
        if self._unacknowledged.has_unsent:
            self.wake.set()
        return request

    @property
    def has_left(self) -> bool:
        """Whether the goodbye was taken."""
        return self._condition[2]

    # Tasks

    def _grant(self, grants: Iterable[session.Grant]) -> None:
        now = asyncio.get_running_loop().time()
        new = [Held(grant) for grant in grants]
        self._credit.granted(len(new), now)
        if self.draining:
            self._report_all([outcomes.interrupted(held.fence, held.id, "the worker drains") for held in new])
            return
        for held in new:
            self._held[held.fence] = held
        self._idle.clear()
        self._start(new, now)

    def _start(self, new: list[Held], now: float) -> None:
        """Shares tasks out among the runners."""
        ready = [runner for runner in self._runners if runner.is_ready]
        if not ready:
            self._backlog += new
            return
        ordinary = [held for held in new if not self._is_isolated(held)]
        for runner, part in share_out(ordinary, ready):
            runner.start_tasks(part, now)
        if len(ordinary) < len(new):
            self._solo.pump(now)

    def _is_isolated(self, held: Held) -> bool:
        """Whether it must be alone; then it is queued for that."""
        alone = held.grant.alone and self.options.runners > 0
        if not alone and (self._isolated or self._isolated_default):
            # Only now: reading every task would cost the supervisor more than all else that it does with one.
            name = tasks.Task.FromString(held.grant.task).handler
            alone = name in self._isolated if name else self._isolated_default
        if alone:
            self._solo.put(held)
        return alone

    def _cancel(self, wanted: list[Held]) -> None:
        deadline = asyncio.get_running_loop().time() + self._grace_max + 1.0
        by_runner: dict[Runner, list[int]] = {}
        for held in wanted:
            held.stop_kind = StopKind.CANCEL
            if held.runner is not None:
                by_runner.setdefault(held.runner, []).append(held.fence)
                self._stopping[held.fence] = held
                # In case its runner is too stuck to say how much time it gives.
                held.kill_at = deadline
            elif held in self._backlog or self._solo.take_back(held):
                if held in self._backlog:
                    self._backlog.remove(held)
                self._report(outcomes.cancelled(held.fence, held.id, "the task was cancelled"))
        for runner, fences in by_runner.items():
            runner.send_cancel(fences)

    def _release(self, fences: Iterable[int]) -> None:
        self._unacknowledged.acknowledge(fences)
        if not self._unacknowledged:
            self._acknowledged.set()
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
            self._isolated_default = ready.default_handler in self._isolated
            self._grace_max = max([5.0, *(note.grace_ms / 1000 for note in ready.handlers)])
            for error in ready.plugin_errors:
                logger.error("plugin error", extra={"plugin_error": error})
            self.ready.set()
        if not self._lease_valid:
            runner.send(messages.Lease(False))
        if self._paused:
            runner.send(messages.Slots(0))
        if runner.alone:
            self._solo_failures = 0
        else:
            self._start(self._take_backlog(), now)
        self._solo.pump(now)
        self.wake.set()

    def runner_reported(self, runner: Runner, reports: list[session.Report], size: int) -> None:
        """See Owner."""
        held, pop = self._held, runner.tasks.pop
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
                self._solo.finished(task)
        if self._stopping:
            for report in reports:
                self._stopping.pop(report.fence, None)
        self._keep(reports if wanted is None else wanted, size)
        self._credit.finished(len(reports), len(held), asyncio.get_running_loop().time())
        if self._isolated or runner.alone:
            self._solo.pump(asyncio.get_running_loop().time())

    def runner_progressed(self, progress: Iterable[session.ProgressReport]) -> None:
        """See Owner."""
        for word in progress:
            held = self._held.get(word.fence)
            if held is not None and not held.released:
                self._progress[word.fence] = word
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
                    self._stopping[fence] = held
            case messages.Withheld(slots):
                runner.withheld = min(slots, runner.reserved)
                self._solo.pump(now)
            case messages.Executed(rows):
                self.measures.executed(rows)
            case messages.Ready():
                pass

    def runner_answered(self, runner: Runner, lag: float) -> None:
        """See Owner."""
        self.measures.lag.observe(lag)

    def _returned(self, runner: Runner, fences: Iterable[int], now: float) -> None:
        """A runner gives back what it has not started: another one starts it if it has room, else it goes back to the leader."""
        back = [task for fence in fences if (task := runner.tasks.pop(fence, None)) is not None]
        for task in back:
            self._stopping.pop(task.fence, None)
            task.runner = None
        if not back:
            return
        self._credit.waited()
        again: list[Held] = []
        if not self.draining:
            others = [other for other in self._runners if other.is_ready and other is not runner]
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
                self._solo.finished(held)
            if held is None or not held.released:
                kept.append(report)
        self._keep(kept, sum(report.ByteSize() for report in kept))

    def _keep(self, reports: list[session.Report], size: int) -> None:
        """Keeps reports, of so many bytes together, until the leader has acknowledged them."""
        if reports:
            self._unacknowledged.add(reports, size)
            self._acknowledged.clear()
            if self._unacknowledged.bytes > self.options.unacknowledged_bytes_max:
                self._set_paused()
        if not self._held:
            self._idle.set()
        self.wake.set()

    def _take_backlog(self) -> list[Held]:
        backlog, self._backlog = self._backlog, []
        return backlog

    def _set_paused(self) -> None:
        """Starts nothing new while too much is unacknowledged, until half of it is, or while there is no lease."""
        bound = self.options.unacknowledged_bytes_max
        full = self._unacknowledged.bytes > (bound // 2 if self._paused else bound)
        paused = full or not self._lease_valid
        if paused != self._paused:
            self._paused = self._solo.paused = paused
            for runner in self._runners:
                if runner.is_ready:
                    runner.send(messages.Slots(0 if paused else runner.usable_slots))
            if not paused:
                self._solo.pump(asyncio.get_running_loop().time())
            self.wake.set()

    # Watching

    def _tick(self, now: float) -> None:
        overdue: set[tuple[int, int]] = set()
        for runner in [*self._runners, *self._solo.runners]:
            blocked = runner.is_blocked
            runner.check_pulse(now)
            if runner.is_blocked != blocked:
                logger.log(
                    logging.WARNING if runner.is_blocked else logging.INFO,
                    "runner blocked" if runner.is_blocked else "runner ticks again",
                    extra={"runner": runner.name, "runner_pid": runner.pid},
                )
                self.wake.set()
            if runner.tasks:
                overdue |= self._look_at(runner, now)
        self._overdue = overdue
        for held in [held for held in self._stopping.values() if now >= held.kill_at]:
            if held.runner is not None and held.fence in self._held:
                self._end_runner_of(held)
        self._solo.retire(now)
        if now >= self._solo_after:
            self._solo.pump(now)

    def _look_at(self, runner: Runner, now: float) -> set[tuple[int, int]]:
        """Finds what runs past its time, and what waits too long."""
        rows = runner.running()
        running = {row.fence for row in rows}
        clock = time.monotonic_ns()
        overdue = {(row.fence, row.started_ns) for row in rows if row.kill_at_ns and clock >= row.kill_at_ns}
        for fence, _ in overdue & self._overdue:
            # Seen twice, so that the row was not just being written.
            held = runner.tasks.get(fence)
            if held is not None and held.stop_kind in (None, StopKind.TIMEOUT):
                held.stop_kind = StopKind.TIMEOUT
                self._end_runner_of(held)
        if not runner.is_recalling and not runner.alone and len(runner.tasks) > len(running):
            oldest = next((held for fence, held in runner.tasks.items() if fence not in running), None)
            if oldest is not None and now - oldest.sent_at > RECALL_AFTER and not self._paused:
                runner.is_recalling = True
                runner.send(messages.Recall())
        return overdue

    def _end_runner_of(self, held: Held) -> None:
        runner = held.runner
        assert runner is not None
        if runner.kill():
            logger.warning(
                "runner ended for a task that did not stop",
                extra={"runner": runner.name, "runner_pid": runner.pid, "task": held.id, "why": str(held.stop_kind)},
            )
        held.kill_at = float("inf")

    # Processes

    async def _keep_runner(self, name: str, slots: int) -> None:
        loop = asyncio.get_running_loop()
        quick_deaths = 0
        while not self._closing:
            await asyncio.sleep(_RESTART_DELAYS[min(quick_deaths, len(_RESTART_DELAYS) - 1)])
            runner = ProcessRunner(name, slots, self, setup=self._setup, warden=self._warden)
            self._runners.append(runner)
            started = loop.time()
            await self._run_process(runner)
            self._runners.remove(runner)
            quick_deaths = quick_deaths + 1 if loop.time() - started < _STABLE_AFTER else 0

    def _spawn_solo(self) -> None:
        assert self._group is not None
        if self._closing or asyncio.get_running_loop().time() < self._solo_after:
            return
        runner = ProcessRunner("alone", 1, self, setup=self._setup, warden=self._warden, alone=True)
        self._solo.add(runner)
        self._group.create_task(self._keep_solo(runner), name="alone")

    async def _keep_solo(self, runner: ProcessRunner) -> None:
        was_ready = runner.is_ready
        await self._run_process(runner)
        self._solo.remove(runner)
        if not was_ready and self._solo_failures:
            delay = _RESTART_DELAYS[min(self._solo_failures, len(_RESTART_DELAYS) - 1)]
            self._solo_after = asyncio.get_running_loop().time() + delay

    async def _run_process(self, runner: ProcessRunner) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            reason = await runner.run()
        except OSError as error:
            reason = f"the runner could not be started: {error}"
        self._settle_dead(runner, reason)
        runner.close()
        if not self._closing and not reason.endswith("code 0"):
            self.measures.runners_lost += 1
            if runner.alone and loop.time() - started < _STABLE_AFTER:
                self._solo_failures += 1
            logger.error("runner ended", extra={"runner": runner.name, "reason": reason})
        self.wake.set()

    def _settle_dead(self, runner: ProcessRunner, reason: str) -> None:
        """Reports what a dead runner held: what ran in it is lost, unless it was ended on purpose, and the rest goes back."""
        running = {row.fence for row in runner.running()}
        left, runner.tasks = list(runner.tasks.values()), {}
        on_purpose = self._closing or any(held.kill_at == float("inf") for held in left)
        reports = []
        for held in left:
            self._stopping.pop(held.fence, None)
            match held.stop_kind:
                case StopKind.CANCEL:
                    report = outcomes.cancelled(held.fence, held.id, "its runner was ended")
                case StopKind.TIMEOUT:
                    report = outcomes.timed_out(held.fence, held.id, 0)
                case StopKind.INTERRUPT:
                    report = outcomes.interrupted(held.fence, held.id, reason)
                case None if held.fence in running and not on_purpose:
                    report = outcomes.lost(held.fence, held.id, reason)
                case None if on_purpose:
                    report = outcomes.interrupted(
                        held.fence, held.id, "its runner was ended for another task or a stop"
                    )
                case None:
                    report = outcomes.interrupted(held.fence, held.id, f"it had not started: {reason}")
            reports.append(report)
        if reports:
            self._report_all(reports)

    async def _run_local(self) -> None:
        runner = LocalRunner(
            "in-process",
            self.options.slots,
            self,
            worker=self.options.name,
            selection=self.options.selection,
            functions=self.options.functions,
        )
        self._runners.append(runner)
        await runner.run()
        self._runners.remove(runner)

    def _setup(self, slots: int) -> messages.Setup:
        return messages.Setup(
            worker=self.options.name,
            slots=slots,
            selection=self.options.selection,
            sys_path=tuple(sys.path),
            log_format=self.options.log_format,
            log_level=self.options.log_level,
        )


def _split(slots: int, runners: int) -> list[int]:
    """Slots for each runner: never none, so there may be fewer runners than asked for."""
    runners = min(slots, runners)
    return [slots // runners + (index < slots % runners) for index in range(runners)]


async def _within(event: asyncio.Event, seconds: float) -> bool:
    """Waits for the event, at most so long."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return False
    return True
