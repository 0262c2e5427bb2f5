"""The worker's metrics, for Prometheus: read from the supervisor when somebody asks. All their names are here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from gowork.rpc.buckets import Buckets
from gowork.worker._supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

#: Label values that are told apart; what comes after goes to "other".
_ROWS_MAX = 500


def metrics_page(supervisor: Supervisor) -> WSGIApplication:
    """The page /metrics."""
    registry = CollectorRegistry()
    registry.register(_WorkerCollector(supervisor))
    app: WSGIApplication = make_wsgi_app(registry)
    return app


class _WorkerCollector(Collector):
    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def collect(self) -> Iterable[Metric]:
        """Asked for by prometheus_client at every scrape, on the listener's thread."""
        supervisor, measures = self._supervisor, self._supervisor.measures
        busy = supervisor.fleet.running
        slots = GaugeMetricFamily("gowork_worker_slots", "Slots by what they do.", labels=["state"])
        slots.add_metric(["busy"], busy)
        slots.add_metric(["free"], max(0, supervisor.options.slots - busy))
        yield slots
        lag = HistogramMetricFamily(
            "gowork_worker_loop_lag_seconds", "How long the loops of runners took to answer a ping."
        )
        lag.add_metric([], _cumulative(measures.lag), measures.lag.total)
        yield lag
        executions = HistogramMetricFamily(
            "gowork_task_execution_seconds", "How long attempts ran.", labels=["queue", "handler", "status"]
        )
        for labels, buckets in _capped(measures.executions):
            executions.add_metric(labels, _cumulative(buckets), buckets.total)
        yield executions
        lost = CounterMetricFamily("gowork_worker_runners_lost_total", "Runner processes that ended unasked.")
        lost.add_metric([], measures.runners_lost)
        yield lost


def _capped(rows: dict[tuple[str, str, str], Buckets]) -> Iterator[tuple[list[str], Buckets]]:
    items = list(rows.items())
    for labels, buckets in items[:_ROWS_MAX]:
        yield list(labels), buckets
    other = Buckets(items[0][1].bounds) if items else None
    for _, buckets in items[_ROWS_MAX:]:
        assert other is not None
        other.add(buckets)
    if other is not None and any(other.counts):
        yield ["other", "other", "other"], other


def _cumulative(buckets: Buckets) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    return [
        (bound, count, Exemplar({"trace_id": traced.trace_id}, traced.value, traced.at)) if traced else (bound, count)
        for bound, count, traced in buckets.cumulative()
    ]
