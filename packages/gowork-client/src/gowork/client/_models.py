"""The values that callers give and get: plain and frozen, without anything of the wire.

Times are datetimes in UTC, durations are seconds. None means that something has not happened, or was not set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, overload

from gowork.client._payloads import decode_result
from gowork.client.errors import ResultError

if TYPE_CHECKING:
    from typing_extensions import TypeForm

ResultT = TypeVar("ResultT")

#: A length of time: seconds, or a timedelta.
Duration = float | timedelta
#: A moment: an aware datetime, or seconds since the Unix epoch.
Moment = datetime | float


class TaskStatus(StrEnum):
    """The status of a task. The values are the words of the filter language."""

    UNSPECIFIED = "UNSPECIFIED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    ERROR = "ERROR"

    @property
    def finished(self) -> bool:
        """Whether the task has ended: it is COMPLETED, CANCELLED or ERROR."""
        return self in _FINISHED


_FINISHED = frozenset({TaskStatus.COMPLETED, TaskStatus.CANCELLED, TaskStatus.ERROR})


class Priority(StrEnum):
    """The priority of a task: HIGH runs before MEDIUM, and MEDIUM before LOW."""

    UNSPECIFIED = "UNSPECIFIED"
    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"


#: The words for a Priority.
PriorityName = Literal["LOW", "MEDIUM", "HIGH", "Low", "Medium", "High", "low", "medium", "high"]


class OnLost(StrEnum):
    """What becomes of a task when an attempt of it is lost: it runs AGAIN, or it ends with ERROR (FAIL).

    UNSPECIFIED means what its handler says, or else AGAIN.
    """

    UNSPECIFIED = "UNSPECIFIED"
    AGAIN = "AGAIN"
    FAIL = "FAIL"


#: The words for an OnLost.
OnLostName = Literal["AGAIN", "FAIL", "again", "fail"]


class AfterRule(StrEnum):
    """How the tasks must have ended after which a task runs.

    All have completed (the default), all have finished in whichever way, or one has failed or was cancelled. When that
    can't be any more, the task is cancelled (FailureKind.UPSTREAM).
    """

    UNSPECIFIED = "UNSPECIFIED"
    ALL_COMPLETED = "ALL_COMPLETED"
    ALL_FINISHED = "ALL_FINISHED"
    ANY_FAILED = "ANY_FAILED"


#: The words for an AfterRule.
AfterRuleName = Literal["ALL_COMPLETED", "ALL_FINISHED", "ANY_FAILED", "all_completed", "all_finished", "any_failed"]


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
    #: The handler ended, and the task waits for others before its next handler runs.
    WAITING = "WAITING"


class FailureKind(StrEnum):
    """What went wrong with a task."""

    UNSPECIFIED = "UNSPECIFIED"
    HANDLER = "HANDLER"
    TIMEOUT = "TIMEOUT"
    QUARANTINED = "QUARANTINED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"
    NO_RETRY = "NO_RETRY"
    #: An attempt was lost, and the task must not run twice; see OnLost.
    LOST = "LOST"
    #: With status CANCELLED: tasks after which it was to run have ended in another way than its `after_rule` says.
    UPSTREAM = "UPSTREAM"


class Liveness(StrEnum):
    """The condition of a member."""

    UNSPECIFIED = "UNSPECIFIED"
    LIVE = "LIVE"
    BLOCKED = "BLOCKED"
    LOST = "LOST"
    DRAINING = "DRAINING"
    LEFT = "LEFT"


class MemberKind(StrEnum):
    """Whether a member holds a session, or is a callback worker."""

    UNSPECIFIED = "UNSPECIFIED"
    SESSION = "SESSION"
    CALLBACK = "CALLBACK"


class TaskView(StrEnum):
    """How much of each task to fetch."""

    #: Everything except payload, data, attempts, result and the failure's traceback.
    BASIC = "BASIC"
    #: BASIC, and the result and the whole failure.
    RESULT = "RESULT"
    #: Everything.
    FULL = "FULL"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How many attempts a task has that fails or times out, and how long it waits between them.

    The n-th retry waits `initial_delay * factor ** (n - 1)` seconds, at most `max_delay`, spread by `jitter`.
    """

    #: The number of attempts, the first included: 1 to 1,000.
    max_attempts: int = 1
    initial_delay: Duration = 1.0
    #: 1 to 100.
    factor: float = 2.0
    max_delay: Duration = 300.0
    #: The share of the delay that is random, 0 to 1.
    jitter: float = 0.0
    #: Names of exception types after which the task is not tried again.
    no_retry: tuple[str, ...] = ()


