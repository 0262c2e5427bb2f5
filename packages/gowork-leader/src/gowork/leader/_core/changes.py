"""What was decided, in the past tense. `apply` makes it true in memory. Changes of tasks and facts are stored too."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from gowork.leader._core.commands import OpenSession
from gowork.leader._core.facts import Kind
from gowork.leader._core.model import HeartbeatStatus, Liveness, Progress, QueueSettings, Spec, Standing, Status
from gowork.leader._core.schedules import SkipReason


class TaskSubmitted(Struct, frozen=True, gc=False):
    """A task is new."""

    seq: int
    spec: Spec
    standing: Standing


class TaskMoved(Struct, frozen=True, gc=False):
    """A task has a new standing."""

    id: str
    standing: Standing


class TaskReplaced(Struct, frozen=True, gc=False):
    """A task that does not run asks for something else from now on, and is pending.

    Its record is a new one, with a seq of its own, in the place of the old one.
    """

    id: str
    seq: int
    spec: Spec
    standing: Standing


class TaskContinued(Struct, frozen=True, gc=False):
    """A pending task waits for the tasks in `Spec.after` from now on, instead of those that it came after before."""

    id: str


class ChildrenStopped(Struct, frozen=True, gc=False):
    """The tasks for which a task waited that was cancelled, or has expired, have been cancelled too."""

    id: str


class TaskProgressed(Struct, frozen=True, gc=False):
    """A handler has said how far it has come."""

    id: str
    progress: Progress


class TaskPurged(Struct, frozen=True, gc=False):
    """A finished task is removed. Stored."""

    id: str
    seq: int
    status: Status


class GroupSealed(Struct, frozen=True, gc=False):
    """It is known how many children a group will have. Stored as a fact."""

    id: str
    children: int


class RemovalsForgotten(Struct, frozen=True, gc=False):
    """Watchers are told no more of removals in batches before this one. Stored."""

    before: int


class FactPut(Struct, frozen=True, gc=False):
    """A fact is new, or replaces the one under its key. Stored."""

    kind: Kind[Any]
    key: str
    #: Has the type of the kind's values.
    value: Any


class FactRemoved(Struct, frozen=True, gc=False):
    """A fact is removed. Stored."""

    kind: Kind[Any]
    key: str


class KeyTaken(Struct, frozen=True, gc=False):
    """A task has a unique key as long as it is unfinished. Stored as a fact."""

    key: str
    id: str


class KeyKept(Struct, frozen=True, gc=False):
    """A fact from the store says that a task that has ended has its unique key until a time."""

    key: str
    id: str
    until_ms: int


class KeyFreed(Struct, frozen=True, gc=False):
    """A task that has ended no longer has its unique key. Its fact is removed."""

    key: str
    id: str


class SessionOpened(Struct, frozen=True):
    """A worker is connected."""

    hello: OpenSession
    lease_mono: float
    at_ms: int


class SessionClosed(Struct, frozen=True, gc=False):
    """A worker's stream is gone. The worker may reconnect with its tasks until `grace_mono`."""

    instance: str
    grace_mono: float


class WorkerHeard(Struct, frozen=True, gc=False):
    """A worker's lease is renewed. A field that is None has not changed."""

    instance: str
    lease_mono: float
    at_ms: int
    credit: int | None = None
    blocked: bool | None = None
    draining: bool | None = None


class WorkerExpected(Struct, frozen=True, gc=False):
    """A worker that has no session yet may come back, because an earlier leader had it."""

    instance: str
    name: str
    joined_ms: int


class WorkerDraining(Struct, frozen=True, gc=False):
    """A worker is to drain within `budget_ms`, or within its own budget when that is 0."""

    instance: str
    budget_ms: int


class WorkerGone(Struct, frozen=True, gc=False):
    """A worker is forgotten, except in the list of members that have gone."""

    instance: str
    liveness: Liveness
    at_ms: int


