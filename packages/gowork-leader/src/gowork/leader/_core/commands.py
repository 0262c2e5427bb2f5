"""The commands that the leader takes, as imperatives. `decide` decides each; its type names the type of its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from msgspec import Struct

from gowork.leader._core.model import (
    Failure,
    HandlerPolicy,
    HeartbeatStatus,
    Outcome,
    QueueSettings,
    RetryPolicy,
    Spec,
    Standing,
)
from gowork.leader._core.schedules import Declared, Definition

A_co = TypeVar("A_co", covariant=True)


class Submitted(Struct, frozen=True, gc=False):
    """The answer to Submit."""

    created: int
    existing: int
    #: For each of the others: (its place, the id of the task that has its unique key).
    held: tuple[tuple[int, str], ...] = ()


class Purged(Struct, frozen=True, gc=False):
    """The answer to Purge."""

    tasks: int


class Cancelled(Struct, frozen=True, gc=False):
    """The answer to CancelTasks."""

    #: How many were pending, and how many run and are asked to stop.
    pending: int
    running: int


class Retried(Struct, frozen=True, gc=False):
    """The answer to RetryTasks."""

    tasks: int
    #: How many were left alone, because they have expired or another task has their unique key.
    left: int
    #: The seq of the last task that was looked at: there was no room for more, or it is the last one.
    last_seq: int


class GroupState(Struct, frozen=True, gc=False):
    """How far a group is. The answer to SealGroup."""

    #: How many children it will have; None: it is open.
    expected: int | None
    #: How many of its children wait or run, and how many have ended so.
    unfinished: int
    completed: int
    failed: int
    cancelled: int


class ScheduleAdded(Struct, frozen=True, gc=False):
    """The answer to AddSchedule. With neither, the same schedule was there already."""

    created: bool
    replaced: bool


class ScheduleResumed(Struct, frozen=True, gc=False):
    """The answer to ResumeSchedule."""

    #: How many ticks came during the pause and stay skipped.
    skipped: int


class Triggered(Struct, frozen=True, gc=False):
    """The answer to TriggerSchedule."""

    id: str
    existing: bool


class Backfilled(Struct, frozen=True):
    """The answer to BackfillSchedule."""

    #: The tasks that were made.
    ids: tuple[str, ...]
    #: How many ticks had tasks already.
    existing: int


class Command(Struct, Generic[A_co], frozen=True):
    """One command; `A_co` is the type of its answer unless it is refused."""


class Submit(Command[Submitted], frozen=True, gc=False):
    """Add these tasks, all or none."""

    specs: Sequence[Spec]
    #: How many tasks may be pending in each queue that gets some of them; None: as many as in all.
    queue_pending_max: int | None = None


class Cancel(Command[None], frozen=True, gc=False):
    """Cancel one task."""

    id: str


class Chosen(NamedTuple):
    """A task that a filter has selected. It may have changed since, or be another one with the same id."""

    id: str
    seq: int


class CancelTasks(Command[Cancelled], frozen=True, gc=False):
    """Cancel those of these tasks that are still selected and have not finished."""

    tasks: Sequence[Chosen]
    selects: Callable[[Spec, Standing], bool]


class UpdateTask(Command[None], frozen=True, gc=False):
    """Change what a pending task asks for."""

    id: str
    #: Returns what it asks for from now on, and the names of the fields that differ. Arguments: what it asks for, when
    #: it was submitted, and the time, both in wall-clock milliseconds.
    edit: Callable[[Spec, int, int], tuple[Spec, tuple[str, ...]]]
    #: Whether its time to start is to be changed.
    moves_start: bool
    #: See Submit; for the queue into which it goes.
    queue_pending_max: int | None = None


class HeldTask(Struct, frozen=True, gc=False):
    """A granted task that a connecting worker says it has."""

    id: str
    fence: int
    #: Its report follows, so it must not be released.
    finished: bool


class OpenSession(Command[None], frozen=True):
    """A worker has sent a Hello over a new connection. Welcome or EndSession answers it, perhaps later."""

    #: The number of the stream; a leader numbers its streams from 1.
    connection: int
    name: str
    instance: str
    slots: int
    handlers: tuple[HandlerPolicy, ...]
    labels: dict[str, str]
    version: str
    held: tuple[HeldTask, ...]
    plugin_errors: tuple[str, ...]
    peer: str
    #: Instances of this name whose runners have ended for certain.
    ended_instances: tuple[str, ...] = ()
    #: The queues whose tasks it takes; empty: those of all.
    queues: frozenset[str] = frozenset()
    #: The schedules that its handlers declare, each name once.
    schedules: tuple[Declared, ...] = ()


class Continuation(Struct, frozen=True, gc=False):
    """What a task runs next, and after which others."""

    after: tuple[str, ...]
    #: Returns what the task asks for then, and the names of the fields that differ. See UpdateTask.
    edit: Callable[[Spec, int, int], tuple[Spec, tuple[str, ...]]]


class Report(Struct, frozen=True, gc=False):
    """How an attempt ended; see worker.v1.Report."""

    fence: int
    id: str
    outcome: Outcome
    result: str = ""
    result_data: bytes = b""
    failure: Failure | None = None
    retry_delay_ms: int | None = None
    execution_us: int = 0
    reason: str = ""
    #: Tasks that are scheduled when the report is accepted.
    follow_ups: tuple[Spec, ...] = ()
    #: The traceparent of the attempt's span; empty when it was not traced.
    trace: str = ""
    #: The handler returned empty bytes, not nothing.
    result_is_empty_data: bool = False
    #: With INTERRUPTED: the payload does not fit this worker's form of the handler.
    unfit: bool = False
    #: With INTERRUPTED: the handler certainly never began.
    not_started: bool = False
    #: The attempt's last checkpoint; empty when it has told none.
    checkpoint: bytes = b""
    #: With WAITING.
    continuation: Continuation | None = None


class Completions(Struct, frozen=True, gc=False):
    """Reports of completed attempts by columns: row N of each column is of the Nth attempt.

    It says what as many Reports would say. Whoever has many of them saves an object for each.
    """

    ids: Sequence[str]
    fences: Sequence[int]
    execution_us: Sequence[int]
    results: Sequence[str]
    result_data: Sequence[bytes]
    #: The traceparents of the attempts' spans; empty where an attempt was not traced.
    traces: Sequence[str]

    def reports(self) -> list[Report]:
        """Returns a report for each row."""
        return [
            Report(fence, id, Outcome.COMPLETED, result, data, execution_us=execution_us, trace=trace)
            for id, fence, execution_us, result, data, trace in zip(
                self.ids, self.fences, self.execution_us, self.results, self.result_data, self.traces, strict=True
            )
        ]


class ProgressReport(Struct, frozen=True, gc=False):
    """How far an attempt has come."""

    fence: int
    id: str
    fraction: float
    message: str


class Checkpoint(Struct, frozen=True, gc=False):
    """What an attempt hands on to the next one."""

    fence: int
    id: str
    state: bytes


class ReceiveFrame(Command[None], frozen=True, gc=False):
    """A worker has sent a frame.

    An empty frame is a heartbeat. A field is None or empty when it has not changed.
    """

    connection: int
    reports: Sequence[Report] = ()
    credit: int | None = None
    progress: Sequence[ProgressReport] = ()
    blocked: bool | None = None
    draining: bool | None = None
    leaving: bool = False
    #: When the frame came, in wall-clock nanoseconds, for traces; 0 when it has no reports.
    received_ns: int = 0
    #: More reports, which come after `reports`.
    completions: Sequence[Completions] = ()
    checkpoints: Sequence[Checkpoint] = ()


class CloseSession(Command[None], frozen=True, gc=False):
    """A worker's stream has ended."""

    connection: int


