"""The values that the leader reasons about: tasks, where they stand, and who may hold them.

Owns the words of the domain (docs/glossary.md); never does I/O. Times named `_ms` are wall-clock milliseconds since
the Unix epoch; times named `_mono` are seconds of the monotonic clock and are never stored.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from gowork.proto.limits import TIME_MS_MAX


class Status(enum.IntEnum):
    """Where a task stands; the numbers are those of scheduler.v1.TaskStatus."""

    PENDING = 1
    RUNNING = 2
    COMPLETED = 3
    CANCELLED = 4
    ERROR = 5

    # An enum's own hash is a call into Python for each look-up.
    __hash__ = int.__hash__


#: The members by themselves, for hot paths: looking one up in its class takes 0.1 µs on Python 3.11.
PENDING, RUNNING, COMPLETED, ERROR = Status.PENDING, Status.RUNNING, Status.COMPLETED, Status.ERROR
CANCELLED: Final = Status.CANCELLED
#: Statuses that a task never leaves by itself; all from COMPLETED on.
FINISHED = frozenset({Status.COMPLETED, Status.CANCELLED, Status.ERROR})
#: {status of a task: statuses that may follow it}. None means that there is no task: before its submit and after its
#: removal. The property tests check that `decide` makes all of these moves and no others, and that the diagram in
#: ARCHITECTURE.md shows the same.
MOVES: Mapping[Status | None, frozenset[Status | None]] = {
    None: frozenset({Status.PENDING}),
    # COMPLETED: a group that no handler runs.
    Status.PENDING: frozenset({Status.RUNNING, Status.COMPLETED, Status.CANCELLED, Status.ERROR}),
    Status.RUNNING: frozenset({Status.PENDING, Status.COMPLETED, Status.CANCELLED, Status.ERROR}),
    Status.COMPLETED: frozenset({None}),
    # By RetryTask, and by that of a task after which this one was to run.
    Status.CANCELLED: frozenset({Status.PENDING, None}),
    Status.ERROR: frozenset({Status.PENDING, None}),
}


class Place(enum.IntEnum):
    """Where a pending task waits: in exactly one of these places (LANE-ENTRY).

    `Task.place` says in which one. `apply` puts tasks into places and takes them out. The type check fails when `apply`
    leaves out a place.
    """

    #: In memory, in the window of its lane: it may run, and `dispatch` sees it.
    WINDOW = 1
    #: In the store alone: it may run, its lane counts it, and it enters the window when the window runs low.
    REST = 2
    #: In the store alone: it may not run yet. Its queue counts it, and `State.delayed` has its time.
    TIMER = 3
    #: In the store alone: it waits for tasks after which it runs; see `upstream`. Its queue counts it as delayed.
    BLOCKED = 4

    __hash__ = int.__hash__


#: The members by themselves, for the same reason as above.
WINDOW: Final = Place.WINDOW
REST: Final = Place.REST
TIMER: Final = Place.TIMER
BLOCKED: Final = Place.BLOCKED

#: `Standing.not_before_ms` of a task that waits for others: a time that never comes, so that a leader or a store that
#: knows nothing of dependencies never starts it.
BLOCKED_MS: Final = 1 << 60


class Priority(enum.IntEnum):
    """Which tasks of a queue go first; the numbers are those of scheduler.v1.TaskPriority. LOW is the default."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3

    __hash__ = int.__hash__


class Outcome(enum.IntEnum):
    """How an attempt ended; the numbers are those of scheduler.v1.AttemptOutcome."""

    __hash__ = int.__hash__

    COMPLETED = 1
    FAILED = 2
    TIMED_OUT = 3
    LOST = 4
    INTERRUPTED = 5
    CANCELLED = 6
    SNOOZED = 7
    WAITING = 8


class FailureKind(enum.IntEnum):
    """Why a task failed; the numbers are those of scheduler.v1.FailureKind."""

    HANDLER = 1
    TIMEOUT = 2
    QUARANTINED = 3
    EXPIRED = 4
    REJECTED = 5
    NO_RETRY = 6
    LOST = 7
    UPSTREAM = 8


class OnLost(enum.IntEnum):
    """What becomes of a task whose attempt was lost; the numbers are those of scheduler.v1.OnLost."""

    AGAIN = 1
    FAIL = 2


class AfterRule(enum.IntEnum):
    """How the tasks after which a task runs must have ended; the numbers are those of scheduler.v1.AfterRule."""

    ALL_COMPLETED = 1
    ALL_FINISHED = 2
    ANY_FAILED = 3


