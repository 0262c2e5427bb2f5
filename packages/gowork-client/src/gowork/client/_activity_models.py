"""The values of `Client.activity`: queues, counts, failures and members, for callers that ask every second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from gowork.client._models import MemberStats, TaskInfo
from gowork.client._queue_models import Queue, WaitCode


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many tasks were submitted to a queue and ended in it since the leader started.

    The leader drops the counts of a queue that has been without tasks and unused for an hour. They begin again at zero.
    """

    submitted: int
    completed: int
    cancelled: int
    #: Tasks that ended with ERROR.
    failed: int
    #: Tasks that were granted for the first time, by how long they had waited since they could run. Number i counts
    #: those that waited up to Activity.start_bounds[i], and longer than the bound before it. The last number counts
    #: those above the last bound. Empty when there are none.
    start_counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class QueueActivity:
    """The tasks in a queue now, and counts of what has happened in it."""

    queue: Queue
    #: For how long the oldest of the tasks that may run now has waited, in seconds; None when no task may.
    oldest_waiting: float | None
    #: {the first reason for which they wait: number of pending tasks}; UNSPECIFIED for those about to be started.
    waiting: Mapping[WaitCode, int]
    #: None for a queue that is counted in Activity.other_counts.
    counts: QueueCounts | None


@dataclass(frozen=True, slots=True)
class Activity:
    """What the leader knows without reading its store.

    For rates and latencies, subtract the counts of two of these from the same term, and divide by the difference of
    their uptime.
    """

    #: Sorted by name. At most 1,000 queues: those with the most unfinished tasks.
    queues: tuple[QueueActivity, ...]
    #: How many queues there are, with those that `queues` leaves out.
    queues_total: int
    #: The counts of all queues that have no counts of their own, together.
    other_counts: QueueCounts
    #: The upper bounds of the intervals of start_counts, in seconds, ascending.
    start_bounds: tuple[float, ...]
    #: The last tasks that ended with ERROR and were not retried or removed, the latest first, in TaskView.BASIC.
    failures: tuple[TaskInfo, ...]
    members: tuple[MemberStats, ...]
    #: How many finished tasks are kept, and how many of these ended with ERROR.
    finished_tasks: int
    failed_tasks: int
    #: The version of gowork-leader.
    version: str
    #: The number of the leader's term; counts of another term begin at zero.
    term: int
    #: The leader's time, by the clock that its other times are by.
    now: datetime | None
    #: For how long the leader has run, in seconds, by its monotonic clock.
    uptime: float
