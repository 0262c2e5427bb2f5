"""The leader's page of metrics for Prometheus: all names and labels in one place. docs/metrics.md explains them.

Each scrape reads the state for what is so now. `Counts` has what has happened.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gowork.base.buckets import Buckets
from gowork.base.metric_families import of_certificates, rows_of
from gowork.base.tls import Tls
from gowork.leader._access.access import Access
from gowork.leader._core.model import Liveness
from gowork.leader._core.queries import MemberView, QueueDepth, SchedulesView
from gowork.leader._engine.counts import OTHER, QUEUES_MAX, Counts, QueueCounts

_T = TypeVar("_T")

#: How many members have series of their own.
MEMBERS_MAX = 500
#: For how long a member that was lost keeps its series, in milliseconds.
LOST_SHOWN_MS = 15 * 60_000


class Look(Struct, frozen=True):
    """What a scrape sees of the leader's state."""

    members: list[MemberView]
    #: {(queue, reason): waiting tasks}
    waiting: dict[tuple[str, str], int]
    queues: list[QueueDepth]
    term: int
    #: When the oldest finished task in the store finished; 0: there is none.
    oldest_finished_ms: int
    now_ms: int
    #: How many unique keys are taken.
    unique_keys: int = 0
    schedules: SchedulesView = SchedulesView()


class LogLook(Struct, frozen=True):
    """What a scrape sees of the log that several leaders share, and of this leader's place in it."""

    #: The term of the last entry that the store has applied.
    term: int
    #: The indexes of the last entry that the store has applied, and of the last one that it has forced to disk.
    applied: int
    forced: int
    #: The indexes of the log's first and last entries, when it last answered.
    first: int
    last: int
    #: How many bytes of its entries this leader has seen.
    size: int
    #: How many leaders are registered.
    leaders: int
    #: For how long it has not answered, in seconds.
    silent_seconds: float
    is_full: bool
    is_one_copy: bool
    #: (index of the newest shared snapshot, its age in seconds); None: leaders share none.
    snapshot: tuple[int, float] | None = None
    #: How often a store of this process was found to differ from the others.
    diverged: int = 0


def registry_of(
    counts: Counts,
    look: Callable[[], Look],
    look_at_log: Callable[[], LogLook | None] = lambda: None,
    tls: Tls | None = None,
    access: Access | None = None,
) -> CollectorRegistry:
    """Returns a registry of all metrics of the leader.

    Args:
        counts: what has happened.
        look: reads the state, from any thread. It raises TimeoutError when the leader does not answer, or does not
            lead.
        look_at_log: returns what is known of the log, from any thread; None: there is no log. It raises TimeoutError
            when the leader does not answer.
        tls: the leader's certificates; None: it has none.
        access: says who may do what; None: everybody may do everything.
    """
    registry = CollectorRegistry()
    registry.register(_LeaderCollector(counts, look, look_at_log, tls, access))
    return registry


class _LeaderCollector(Collector):
    def __init__(
        self,
        counts: Counts,
        look: Callable[[], Look],
        look_at_log: Callable[[], LogLook | None],
        tls: Tls | None,
        access: Access | None,
    ) -> None:
        self._counts = counts
        self._access = access
        self._tls = tls
        self._look = look
        self._look_at_log = look_at_log

    def describe(self) -> Iterable[Metric]:
        # Without this method the registry would collect once at registration, before the leader serves.
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yields all metrics. prometheus_client calls it at every scrape, on the listener's thread."""
        seen = _in_time(self._look)
        log = _in_time(self._look_at_log)
        yield _gauge("leader_is_leader", "Whether this leader leads: 1 or 0.", seen is not None)
        term = seen.term if seen is not None else log.term if log is not None else None
        if term is not None:
            yield _gauge("leader_term", "The number of the leader's term.", term)
        if seen is not None:
            yield from _of_state(seen)
        if log is not None:
            yield from _of_log(log)
        if self._tls is not None:
            yield from of_certificates(self._tls)
        if self._access is not None:
            yield from _of_access(self._access)
        yield from _of_queues(list(self._counts.queues.items()))
        yield from _of_counts(self._counts)


def _in_time(look: Callable[[], _T]) -> _T | None:
    """Returns what this sees; None when it is not answered."""
    try:
        return look()
    except TimeoutError:
        return None


