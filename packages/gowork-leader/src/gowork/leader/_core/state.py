"""What the leader has in memory: the tasks that it needs now, the members, and indexes over both.

Only `apply` changes a State. All of it can be rebuilt from the store, except the connections and leases.
"""

from __future__ import annotations

from gowork.leader._core.agenda import Agenda
from gowork.leader._core.checkpoints import Checkpoints
from gowork.leader._core.commands import OpenSession
from gowork.leader._core.dependents import Dependents
from gowork.leader._core.facts import Facts
from gowork.leader._core.forms import Forms
from gowork.leader._core.kept_keys import KeptKeys
from gowork.leader._core.model import Brief, HandlerPolicy, HeartbeatStatus, Liveness, Restored, Task
from gowork.leader._core.pending import Pending
from gowork.leader._core.queues import Queues
from gowork.leader._core.ranges import has_version, labels_of, range_of
from gowork.leader._core.reserved import Reserved
from gowork.leader._core.roster import Roster
from gowork.leader._core.schedules import Declared
from gowork.leader._core.timers import Timers

#: How many members that have gone are still listed.
DEPARTED_MAX = 1000
#: How many tasks one worker may hold.
HELD_MAX = 100_000


class Settings:
    """The leader's spans of time, in seconds, and its bounds."""

    __slots__ = (
        "callback_absent_grace",
        "callback_adopted_grace",
        "callback_idle_grace",
        "callback_lease",
        "callback_stop_grace",
        "challenge_wait",
        "finished_full",
        "lane_min",
        "lane_page",
        "lanes_max",
        "lease",
        "pending_max",
        "reconnect_grace",
        "sessions_max",
        "timers_max",
        "traced",
        "window",
    )

    def __init__(
        self,
        *,
        lease: float = 10.0,
        reconnect_grace: float = 1.0,
        callback_adopted_grace: float = 0.0,
        callback_lease: float = 45.0,
        callback_idle_grace: float = 10.0,
        callback_stop_grace: float = 20.0,
        callback_absent_grace: float = 2.0,
        challenge_wait: float = 2.0,
        sessions_max: int = 10_000,
        pending_max: int = 10_000_000,
        finished_full: int = 2_200_000,
        lanes_max: int = 100_000,
        window: int = 250_000,
        lane_page: int = 8_000,
        lane_min: int = 64,
        timers_max: int = 50_000,
        traced: bool = False,
    ) -> None:
        #: How long a silent worker keeps its tasks.
        self.lease = lease
        #: How long a worker whose stream has broken keeps its tasks.
        self.reconnect_grace = reconnect_grace
        #: How long a callback worker may be silent.
        self.callback_lease = callback_lease
        #: For how long after a start a callback worker may still say that it is idle though an earlier leader has
        #: granted it a task, because that leader may still call it.
        self.callback_adopted_grace = callback_adopted_grace
        #: For how long after it was dialled a callback worker may still say that it is idle, because the call has not
        #: reached it; longer than a call may take.
        self.callback_idle_grace = callback_idle_grace
        #: How long a callback worker has to stop a task whose time limit has passed.
        self.callback_stop_grace = callback_stop_grace
        #: How long a report may be under way from a callback worker that no longer has the task.
        self.callback_absent_grace = callback_absent_grace
        #: How long the holder of a name has to answer a ping.
        self.challenge_wait = challenge_wait
        self.sessions_max = sessions_max
        self.pending_max = pending_max
        #: With more finished tasks than this, the leader takes no new tasks.
        self.finished_full = finished_full
        #: How many lanes may have waiting tasks.
        self.lanes_max = lanes_max
        #: What the waiting tasks in memory may weigh; see Lane.weight. A lane may have half of the room that is
        #: left, but at least `lane_min`, and one task in any case.
        self.window = window
        self.lane_min = lane_min
        #: What the tasks of one lane that are paged in at a time may weigh.
        self.lane_page = lane_page
        #: How many timers of delayed tasks memory holds, and as many of expiring ones.
        self.timers_max = timers_max
        #: Whether spans are made of how attempts are settled.
        self.traced = traced


