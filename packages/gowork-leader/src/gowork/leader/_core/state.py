"""What the leader knows, in memory: the tasks that are in play, who is there, and indexes over both.

Only `apply` changes a State. Everything in it but the connections and leases can be rebuilt from the store.
"""

from __future__ import annotations

from gowork.leader._core.commands import OpenSession
from gowork.leader._core.facts import Facts
from gowork.leader._core.forms import Forms
from gowork.leader._core.model import Brief, HandlerPolicy, HeartbeatStatus, Liveness, Task
from gowork.leader._core.pending import Pending
from gowork.leader._core.queues import Queues
from gowork.leader._core.timers import Timers

#: Members that have gone and are still listed.
DEPARTED_MAX = 1000
#: Tasks that one worker holds at most.
HELD_MAX = 100_000


class Settings:
    """Spans of time that the leader goes by, in seconds, and bounds of what it keeps."""

    __slots__ = (
        "callback_absent_grace",
        "callback_idle_grace",
        "callback_lease",
        "callback_stop_grace",
        "challenge_wait",
        "finished_full",
        "lane_page",
        "lane_tasks_min",
        "lanes_max",
        "lease",
        "pending_max",
        "reconnect_grace",
        "sessions_max",
        "timers_max",
        "traced",
        "window_tasks",
    )

    def __init__(
        self,
        *,
        lease: float = 10.0,
        reconnect_grace: float = 1.0,
        callback_lease: float = 45.0,
        callback_idle_grace: float = 10.0,
        callback_stop_grace: float = 20.0,
        callback_absent_grace: float = 2.0,
        challenge_wait: float = 2.0,
        sessions_max: int = 10_000,
        pending_max: int = 10_000_000,
        finished_full: int = 2_200_000,
        lanes_max: int = 100_000,
        window_tasks: int = 100_000,
        lane_page: int = 8_000,
        lane_tasks_min: int = 64,
        timers_max: int = 50_000,
        traced: bool = False,
    ) -> None:
        #: How long a silent worker keeps its tasks.
        self.lease = lease
        #: How long a worker whose stream has broken keeps them.
        self.reconnect_grace = reconnect_grace
        #: How long a callback worker may be silent.
        self.callback_lease = callback_lease
        #: How long after it was dialled a callback worker that says that it is idle may not have heard of the call:
        #: longer than a call may take.
        self.callback_idle_grace = callback_idle_grace
        #: How long a callback worker has to stop a task whose time limit has passed.
        self.callback_stop_grace = callback_stop_grace
        #: How long the report of a task may be under way that its callback worker no longer has.
        self.callback_absent_grace = callback_absent_grace
        #: How long the holder of a name has to answer a ping.
        self.challenge_wait = challenge_wait
        self.sessions_max = sessions_max
        self.pending_max = pending_max
        #: Finished tasks beyond which nothing new is taken.
        self.finished_full = finished_full
        #: Combinations of queue, priority, handler, selector and concurrency key that may have waiting tasks.
        self.lanes_max = lanes_max
        #: Waiting tasks in memory: a lane may have half of what is left of it, but at least `lane_tasks_min`.
        self.window_tasks = window_tasks
        self.lane_tasks_min = lane_tasks_min
        #: Tasks of one lane that are paged in at a time.
        self.lane_page = lane_page
        #: Times of delayed tasks, and of expiring ones, in memory.
        self.timers_max = timers_max
        #: Spans are made of how attempts are settled.
        self.traced = traced


class Worker:
    """A supervisor process that holds, or held a moment ago, a session."""

    __slots__ = (
        "blocked",
        "connection",
        "credit",
        "default_policy",
        "drain_ms",
        "draining",
        "granted",
        "held",
        "instance",
        "joined_ms",
        "labels",
        "name",
        "peer",
        "plugin_errors",
        "policies",
        "seen_ms",
        "slots",
        "version",
    )

    def __init__(self, instance: str, name: str) -> None:
        self.instance = instance
        self.name = name
        #: The number of its stream; None while it is away.
        self.connection: int | None = None
        self.slots = 0
        self.policies: dict[str, HandlerPolicy] = {}
        self.default_policy: HandlerPolicy | None = None
        self.labels: dict[str, str] = {}
        self.version = ""
        self.plugin_errors: tuple[str, ...] = ()
        self.peer = ""
        #: Grants that it takes over this connection, and those that it was sent.
        self.credit = 0
        self.granted = 0
        #: {fence: task id}
        self.held: dict[int, str] = {}
        #: It has said that it wants no more.
        self.draining = False
        #: It was asked to drain, with this budget in milliseconds, 0 being its own; None: it was not.
        self.drain_ms: int | None = None
        self.blocked = False
        self.joined_ms = 0
        self.seen_ms = 0

    @property
    def liveness(self) -> Liveness:
        if self.drain_ms is not None:
            # Also while it is away for a moment: it is told again when it is back.
            return Liveness.DRAINING
        if self.connection is None:
            return Liveness.LOST
        if self.is_draining:
            return Liveness.DRAINING
        return Liveness.BLOCKED if self.blocked else Liveness.LIVE

    @property
    def room(self) -> int:
        """How many more grants it takes now."""
        if self.connection is None or self.draining or self.drain_ms is not None:
            return 0
        # The worker chooses its credit, so the number of tasks that it holds has a bound of its own.
        return min(self.credit - self.granted, HELD_MAX - len(self.held))

    def policy_for(self, handler: str) -> HandlerPolicy | None:
        """The handler as this worker has it, or None; an empty name is its default handler."""
        return self.policies.get(handler) if handler else self.default_policy

    @property
    def is_draining(self) -> bool:
        """Whether it takes nothing new, by its own word or the leader's."""
        return self.draining or self.drain_ms is not None

    def can_run(self, handler: str, selector: tuple[tuple[str, str], ...]) -> bool:
        """Whether it has the handler and the labels."""
        if self.policy_for(handler) is None:
            return False
        labels = self.labels
        return all(labels.get(key) == value for key, value in selector)


