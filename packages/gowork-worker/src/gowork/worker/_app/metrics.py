"""The worker's metrics for Prometheus, read from the supervisor at each scrape. All their names are here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from gowork.base.metric_families import of_certificates, rows_of
from gowork.base.tls import Tls
from gowork.worker._supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def metrics_page(supervisor: Supervisor, *others: Collector, tls: Tls | None = None) -> WSGIApplication:
    """Returns the page /metrics. A scraper that asks for OpenMetrics gets it, and with it exemplars.

    Args:
        supervisor: where the worker's metrics are read.
        others: collectors of further metrics for the page.
        tls: the worker's certificates; None: it has none.
    """
    registry = CollectorRegistry()
    for collector in (_WorkerCollector(supervisor, tls), *others):
        registry.register(collector)
    app: WSGIApplication = make_wsgi_app(registry)
    return app


class _WorkerCollector(Collector):
    def __init__(self, supervisor: Supervisor, tls: Tls | None) -> None:
        self._supervisor = supervisor
        self._tls = tls

    def collect(self) -> Iterable[Metric]:
        """Yields the metrics. prometheus_client calls it at each scrape, on the listener's thread."""
        measures = self._supervisor.measures
        slots = GaugeMetricFamily("gowork_worker_slots", "Slots by what they do.", labels=["state"])
        for state, count in self._supervisor.slots().items():
            slots.add_metric([state], count)
        yield slots
        lag = HistogramMetricFamily(
            "gowork_worker_loop_lag_seconds", "How long the loops of runners took to answer a ping.", unit="seconds"
        )
        lag.add_metric([], rows_of(measures.lag), measures.lag.total)
        yield lag
        executions = HistogramMetricFamily(
            "gowork_task_execution_seconds",
            "How long attempts ran.",
            labels=["queue", "handler", "status"],
            unit="seconds",
        )
        # A copy, because the loop adds to it meanwhile.
        for labels, buckets in list(measures.executions.items()):
            executions.add_metric(labels, rows_of(buckets), buckets.total)
        yield executions
        lost = CounterMetricFamily("gowork_worker_runners_lost_total", "Runner processes that ended unasked.")
        lost.add_metric([], measures.runners_lost)
        yield lost
        restored = CounterMetricFamily(
            "gowork_worker_settings_restored_total",
            "Settings of runner processes that were restored after handlers had changed them.",
            labels=["setting"],
        )
        for setting, times in list(measures.settings_restored.items()):
            restored.add_metric([setting], times)
        yield restored
        if self._tls is not None:
            yield from of_certificates(self._tls)
