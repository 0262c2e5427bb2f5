"""What the desk is told: what the leader, the runners and the program around the worker have done.

The desk gives each runner its id (`StartRunner`), and events name runners by it. Reports and grants come in batches, as
they travel, because an event for each would cost more than all else that is done with a task.
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

    #: The leader's first frame. What it releases is taken back before anything is started again.
    first: session.ConnectResponse | None = None


class FrameReceived(Struct, frozen=True, gc=False):
    """The leader has sent a frame."""

    frame: session.ConnectResponse


class CutOff(Struct, frozen=True, gc=False):
    """The reconnect grace has passed without a stream. Other workers may hold the tasks that have not started here."""


class LeaseLost(Struct, frozen=True, gc=False):
    """The worker has not heard from the leader for longer than the lease. Other workers may hold any of its tasks."""


# The program around the worker


class EnvironmentsKnown(Struct, frozen=True, gc=False):
    """What other environments than the worker's own offer. It comes before WorkerStarted, if at all."""

    #: {environment: what a runner of it has told}
    ready: Mapping[str, messages.Ready]


class EnvironmentsRefused(Struct, frozen=True, gc=False):
    """An environment can't be used. No WorkerStarted comes."""

    #: In words.
    reason: str


class WorkerStarted(Struct, frozen=True, gc=False):
    """The fleet can start runners from now on."""


class DrainBegun(Struct, frozen=True, gc=False):
    """The worker must take nothing new, and hand back the tasks that have not started."""


class HandBackBegun(Struct, frozen=True, gc=False):
    """The tasks that still run must stop, and are reported as interrupted."""

    #: Goes into the reports.
    reason: str


class HandBackForced(Struct, frozen=True, gc=False):
    """The time that runners have to stop their tasks is over. Runners that still hold tasks are ended."""


class GivenUp(Struct, frozen=True, gc=False):
    """Some tasks cannot be ended, and run on. The worker reports them as interrupted all the same."""

    #: Goes into the reports.
    reason: str


class LeaveBegun(Struct, frozen=True, gc=False):
    """The worker must say goodbye when all reports are sent."""


class CloseBegun(Struct, frozen=True, gc=False):
    """The runners must leave their lifespans and end."""


class CloseForced(Struct, frozen=True, gc=False):
    """The time that runners have to leave their lifespans is over."""

    #: How long it was.
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
    #: How many bytes all of them take together.
    size: int
    #: More reports, by columns.
    completions: Sequence[session.Completions] = ()


class Progressed(Struct, frozen=True, gc=False):
    """Handlers have told how far their attempts have come."""

    words: Iterable[session.ProgressReport]


class RunnerSaid(Struct, frozen=True, gc=False):
    """A runner has sent another message about its tasks."""

    runner: RunnerId
    message: messages.OfTasks


class Ponged(Struct, frozen=True, gc=False):
    """A runner has answered the last ping."""

    runner: RunnerId
    #: How much memory its process takes; 0 where that is not known.
    memory_bytes: int = 0


class PipeEnded(Struct, frozen=True, gc=False):
    """A runner has closed its end of the pipe."""

    runner: RunnerId


class RunnerGone(Struct, frozen=True, gc=False):
    """A runner takes nothing more, because its process ends or has ended. Messages from it may still come."""

    runner: RunnerId


class RunnerEnded(Struct, frozen=True, gc=False):
    """A runner has ended, and nothing comes from it any more."""

    runner: RunnerId
    #: The fences of the tasks that it had started: those that ran, and the last one that had ended in each slot.
    begun: Collection[int]
    #: How it ended, in words.
    reason: str


class Looked(Struct, frozen=True, gc=False):
    """It is time to look at the runners, and their tables have been read."""

    #: {runner: what it executes}, of the runners that `Desk.to_look_at` names
    rows: Mapping[RunnerId, Sequence[messages.Running]]
    #: {runner: how often its loop has ticked}, of those that are blocked
    ticks: Mapping[RunnerId, int]
    #: The time, on the clock of the rows.
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
    | EnvironmentsKnown
    | EnvironmentsRefused
    | WorkerStarted
    | DrainBegun
    | HandBackBegun
    | HandBackForced
    | GivenUp
    | LeaveBegun
    | CloseBegun
    | CloseForced
)