class Join(Command[None], frozen=True):
    """Add or replace a callback worker."""

    id: str
    address: str
    #: Who asks, as in all commands of callback workers. Only they may speak for the member from then on; empty: nobody
    #: asks who callers are.
    caller: str = ""


class Leave(Command[None], frozen=True):
    """Remove a callback worker."""

    id: str
    caller: str = ""


class DrainMember(Command[None], frozen=True, gc=False):
    """Take a member out of service."""

    id: str
    #: How long a worker's running tasks may go on, in milliseconds; 0: as long as the worker's own setting says.
    budget_ms: int


class Heartbeat(Command[None], frozen=True, gc=False):
    """A callback worker is alive."""

    id: str
    status: HeartbeatStatus
    caller: str = ""


class CompleteTask(Command[None], frozen=True, gc=False):
    """A callback worker has finished a task, or hands it back."""

    id: str
    error: str | None
    #: 0: any fence.
    fence: int = 0
    #: None: the worker named no outcome, and `error` decides.
    outcome: Outcome | None = None
    failure: Failure | None = None
    retry_delay_ms: int | None = None
    #: The handler's policy, for a task without one.
    retry: RetryPolicy | None = None
    caller: str = ""
    #: With INTERRUPTED: the handler certainly never began.
    not_started: bool = False


