"""The leader's Prometheus metrics: names and labels in one place (DESIGN §8).

What can be derived is derived when it is asked for; only durations are gathered on the way.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gowork.leader.core.model import Liveness
from gowork.leader.core.queries import MemberView

#: Queues that have series of their own.
QUEUES_MAX = 100
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_TASKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)


class Metrics:
    """Is told by the engine, and asked by Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._commit_seconds = Histogram(
            "gowork_store_commit_seconds",
            "How long a batch took to be durable",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._commit_tasks = Histogram(
            "gowork_store_commit_tasks", "How many tasks a batch wrote", buckets=_TASKS, registry=self.registry
        )

        self._stale_reports = Counter(
            "gowork_stale_reports",
            "Reports that were refused because the task was no longer their sender's",
            registry=self.registry,
        )

    def refused(self, reports: int) -> None:
        """So many reports were stale."""
        self._stale_reports.inc(reports)

    def committed(self, tasks: int, seconds: float) -> None:
        """A batch is durable."""
        self._commit_seconds.observe(seconds)
        self._commit_tasks.observe(tasks)


class Look(Struct, frozen=True):
    """What a scrape sees of the leader's state."""

    members: list[MemberView]
    #: {(queue, reason): waiting tasks}
    waiting: dict[tuple[str, str], int]
    term: int


class ClusterCollector(Collector):
    """Asks the leader, at each scrape, for what is derived from its state."""

    def __init__(self, look: Callable[[], Look]) -> None:
        """`look` answers from any thread; it raises TimeoutError when the leader does not answer."""
        self._look = look

    def describe(self) -> Iterable[Metric]:
        # Without it the registry would collect once at registration, before the leader serves.
        return ()

    def collect(self) -> Iterable[Metric]:
        try:
            seen = self._look()
        except TimeoutError:
            yield GaugeMetricFamily("gowork_leader_is_leader", "1 while this leader leads", value=0)
            return
        members = GaugeMetricFamily("gowork_members", "Members by liveness", labels=["state"])
        counts = collections.Counter(view.liveness for view in seen.members)
        for liveness in Liveness:
            members.add_metric([liveness.name.lower()], counts[liveness])
        yield members
        yield _waiting(seen.waiting)
        yield GaugeMetricFamily("gowork_leader_is_leader", "1 while this leader leads", value=1)
        yield GaugeMetricFamily("gowork_leader_term", "The number of the leader's term", value=seen.term)


def _waiting(counts: dict[tuple[str, str], int]) -> GaugeMetricFamily:
    """Queues beyond the first QUEUES_MAX by name are one, `other`."""
    gauge = GaugeMetricFamily(
        "gowork_queue_waiting_tasks", "Pending tasks by what keeps them from being started", labels=["queue", "reason"]
    )
    named = set(sorted({queue for queue, _ in counts})[:QUEUES_MAX])
    rows: collections.Counter[tuple[str, str]] = collections.Counter()
    for (queue, reason), tasks in counts.items():
        rows[queue if queue in named else "other", reason] += tasks
    for (queue, reason), tasks in sorted(rows.items()):
        gauge.add_metric([queue, reason], tasks)
    return gauge
