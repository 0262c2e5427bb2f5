"""Every query of dashboards and alerts has data in a real Prometheus that watches a real cluster."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deploy_rules import ALERTS, RECORDED
from live_cluster import Live, filled_in, live

BOARDS = Path(__file__).parents[2] / "deploy/grafana/dashboards"
#: {"board: panel's title place": expression}; the place is that of the query in its panel.
QUERIES = {
    f"{board.stem}: {panel['title']} {place}": target["expr"]
    for board in sorted(BOARDS.glob("*.json"))
    for panel in json.loads(board.read_text())["panels"]
    for place, target in enumerate(panel.get("targets", []))
}
# Few tests, because the tests of one module may run on several processes, each with a cluster of its own.
pytestmark = [pytest.mark.tool("prometheus", "etcd"), pytest.mark.longer]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A cluster in which a worker was killed, and the alert for it fires."""
    with live(tmp_path_factory.mktemp("live")) as cluster:
        prometheus = cluster.prometheus
        assert prometheus.until("gowork_members{state='live'} == 3"), "Prometheus does not see the workers"
        assert prometheus.until("gowork_tasks_quarantined_total == 1"), "the task that crashes is not in quarantine"
        cluster.kill_worker("worker-2")
        assert prometheus.until('ALERTS{alertname="GoworkWorkersLost", alertstate="firing"}'), "the alert does not fire"
        yield cluster


def without_thresholds(expression: str) -> str:
    """An alert's expression without its comparisons with numbers."""
    return re.sub(r"\s*(?:<|>|<=|>=)\s*[\d.]+\b", "", expression)


def values(series: list[dict[str, Any]]) -> list[float]:
    return [float(one["value"][1]) for one in series]


def test_every_panel_and_every_recording_has_data(cluster: Live) -> None:
    for name, expression in {**QUERIES, **dict.fromkeys(RECORDED)}.items():
        found = values(cluster.prometheus.until(filled_in(expression or name)))
        # Only a quantile without observations may be NaN.
        finite = [value for value in found if math.isfinite(value)]
        assert finite, name
        assert "quantile" in (expression or RECORDED[name]) or finite == found, name


def test_every_alert_knows_what_it_judges(cluster: Live) -> None:
    for name, rule in ALERTS.items():
        assert cluster.prometheus.until(without_thresholds(rule["expr"])), name
        # With its thresholds it must be a vector, empty or not: `query` checks that.
        cluster.prometheus.query(rule["expr"])


def test_prometheus_has_loaded_every_rule_and_could_evaluate_each(cluster: Live) -> None:
    rules = [rule for group in cluster.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {*ALERTS, *RECORDED}
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []


def test_series_of_the_dead_worker_say_so(cluster: Live) -> None:
    (up,) = cluster.prometheus.query('gowork_member_up{worker="worker-2"}')
    assert up["value"][1] == "0"


@pytest.mark.parametrize("name", ["gowork_task_execution_seconds", "rpc_server_call_duration_seconds"])
def test_points_of_histograms_lead_to_traces_that_the_collector_has(cluster: Live, name: str) -> None:
    span = {"start": f"{cluster.began:.0f}", "end": f"{time.time() + 1:.0f}"}
    found = cluster.prometheus.ask("query_exemplars", query=f"{name}_bucket", **span)
    traces = {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}
    assert traces
    cluster.collector.wait(lambda: any(seen.trace in traces for seen in cluster.collector.spans), name)
