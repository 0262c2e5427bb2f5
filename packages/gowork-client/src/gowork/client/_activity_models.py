"""What goes on in a cluster, as callers see it who look every second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from gowork.client._models import MemberStats, TaskInfo
from gowork.client._queue_models import Queue, WaitCode


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """What has happened in a queue since the leader started, in tasks.

    A number that is lower than it was has begun at zero again: the queue had been without tasks and silent for an hour.
    """

    submitted: int
    completed: int
    cancelled: int
    #: Those that ended with ERROR.
    failed: int
    #: Tasks that were given to a worker for the first time, by how long they had waited since they could run: up to
    #: each of Activity.start_bounds and above the one before; the last number is of those above the last bound. Empty
    #: when there are none.
    start_counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class QueueActivity:
    """The tasks in a queue now, and counts of what has happened in it."""

    queue: Queue
    #: For how long the oldest of the tasks that may run now has waited, in seconds; None when none does.
    oldest_waiting: float | None
    #: Pending tasks by the first reason that keeps them; UNSPECIFIED: nothing does, they are about to be started.
    waiting: Mapping[WaitCode, int]
    #: None for a queue that is counted in Activity.other_counts.
    counts: QueueCounts | None


@dataclass(frozen=True, slots=True)
class Activity:
    """What the leader knows without reading its store.

    Rates and latencies are the differences of two of these: of their counts, by their uptime, within one term.
    """

    #: By name. At most 1,000 queues: those with the most unfinished tasks.
    queues: tuple[QueueActivity, ...]
    #: How many there are, those included that were not told.
    queues_total: int
    #: What has happened in queues that have no counts of their own.
    other_counts: QueueCounts
    #: The upper bounds of the intervals of start_counts, in seconds, ascending.
    start_bounds: tuple[float, ...]
    #: The tasks that ended last with ERROR and have not been retried or removed, the latest first, in TaskView.BASIC.
    failures: tuple[TaskInfo, ...]
    members: tuple[MemberStats, ...]
    #: Finished tasks that are kept, and how many of these ended with ERROR.
    finished_tasks: int
    failed_tasks: int
    #: The version of gowork-leader.
    version: str
    #: The number of the leader's term; counts of another term begin at zero.
    term: int
    #: The leader's time. Its other times are by the same clock.
    now: datetime | None
    #: For how long the leader has run, in seconds, by a clock that is never set.
    uptime: float