class CheckpointNoted(Struct, frozen=True, gc=False):
    """A running task has a checkpoint of `size` bytes from now on. 0: there was no room for one."""

    id: str
    fence: int
    size: int
    mono: float


class ChallengeOpened(Struct, frozen=True):
    """A newcomer waits, at most until `until_mono`, for the session that has its name to answer a ping."""

    hello: OpenSession
    until_mono: float


class ChallengeEnded(Struct, frozen=True, gc=False):
    """The newcomer of this name waits no longer."""

    name: str


class CallbackJoined(Struct, frozen=True):
    """A callback worker is new or replaced. A FactPut comes with this, which stores the member."""

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
    """A callback worker is dialled with the task that it holds, or an earlier leader may have dialled it."""

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
    #: When the task's time limit has just passed: the time at which the attempt ends even if the worker says nothing.
    overdue_mono: float | None = None


class CallbackStopDenied(Struct, frozen=True, gc=False):
    """A callback worker that was to stop a task does not have it. Without a report the task ends at `until_mono`."""

    id: str
    until_mono: float


class CallbackUnreachable(Struct, frozen=True, gc=False):
    """A callback worker could not be given a task. It gets none until its next heartbeat."""

    id: str
    reason: str


class CallbackDraining(Struct, frozen=True, gc=False):
    """A callback worker gets no more tasks until it joins again."""

    id: str


class CallbackOwned(Struct, frozen=True, gc=False):
    """One caller alone speaks for a callback worker from now on."""

    id: str
    owner: str


class CallbackGone(Struct, frozen=True, gc=False):
    """A callback worker has left or was lost. A FactRemoved comes with this."""

    id: str
    liveness: Liveness
    at_ms: int


class QueueServed(Struct, frozen=True, gc=False):
    """A queue has had its turn: some of its tasks were granted."""

    name: str
    #: The queue's place in the order of queues now, and the place that the order as a whole has reached.
    virtual: float
    order_virtual: float
    #: How many starts the queue's rate allowed at the time `mono`.
    tokens: float
    mono: float
    #: How many grants in a row passed over a lower priority.
    passed_over: int


class QueueConfigured(Struct, frozen=True, gc=False):
    """A queue has other settings. When an operator set them, a FactPut or FactRemoved comes with this."""

    name: str
    settings: QueueSettings
    tokens: float
    mono: float


class ScheduleSet(Struct, frozen=True, gc=False):
    """A schedule is looked at next at `at_ms`, or never, or when one of the tasks has finished that it waits for."""

    name: str
    at_ms: int | None
    awaited: tuple[str, ...] = ()


class ScheduleGone(Struct, frozen=True, gc=False):
    """A schedule is removed. FactRemoved comes with this."""

    name: str


class ScheduleTicked(Struct, frozen=True, gc=False):
    """Ticks of a schedule have come to an end. A FactPut comes with this."""

    name: str
    #: Why they had no tasks made; None: they had.
    reason: SkipReason | None
    ticks: int
    #: How long after the tick its task was made, in milliseconds.
    late_ms: int = 0
    #: With REFUSED: why.
    why: str = ""


class LeasesExtended(Struct, frozen=True, gc=False):
    """All leases and graces are longer by `seconds`, and none ends before `until_mono`."""

    seconds: float
    until_mono: float


Change = (
    TaskSubmitted
    | TaskMoved
    | TaskReplaced
    | TaskContinued
    | ChildrenStopped
    | TaskProgressed
    | TaskPurged
    | GroupSealed
    | RemovalsForgotten
    | FactPut
    | FactRemoved
    | KeyTaken
    | KeyKept
    | KeyFreed
    | SessionOpened
    | SessionClosed
    | WorkerHeard
    | WorkerExpected
    | WorkerDraining
    | WorkerGone
    | CheckpointNoted
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
    | CallbackOwned
    | CallbackGone
    | LeasesExtended
    | QueueServed
    | QueueConfigured
    | ScheduleSet
    | ScheduleGone
    | ScheduleTicked
)