class Worker:
    """A worker instance that has a session, or had one a moment ago."""

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
        "queues",
        "schedules",
        "seen_ms",
        "slots",
        "told",
        "version",
    )

    def __init__(self, instance: str, name: str) -> None:
        self.instance = instance
        self.name = name
        #: The number of its stream; None while it is not connected.
        self.connection: int | None = None
        self.slots = 0
        self.policies: dict[str, HandlerPolicy] = {}
        self.default_policy: HandlerPolicy | None = None
        self.labels: dict[str, str] = {}
        #: The queues whose tasks it takes; empty: those of all.
        self.queues: frozenset[str] = frozenset()
        #: The schedules that it declares.
        self.schedules: tuple[Declared, ...] = ()
        self.version = ""
        self.plugin_errors: tuple[str, ...] = ()
        self.peer = ""
        #: How many grants it takes over this connection, and how many it was sent.
        self.credit = 0
        self.granted = 0
        #: {fence: task id}
        self.held: dict[int, str] = {}
        #: The worker has said that it takes no more.
        self.draining = False
        #: The budget of the drain that the leader asked for, in milliseconds; 0: the worker's own; None: no drain.
        self.drain_ms: int | None = None
        self.blocked = False
        self.joined_ms = 0
        self.seen_ms = 0
        #: The number of the last news that name it; see Roster.
        self.told = -1

    @property
    def liveness(self) -> Liveness:
        if self.drain_ms is not None:
            # Also while it is not connected: it is asked again when it reconnects.
            return Liveness.DRAINING
        if self.connection is None:
            return Liveness.LOST
        if self.is_draining:
            return Liveness.DRAINING
        return Liveness.BLOCKED if self.blocked else Liveness.LIVE

    @property
    def room(self) -> int:
        """How many more grants the worker takes now."""
        if self.connection is None or self.draining or self.drain_ms is not None:
            return 0
        # The worker chooses its credit, so the number of its tasks needs a bound that is the leader's.
        return min(self.credit - self.granted, HELD_MAX - len(self.held))

    @property
    def free(self) -> int:
        """How many of its slots are free; below 0: it holds tasks beyond its slots."""
        return self.slots - len(self.held)

    def policy_for(self, handler: str) -> HandlerPolicy | None:
        """Returns the handler as this worker has it, or None. An empty name means its default handler."""
        return self.policies.get(handler) if handler else self.default_policy

    @property
    def is_draining(self) -> bool:
        """Whether the worker takes nothing new, because it said so or the leader asked it to drain."""
        return self.draining or self.drain_ms is not None

    def can_run(self, handler: str, selector: tuple[tuple[str, str], ...], queue: str) -> bool:
        """Whether the worker has the handler, from a plugin of a version that the task takes, and labels and queue.

        The queue may be what Reserved.need_of returns.
        """
        policy = self.policy_for(handler)
        if policy is None or (self.queues and queue not in self.queues):
            return False
        wanted, labels = range_of(selector), self.labels
        if wanted and not has_version(policy, wanted):
            return False
        return all(labels.get(key) == value for key, value in labels_of(selector))


class Dialled:
    """The task that a callback worker holds, and what has happened since the member was dialled."""

    __slots__ = ("absent", "adopted", "fence", "id", "idle_beats", "overdue", "refusals", "since_mono", "stop_mono")

    def __init__(self, fence: int, id: str, *, adopted: bool = False) -> None:
        self.fence = fence
        self.id = id
        #: The task was held when this leader started, so it does not know whether the member was dialled.
        self.adopted = adopted
        #: When the member was dialled.
        self.since_mono = 0.0
        #: How many heartbeats in a row said that the member is idle.
        self.idle_beats = 0
        #: How often the member was dialled and did not take the task.
        self.refusals = 0
        #: The task's time limit has passed.
        self.overdue = False
        #: When the member was last asked to stop the task; None: never by this leader.
        self.stop_mono: float | None = None
        #: The member was asked to stop the task, and answered that it does not have it.
        self.absent = False


