"""The worker's desk: decides what becomes of granted tasks, and what runners and leader are told.

Events go in, instructions come out. The desk does nothing itself and knows no clock, so that a test or the simulator
can stand for all that surrounds it. It imports no plugin and runs no handler: nothing that a handler does keeps it from
answering the leader.

It keeps OWED, ONCE and RELEASED (`work`), KEPT (`unacknowledged`), and STILL (while the worker is cut off, or
without its lease, no runner is told to start anything: `pause`).
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from typing import assert_never

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.events import (
    CloseBegun,
    CloseForced,
    CutOff,
    DrainBegun,
    EnvironmentsKnown,
    EnvironmentsRefused,
    Event,
    FrameReceived,
    GivenUp,
    HandBackBegun,
    HandBackForced,
    LeaseLost,
    LeaveBegun,
    Looked,
    PipeEnded,
    Ponged,
    Progressed,
    Reported,
    RunnerEnded,
    RunnerGone,
    RunnerReady,
    RunnerSaid,
    SessionStarted,
    WorkerStarted,
)
from gowork.worker._desk.instructions import (
    SPEAK,
    BeginDrain,
    Instruction,
    LearnHandlers,
    Level,
    Note,
    RefuseEnvironments,
    Tell,
)
from gowork.worker._desk.merging import clashes, merged
from gowork.worker._desk.next_frame import NextFrame
from gowork.worker._desk.pause import Pause
from gowork.worker._desk.recycling import Recycling
from gowork.worker._desk.roster import Roster
from gowork.worker._desk.runner import Runner, RunnerId
from gowork.worker._desk.stops import Stops
from gowork.worker._desk.tasks import HeldTask, listed
from gowork.worker._desk.watch import Watch
from gowork.worker._desk.work import Work
from gowork.worker._runner import messages
from gowork.worker._runner.messages import StopKind

#: The most fences that a line of the log names.
_FENCES_LOGGED_MAX = 20


class Desk:
    """Decides for one worker. Call `handle` with each event, and carry out what it returns before the next event."""

    def __init__(
        self,
        *,
        slots: int,
        runners: int,
        unacknowledged_bytes_max: int,
        blocked_timeout: float,
        lent_slots_max: int,
        runner_tasks_max: int = 0,
        runner_memory_bytes_max: int = 0,
    ) -> None:
        """Args:
        slots: how many tasks run at once.
        runners: how many processes there are; 0 for one runner within this process.
        unacknowledged_bytes_max: nothing new is started while unacknowledged reports take more bytes than this.
        blocked_timeout: a runner is ended when its loop has not answered for this number of seconds.
        lent_slots_max: how many tasks may lend their slots while they wait for others; 0 where the leader would send
            no more tasks for that.
        runner_tasks_max: a runner is replaced when it has finished this number of tasks; 0: never.
        runner_memory_bytes_max: a runner is replaced when its process takes this much memory; 0: never.
        """
        self._instructions: list[Instruction] = []
        self._instruct = instruct = self._instructions.append
        self._bytes_max = unacknowledged_bytes_max
        self._isolates = runners > 0
        self.frame = NextFrame()
        self.roster = Roster(slots, runners, lent_slots_max, instruct)
        stops = self._stops = Stops()
        self._recycling = Recycling(self.roster, runner_tasks_max, runner_memory_bytes_max, instruct)
        self.work = Work(slots, self.roster, stops, self.frame, self._recycling, instruct)
        self.solo = self.work.solo
        self.pause = Pause(self.frame.unacknowledged, unacknowledged_bytes_max, self.roster, self.solo, instruct)
        self._watch = Watch(self.roster, stops, blocked_timeout, instruct)
        #: What the first runner that was ready has told; None before that.
        self.handlers: messages.Ready | None = None
        #: {environment: what a runner of it has told}
        self._environments: Mapping[str, messages.Ready] = {}

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Decides what follows from an event.

        Args:
            event: what has happened.
            now: the time in seconds, always on the same clock.

        Returns:
            What is to be done, in this order.
        """
        match event:
            # Both come with every batch. They name none of their fields here, because that would cost time.
            case Reported():
                runner = self.roster.runners[event.runner]
                self.work.reported(runner, event.reports, event.size, now, event.completions)
            case FrameReceived():
                self._receive(event.frame, now)
            case Looked():
                self._look(event, now)
            case Progressed(words):
                self.work.progressed(words)
            case RunnerSaid(id, message):
                self._said(self._runner(id), message, now)
            case Ponged(id, memory_bytes):
                self._runner(id).memory_bytes = memory_bytes
                self._watch.ponged(self._runner(id), now)
            case RunnerReady(id, ready):
                self._ready(self._runner(id), ready, now)
            case PipeEnded(id):
                self._runner(id).pulse.pipe_ended(now)
            case RunnerGone(id):
                self._runner(id).go()
            case RunnerEnded(id, begun, reason):
                self._ended(self._runner(id), begun, reason, now)
            case SessionStarted(first):
                self._start_session(first, now)
            case CutOff():
                self.pause.cut_off(now)
            case LeaseLost():
                self.pause.lose_lease(now)
            case EnvironmentsKnown(environments):
                self._environments = environments
            case EnvironmentsRefused(reason):
                self._instruct(RefuseEnvironments(reason))
            case WorkerStarted():
                self.roster.start(now)
            case DrainBegun():
                self.work.drain("the worker drains")
                self._tell_all(messages.Recall())
            case HandBackBegun(reason):
                self.work.drain(reason)
                self._tell_all(messages.Interrupt(reason))
            case HandBackForced():
                # From now on no runner is started again.
                self.roster.close()
                self.roster.end(runner for runner in self.roster.runners.values() if runner.tasks)
            case GivenUp(reason):
                self.work.give_back(self.work.held.values(), reason)
            case LeaveBegun():
                self.frame.leave()
                self._instruct(SPEAK)
            case CloseBegun():
                self.roster.close()
                self._tell_all(messages.Stop())
                self.roster.end(runner for runner in self.roster.runners.values() if not runner.is_ready)
            case CloseForced(seconds):
                self._force_close(seconds)
            case _:
                assert_never(event)
        if self.frame.unacknowledged.bytes > self._bytes_max:
            self.pause.check(now)
        instructions = self._instructions[:]
        del self._instructions[:]
        return instructions

    # Questions

    def next_frame(self, bytes_max: int, now: float) -> session.ConnectRequest | None:
        """Returns the next frame for the leader; None when there is nothing to say, or not until `frame.due`.

        Args:
            bytes_max: how many bytes its reports may take, unless the first batch of them takes more.
            now: the time in seconds, as in `handle`.
        """
        work, roster = self.work, self.roster
        wanted = not (work.is_draining or self.pause.is_on)
        # Not all slots of the worker: a runner that is being started, or is blocked, can start nothing.
        slots = sum(runner.capacity for runner in roster.answering()) if wanted else 0
        if slots and self.solo.runners:
            slots += self.solo.waiting
        # The runner of an isolated task keeps no other task waiting.
        blocked = [runner for runner in roster.ordinary if runner.pulse.is_blocked]
        held = len(work.held) - (sum(len(runner.tasks) for runner in blocked) if blocked else 0)
        return self.frame.take(bytes_max, now, held=held, slots=slots, blocked=bool(blocked), draining=work.is_draining)

    def hello_held(self, running: Container[int]) -> list[session.Held]:
        """Returns all tasks that Hello names.

        Args:
            running: the fences of the tasks that runners execute.
        """
        return listed(self.held.values(), running, self.frame.unacknowledged.names())

    def to_look_at(self) -> list[Runner]:
        """Returns the runners whose tables the next Looked must show."""
        return [runner for runner in self.roster.runners.values() if runner.tasks or runner.is_blocked]

    @property
    def is_busy(self) -> bool:
        """Whether the next look is due soon."""
        return bool(self.held) or self.roster.is_short

    @property
    def held(self) -> dict[int, HeldTask]:
        """Each task without a report, by its fence."""
        return self.work.held

    @property
    def is_draining(self) -> bool:
        """Whether the worker takes no new tasks."""
        return self.work.is_draining

    @property
    def unacknowledged(self) -> int:
        """How many reports the leader has not acknowledged."""
        return len(self.frame.unacknowledged)

    # The leader

    def _start_session(self, first: session.ConnectResponse | None, now: float) -> None:
        if first is not None:
            # First, so that reports that the leader has already are not sent again.
            self.frame.acknowledge(first.acknowledged)
        self.frame.start_session(
            reads_completions=first is not None and first.welcome.reads_completions,
            heeds_on_lost=first is None or first.welcome.heeds_on_lost,
            heeds_unique_keys=first is None or first.welcome.heeds_unique_keys,
            keeps_checkpoints=first is not None and first.welcome.keeps_checkpoints,
            heeds_continuations=first is None or first.welcome.heeds_continuations,
        )
        if first is not None:
            self._receive(first, now)
        self.pause.start_session(now)
        self._instruct(SPEAK)

    def _receive(self, frame: session.ConnectResponse, now: float) -> None:
        if frame.acknowledged:
            self.frame.acknowledge(frame.acknowledged)
            if self.pause.is_on:
                self.pause.check(now)
            if frame.refused:
                event = "reports refused: their tasks are another's by now"
                fields = {"reports": len(frame.refused), "fences": list(frame.refused[:_FENCES_LOGGED_MAX])}
                self._instruct(Note(Level.WARNING, event, fields))
        if frame.grants:
            self.work.grant(frame.grants, now)
        if frame.cancelled:
            self.work.cancel(frame.cancelled, now)
        if frame.released:
            self.work.release(frame.released, now)
        if frame.pings:
            self.frame.answer(frame.pings)
        if frame.drains:
            # Last: the drain then recalls the tasks of the same frame that have not started.
            budget_ms = frame.drains[-1].budget_ms
            self._instruct(BeginDrain(budget_ms / 1000 if budget_ms else None))
        self._instruct(SPEAK)

    # Runners

    def _runner(self, id: RunnerId) -> Runner:
        return self.roster.runners[id]

    def _ready(self, runner: Runner, ready: messages.Ready, now: float) -> None:
        runner.get_ready()
        self.solo.note_idle(runner, now)
        if self.handlers is None:
            if clash := clashes(ready, self._environments):
                self._instruct(RefuseEnvironments(clash))
                return
            self.handlers = merged(ready, self._environments)
            self.work.learn(self.handlers, isolates=self._isolates)
            self._instruct(LearnHandlers(self.handlers))
        self.pause.brief(runner)
        self.roster.note_ready(runner)
        # First, so that it leaves the slots that isolated tasks already use before it starts anything.
        self.solo.pump(now)
        self.work.start_backlog(now)
        self._instruct(SPEAK)

    def _ended(self, runner: Runner, begun: Collection[int], reason: str, now: float) -> None:
        self.roster.note_lost(runner, reason)
        self.solo.lender_ended(runner)
        self.work.lost(runner, begun, reason)
        if runner.alone:
            self.solo.remove(runner)
        self.roster.remove(runner, reason, now)
        if self.roster.is_broken(runner.environment):
            self.work.give_back_of(runner.environment)

    def _said(self, runner: Runner, message: messages.OfTasks, now: float) -> None:
        match message:
            case messages.Returned(fences):
                self._watch.returned(runner)
                self.work.returned(runner, fences, now)
            case messages.Stopping(fence, grace_ms, kind):
                task = self.held.get(fence)
                if task is not None:
                    self._stops.told(task, kind, now + grace_ms / 1000)
                    if kind is StopKind.TIMEOUT:
                        fields = {"grace_ms": grace_ms}
                        self._instruct(Note(Level.WARNING, "time limit ran out", fields, None, task.grant))
            case messages.Withheld(slots, heard):
                self.solo.withheld(runner, slots, heard)
                self.solo.pump(now)
            case messages.Waiting(attempts):
                self.work.waits(runner, attempts, now)
            case messages.Worn(reason):
                runner.worn = reason
            case _:
                assert_never(message)

    def _look(self, looked: Looked, now: float) -> None:
        self._watch.look(now, looked, recall=not self.pause.is_on)
        self._recycling.look(now)
        self.solo.retire(now)
        self.solo.pump(now)
        self.roster.start_due(now)

    def _tell_all(self, message: messages.Control) -> None:
        for runner in self.roster.runners.values():
            if runner.is_ready:
                self._instruct(Tell(runner.id, message))

    def _force_close(self, seconds: float) -> None:
        for runner in list(self.roster.runners.values()):
            if runner.is_process:
                # No longer ready once it is ended, so it is named once.
                if runner.is_ready:
                    event = "a runner did not leave its lifespans in time, and is ended"
                    self._instruct(Note(Level.WARNING, event, {"seconds": seconds}, runner.id))
                self.roster.end([runner])
