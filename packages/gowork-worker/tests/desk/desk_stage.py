"""A desk without anything around it: the test is the fleet, the leader and the clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.desk import Desk
from gowork.worker._desk.events import Event, FrameReceived, Looked, Reported, RunnerEnded, RunnerReady, RunnerSaid
from gowork.worker._desk.instructions import (
    CancelTasks,
    EndRunner,
    Instruction,
    Note,
    NoteLoss,
    StartRunner,
    StartTasks,
    Tell,
)
from gowork.worker._desk.roster import _Place
from gowork.worker._desk.runner import Runner
from gowork.worker._runner import endings, messages
from gowork.worker._runner.messages import Running

READY = messages.Ready((), "echo", ())


class FakeRunner:
    """Notes what is said to a runner; the test says what it runs."""

    def __init__(self, known: Runner) -> None:
        self.known = known
        self.id = known.id
        self.granted: list[int] = []
        self.cancelled: list[int] = []
        self.said: list[Any] = []
        #: Cancels and messages, in their order.
        self.order: list[Any] = []
        self.ended: list[str] = []
        self.runs: set[int] = set()


class Stage:
    """A desk whose runners come and go as the test says."""

    def __init__(self, *, slots: int = 2, runners: int = 1, **options: Any) -> None:
        settings: dict[str, Any] = {"unacknowledged_bytes_max": 64 << 20, "blocked_timeout": 600.0}
        settings["lent_slots_max"] = 1000
        self.desk = Desk(slots=slots, runners=runners, **(settings | options))
        self.now = 0.0
        self.runners: dict[int, FakeRunner] = {}
        self.instructions: list[Instruction] = []

    def tell(self, event: Event) -> list[Instruction]:
        instructions = self.desk.handle(event, self.now)
        self.instructions += instructions
        for instruction in instructions:
            self._perform(instruction)
        return instructions

    def _perform(self, instruction: Instruction) -> None:
        match instruction:
            case StartRunner(id):
                self.runners[id] = FakeRunner(self.desk.roster.runners[id])
            case StartTasks(id, grants):
                self.runners[id].granted += [grant.fence for grant in grants]
            case CancelTasks(id, fences):
                self.runners[id].cancelled += fences
                self.runners[id].order.append(list(fences))
            case Tell(id, message):
                self.runners[id].said.append(message)
                self.runners[id].order.append(message)
            case EndRunner(id, fault):
                self.runners[id].ended.append(fault)
            case _:
                pass

    def runner(self, slots: int = 2) -> FakeRunner:
        """One more runner, which starts."""
        self.desk.roster._places.append(_Place("fake", slots, 1000))
        before = set(self.runners)
        self.tell(Looked({}, {}, 0))
        (id,) = set(self.runners) - before
        return self.runners[id]

    def ready(self, slots: int = 2, ready: messages.Ready = READY) -> FakeRunner:
        """One more runner, which is ready."""
        runner = self.runner(slots)
        self.tell(RunnerReady(runner.id, ready))
        return runner

    def alone(self) -> FakeRunner:
        """The runner that has been started for isolated tasks; it is ready."""
        (runner,) = (runner for runner in self.runners.values() if runner.known.alone)
        self.tell(RunnerReady(runner.id, READY))
        return runner

    def grant(self, *fences: int, alone: bool = False) -> None:
        grants = [
            session.Grant(fence=fence, id=f"t{fence}", task=tasks.Task(id=f"t{fence}").SerializeToString(), alone=alone)
            for fence in fences
        ]
        self.tell(FrameReceived(session.ConnectResponse(grants=grants)))

    def receive(self, **fields: Any) -> None:
        self.tell(FrameReceived(session.ConnectResponse(**fields)))

    def report(self, runner: FakeRunner, *fences: int, size: int = 10) -> None:
        reports = [endings.interrupted(fence, f"t{fence}", "") for fence in fences]
        self.tell(Reported(runner.id, reports, size))

    def say(self, runner: FakeRunner, message: Any) -> None:
        self.tell(RunnerSaid(runner.id, message))

    def withhold(self, runner: FakeRunner, slots: int) -> None:
        """The runner has heard all Slots, and leaves `slots` of its slots."""
        self.say(runner, messages.Withheld(slots, runner.known.told))

    def end(self, runner: FakeRunner, reason: str = "it crashed") -> None:
        self.tell(RunnerEnded(runner.id, runner.runs, reason))

    def look(self, *, clock_ns: int = 0, kill_at_ns: int = 0) -> None:
        """Looks at what runs, since the time 0."""
        rows = {
            runner.id: [Running(fence, 0, kill_at_ns) for fence in sorted(runner.runs)]
            for runner in self.runners.values()
        }
        self.tell(Looked(rows, {}, clock_ns))

    def take(self) -> session.ConnectRequest:
        """The next frame, when reports have gathered for as long as they may."""
        frame = self.desk.next_frame(1 << 20, self.now)
        if self.desk.frame.due is not None:
            frame = self.desk.next_frame(1 << 20, self.desk.frame.due)
        return frame or session.ConnectRequest()

    def reported(self) -> dict[int, int]:
        """Fence and outcome of what goes to the leader now."""
        return {report.fence: report.outcome for report in self.take().reports}

    def notes(self, kind: type[Note | NoteLoss] = Note) -> list[Any]:
        return [each for each in self.instructions if isinstance(each, kind)]


MakeStage = Callable[..., Stage]
