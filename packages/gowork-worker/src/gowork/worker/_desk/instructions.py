"""What the desk wants done: by the fleet, by the session, and by whoever writes the log.

Instructions of one event are carried out in their order, and before the next event is handled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

from msgspec import Struct

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.runner import RunnerId
from gowork.worker._runner import messages

# For the fleet


class StartRunner(Struct, frozen=True, gc=False):
    """Start a runner. It answers by RunnerReady, or by RunnerEnded."""

    runner: RunnerId
    #: For logs; a runner that is started again keeps it.
    name: str
    slots: int
    #: How many more tasks it may run while as many wait for others.
    spare: int
    #: It runs isolated tasks, one at a time.
    alone: bool = False
    #: The plugins that it imports; None for all.
    only: tuple[str, ...] | None = None


class StartTasks(Struct, frozen=True, gc=False):
    """Give a runner tasks."""

    runner: RunnerId
    grants: Sequence[session.Grant]


class CancelTasks(Struct, frozen=True, gc=False):
    """Ask tasks of a runner to stop."""

    runner: RunnerId
    fences: Sequence[int]


class Tell(Struct, frozen=True, gc=False):
    """Send a runner a control message."""

    runner: RunnerId
    message: messages.Slots | messages.Recall | messages.Lease | messages.Interrupt | messages.Stop


class Ping(Struct, frozen=True, gc=False):
    """Have a runner's loop answer, by Ponged."""

    runner: RunnerId


class EndRunner(Struct, frozen=True, gc=False):
    """End a runner's process and all children in its group at once."""

    runner: RunnerId
    #: Why it was given up, in words; empty when it did nothing wrong.
    fault: str = ""


# For the session and the program around the worker


class Speak(Struct, frozen=True, gc=False):
    """There may be something to say to the leader: ask `Desk.next_frame`."""


class BeginDrain(Struct, frozen=True, gc=False):
    """The leader asks the worker to drain."""

    #: In seconds; None leaves it to the worker.
    budget: float | None


class LearnHandlers(Struct, frozen=True, gc=False):
    """The first runner is ready, and has told what handlers there are."""

    ready: messages.Ready


# For measures and the log


class Level(IntEnum):
    """How grave a line is: the numbers of the standard library's logging."""

    INFO = 20
    WARNING = 30
    ERROR = 40


class ObserveLag(Struct, frozen=True, gc=False):
    """A runner's loop took so long to answer a ping."""

    seconds: float


class Note(Struct, frozen=True, gc=False):
    """Write a line to the log."""

    level: Level
    event: str
    fields: Mapping[str, object]
    #: Whom it is about.
    runner: RunnerId | None = None
    #: Which task it is about. Such lines are bounded in number, because one event may befall thousands of tasks.
    grant: session.Grant | None = None


class NoteRunnerLost(Struct, frozen=True, gc=False):
    """A runner has ended that nobody wanted to end."""

    runner: RunnerId
    reason: str


class NoteLoss(Struct, frozen=True, gc=False):
    """A task was lost with its runner."""

    runner: RunnerId
    grant: session.Grant
    report: session.Report


class NoteTimedOut(Struct, frozen=True, gc=False):
    """A task was timed out whose runner cannot say so any more."""

    grant: session.Grant
    report: session.Report


Instruction = (
    Speak
    | StartTasks
    | CancelTasks
    | Tell
    | Ping
    | EndRunner
    | StartRunner
    | BeginDrain
    | LearnHandlers
    | ObserveLag
    | Note
    | NoteRunnerLost
    | NoteLoss
    | NoteTimedOut
)

SPEAK = Speak()