def _of_log(seen: LogLook) -> Iterator[Metric]:
    lag = max(0, seen.last - seen.applied)
    yield _gauge("log_first_index", "The index of the log's first entry.", seen.first)
    yield _gauge("log_last_index", "The index of the log's last entry.", seen.last)
    yield _gauge("log_applied_index", "The index of the last entry that the store has applied.", seen.applied)
    yield _gauge("log_forced_index", "The index of the last entry that the store has forced to disk.", seen.forced)
    yield _gauge("log_lag_entries", "How many entries of the log the store has not applied.", lag)
    yield _gauge("log_bytes", "How many bytes of entries the log has, as far as this leader has seen them.", seen.size)
    yield _gauge("log_leaders", "Leaders that are registered.", seen.leaders)
    yield _gauge("log_silent_seconds", "For how long the log has not answered.", seen.silent_seconds)
    yield _gauge("log_full", "Whether the log has no room: 1 or 0.", seen.is_full)
    yield _gauge(
        "log_one_copy", "Whether the log has grown too large to keep what most stores lack: 1 or 0.", seen.is_one_copy
    )
    if seen.snapshot is not None:
        index, age_seconds = seen.snapshot
        yield _gauge("log_snapshot_index", "The index up to which the newest shared snapshot has everything.", index)
        yield _gauge(
            "log_snapshot_age_seconds", "How old the newest shared snapshot is, while the log has more.", age_seconds
        )
    yield _counter("log_diverged_total", "How often the store was found to differ from most others.", seen.diverged)


def _of_access(access: Access) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "gowork_calls_refused",
        "Calls that were refused because of who made them, or because their caller had reached a limit.",
        labels=["reason"],
    )
    for reason, number in sorted(access.audit.refused.copy().items()):
        refused.add_metric([reason], number)
    yield refused
    yield _gauge("access_refused", "Whether the new access file is refused: 1 or 0.", bool(access.fault))


def _of_state(seen: Look) -> Iterator[Metric]:
    members = GaugeMetricFamily("gowork_members", "Members by liveness.", labels=["state"])
    counts = collections.Counter(view.liveness for view in seen.members)
    for liveness in Liveness:
        members.add_metric([liveness.name.lower()], counts[liveness])
    yield members
    up = GaugeMetricFamily("gowork_member_up", "Whether this member is connected: 1 or 0.", labels=["worker"])
    for name, value in _up(seen).items():
        up.add_metric([name], value)
    yield up
    tasks = GaugeMetricFamily("gowork_queue_tasks", "Unfinished tasks by their state.", labels=["queue", "state"])
    oldest = GaugeMetricFamily(
        "gowork_queue_oldest_seconds", "How long the oldest task that may run now has waited.", labels=["queue"]
    )
    for depth in _merged(seen.queues):
        for state, number in (("waiting", depth.waiting), ("delayed", depth.delayed), ("running", depth.running)):
            tasks.add_metric([depth.name, state], number)
        since_ms = depth.oldest_ms
        oldest.add_metric([depth.name], max(0, seen.now_ms - since_ms) / 1000 if since_ms else 0)
    yield tasks
    yield oldest
    waiting = GaugeMetricFamily(
        "gowork_queue_waiting_tasks", "Pending tasks by what keeps them from starting.", labels=["queue", "reason"]
    )
    named = {depth.name for depth in seen.queues[:QUEUES_MAX]}
    rows: collections.Counter[tuple[str, str]] = collections.Counter()
    for (queue, reason), number in seen.waiting.items():
        rows[queue if queue in named else OTHER, reason] += number
    for labels, number in sorted(rows.items()):
        waiting.add_metric(labels, number)
    yield waiting
    schedules = GaugeMetricFamily("gowork_schedules", "Schedules by their state.", labels=["state"])
    schedules.add_metric(["active"], seen.schedules.active)
    schedules.add_metric(["paused"], seen.schedules.paused)
    yield schedules
    lag_ms = seen.schedules.lag_ms
    yield _gauge("schedule_lag_seconds", "How long the tick that has been due for longest has waited.", lag_ms / 1000)
    age_ms = seen.now_ms - seen.oldest_finished_ms if seen.oldest_finished_ms else 0
    yield _gauge("unique_keys", "Unique keys of tasks that are taken.", seen.unique_keys)
    yield _gauge("retention_oldest_seconds", "How long ago the oldest finished task in the store ended.", age_ms / 1000)


def _up(seen: Look) -> dict[str, int]:
    """Returns {member: 1 if it is up, else 0}; `other` is the worst of the members beyond MEMBERS_MAX.

    Members that have left are not in it, and lost ones are in it for LOST_SHOWN_MS.
    """
    shown: dict[str, int] = {}
    for view in seen.members:
        lost = view.liveness is Liveness.LOST
        if view.liveness is Liveness.LEFT or (lost and seen.now_ms - view.seen_ms > LOST_SHOWN_MS):
            continue
        name = view.id if len(shown) < MEMBERS_MAX else OTHER
        shown[name] = min(shown.get(name, 1), 0 if lost else 1)
    return shown


