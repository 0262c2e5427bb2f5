"""What the desk wants done: by the fleet, by the log and the measures, or by the supervisor itself.

The instructions of one event are carried out in their order, before the next event is handled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

from msgspec import Struct

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.runner import RunnerId
from gowork.worker._runner import messages

# For the fleet


class ForFleet(Struct, frozen=True, gc=False):
    """The fleet carries it out, on one runner."""

    runner: RunnerId


class StartRunner(ForFleet, frozen=True, gc=False):
    """Start a runner. RunnerReady or RunnerEnded follows."""

    #: For logs. A runner that is started again keeps its name.
    name: str
    slots: int
    #: How many more tasks it may run while as many of its tasks wait for others.
    spare: int
    #: Whether it runs isolated tasks, one at a time.
    alone: bool = False
    #: The plugins that it imports; None for all.
    only: tuple[str, ...] | None = None
    #: The environment whose Python runs it; empty for the worker's own.
    environment: str = ""


class StartTasks(ForFleet, frozen=True, gc=False):
    """Give a runner tasks."""

    grants: Sequence[session.Grant]


class CancelTasks(ForFleet, frozen=True, gc=False):
    """Ask tasks of a runner to stop."""

    fences: Sequence[int]


class Tell(ForFleet, frozen=True, gc=False):
    """Send a runner a control message."""

    message: messages.Control


class Ping(ForFleet, frozen=True, gc=False):
    """Ask a runner's loop for an answer, which comes as Ponged."""


class EndRunner(ForFleet, frozen=True, gc=False):
    """End a runner's process, and all processes of its group, at once."""

    #: Why the runner was given up, in words; empty when it did nothing wrong.
    fault: str = ""


#: What `Fleet.perform` carries out.
FleetInstruction = StartTasks | CancelTasks | Tell | Ping | EndRunner | StartRunner

# For measures and the log


class Level(IntEnum):
    """How grave a line of the log is: the numbers of the standard library's logging."""

    INFO = 20
    WARNING = 30
    ERROR = 40


class ForNotes(Struct, frozen=True, gc=False):
    """It is written to the log or counted."""


class ObserveLag(ForNotes, frozen=True, gc=False):
    """Count how long a runner's loop took to answer a ping."""

    seconds: float


class Note(ForNotes, frozen=True, gc=False):
    """Write a line to the log."""

    level: Level
    event: str
    fields: Mapping[str, object]
    #: The runner that the line names.
    runner: RunnerId | None = None
    #: The task that the line names. Such lines are bounded in number, because one event may concern thousands of tasks.
    grant: session.Grant | None = None


class NoteRunnerLost(ForNotes, frozen=True, gc=False):
    """A runner has ended that was not told to stop."""

    runner: RunnerId
    #: How it ended, in words.
    reason: str


class NoteLoss(ForNotes, frozen=True, gc=False):
    """A task was lost with its runner."""

    runner: RunnerId
    grant: session.Grant
    report: session.Report


class NoteTimedOut(ForNotes, frozen=True, gc=False):
    """A task has timed out, and its runner has ended before it could log that."""

    grant: session.Grant
    report: session.Report


#: What `Notes.take` writes or counts.
NoteInstruction = Note | NoteRunnerLost | NoteLoss | NoteTimedOut | ObserveLag

# For the supervisor itself


class Speak(Struct, frozen=True, gc=False):
    """There may be something to say to the leader: ask `Desk.next_frame`."""


class BeginDrain(Struct, frozen=True, gc=False):
    """The leader asks the worker to drain."""

    #: Seconds that running tasks have to finish; None for the worker's own drain timeout.
    budget: float | None


class LearnHandlers(Struct, frozen=True, gc=False):
    """The first runner is ready, and has told which handlers there are."""

    ready: messages.Ready


class RefuseEnvironments(Struct, frozen=True, gc=False):
    """An environment can't be used, or not together with the others: end the worker."""

    #: In words.
    reason: str


Instruction = Speak | FleetInstruction | BeginDrain | LearnHandlers | RefuseEnvironments | NoteInstruction

SPEAK = Speak()
