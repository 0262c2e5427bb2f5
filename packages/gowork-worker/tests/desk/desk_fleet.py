"""Runners that do what a desk instructs, without processes: the test says when a task ends and who dies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import assert_never

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.events import (
    Event,
    PipeEnded,
    Ponged,
    Reported,
    RunnerEnded,
    RunnerGone,
    RunnerReady,
    RunnerSaid,
)
from gowork.worker._desk.instructions import (
    CancelTasks,
    EndRunner,
    FleetInstruction,
    ForFleet,
    Instruction,
    Ping,
    StartRunner,
    StartTasks,
    Tell,
)
from gowork.worker._desk.runner import RunnerId
from gowork.worker._runner import endings, messages
from gowork.worker._runner.completion import Completion
from gowork.worker._runner.messages import Running


def completed(fence: int, id: str) -> session.Report:
    """The report of an attempt that has returned None."""
    return Completion(fence, id, "null", b"").message()


def by_column(reports: list[session.Report]) -> session.Completions:
    """Completions by columns, however few they are."""
    return session.Completions(
        ids=[report.id for report in reports],
        fences=[report.fence for report in reports],
        execution_us=[report.execution_us for report in reports],
    )


class ModelRunner:
    """One runner: it starts what it is given while it has slots, in order."""

    def __init__(self, start: StartRunner, tell: Callable[[Event], None]) -> None:
        self.id = start.runner
        self.alone = start.alone
        self.slots = self.limit = start.slots
        self._spare = start.spare
        self._tell = tell
        self.is_ready = self.is_deaf = self.is_stopping = False
        self.queue: dict[int, session.Grant] = {}
        #: fence -> since when, in ns
        self.running: dict[int, int] = {}
        self.ids: dict[int, str] = {}
        self.waiting: set[int] = set()
        self.cancelled: set[int] = set()
        self._has_said_withheld = True
        self._slots_heard = 0
        #: All that it has ever started.
        self.started: list[int] = []
        self.now_ns = 0

    @property
    def used(self) -> int:
        """Slots in use."""
        return len(self.running) - len(self.waiting)

    def get_ready(self, ready: messages.Ready) -> None:
        self.is_ready = True
        self._tell(RunnerReady(self.id, ready))

    def take(self, instruction: StartTasks | CancelTasks | Tell | Ping) -> None:
        match instruction:
            case StartTasks(_, grants):
                for grant in grants:
                    self.queue[grant.fence] = grant
                    self.ids[grant.fence] = grant.id
            case CancelTasks(_, fences):
                self._cancel(fences)
            case Tell(_, message):
                self._hear(message)
            case Ping():
                if not self.is_deaf:
                    self._tell(Ponged(self.id))
            case _:
                assert_never(instruction)
        self.pump()

    def _hear(self, message: messages.Control) -> None:
        match message:
            case messages.Slots(slots):
                self.limit = slots
                self._slots_heard += 1
                self._has_said_withheld = False
            case messages.Recall():
                back = tuple(self.queue)
                self.queue.clear()
                self._tell(RunnerSaid(self.id, messages.Returned(back)))
            case messages.Interrupt():
                self.report([*self.queue, *self.running], tasks.ATTEMPT_OUTCOME_INTERRUPTED)
            case messages.Stop():
                self.is_stopping = True
            case messages.Lease():
                pass  # None of its handlers asks to be stopped without one.
            case _:
                assert_never(message)

    def pump(self) -> None:
        for fence in list(self.queue):
            if self.used >= self.limit:
                break
            del self.queue[fence]
            self.running[fence] = self.now_ns
            self.started.append(fence)
        if not self._has_said_withheld and self.used <= self.limit:
            self._has_said_withheld = True
            self._tell(RunnerSaid(self.id, messages.Withheld(self.slots - self.limit, self._slots_heard)))

    def report(
        self, fences: Iterable[int], outcome: tasks.AttemptOutcome.ValueType, *, by_columns: bool = False
    ) -> None:
        reports = [session.Report(fence=fence, id=self.ids[fence], outcome=outcome) for fence in fences]
        did_wait = False
        for report in reports:
            self.queue.pop(report.fence, None)
            self.running.pop(report.fence, None)
            did_wait |= report.fence in self.waiting
            self.waiting.discard(report.fence)
        size = sum(report.ByteSize() for report in reports)
        if reports and by_columns:
            self._tell(Reported(self.id, [], size, [by_column(reports)]))
        elif reports:
            self._tell(Reported(self.id, reports, size))
        if did_wait:
            self._tell(RunnerSaid(self.id, messages.Waiting(len(self.waiting))))
        self.pump()

    def wait(self, fence: int, *, on: bool) -> None:
        """A running task begins to wait for others, or goes on."""
        if on and len(self.waiting) < self._spare:
            self.waiting.add(fence)
        elif not on:
            self.waiting.discard(fence)
        self._tell(RunnerSaid(self.id, messages.Waiting(len(self.waiting))))
        self.pump()

    def _cancel(self, fences: Iterable[int]) -> None:
        for fence in fences:
            if fence in self.queue:
                del self.queue[fence]
                self._tell(Reported(self.id, [endings.cancelled(fence, self.ids[fence], "")], 10))
            elif fence in self.running:
                self.cancelled.add(fence)
                self._tell(RunnerSaid(self.id, messages.Stopping(fence, 1000, messages.StopKind.CANCEL)))

    def rows(self, limits_ns: int) -> list[Running]:
        return [Running(fence, since, since + limits_ns if limits_ns else 0) for fence, since in self.running.items()]


class ModelFleet:
    """All of them."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self.runners: dict[RunnerId, ModelRunner] = {}
        self._gone: set[int] = set()

    @property
    def begun(self) -> set[int]:
        """The fences of all tasks that some runner has ever started."""
        return self._gone.union(*(runner.started for runner in self.runners.values()))

    def perform(self, instruction: Instruction) -> None:
        if isinstance(instruction, ForFleet):
            self._perform(instruction)

    def _perform(self, instruction: FleetInstruction) -> None:
        match instruction:
            case StartRunner(id):
                self.runners[id] = ModelRunner(instruction, self._tell)
            case EndRunner(id):
                self.crash(self.runners[id], "it was ended")
            case StartTasks(id) | CancelTasks(id) | Tell(id) | Ping(id):
                self.runners[id].take(instruction)
            case _:
                assert_never(instruction)

    def crash(self, runner: ModelRunner, reason: str) -> None:
        if self.runners.get(runner.id) is runner:
            del self.runners[runner.id]
            self._gone.update(runner.started)
            self._tell(PipeEnded(runner.id))
            self._tell(RunnerGone(runner.id))
            self._tell(RunnerEnded(runner.id, set(runner.running), reason))