class TellProgress(Command[None], frozen=True, gc=False):
    """A callback worker has come further with a task."""

    id: str
    fraction: float
    message: str
    #: 0: any fence.
    fence: int
    caller: str = ""


class RefuseStart(Command[None], frozen=True, gc=False):
    """A callback worker could not be dialled, or did not take the task."""

    member: str
    id: str
    fence: int
    reason: str
    #: The member was reached, and answered that it does not take the task, or failed.
    answered: bool = False
    #: It answered that it does not take the task, so that it certainly has not begun it.
    declined: bool = False


class ConfirmStop(Command[None], frozen=True, gc=False):
    """A callback worker has stopped a task, as it was asked to."""

    id: str
    fence: int


class DenyStop(Command[None], frozen=True, gc=False):
    """A callback worker that was asked to stop a task does not have it."""

    id: str
    fence: int


class Tick(Command[None], frozen=True, gc=False):
    """Time has passed: end leases, graces and limits that have run out, and make tasks ready that have come due."""

    #: A wall-clock time. The first DUE_TASKS_MAX tasks that are due by then are in memory, and as many that expire by
    #: then.
    due_ms: int


class ExtendLeases(Command[None], frozen=True, gc=False):
    """The leader itself was held up, so that nobody's silence or absence in that time counts."""

    #: For how long, in seconds.
    seconds: float


class TakeBackOrphans(Command[None], frozen=True, gc=False):
    """Take back the running tasks of callback workers that are gone. It is the first command after a start."""


class RetryTask(Command[None], frozen=True, gc=False):
    """Run a task again that has ended with ERROR or CANCELLED."""

    id: str
    #: See Submit.
    queue_pending_max: int | None = None
    #: See UpdateTask. None: it asks for what it asked for.
    edit: Callable[[Spec, int, int], tuple[Spec, tuple[str, ...]]] | None = None


class RetryTasks(Command[Retried], frozen=True, gc=False):
    """Run those of these tasks again that are still selected and have ended with ERROR or CANCELLED.

    If there is no room for all of them, some of the first are run again.
    """

    #: In the order of seq.
    tasks: Sequence[Chosen]
    selects: Callable[[Spec, Standing], bool]
    #: The number of a batch. Tasks that a later batch has changed are left alone, because they may have run again.
    changed_max: int
    #: See Submit.
    queue_pending_max: int | None = None


class SealGroup(Command[GroupState], frozen=True, gc=False):
    """Say how many children a group has."""

    id: str
    #: None: as many as are there.
    children: int | None = None


class Purge(Command[Purged], frozen=True, gc=False):
    """Remove the finished ones among these tasks."""

    ids: Sequence[str]
    #: Only tasks that finished by then, in wall-clock milliseconds; 0: at any time.
    finished_by_ms: int = 0
    #: Refuse all when one has not finished.
    strict: bool = False
    #: The number of a batch: watchers are told no more of removals in earlier batches. 0: they are told of all.
    forget_before: int = 0


