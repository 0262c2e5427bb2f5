"""A simulated runner: it plays a runner's process at the other end of the worker's pipe.

It speaks the pipe's real frames and writes a real slot table, so that the supervisor treats it by the code that ships.
Tasks take simulated time. Now and then one ends its process, stops late, or waits for others and lends its slot.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace
from sim_loop import STEP
from sim_tasks import GRACE_MS, NOTES, continuation_of, follow_ups_of, is_deadly, task_for

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._runner import endings, messages, outcomes, pipe
from gowork.worker._runner.columns import pack
from gowork.worker._runner.completion import AttemptReport, Completion
from gowork.worker._runner.messages import StopKind
from gowork.worker._runner.table import SlotTable

if TYPE_CHECKING:
    from sim_worker import Life

#: The times for which a task runs while there are faults, in seconds.
_SECONDS = (0.001, 0.001, 0.01, 0.01, 0.1, 0.1, 1.0, 3.0, 9.0)
#: The outcomes of tasks, each as often as it should occur.
_OUTCOMES = ("completed",) * 13 + ("failed",) * 2 + ("snoozed", "cancelled")
#: The least and the most that bytes take through a pipe, in seconds.
_PIPE_SECONDS = (0.00005, 0.0005)
_SIGSEGV, _SIGKILL = -11, -9


@dataclass
class _Work:
    """One task that the runner has."""

    fence: int
    id: str
    handler: str
    payload: str
    limit_ms: int
    #: Its row in the slot table, once it runs.
    row: int = -1
    #: Whether it goes on for 30 s after it was asked to stop.
    is_stubborn: bool = False
    stop: tuple[StopKind, str] | None = None
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class SimRunner:
    """Plays a runner's process, the pipe to it, and its work on tasks.

    Args:
        life: the worker's process that has started it.
        name: its name in the history.
        table: the slot table in which it notes what it runs.
    """

    def __init__(self, life: Life, name: str, table: SlotTable) -> None:
        self._life, self._world, self._rng = life, life.world, life.world.rng
        self._table = table
        self.pid = next(life.world.pids)
        self.name = f"{life.instance}/{name}-{self.pid}"
        self.returncode: int | None = None
        self._exited = life.world.loop.create_future()
        #: Whether it does nothing any more; the supervisor may not have seen its end yet.
        self._is_dead = False
        self._protocol: asyncio.Protocol | None = None
        self._last = {"in": 0.0, "out": 0.0}
        self._reader = pipe.FrameReader(self._hear)
        #: Whether its loop stands still, and whether the loop ticks but hears nothing. Meanwhile input waits.
        self.is_blocked = self._is_deaf = False
        self._unheard: list[bytes] = []
        #: Whether it is reading input that has waited.
        self._is_behind = False
        self._ticks = 0
        self._queued: dict[int, _Work] = {}
        self._running: dict[int, _Work] = {}
        self._lending: dict[int, None] = {}
        self._rows = list(range(table.rows))
        self._limit = table.slots
        #: Whether it owes the supervisor a Withheld.
        self._owes_word = False
        self._slots_heard = 0
        #: Reports that it has not sent yet.
        self._reports: list[AttemptReport] = []
        self._is_ready = self._is_stopped = False

    # The process.

    async def wait(self) -> int:
        """Plays asyncio.subprocess.Process.wait."""
        await asyncio.shield(self._exited)
        assert self.returncode is not None
        return self.returncode

    def die(self, code: int) -> None:
        """Ends the process; what it has sent still arrives."""
        if self._is_dead:
            return
        self._is_dead = True
        self._world.trace.note("runner", self.name, "ends with", str(code))
        for work in (*self._running.values(), *self._queued.values()):
            self._drop(work)
        self._life.runners.pop(self.pid, None)
        self._world.loop.later(self._rng.uniform(0.0005, 0.01), self._exit, code)

    def vanish(self) -> None:
        """Ends the process with its machine, so that nobody hears of it."""
        for work in (*self._running.values(), *self._queued.values()):
            self._drop(work)
        self._is_dead = True
        self._exit(_SIGKILL)

    def kill(self) -> None:
        """Ends the process as the supervisor does."""
        self.die(_SIGKILL)

    def crash(self) -> None:
        """Ends the process as a segmentation fault does."""
        self.die(_SIGSEGV)

    def _exit(self, code: int) -> None:
        if self.returncode is None:
            self.returncode = code
            if not self._exited.done():
                self._exited.set_result(None)
            self._out(self._lose_pipe)

    def _drop(self, work: _Work) -> None:
        for timer in work.timers:
            timer.cancel()
        if work.row >= 0:
            self._life.checks.runner_died(work.fence)

    # The pipe, as the supervisor's transport.

    def connected(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        loop = self._world.loop
        at = self._last["in"] = max(self._last["in"] + STEP, loop.now + self._rng.uniform(*_PIPE_SECONDS))
        loop.at(at, self._take, data)

    def is_closing(self) -> bool:
        return self._protocol is None

    def close(self) -> None:
        self._lose_pipe()

    def close_pipe(self) -> None:
        """Closes its end of the pipe and goes on."""
        self._out(self._lose_pipe)

    def _lose_pipe(self) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(None)

    def _out(self, function: object, *args: object) -> None:
        loop = self._world.loop
        at = self._last["out"] = max(self._last["out"] + STEP, loop.now + self._rng.uniform(*_PIPE_SECONDS))
        loop.at(at, self._life.run, function, *args)

    def _send(self, kind: int, body: bytes) -> None:
        if not self._is_dead:
            self._out(self._deliver, pipe.frame(kind, body))

    def _deliver(self, data: bytes) -> None:
        if self._protocol is not None:
            self._protocol.data_received(data)

    def _say(self, message: messages.FromRunner) -> None:
        self._send(pipe.CONTROL, messages.encode(message))

    def _take(self, data: bytes) -> None:
        if self._is_dead:
            return
        if self.is_blocked or self._is_deaf:
            self._unheard.append(data)
        else:
            self._reader.feed(data)

    # Faults.

    def block(self, seconds: float, *, deaf: bool = False) -> None:
        """Stops its loop for `seconds`; when `deaf`, the loop ticks but hears nothing."""
        self.is_blocked, self._is_deaf = not deaf, deaf
        if deaf:
            self._tick()
        self._world.loop.later(seconds, self.unblock)

    def unblock(self) -> None:
        self.is_blocked = self._is_deaf = False
        unheard, self._unheard = self._unheard, []
        if not self._is_dead:
            self._is_behind = True
            self._reader.feed(b"".join(unheard))
            self._is_behind = False
            self._flush()
            self._pump()

    def _tick(self) -> None:
        if self._is_deaf and not self._is_dead:
            self._ticks += 1
            self._table.tick(self._ticks)
            self._world.loop.later(1.0, self._tick)

    # What the supervisor says.

    def _hear(self, kind: int, body: memoryview) -> None:
        if kind == pipe.CONTROL:
            self._control(messages.decode_to_runner(body))
            return
        response = session.ConnectResponse.FromString(bytes(body))
        for grant in response.grants:
            self._feed(grant)
        for fence in response.cancelled:
            self._cancel(fence)
        if response.pings:
            self._send(pipe.WORK, session.ConnectRequest(pongs=response.pings).SerializeToString())
        self._pump()

    def _control(self, message: messages.ToRunner) -> None:
        seen = self._world.trace.seen
        match message:
            case messages.Setup():
                seconds = 0.02 if self._world.calm else self._rng.choice((0.02, 0.1, 0.1, 2.0))
                self._world.loop.later(seconds, self._load)
            case messages.Slots(slots):
                seen["worker: nothing is started for a while"] += not slots
                self._limit, self._owes_word = slots, True
                self._slots_heard += 1
                self._pump()
            case messages.Recall():
                returned, self._queued = tuple(self._queued), {}
                seen["worker: what waits is recalled"] += bool(returned)
                self._say(messages.Returned(returned))
            case messages.Lease(valid):
                seen["worker: loses its lease"] += not valid
                for work in list(self._running.values()) if not valid else ():
                    if work.handler == "other":
                        self._stop(work, StopKind.INTERRUPT, "the worker lost its leader")
            case messages.Interrupt(reason):
                seen["worker: what runs is handed back"] += bool(self._running)
                self._interrupt(reason)
            case messages.Stop():
                self._is_stopped = True
                self._interrupt("the runner was stopped")
                self._leave()

    def _load(self) -> None:
        if self._is_dead:
            return
        if not self._world.calm and self._rng.random() < 0.05:
            self._world.trace.fault("a runner ends before it is ready", self.name)
            self.crash()
            return
        self._is_ready = True
        notes = tuple(
            replace(note, plugin_version=self._life.version) for note in NOTES if note.name in self._life.handler_names
        )
        self._say(messages.Ready(notes, NOTES[0].name, ()))

    def _leave(self) -> None:
        if self._is_stopped and not self._running and not self._is_dead:
            if not self._world.calm and self._rng.random() < 0.1:
                self._world.trace.fault("a runner does not end though it was told to stop", self.name)
                return
            self._world.loop.later(self._rng.uniform(0.001, 0.2), self.die, 0)

    def _feed(self, grant: session.Grant) -> None:
        task = tasks.Task.FromString(grant.task)
        handler = task.handler or NOTES[0].name
        if handler not in self._life.handler_names:
            self._report(outcomes.rejected(grant.fence, grant.id, f"this worker has no handler {handler}"))
            return
        self._queued[grant.fence] = _Work(grant.fence, grant.id, handler, task.payload, task.time_limit_ms)

    def _cancel(self, fence: int) -> None:
        queued = self._queued.pop(fence, None)
        if queued is not None:
            self._report(endings.cancelled(fence, queued.id, "the task was cancelled"))
        elif fence in self._running:
            self._stop(self._running[fence], StopKind.CANCEL, "the task was cancelled")

    def _interrupt(self, reason: str) -> None:
        queued, self._queued = self._queued, {}
        for work in queued.values():
            self._report(endings.interrupted(work.fence, work.id, reason))
        for work in list(self._running.values()):
            self._stop(work, StopKind.INTERRUPT, reason)

    # Tasks.

    def _pump(self) -> None:
        if self._is_dead or self.is_blocked:
            return
        while self._queued and self._rows and len(self._running) - len(self._lending) < self._limit:
            self._start(self._queued.pop(next(iter(self._queued))))
        excess = len(self._running) - len(self._lending) - self._limit
        if self._owes_word and excess <= 0:
            self._owes_word = False
            self._say(messages.Withheld(self._table.slots - self._limit, self._slots_heard))

    def _start(self, work: _Work) -> None:
        world, rng = self._world, self._rng
        loop = world.loop
        work.row = self._rows.pop(0)
        self._running[work.fence] = work
        now_ns = self._life.clock_ns()
        kill_at_ns = now_ns + (work.limit_ms + GRACE_MS) * 1_000_000 if work.limit_ms else 0
        self._table.start(work.row, work.fence, now_ns, kill_at_ns)
        self._life.checks.started(
            work.fence, work.id, self.name, is_behind=self._is_behind or self._is_deaf or self._protocol is None
        )
        seconds = 0.01 if world.calm else rng.choice(_SECONDS)
        work.is_stubborn = not world.calm and rng.random() < 0.1
        if is_deadly(work.id):
            work.timers.append(loop.later(seconds, self._kill_by, work))
        else:
            work.timers.append(loop.later(seconds, self._finish, work))
        if work.limit_ms:
            work.timers.append(
                loop.later(work.limit_ms / 1000, self._stop, work, StopKind.TIMEOUT, "the time limit ran out")
            )
        if self._life.lends and len(self._lending) < self._table.spare and seconds >= 0.1 and rng.random() < 0.3:
            work.timers.append(loop.later(seconds * 0.3, self._lend, work))
            work.timers.append(loop.later(seconds * 0.9, self._go_on, work))

    def _kill_by(self, work: _Work) -> None:
        self._world.trace.fault("a task ends its runner", self.name, work.id)
        self.crash()

    def _lend(self, work: _Work) -> None:
        if len(self._lending) < self._table.spare:
            self._lending[work.fence] = None
            self._world.trace.seen["worker: a slot is lent"] += 1
            self._say(messages.Waiting(len(self._lending)))
            self._pump()

    def _go_on(self, work: _Work) -> None:
        if self._lending.pop(work.fence, self) is None:
            self._say(messages.Waiting(len(self._lending)))

    def _stop(self, work: _Work, kind: StopKind, reason: str) -> None:
        if work.stop is not None or work.fence not in self._running:
            return
        work.stop = (kind, reason)
        self._say(messages.Stopping(work.fence, GRACE_MS, kind))
        if work.is_stubborn:
            self._world.trace.fault("a task does not stop though it was asked to", self.name, work.id)
            for timer in work.timers:
                timer.cancel()
            work.timers = [self._world.loop.later(30.0, self._finish, work)]
            return
        work.timers.append(self._world.loop.later(self._rng.choice((0.001, 0.05, 0.5)), self._finish, work))

    def _finish(self, work: _Work) -> None:
        if work.fence not in self._running:
            return
        for timer in work.timers:
            timer.cancel()
        del self._running[work.fence]
        self._table.end(work.row, work.fence)
        self._rows.append(work.row)
        report = self._outcome(work)
        self._life.checks.finished(work.fence, report)
        self._report(report)
        self._go_on(work)
        self._pump()
        self._leave()

    def _outcome(self, work: _Work) -> AttemptReport:
        rng, world = self._rng, self._world
        if work.stop is not None and (work.stop[0] is StopKind.TIMEOUT or rng.random() < 0.8):
            kind, reason = work.stop
            if kind is StopKind.TIMEOUT:
                return endings.timed_out(work.fence, work.id, work.limit_ms)
            make = endings.cancelled if kind is StopKind.CANCEL else endings.interrupted
            return make(work.fence, work.id, reason)
        if world.links_tasks and not world.calm and "+" not in work.id and rng.random() < 0.15:
            return self._waiting(work)
        completion = Completion(work.fence, work.id, "done", b"")
        match "completed" if world.calm else rng.choice(_OUTCOMES):
            case "completed":
                follow_ups = [] if world.calm else follow_ups_of(work.id, world.submitted, rng)
                if not follow_ups:
                    return completion
                report = completion.message()
                report.follow_ups.extend(follow_ups)
            case "failed":
                report = session.Report(fence=work.fence, id=work.id, outcome=tasks.ATTEMPT_OUTCOME_FAILED)
                report.failure.kind = tasks.FAILURE_KIND_HANDLER
                report.failure.message = "no luck"
            case "snoozed":
                report = session.Report(fence=work.fence, id=work.id, outcome=tasks.ATTEMPT_OUTCOME_SNOOZED)
                report.retry_delay_ms = 50
            case "cancelled":
                report = endings.cancelled(work.fence, work.id, "it thought better of it")
            case other:
                raise AssertionError(other)
        return report

    def _waiting(self, work: _Work) -> session.Report:
        """The report of a handler that has its task go on after others."""
        rng = self._rng
        report = session.Report(fence=work.fence, id=work.id, outcome=tasks.ATTEMPT_OUTCOME_WAITING)
        # Its follow-ups have new ids each time.
        report.follow_ups.extend(task_for(f"{work.id}+{work.fence}.{place}") for place in range(rng.randint(0, 3)))
        report.continuation.CopyFrom(continuation_of(work.id, work.payload, report.follow_ups, rng))
        return report

    def _report(self, report: AttemptReport) -> None:
        self._reports.append(report)
        if len(self._reports) == 1:
            late = not self._world.calm and self._rng.random() < 0.05
            self._world.loop.later(1.0 if late else self._rng.choice((0.0, 0.0002, 0.01)), self._flush)

    def _flush(self) -> None:
        if self._reports and not (self._is_dead or self.is_blocked):
            attempts, self._reports = self._reports, []
            reports, columns = pack(attempts, self._world.rows_min)
            completions = () if columns is None else (columns,)
            frame = session.ConnectRequest(reports=reports, completions=completions)
            self._send(pipe.WORK, frame.SerializeToString())