class RunOptions(TypedDict, total=False):
    """How to run a task, except by which handler. An option that is None, or is not given, is not set."""

    #: HIGH runs before MEDIUM, and MEDIUM before LOW, which is the default.
    priority: Priority | PriorityName | None
    #: The name of the queue; the default is "default".
    queue: str | None
    #: At most 64, to find the task by.
    labels: Mapping[str, str] | None
    #: The labels that a worker must have to run the task.
    selector: Mapping[str, str] | None
    #: The time before which the task is not started.
    run_at: Moment | None
    #: In place of run_at: how long after the leader accepted the task it may be started, in seconds.
    delay: Duration | None
    #: How long one attempt may run, in seconds. Without it the handler's own limit holds, if it has one.
    time_limit: Duration | None
    #: The time after which the task is not started any more.
    expires_at: Moment | None
    #: In place of expires_at: for how long after the leader accepted the task it may be started, in seconds.
    expires_in: Duration | None
    #: A policy, or a number of attempts. Without it the handler's policy holds; if it has none, there is one attempt.
    retry: RetryPolicy | int | None
    #: The queue's limit for each key counts tasks with the same key.
    concurrency_key: str | None
    #: The versions of the handler's plugin that may run the task, as specifiers of PEP 440: ">=1.2,<2".
    plugin_version: str | None
    #: While a task with this key is pending or running, no other one with it is scheduled: `schedule` returns the
    #: handle of that task instead. 1 to 256 bytes, printable. Keys are those of the whole cluster.
    unique: str | None
    #: With unique: for how long after its submit the task has the key at least, in seconds, even if it ends before.
    unique_for: Duration | None
    #: FAIL is for what must never run twice: if an attempt may have begun and nobody reports how it ended, the task
    #: ends with ERROR (FailureKind.LOST). Without it the handler's own setting holds, or else AGAIN.
    on_lost: OnLost | OnLostName | None
    #: The tasks after which it runs, at most 1,000: their ids, or what `schedule` returned. The leader must keep them,
    #: or they come before it in the same `schedule_many`.
    after: Iterable[Any] | None
    #: How those, and the children of a group, must have ended; the default is ALL_COMPLETED.
    after_rule: AfterRule | AfterRuleName | None
    #: Makes the task a group, which runs after its children: a number, or True for a group that is open. `groups.open`
    #: and `groups.run` set it.
    group: int | None


class TaskOptions(RunOptions, total=False):
    """How to run a task. An option that is None, or is not given, is not set."""

    #: The handler's name, or the function that @handler decorated. Without it the worker's default handler is used.
    handler: Any


