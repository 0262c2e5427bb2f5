"""What the desk is told: what the leader, the runners and the program around the worker have done.

Runners are named by the ids that the desk has given them (`StartRunner`). Reports and grants come in batches, as they
travel, because an event for each would cost more than all else that is done with a task.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.runner import RunnerId
from gowork.worker._runner import messages

# The leader


class SessionStarted(Struct, frozen=True, gc=False):
    """A leader has welcomed the worker."""

    #: Its first frame. What that releases is taken back before anything is started again.
    first: session.ConnectResponse | None = None


class FrameReceived(Struct, frozen=True, gc=False):
    """The leader has sent something."""

    frame: session.ConnectResponse


class CutOff(Struct, frozen=True, gc=False):
    """The stream has been broken for longer than the leader waits: what has not started may be another's by now."""


class LeaseLost(Struct, frozen=True, gc=False):
    """The leader has not been heard for longer than the lease: what runs may be another's by now too."""


# The program around the worker


class WorkerStarted(Struct, frozen=True, gc=False):
    """Runners can be started from now on."""


class DrainBegun(Struct, frozen=True, gc=False):
    """The worker is to take nothing new, and to hand back the tasks that have not started."""


class HandBackBegun(Struct, frozen=True, gc=False):
    """Whatever still runs is to stop, and is reported as interrupted."""

    reason: str


class HandBackForced(Struct, frozen=True, gc=False):
    """The runners have had their time to stop their tasks: those that still hold tasks are ended."""


class GivenUp(Struct, frozen=True, gc=False):
    """What cannot be ended runs on: the leader is to know all the same that the worker gives it back."""

    reason: str


class LeaveBegun(Struct, frozen=True, gc=False):
    """The worker says goodbye once all reports are sent."""


class CloseBegun(Struct, frozen=True, gc=False):
    """The runners are to leave their lifespans and end."""


class CloseForced(Struct, frozen=True, gc=False):
    """The runners have had their time to leave their lifespans."""

    #: How long that was.
    seconds: float


# The runners


class RunnerReady(Struct, frozen=True, gc=False):
    """A runner has loaded its plugins and takes tasks."""

    runner: RunnerId
    ready: messages.Ready


class Reported(Struct, frozen=True, gc=False):
    """Attempts of a runner have ended."""

    runner: RunnerId
    reports: list[session.Report]
    #: What they take together, in bytes.
    size: int


class Progressed(Struct, frozen=True, gc=False):
    """Attempts have come further."""

    words: Iterable[session.ProgressReport]


class RunnerSaid(Struct, frozen=True, gc=False):
    """Any other message of a runner that bears on its tasks."""

    runner: RunnerId
    message: messages.OfTasks


class Ponged(Struct, frozen=True, gc=False):
    """A runner has answered the last ping."""

    runner: RunnerId


class PipeEnded(Struct, frozen=True, gc=False):
    """A runner has closed its end of the pipe."""

    runner: RunnerId


class RunnerGone(Struct, frozen=True, gc=False):
    """A runner takes nothing more, because its process ends or has ended. What it has sent may still come."""

    runner: RunnerId


class RunnerEnded(Struct, frozen=True, gc=False):
    """Nothing comes from this runner any more."""

    runner: RunnerId
    #: The fences of what it had started: all that it executed, and what it executed last.
    begun: Collection[int]
    #: How it ended, in words.
    reason: str


class Looked(Struct, frozen=True, gc=False):
    """The time has passed, and the runners' tables have been read."""

    #: {runner: what it executes}, of the runners that `Desk.to_look_at` names
    rows: Mapping[RunnerId, Sequence[messages.Running]]
    #: {runner: how often its loop has ticked}, of those that are blocked
    ticks: Mapping[RunnerId, int]
    #: Now, on the clock of the rows.
    clock_ns: int


Event = (
    FrameReceived
    | Reported
    | Looked
    | Progressed
    | RunnerSaid
    | Ponged
    | PipeEnded
    | RunnerReady
    | RunnerGone
    | RunnerEnded
    | SessionStarted
    | CutOff
    | LeaseLost
    | WorkerStarted
    | DrainBegun
    | HandBackBegun
    | HandBackForced
    | GivenUp
    | LeaveBegun
    | CloseBegun
    | CloseForced
)
