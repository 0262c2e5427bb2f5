"""What callers see and give: plain, frozen values that know nothing of the wire.

Times are datetimes in UTC, durations are seconds. `None` means that it has not happened or was not set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypedDict, TypeVar, overload

from gowork.client._payloads import decode_result

ResultT = TypeVar("ResultT")

#: A length of time: seconds, or a timedelta.
Duration = float | timedelta
#: A moment: an aware datetime, or seconds since the Unix epoch.
Moment = datetime | float


class TaskStatus(StrEnum):
    """Where a task stands. The values are the words of the filter language."""

    UNSPECIFIED = "UNSPECIFIED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    ERROR = "ERROR"

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to the task."""
        return self in _FINISHED


_FINISHED = frozenset({TaskStatus.COMPLETED, TaskStatus.CANCELLED, TaskStatus.ERROR})


class Priority(StrEnum):
    """HIGH runs before MEDIUM before LOW."""

    UNSPECIFIED = "UNSPECIFIED"
    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"


class AttemptOutcome(StrEnum):
    """How an attempt ended; UNSPECIFIED while it runs."""

    UNSPECIFIED = "UNSPECIFIED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TIMED_OUT = "TIMED_OUT"
    LOST = "LOST"
    INTERRUPTED = "INTERRUPTED"
    CANCELLED = "CANCELLED"
    SNOOZED = "SNOOZED"


class FailureKind(StrEnum):
    """What went wrong with a task."""

    UNSPECIFIED = "UNSPECIFIED"
    HANDLER = "HANDLER"
    TIMEOUT = "TIMEOUT"
    QUARANTINED = "QUARANTINED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"
    NO_RETRY = "NO_RETRY"


class Liveness(StrEnum):
    """How a member is."""

    UNSPECIFIED = "UNSPECIFIED"
    LIVE = "LIVE"
    BLOCKED = "BLOCKED"
    LOST = "LOST"
    DRAINING = "DRAINING"
    LEFT = "LEFT"


class MemberKind(StrEnum):
    """How a member takes part: by a session, or by being dialled."""

    UNSPECIFIED = "UNSPECIFIED"
    SESSION = "SESSION"
    CALLBACK = "CALLBACK"