class PauseQueue(Command[QueueSettings], frozen=True, gc=False):
    """Pause a queue, or resume it."""

    name: str
    paused: bool


class ConfigureQueue(Command[QueueSettings], frozen=True, gc=False):
    """Set a queue's weight and limits. None leaves a field as it is."""

    name: str
    weight: int | None = None
    concurrency_limit: int | None = None
    key_concurrency_limit: int | None = None
    rate_limit: float | None = None
    rate_burst: int | None = None


class AddSchedule(Command[ScheduleAdded], frozen=True):
    """Add a schedule, or replace the one of its name."""

    name: str
    definition: Definition
    replace: bool = False
    #: A new one begins paused, for this reason.
    paused: bool = False
    reason: str = ""
    #: Who asks; empty: nobody asks who callers are.
    caller: str = ""


class PauseSchedule(Command[None], frozen=True, gc=False):
    """Pause a schedule."""

    name: str
    reason: str = ""
    caller: str = ""


class ResumeSchedule(Command[ScheduleResumed], frozen=True, gc=False):
    """End the pause of a schedule."""

    name: str
    #: Make the ticks of the pause that are within the catch-up window.
    catch_up: bool = False


class TriggerSchedule(Command[Triggered], frozen=True, gc=False):
    """Make the task of a schedule now."""

    name: str
    #: Names the call.
    request_id: str
    #: Ids of its runs that were unfinished, which the decision looks up.
    looked_up: tuple[str, ...] = ()
    #: See Submit.
    queue_pending_max: int | None = None


class BackfillSchedule(Command[Backfilled], frozen=True):
    """Make the tasks of past ticks."""

    name: str
    #: What the ticks were worked out from.
    definition: Definition
    ticks: tuple[int, ...]
    #: See Submit.
    queue_pending_max: int | None = None


class RemoveSchedule(Command[None], frozen=True, gc=False):
    """Remove a schedule."""

    name: str


class Dispatch(Command[None], frozen=True, gc=False):
    """Hand pending tasks to members that have room."""


#: Every command; a test checks that none is missing.
AnyCommand = (
    Submit
    | Cancel
    | OpenSession
    | ReceiveFrame
    | CloseSession
    | Join
    | Leave
    | DrainMember
    | Heartbeat
    | CompleteTask
    | TellProgress
    | RefuseStart
    | ConfirmStop
    | DenyStop
    | Tick
    | ExtendLeases
    | TakeBackOrphans
    | RetryTask
    | Purge
    | CancelTasks
    | RetryTasks
    | UpdateTask
    | SealGroup
    | PauseQueue
    | ConfigureQueue
    | Dispatch
    | AddSchedule
    | PauseSchedule
    | ResumeSchedule
    | TriggerSchedule
    | BackfillSchedule
    | RemoveSchedule
)


class RefusalCode(Struct, frozen=True):
    """The name of a grpc.StatusCode, and a constant reason."""

    status: str
    reason: str