class WaitCode(enum.IntEnum):
    """What keeps a task from starting, or has ended it; the numbers are those of scheduler.v1.WaitCode."""

    NO_HANDLER = 1
    SELECTOR = 2
    DRAINING = 3
    NO_SLOT = 4
    QUEUE_PAUSED = 5
    QUEUE_LIMIT = 6
    KEY_LIMIT = 7
    RATE_LIMIT = 8
    DELAYED = 9
    RETRY_DELAY = 10
    EXPIRED = 11
    QUARANTINED = 12
    STORE_FULL = 13
    FAILED = 14
    CANCELLED = 15
    UNREACHABLE = 16
    MEMBER_FAILED = 17
    UNFIT = 18
    PLUGIN_VERSION = 19
    QUEUE_NOT_TAKEN = 20
    UPSTREAM = 21
    UPSTREAM_FAILED = 22


class Liveness(enum.IntEnum):
    """How a member is; the numbers are those of cluster.v1.MemberLiveness."""

    LIVE = 1
    BLOCKED = 2
    LOST = 3
    DRAINING = 4
    LEFT = 5


class HeartbeatStatus(enum.IntEnum):
    """What a callback worker says about itself; the numbers are those of cluster.v1.HeartbeatStatus."""

    IDLE = 1
    BUSY = 2
    FAILED = 3


class RetryPolicy(Struct, frozen=True, array_like=True, gc=False):
    """When and how often to try again; see scheduler.v1.RetryPolicy. Defaults are filled in."""

    max_attempts: int = 1
    initial_delay_ms: int = 1000
    factor: float = 2.0
    max_delay_ms: int = 300_000
    #: By which share of itself, 0 to 1, a delay may become shorter.
    jitter: float = 0.0
    no_retry: tuple[str, ...] = ()


class Failure(Struct, frozen=True, array_like=True, gc=False):
    """What went wrong with the last attempt."""

    kind: FailureKind
    message: str = ""
    type: str = ""
    traceback: str = ""


class Plugin(Struct, frozen=True, array_like=True, gc=False):
    """The plugin that a worker's handler comes from, as its Hello told. It is stored, so new fields go at the end."""

    name: str
    #: The version of its distribution; empty where there is none.
    version: str = ""


class Attempt(Struct, frozen=True, array_like=True, gc=False):
    """One ended run of a task. It is stored, so new fields go at the end."""

    #: Counts the task's grants from 1.
    number: int
    worker: str
    started_ms: int
    ended_ms: int
    outcome: Outcome
    reason: str
    fence: int
    #: The traceparent of the attempt's span; empty when it was not traced.
    trace: str = ""
    #: By which plugin it was run; None when that is not known.
    plugin: Plugin | None = None
    #: Its outcome is WAITING. It is stored as SNOOZED, because older leaders read no standing with another outcome.
    waits: bool = False

    @property
    def ended_as(self) -> Outcome:
        """How it ended."""
        return Outcome.WAITING if self.waits else self.outcome


class Progress(Struct, frozen=True, gc=False):
    """How far a handler says that it has come; kept in memory only."""

    fraction: float
    message: str
    updated_ms: int


class LaneKey(NamedTuple):
    """What decides which workers can run a task, and in which order.

    Tasks of one lane differ, for dispatch, only in their order.
    """

    queue: str
    priority: Priority
    #: Empty for the worker's default handler.
    handler: str
    #: Labels that the worker must carry, sorted by key; first the range of its plugin's version, if the task has one
    #: (`ranges`).
    selector: tuple[tuple[str, str], ...]
    #: Tasks of one queue with the same key share a limit; empty: no key.
    concurrency_key: str = ""


class QueueSettings(Struct, frozen=True, array_like=True, gc=False):
    """What an operator has set for a queue. It is stored as it is, so new fields go at the end."""

    paused: bool = False
    #: Its share of the slots, in proportion to the weights of other queues.
    weight: int = 1
    #: How many tasks may run at once; 0: no limit.
    concurrency_limit: int = 0
    #: How many tasks of one concurrency key may run at once; 0: no limit.
    key_concurrency_limit: int = 0
    #: How many tasks may start in a second; 0: no limit.
    rate_limit: float = 0.0
    #: With a rate limit: how many tasks may start at once. 0: as many as in one second, and at least 1.
    rate_burst: int = 0


class Group(Struct, frozen=True, array_like=True, gc=False):
    """What makes a task a group: it comes after its children; see `dependents`."""

    #: How many children it will have; None: it is open, and SealGroup says so later.
    children: int | None = None