class TaskView(StrEnum):
    """How much of each task to fetch."""

    #: Without payload, data, attempts, result and the failure's traceback.
    BASIC = "BASIC"
    #: BASIC with the result and the whole failure.
    RESULT = "RESULT"
    #: All of it.
    FULL = "FULL"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a task that failed or timed out is tried again, and after how long.

    The n-th retry waits `initial_delay * factor ** (n - 1)` seconds, at most `max_delay`, spread by `jitter`.
    """

    #: All attempts, the first included: 1 to 1,000.
    max_attempts: int = 1
    initial_delay: Duration = 1.0
    #: 1 to 100.
    factor: float = 2.0
    max_delay: Duration = 300.0
    #: The share of the delay that is spread at random, 0 to 1.
    jitter: float = 0.0
    #: Names of exception types that are not tried again.
    no_retry: tuple[str, ...] = ()


class TaskOptions(TypedDict, total=False):
    """How to run a task. The comment of each field says what None means."""

    #: The handler's name, or the function that @handler decorated; without it the worker's default handler.
    handler: Any
    #: HIGH runs before MEDIUM before LOW, the default.
    priority: Priority | str | None
    #: "default" when not given.
    queue: str | None
    #: At most 64, to find the task by.
    labels: Mapping[str, str] | None
    #: Labels that a worker must carry to be given the task.
    selector: Mapping[str, str] | None
    #: Not to be started before.
    run_at: Moment | None
    #: Not to be started before this many seconds have passed since the leader took it, in place of run_at.
    delay: Duration | None
    #: How long one attempt may run, in seconds; without it the handler's own limit, else none.
    time_limit: Duration | None
    #: Not to be started after.
    expires_at: Moment | None
    #: Not to be started after this many seconds have passed since the leader took it, in place of expires_at.
    expires_in: Duration | None
    #: A policy, or a number of attempts; without it the handler's policy, else one attempt.
    retry: RetryPolicy | int | None
    #: Tasks of one queue with the same key share the queue's limit for a key.
    concurrency_key: str | None


class TaskFilter(TypedDict, total=False):
    """Terms that are joined by AND; None leaves a term out."""

    status: TaskStatus | str | None
    #: The handler's name, or the function that @handler decorated.
    handler: Any
    queue: str | None
    priority: Priority | str | None
    labels: Mapping[str, str] | None
    #: What the id begins with.
    id_prefix: str | None


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task for `schedule_many` with options of its own, as in TaskOptions. What is None is taken from the options of
    the call.
    """

    payload: Any = ""
    id: str | None = None
    handler: Any = None
    priority: Priority | str | None = None
    queue: str | None = None
    labels: Mapping[str, str] | None = None
    selector: Mapping[str, str] | None = None
    run_at: Moment | None = None
    delay: Duration | None = None
    time_limit: Duration | None = None
    expires_at: Moment | None = None
    retry: RetryPolicy | int | None = None
    concurrency_key: str | None = None
    expires_in: Duration | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a task."""

    #: Counted from 1 over all grants, interrupted ones included.
    number: int
    worker: str
    outcome: AttemptOutcome
    started_at: datetime | None
    ended_at: datetime | None
    #: Why it ended so, in words.
    reason: str
    fence: int
    #: The W3C trace context of its span; empty when it was not traced.
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong."""

    kind: FailureKind
    message: str
    #: The name of the exception's type.
    type: str
    #: The end of the traceback.
    traceback: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A handler's latest word of how far it has come."""

    #: 0 to 1.
    fraction: float
    message: str
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task as the leader told it. What the view did not ask for is empty."""

    id: str
    status: TaskStatus
    handler: str = ""
    queue: str = ""
    priority: Priority = Priority.UNSPECIFIED
    payload: str = ""
    data: bytes = b""
    labels: Mapping[str, str] = field(default_factory=dict)
    selector: Mapping[str, str] = field(default_factory=dict)
    run_at: datetime | None = None
    time_limit: float | None = None
    expires_at: datetime | None = None
    retry: RetryPolicy | None = None
    concurrency_key: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    #: The worker that holds it, or ran it last.
    worker: str = ""
    #: The last 20, oldest first.
    attempts: tuple[Attempt, ...] = ()
    #: How many attempts have counted towards max_attempts.
    attempts_used: int = 0
    #: The fence of the latest grant; 0 before the first.
    fence: int = 0
    #: What the handler returned, as JSON text; see `value`.
    result: str = ""
    #: What the handler returned, when that was bytes.
    result_data: bytes = b""
    failure: Failure | None = None
    progress: Progress | None = None
    cancel_requested: bool = False
    #: Why a pending task has not been started; told by `get`.
    waiting_reason: str = ""
    #: The W3C trace context of the program that scheduled it; empty when that was not traced.
    traceparent: str = ""
    tracestate: str = ""
    #: The handler returned bytes, and there were none.
    result_is_empty_data: bool = False

    @overload
    def value(self) -> Any: ...
    @overload
    def value(self, type: type[ResultT]) -> ResultT: ...
    def value(self, type: Any = None) -> Any:
        """What the handler returned: bytes when it returned bytes, else its JSON decoded; None when there is nothing.

        Args:
            type: what to decode the JSON to: whatever a handler's payload may be annotated with.

        Raises:
            ResultError: when the result does not fit.
        """
        return decode_result(self.result, self.result_data, type, is_empty_data=self.result_is_empty_data)


@dataclass(frozen=True, slots=True)
class Member:
    """A worker as the leader sees it."""

    id: str
    address: str
    #: In the words of the original contract, as in "alive, idle".
    status: str
    liveness: Liveness
    kind: MemberKind
    #: How many tasks it runs at once.
    slots: int
    #: How many granted tasks it holds.
    running: int
    handlers: tuple[str, ...]
    labels: Mapping[str, str]
    version: str
    joined_at: datetime | None
    seen_at: datetime | None
    #: Plugins that could not be loaded, as "NAME: REASON".
    plugin_errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How many tasks of one queue and handler have this status."""

    queue: str
    handler: str
    status: TaskStatus
    tasks: int


@dataclass(frozen=True, slots=True)
class MemberStats:
    """How many members are in this condition, and what they can run and hold."""

    liveness: Liveness
    members: int
    slots: int
    running: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts, derived by the leader at the time of the call."""

    queues: tuple[QueueStats, ...]
    members: tuple[MemberStats, ...]
    #: The version of gowork-leader.
    version: str
    #: The number of the leader's term; it grows with every start.
    term: int
    started_at: datetime | None