class TaskFilter(TypedDict, total=False):
    """Terms that select tasks, joined by AND. A term that is None, or is not given, is left out."""

    status: TaskStatus | str | None
    #: The handler's name, or the function that @handler decorated.
    handler: Any
    queue: str | None
    priority: Priority | PriorityName | None
    labels: Mapping[str, str] | None
    #: The beginning of the id.
    id_prefix: str | None


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task for `schedule_many` with options of its own, which TaskOptions describes.

    An option that is None is taken from the options of the call.
    """

    payload: Any = ""
    id: str | None = None
    handler: Any = None
    priority: Priority | PriorityName | None = None
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
    plugin_version: str | None = None
    unique: str | None = None
    unique_for: Duration | None = None
    on_lost: OnLost | OnLostName | None = None
    after: Iterable[Any] | None = None
    after_rule: AfterRule | AfterRuleName | None = None
    group: int | None = None

    def __or__(self, following: NewTask | Chain) -> Chain:
        """Returns the two as tasks of a chain, in this order. `client.chain` schedules it."""
        return Chain((self,)) | following


class Chain(tuple[NewTask, ...]):
    """Tasks for `client.chain`, which run one after the other: `NewTask("pay") | NewTask("pack")`."""

    __slots__ = ()

    def __or__(self, following: NewTask | Chain) -> Chain:
        """Returns the chain with this behind it."""
        if isinstance(following, NewTask):
            return Chain((*self, following))
        if not isinstance(following, Chain):
            # A text would be taken apart.
            return NotImplemented
        return Chain((*self, *following))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a task."""

    #: Counted from 1 over all grants, interrupted ones included.
    number: int
    worker: str
    outcome: AttemptOutcome
    started_at: datetime | None
    ended_at: datetime | None
    #: Why it ended with this outcome, in words.
    reason: str
    fence: int
    #: The W3C traceparent of its span; empty when it was not traced.
    traceparent: str = ""
    #: The plugin whose handler ran it, and the version of that plugin's distribution; empty when they are not known.
    plugin: str = ""
    plugin_version: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed."""

    kind: FailureKind
    message: str
    #: The name of the exception's type.
    type: str
    #: The last part of the traceback.
    traceback: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The latest report of a handler on how far it has come."""

    #: The share of the work that is done, 0 to 1.
    fraction: float
    message: str
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A task as the leader described it. Fields that the TaskView leaves out are empty."""

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
    #: The last 20 attempts, the oldest first.
    attempts: tuple[Attempt, ...] = ()
    #: How many attempts have counted towards max_attempts.
    attempts_used: int = 0
    #: The fence of the latest grant; 0 before the first.
    fence: int = 0
    #: What the handler returned, as JSON text; see `value`.
    result: str = ""
    #: What the handler returned, if it returned bytes.
    result_data: bytes = b""
    failure: Failure | None = None
    progress: Progress | None = None
    cancel_requested: bool = False
    #: Why a pending task has not been started. Only `get` fills it.
    waiting_reason: str = ""
    #: The W3C trace context of the program that scheduled it; empty when that was not traced.
    traceparent: str = ""
    tracestate: str = ""
    #: Whether the handler returned bytes of length 0.
    result_is_empty_data: bool = False
    #: {"payload" or "result": why it could not be decrypted}. `data` or `result_data` has the ciphertext then.
    encrypted: Mapping[str, str] = field(default_factory=dict)
    #: The versions of the handler's plugin that may run it, as in ">=1.2,<2"; empty: any.
    plugin_version: str = ""
    #: While it is pending or running, no other task with this key is scheduled; empty: it has none.
    unique_key: str = ""
    #: For how long after its submit it has the key at least, in seconds; None: until it has ended.
    unique_for: float | None = None
    #: When it was changed last since it was scheduled; None: it never was.
    changed_at: datetime | None = None
    #: The names of what was changed, as in "queue".
    changed_fields: tuple[str, ...] = ()
    #: What it says itself; its handler may say more.
    on_lost: OnLost = OnLost.UNSPECIFIED
    #: The ids of the tasks after which it runs, and how those must have ended.
    after: tuple[str, ...] = ()
    after_rule: AfterRule = AfterRule.UNSPECIFIED
    #: It is a group, which runs after its children: how many it was to have when it was scheduled, or True if it was
    #: open. None: it is none.
    group: int | None = None
    #: It is PENDING and waits for the tasks in `after`, or for its children. It may have run before, and have scheduled
    #: them.
    is_waiting: bool = False

    @overload
    def value(self) -> Any: ...
    @overload
    def value(self, type: TypeForm[ResultT]) -> ResultT: ...
    def value(self, type: Any = None) -> Any:
        """Returns what the handler returned: bytes if it returned bytes, else the decoded JSON; None without a result.

        Args:
            type: the type to decode the JSON to; any type with which a handler's payload may be annotated.

        Raises:
            ResultError: when the result does not fit the type, or could not be decrypted.
        """
        if "result" in self.encrypted:
            raise ResultError(f"the result is {self.encrypted['result']}")
        return decode_result(self.result, self.result_data, type, is_empty_data=self.result_is_empty_data)


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin that a worker has loaded."""

    name: str
    #: The version of its distribution; empty when there is none.
    version: str


@dataclass(frozen=True, slots=True)
class Member:
    """A worker as the leader sees it."""

    id: str
    address: str
    #: The status in the words of the original contract, as in "alive, idle".
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
    #: The plugins that its handlers come from.
    plugins: tuple[Plugin, ...] = ()
    #: The queues whose tasks it takes; empty: those of all.
    queues: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QueueStats:
    """The number of tasks of one queue and handler with one status."""

    queue: str
    handler: str
    status: TaskStatus
    tasks: int


@dataclass(frozen=True, slots=True)
class MemberStats:
    """The number of members in one condition, and their slots and running tasks together."""

    liveness: Liveness
    members: int
    slots: int
    running: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of tasks and members at the time of the call."""

    queues: tuple[QueueStats, ...]
    members: tuple[MemberStats, ...]
    #: The version of gowork-leader.
    version: str
    #: The number of the leader's term. The next term has a higher number.
    term: int
    started_at: datetime | None