#: The tag of scheduler.v1.Task.traceparent: field 15, length-delimited.
_TRACEPARENT_TAG = 15 << 3 | 2


class Spec(Struct, frozen=True, gc=False):
    """What a client asked for. It never changes: a task that is changed gets another one."""

    id: str
    lane: LaneKey
    #: The serialized scheduler.v1.Task with only the fields that the client may set. Equal bytes mean the same task.
    body: bytes
    #: When its first attempt may start; 0: at once.
    run_at_ms: int = 0
    #: When it expires unless it has started; 0: never.
    expires_at_ms: int = 0
    retry: RetryPolicy | None = None
    #: Sorted by key.
    labels: tuple[tuple[str, str], ...] = ()
    #: Whether the payload is bytes. A callback worker can take only text.
    binary: bool = False
    #: A serialized scheduler.v1.Task with only traceparent, tracestate and payload_form, or nothing. It is apart from
    #: the body because a repeated submit has another trace context and older clients name no form. `body + trace` is
    #: the whole task: messages merge by concatenation.
    trace: bytes = b""
    #: How long after its submit its first attempt may start, and how long after it the task expires. 0: the client gave
    #: no length of time. `reckoned` makes `run_at_ms` and `expires_at_ms` of them.
    delay_ms: int = 0
    expires_in_ms: int = 0
    #: How long one attempt may run; 0: the task has no limit of its own. Workers with a session keep the limit
    #: themselves. The leader keeps it for callback workers.
    time_limit_ms: int = 0
    #: No other task of this key is made while it is unfinished; empty: it has none. See `unique`.
    unique_key: str = ""
    #: For how long after its submit it has the key at least; 0: until it has ended.
    unique_for_ms: int = 0
    #: None: what its handler says, else AGAIN.
    on_lost: OnLost | None = None
    #: The ids of the tasks after which it runs, and how those must have ended.
    after: tuple[str, ...] = ()
    after_rule: AfterRule = AfterRule.ALL_COMPLETED
    #: None: it is no group.
    group: Group | None = None

    @property
    def waits_for_others(self) -> bool:
        """Whether it runs after others: after tasks that it names, or after its children."""
        return bool(self.after) or self.group is not None

    @property
    def completes_by_itself(self) -> bool:
        """Whether no handler runs it: it is a group that completes when its children have ended."""
        return self.group is not None and not self.lane.handler

    def kept_until_ms(self, created_ms: int, finished_ms: int) -> int:
        """Returns until when a task that has ended has its unique key; 0: it no longer has it."""
        until_ms = min(created_ms + self.unique_for_ms, TIME_MS_MAX)
        return until_ms if self.unique_for_ms and until_ms > finished_ms else 0

    def reckoned(self, created_ms: int) -> Spec:
        """Returns the spec with `run_at_ms` and `expires_at_ms` as they follow from a submit at `created_ms`."""
        if not self.delay_ms and not self.expires_in_ms:
            return self
        return replace(
            self,
            run_at_ms=min(created_ms + self.delay_ms, TIME_MS_MAX) if self.delay_ms else self.run_at_ms,
            expires_at_ms=(
                min(created_ms + self.expires_in_ms, TIME_MS_MAX) if self.expires_in_ms else self.expires_at_ms
            ),
        )

    @property
    def traceparent(self) -> str:
        """The trace context in which it was scheduled; empty when that was not traced."""
        trace = self.trace
        # The first field: a tag, a length that fits one byte (limits.TRACEPARENT_BYTES_MAX), and the text.
        return trace[2 : 2 + trace[1]].decode() if trace and trace[0] == _TRACEPARENT_TAG else ""


class Edit(Struct, frozen=True, array_like=True, gc=False):
    """What was changed of a task since it was submitted. It is stored, so new fields go at the end."""

    #: A digest of the body with which it was submitted, so that a repeat of that submit is known; see `digest_of`.
    asked: bytes
    #: When it was changed last.
    changed_ms: int
    #: The names of the fields of scheduler.v1.Task that were changed, sorted.
    fields: tuple[str, ...]
    #: The seq with which it was submitted: each change gives it another one.
    seq: int