class Dialled:
    """The task that a callback worker holds, and what is known of it since the member was dialled."""

    __slots__ = ("absent", "adopted", "fence", "id", "idle_beats", "overdue", "refusals", "since_mono", "stop_mono")

    def __init__(self, fence: int, id: str, *, adopted: bool = False) -> None:
        self.fence = fence
        self.id = id
        #: It was held when this leader started: nobody knows whether the member was dialled.
        self.adopted = adopted
        self.since_mono = 0.0
        #: Heartbeats in a row that said that the member is idle.
        self.idle_beats = 0
        #: How often it was dialled in vain.
        self.refusals = 0
        #: Its time limit has passed.
        self.overdue = False
        #: When the member was last asked to stop it; None: never by this leader.
        self.stop_mono: float | None = None
        #: The member was asked to stop it and does not have it.
        self.absent = False


class Callback:
    """A callback worker."""

    __slots__ = ("address", "draining", "held", "id", "joined_ms", "seen_ms", "status", "unreachable")

    def __init__(self, id: str, address: str, joined_ms: int) -> None:
        self.id = id
        self.address = address
        self.status: HeartbeatStatus | None = None
        self.held: Dialled | None = None
        #: Why it could not be given a task since its last heartbeat; empty when it could.
        self.unreachable = ""
        #: It gets nothing more until it joins again.
        self.draining = False
        self.joined_ms = joined_ms
        self.seen_ms = joined_ms

    @property
    def free(self) -> bool:
        return (
            self.held is None
            and not self.unreachable
            and not self.draining
            and self.status not in (HeartbeatStatus.FAILED, HeartbeatStatus.BUSY)
        )


class Departed:
    """A member that has gone, as it is still listed."""

    __slots__ = ("address", "id", "is_callback", "joined_ms", "liveness", "seen_ms", "version")

    def __init__(self, member: Worker | Callback, liveness: Liveness, at_ms: int) -> None:
        self.is_callback = isinstance(member, Callback)
        if isinstance(member, Callback):
            self.id, self.address, self.version = member.id, member.address, ""
        else:
            self.id, self.address, self.version = member.name, member.peer, member.version
        self.joined_ms = member.joined_ms
        self.seen_ms = at_ms
        self.liveness = liveness

    @property
    def may_come_back(self) -> bool:
        """It is a callback worker whose lease ran out: its next heartbeat makes it a member again."""
        return self.is_callback and self.liveness is Liveness.LOST


class State:
    """Everything that `decide` may look at."""

    __slots__ = (
        "briefs",
        "callback_deadlines",
        "callback_leases",
        "callbacks",
        "challenges",
        "connections",
        "delayed",
        "departed",
        "expiring",
        "facts",
        "failed_tasks",
        "fence",
        "finished_tasks",
        "forms",
        "graces",
        "held_up_until",
        "leases",
        "names",
        "next_seq",
        "pending",
        "queues",
        "settings",
        "tasks",
        "workers",
    )

    def __init__(self, settings: Settings, *, fence: int, next_seq: int) -> None:
        """An empty state.

        Args:
            settings: spans and bounds.
            fence: every grant gets a higher one.
            next_seq: the place of the next task.
        """
        self.settings = settings
        self.fence = fence
        self.next_seq = next_seq
        #: {id: task}: running tasks, those in a lane's window, and others while a batch needs them.
        self.tasks: dict[str, Task] = {}
        self.queues = Queues(
            window=settings.window_tasks, lane_min=settings.lane_tasks_min, lane_low=settings.lane_page // 4
        )
        #: What this batch's removals must know of tasks that are not in memory.
        self.briefs: dict[str, Brief] = {}
        #: How many finished tasks the store has in all, and how many of them with ERROR.
        self.finished_tasks = 0
        self.failed_tasks = 0
        #: When delayed tasks may start, and when pending ones expire.
        self.delayed = Timers(settings.timers_max)
        self.expiring = Timers(settings.timers_max)
        #: {instance: worker}
        self.workers: dict[str, Worker] = {}
        #: In which forms they have their handlers.
        self.forms = Forms()
        #: {connection: worker}
        self.connections: dict[int, Worker] = {}
        #: {name: the worker that came last by this name}
        self.names: dict[str, Worker] = {}
        #: {id: member}
        self.callbacks: dict[str, Callback] = {}
        #: {instance or id: monotonic time}, the first to run out first.
        self.leases: dict[str, float] = {}
        self.graces: dict[str, float] = {}
        self.callback_leases: dict[str, float] = {}
        #: No grace ends before: the leader was held up, and workers that gave it up are on their way back.
        self.held_up_until = 0.0
        #: {id of a callback worker: when something becomes of the task that it holds, in monotonic time}
        self.callback_deadlines: dict[str, float] = {}
        #: {name: (the newcomer's hello, how long it waits)}
        self.challenges: dict[str, tuple[OpenSession, float]] = {}
        #: {name: a member that has gone}, oldest first.
        self.departed: dict[str, Departed] = {}
        #: What outlives this leader beside the tasks.
        self.facts = Facts()
        #: What the batch in hand has brought about; see step.take.
        self.pending = Pending()
