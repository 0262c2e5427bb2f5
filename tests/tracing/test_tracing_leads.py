"""A worker's metrics and its log name traces."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from clusters import first_line, start
from otlp_receiver import Receiver
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tracing_cluster import Cluster

from gowork.client import Client


def exemplars(address: str) -> set[str]:
    """The ids of traces that execution times name on this worker's page of metrics."""
    request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept": "application/openmetrics-text"})
    with urllib.request.urlopen(request, timeout=120) as page:
        families = text_string_to_metric_families(page.read().decode())
    return {
        sample.exemplar.labels["trace_id"]
        for family in families
        if family.name == "gowork_task_execution_seconds"
        for sample in family.samples
        if sample.exemplar is not None
    }


@pytest.mark.parametrize("handler", ["says", "says_async", "says_alone"])
def test_execution_times_and_log_lines_of_an_attempt_name_its_span(
    program: None,
    exporting: None,
    receiver: Receiver,
    start_cluster: Callable[[], Cluster],
    tmp_path: Path,
    handler: str,
) -> None:
    cluster = start_cluster()
    leader = ("--leader", cluster.leader.cluster)
    options = ("--import", "tracing_handlers", "--runners", "1", "--http-listen", "127.0.0.1:0", "--log-format", "json")
    worker = start("gowork-worker", *leader, *options, "--print-ready", folder=tmp_path)
    cluster.workers.append(worker)
    log = tmp_path / "gowork-worker.log"
    http = json.loads(first_line(worker, log))["http"]
    with Client(cluster.leader.scheduler) as client:
        client.schedule(handler=handler).wait()
    process = receiver.one("process default")
    # The runner reports its executions once a second.
    while not (found := exemplars(http)):
        pass
    assert found == {process.trace}
    cluster.stop()
    (said,) = [entry for entry in map(json.loads, log.read_text().splitlines()) if entry["event"] == "said"]
    assert (said["trace_id"], said["span_id"]) == (process.trace, process.id)