INVALID = RefusalCode("INVALID_ARGUMENT", "INVALID_ARGUMENT")
TASK_UNKNOWN = RefusalCode("NOT_FOUND", "TASK_UNKNOWN")
MEMBER_UNKNOWN = RefusalCode("NOT_FOUND", "MEMBER_UNKNOWN")
TASK_EXISTS = RefusalCode("ALREADY_EXISTS", "TASK_EXISTS")
NAME_TAKEN = RefusalCode("ALREADY_EXISTS", "NAME_TAKEN")
NOT_THE_OWNER = RefusalCode("PERMISSION_DENIED", "NOT_THE_OWNER")
TASK_FINISHED = RefusalCode("FAILED_PRECONDITION", "TASK_FINISHED")
TASK_RUNNING = RefusalCode("FAILED_PRECONDITION", "TASK_RUNNING")
TASK_EXPIRED = RefusalCode("FAILED_PRECONDITION", "TASK_EXPIRED")
KEY_TAKEN = RefusalCode("FAILED_PRECONDITION", "KEY_TAKEN")
NOT_FINISHED = RefusalCode("FAILED_PRECONDITION", "NOT_FINISHED")
NOT_HELD = RefusalCode("FAILED_PRECONDITION", "NOT_HELD")
STALE_FENCE = RefusalCode("FAILED_PRECONDITION", "STALE_FENCE")
TOO_MANY_MEMBERS = RefusalCode("RESOURCE_EXHAUSTED", "TOO_MANY_MEMBERS")
TOO_MANY_SESSIONS = RefusalCode("RESOURCE_EXHAUSTED", "TOO_MANY_SESSIONS")
TOO_MANY_TASKS = RefusalCode("RESOURCE_EXHAUSTED", "TOO_MANY_TASKS")
CALLER_LIMIT = RefusalCode("RESOURCE_EXHAUSTED", "CALLER_LIMIT")
TOO_MANY_FINISHED = RefusalCode("RESOURCE_EXHAUSTED", "TOO_MANY_FINISHED")
TOO_MANY_LANES = RefusalCode("RESOURCE_EXHAUSTED", "TOO_MANY_LANES")
TOO_MANY_RANGES = RefusalCode("RESOURCE_EXHAUSTED", "TOO_MANY_RANGES")
TOO_MANY_KEYS = RefusalCode("RESOURCE_EXHAUSTED", "TOO_MANY_KEYS")
TOO_MANY_QUEUES = RefusalCode("RESOURCE_EXHAUSTED", "TOO_MANY_QUEUES")
TOO_MANY_DEPENDENTS = RefusalCode("RESOURCE_EXHAUSTED", "TOO_MANY_DEPENDENTS")
UPSTREAM_UNKNOWN = RefusalCode("FAILED_PRECONDITION", "UPSTREAM_UNKNOWN")
UPSTREAM_IN_CIRCLE = RefusalCode("INVALID_ARGUMENT", "UPSTREAM_IN_CIRCLE")
GROUP_UNKNOWN = RefusalCode("NOT_FOUND", "GROUP_UNKNOWN")
GROUP_SEALED = RefusalCode("FAILED_PRECONDITION", "GROUP_SEALED")
GROUP_ENDED = RefusalCode("FAILED_PRECONDITION", "GROUP_ENDED")
NO_CHILD = RefusalCode("FAILED_PRECONDITION", "NO_CHILD")
HAS_DEPENDENTS = RefusalCode("FAILED_PRECONDITION", "HAS_DEPENDENTS")
ID_RESERVED = RefusalCode("FAILED_PRECONDITION", "ID_RESERVED")
SCHEDULE_UNKNOWN = RefusalCode("NOT_FOUND", "SCHEDULE_UNKNOWN")
SCHEDULE_EXISTS = RefusalCode("ALREADY_EXISTS", "SCHEDULE_EXISTS")
SCHEDULE_CHANGED = RefusalCode("ABORTED", "SCHEDULE_CHANGED")
TOO_MANY_SCHEDULES = RefusalCode("RESOURCE_EXHAUSTED", "TOO_MANY_SCHEDULES")
TOO_MANY_RUNS = RefusalCode("RESOURCE_EXHAUSTED", "TOO_MANY_RUNS")
LEASE_EXPIRED = RefusalCode("UNAVAILABLE", "LEASE_EXPIRED")
REPLACED = RefusalCode("ABORTED", "SESSION_REPLACED")


class Refused(Struct, frozen=True):
    """The answer to a command that is refused."""

    code: RefusalCode
    #: What is wrong and what to do, for people.
    message: str
    #: For bad input: (field, what is wrong with it).
    violations: tuple[tuple[str, str], ...] = ()


Answer = (
    Submitted
    | Purged
    | Cancelled
    | Retried
    | GroupState
    | Refused
    | QueueSettings
    | ScheduleAdded
    | ScheduleResumed
    | Triggered
    | Backfilled
    | None
)
