"""What has been decided, in the past tense. `apply` makes them true in memory; those of tasks and facts are stored."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from gowork.leader._core.commands import OpenSession
from gowork.leader._core.facts import Kind
from gowork.leader._core.model import HeartbeatStatus, Liveness, Progress, QueueSettings, Spec, Standing, Status


class TaskSubmitted(Struct, frozen=True, gc=False):
    """A task is new."""

    seq: int
    spec: Spec
    standing: Standing


class TaskMoved(Struct, frozen=True, gc=False):
    """A task stands elsewhere now."""

    id: str
    standing: Standing


class TaskProgressed(Struct, frozen=True, gc=False):
    """A handler has said how far it has come."""

    id: str
    progress: Progress


class TaskPurged(Struct, frozen=True, gc=False):
    """A finished task is removed. Stored."""

    id: str
    seq: int
    status: Status


class RemovalsForgotten(Struct, frozen=True, gc=False):
    """Watchers need not be told of removals of batches before this one. Stored."""

    before: int


class FactPut(Struct, frozen=True, gc=False):
    """A fact holds from now on, in place of what held under its key. Stored."""

    kind: Kind[Any]
    key: str
    #: Of the type of its kind's values.
    value: Any


class FactRemoved(Struct, frozen=True, gc=False):
    """A fact holds no longer. Stored."""

    kind: Kind[Any]
    key: str


class SessionOpened(Struct, frozen=True):
    """A worker is connected."""

    hello: OpenSession
    lease_mono: float
    at_ms: int


class SessionClosed(Struct, frozen=True, gc=False):
    """A worker's stream is gone; until then it may come back with its tasks."""

    instance: str
    grace_mono: float


class WorkerHeard(Struct, frozen=True, gc=False):
    """A worker's lease is renewed. None: as before."""

    instance: str
    lease_mono: float
    at_ms: int
    credit: int | None = None
    blocked: bool | None = None
    draining: bool | None = None


class WorkerDraining(Struct, frozen=True, gc=False):
    """A worker is to drain within `budget_ms`, or within its own budget when that is 0."""

    instance: str
    budget_ms: int


class WorkerGone(Struct, frozen=True, gc=False):
    """A worker is forgotten, but for a line in the list of members."""

    instance: str
    liveness: Liveness
    at_ms: int


class ChallengeOpened(Struct, frozen=True):
    """A newcomer waits until the session that holds its name has answered a ping, or has not."""

    hello: OpenSession
    until_mono: float


class ChallengeEnded(Struct, frozen=True, gc=False):
    """The newcomer of this name waits no longer."""

    name: str


class CallbackJoined(Struct, frozen=True):
    """A callback worker is new or replaced. That it is one is a fact: FactPut comes with this."""

    id: str
    address: str
    lease_mono: float
    at_ms: int


class CallbackHeard(Struct, frozen=True, gc=False):
    """A callback worker's lease is renewed."""

    id: str
    status: HeartbeatStatus
    lease_mono: float
    at_ms: int


class CallbackDialled(Struct, frozen=True, gc=False):
    """A callback worker is dialled with the task that it holds, or may have been by an earlier leader."""

    id: str
    mono: float
    #: When the task's time limit ends; None: it has none.
    limit_mono: float | None


class CallbackRefused(Struct, frozen=True, gc=False):
    """A callback worker did not take the task that it holds, and is dialled again."""

    id: str


class CallbackStopping(Struct, frozen=True, gc=False):
    """A callback worker is asked to stop the task that it holds."""

    id: str
    mono: float
    #: Its time limit has passed: it ends at this time, even if its worker says nothing; None: it has not passed.
    overdue_mono: float | None = None


class CallbackStopDenied(Struct, frozen=True, gc=False):
    """A callback worker that was to stop a task does not have it: the task ends then, unless its end is told before."""

    id: str
    until_mono: float


class CallbackUnreachable(Struct, frozen=True, gc=False):
    """A callback worker could not be given a task: nothing for it until its next heartbeat."""

    id: str
    reason: str


class CallbackDraining(Struct, frozen=True, gc=False):
    """A callback worker gets nothing more until it joins again."""

    id: str


class CallbackGone(Struct, frozen=True, gc=False):
    """A callback worker has left or was lost; FactRemoved comes with this."""

    id: str
    liveness: Liveness
    at_ms: int


class QueueServed(Struct, frozen=True, gc=False):
    """A queue has had its turn in handing out tasks."""

    name: str
    #: Its place in the order of queues now, and where that order has come to.
    virtual: float
    order_virtual: float
    #: Starts that its rate allows, as of then.
    tokens: float
    mono: float
    #: Grants in a row that went past a lower priority.
    passed_over: int


class QueueConfigured(Struct, frozen=True, gc=False):
    """A queue goes by other settings. What an operator has set is a fact: FactPut or FactRemoved comes with this."""

    name: str
    settings: QueueSettings
    tokens: float
    mono: float


class LeasesExtended(Struct, frozen=True, gc=False):
    """All leases and graces run longer."""

    seconds: float
    #: None of them ends before, on the monotonic clock.
    until_mono: float


Change = (
    TaskSubmitted
    | TaskMoved
    | TaskProgressed
    | TaskPurged
    | RemovalsForgotten
    | FactPut
    | FactRemoved
    | SessionOpened
    | SessionClosed
    | WorkerHeard
    | WorkerDraining
    | WorkerGone
    | ChallengeOpened
    | ChallengeEnded
    | CallbackJoined
    | CallbackHeard
    | CallbackDialled
    | CallbackRefused
    | CallbackStopping
    | CallbackStopDenied
    | CallbackUnreachable
    | CallbackDraining
    | CallbackGone
    | LeasesExtended
    | QueueServed
    | QueueConfigured
)
