"""What the leader does in the world, as imperatives. The engine lets them out in order, when their batch is durable."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from gowork.leader._core.commands import Refused
from gowork.leader._core.model import Outcome, Spec


class Welcome(Struct, frozen=True, gc=False):
    """Tell a worker that its session is open."""

    connection: int


class Grant(Struct, frozen=True, gc=False):
    """The right to run one attempt."""

    fence: int
    #: The attempt's number.
    attempt: int
    #: It runs alone in its runner, because it was lost before.
    alone: bool
    spec: Spec
    #: The traceparent of the last attempt that was traced; empty when there is none.
    previous: str
    #: How many attempts of the task have counted towards max_attempts.
    used: int
    #: Whether other workers have the task's handler in another form, which may fit its payload.
    others: bool
    #: What the last attempt has handed on; empty: nothing.
    checkpoint: bytes = b""
    #: How often the task was continued.
    continued: int = 0


class GrantTasks(Struct, frozen=True, gc=False):
    """Give a worker these grants."""

    connection: int
    grants: Sequence[Grant]


class Acknowledge(Struct, frozen=True, gc=False):
    """Tell a worker which reports it may forget, by their fences. `refused` are those of `fences` that do not count."""

    connection: int
    fences: Sequence[int]
    refused: Sequence[int]


class ReleaseTasks(Struct, frozen=True, gc=False):
    """Tell a worker to stop and forget the tasks under these fences."""

    connection: int
    fences: Sequence[int]


class CancelTasks(Struct, frozen=True, gc=False):
    """Ask a worker to cancel the tasks under these fences."""

    connection: int
    fences: Sequence[int]


class DrainWorker(Struct, frozen=True, gc=False):
    """Ask a worker to finish what it runs within `budget_ms` (0: within its own budget) and then to leave."""

    connection: int
    budget_ms: int


class Ping(Struct, frozen=True, gc=False):
    """Ask a worker for a sign of life."""

    connection: int


class EndSession(Struct, frozen=True, gc=False):
    """End a worker's stream, with a refusal; None: with OK."""

    connection: int
    refusal: Refused | None


class CountStale(Struct, frozen=True, gc=False):
    """Count a callback worker's report that was refused as stale. For sessions, Acknowledge says it."""

    id: str


#: Why a submit did not add a task: it was there already, the submit was refused, or another task has its unique key.
#: The words are values of the label `outcome` in metrics.
DUPLICATE = "duplicate"
REFUSED = "refused"
UNIQUE = "unique"


class CountNotSubmitted(Struct, frozen=True, gc=False):
    """Count tasks that a submit did not add."""

    specs: Sequence[Spec]
    #: DUPLICATE, REFUSED or UNIQUE.
    outcome: str


class CountHeartbeatRefused(Struct, frozen=True, gc=False):
    """Count a heartbeat of an unknown member."""

    id: str


class TraceSettling(Struct, frozen=True, gc=False):
    """Make a span of how an attempt was settled. It begins at `since_ns`."""

    #: The traceparent of the attempt's span. The new span is its child.
    trace: str
    #: The attempt has no other span: the new span is the attempt's, and has `trace` as its own context.
    alone: bool
    id: str
    fence: int
    outcome: Outcome
    worker: str
    #: Wall-clock nanoseconds.
    since_ns: int
    #: None when the task is not known any more.
    spec: Spec | None = None
    #: The attempt's number; 0 when it is not known.
    attempt: int = 0
    #: The report was refused, because its sender does not hold the task.
    refused: bool = False
    #: With `alone`: the traceparents that the span is linked to.
    links: tuple[str, ...] = ()
    #: With `alone`: why the attempt ended.
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