def _merged(depths: list[QueueDepth]) -> list[QueueDepth]:
    """Returns the first QUEUES_MAX queues, and all others as one."""
    named, rest = depths[:QUEUES_MAX], depths[QUEUES_MAX:]
    if rest:
        oldest_ms = min((depth.oldest_ms for depth in rest if depth.oldest_ms), default=0)
        waiting, delayed = sum(depth.waiting for depth in rest), sum(depth.delayed for depth in rest)
        named = [*named, QueueDepth(OTHER, waiting, delayed, sum(depth.running for depth in rest), oldest_ms)]
    return named


def _of_queues(queues: list[tuple[str, QueueCounts]]) -> Iterator[Metric]:
    submitted = CounterMetricFamily(
        "gowork_tasks_submitted", "Tasks that were submitted.", labels=["queue", "handler", "outcome"]
    )
    finished = CounterMetricFamily(
        "gowork_tasks_finished", "Tasks that have ended.", labels=["queue", "handler", "status"]
    )
    attempts = CounterMetricFamily("gowork_task_attempts", "Attempts that have ended.", labels=["queue", "outcome"])
    start = HistogramMetricFamily(
        "gowork_task_schedule_to_start_seconds",
        "How long tasks that could run waited until a worker first got them.",
        labels=["queue"],
    )
    for name, queue in queues:
        for (handler, outcome), number in list(queue.submitted.items()):
            submitted.add_metric([name, handler, outcome], number)
        for (handler, status), number in list(queue.finished.items()):
            finished.add_metric([name, handler, status], number)
        for outcome, number in list(queue.attempts.items()):
            attempts.add_metric([name, outcome], number)
        _add(start, [name], queue.start_seconds)
    yield from (submitted, finished, attempts, start)


def _of_counts(counts: Counts) -> Iterator[Metric]:
    reassigned = CounterMetricFamily(
        "gowork_tasks_reassigned", "Tasks that went back to their queue because of where they ran.", labels=["reason"]
    )
    for reason in ("lost", "interrupted"):
        reassigned.add_metric([reason], counts.reassigned[reason])
    yield reassigned
    yield _counter(
        "tasks_quarantined", "Tasks that were ended because they kept killing their runner.", counts.quarantined
    )
    yield _counter(
        "stale_reports", "Reports that were refused because their sender no longer held the task.", counts.stale_reports
    )
    ticks = CounterMetricFamily(
        "gowork_schedule_ticks", "Ticks of schedules by what became of them.", labels=["outcome"]
    )
    for outcome, number in counts.ticks.items():
        ticks.add_metric([outcome], number)
    yield ticks
    heartbeats = CounterMetricFamily(
        "gowork_worker_heartbeats", "Heartbeats, and other frames that renew a lease.", labels=["result"]
    )
    for result in ("accepted", "refused"):
        heartbeats.add_metric([result], counts.heartbeats[result])
    yield heartbeats
    yield _histogram(
        "worker_heartbeat_gap_seconds",
        "How long after the frame before it a worker's frame came.",
        counts.heartbeat_gap_seconds,
    )
    yield _histogram("store_commit_seconds", "How long it took to make a batch durable.", counts.commit_seconds)
    yield _histogram("store_commit_tasks", "How many tasks a batch wrote.", counts.commit_tasks)
    yield _counter("leader_transitions", "How often this leader has begun or ceased to lead.", counts.transitions)
    yield _histogram(
        "leader_failover_seconds",
        "How long the log had no leader, or this leader had not opened its store, until it served.",
        counts.failover_seconds,
    )
    calls = HistogramMetricFamily(
        "rpc_server_call_duration_seconds", "How long calls took, streams as a whole.", labels=["method", "code"]
    )
    for labels, buckets in list(counts.calls.items()):
        _add(calls, labels, buckets)
    yield calls


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(f"gowork_{name}", words, value=value)


def _counter(name: str, words: str, value: float) -> Metric:
    return CounterMetricFamily(f"gowork_{name}", words, value=value)


def _histogram(name: str, words: str, buckets: Buckets) -> Metric:
    family = HistogramMetricFamily(f"gowork_{name}", words, labels=())
    _add(family, (), buckets)
    return family


def _add(family: HistogramMetricFamily, labels: Sequence[str], buckets: Buckets) -> None:
    family.add_metric(labels, rows_of(buckets), buckets.total)
