"""The families of metrics that the pages of leaders and of workers share, for Prometheus. Needs the extra `metrics`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.samples import Exemplar

from gowork.base.buckets import Buckets
from gowork.base.tls import Tls


def of_certificates(tls: Tls) -> Iterator[Metric]:
    """Yields when the certificates of a process expire, and whether new ones are refused."""
    ends = GaugeMetricFamily(
        "gowork_tls_certificate_expiry_timestamp_seconds",
        "When the first certificate of this file expires, of those that are used.",
        labels=["file"],
    )
    for file, end in tls.ends().items():
        ends.add_metric([file], end)
    yield ends
    yield GaugeMetricFamily(
        "gowork_tls_refused", "Whether new files of certificates are refused: 1 or 0.", value=bool(tls.fault)
    )


def rows_of(buckets: Buckets) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    """Returns the buckets as a HistogramMetricFamily takes them, with their exemplars."""
    return [
        (bound, count, Exemplar({"trace_id": traced.trace_id}, traced.value, traced.at)) if traced else (bound, count)
        for bound, count, traced in buckets.cumulative()
    ]
