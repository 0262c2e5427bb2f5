"""What the world is to be told, as imperatives. The engine lets them out when their batch is durable, in this order."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from gowork.leader._core.commands import Refused
from gowork.leader._core.model import Outcome, Spec


class Welcome(Struct, frozen=True, gc=False):
    """Tell a worker that its session stands."""

    connection: int


class Grant(Struct, frozen=True, gc=False):
    """The right to run one attempt."""

    fence: int
    #: The attempt's number.
    attempt: int
    #: It runs alone in its process, because it was lost before.
    alone: bool
    spec: Spec
    #: The traceparent of the attempt before; empty when there is none.
    previous: str
    #: Attempts of the task that have counted.
    used: int
    #: Whether other workers have the task's handler in another form, which may fit its payload.
    others: bool


class GrantTasks(Struct, frozen=True, gc=False):
    """Give a worker the right to run these attempts."""

    connection: int
    grants: Sequence[Grant]


class Acknowledge(Struct, frozen=True, gc=False):
    """Tell a worker which reports it may forget; `refused` are among `fences`."""

    connection: int
    fences: Sequence[int]
    refused: Sequence[int]


class ReleaseTasks(Struct, frozen=True, gc=False):
    """Tell a worker to stop and forget these."""

    connection: int
    fences: Sequence[int]


class CancelTasks(Struct, frozen=True, gc=False):
    """Ask a worker to cancel these."""

    connection: int
    fences: Sequence[int]


class DrainWorker(Struct, frozen=True, gc=False):
    """Ask a worker to finish what it runs within `budget_ms`, or within its own budget when that is 0, and to leave."""

    connection: int
    budget_ms: int


class Ping(Struct, frozen=True, gc=False):
    """Ask a worker for a sign of life."""

    connection: int


class EndSession(Struct, frozen=True, gc=False):
    """End a worker's stream: with OK, or with a refusal."""

    connection: int
    refusal: Refused | None


class CountStale(Struct, frozen=True, gc=False):
    """Count a report that was refused because the task is no longer its sender's; for sessions Acknowledge tells it."""

    id: str


class CountNotSubmitted(Struct, frozen=True, gc=False):
    """Count tasks that a submit did not add: they were there already, or it was refused."""

    specs: Sequence[Spec]
    refused: bool


class CountHeartbeatRefused(Struct, frozen=True, gc=False):
    """Count a heartbeat of a member that is not known."""

    id: str


class TraceSettling(Struct, frozen=True, gc=False):
    """Make a span of how an attempt was settled, from `since_ns` on."""

    #: The attempt's context: the span is a child of that.
    trace: str
    #: No other span tells of the attempt: this one has the attempt's context as its own.
    alone: bool
    id: str
    fence: int
    outcome: Outcome
    worker: str
    #: Wall-clock nanoseconds.
    since_ns: int
    #: None when it is not known any more.
    spec: Spec | None = None
    #: 0 when it is not known.
    attempt: int = 0
    #: The report was refused: the task is not its sender's.
    refused: bool = False
    #: Contexts that a span that is alone is linked to.
    links: tuple[str, ...] = ()
    #: The error of an attempt that has no other span.
    reason: str = ""


class StartWork(Struct, frozen=True, gc=False):
    """Dial a callback worker with a task."""

    member: str
    address: str
    fence: int
    spec: Spec
    attempt: int = 0
    #: How long to wait before the call, in seconds.
    delay: float = 0.0


class StopWork(Struct, frozen=True, gc=False):
    """Dial a callback worker to stop a task."""

    member: str
    address: str
    fence: int
    id: str


Effect = (
    Welcome
    | GrantTasks
    | Acknowledge
    | ReleaseTasks
    | CancelTasks
    | DrainWorker
    | Ping
    | EndSession
    | CountStale
    | CountNotSubmitted
    | CountHeartbeatRefused
    | TraceSettling
    | StartWork
    | StopWork
)