class Standing(Struct, frozen=True, array_like=True, gc=False):
    """Where a task stands.

    Every change replaces it as a whole. It is stored as it is, so new fields go at the end.
    """

    status: Status
    created_ms: int
    #: The fence of the latest grant; 0 before the first.
    fence: int = 0
    #: How many grants the task has had.
    grants: int = 0
    #: Attempts that count towards max_attempts.
    attempts_used: int = 0
    #: Name of the member that holds it, or ran it last.
    worker: str = ""
    #: The instance of that worker; empty for a callback worker.
    instance: str = ""
    started_ms: int = 0
    finished_ms: int = 0
    #: JSON text; empty when there is none.
    result: str = ""
    result_data: bytes = b""
    failure: Failure | None = None
    cancel_requested: bool = False
    #: While it is pending: it is not granted before this time. 0: it may run now. It becomes 0 when the time has come.
    not_before_ms: int = 0
    #: The last ATTEMPTS_KEPT attempts that have ended, oldest first.
    attempts: tuple[Attempt, ...] = ()
    #: How often it was lost while it ran alone in its runner.
    lost_alone: int = 0
    #: It was lost with its runner, and runs alone from now on.
    suspect: bool = False
    #: How many attempts in a row, up to the last one, were uncounted; see `attempts`.
    uncounted: int = 0
    #: The handler returned empty bytes, not nothing.
    result_is_empty_data: bool = False
    #: Forms of its handler that its payload was found not to fit.
    unfit: tuple[str, ...] = ()
    #: While it runs: the plugin whose handler its worker has for it; None when that is not known. Tasks of one session
    #: and handler share the object.
    plugin: Plugin | None = None
    #: None: it was never changed.
    edit: Edit | None = None
    #: While it runs: it ends with ERROR if this attempt is lost (OnLost.FAIL). The grant decides that, because a leader
    #: that takes it back need not know its handler.
    fails_if_lost: bool = False
    #: A person has had it run again, and it has not been granted since.
    retried: bool = False
    #: What the last attempt has handed on to the next one; empty: nothing, or the task has ended.
    checkpoint: bytes = b""
    #: How often a handler of it has ended with a continuation; see `continuing`.
    continued: int = 0


class Task(Struct, gc=False):
    """A task in memory. Only `apply` assigns to it."""

    #: Its number in the order of submission, over the whole store.
    seq: int
    spec: Spec
    standing: Standing
    #: The number of the batch that changed it last; see `changed_number` in `store.protocol`.
    changed: int = 0
    #: It has an entry in its lane's window, live or stale.
    queued: bool = False
    #: That entry is live: its place is the window.
    in_window: bool = False
    progress: Progress | None = None

    @property
    def place(self) -> Place | None:
        """Where it waits; None when it is not pending."""
        standing = self.standing
        if standing.status is not PENDING:
            return None
        if standing.not_before_ms:
            return TIMER if standing.not_before_ms < BLOCKED_MS else BLOCKED
        return WINDOW if self.in_window else REST


class Fact(Struct, frozen=True, gc=False):
    """A small record that is not a task, as it is stored; see `facts`."""

    #: The name of its kind.
    kind: str
    #: Which fact of its kind it is; not empty.
    key: str
    value: bytes


class FactKey(NamedTuple):
    """What names a fact."""

    kind: str
    key: str


class Position(Struct, frozen=True, gc=False):
    """How far a store has come in a log that several leaders share."""

    #: The id of the log's generation.
    generation: str
    #: The index of the last entry that the store has applied.
    index: int
    #: The SHA-256 of that entry, or 32 zero bytes before the first entry of a generation.
    hash: bytes


class Restored(Struct, frozen=True, gc=False):
    """What tells which tasks came with the backup that a store was restored from. They may have run since."""

    #: All of them have smaller numbers (Task.seq), and all tasks that were submitted since have not.
    seq_below: int
    #: Fences that were granted before the restore are smaller, and all others are not.
    fence_below: int


class Brief(Struct, frozen=True, gc=False):
    """What the removal of a task needs to know about it."""

    seq: int
    id: str
    status: Status
    finished_ms: int


class HandlerPolicy(Struct, frozen=True, gc=False):
    """A handler as a worker advertises it."""

    name: str
    is_default: bool = False
    retry: RetryPolicy | None = None
    #: What payloads it reads; empty when it reads any, or does not say. See worker.v1.HandlerInfo.
    form: str = ""
    #: The plugin that it comes from; None when the worker does not say.
    plugin: Plugin | None = None
    #: The digest of its description; empty when the worker does not say.
    digest: str = ""
    #: For tasks that do not say it themselves.
    on_lost: OnLost | None = None


class Now(NamedTuple):
    """The time as a decision sees it."""

    wall_ms: int
    mono: float