class Callback:
    """A callback worker."""

    __slots__ = ("address", "draining", "held", "id", "joined_ms", "owner", "seen_ms", "status", "unreachable")

    def __init__(self, id: str, address: str, joined_ms: int) -> None:
        self.id = id
        self.address = address
        #: Who alone speaks for it; empty: anybody.
        self.owner = ""
        self.status: HeartbeatStatus | None = None
        self.held: Dialled | None = None
        #: Why it could not be given a task since its last heartbeat; empty: nothing has failed.
        self.unreachable = ""
        #: It gets no more tasks until it joins again.
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
    """A member that has gone and is still listed."""

    __slots__ = (
        "address",
        "drain_ms",
        "draining",
        "id",
        "instance",
        "is_callback",
        "joined_ms",
        "liveness",
        "owner",
        "seen_ms",
        "version",
    )

    def __init__(self, member: Worker | Callback, liveness: Liveness, at_ms: int) -> None:
        self.is_callback = isinstance(member, Callback)
        #: It is a callback worker that was taken out of service.
        self.draining = isinstance(member, Callback) and member.draining
        self.owner = member.owner if isinstance(member, Callback) else ""
        #: The instance of a worker with a session, and the budget of its drain; see Worker.
        self.instance = ""
        self.drain_ms: int | None = None
        if isinstance(member, Callback):
            self.id, self.address, self.version = member.id, member.address, ""
        else:
            self.id, self.address, self.version = member.name, member.peer, member.version
            self.instance, self.drain_ms = member.instance, member.drain_ms
        self.joined_ms = member.joined_ms
        self.seen_ms = at_ms
        self.liveness = liveness

    @property
    def may_come_back(self) -> bool:
        """Whether it is a callback worker whose lease ran out. Its next heartbeat makes it a member again."""
        return self.is_callback and self.liveness is Liveness.LOST


class State:
    """Everything that `decide` may look at."""

    __slots__ = (
        "agenda",
        "briefs",
        "callback_deadlines",
        "callback_leases",
        "callbacks",
        "challenges",
        "checkpoints",
        "connections",
        "delayed",
        "departed",
        "dependents",
        "expiring",
        "facts",
        "failed_tasks",
        "fence",
        "finished_tasks",
        "forms",
        "graces",
        "held_up_until",
        "kept_keys",
        "leases",
        "names",
        "next_seq",
        "pending",
        "queues",
        "reserved",
        "restored",
        "roster",
        "settings",
        "tasks",
        "workers",
    )

    def __init__(self, settings: Settings, *, fence: int, next_seq: int, restored: Restored | None = None) -> None:
        """Makes an empty state.

        Args:
            settings: spans and bounds.
            fence: the highest fence so far; every grant gets a higher one.
            next_seq: the seq of the next task that is submitted.
            restored: what tells which tasks came with a backup; None where the store was never restored.
        """
        self.settings = settings
        self.fence = fence
        self.next_seq = next_seq
        self.restored = restored
        #: {id: task}: running tasks, those in a lane's window, and others while a batch needs them.
        self.tasks: dict[str, Task] = {}
        self.checkpoints = Checkpoints(self.tasks)
        self.queues = Queues(window=settings.window, lane_min=settings.lane_min, lane_low=settings.lane_page // 4)
        #: {id: what this batch's removals need to know about a task that is not in memory}
        self.briefs: dict[str, Brief] = {}
        #: How many finished tasks the store has, and how many of them have the status ERROR.
        self.finished_tasks = 0
        self.failed_tasks = 0
        #: When delayed tasks may start, and when pending ones expire.
        self.delayed = Timers(settings.timers_max)
        self.expiring = Timers(settings.timers_max)
        #: Which unique keys of tasks that have ended are taken, and until when.
        self.kept_keys = KeptKeys()
        #: Which tasks run after which.
        self.dependents = Dependents()
        #: {instance: worker}
        self.workers: dict[str, Worker] = {}
        #: In which forms the workers have their handlers.
        self.forms = Forms()
        #: Which queues they name.
        self.reserved = Reserved()
        #: {connection: worker}
        self.connections: dict[int, Worker] = {}
        #: Which of them takes a task; see `dispatch`.
        self.roster = Roster(self.connections)
        #: {name: the last worker that connected with this name}
        self.names: dict[str, Worker] = {}
        #: {id: callback worker}
        self.callbacks: dict[str, Callback] = {}
        #: {instance, or id of a callback worker: when it runs out, in monotonic time}; of leases the first to run out
        #: comes first.
        self.leases: dict[str, float] = {}
        self.graces: dict[str, float] = {}
        self.callback_leases: dict[str, float] = {}
        #: No grace ends before this monotonic time: the leader was held up, and workers that gave it up must reconnect.
        self.held_up_until = 0.0
        #: {id of a callback worker: when `run_out` is due for the task that it holds, in monotonic time}
        self.callback_deadlines: dict[str, float] = {}
        #: {name: (the newcomer's hello, until when it waits, in monotonic time)}
        self.challenges: dict[str, tuple[OpenSession, float]] = {}
        #: {name or id: a member that has gone}, oldest first.
        self.departed: dict[str, Departed] = {}
        #: When schedules are due.
        self.agenda = Agenda()
        #: The facts, which outlive this leader as the tasks do.
        self.facts = Facts()
        #: What the current batch has brought about; see step.take.
        self.pending = Pending()
